"""The echo client: what becomes of it, and of its messages, when its server goes and comes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mormot_ws.testing import FaultProxy
from tests.support.children import HOST

from .running import (
    fate,
    last_words,
    new_port,
    seconds_until_answer,
    start_client,
    start_echo_server,
)

#: seconds that the server is away: long enough for several attempts. What is watched is what a
#: client does by itself in that time, so there is no condition to wait for
AWAY = 3.0
#: seconds for which a connection may be dead without being noticed
PATIENCE = 180.0
_LOOK = 0.1


@dataclass
class Echoing:
    """What was seen of one echo client; seconds, None: never."""

    #: from the beginning of its server until the first echo
    first: float | None
    #: what became of the line that was typed before
    early: str
    #: from the restart of its server until the next echo
    back: float | None = None
    #: what became of the line that was typed between
    away: str = ""


def watch(library: str) -> Echoing:
    """Start the client, then its server; kill that, and restart it."""
    port = new_port()
    with start_client(library, "echo", port) as client:
        client.enter("early")
        time.sleep(AWAY)
        with start_echo_server(library, port) as server:
            try:
                first = seconds_until_answer(client, "^probe$", "probe")
            except AssertionError:
                return Echoing(None, f"the client ended: {last_words(client)}")
            found = Echoing(first, fate(client, "early"))
            server.kill()
        # it has learned of the loss
        time.sleep(AWAY / 6)
        client.enter("away")
        time.sleep(AWAY)
        with start_echo_server(library, port):
            try:
                found.back = seconds_until_answer(client, "^again$", "again")
            except AssertionError:
                found.away = f"no echo any more: {last_words(client)}"
            else:
                found.away = fate(client, "away")
        client.end_input()
    return found


def seconds_until_noticed(library: str) -> float | None:
    """Let a connection go dead without a word, as when a network disappears; return the seconds
    until the client makes another one, None when it does not.
    """
    port = new_port()
    with (
        start_echo_server(library, port),
        FaultProxy(HOST, port) as proxy,
        start_client(library, "echo", proxy.port) as client,
    ):
        seconds_until_answer(client, "^probe$", "probe")
        # what may still follow the first echo: Socket.IO changes to a WebSocket
        time.sleep(AWAY)
        proxy.blackhole()
        accepted = proxy.accepted
        begin = time.monotonic()
        while time.monotonic() - begin < PATIENCE:
            if proxy.accepted > accepted:
                return time.monotonic() - begin
            # the proxy tells nobody of an attempt
            time.sleep(_LOOK)
    return None
