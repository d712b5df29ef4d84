"""Mistake 3: on_reconnect does not call websockets_upgrade.

    python examples/mistakes/mistake3_no_upgrade.py

The client has reopened the TCP connection, and the callback must upgrade it. If it only prints a
line and returns '', nothing can be sent or received on the connection.
"""

from __future__ import annotations

import threading

from stage import Inbox, ask, connected, echo_server, say, show_log, title

from mormot_ws import WebSocketProcessClient


def lose_and_come_back(upgrade: bool) -> None:
    """Restart the server, and check whether the client gets an echo."""
    attempts = 0
    seen = threading.Event()
    inbox = Inbox()
    server = echo_server()
    with connected(server.port, inbox) as client:
        process = client.websockets
        assert process is not None
        say(f"before: {ask(client, inbox, 'hello')}")

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            nonlocal attempts
            if process is None:
                return "Retry"
            attempts += 1
            result = ""
            if upgrade:
                uri = process.protocol.upgrade_uri
                result = client.websockets_upgrade(
                    uri, "", False, frozenset(), process.protocol, "", True
                )
            if upgrade or attempts == 2:
                seen.set()
            return result  # WRONG without an upgrade: '' means success

        process.on_reconnect = on_reconnect
        server.free()
        with echo_server(server.port):
            seen.wait(10)
            word = "CURE" if upgrade else "SYMPTOM"
            say(
                f"{word}: TCP opened again {attempts}×, state {process.state.name};"
                f" {ask(client, inbox, 'hello again')}"
            )
            client.free()


if __name__ == "__main__":
    show_log()
    title("The mistake: returning '' without an upgrade")
    lose_and_come_back(upgrade=False)
    title("The cure: return the result of websockets_upgrade(…, reconnect=True)")
    lose_and_come_back(upgrade=True)
