"""Mistake 2: another URI for the second upgrade than for the first.

    python examples/mistakes/mistake2_inconsistent_uri.py

'' and '/' ask the server for the same, but they are not the same text. Without reconnect=True a
client refuses any second upgrade, and says with which URI it was upgraded; with reconnect=True the
URI is not compared, and it is the server that may refuse.
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
    """The text that brings people here."""
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
    """Lose the connection to 'room'; come back to another URI, or to the same."""
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
            # WRONG: '' is not where we were
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
            "CURE: and a client that was upgraded once is simply used:"
            f" {ask(client, inbox, 'hello')}"
        )
