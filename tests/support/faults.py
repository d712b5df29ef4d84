"""What the fault tests share: peers in processes of their own that tell when they noticed what,
crowds of clients, full listeners.

Times are those of ``time.monotonic()``, whose clock all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from mormot_ws import WebSocketFrame, WebSocketProcess, focConnectionClose
from mormot_ws.testing.relay import queue_is_full

from . import BOUND, HOST, MS, Recorder, ms
from .programs import Script

#: the heartbeats of the fault tests: milliseconds, and how many may stay unanswered
HEARTBEAT_MS = ms(100)
HEARTBEAT_COUNT = 2
HEARTBEATS: dict[str, Any] = {
    "heartbeat_delay": HEARTBEAT_MS,
    "disconnect_after_invalid_heartbeat_count": HEARTBEAT_COUNT,
}
#: seconds within which a silent peer is noticed with these: (n+1)·h + 1 s
NOTICED_WITHIN = (HEARTBEAT_COUNT + 1) * HEARTBEAT_MS / 1000 + 1000 * MS
#: seconds within which something is noticed that the kernel is told of
AT_ONCE = 1000 * MS
#: seconds that ``free()`` of a client may take
FREE_WITHIN = 3000 * MS


class Loss(NamedTuple):
    """The end of a connection as its callback saw it."""

    at: float  # time.monotonic()
    code: int
    reason: str
    error: str


class Losses(Recorder):
    """A recorder that remembers for each ``focConnectionClose`` a :class:`Loss`, under the name
    ``lost``.
    """

    def frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """An ``on_incoming_frame``."""
        super().frame(process, frame)
        if frame.opcode is focConnectionClose:
            self.add(
                "lost",
                Loss(
                    time.monotonic(), process.close_code, process.close_reason, process.last_error
                ),
            )

    def loss(self, n: int = 1, bound: float = BOUND) -> Loss:
        """Wait for the *n*-th end of a connection."""
        found = self.wait("lost", n, bound).value
        assert isinstance(found, Loss)
        return found


# ------------------------------------------------------------------------------- peers in processes

_COMMON = """
import json, sys, threading, time
from mormot_ws import *

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

def chat(process, frame):
    if frame.opcode is focContinuation:
        say("open", process.connection_id)
    elif frame.opcode is focConnectionClose:
        say("lost", process.connection_id, time.monotonic(), process.close_code,
            json.dumps(process.close_reason), json.dumps(process.last_error))
    elif frame.opcode is focBinary:
        say("binary", process.connection_id, len(frame.payload))
    else:
        word, _, rest = frame.text.partition(" ")
        if word == "close":
            code, _, reason = rest.partition(" ")
            process.shutdown(int(code) or None, reason)
        elif word == "busy":
            process.send_frame(WebSocketFrame(focText, "busy"))
            # a callback that works for long
            time.sleep(float(rest))
            process.send_frame(WebSocketFrame(focText, "done"))
        elif word == "flood":
            for _ in range(int(rest)):
                process.send_frame(WebSocketFrame(focBinary, bytes(65536)))
        else:
            process.send_frame(frame)

settings = WebSocketProcessSettings(**json.loads(sys.argv[2]))
"""

_SERVER = (
    _COMMON
    + """
server = WebSocketServer("127.0.0.1:" + sys.argv[1], settings=settings)
server.websocket_protocols.add(WebSocketProtocolChat("echo", "", chat))
say("port", server.port)
sys.stdin.readline()
server.free()
"""
)

_CLIENT = (
    _COMMON
    + """
client = HttpClientWebSockets.open("127.0.0.1", int(sys.argv[1]), settings=settings)
protocol = WebSocketProtocolChat("echo", "", chat)
error = client.websockets_upgrade("", "", False, frozenset(), protocol)
say("upgraded", json.dumps(error))
for line in sys.stdin:
    say("sent", client.websockets.send_frame(WebSocketFrame(focText, line.strip())))
client.free()
"""
)


class PeerProcess(Script):
    """One of our sides in a process of its own, which says when its connections begin and end."""

    def __init__(self, source: str, port: int, settings: dict[str, Any]) -> None:

        super().__init__(source, str(port), json.dumps(settings))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        os.kill(self.pid, number)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the process (SIGSTOP) as long as the block lasts."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)

    def loss(self, connection_id: int, bound: float = BOUND) -> Loss:
        """Wait until it says that this connection has ended."""

        at, code, *texts = self.wait_line(f"lost {connection_id} ", bound).split(" ", 2)
        decoder = json.JSONDecoder()
        reason, end = decoder.raw_decode(texts[0])
        return Loss(float(at), int(code), reason, json.loads(texts[0][end:]))


class ServerPeer(PeerProcess):
    """Our server in a process of its own. It obeys text messages: ``close CODE REASON``, ``busy
    SECONDS``, ``flood MESSAGES``.
    """

    def __init__(self, port: int = 0, **settings: Any) -> None:
        super().__init__(_SERVER, port, settings)
        try:
            self.port = int(self.wait_line("port "))
        except BaseException:
            self.__exit__(None, None, None)
            raise


class ClientPeer(PeerProcess):
    """Our client in a process of its own; :meth:`enter` sends a text message."""

    def __init__(self, port: int, **settings: Any) -> None:
        super().__init__(_CLIENT, port, settings)
        try:
            assert self.wait_line("upgraded ") == '""', self.text
            self.connection_id = int(self.wait_line("open "))
        except BaseException:
            self.__exit__(None, None, None)
            raise


# ------------------------------------------------------------------------------------------- others


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """Give a port on which a connection attempt gets no answer at all: its queue of new
    connections is full.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        while not queue_is_full(listener):
            probe = stack.enter_context(socket.socket())
            probe.settimeout(50 * MS if queue_is_full(listener) is None else BOUND)
            try:
                probe.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()[1]


def shrink_buffers(sock: socket.socket, size: int = 8192) -> None:
    """Give *sock* small kernel buffers, so that a peer that does not read is felt soon."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def took(started: float) -> float:
    """Return the seconds since *started*."""
    return time.monotonic() - started


__all__ = [
    "AT_ONCE",
    "FREE_WITHIN",
    "HEARTBEATS",
    "HEARTBEAT_COUNT",
    "HEARTBEAT_MS",
    "NOTICED_WITHIN",
    "ClientPeer",
    "Loss",
    "Losses",
    "ServerPeer",
    "full_listener",
    "shrink_buffers",
    "took",
]
