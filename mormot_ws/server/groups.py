"""Groups: named sets of a server's connections. No frame, socket or callback belongs in here."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import WebSocketProcessServer


class Groups:
    """Which connections belong to which groups. All methods are thread-safe.

    A group exists while it has members. *connected* are the server's connections by number; others
    cannot join.
    """

    def __init__(self, connected: Mapping[int, WebSocketProcessServer]) -> None:
        self._connected = connected
        #: guards changes of the two tables below; never held while anything else is called.
        #: Reentrant for signal handlers. Readers copy, and need no lock
        self._safe = threading.RLock()
        self._members: dict[str, dict[WebSocketProcessServer, None]] = {}
        self._groups_of: dict[WebSocketProcessServer, dict[str, None]] = {}

    def join(self, process: WebSocketProcessServer, group: str) -> bool:
        """Add *process* to *group*; return False if it has ended. Raises
        ``TypeError``/``ValueError`` for an invalid name of a group.
        """
        check_group(group)
        with self._safe:
            # the server forgets a connection before it calls drop(). So either it is still known
            # now, and drop() will find it here, or it cannot join any more
            if self._connected.get(process.connection_id) is not process:
                return False
            self._members.setdefault(group, {})[process] = None
            self._groups_of.setdefault(process, {})[group] = None
            return True

    def leave(self, process: WebSocketProcessServer, group: str) -> bool:
        """Remove *process* from *group*; return False if it was not a member."""
        check_group(group)
        with self._safe:
            groups = self._groups_of.get(process, {})
            if group not in groups:
                return False
            del groups[group]
            if not groups:
                del self._groups_of[process]
            self._remove_member(process, group)
            return True

    def drop(self, process: WebSocketProcessServer) -> None:
        """Remove *process*, which the server has forgotten, from all groups."""
        with self._safe:
            for group in self._groups_of.pop(process, {}):
                self._remove_member(process, group)

    def _remove_member(self, process: WebSocketProcessServer, group: str) -> None:
        members = self._members[group]
        del members[process]
        if not members:
            del self._members[group]

    def members(self, group: str) -> list[WebSocketProcessServer]:
        """Return the connections in *group*, in the order in which they joined."""
        check_group(group)
        return list(self._members.get(group, ()))

    def names(self) -> list[str]:
        """Return the names of all groups, in order of creation."""
        return list(self._members)

    def groups_of(self, process: WebSocketProcessServer) -> frozenset[str]:
        """Return the names of the groups that *process* belongs to."""
        return frozenset(list(self._groups_of.get(process, ())))


def check_group(group: object) -> None:
    """Raise ``TypeError``/``ValueError`` if *group* is not a valid name of a group."""
    if not isinstance(group, str):
        raise TypeError(f"a group's name must be a str, not {type(group).__name__}")
    if not group:
        raise ValueError("a group's name must not be empty; omit the group to reach everybody")
