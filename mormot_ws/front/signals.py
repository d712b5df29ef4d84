"""StopSignals: Ctrl-C and SIGTERM, for a program that ends in order.

No connection and no server belongs in here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from ..core.taking import LONGEST_WAIT
from .console import console_close

#: what asks a program to end; on Windows also Ctrl-Break, and the console that is closed
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


def wait_for_stop(stop: SimpleQueue[None]) -> None:
    """Wait until a signal handler, or a thread, puts something into *stop*. For the main thread."""
    while True:
        try:
            stop.get(timeout=LONGEST_WAIT)
        except Empty:
            continue
        return


class StopSignals:
    """While its ``with`` block runs, Ctrl-C and SIGTERM call *stop*, and nothing else.

    The handlers that were there come back at the end. A signal that was ignored stays ignored, as
    ``nohup`` and a shell's ``&`` want it. Only the main thread has signals: in another one it does
    nothing. *stop* is called in the main thread, between any two lines of it.

    :param others: further signals, by their numbers, and what each one calls.
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
                # None: a handler that Python has not set, and could not set again
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, lambda number, frame: self._calls[number]())
            # the window of a console is closed in a thread of its own
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
