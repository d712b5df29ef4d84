"""AnyNameList: one protocol under any name that a client requests.

It is for the command line and the test servers; applications name their protocols.
"""

from __future__ import annotations

from .base import WebSocketProtocol
from .protocol_list import WebSocketProtocolList


class AnyNameList(WebSocketProtocolList):
    """Offers *protocol* under any name, and to clients that request none, on the URIs it matches.

    Protocols passed to :meth:`add` are preferred if they match. The methods run in the
    connections' threads.
    """

    def __init__(self, protocol: WebSocketProtocol) -> None:
        super().__init__()
        self.add(protocol)
        self._any = protocol

    def clone_by_name(self, name: str, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone with that *name*; None if the URI is not served."""
        clone = super().clone_by_name(name, client_uri)
        if clone is None:
            clone = self._clone_any(client_uri)
            if clone is not None:
                clone._agree_on(name)
        return clone

    def clone_by_uri(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone; None if the URI is not served."""
        return super().clone_by_uri(client_uri) or self._clone_any(client_uri)

    def _clone_any(self, client_uri: str) -> WebSocketProtocol | None:
        return self._any.clone(client_uri) if self._any.matches_uri(client_uri) else None
