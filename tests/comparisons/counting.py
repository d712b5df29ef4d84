"""How long the programs are, and how many names of their library one has to know for them."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

from .running import FOLDER, OURS

ECHO, CHAT, DIVISION = "echo client", "chat server", "requests and answers"
#: the libraries that can do each task, and what their programs are
PROGRAMS: dict[str, dict[str, list[str]]] = {
    ECHO: {
        OURS: ["mormot_ws/echo_client.py"],
        "websocket-client": ["websocket-client/echo_client.py"],
        "websockets": ["websockets/echo_client.py"],
        "python-socketio": ["python-socketio/echo_client.py"],
    },
    CHAT: {
        OURS: ["mormot_ws/chat_server.py"],
        "websockets": ["websockets/chat_server.py"],
        "python-socketio": ["python-socketio/chat_server.py"],
        "flask-sock": ["flask-sock/chat_server.py"],
    },
    DIVISION: {
        OURS: ["mormot_ws/division_server.py", "mormot_ws/division_client.py"],
        "websockets": ["websockets/division_server.py", "websockets/division_client.py"],
        "python-socketio": [
            "python-socketio/division_server.py",
            "python-socketio/division_client.py",
        ],
        "flask-sock, websocket-client": [
            "flask-sock/division_server.py",
            "websocket-client/division_client.py",
        ],
    },
}

_LAYOUT = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
#: methods of what is no library's
_PLAIN = {*dir(dict), *dir(set), "split", "strip"}
#: functions that a library calls for their names
_EVENTS = {"connect", "disconnect", "message"}


@dataclass(frozen=True)
class Size:
    """The size of a task in one library."""

    #: of code: no blank ones, comments and docstrings
    lines: int
    #: of the library
    names: frozenset[str]


def size(task: str, library: str) -> Size:
    """Return the size of all programs of a *task* in a *library*."""
    paths = [FOLDER / name for name in PROGRAMS[task][library]]
    names: frozenset[str] = frozenset()
    return Size(sum(map(lines_of, paths)), names.union(*map(names_of, paths)))


def lines_of(path: Path) -> int:
    """Return how many lines of a program have code."""
    source = path.read_text(encoding="utf-8")
    with_code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _LAYOUT
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node):
            text = node.body[0]
            with_code.difference_update(range(text.lineno, (text.end_lineno or 0) + 1))
    return len(with_code)


def names_of(path: Path) -> frozenset[str]:
    """Return the names of libraries in a program: what is imported from them, attributes, keyword
    arguments, and functions that are called for their names. What belongs to the standard library
    does not count.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    # modules and names of the standard library
    standard: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            standard.update(alias.name for alias in node.names if _is_standard(alias.name))
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            (standard if _is_standard(node.module or "") else found).update(names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if _root(node) not in standard and node.attr not in _PLAIN:
                found.add(node.attr)
        elif isinstance(node, ast.Call):
            if _root(node.func) not in standard | {"print"}:
                found.update(keyword.arg for keyword in node.keywords if keyword.arg)
        elif isinstance(node, ast.FunctionDef) and _is_event(node):
            found.add(node.name)
    return frozenset(found)


def _is_event(function: ast.FunctionDef) -> bool:
    decorators = function.decorator_list
    named = any(isinstance(what, ast.Attribute) and what.attr == "event" for what in decorators)
    return named and function.name in _EVENTS


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _root(node: ast.expr) -> str:
    """Return the name that a chain of attributes, calls and subscripts begins with."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        else:
            return ""
    return node.id
