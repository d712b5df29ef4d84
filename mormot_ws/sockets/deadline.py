"""Deadline: one point in time, passed through an operation of several steps.

It uses the monotonic clock, because waits must not depend on the time of day.
"""

from __future__ import annotations

import errno
import math
from time import monotonic


class Deadline:
    """A point on the monotonic clock, *milliseconds* from now; None: never."""

    __slots__ = ("_at",)

    def __init__(self, milliseconds: float | None) -> None:
        self._at = None if milliseconds is None else monotonic() + milliseconds / 1000

    def seconds(self) -> float | None:
        """Return the seconds left, 0.0 after the deadline, or None if there is no deadline."""
        return None if self._at is None else max(0.0, self._at - monotonic())

    def milliseconds(self) -> int | None:
        """Return the whole milliseconds left, rounded up, at most 24 days; or None.

        System calls do not accept more, so callers check the deadline again after a wait.
        """
        left = self.seconds()
        return None if left is None else min(math.ceil(left * 1000), 2**31 - 1)

    @property
    def passed(self) -> bool:
        """True from that point in time on."""
        return self._at is not None and monotonic() >= self._at

    def share(self, parts: int) -> Deadline:
        """Return a deadline after one of *parts* equal parts of the remaining time."""
        left = self.seconds()
        return Deadline(None if left is None else left * 1000 / parts)

    def sooner(self, milliseconds: float) -> Deadline:
        """Return this deadline, or one *milliseconds* from now, whichever comes first."""
        left = self.seconds()
        return Deadline(milliseconds if left is None else min(milliseconds, left * 1000))


def timed_out(text: str = "timed out") -> TimeoutError:
    """Return the ``TimeoutError`` of a deadline, with an errno like the kernel's own."""
    error = TimeoutError(text)
    error.errno = errno.ETIMEDOUT
    return error


def is_foreign_timeout(exc: BaseException) -> bool:
    """Return whether a signal handler raised this ``TimeoutError``: the kernel's have an errno."""
    return type(exc) is TimeoutError and exc.errno is None
