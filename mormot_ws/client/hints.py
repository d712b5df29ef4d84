"""What to try after the first attempt to connect has failed, for the log."""

from __future__ import annotations

from ..logs import shown_name
from ..protocols.base import WebSocketProtocol
from ..reconnect_policies import FailureKind, ReconnectFailure

#: in the refusals of mORMot's servers, and ours
_MORMOT_REFUSAL = "WebSocket Upgrade Error"


def hint(failure: ReconnectFailure, protocol: WebSocketProtocol, has_tls: bool) -> str:
    """Return a question that leads to the cause of *failure*; '' without a likely cause.

    *protocol* is what the client asked for.
    """
    if failure.http_status == 400 and _MORMOT_REFUSAL in failure.text:
        names = protocol.get_subprotocols()
        if names:
            return f"does the server offer the sub-protocol {shown_name(names)!r} on this path?"
        return "does the server require a sub-protocol?"
    if failure.kind is FailureKind.upgrade and not failure.http_status and not has_tls:
        return "does the server expect wss://?"
    return ""
