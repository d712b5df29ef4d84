"""Turns: a fair lock, which threads get in the order in which they asked for it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from time import monotonic

#: seconds after which a waiting thread checks by itself: a thread that gave up its turn may have
#: been interrupted by a signal before it woke the next
_LOOK_AGAIN = 0.25


class Turn:
    """The turn of a thread, which is waiting for it, has it, or has given it up."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        #: locked while there is nothing new to see in the queue
        self.woken = threading.Lock()
        self.woken.acquire()


class Turns:
    """A fair lock: threads get it in the order in which they asked for it.

    Any thread may use it. It is not reentrant. A signal handler can raise after any call, so code
    that waits for its turn must have this form, in which a single step of Python gives it up::

        turn = Turn()
        try:
            if turns.wait(turn, seconds):
                ...
        finally:
            if turn in turns.queue:
                turns.queue.remove(turn)
            turns.wake()
    """

    def __init__(self) -> None:
        #: the turns in order; the thread of the first one has the lock
        self.queue: deque[Turn] = deque()

    def wait(self, turn: Turn, timeout: float) -> bool:
        """Wait up to *timeout* seconds for *turn*; return False on a time-out."""
        queue = self.queue
        queue.append(turn)
        give_up = monotonic() + timeout
        while queue[0] is not turn:
            left = give_up - monotonic()
            if left <= 0:
                return False
            turn.woken.acquire(timeout=min(left, _LOOK_AGAIN))
        return True

    def wake(self) -> None:
        """Wake the thread whose turn it is, after a turn was removed from the queue."""
        # IndexError: no thread waits; RuntimeError: another thread has just woken it
        with contextlib.suppress(IndexError, RuntimeError):
            self.queue[0].woken.release()

    def give(self, turn: Turn) -> None:
        """Give up *turn* in a thread without signal handlers, i.e. not the main thread."""
        if turn in self.queue:
            self.queue.remove(turn)
        self.wake()
