"""AnyNameList: one protocol under whatever name a client asks for, as servers have it that things
are tried out with.

For the command line and the test servers; an application names its protocols. No socket and no
thread belongs in here.
"""

from __future__ import annotations

from .base import WebSocketProtocol
from .offered import WebSocketProtocolList


class AnyNameList(WebSocketProtocolList):
    """Offers *protocol* to clients that ask for any sub-protocol, and to those that ask for none,
    on the URIs that it matches.

    What is given to :meth:`add` besides is preferred where it fits. The methods run in the
    connections' threads.
    """

    def __init__(self, protocol: WebSocketProtocol) -> None:
        super().__init__()
        self.add(protocol)
        self._any = protocol

    def clone_by_name(self, name: str, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone that answers to *name*; None when the URI is not served."""
        clone = super().clone_by_name(name, client_uri)
        if clone is None:
            clone = self._clone_any(client_uri)
            if clone is not None:
                clone.name = name
        return clone

    def clone_by_uri(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a clone; None when the URI is not served."""
        return super().clone_by_uri(client_uri) or self._clone_any(client_uri)

    def _clone_any(self, client_uri: str) -> WebSocketProtocol | None:
        return self._any.clone(client_uri) if self._any.matches_uri(client_uri) else None
