"""Presence: for which of a server's connections a session is a member of a topic.

A session may have two connections for a moment: one that ends, and the one that takes over. What
the hub is told last is true, whichever thread was the quicker one.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from .hub import Hub


class _Holder(NamedTuple):
    """A connection, and what is told of it."""

    visitor: object
    info: Any


class Presence:
    """The members of one server's topics, in this OS process. Any thread may use it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: guards _holders; nothing is called or taken while it is held
        self._safe = threading.Lock()
        self._holders: dict[tuple[str, str], _Holder] = {}

    def hold(self, visitor: object, topic: str, name: str, info: Any) -> None:
        """Let *name* be present on *topic*, for *visitor*; :meth:`tell` follows."""
        with self._safe:
            self._holders[topic, name] = _Holder(visitor, info)

    def give_up(self, visitor: object, topic: str, name: str) -> bool:
        """End what :meth:`hold` began; return False when it is another's by now. Otherwise
        :meth:`tell` follows.
        """
        with self._safe:
            holder = self._holders.get((topic, name))
            if holder is None or holder.visitor is not visitor:
                return False
            del self._holders[topic, name]
            return True

    def tell(self, topic: str, name: str) -> None:
        """Tell the hub whether *name* is present, until that is still so afterwards.

        Raises what the hub raises; it does by itself later what it could not do now.
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
