"""Mistake 6: the client requests a protocol that the server does not offer.

    python examples/mistakes/mistake6_protocol_names.py

The names must match, except for upper and lower case; the server answers 400 to an unknown name.
The client only sees this status; the server's log has the names.
"""

from __future__ import annotations

from stage import HOST, echo_server, say, show_log, title

from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat


def upgrade(name: str, port: int) -> str:
    """Return the result of an upgrade to the protocol *name*."""
    with HttpClientWebSockets.open(HOST, port) as client:
        return client.websockets_upgrade(
            "", "", False, frozenset(), WebSocketProtocolChat(name, "")
        )


if __name__ == "__main__":
    show_log()
    with echo_server() as server:
        title("The mistake: requesting 'chat' when 'echo' is offered")
        say(f"SYMPTOM: {upgrade('chat', server.port)}")
        title("The cure: the same name on both sides")
        say(
            f"CURE: 'echo' returns {upgrade('echo', server.port)!r}, 'ECHO'"
            f" {upgrade('ECHO', server.port)!r}"
        )
