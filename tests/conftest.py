"""Fixtures of all tests: nothing may be left behind by any of them, no thread, no file descriptor,
no exception in a thread.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# whatever the import mode, the tests find their support module
if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

import mormot_ws

if os.environ.get("MORMOT_WS_TEST_SERVER") == "async":
    # before the tests import it: all of them run with the event-driven server
    mormot_ws.WebSocketServer = mormot_ws.WebSocketAsyncServer  # type: ignore[misc, assignment]
    mormot_ws.WebSocketServerRest = mormot_ws.WebSocketAsyncServerRest  # type: ignore[misc, assignment]

from support import BOUND, HOST, Recorder, connect, echo_server
from support.browser import chrome, open_tab  # noqa: F401  (fixtures)
from support.locks import watched_locks

from mormot_ws import HttpClientWebSockets, WebSocketServer
from mormot_ws.testing import FaultProxy

_DESCRIPTORS = "/proc/self/fd"
_BYTECODE = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return what ``-n auto`` means: the whole suite in several processes, since most tests wait;
    a choice of tests in this one.
    """
    chosen = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.keyword
    return 0 if chosen else min(8, (os.cpu_count() or 1) + 2)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist in which folder the workers share bytecode, and whether the
    whole suite is run.
    """
    node.workerinput["bytecode"] = _bytecode_folder(node.config)
    whole = node.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    node.workerinput["whole_suite"] = whole


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Make the collection of the whole suite, which each worker does for itself, quick."""
    inputs = getattr(session.config, "workerinput", {})
    # the thousands of tests stay to the end: no collection of garbage has to look at them
    gc.disable()
    try:
        if inputs.get("whole_suite"):
            _import_tests(inputs)
        yield
        gc.freeze()
    finally:
        gc.enable()


def _import_tests(inputs: dict[str, Any]) -> None:
    """Import all test modules, each worker in another order, so that each rewrites the assertions
    of other modules, and finds what the others have rewritten.
    """
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.setattr(sys, "dont_write_bytecode", False)
            patch.setattr(sys, "pycache_prefix", inputs["bytecode"])
        paths = sorted(Path(__file__).parent.rglob("test_*.py"))
        first = int(inputs["workerid"][2:]) * len(paths) // inputs["workercount"]
        for path in paths[first:] + paths[:first]:
            folder, name = path.parent, path.stem
            while (folder / "__init__.py").exists():
                folder, name = folder.parent, f"{folder.name}.{name}"
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
            # the collection tells what cannot be imported
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(name)


def _bytecode_folder(config: pytest.Config) -> str:
    """Return the folder of this run, which is removed at its end."""
    folder = config.stash.get(_BYTECODE, None)
    if folder is None:
        folder = config.stash[_BYTECODE] = tempfile.TemporaryDirectory(prefix="mormot_ws-bytecode-")
        config.add_cleanup(folder.cleanup)
    return folder.name


@pytest.fixture(scope="session", autouse=True)
def programs_are_compiled_once(pytestconfig: pytest.Config) -> Iterator[None]:
    """Where no bytecode is to be written beside the sources, the hundreds of programs that tests
    start find it elsewhere: compiling the package takes longer than many a program does.
    """
    if not sys.dont_write_bytecode:
        yield
        return
    inputs = getattr(pytestconfig, "workerinput", None)
    folder = _bytecode_folder(pytestconfig) if inputs is None else inputs["bytecode"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", folder)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With the event-driven server everywhere, leave out what is about the threaded one."""
    if mormot_ws.WebSocketServer is mormot_ws.WebSocketAsyncServer:
        skip = pytest.mark.skip(reason="about the threaded server")
        for item in items:
            if item.get_closest_marker("threaded") is not None:
                item.add_marker(skip)


def _open_descriptors() -> dict[int, str]:
    """Return what each open file descriptor stands for; nothing where the system does not tell."""
    found: dict[int, str] = {}
    if os.path.exists(_DESCRIPTORS):
        for name in os.listdir(_DESCRIPTORS):
            try:
                found[int(name)] = os.readlink(f"{_DESCRIPTORS}/{name}")
            except OSError:
                # the one of listdir itself
                continue
    return found


def _stack_of(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None else ""


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a thread or a file descriptor, or in which a thread ended by an
    exception.
    """
    escaped: list[str] = []

    def hook(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "?"
        escaped.append(
            f"{name}: "
            + "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        )

    monkeypatch.setattr(threading, "excepthook", hook)
    threads = set(threading.enumerate())
    descriptors = _open_descriptors()
    yield
    give_up = time.monotonic() + BOUND / 2
    left = []
    for thread in set(threading.enumerate()) - threads:
        thread.join(max(0.0, give_up - time.monotonic()))
        if thread.is_alive():
            left.append(f"thread {thread.name!r}:\n{_stack_of(thread)}")
    opened = {fd: what for fd, what in _open_descriptors().items() if descriptors.get(fd) != what}
    if opened:
        gc.collect()
        opened = {
            fd: what for fd, what in _open_descriptors().items() if descriptors.get(fd) != what
        }
    left += [f"file descriptor {fd}: {what}" for fd, what in opened.items()]
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)
    if escaped:
        pytest.fail("a thread ended by an exception:\n" + "\n".join(escaped), pytrace=False)


@pytest.fixture(autouse=bool(os.environ.get("MORMOT_WS_TEST_LOCKS")))
def locks_are_watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``MORMOT_WS_TEST_LOCKS=1``: fail a test in which a log record is written, or a recorder
    called, under one of the library's locks. Not where signal handlers run, in the middle of
    anything.
    """
    if request.node.get_closest_marker("signals"):
        yield
        return
    with watched_locks():
        yield


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """What presses Ctrl-C: it interrupts the main thread, also where the tests themselves run in
    the background and ignore it.
    """
    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield partial(signal.pthread_kill, main, signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.fixture
def recorder() -> Recorder:
    """What remembers the callbacks of a test."""
    return Recorder()


@pytest.fixture
def server() -> Iterator[WebSocketServer]:
    """An echo server on a free port."""
    with echo_server() as server:
        yield server


@pytest.fixture
def proxy(server: WebSocketServer) -> Iterator[FaultProxy]:
    """A proxy in front of ``server``."""
    with FaultProxy(HOST, server.port) as proxy:
        yield proxy


@pytest.fixture
def client(server: WebSocketServer, recorder: Recorder) -> Iterator[HttpClientWebSockets]:
    """A client that is upgraded on ``server``, its frames recorded by ``recorder``."""
    with connect(server.port, recorder.frame) as client:
        yield client
