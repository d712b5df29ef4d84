"""Mistake 4: upgrading a client again after its connection was lost, instead of reconnecting it.

    python examples/mistakes/mistake4_already_upgraded.py

'Already upgraded to WebSockets …': the process of the lost connection is still there, so the client
takes the call for a second upgrade. Reconnecting is something that the client does by itself, once
it has an on_reconnect.
"""

from __future__ import annotations

import threading

from stage import Inbox, ask, connected, echo_server, say, show_log, title

from mormot_ws import HttpClientWebSockets


def lost(client: HttpClientWebSockets) -> threading.Event:
    """Return an event that is set when the client's connection has ended."""
    event = threading.Event()
    client.on_websockets_closed = lambda _: event.set()
    return event


def wrong() -> None:
    """Open TCP again and upgrade again, by hand."""
    server = echo_server()
    with connected(server.port) as client:
        ended = lost(client)
        server.free()
        ended.wait(5)
        assert client.websockets is not None
        protocol = client.websockets.protocol
        say(
            "SYMPTOM: without opening TCP:"
            f" {client.websockets_upgrade('', '', False, frozenset(), protocol)}"
        )
        with echo_server(server.port):
            client.reopen()
            say(
                "SYMPTOM: with TCP open again:"
                f" {client.websockets_upgrade('', '', False, frozenset(), protocol)}"
            )
            say(
                "SYMPTOM: … and with '/':"
                f" {client.websockets_upgrade('/', '', False, frozenset(), protocol)}"
            )


def cure() -> None:
    """Let the client reconnect."""
    inbox = Inbox()
    server = echo_server()
    with connected(server.port, inbox) as client:
        client.auto_reconnect()  # an on_reconnect that calls websockets_upgrade(…, reconnect=True)
        ended = lost(client)
        back = threading.Event()
        server.free()
        ended.wait(5)
        client.settings.on_client_connected = lambda _: (
            back.set()
        )  # from here on: it is called for the first connection too
        with echo_server(server.port):
            back.wait(10)
            say(f"CURE: {ask(client, inbox, 'hello again')}")
            client.free()


if __name__ == "__main__":
    show_log()
    title("The mistake: a new upgrade on the old client")
    wrong()
    title("The cure: on_reconnect, here the ready-made one")
    cure()
