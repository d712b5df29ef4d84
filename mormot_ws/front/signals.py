"""StopSignals: Ctrl-C and SIGTERM for a clean shutdown; SignalQueue: waiting for signals.

No connection or server belongs in here.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..core.taking import LONGEST_WAIT
from .console import console_close

_Item = TypeVar("_Item")

#: what asks a program to end; on Windows also Ctrl-Break and closing the console
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


class StopSignals:
    """While its ``with`` block runs, Ctrl-C and SIGTERM call *stop*, and do nothing else.

    The previous handlers are restored at the end. An ignored signal stays ignored, which ``nohup``
    and a shell's ``&`` rely on. Only the main thread gets signals; in another thread this does
    nothing. *stop* is called in the main thread, between any two of its lines.

    :param others: further signals by number, and what each one calls.
    """

    def __init__(
        self, stop: Callable[[], Any], others: Mapping[int, Callable[[], Any]] | None = None
    ) -> None:
        self._calls: dict[int, Callable[[], Any]] = dict.fromkeys(_SIGNALS, stop)
        self._calls.update(others or {})
        self._before: dict[int, Any] = {}
        self._console: AbstractContextManager[None] | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in self._calls:
                before = signal.getsignal(number)
                # None: a handler that was not set by Python, so it could not be restored
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, lambda number, frame: self._calls[number]())
            # the handler for the console runs in its own thread
            self._console = console_close(self._calls[signal.SIGINT])
            self._console.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console is not None:
            self._console.__exit__(kind, value, trace)
        for number, before in self._before.items():
            signal.signal(number, before)


class SignalQueue(Generic[_Item]):
    """A queue that signal handlers may put into while their own thread, the main one, waits for it.

    A ``queue.SimpleQueue`` loses signals: Python runs the handler when the interpreter gets to it.
    A signal that arrives in the last microsecond before the wait, or in another thread, does not
    end the wait. Here, the signal itself does.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[_Item] = SimpleQueue()
        # while get() waits
        self._wake: _Wake | None = None

    def put(self, item: _Item) -> None:
        """Add *item*. From any thread, and from signal handlers; never waits."""
        self._items.put(item)
        # get() checks in the opposite order, so one of the two sees the other
        wake = self._wake
        if wake is not None:
            wake.up()

    def get(self, seconds: float | None = None) -> _Item:
        """Return the next item; raise ``queue.Empty`` if there is none within *seconds*.

        Call it from one thread at a time.
        """
        until = None if seconds is None else monotonic() + seconds
        wake = self._wake = _Wake()
        try:
            with wake.by_signals():
                while True:
                    with contextlib.suppress(Empty):
                        return self._items.get_nowait()
                    left = LONGEST_WAIT if until is None else until - monotonic()
                    if left <= 0:
                        raise Empty
                    wake.wait(min(left, LONGEST_WAIT))
        finally:
            self._wake = None


class _Wake:
    """A pair of sockets, closed with the last reference: another thread may be about to write."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)

    def __del__(self) -> None:
        self._read.close()
        self._write.close()

    def up(self) -> None:
        """End :meth:`wait`."""
        # it is full, so the wait ends anyway
        with contextlib.suppress(BlockingIOError):
            self._write.send(b"\0")

    def wait(self, seconds: float) -> None:
        """Wait for up to this many seconds."""
        self._read.settimeout(seconds)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            self._read.recv(4096)

    @contextlib.contextmanager
    def by_signals(self) -> Iterator[None]:
        """Let signals end the wait, too; only the main thread gets them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
