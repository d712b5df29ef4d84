"""Presence: which of a server's connections makes a session a member of a topic.

A session may briefly have two connections: one that ends and one that takes over. The last report
to the hub is correct, whichever thread is quicker.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from .hub import Hub


class _Holder(NamedTuple):
    """A connection, and the info that others see of it."""

    visitor: object
    info: Any


class Presence:
    """The members of one server's topics, in this OS process. Any thread may use it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: guards _holders; while it is held, nothing is called and no other lock is taken
        self._safe = threading.Lock()
        self._holders: dict[tuple[str, str], _Holder] = {}

    def hold(self, visitor: object, topic: str, name: str, info: Any) -> None:
        """Let *name* be present on *topic*, for *visitor*; :meth:`tell` must follow."""
        with self._safe:
            self._holders[topic, name] = _Holder(visitor, info)

    def give_up(self, visitor: object, topic: str, name: str) -> bool:
        """Undo :meth:`hold`; return False if another visitor holds it now.

        Otherwise :meth:`tell` must follow.
        """
        with self._safe:
            holder = self._holders.get((topic, name))
            if holder is None or holder.visitor is not visitor:
                return False
            del self._holders[topic, name]
            return True

    def tell(self, topic: str, name: str) -> None:
        """Report to the hub whether *name* is present; repeat if that changes meanwhile.

        Raises what the hub raises; the hub itself catches up later.
        """
        while True:
            fault: Exception | None = None
            with self._safe:
                holder = self._holders.get((topic, name))
            try:
                if holder is None:
                    self._hub.leave(topic, name)
                else:
                    self._hub.join(topic, name, holder.info)
            except Exception as exc:  # noqa: BLE001 - raised below
                fault = exc
            with self._safe:
                same = self._holders.get((topic, name)) is holder
            if same and fault is not None:
                raise fault
            if same:
                return
