"""Groups: named sets of a server's connections. No frame, no socket and no callback in here."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import WebSocketProcessServer


class Groups:
    """Which connections are in which groups. All methods may be called from any thread.

    A group is there while it has members. *connected* are the connections of the server by their
    numbers: others cannot join.
    """

    def __init__(self, connected: Mapping[int, WebSocketProcessServer]) -> None:
        self._connected = connected
        #: guards changes of the two tables below; never held while anything else is called.
        #: Reentrant for a signal handler. Readers copy, and need no lock
        self._safe = threading.RLock()
        self._members: dict[str, dict[WebSocketProcessServer, None]] = {}
        self._groups_of: dict[WebSocketProcessServer, dict[str, None]] = {}

    def join(self, process: WebSocketProcessServer, group: str) -> bool:
        """Put *process* into *group*; return False when it has ended. Raises
        ``TypeError``/``ValueError`` for what is no name of a group.
        """
        check_group(group)
        with self._safe:
            # the server forgets a connection before it calls drop(): it is still known now, and
            # drop() will find it, or it cannot join any more
            if self._connected.get(process.connection_id) is not process:
                return False
            self._members.setdefault(group, {})[process] = None
            self._groups_of.setdefault(process, {})[group] = None
            return True

    def leave(self, process: WebSocketProcessServer, group: str) -> bool:
        """Take *process* out of *group*; return False when it was not in it."""
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
        """Take *process*, which the server has forgotten, out of all groups."""
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
        """Return the names of all groups, in the order of their beginning."""
        return list(self._members)

    def groups_of(self, process: WebSocketProcessServer) -> frozenset[str]:
        """Return the names of the groups that *process* is in."""
        return frozenset(list(self._groups_of.get(process, ())))


def check_group(group: object) -> None:
    """Raise ``TypeError``/``ValueError`` when *group* is no name of a group."""
    if not isinstance(group, str):
        raise TypeError(f"a group's name must be a str, not {type(group).__name__}")
    if not group:
        raise ValueError("a group's name cannot be empty; leave the group out for everybody")
