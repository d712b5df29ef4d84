"""Log lines of a server about faults that may come thousands of times a second."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

#: seconds between two log lines about the same fault, while it lasts
LOG_SECONDS = 10.0


class SeldomLog:
    """Tells about a fault that lasts at once, then once in *seconds*, with the number between.

    From any thread; when two meet, a line may be too many or a number too small.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kind: object = None
        self._told_at = 0.0
        self._untold = 0

    def due(self, kind: object = "") -> str | None:
        """Count one fault; return None when it is not to be told, else what to add to its line:
        ``''`` or how many were left out. Another *kind* than the last one is told at once.
        """
        now = self._clock()
        if kind == self._kind and now - self._told_at < self._seconds:
            self._untold += 1
            return None
        untold = self._untold if kind == self._kind else 0
        self._kind, self._told_at, self._untold = kind, now, 0
        return f" ({untold} more since the last such line)" if untold else ""
