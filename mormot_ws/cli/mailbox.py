"""Mailbox: what the main thread waits for. Signal handlers and all other threads post into it.

Why a queue and no exception: a KeyboardInterrupt may come up inside any line, a ``finally`` or a
library's import included, and print a traceback from there. A signal that only leaves a letter
cannot.
"""

from __future__ import annotations

import signal
from enum import Enum
from queue import Empty, SimpleQueue
from typing import NamedTuple


class News(Enum):
    """What may be in a letter."""

    interrupt = "interrupt"  # Ctrl-C
    terminate = "terminate"  # SIGTERM
    output_gone = "output gone"  # nobody reads our standard output any more
    opened = "opened"  # a connection is open
    failed = "failed"  # there is no connection, and there will be none; the value is the exit code
    ended = "ended"  # the connection has ended, and will not come back; the value is the exit code
    input_end = "input end"  # nothing more comes from standard input
    counted = "counted"  # as many messages as were asked for have arrived
    done = "done"  # a thread has finished its work


#: letters that end a program, and the exit code of each: what a shell says of a program that the
#: signal has ended
SIGNAL_CODES = {News.interrupt: 130, News.terminate: 143, News.output_gone: 141}


class Letter(NamedTuple):
    """One piece of news."""

    news: News
    value: int = 0


class Mailbox:
    """Letters for the main thread.

    :meth:`post` may be called from any thread, and from signal handlers.
    """

    def __init__(self) -> None:
        # a SimpleQueue, because its put() may interrupt a get() or put() of the same thread: that
        # is what a signal handler does
        self._letters: SimpleQueue[Letter] = SimpleQueue()

    def post(self, news: News, value: int = 0) -> None:
        """Leave a letter. Never waits."""
        self._letters.put(Letter(news, value))

    def next(self, seconds: float | None = None) -> Letter | None:
        """Return the next letter; None when none comes within *seconds*. Main thread.

        With None it waits until a letter comes; a signal leaves one.
        """
        try:
            return self._letters.get(timeout=None if seconds is None else max(0.0, seconds))
        except Empty:
            return None

    def catch_signals(self) -> None:
        """Turn SIGINT and SIGTERM into letters, to the end of the process. Main thread."""
        signal.signal(signal.SIGINT, lambda number, frame: self.post(News.interrupt))
        signal.signal(signal.SIGTERM, lambda number, frame: self.post(News.terminate))
