"""One hook for all objects that a forked child inherits.

A child created by ``os.fork()`` has copies of the parent's objects and descriptors, but none of its
threads. Everything that belongs to the parent's connections dies in the child, and every lock that
a thread of the parent may have held is replaced. The hook runs before ``fork()`` returns in the
child.

This module creates no sockets, threads or locks: each registered object knows how it dies.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ..logs import get_logger

_log = get_logger("mormot_ws")


class Mortal(Protocol):
    """An object that belongs to the OS process in which it was created."""

    def die_in_child(self) -> None:
        """Become dead in a forked child: close descriptors, and send nothing.

        Use only ``close()``, never ``shutdown()`` or a close frame: the parent's connection stays
        open. Take no lock, because its holder may not exist in the child. Safe to call twice.
        """


#: functions of modules, which are called first
_functions: list[Callable[[], None]] = []


class _Owned(weakref.ref[Any]):
    """A reference to an object, and its action. Kept small: each connection has several."""

    __slots__ = ("action",)

    action: Callable[[Any], None]


# A plain dict, which is changed only by atomic operations. Another thread may be anywhere at the
# moment of a fork, but never inside one of these. A lock could be held by such a thread.
_owned: dict[object, _Owned] = {}
_pop = _owned.pop


def call_in_child(function: Callable[[], None]) -> None:
    """Call *function* in each forked child, before all else; for a module's own globals."""
    _functions.append(function)


def dies_in_child(thing: Mortal) -> None:
    """Call ``thing.die_in_child()`` in each forked child.

    Does not keep *thing* alive. Safe to call twice.
    """
    _remember(thing, id(thing), _die)


def renew_in_child(owner: object, name: str, factory: Callable[[], object]) -> None:
    """Replace the lock ``owner.name`` by ``factory()`` in each forked child.

    Does not keep *owner* alive. The lock is replaced, not released: the forking thread may hold the
    old one, and releases it later.
    """
    _remember(owner, (id(owner), name), lambda living: setattr(living, name, factory()))


def _remember(owner: object, key: object, action: Callable[[Any], None]) -> None:
    # The key is not the owner itself: comparing owners could run an application's code. It is free
    # for another object only after the callback, which has no line of Python: Python would lose
    # an exception from a signal handler there, perhaps a Ctrl-C
    owned = _Owned(owner, partial(_pop, key))
    owned.action = action
    _owned[key] = owned


def _die(thing: Mortal) -> None:
    thing.die_in_child()


def _after_fork_in_child() -> None:
    for function in _functions:
        function()
    for owned in list(_owned.values()):
        owner = owned()
        if owner is not None:
            try:
                owned.action(owner)
            # the other objects still have to die
            except Exception:  # noqa: BLE001
                _log.exception("%r: the clean-up in a forked child failed", owner)


# missing on Windows
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
