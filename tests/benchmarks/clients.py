# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""The clients under measure: ``python -m tests.benchmarks.clients NAME PORT``.

Each connects to the server of that port and prints one line of JSON, ``{"ready": true}`` or
``{"missing": "why"}``. Then, for each line of its standard input, which is a number of seconds, it
plays ping-pong with 64 bytes of text for that long and prints ``{"value":
microseconds_per_round_trip}``. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

from .handshake import PROTOCOL
from .raw_client import TEXT, Message, RawConnection, round_trip
from .servers import HOST, announce

PAYLOAD = bytes(range(32, 96))
"""64 bytes, and text as well."""

_held = contextlib.ExitStack()
"""Keeps open what its library wants to be used as a context manager, until the process ends."""

Measure = Callable[[float], float]
"""Plays ping-pong for that many seconds and returns the microseconds per round trip."""


def _blocking(exchange: Callable[[], object]) -> Measure:
    """Return the measure of a client whose round trip is a blocking call."""

    def measure(seconds: float) -> float:
        count = 0
        begin = now = time.perf_counter()
        end = begin + seconds
        while now < end:
            exchange()
            count += 1
            now = time.perf_counter()
        return (now - begin) / count * 1e6

    return measure


def raw(port: int) -> Measure:
    """Connect with a bare socket: what is left of a round trip when the client costs nothing."""
    connection = RawConnection(port, Message(TEXT, PAYLOAD, websocket=True), websocket=True)
    return lambda seconds: round_trip(connection, seconds)


def websockets(port: int) -> Measure:
    """Connect with the ``sync`` client of websockets."""
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    connection = _held.enter_context(
        connect(
            f"ws://{HOST}:{port}/",
            subprotocols=[Subprotocol(PROTOCOL)],
            compression=None,
            proxy=None,
        )
    )
    text = PAYLOAD.decode()

    def exchange() -> None:
        connection.send(text)
        connection.recv()

    return _blocking(exchange)


def websocket_client(port: int) -> Measure:
    """Connect with websocket-client."""
    from websocket import create_connection

    connection = create_connection(f"ws://{HOST}:{port}/", subprotocols=[PROTOCOL])
    text = PAYLOAD.decode()

    def exchange() -> None:
        connection.send(text)
        connection.recv()

    return _blocking(exchange)


def mormot_ws(port: int) -> Measure:
    """Connect with mormot_ws; each pong sends the next ping right from ``on_incoming_frame``."""
    from mormot_ws import (
        HttpClientWebSockets,
        WebSocketFrame,
        WebSocketFrameOpCode,
        WebSocketProcess,
        WebSocketProtocolChat,
    )

    text = WebSocketFrameOpCode.focText
    count = 0
    end = now = 0.0
    done = threading.Event()

    def next_ping(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        nonlocal count, now
        if frame.opcode != text:
            return
        count += 1
        now = time.perf_counter()
        if now < end:
            process.send_frame(ping)
        else:
            done.set()

    ping = WebSocketFrame(text, PAYLOAD)
    client = HttpClientWebSockets.open(HOST, port)
    protocol = WebSocketProtocolChat(PROTOCOL, "", next_ping)
    if client is None:
        raise ConnectionError("not connected")
    if error := client.websockets_upgrade("", "", False, frozenset(), protocol):
        raise ConnectionError(error)
    process = client.websockets
    if process is None:
        raise ConnectionError("not upgraded")

    def measure(seconds: float) -> float:
        nonlocal count, end
        count = 0
        done.clear()
        begin = time.perf_counter()
        end = begin + seconds
        if not process.send_frame(ping) or not done.wait(seconds + 10):
            raise ConnectionError("no answer")
        return (now - begin) / count * 1e6

    return measure


CLIENTS: dict[str, Callable[[int], Measure]] = {
    "raw": raw,
    "websockets": websockets,
    "websocket-client": websocket_client,
    "mormot_ws": mormot_ws,
}


def main() -> None:
    """Run the client that the command line names."""
    if len(sys.argv) != 3 or sys.argv[1] not in CLIENTS:
        sys.exit(f"usage: python -m tests.benchmarks.clients {{{'|'.join(CLIENTS)}}} PORT")
    try:
        measure = CLIENTS[sys.argv[1]](int(sys.argv[2]))
    except ImportError as error:
        announce(missing=str(error))
    else:
        announce(ready=True)
        while line := sys.stdin.readline():
            announce(value=measure(float(line)))
    sys.stdout.flush()
    os._exit(0)  # the threads of the libraries are not to delay the end


if __name__ == "__main__":
    main()
