"""README.md and docs/ as programs: finds every code block of a page, and runs them in order. No
test in here.

The rules for authors are in docs/contributing.md. markdown-it finds the blocks, as it does for the
built pages, so none is missed. What a page's blocks share (folder, ports, names, programs) is a
:class:`Page`, one per run. Blocks that are not run are listed in pages_not_run.py, nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from mormot_ws import (
    Connection,
    HttpClientWebSockets,
    Server,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
)

from . import BOUND, HOST, ROOT, echo, wait_for
from .children import fixed_port
from .pages_not_run import COMMANDS, NOT_RUN, NotRun
from .programs import PATIENCE, Lines, Program
from .redis_server import RedisServer, redis_server
from .tls import Authority

#: a number in the blocks of a page -> a free port of its own for each run
PORTS = ("8999", "8998", "8997", "8443", "8080", "8000", "9100", "6379")
#: Sphinx directives without any code in them
_NO_CODE = ("{toctree}", "{include}", "{eval-rst}", "{image}", "{figure}", "{raw}", "{contents}")
#: Sphinx directives that have Markdown in them
_BOXES = ("{note}", "{warning}", "{tip}", "{important}", "{admonition}")
#: interactive programs of a terminal, as arguments of this Python
_PROGRAMS = {
    "python": [],
    "python3": [],
    "mormot-ws": ["-m", "mormot_ws"],
    # without a plugin that is slow to load, and that no page uses
    "pytest": ["-m", "pytest", "-p", "no:hypothesispytest"],
}
#: what a page may leave open, in the order in which it is freed: clients first
_OWNED = (Connection, HttpClientWebSockets, Server, WebSocketServer)


class PageError(AssertionError):
    """A block is wrong, or breaks a rule."""


@dataclass(frozen=True)
class Block:
    """One code block."""

    page: str
    line: int
    language: str
    code: str
    #: what a comment right above says: ``file``, ``terminal``, ``types``, ``exit``, ``hidden``
    says: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"

    def not_run(self) -> NotRun | None:
        """Return the reason why it is not run, None when there is none."""
        for entry in NOT_RUN:
            if (
                fnmatch(self.page, entry.page)
                and entry.language == self.language
                and self.code.startswith(entry.begins)
                and not self.says
            ):
                return entry
        return None


def page_name(path: Path) -> str:
    """Return the name of a page, from the project's root."""
    return path.relative_to(ROOT).as_posix()


