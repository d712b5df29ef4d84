"""The client process: ``python -m tests.chaos.clients PROXY_PORT SERVER_PORT COUNT CAP_MS SEED LOG
[CA]``.

It prints ``{"ready": COUNT}`` when all clients are upgraded, and answers commands. Its log::

    O i k t             client i has opened its k-th connection     A i n            True for
    message n of stream a (S: of s) E i k t code        it has ended, at the time t
    P i k inc cid n  message n of stream p has arrived (R: of r) X text              an exception
    that nobody has handled
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import ssl
import sys
import threading
import time
from typing import Any

from mormot_ws import (
    ExponentialBackoff,
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    client_tls_context,
    focConnectionClose,
    focContinuation,
    focText,
)
from tests.support.children import HOST, answer, commands, end_with_parent
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

#: milliseconds for an attempt to connect, and for the handshake. With TLS the first step can fall
#: into a hole too, not only the second: the two together have to end within the margin that the
#: invariants give to a client beside its longest wait, and leave time for the next attempt
_TIMEOUT = 900
#: how probable it is, each time that a client sends, that it then closes the connection by itself,
#: and reconnects
_GOODBYE = 0.02
#: and that it forks a child of the process, which frees the client or just ends
_FORK = 0.003


class ChaosClient:
    """One client, and the thread that sends its messages.

    The callback runs in the client's thread, the sending in ours; what one of them writes the other
    only reads.
    """

    def __init__(
        self,
        index: int,
        port: int,
        cap_ms: int,
        seed: int,
        log: Log,
        tls_context: ssl.SSLContext | None,
    ) -> None:
        self.index = index
        self.large = index % 3 == 0
        self._random = random.Random(seed)
        self._log = log
        #: how many numbers of the streams a and s were promised, and their bytes of payload
        self.promised = [0, 0]
        self.promised_bytes = 0
        #: close handshakes that the sending thread has begun, and the server has answered
        self.goodbyes = 0
        #: connections up to now; of the last one: the server's name for it, and the messages of p
        #: and r that have arrived
        self.connections = 0
        self.tag = ""
        self.arrived = [0, 0]
        #: when a message has arrived that was sent after :attr:`marked`; 0: not yet
        self.back = 0.0
        self.marked = 0.0
        self.longest_silence = 0.0
        self._last_arrival = 0.0
        #: set: nothing is sent but, each time that idle is cleared, one last message of each
        #: stream; set when that is done
        self.paused = threading.Event()
        self.idle = threading.Event()
        self._stopping = threading.Event()
        settings = WebSocketProcessSettings(
            heartbeat_delay=400,
            disconnect_after_invalid_heartbeat_count=2,
            close_timeout=500,
            send_timeout=2_000,
            reconnect_stable_after=1_000,
            reconnect_policy=lambda: ExponentialBackoff(base_ms=100, cap_ms=cap_ms),
        )
        self.client = HttpClientWebSockets.open(
            HOST,
            port,
            tls_context is not None,
            tls_context,
            _TIMEOUT,
            settings=settings,
            process_name=f"{index}",
        )
        self._sender = threading.Thread(
            target=self._send_for_ever, name=f"sender {index}", daemon=True
        )

    def start(self) -> None:
        """Upgrade, and begin to send."""
        protocol = WebSocketProtocolChat(PROTOCOL, "", self._incoming)
        error = self.client.websockets_upgrade("", "", False, frozenset(), protocol)
        if error:
            raise OSError(f"client {self.index}: {error}")
        self.client.auto_reconnect()
        self._sender.start()

    @property
    def _process(self) -> WebSocketProcessClient:
        process = self.client.websockets
        assert process is not None
        return process

    # ----------------------------------------------------------------------- in the client's thread

    def _incoming(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        now = time.monotonic()
        if frame.opcode is focText:
            stream, incarnation, connection, number, sent, _ = frame.text.split(" ", 5)
            self._log.write(
                f"{stream.upper()} {self.index} {self.connections} {incarnation} "
                f"{connection} {number}"
            )
            self.tag = connection
            self.arrived[stream == "r"] += 1
            if not self.back and float(sent) > self.marked:
                self.back = now
            self.longest_silence = max(self.longest_silence, now - (self._last_arrival or now))
            self._last_arrival = now
        elif frame.opcode is focContinuation:
            self.connections += 1
            self.arrived = [0, 0]
            self._log.write(f"O {self.index} {self.connections} {now:.4f}")
            if self.large:
                self._shrink_buffer(process)
        elif frame.opcode is focConnectionClose:
            self._log.write(f"E {self.index} {self.connections} {now:.4f} {process.close_code}")

    @staticmethod
    def _shrink_buffer(process: WebSocketProcess) -> None:
        transport = getattr(process, "transport", None)
        if transport is not None:
            with contextlib.suppress(OSError):  # the connection is lost already
                transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)

    # ------------------------------------------------------------------------ in the sending thread

    def _send_for_ever(self) -> None:
        choose = self._random
        while not self._stopping.wait(choose.uniform(0.02, 0.3)):
            if self.paused.is_set():
                if not self.idle.is_set() and self._send(0) and self._send(1):
                    self.idle.set()
                continue
            for _ in range(choose.choice((1, 1, 1, 2, 8))):
                self._send(0)
            if choose.random() < 0.5:
                self._send(1)
            if choose.random() < _GOODBYE:
                self.goodbyes += self._process.shutdown()
            if choose.random() < _FORK:
                child = choose.choice((self.client.free, self._process.shutdown, gc.collect))
                fork(child, lambda fault: self._log.write(f"X {fault}"))

    def _send(self, stream: int) -> bool:
        """Send the next message of the stream a (0) or s (1); tell whether it was promised."""
        process = self._process
        number = self.promised[stream]
        size = self._random.randrange(LARGE_PADDING if self.large else 200)
        frame = WebSocketFrame(focText, padded(f"{'as'[stream]} {self.index} {number}", size))
        if not (process.send_frame(frame) if stream else process.send_frame_async(frame)):
            return False
        self._log.write(f"{'AS'[stream]} {self.index} {number}")
        self.promised[stream] += 1
        self.promised_bytes += len(frame.payload)
        return True

    # --------------------------------------------------------------------------- in the main thread

    def mark(self, since: float) -> None:
        """Begin to look for the first message that the server has sent after *since*."""
        self.marked = since
        self.back = 0.0

    def report(self) -> dict[str, Any]:
        """Return the state of this client."""
        status = self.client.status()
        process = self._process
        return {
            "port": self.client.port,
            "connected": status.connected,
            "promised": self.promised,
            "promised_bytes": self.promised_bytes,
            "sent_bytes": process.protocol.frames_out_bytes,
            "queued": process.outgoing.count,
            "lost": process.outgoing.lost,
            "tag": self.tag,
            "arrived": self.arrived,
            "goodbyes": self.goodbyes,
            "reconnects": status.reconnects,
            "silence": self.longest_silence,
            "last_error": status.last_error,
        }

    def free(self) -> float:
        """End the client and the sending thread; return the seconds that the client's ``free()``
        took.
        """
        self._stopping.set()
        self._sender.join()
        begin = time.monotonic()
        self.client.free()
        return time.monotonic() - begin


def _await_back(clients: list[ChaosClient], since: float, until: float) -> dict[str, Any]:
    for client in clients:
        client.mark(since)
    poll_until(lambda: all(client.back for client in clients), until - time.monotonic())
    return {
        "back": {str(client.index): client.back - since for client in clients if client.back},
        "missing": {
            str(client.index): repr(client.client) for client in clients if not client.back
        },
    }


def _work(client: ChaosClient) -> None:
    """Use *client* in the main thread, where a signal handler may raise at any moment."""
    process = client.client.websockets
    if process is None:
        return
    choice = random.random()
    if choice < 0.4:
        process.send_frame(NOTHING)
    elif choice < 0.8:
        process.send_frame_async(NOTHING)
    elif choice < 0.999:
        client.client.status()
    else:
        process.shutdown()


def _pause(clients: list[ChaosClient]) -> None:
    for client in clients:
        client.idle.clear()
        client.paused.set()
    give_up = time.monotonic() + 10
    for client in clients:
        client.idle.wait(max(0.0, give_up - time.monotonic()))


def main(
    proxy_port: int,
    server_port: int,
    count: int,
    cap_ms: int,
    seed: int,
    path: str,
    ca_file: str = "",
) -> None:
    """Start the clients; then obey until the command ``free``, or the end of the standard input."""
    end_with_parent()
    log = Log(path, durable=False)
    watch_exceptions(lambda text: log.write(f"X {text}"), path)
    footprint()  # whatever this loads is there before the comparison begins
    before = footprint()
    tls_context = client_tls_context(ca_file) if ca_file else None
    clients = []
    for index in range(count):
        port = server_port if index % 5 == 4 else proxy_port
        clients.append(ChaosClient(index, port, cap_ms, seed * 1000 + index, log, tls_context))
        clients[-1].start()
    answer(ready=count)
    obeying = commands()
    if SIGNALS in os.environ:
        obeying = commands_with_signals(
            lambda: _work(random.choice(clients)), lambda fault: log.write(f"X {fault}")
        )
    for command in obeying:
        if command["do"] == "back":
            answer(**_await_back(clients, command["since"], command["until"]))
        elif command["do"] == "pause":
            _pause(clients)
            answer(paused=True)
        elif command["do"] == "resume":
            for client in clients:
                client.paused.clear()
            answer(resumed=True)
        elif command["do"] == "report":
            answer(clients={str(client.index): client.report() for client in clients})
        elif command["do"] == "footprint":
            answer(**footprint())
        elif command["do"] == "free":
            took = max(client.free() for client in clients)
            if not poll_until(lambda: threading.active_count() <= before["threads"], 1.0):
                log.write(f"X threads are left: {[t.name for t in threading.enumerate()]}")
            log.flush()
            clients.clear()
            answer(took=took, before=before, after=footprint())
            return


if __name__ == "__main__":
    main(*map(int, sys.argv[1:6]), *sys.argv[6:])  # type: ignore[arg-type]
