"""Freeing at the end of a ``with`` block, or when the interpreter exits.

When the interpreter exits, all registered objects are closed together, gracefully and within a time
limit. Each object knows how to close itself: this module knows no sockets, frames or callbacks.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

from ..core.forks import call_in_child
from ..logs import get_logger
from ..sockets.deadline import Deadline

_log = get_logger("mormot_ws")

#: the limit for closing all objects together, in milliseconds
_AT_EXIT_MS = 2_000


_T = TypeVar("_T", bound="EndedByWith")


class EndedByWith(ABC):
    """Base class of context managers that end with their block, even if it raises."""

    __slots__ = ()

    @abstractmethod
    def _end_block(self) -> None:
        """End. Called at the end of the block."""

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_block()


class FreedByWith(EndedByWith):
    """Base class of context managers that call :meth:`free` at the end of their block."""

    __slots__ = ()

    @abstractmethod
    def free(self) -> None:
        """Release what this object holds."""

    def _end_block(self) -> None:
        self.free()


class ClosedByWith(EndedByWith):
    """Base class of context managers that call :meth:`close` at the end of their block."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Close this object."""

    def _end_block(self) -> None:
        self.close()


def joined(thread: threading.Thread, deadline: Deadline) -> bool:
    """Wait until *thread* has ended, or until the *deadline*; return whether it has ended.

    Unlike ``join()``, it can be called again after an exception has interrupted it: up to Python
    3.12, an interrupted ``join()`` treats a running thread as ended.
    """
    # from the base class: a thread of ours may know better, but cannot be waited for any more
    if threading.Thread.is_alive(thread):
        thread.join(deadline.seconds())
        if threading.Thread.is_alive(thread):
            return False
    # an earlier join() was interrupted: there is nothing left to wait for
    while thread in threading.enumerate():
        left = deadline.seconds()
        if left is not None and left <= 0:
            return False
        time.sleep(0.01)
    return True


class Freeable(Protocol):
    """An object whose connections may still be open at exit."""

    def begin_exit(self) -> None:
        """Start closing, without waiting."""

    def end_exit(self, deadline: Deadline) -> None:
        """Wait until the *deadline* for the connections to close, then cut those left."""


# The objects by id(). The flag is True in a forked child for an object of the parent that starts
# afresh there, and which the child does not have to free. A plain dict, which is changed and listed
# only by atomic operations: any thread, finalizer or signal handler may do so at the same time
_alive: dict[int, tuple[weakref.ref[Freeable], bool]] = {}
# True in a forked child until it registers something of its own
_inherited = False


def close_at_exit(owner: Freeable) -> None:
    """Register *owner* to be closed at exit, without keeping it alive."""
    global _inherited
    if _inherited:
        # in a child, multiprocessing clears the list that it has inherited
        _inherited = False
        atexit.unregister(close_all_now)
        atexit.register(close_all_now)
    _remember(owner, False)


def stay_at_exit(owner: Freeable) -> None:
    """Register *owner*, which starts afresh in a forked child; called by the hook after a fork."""
    _remember(owner, True)


def _remember(owner: Freeable, as_new: bool) -> None:
    # the callback has no line of Python: an exception from a signal handler would be lost there
    _alive[id(owner)] = weakref.ref(owner, partial(_alive.pop, id(owner))), as_new


def forget_at_exit(owner: Freeable) -> None:
    """Unregister *owner*, which was freed."""
    _alive.pop(id(owner), None)


def close_all_now() -> None:
    """Close all objects that were not freed, oldest first.

    Called when the interpreter exits; a second call finds little left to do.
    """
    owners: list[Freeable] = []
    for reference, as_new in list(_alive.values()):
        owner = reference()
        if owner is not None:
            owners.append(owner)
            if not as_new:
                _log.debug("%r was not freed; closing it at exit", owner)
    deadline = Deadline(_AT_EXIT_MS)
    for owner in owners:
        _try(owner.begin_exit)
    for owner in owners:
        _try(partial(owner.end_exit, deadline))


def _try(step: Callable[[], None]) -> None:
    try:
        step()
    # the other objects still have to be closed
    except Exception:  # noqa: BLE001
        _log.exception("closing at exit failed")


def _leave_to_parent() -> None:
    """Leave the registered objects to the parent, in a forked child."""
    global _inherited
    _alive.clear()
    _inherited = True


atexit.register(close_all_now)
call_in_child(_leave_to_parent)
