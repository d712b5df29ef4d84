"""Mistake 4: upgrading a client again after its connection was lost, instead of reconnecting it.

    python examples/mistakes/mistake4_already_upgraded.py

The error is 'Already upgraded to WebSockets …': the client still has the process of the lost
connection, so it treats the call as a second upgrade. Set on_reconnect instead: the client then
reconnects by itself.
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
    """Reopen TCP and upgrade again, by hand."""
    server = echo_server()
    with connected(server.port) as client:
        ended = lost(client)
        server.free()
        ended.wait(5)
        assert client.websockets is not None
        protocol = client.websockets.protocol
        say(
            "SYMPTOM: without reopening TCP:"
            f" {client.websockets_upgrade('', '', False, frozenset(), protocol)}"
        )
        with echo_server(server.port):
            client.reopen()
            say(
                "SYMPTOM: after reopening TCP:"
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
        # set only now, because it is called for the first connection too
        client.settings.on_client_connected = lambda _: back.set()
        with echo_server(server.port):
            back.wait(10)
            say(f"CURE: {ask(client, inbox, 'hello again')}")
            client.free()


if __name__ == "__main__":
    show_log()
    title("The mistake: another upgrade of the old client")
    wrong()
    title("The cure: on_reconnect, set by auto_reconnect()")
    cure()
