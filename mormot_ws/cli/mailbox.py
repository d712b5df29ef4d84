"""Mailbox: letters to the main thread from signal handlers and other threads.

A KeyboardInterrupt can be raised on any line, even in a ``finally`` or during an import, and print
a traceback. A signal handler that only posts a letter avoids this.
"""

from __future__ import annotations

import signal
import sys
from enum import Enum
from queue import Empty
from typing import NamedTuple

from ..front.signals import SignalQueue


class News(Enum):
    """The kinds of letters."""

    interrupt = "interrupt"  # Ctrl-C
    terminate = "terminate"  # SIGTERM
    output_gone = "output gone"  # standard output no longer has a reader
    opened = "opened"  # a connection is open
    failed = "failed"  # no connection could be opened; the value is the exit code
    ended = "ended"  # the connection has ended for good; the value is the exit code
    input_end = "input end"  # standard input has ended
    counted = "counted"  # the requested number of messages has arrived
    done = "done"  # a thread has finished its work


#: letters that end a program, and their exit codes, which are those that a shell reports for a
#: program ended by the signal
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
        self._letters: SignalQueue[Letter] = SignalQueue()

    def post(self, news: News, value: int = 0) -> None:
        """Post a letter. Never waits."""
        self._letters.put(Letter(news, value))

    def next(self, seconds: float | None = None) -> Letter | None:
        """Return the next letter; None when none arrives within *seconds*.

        None: wait until a letter arrives; a signal posts one. Called in the main thread.
        """
        try:
            return self._letters.get(seconds)
        except Empty:
            return None

    def catch_signals(self) -> None:
        """Turn SIGINT and SIGTERM into letters from now on. Called in the main thread.

        On Windows this includes SIGBREAK, which Ctrl-Break and closing the console send.
        """
        signal.signal(signal.SIGINT, lambda number, frame: self.post(News.interrupt))
        signal.signal(signal.SIGTERM, lambda number, frame: self.post(News.terminate))
        if sys.platform == "win32":
            signal.signal(signal.SIGBREAK, lambda number, frame: self.post(News.terminate))
