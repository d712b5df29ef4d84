"""AnyOf: a client's protocol that requests one of several names, or none."""

from __future__ import annotations

from collections.abc import Iterable

from .base import WebSocketProtocol


class AnyOf(WebSocketProtocol):
    """Requests the sub-protocols *names*, in order of preference.

    :attr:`name` is the one that the server has chosen; '' before the first upgrade, if the server
    chose none, and if there are no names. Subclasses handle the messages. Raises ``TypeError`` or
    ``ValueError`` for an invalid name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__("")
        #: the names to request
        self.names: tuple[str, ...] = tuple(names)
        for name in self.names:
            if not name:
                raise ValueError("the name of a sub-protocol must not be empty")
            WebSocketProtocol(name)  # raises for an invalid name

    def get_subprotocols(self) -> str:
        """Return all the names."""
        # the last choice belongs to the last connection
        self._agree_on("")
        return ", ".join(self.names)

    def set_subprotocol(self, name: str) -> bool:
        """Accept one of the names."""
        if name.lower() not in map(str.lower, self.names):
            return False
        self._agree_on(name)
        return True
