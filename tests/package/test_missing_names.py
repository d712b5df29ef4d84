"""Names and calls that do not exist, or do something else, on Windows: found in the source, since
no test on another system meets them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ROOT

#: what the modules have on Windows too (of ``signal``), and what they lack there (of the others)
_SIGNALS = {"SIGINT", "SIGTERM", "SIGABRT", "SIGILL", "SIGFPE", "SIGSEGV", "SIG_DFL", "SIG_IGN"}
_MISSING = {
    "signal": {"pthread_kill", "pthread_sigmask", "sigwait", "pause", "alarm", "setitimer"},
    "os": {
        *("fork", "forkpty", "register_at_fork", "wait", "waitpid", "getuid", "geteuid", "getgid"),
        *("killpg", "setsid", "mkfifo", "uname", "nice", "chown", "sched_setaffinity", "openpty"),
        *("sched_getaffinity", "getloadavg", "sysconf", "set_blocking", "strerror"),
    },
    "socket": {
        *("AF_UNIX", "MSG_DONTWAIT", "MSG_NOSIGNAL", "TCP_INFO", "TCP_USER_TIMEOUT"),
        *("SO_REUSEPORT", "SO_PEERCRED", "SCM_RIGHTS", "CMSG_SPACE", "send_fds", "recv_fds"),
    },
    "select": {"poll", "epoll", "kqueue"},
    "selectors": {"PollSelector", "EpollSelector", "KqueueSelector"},
}
_MODULES = {"fcntl", "termios", "resource", "pty", "tty", "pwd", "grp", "syslog"}

#: where they are used nevertheless, because nothing there runs on Windows
_NOT_THERE = {
    "mormot_ws/processes/": "ServerProcesses refuses Windows",
    "mormot_ws/cli/several.py": "the same",
    "mormot_ws/server/unix_file.py": "Unix sockets",
    "mormot_ws/server/handed_over.py": "systemd",
}
#: single uses: the file, what is used, and why it does no harm
_HARMLESS = {
    ("mormot_ws/server/listening.py", "socket.AF_UNIX"): "behind a look at hasattr()",
    ("mormot_ws/server/listening.py", "socket.SO_REUSEPORT"): "Place.of() has refused it",
    ("mormot_ws/sockets/lookup.py", "socket.AF_UNIX"): "behind a look at hasattr()",
    ("mormot_ws/sockets/portable.py", "select.poll"): "behind a look at hasattr()",
    ("mormot_ws/sockets/systems.py", "os.strerror"): "for what is no code of a socket",
    ("mormot_ws/sockets/transport.py", "socket.TCP_INFO"): "for Linux",
    ("mormot_ws/testing/relay.py", "socket.TCP_INFO"): "for Linux",
}
#: waits without a limit, which Ctrl-C does not end on Windows: not in a main thread, or meant so
_UNTIMED = {
    ("mormot_ws/process/free_in_callback.py", "wait"): "the deadlock of the original",
    ("mormot_ws/server/connection.py", "wait"): "until the deadline of the opening",
    ("mormot_ws/server/leader_pool.py", "wait"): "the watcher's thread",
    ("mormot_ws/front/server.py", "get"): "wakes by itself, see front/signals.py",
    ("mormot_ws/rest/turns.py", "acquire"): "of a new lock, which is free",
    ("mormot_ws/cli/inputs.py", "get"): "the taker's thread",
    ("mormot_ws/cli/output.py", "get"): "a capture's text, which is there",
    ("examples/demo.py", "wait"): "for a process that was killed",
    ("examples/desktop_tk.py", "get"): "the text of an entry",
    ("examples/mistakes/mistake1_free_in_callback.py", "wait"): "the mistake, in a child",
    ("examples/mistakes/mistake7_waiting_in_callback.py", "join"): "the thread has ended",
}
_WAITS = {"wait", "get", "join", "acquire", "pause", "sigwait"}

_FILES = sorted(
    path
    for folder in ("mormot_ws", "examples")
    for path in (Path(ROOT) / folder).rglob("*.py")
    if not path.relative_to(ROOT).as_posix().startswith(tuple(_NOT_THERE))
)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _is_guard(node: ast.AST) -> bool:
    """Tell whether *node* asks what there is before what is inside of it runs."""
    if isinstance(node, ast.Try):
        return any(
            name in ast.dump(handler.type)
            for handler in node.handlers
            if handler.type is not None
            for name in ("ImportError", "AttributeError")
        )
    if isinstance(node, (ast.If, ast.IfExp, ast.BoolOp, ast.comprehension)):
        asked = getattr(node, "test", node)
        text = ast.dump(asked)
        return "'hasattr'" in text or "'platform'" in text
    return False


def _unguarded(tree: ast.AST) -> Iterator[ast.AST]:
    """Return the nodes of *tree* that run everywhere."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += [child for child in ast.iter_child_nodes(node) if not _is_guard(child)]


