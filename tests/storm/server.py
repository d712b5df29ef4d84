"""The server under the storm: ``python -m tests.storm.server PORT``.

It prints ``{"standby": true}`` once it has imported what it needs, listens at the command
``listen`` (so that the time of its return is exact, whatever the start of a Python process costs)
and answers ``report`` with what it has noted.
"""

from __future__ import annotations

import sys
from time import monotonic

from mormot_ws import WebSocketProtocolChat
from mormot_ws.server.accepting import ListeningServer
from mormot_ws.server.listener import Visitor
from tests.support.children import HOST, answer, commands, end_with_parent
from tests.support.kinds import server_class

PROTOCOL = "storm"


def main(port: int) -> None:
    """Run until the standard input ends."""
    end_with_parent()
    accepted: list[float] = []
    upgraded: list[float] = []
    answer(standby=True)
    server: ListeningServer | None = None

    class Counting(server_class()):  # type: ignore[misc]  # a class that is only known at run time
        """Notes when a connection is accepted."""

        def _begin(self, visitor: Visitor) -> None:
            accepted.append(monotonic())
            super()._begin(visitor)

    for command in commands():
        if command["do"] == "listen":
            server = Counting(f"{HOST}:{port}")
            listening = monotonic()
            server.websocket_protocols.add(WebSocketProtocolChat(PROTOCOL))
            server.on_websocket_connect = lambda _: upgraded.append(monotonic())
            answer(listening=listening)
        elif server is not None:
            answer(accepted=accepted, upgraded=upgraded, connections=server.websocket_connections)


if __name__ == "__main__":
    main(int(sys.argv[1]))
