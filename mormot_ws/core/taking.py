"""take(): acquire a lock so that no signal can come between having it and knowing it.

A signal handler may run after any call, so its exception (Ctrl-C, a time-out of the application)
can be raised after ``lock.acquire()`` and before the ``try`` that releases the lock. ``with lock:``
has no such gap, but no time limit either. This module creates no locks.
"""

from __future__ import annotations

import sys
from typing import Protocol

#: the longest time in seconds that a main thread waits without a break for a lock, a queue or an
#: event: on Windows a signal, Ctrl-C for example, is handled only after the wait
LONGEST_WAIT = 0.25 if sys.platform == "win32" else 3_600.0


class Lock(Protocol):
    """A lock of ``threading``."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait up to *timeout* seconds; return whether it is held now."""


def take(lock: Lock, held: list[bool], seconds: float = 0) -> bool:
    """Wait up to *seconds* for *lock*; return whether it is held now, and note that in *held*.

    *held* is an empty list of the caller, whose code has this form. Nothing is called in its
    ``finally`` before the release, because a signal handler may raise after any call::

        try:
            if not take(lock, held, seconds):
                return
            ...
        finally:
            if held and held[0]:
                lock.release()

    Exceptions from signal handlers are passed on.
    """
    # one step for signals: extend() and map() run acquire() without any bytecode in between
    held.extend(map(lock.acquire, (True,), (seconds,)))
    return held[0]
