"""Turns: a lock that is given to threads in the order in which they asked for it.

Nothing but that lock belongs in here.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that threads get in the order in which they asked for it, so that none waits for
    others that came later.

    For any thread. Not reentrant. It guards nothing itself.
    """

    def __init__(self) -> None:
        #: guards the fields below; held for moments, innermost in the lock order
        self._safe = threading.Lock()
        self._taken = False
        #: one locked lock for each thread that waits, released when its turn has come
        self._queue: deque[threading.Lock] = deque()

    def acquire(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for this thread's turn; return False when it did not come.
        Who gets it has to :meth:`release`.
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
        except BaseException:  # Ctrl-C: nobody would be there to give the turn on
            if not self._leave(mine):
                self.release()
            raise
        return not self._leave(mine)  # False: it came in the very moment of giving up

    def _leave(self, mine: threading.Lock) -> bool:
        """Take *mine* out of the queue; tell whether it was still there."""
        with self._safe:
            if mine not in self._queue:
                return False
            self._queue.remove(mine)
            return True

    def release(self) -> None:
        """Let the next thread have its turn."""
        with self._safe:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False
