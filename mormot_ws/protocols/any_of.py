"""AnyOf: a client's protocol that asks for one of several names, or for none, and takes what the
server chooses. No socket and no thread belongs in here.
"""

from __future__ import annotations

from collections.abc import Iterable

from .base import WebSocketProtocol


class AnyOf(WebSocketProtocol):
    """Asks for the sub-protocols *names*, the preferred one first. :attr:`name` is the chosen one;
    '' before the first upgrade, when the server chose none, and when there are no names.

    Subclasses handle the messages. Raises ``TypeError``/``ValueError`` for what is no name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__("")
        #: what is asked for
        self.names: tuple[str, ...] = tuple(names)
        for name in self.names:
            if not name:
                raise ValueError("the name of a sub-protocol cannot be empty")
            WebSocketProtocol(name)  # raises for what is no name

    def get_subprotocols(self) -> str:
        """Return all the names."""
        # what was chosen belongs to the last connection
        self.name = ""
        return ", ".join(self.names)

    def set_subprotocol(self, name: str) -> bool:
        """Accept one of them."""
        if name.lower() not in map(str.lower, self.names):
            return False
        self.name = name
        return True
