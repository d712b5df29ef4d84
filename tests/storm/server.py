"""The server under the storm: ``python -m tests.storm.server PORT``.

It prints ``{"standby": true}`` once it has imported what it needs, listens at the command
``listen`` (so that the time of its return is exact, whatever the start of a Python process costs)
and answers ``report`` with what it has noted.
"""

from __future__ import annotations

import sys
from time import monotonic

from mormot_ws import WebSocketProtocolChat, WebSocketServer
from tests.support.children import HOST, answer, commands, end_with_parent

PROTOCOL = "storm"


def main(port: int) -> None:
    """Run until the standard input ends."""
    end_with_parent()
    accepted: list[float] = []
    upgraded: list[float] = []
    answer(standby=True)
    server: WebSocketServer | None = None
    for command in commands():
        if command["do"] == "listen":
            server = WebSocketServer(f"{HOST}:{port}", lambda _: accepted.append(monotonic()))
            listening = monotonic()
            server.websocket_protocols.add(WebSocketProtocolChat(PROTOCOL))
            server.on_websocket_connect = lambda _: upgraded.append(monotonic())
            answer(listening=listening)
        elif server is not None:
            # on_start was called for the accept thread too, first of all
            answer(
                accepted=accepted[1:], upgraded=upgraded, connections=server.websocket_connections
            )


if __name__ == "__main__":
    main(int(sys.argv[1]))
