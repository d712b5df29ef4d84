"""Patience: how long a write waits for a peer that takes nothing. It counts bytes, not the kernel's
wake-ups. No socket of its own, no thread.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from .deadline import Deadline

#: the longest time between two looks, in milliseconds
_LONGEST_STEP = 1000
#: A peer that has let this part of the limit pass, and then taken something, is slow, not dead. Its
#: kernel takes nothing while its program empties a full buffer, and then much at once: …
_SLOW = 1 / 4
#: … so it has so many times the limit from then on
_TIMES = 4


class Patience:
    """Bounds the time in which a peer takes not a single byte, for one write.

    A peer that has taken something after a quarter of that time is slow rather than dead: it has
    four times as long for the rest of this write.

    :param measure: returns how many bytes the peer has acknowledged so far, and how many are under
        way; None where nobody tells: what the kernel takes from us is what counts then.
    :param limit: milliseconds.
    :param waited: milliseconds that the write has waited already.
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
        """Return the milliseconds between two looks for a *limit*."""
        return max(1, min(_LONGEST_STEP, limit // 4))

    def step(self) -> Deadline:
        """Return the time of the next look."""
        left = 1000 * (self._since + self._allowed - monotonic())
        return Deadline(max(0.0, min(left, self.step_of(int(1000 * self._limit)))))

    def taken(self) -> None:
        """The kernel has taken bytes from us: the peer has done so too, or its own buffer grows."""
        seen = self._acknowledged()
        if seen is None or seen != self._seen:
            self._progress(seen)

    def look(self) -> None:
        """Begin anew if the peer has taken bytes; raise ``BlockingIOError`` when it has taken none
        for too long.
        """
        seen = self._acknowledged()
        if seen is not None and seen != self._seen:
            self._progress(seen)
        elif monotonic() - self._since >= self._allowed:
            raise BlockingIOError(f"the peer took nothing for {1000 * self._allowed:.0f} ms")

    def _acknowledged(self) -> int | None:
        state = self._measure()
        return None if state is None else state[0]

    def _progress(self, seen: int | None) -> None:
        now = monotonic()
        if now - self._since >= _SLOW * self._limit:
            self._allowed = _TIMES * self._limit
        self._seen, self._since = seen, now
