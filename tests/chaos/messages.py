"""What the two sides say to each other, how they log it, and the watch that each process keeps
over itself.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import logging
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mormot_ws import WebSocketFrame, focBinary
from mormot_ws.process import freeing
from tests.support.waiting import poll_until

PROTOCOL = "chaos"

#: of connections with small kernel buffers: bytes asked for
SMALL_BUFFER = 4096
#: of their messages: bytes of padding at most
LARGE_PADDING = 24_000
#: set in the environment of both sides with ``--signals``
SIGNALS = "MORMOT_WS_CHAOS_SIGNALS"
#: set there with ``--trace``
TRACE = "MORMOT_WS_CHAOS_TRACE"
#: what interrupted work sends; the other side ignores it, and it has no bytes to be counted
NOTHING = WebSocketFrame(focBinary)
#: seconds within which a forked child has to end
_CHILD_BOUND = 10.0


def padded(text: str, size: int) -> str:
    """Return *text* and *size* bytes more."""
    return f"{text} {'x' * size}"


class _NoLock:
    """What a handler of ours has instead of a lock."""

    def acquire(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class LocklessHandler(logging.Handler):
    """A handler whose lock nobody can leave held: a signal handler that raises behind the
    ``acquire()`` of ``logging`` would stop all other threads.
    """

    def createLock(self) -> None:
        """Called by the constructor."""
        self.lock = _NoLock()  # type: ignore[assignment]


class FailingHandlerError(Exception):
    """What the log handler of both sides raises now and then."""


class FailingHandler(LocklessHandler):
    """Raises at every twentieth record, whatever thread of the library has written it."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._records = itertools.count()

    def emit(self, record: logging.LogRecord) -> None:
        if next(self._records) % 20 == 0:
            raise FailingHandlerError(record.getMessage())


class TraceHandler(LocklessHandler):
    """Appends every record to the file at *path*, with the time of the monotonic clock, which all
    processes share.
    """

    def __init__(self, path: str) -> None:
        super().__init__(logging.DEBUG)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{time.monotonic():.4f} [{record.threadName}] {record.getMessage()}\n"
        os.write(self._file, text.encode(errors="backslashreplace"))


def watch_exceptions(note: Callable[[str], Any], path: str) -> None:
    """Note in one line every exception that ends a thread or is ignored, and every log record of
    ``mormot_ws`` from ERROR on; with ``--trace``, write all records beside the log at *path*.
    """

    def in_thread(args: threading.ExceptHookArgs) -> None:
        lines = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
        note(f"thread {args.thread.name if args.thread else '?'}: {''.join(lines)!r}")

    def unraisable(args: Any) -> None:
        if isinstance(args.exc_value, (FailingHandlerError, InterruptedWorkError)):
            return
        note(f"unraisable: {args.err_msg} {args.object!r} {args.exc_value!r}")

    class Handler(LocklessHandler):
        def emit(self, record: logging.LogRecord) -> None:
            note(f"log: {self.format(record)!r}")

    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    # newer versions of Python warn of forks in programs with threads
    warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
    logger = logging.getLogger("mormot_ws")
    logger.addHandler(Handler(logging.ERROR))
    logger.addHandler(FailingHandler(logging.DEBUG))
    if TRACE in os.environ:
        logger.addHandler(TraceHandler(f"{path}.trace"))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


class InterruptedWorkError(Exception):
    """What a signal handler raises in the main thread, with ``--signals``."""


def commands_with_signals(work: Callable[[], Any], note: Callable[[str], Any]) -> Iterator[Any]:
    """Return the parent's commands; twice a second, between them, let a signal handler raise in the
    middle of *work* in this thread, the main one.

    *work* is done again and again until then. Any other exception is noted.
    """
    unread = b""
    while True:
        line, end, rest = unread.partition(b"\n")
        if end:
            unread = rest
            yield json.loads(line)
        elif select.select([0], [], [], 0.5)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                return
            unread += data
        else:
            _interrupt(work, note)


def _interrupt(work: Callable[[], Any], note: Callable[[str], Any]) -> None:
    """Do *work* until a signal handler raises in the middle of it."""

    def handler(*_: object) -> None:
        raise InterruptedWorkError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        try:
            # again after a second, because Python itself drops what is raised in a finaliser
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.005), 1.0)
            while True:
                work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptedWorkError:
        pass
    except BaseException as exc:  # noqa: BLE001 - it is what the check is for
        note(f"interrupted work has raised {exc!r}")
    finally:
        signal.signal(signal.SIGALRM, before)


class Log:
    """Lines of text in a file, from any thread, each whole.

    :param durable: hand each to the kernel at once, so that it survives a SIGKILL of the process.
    """

    def __init__(self, path: str, durable: bool) -> None:
        # a binary file object with or without a buffer, not a text one: only those are safe to use
        # from several threads lives as long as the process
        self._file = open(path, "ab", buffering=0 if durable else 1 << 16)  # noqa: SIM115

    def write(self, line: str) -> None:
        """Append *line*, or several."""
        self._file.write(f"{line}\n".encode())

    def flush(self) -> None:
        """Hand all of it to the kernel."""
        self._file.flush()


def footprint() -> dict[str, int]:
    """Return what this process takes now: threads, descriptors, kB of memory, Python objects and
    blocks of memory in use by them, after cleaning up.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "memory": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
    }


def fork(child: Callable[[], Any], note: Callable[[str], Any]) -> None:
    """Fork a child that does *child* and ends; note what is wrong with its end. In any thread but
    a connection's own.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            # what the end of an interpreter does
            freeing.close_all_now()
            code = 0
        finally:
            # not sys.exit(): what our logs have not written yet is the parent's
            os._exit(code)
    status = 0

    def ended() -> bool:
        nonlocal status
        found, status = os.waitpid(pid, os.WNOHANG)
        return found != 0

    if not poll_until(ended, _CHILD_BOUND):
        note("a forked child hangs")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    elif status:
        note(f"a forked child ended with the status {status}")
