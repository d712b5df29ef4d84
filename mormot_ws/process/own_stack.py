"""Which methods the calling thread is inside of, seen from a signal handler or a finaliser.

Either runs in the middle of another call: to wait for a lock that this call has taken would be to
wait for itself. Looking is slower than a note that the call leaves, but it costs the call nothing,
and nothing can come between the lock and the note.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any


def codes_of(*methods: Callable[..., Any]) -> frozenset[CodeType]:
    """Return the code of *methods*, for :func:`runs_here`."""
    return frozenset(method.__code__ for method in methods)


def runs_here(codes: frozenset[CodeType], owner: object) -> bool:
    """Return whether the calling thread is inside one of the methods with these *codes* of *owner*.

    The two innermost calls do not count: this one's caller, and the caller of that.
    """
    frame = sys._getframe(2).f_back
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is owner:
            return True
        frame = frame.f_back
    return False
