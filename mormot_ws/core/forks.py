"""What a forked child does with the objects that it inherits: one hook for all of them.

A child made by ``os.fork()`` has copies of the parent's objects and of its descriptors, but none of
its threads. Whatever belongs to a connection of the parent dies in the child, and locks which one
of those threads may have held are replaced. The hook runs before ``fork()`` returns in the child.

No socket, thread or lock is made here: what dying means is for those who have registered.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ..logs import get_logger

_log = get_logger("mormot_ws")


class Mortal(Protocol):
    """Something that belongs to the OS process in which it was made."""

    def die_in_child(self) -> None:
        """Become dead, in a forked child: close descriptors, and say nothing to anybody.

        Only ``close()``, never ``shutdown()`` or a goodbye: the parent's connection goes on. Takes
        no lock, since its holder may not exist here. Safe to call twice.
        """


#: functions of modules, called first
_functions: list[Callable[[], None]] = []
# A plain dict, changed by single operations of it: another thread can be in the middle of anything
# at the moment of a fork, but not in the middle of one of these. For the same reason no lock.
_owned: dict[tuple[int, str], tuple[weakref.ref[Any], Callable[[Any], None]]] = {}


def call_in_child(function: Callable[[], None]) -> None:
    """Call *function* first thing in each forked child; for a module's own globals."""
    _functions.append(function)


def dies_in_child(thing: Mortal) -> None:
    """Call ``thing.die_in_child()`` in each forked child, without keeping *thing* alive. Safe to
    call twice.
    """
    _remember(thing, "", _die)


def renew_in_child(owner: object, name: str, factory: Callable[[], object]) -> None:
    """Replace the lock ``owner.name`` by ``factory()`` in each forked child, without keeping
    *owner* alive.

    A new one, instead of the old one opened: the thread that forks may hold it, and lets go of the
    old one later.
    """
    _remember(owner, name, lambda living: setattr(living, name, factory()))


def _remember(owner: object, name: str, action: Callable[[Any], None]) -> None:
    # not by the owner: comparing it could run an application's code
    key = id(owner), name

    def forget(_: object) -> None:
        _owned.pop(key, None)

    _owned[key] = weakref.ref(owner, forget), action


def _die(thing: Mortal) -> None:
    thing.die_in_child()


def _after_fork_in_child() -> None:
    for function in _functions:
        function()
    for reference, action in list(_owned.values()):
        owner = reference()
        if owner is not None:
            try:
                action(owner)
            # the others have to die all the same
            except Exception:  # noqa: BLE001
                _log.exception("%r was not left to the parent after a fork", owner)


# not there on Windows
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
