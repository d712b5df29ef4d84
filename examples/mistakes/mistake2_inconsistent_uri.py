"""Mistake 2: a second upgrade with a different URI.

    python examples/mistakes/mistake2_inconsistent_uri.py

'' and '/' request the same resource, but are different texts. Without reconnect=True a client
refuses any second upgrade, and names the URI of the first. With reconnect=True it does not compare
the URI, but the server may refuse it.
"""

from __future__ import annotations

import threading

from stage import HOST, Inbox, ask, connected, echo_server, say, show_log, title

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProcessClient,
    WebSocketProtocolChat,
    WebSocketServer,
)


def wrong_without_reconnect() -> None:
    """Upgrade twice, and show the error text."""
    with echo_server() as server, connected(server.port) as client:
        assert client.websockets is not None
        protocol = client.websockets.protocol
        say(f"SYMPTOM: {client.websockets_upgrade('/', '', False, frozenset(), protocol)}")


def room_server(port: int = 0) -> WebSocketServer:
    """A server whose protocol is limited to the URI 'room'."""
    server = WebSocketServer(f"{HOST}:{port}")
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "room"))
    return server


def reconnect(use_the_same: bool) -> None:
    """Lose the connection to 'room', then reconnect to another URI or to the same one."""
    results: list[str] = []
    tried = threading.Event()
    server = room_server()
    with HttpClientWebSockets.open(HOST, server.port) as client:
        client.websockets_upgrade("room", "", False, frozenset(), WebSocketProtocolChat("echo"))
        process = client.websockets
        assert process is not None

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            if process is None:
                return "Retry"
            # WRONG: '' is not the URI of the first upgrade
            uri = process.protocol.upgrade_uri if use_the_same else ""
            results.append(
                client.websockets_upgrade(uri, "", False, frozenset(), process.protocol, "", True)
            )
            tried.set()
            return results[-1]

        process.on_reconnect = on_reconnect
        server.free()
        with room_server(server.port):
            tried.wait(10)
            if use_the_same:
                say(
                    f"CURE: upgraded again on {process.protocol.upgrade_uri!r}, result"
                    f" {results[-1]!r}"
                )
            else:
                say(f"SYMPTOM: the server refuses the other URI: {results[-1]}")
            client.free()


if __name__ == "__main__":
    show_log()
    title("The mistake: a second upgrade, with another URI")
    wrong_without_reconnect()
    title("The mistake: another URI in on_reconnect")
    reconnect(use_the_same=False)
    title("The cure: process.protocol.upgrade_uri")
    reconnect(use_the_same=True)
    with echo_server() as server, connected(server.port, inbox := Inbox()) as client:
        say(
            "CURE: a client that is already upgraded can simply be used:"
            f" {ask(client, inbox, 'hello')}"
        )
