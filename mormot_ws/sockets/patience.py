"""Patience: how long a write waits for a peer that accepts no data. It counts bytes, not the
kernel's wake-ups. It has no socket or thread.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from .deadline import Deadline

#: the longest time between two checks, in milliseconds
_LONGEST_STEP = 1000
#: A peer that has let this part of the limit pass, and then accepted something, is slow, not dead.
#: Its kernel accepts nothing while its program empties a full buffer, and then much at once: …
_SLOW = 1 / 4
#: … so its limit is multiplied by this from then on
_TIMES = 4


class Patience:
    """Limits the time in which a peer accepts not a single byte, for one write.

    A peer that has accepted something after a quarter of that time is slow rather than dead: it has
    four times as long for the rest of this write.

    :param measure: returns how many bytes the peer has acknowledged so far, and how many are in
        flight; None if this is unknown: then the bytes that the kernel accepts from us count.
    :param limit: milliseconds.
    :param waited: milliseconds that the write has already waited.
    """

    def __init__(
        self, measure: Callable[[], tuple[int, int] | None], limit: int, waited: int = 0
    ) -> None:
        self._measure = measure
        self._limit = limit / 1000
        self._allowed = self._limit
        self._seen = self._acknowledged()
        self._since = monotonic() - waited / 1000

    @staticmethod
    def step_of(limit: int) -> int:
        """Return the milliseconds between two checks for a *limit*."""
        return max(1, min(_LONGEST_STEP, limit // 4))

    def step(self) -> Deadline:
        """Return the time of the next check."""
        left = 1000 * (self._since + self._allowed - monotonic())
        return Deadline(max(0.0, min(left, self.step_of(int(1000 * self._limit)))))

    def taken(self) -> None:
        """The kernel accepted bytes from us: so did the peer, or the kernel's buffer is filling."""
        seen = self._acknowledged()
        if seen is None or seen != self._seen:
            self._progress(seen)

    def look(self) -> None:
        """Start again if the peer has accepted bytes; raise ``BlockingIOError`` if it has accepted
        none for too long.
        """
        seen = self._acknowledged()
        if seen is not None and seen != self._seen:
            self._progress(seen)
        elif monotonic() - self._since >= self._allowed:
            raise BlockingIOError(f"the peer accepted no data for {1000 * self._allowed:.0f} ms")

    def _acknowledged(self) -> int | None:
        state = self._measure()
        return None if state is None else state[0]

    def _progress(self, seen: int | None) -> None:
        now = monotonic()
        if now - self._since >= _SLOW * self._limit:
            self._allowed = _TIMES * self._limit
        self._seen, self._since = seen, now
