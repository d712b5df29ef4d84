"""Sharing: whether a frame for several connections is written at once, or queued for the keeper."""

from __future__ import annotations

import threading
from threading import get_ident
from time import monotonic

from ..core.forks import call_in_child

_main_ident = threading.main_thread().ident


def _fork_is_main() -> None:
    # in a child the thread that has forked is the main thread, which runs the signal handlers
    global _main_ident
    _main_ident = get_ident()


call_in_child(_fork_is_main)


class Sharing:
    """Decides it for each frame of one sender to many.

    To write at once costs half as much for a single frame. Of a quick series the keeper writes many
    frames with one system call, which costs a fifth. Any thread may call it.
    """

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        self._ended = 0.0

    def begin(self, delay: float) -> float:
        """Return the time of the monotonic clock to write at once, 0 to queue.

        Frames that follow the one before within *delay* milliseconds are a series. The main thread
        never writes: a signal handler may interrupt it anywhere.
        """
        if get_ident() == _main_ident:
            return 0.0
        now = monotonic()
        return now if now >= self._ended + delay / 1000 else 0.0

    def end(self) -> None:
        """Note that the frame was handed to all its connections."""
        self._ended = monotonic()