def missing_names(source: str) -> set[str]:
    """Return what *source* uses, without a guard, that is missing on Windows."""
    found = set()
    for node in _unguarded(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, name = node.value.id.removesuffix("s"), node.attr
            module = {"socket": "socket", "o": "os", "selector": "selectors"}.get(module, module)
            unknown = module == "signal" and name.startswith("SIG") and name not in _SIGNALS
            if unknown or name in _MISSING.get(module, ()):
                found.add(f"{module}.{name}")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & _MODULES
        elif isinstance(node, ast.ImportFrom) and node.module in _MODULES:
            found.add(node.module)
    return found


def untimed_waits(source: str) -> set[str]:
    """Return the names of methods that wait without a limit."""
    return {
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _WAITS
        # a TLS context, which is there
        and not ast.unparse(node.func.value).endswith("_context")
        and not node.args
        and not node.keywords
    }


def selects_on_descriptors(source: str) -> bool:
    """Tell whether ``select`` is used on standard input, or on a pipe of ``os.pipe()``."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "select"
        and any(
            isinstance(part, ast.List)
            and any(
                isinstance(item, ast.Constant) and item.value in (0, 1, 2) for item in part.elts
            )
            for part in node.args
        )
        for node in _unguarded(ast.parse(source))
    )


def _found(finds: Callable[[str], set[str]]) -> set[tuple[str, str]]:
    """Return what *finds* finds in the package and the examples, with the files."""
    return {(_name(path), name) for path in _FILES for name in finds(path.read_text("utf-8"))}


def test_nothing_is_used_that_windows_lacks() -> None:
    assert _found(missing_names) - set(_HARMLESS) == set()


def test_no_main_thread_waits_without_a_limit() -> None:
    """Ctrl-C does not end such a wait on Windows."""
    assert _found(untimed_waits) - set(_UNTIMED) == set()


def test_select_is_for_sockets_only() -> None:
    # it has another way for Windows
    others = [path for path in _FILES if path.name != "inputs.py"]
    assert [path for path in others if selects_on_descriptors(path.read_text("utf-8"))] == []


def test_the_lists_name_only_what_is_there() -> None:
    """An exception that is no longer needed is removed."""
    for listed, finds in ((_HARMLESS, missing_names), (_UNTIMED, untimed_waits)):
        for file, name in listed:
            assert name in finds((Path(ROOT) / file).read_text("utf-8")), (file, name)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("signal.SIGQUIT", {"signal.SIGQUIT"}),
        ("for n in (signal.SIGINT, signal.SIGHUP): pass", {"signal.SIGHUP"}),
        ("raise OSError(code, os.strerror(code))", {"os.strerror"}),
        ("sockets.SO_REUSEPORT", {"socket.SO_REUSEPORT"}),
        ("import fcntl", {"fcntl"}),
        ("from resource import getrlimit", {"resource"}),
        ("if hasattr(os, 'fork'):\n    os.fork()", set()),
        ("if sys.platform != 'win32':\n    signal.SIGHUP", set()),
        ("try:\n    import fcntl\nexcept ImportError:\n    pass", set()),
        ("signal.SIGTERM", set()),
    ],
)
def test_a_missing_name_is_found(source: str, found: set[str]) -> None:
    assert missing_names(source) == found


def test_a_wait_and_a_select_are_found() -> None:
    assert untimed_waits("threading.Event().wait()\nqueue.get(timeout=1)\nx.join()") == {
        "wait",
        "join",
    }
    assert selects_on_descriptors("select.select([0, wake], [], [])")
    assert not selects_on_descriptors("select.select([sock], [], [], 0)")
