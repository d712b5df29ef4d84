"""Mistake 6: the client asks for a protocol of another name than the server offers.

    python examples/mistakes/mistake6_protocol_names.py

The names have to match (upper and lower case are the same); the server answers 400 to a name that
it does not know. The client sees no more than that, the server's log has the names.
"""

from __future__ import annotations

from stage import HOST, echo_server, say, show_log, title

from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat


def upgrade(name: str, port: int) -> str:
    """Return what an upgrade to the protocol *name* returns."""
    with HttpClientWebSockets.open(HOST, port) as client:
        return client.websockets_upgrade(
            "", "", False, frozenset(), WebSocketProtocolChat(name, "")
        )


if __name__ == "__main__":
    show_log()
    with echo_server() as server:
        title("The mistake: 'chat' asked for, 'echo' offered")
        say(f"SYMPTOM: {upgrade('chat', server.port)}")
        title("The cure: the same name on both sides")
        say(
            f"CURE: 'echo' returns {upgrade('echo', server.port)!r}, 'ECHO'"
            f" {upgrade('ECHO', server.port)!r}"
        )
