"""One incarnation of the server: ``python -m tests.chaos.server PORT INCARNATION LOG [CERTIFICATE
KEY]``.

It prints ``{"standby": true}`` when it is ready to listen, and listens at the command ``listen``.
Its log has a line for each event, written before the next one, so that it is complete to the last
event before a SIGKILL::

    O cid               a connection has opened          A cid client n   message n of stream a has
    arrived (S: of s) E cid code          it has ended                     P cid n          True for
    message n of stream p (R: of r) X text              an exception that nobody has handled
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import sys
import threading
import time
from typing import Any

from mormot_ws import (
    HttpServerError,
    WebSocketAsyncServer,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
    focConnectionClose,
    focContinuation,
    focText,
    server_tls_context,
)
from tests.support.children import HOST, answer, commands, end_with_parent
from tests.support.kinds import server_class
from tests.support.waiting import poll_until

from .messages import (
    LARGE_PADDING,
    NOTHING,
    PROTOCOL,
    SIGNALS,
    SMALL_BUFFER,
    Log,
    commands_with_signals,
    footprint,
    fork,
    padded,
    watch_exceptions,
)

#: seconds between two rounds of pushes
_PUSH_EVERY = 0.1
#: rounds between two forks of a child, which frees the server or just ends
_FORK_EVERY = 20
#: seconds to wait for a port that the previous incarnation is just giving up
_PORT_BOUND = 5.0


class _Connection:
    """What is counted on one connection."""

    def __init__(self, process: WebSocketProcess) -> None:
        self.process = process
        self.large = process.connection_id % 3 == 0
        self.pushed = 0  # the next number of stream p; written by the pushing thread only
        self.replied = 0  # the next number of stream r; written by the connection's thread only


class ChaosServer:
    """Pushes numbered messages to everybody, and notes what arrives."""

    def __init__(self, port: int, incarnation: int, log: Log, certificate: list[str]) -> None:
        self._tls = server_tls_context(*certificate) if certificate else None
        self._incarnation = incarnation
        self._log = log
        #: by client: the numbers of the streams a and s that have arrived last
        self.arrived: dict[int, list[int]] = {}
        #: guards _connections
        self._safe = threading.Lock()
        self._connections: dict[WebSocketProcess, _Connection] = {}
        #: set: the pushing thread pushes nothing
        self.paused = threading.Event()
        self._stopping = threading.Event()  # ends the pushing thread
        self.server = listening(port, tls_context=self._tls)
        self.server.websocket_protocols.add(WebSocketProtocolChat(PROTOCOL, "", self._incoming))
        self._pusher = threading.Thread(target=self._push_for_ever, name="pusher", daemon=True)
        self._pusher.start()

    # ------------------------------------------------------------------ in the connections' threads

    def _incoming(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            self._received(process, frame.text)
        elif frame.opcode is focContinuation:
            self._log.write(f"O {process.connection_id}")
            connection = _Connection(process)
            if connection.large:
                _shrink_buffer(process)
            with self._safe:
                self._connections[process] = connection
        elif frame.opcode is focConnectionClose:
            with self._safe:
                self._connections.pop(process, None)
            self._log.write(f"E {process.connection_id} {process.close_code}")

    def _received(self, process: WebSocketProcess, text: str) -> None:
        stream, client, number, _ = text.split(" ", 3)
        self._log.write(f"{stream.upper()} {process.connection_id} {client} {number}")
        self.arrived.setdefault(int(client), [-1, -1])[stream == "s"] = int(number)
        if stream == "s":
            connection = self._connections[process]
            if process.send_frame(self._message("r", connection, connection.replied)):
                self._log.write(f"R {process.connection_id} {connection.replied}")
                connection.replied += 1

    def _message(self, stream: str, connection: _Connection, number: int) -> WebSocketFrame:
        head = (
            f"{stream} {self._incarnation} {connection.process.connection_id} {number} "
            f"{time.monotonic():.4f}"
        )
        return WebSocketFrame(
            focText, padded(head, random.randrange(LARGE_PADDING if connection.large else 200))
        )

    # ------------------------------------------------------------------------ in the pushing thread

    def _push_for_ever(self) -> None:
        rounds = 0
        while not self._stopping.wait(_PUSH_EVERY):
            rounds += 1
            if rounds % _FORK_EVERY == 0:
                child = random.choice((self.server.free, gc.collect))
                fork(child, lambda fault: self._log.write(f"X {fault}"))
            if self.paused.is_set():
                continue
            with self._safe:
                connections = list(self._connections.values())
            for connection in connections:
                if connection.process.send_frame_async(
                    self._message("p", connection, connection.pushed)
                ):
                    self._log.write(f"P {connection.process.connection_id} {connection.pushed}")
                    connection.pushed += 1

    # --------------------------------------------------------------------------- in the main thread

    def numbers(self) -> dict[str, list[int]]:
        """Return by connection how many messages of the streams p and r were promised."""
        with self._safe:
            return {
                str(connection.process.connection_id): [connection.pushed, connection.replied]
                for connection in self._connections.values()
            }

    def free(self) -> float:
        """Stop gracefully; return the seconds that the server's ``free()`` took."""
        self._stopping.set()
        self._pusher.join()
        begin = time.monotonic()
        self.server.free()
        return time.monotonic() - begin


