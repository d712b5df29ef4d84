"""Turns: a lock that threads get in the order in which they asked for it."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A fair lock: threads get it in the order in which they asked for it.

    Any thread may use it. It is not reentrant.
    """

    def __init__(self) -> None:
        #: guards the fields below; held only briefly; last in the lock order
        self._safe = threading.Lock()
        self._taken = False
        #: one locked lock for each thread that waits, released when its turn has come
        self._queue: deque[threading.Lock] = deque()

    def acquire(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for this thread's turn; return False if it does not come.

        If it returns True, call :meth:`release`.
        """
        with self._safe:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        try:
            if mine.acquire(timeout=timeout):
                return True
        except BaseException:  # Ctrl-C: otherwise the turn would never be passed on
            if not self._leave(mine):
                self.release()
            raise
        return not self._leave(mine)  # False: the turn came just as we gave up

    def _leave(self, mine: threading.Lock) -> bool:
        """Take *mine* out of the queue; return whether it was still there."""
        with self._safe:
            if mine not in self._queue:
                return False
            self._queue.remove(mine)
            return True

    def release(self) -> None:
        """Give the turn to the next thread."""
        with self._safe:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False
