"""When things are freed: at the end of a ``with`` block, or at the interpreter's end, gracefully,
all together, and with a bound.

What closing means is for those who have registered: nothing of sockets, frames or callbacks belongs
in here.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

from ..core.forks import call_in_child
from ..logs import get_logger
from ..sockets.deadline import Deadline

_log = get_logger("mormot_ws")

#: milliseconds that all of it may take
_AT_EXIT_MS = 2_000


_T = TypeVar("_T", bound="FreedByWith")


class FreedByWith:
    """Base of what is a context manager that calls :meth:`free` at the end, whether the block has
    raised or not.
    """

    __slots__ = ()

    def free(self) -> None:
        """Release what this object holds; subclasses implement it."""
        raise NotImplementedError

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.free()


class Freeable(Protocol):
    """Something with connections that may be left over at exit."""

    def begin_exit(self) -> None:
        """Start closing, without waiting."""

    def end_exit(self, deadline: Deadline) -> None:
        """Wait for the end of it until the *deadline*, then cut what is left."""


# By id(), with whether it is as new (in a forked child: made by the parent, and not for the child
# to free). A plain dict, changed and listed by single operations: any thread may do so meanwhile,
# and a finalizer or signal handler within any thread
_alive: dict[int, tuple[weakref.ref[Freeable], bool]] = {}
# True in a forked child until something of its own is to be closed at its exit
_inherited = False


def close_at_exit(owner: Freeable) -> None:
    """Remember *owner*, without keeping it alive."""
    global _inherited
    if _inherited:
        # multiprocessing empties the list of what a child has inherited
        _inherited = False
        atexit.unregister(close_all_now)
        atexit.register(close_all_now)
    _remember(owner, False)


def stay_at_exit(owner: Freeable) -> None:
    """Remember *owner* in a forked child too, where it is as new; for the hook after the fork."""
    _remember(owner, True)


def _remember(owner: Freeable, as_new: bool) -> None:
    key = id(owner)

    def forget(_: object) -> None:
        _alive.pop(key, None)

    _alive[key] = weakref.ref(owner, forget), as_new


def forget_at_exit(owner: Freeable) -> None:
    """*owner* was freed."""
    _alive.pop(id(owner), None)


def close_all_now() -> None:
    """Close what was not freed, in the order in which it was made. At the interpreter's end, where
    a second call finds little left to do.
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
    # the others have to be closed all the same
    except Exception:  # noqa: BLE001
        _log.exception("closing at exit failed")


def _leave_to_parent() -> None:
    """What there is to close is the parent's."""
    global _inherited
    _alive.clear()
    _inherited = True


atexit.register(close_all_now)
call_in_child(_leave_to_parent)
