"""Many clients of one library in one process: ``python -m tests.storm.fleet LIBRARY PORT COUNT``.

It prints ``{"ready": COUNT}`` when all are upgraded, and answers every command with the times of
what it has noted since the time given: all attempts to connect, and each client's upgrades. It ends
with its standard input, or by a signal: the clients are not closed.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from tests.support.children import HOST, answer, commands, end_with_parent

from .server import PROTOCOL

#: seconds that one client may take for its first upgrade
_FIRST_BOUND = 20.0

#: when an attempt to connect began
attempts: list[float] = []

OnUpgraded = Callable[[], Any]
#: starts one client on a port, with what it has to call each time it is upgraded
Start = Callable[[int, OnUpgraded], None]

_held: list[Any] = []  # keeps what would otherwise be collected


def count_attempts() -> None:
    """Note every attempt of this process to connect a socket, whatever library makes it."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def counted_connect(self: socket.socket, address: Any) -> None:
        attempts.append(monotonic())
        connect(self, address)

    def counted_connect_ex(self: socket.socket, address: Any) -> int:
        attempts.append(monotonic())
        return connect_ex(self, address)

    socket.socket.connect = counted_connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = counted_connect_ex  # type: ignore[method-assign, assignment]


def _mormot_ws(port: int, on_upgraded: OnUpgraded, **settings: Any) -> None:
    from mormot_ws import (
        HttpClientWebSockets,
        WebSocketProcessSettings,
        WebSocketProtocolChat,
        focContinuation,
    )

    def incoming(process: Any, frame: Any) -> None:
        if frame.opcode is focContinuation:
            on_upgraded()

    client = HttpClientWebSockets.open(HOST, port, settings=WebSocketProcessSettings(**settings))
    _held.append(client)
    error = client.websockets_upgrade(
        "", "", False, frozenset(), WebSocketProtocolChat(PROTOCOL, "", incoming)
    )
    if error:
        raise OSError(error)
    client.auto_reconnect()


def mormot_ws(port: int, on_upgraded: OnUpgraded) -> None:
    """Ours, with its default policy: exponential with full jitter from 100 ms, capped at 10 to 15
    s.
    """
    _mormot_ws(port, on_upgraded)


def mormot_ws_linear(port: int, on_upgraded: OnUpgraded) -> None:
    """Ours at the pace of the native client."""
    from mormot_ws import LinearBackoff

    _mormot_ws(port, on_upgraded, reconnect_policy=LinearBackoff)


def websocket_client(port: int, on_upgraded: OnUpgraded, seconds: int = 5) -> None:
    """``WebSocketApp.run_forever(reconnect=5)``, the pace of its documentation's example, in a
    thread.
    """
    import websocket

    app = websocket.WebSocketApp(
        f"ws://{HOST}:{port}/",
        subprotocols=[PROTOCOL],
        on_open=lambda _: on_upgraded(),
        on_reconnect=lambda _: on_upgraded(),
    )
    threading.Thread(target=app.run_forever, kwargs={"reconnect": seconds}, daemon=True).start()


def websocket_client_1(port: int, on_upgraded: OnUpgraded) -> None:
    """The same with a second between two attempts."""
    websocket_client(port, on_upgraded, 1)


def websockets(port: int, on_upgraded: OnUpgraded) -> None:
    """The ``sync`` client's ``reconnect()`` with its default delays, in a thread."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import reconnect
    from websockets.typing import Subprotocol

    def run() -> None:
        for connection in reconnect(f"ws://{HOST}:{port}/", subprotocols=[Subprotocol(PROTOCOL)]):
            on_upgraded()
            with contextlib.suppress(ConnectionClosed):
                for _ in connection:
                    pass

    threading.Thread(target=run, daemon=True).start()


LIBRARIES: dict[str, Start] = {
    "mormot_ws": mormot_ws,
    "mormot_ws-linear": mormot_ws_linear,
    "websocket-client-5": websocket_client,
    "websocket-client-1": websocket_client_1,
    "websockets": websockets,
}


def main(library: str, port: int, count: int) -> None:
    """Start the clients one after another; then answer."""
    end_with_parent()
    logging.getLogger("websocket").setLevel(logging.CRITICAL + 1)
    errors: list[str] = []
    threading.excepthook = lambda args: errors.append(f"{args.exc_type.__name__}: {args.exc_value}")
    start = LIBRARIES[library]
    count_attempts()
    upgrades: list[list[float]] = []
    for _ in range(count):
        times: list[float] = []
        first = threading.Event()

        def on_upgraded(times: list[float] = times, first: threading.Event = first) -> None:
            times.append(monotonic())
            first.set()

        upgrades.append(times)
        start(port, on_upgraded)
        if not first.wait(_FIRST_BOUND):
            raise TimeoutError(f"client {len(upgrades)} was not upgraded within {_FIRST_BOUND:g} s")
    answer(ready=count)
    for command in commands():
        since = command["since"]
        answer(
            attempts=[at for at in attempts if at >= since],
            upgrades=[[at for at in times if at >= since] for times in upgrades],
            threads=threading.active_count(),
            errors=errors,
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
