"""An echo client that reconnects by itself. Start it before or after its server, then type."""

import sys

import mormot_ws


def show(ws: mormot_ws.Connection, message: str | bytes) -> None:
    """Called for each message, in the connection's thread."""
    print(message, flush=True)


uri = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8999/"
with mormot_ws.connect(uri, protocol="echo", on_message=show) as ws:
    for line in sys.stdin:
        if not ws.send(line.rstrip("\n")):
            print("not sent: no connection", flush=True)