def listening(port: int, **options: Any) -> WebSocketAsyncServer | WebSocketServer:
    """Return a server on *port*, of the class that is under test, with short time-outs."""
    settings = WebSocketProcessSettings(
        heartbeat_delay=400,
        disconnect_after_invalid_heartbeat_count=2,
        close_timeout=500,
        send_timeout=2_000,
    )
    give_up = time.monotonic() + _PORT_BOUND
    while True:
        try:
            return server_class()(
                f"{HOST}:{port}", process_name="chaos", settings=settings, **options
            )
        except HttpServerError:
            if time.monotonic() > give_up:
                raise
            # the port may still be the killed server's: nothing tells when it is free
            time.sleep(0.01)


def _shrink_buffer(process: WebSocketProcess) -> None:
    """Let the kernel take little of what is sent at a time."""
    transport = getattr(process, "transport", None)
    if transport is not None:
        with contextlib.suppress(OSError):  # the connection is lost already
            transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)


def _work(chaos: ChaosServer | None) -> None:
    """Use the server in the main thread, where a signal handler may raise at any moment."""
    if chaos is None:
        # a stand-by, which does not listen yet
        time.sleep(0.001)
        return
    choice = random.random()
    if choice < 0.2:
        chaos.server.websocket_broadcast(NOTHING)
    elif choice < 0.6:
        chaos.server.status()
    else:
        for process in chaos.server.connections()[:1]:
            process.send_frame(NOTHING)


def main(port: int, incarnation: int, path: str, *certificate: str) -> None:
    """Run until the command ``stop``, or the end of the standard input."""
    end_with_parent()
    log = Log(path, durable=True)
    watch_exceptions(lambda text: log.write(f"X {text}"), path)
    footprint()  # whatever this loads is there before the comparison begins
    before = footprint()
    answer(standby=True)
    chaos: ChaosServer | None = None
    obeying = commands()
    if SIGNALS in os.environ:
        obeying = commands_with_signals(lambda: _work(chaos), lambda fault: log.write(f"X {fault}"))
    for command in obeying:
        if command["do"] == "listen":
            chaos = ChaosServer(port, incarnation, log, list(certificate))
            answer(listening=time.monotonic())
            continue
        assert chaos is not None, command
        if command["do"] == "pause":
            chaos.paused.set()
            answer(paused=True)
        elif command["do"] == "report":
            status = chaos.server.status()
            arrived = {str(client): numbers for client, numbers in list(chaos.arrived.items())}
            answer(
                arrived=arrived,
                promised=chaos.numbers(),
                connections=status.connections,
                sockets=status.sockets,
            )
        elif command["do"] == "stop":
            took = chaos.free()
            chaos.server.websocket_protocols.remove(PROTOCOL)
            poll_until(lambda: threading.active_count() <= before["threads"], 1.0)
            answer(took=took, before=before, after=footprint())
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