def all_pages() -> list[Path]:
    """Return README.md and everything in docs/ that Sphinx builds."""
    pages = [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
    return [ROOT / "README.md", *sorted(pages)]


def _directives(comment: str) -> dict[str, str]:
    """Return what ``<!-- name: value; name: value -->`` says; nothing for an ordinary comment."""
    inner = re.fullmatch(r"<!--(.*?)-->\s*", comment, re.DOTALL)
    if inner is None:
        return {}
    if re.match(r"\s*hidden:\s*python\s*\n", inner[1]):
        return {"hidden": inner[1].split("\n", 1)[1]}
    found = {}
    for part in inner[1].strip().split(";"):
        name, colon, value = part.strip().partition(":")
        if not colon or name not in ("file", "terminal", "types", "exit"):
            return {}
        found[name] = value.strip()
    return found


def blocks_of(text: str, page: str, first_line: int = 1) -> list[Block]:
    """Return every code block of a page, hidden ones included, in order; raise :class:`PageError`
    for one that nothing can be done with.
    """
    found: list[Block] = []
    above: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse(text):
        line = first_line + (token.map[0] if token.map else 0)
        if token.type == "html_block":
            above = _directives(token.content)
            if "hidden" in above:
                found.append(Block(page, line, "python", above["hidden"], {"hidden": ""}))
                above = {}
            continue
        if token.type == "code_block":
            raise PageError(
                f"{page}:{line}: an indented block: fence it with ``` and name its language"
            )
        if token.type == "fence":
            language = token.info.split()[0] if token.info.strip() else ""
            if language in _BOXES:
                found += blocks_of(token.content, page, line + 1)
            elif language.startswith("{") and language not in _NO_CODE:
                raise PageError(
                    f"{page}:{line}: {language} is not known to the tests: use a plain ``` block"
                )
            elif not language.startswith("{"):
                found.append(Block(page, line, language, token.content, above))
        if token.type in ("fence", "paragraph_open", "heading_open"):
            above = {}
    # MyST's boxes with colons are paragraphs to CommonMark, and what is fenced in them is found as
    # it is
    return found


class Printed(io.TextIOBase):
    """Takes what a page's blocks print, from any thread, by lines."""

    def __init__(self) -> None:
        self.lines = Lines()
        self._lock = threading.Lock()  # guards the incomplete lines
        #: by thread: print() writes a line in pieces
        self._rest: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Take *text*."""
        thread = threading.get_ident()
        with self._lock:
            *lines, self._rest[thread] = (self._rest.get(thread, "") + text).split("\n")
            for line in lines:
                self.lines.add(line)
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True


def shown_pattern(line: str) -> str:
    """Return a pattern for a line as a page shows it: ``…`` or ``...`` in it stands for
    anything.
    """
    parts = re.split(r"…|\.\.\.", line.rstrip())
    return "^" + ".*".join(re.escape(part) for part in parts) + r"\s*$"


def check_shown(shown: str, output: str, place: str) -> None:
    """Fail unless *output* is what a page shows; a line ``...`` there stands for any number of
    lines.
    """
    pattern = ""
    for line in shown.strip("\n").split("\n") if shown.strip() else []:
        pattern += (
            r"(?:.*\n)*?" if line.strip() in ("...", "…") else shown_pattern(line)[1:-1] + r"\n"
        )
    if not re.fullmatch(pattern, output if output.endswith("\n") or not output else output + "\n"):
        raise PageError(f"{place}: the page shows\n{shown}\nbut the output is\n{output}")


def _console_steps(code: str) -> list[tuple[str, str]]:
    """Return the commands of a ``console`` block, each with the output shown; the first '' when it
    begins with output.
    """
    steps: list[list[str]] = [["", ""]]
    continued = False
    for line in code.splitlines():
        if line.startswith("$ "):
            steps.append([line[2:], ""])
        elif continued:
            steps[-1][0] += "\n" + line.removeprefix("> ")
        else:
            steps[-1][1] += line + "\n"
        continued = steps[-1][0].endswith("\\") and (continued or line.startswith("$ "))
    return [(command, shown) for command, shown in steps if command or shown]


class Page:
    """One run of a page: its folder, ports, names, and what it has started. Blocks know it as
    ``page``.

    A context manager that frees what is left in the end.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.printed = Printed()
        self.namespace: dict[str, Any] = {}
        self._ports: dict[str, int] = {}
        self._terminals: dict[str, Program] = {}
        self._owned: list[Any] = []
        self._cleanups = contextlib.ExitStack()

    # ---------------------------------------------------------------------------- for hidden blocks

    def port(self, number: int | str) -> int:
        """Return the free port that stands for *number*."""
        name = str(number)
        if int(number) in self._ports.values():
            return int(number)  # a block of the page, where it is one already
        while name not in self._ports:
            port = fixed_port()
            if port not in self._ports.values():
                self._ports[name] = port
        return self._ports[name]

    def serve_echo(
        self,
        port: int = 8999,
        name: str = "echo",
        callback: Callable[..., Any] = echo,
        **settings: Any,
    ) -> WebSocketServer:
        """Start an echo server on the page's *port*."""
        server = WebSocketServer(
            f"{HOST}:{self.port(port)}", settings=WebSocketProcessSettings(**settings)
        )
        self._owned.append(server)
        server.websocket_protocols.add(WebSocketProtocolChat(name, "", callback))
        return server

    def certificates(self) -> None:
        """Write ca.pem, and server.pem with server-key.pem for localhost, into the folder."""
        authority = Authority(self.folder)
        shutil.copy(authority.certificate_file, self.folder / "server.pem")
        shutil.copy(authority.private_key_file, self.folder / "server-key.pem")

    def redis(self, port: int = 6379, **options: str) -> RedisServer:
        """Start a Redis on the page's *port*; skip the page where there is none."""
        folder = self.folder / "redis"
        folder.mkdir(exist_ok=True)
        return self._cleanups.enter_context(redis_server(folder, self.port(port), **options))

    def start(self, command: str, terminal: str = "") -> Program:
        """Start a program that goes on running, as the command line of a *terminal*."""
        name, *arguments = shlex.split(command)
        if name not in _PROGRAMS:
            raise PageError(f"{self.name}: a terminal can run {', '.join(_PROGRAMS)}, not {name!r}")
        program = Program(*_PROGRAMS[name], *arguments, cwd=self.folder, env=self._environment())
        self._cleanups.enter_context(program)
        self._terminals[terminal or command] = program
        return program

    def terminal(self, name: str) -> Program:
        """Return the program that runs in the terminal *name*."""
        return self._terminals[name]

    def expect(self, text: str, bound: float = PATIENCE) -> None:
        """Wait until the blocks have printed a further line with *text*."""
        self.printed.lines.expect(re.escape(text), bound)

    @staticmethod
    def wait_for(condition: Callable[[], Any], bound: float = PATIENCE) -> Any:
        """Wait until *condition()* is true; return what it is."""
        return wait_for(condition, bound)

    # -------------------------------------------------------------------------------------- running

    def run(self, blocks: list[Block]) -> None:
        """Run the blocks in order."""
        for number, block in enumerate(blocks):
            if block.not_run() is not None:
                continue
            if "file" in block.says:
                self._write_file(block, blocks[number + 1 :])
                continue
            runner = getattr(self, f"_run_{block.language}", None)
            if runner is None:
                raise PageError(
                    f"{block.place}: a block in {block.language or 'no language'!r} that "
                    "nobody runs: see docs/contributing.md"
                )
            runner(block)

    def substituted(self, code: str) -> str:
        """Return *code* with the free ports of this run."""
        return re.sub(
            rf"(?<![\w.])(?:{'|'.join(PORTS)})\b", lambda match: str(self.port(match[0])), code
        )

    def _write_file(self, block: Block, later: list[Block]) -> None:
        name = block.says["file"]
        if not any(name in other.code for other in later):
            raise PageError(f"{block.place}: no later block does anything with {name}")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.substituted(block.code), encoding="utf-8")

    def _run_python(self, block: Block) -> None:
        source = "\n" * block.line + self.substituted(block.code)
        code = compile(source, str(ROOT / block.page), "exec", dont_inherit=True)
        if block.code.startswith("# WRONG"):
            return
        try:
            exec(code, self.namespace)
        except AssertionError as exc:
            raise PageError(
                f"{block.place}: {type(exc).__name__} {exc}\nprinted:\n{self.printed.lines.text}"
            ) from exc
        finally:
            self._remember()

    def _remember(self) -> None:
        for value in list(self.namespace.values()):
            if isinstance(value, _OWNED) and not any(value is one for one in self._owned):
                self._owned.append(value)

    def _run_text(self, block: Block) -> None:
        """What the Python blocks have printed, or print soon."""
        for line in self.substituted(block.code).splitlines():
            if line.strip() not in ("", "...", "…"):
                self.printed.lines.expect(shown_pattern(line), BOUND)

    def _run_json(self, block: Block) -> None:
        json.loads(block.code)

    def _run_sh(self, block: Block) -> None:
        lines = [line for line in block.code.splitlines() if not _is_left_out(line)]
        if any(line.strip() and not line.startswith("#") for line in lines):
            self._shell("\n".join(lines), block)

    def _run_console(self, block: Block) -> None:
        steps = _console_steps(self.substituted(block.code))
        if "terminal" in block.says:
            self._converse(block, steps)
            return
        for command, shown in steps:
            if not command:
                raise PageError(f"{block.place}: a console block begins with '$ ' and a command")
            if not _is_left_out(command):
                check_shown(shown, self._shell(command, block), block.place)

    def _shell(self, command: str, block: Block) -> str:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", self.substituted(command)],
            cwd=self.folder,
            env={**os.environ, **self._environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=2 * PATIENCE,
        )
        if done.returncode != int(block.says.get("exit", "0")):
            raise PageError(
                f"{block.place}: {command!r} ends with {done.returncode}:\n{done.stdout}"
            )
        return done.stdout

    def _converse(self, block: Block, steps: list[tuple[str, str]]) -> None:
        """A terminal whose program goes on: wait for the lines shown, enter those that are
        typed.
        """
        name = block.says["terminal"]
        typed = [one.strip() for one in block.says.get("types", "").split(",") if one.strip()]
        for command, shown in steps:
            if command:
                self.start(command, name)
            program = self._terminals[name]
            for line in shown.splitlines():
                if line == "^C":
                    program.signal(signal.SIGINT)
                elif typed and line == typed[0]:
                    program.enter(typed.pop(0))
                elif line.strip() not in ("", "...", "…"):
                    program.expect(shown_pattern(line))
        if typed:
            raise PageError(f"{block.place}: {typed[0]!r} is not shown")
        if "exit" in block.says:
            if "^C" not in block.code:
                self._terminals[name].end_input()
            code = self._terminals[name].wait()
            if code != int(block.says["exit"]):
                raise PageError(
                    f"{block.place}: it ended with {code}:\n{self._terminals[name].output}"
                )

    def _environment(self) -> dict[str, str]:
        """Return what the commands of a page find: our package, and ``python``, ``pytest`` and
        ``mormot-ws`` on the path.
        """
        tools = self.folder / ".bin"
        if not tools.exists():
            tools.mkdir()
            for name, arguments in _PROGRAMS.items():
                tool = tools / name
                tool.write_text(
                    f'#!/bin/sh\nexec {shlex.join([sys.executable, *arguments])} "$@"\n',
                    encoding="utf-8",
                )
                tool.chmod(0o755)
            (self.folder / "examples").symlink_to(ROOT / "examples")
            (self.folder / ".venv").mkdir()
            (self.folder / ".venv" / "bin").symlink_to(tools)
        return {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            # as in a terminal, where each line is seen at once
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error",
        }

    def __enter__(self) -> Page:
        module = types.ModuleType("the_page")
        sys.modules["the_page"] = module
        self._cleanups.callback(sys.modules.pop, "the_page")
        self.namespace = module.__dict__
        self.namespace["page"] = self
        self._cleanups.callback(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self._cleanups.enter_context(_quiet_environment())
        self._cleanups.enter_context(contextlib.redirect_stdout(self.printed))
        self._cleanups.enter_context(contextlib.redirect_stderr(self.printed))
        self._cleanups.enter_context(_logging_restored())
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._remember()
            for kind in _OWNED:
                for one in self._owned:
                    if isinstance(one, kind):
                        end = one.close if isinstance(one, (Connection, Server)) else one.free
                        end()
        finally:
            self.namespace.clear()
            self._cleanups.close()


@contextlib.contextmanager
def _quiet_environment() -> Iterator[None]:
    """No proxies of this machine's; the environment and the signal handlers are put back."""
    before = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for name in before:
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """``logging.basicConfig`` in a page works as in a new program, and is undone."""
    loggers = [
        logging.getLogger(),
        *(
            logging.getLogger(name)
            for name in ("mormot_ws", "mormot_ws.client", "mormot_ws.server")
        ),
    ]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    loggers[0].handlers[:] = []
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate


def _is_left_out(command: str) -> bool:
    """Whether a command is on the list of those that a test does not run."""
    return any(re.match(entry.pattern, command.strip()) for entry in COMMANDS)


def run_page(text: str, name: str, folder: Path) -> str:
    """Run all blocks of a page in *folder*; return what they have printed."""
    blocks = blocks_of(text, name)
    with Page(name, folder) as page:
        page.run(blocks)
    return page.printed.lines.text


#: seconds that one page may take
PAGE_BOUND = 6 * BOUND
