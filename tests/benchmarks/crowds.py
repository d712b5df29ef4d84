# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""What is measured of servers with many connections beside their echo: opening them, holding them,
a broadcast to all, and how fairly they are served; and permessage-deflate.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from .clients import PAYLOAD
from .crowd_servers import CAST
from .handshake import PROTOCOL, HandshakeError
from .processes import Helper
from .raw_client import (
    BINARY,
    CLOSE,
    TEXT,
    EchoError,
    RawConnection,
    big_echo,
    client_frame,
    pipelined,
    server_frame,
)
from .suite import (
    ASYNCIO,
    BARE_TLS,
    BIG_SIZE,
    OURS,
    OURS_EVENTS,
    PICOWS,
    PIPELINE_DEPTH,
    SERVERS,
    WEBSOCKETS,
    Benchmark,
    CpuSession,
    Load,
    MemorySession,
    Server,
    Session,
    Setup,
    Target,
    tls_setup,
)

ONE_BY_ONE = 300
AT_ONCE = 1_000
RECEIVERS = 5_000
COMPUTING = 100
IDLE = 10_000
PING_EVERY = 20  # seconds between two pings of an idle connection

_LIBRARIES = {
    PICOWS: "picows",
    ASYNCIO: "websockets-asyncio",
    OURS: "mormot_ws",
    OURS_EVENTS: "mormot_ws-events",
}
_PATIENCE = 20  # seconds
_GOODBYE = client_frame(CLOSE, b"\x03\xe8")
_PING, _PONG = client_frame(9, b""), client_frame(10, b"")


def _request(extensions: str = "") -> bytes:
    """Return a request for the upgrade; the key may be the same each time."""
    lines = [
        "GET / HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {PROTOCOL}",
    ]
    if extensions:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    return "\r\n".join([*lines, "", ""]).encode()


_REQUEST = _request()
_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def _check_answer(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 101 ") or _ACCEPT not in answer:
        raise HandshakeError(f"upgrade refused: {answer[:80]!r}")


def _connect(port: int, request: bytes = _REQUEST) -> tuple[socket.socket, bytes]:
    """Return an upgraded connection, and the head of the answer."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = sock.recv(4096)
            if not chunk:
                raise HandshakeError("the server closed the connection")
            answer += chunk
        _check_answer(answer)
    except BaseException:
        sock.close()
        raise
    return sock, answer


def _end(connections: list[socket.socket]) -> None:
    """Say goodbye on all connections, and close them when the server has, or has had time to."""
    for sock in connections:
        sock.settimeout(_PATIENCE)
        with contextlib.suppress(OSError):
            sock.sendall(_GOODBYE)
    until = time.monotonic() + _PATIENCE
    for sock in connections:
        with contextlib.suppress(OSError):
            sock.settimeout(max(0.01, until - time.monotonic()))
            while sock.recv(65536):
                pass
        sock.close()


@contextlib.contextmanager
def _crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Hold so many connections open."""
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(_connect(port)[0])
        yield connections
    finally:
        _end(connections)


class HelperSession(Session):
    """A server that lives as long as the session."""

    def __init__(self, helper: Helper) -> None:
        """Take over the process."""
        self._helper = helper
        self._port: int = helper.greeting["port"]

    def close(self) -> None:
        """End the server."""
        self._helper.close()


Open = Callable[[int, list[socket.socket]], None]
"""Opens connections to a port, and puts them into the list."""


def one_by_one(port: int, connections: list[socket.socket]) -> None:
    """Open and upgrade some hundred connections, one after another."""
    for _ in range(ONE_BY_ONE):
        connections.append(_connect(port)[0])


def at_once(port: int, connections: list[socket.socket]) -> None:
    """Open and upgrade a thousand connections at the same time."""
    with select.epoll(AT_ONCE) as poller:
        by_handle = {}
        for _ in range(AT_ONCE):
            sock = socket.socket()
            connections.append(sock)
            sock.setblocking(False)
            by_handle[sock.fileno()] = sock
            sock.connect_ex(("127.0.0.1", port))
            poller.register(sock, select.EPOLLOUT)
        while by_handle:
            events = poller.poll(_PATIENCE)
            if not events:
                raise HandshakeError(f"{len(by_handle)} are not upgraded")
            for handle, flags in events:
                sock = by_handle[handle]
                if flags & select.EPOLLOUT:
                    sock.sendall(_REQUEST)
                    poller.modify(handle, select.EPOLLIN)
                else:
                    # it comes in one piece
                    _check_answer(sock.recv(4096))
                    poller.unregister(handle)
                    del by_handle[handle]


class OpeningSession(HelperSession):
    """How many connections are opened and upgraded in a second."""

    def __init__(self, helper: Helper, open_all: Open) -> None:
        """Remember how they are opened."""
        super().__init__(helper)
        self._open_all = open_all

    def measure(self, seconds: float) -> float:
        """Open them; the time is not used."""
        connections: list[socket.socket] = []
        try:
            begin = time.perf_counter()
            self._open_all(self._port, connections)
            return len(connections) / (time.perf_counter() - begin)
        finally:
            _end(connections)


class OpeningCpuSession(OpeningSession):
    """How long the server computes for each of them."""

    def measure(self, seconds: float) -> float:
        """Return the microseconds of CPU time."""
        connections: list[socket.socket] = []
        try:
            before = self._helper.cpu_seconds()
            self._open_all(self._port, connections)
            return (self._helper.cpu_seconds() - before) / len(connections) * 1e6
        finally:
            _end(connections)


class BroadcastSession(HelperSession):
    """How long a broadcast takes to the last of many receivers."""

    def __init__(self, helper: Helper) -> None:
        """Connect the receivers, which stay."""
        super().__init__(helper)
        self._stack = contextlib.ExitStack()
        try:
            self._receivers = self._stack.enter_context(_crowd(self._port, RECEIVERS))
            self._asks = self._receivers[0]
        except BaseException:
            self.close()
            raise

    def measure(self, seconds: float) -> float:
        """Return the median of some broadcasts, in milliseconds."""
        took = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(took) < 3:
            took.append(self._broadcast())
        return statistics.median(took) * 1000

    def _broadcast(self) -> float:
        """Return the seconds until all can be read; what has come is read afterwards, so that the
        reading, which is slow in Python, does not count.
        """
        with select.epoll(RECEIVERS) as poller:
            for sock in self._receivers:
                # each is reported once
                poller.register(sock, select.EPOLLIN | select.EPOLLET)
            missing = {sock.fileno() for sock in self._receivers}
            begin = time.perf_counter()
            self._asks.sendall(client_frame(TEXT, b"to all"))
            while missing:
                events = poller.poll(_PATIENCE, RECEIVERS)
                if not events:
                    raise EchoError(f"{len(missing)} have received nothing")
                missing.difference_update([handle for handle, _ in events])
            took = time.perf_counter() - begin
        expected = server_frame(TEXT, CAST)
        for sock in self._receivers:
            if sock.recv(4096) != expected:
                raise EchoError("what came is not the broadcast")
        return took

    def close(self) -> None:
        """End the connections and the server."""
        self._stack.close()
        super().close()


class BroadcastCpuSession(BroadcastSession):
    """How long the server computes for each receiver, in microseconds."""

    def measure(self, seconds: float) -> float:
        """Return the mean of some broadcasts."""
        count = 0
        before = self._helper.cpu_seconds()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or count < 5:
            self._broadcast()
            count += 1
        return (self._helper.cpu_seconds() - before) / count / RECEIVERS * 1e6


class FairnessSession(HelperSession):
    """Many connections whose callbacks compute for a millisecond: how often the one is answered
    that is answered least, beside the mean.
    """

    def measure(self, seconds: float) -> float:
        """Ask on all connections, again after each answer, for at least three seconds."""
        request = client_frame(TEXT, b"work")
        with _crowd(self._port, COMPUTING) as connections, select.epoll() as poller:
            answers = {sock.fileno(): 0 for sock in connections}
            by_handle = {sock.fileno(): sock for sock in connections}
            for sock in connections:
                poller.register(sock, select.EPOLLIN)
                sock.sendall(request)
            until = time.monotonic() + max(seconds, 3.0)
            while time.monotonic() < until:
                for handle, _ in poller.poll(_PATIENCE):
                    by_handle[handle].recv(4096)
                    answers[handle] += 1
                    by_handle[handle].sendall(request)
        return min(answers.values()) / statistics.mean(answers.values())


class IdleSession(HelperSession):
    """What share of a core many idle connections cost, each of which pings now and then."""

    def measure(self, seconds: float) -> float:
        """Return the percents, over at least a second heartbeat of the server."""
        with _crowd(self._port, IDLE) as connections, select.epoll() as poller:
            by_handle = {sock.fileno(): sock for sock in connections}
            for sock in connections:
                poller.register(sock, select.EPOLLIN)
            begin = time.monotonic()
            before = self._helper.cpu_seconds()
            pinged, until = 0, begin + max(seconds, 1.5 * PING_EVERY)
            while (now := time.monotonic()) < until:
                due = int((now - begin) * IDLE / PING_EVERY)
                for number in range(pinged, due):
                    connections[number % IDLE].sendall(_PING)
                pinged = due
                for handle, _ in poller.poll(0.02):
                    # the server may ping, too
                    if by_handle[handle].recv(4096)[:1] == b"\x89":
                        by_handle[handle].sendall(_PONG)
            return (self._helper.cpu_seconds() - before) / (now - begin) * 100


class DeflateSession(HelperSession):
    """An echo of compressible text, compressed both ways without a context that is kept."""

    _TEXT = b'{"name": "temperature", "value": 21.5, "unit": "C", "station": "roof"} ' * 14
    _OFFER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

    def measure(self, seconds: float) -> float:
        """Return the microseconds of the server's CPU time for each round trip."""
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(self._TEXT) + packer.flush(zlib.Z_SYNC_FLUSH)
        request = client_frame(0x40 | TEXT, packed[:-4])
        sock, head = _connect(self._port, _request(self._OFFER))
        try:
            if b"permessage-deflate" not in head:
                raise HandshakeError("the server does not compress")
            sock.sendall(request)
            answer = sock.recv(65536)
            # the same each time, because no context is kept
            start = 4 if answer[1] == 126 else 2
            text = zlib.decompressobj(-15).decompress(answer[start:] + b"\0\0\xff\xff")
            if text != self._TEXT:
                raise EchoError("the first answer is not an echo")
            count = 0
            before = self._helper.cpu_seconds()
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                for _ in range(20):
                    sock.sendall(request)
                    if len(sock.recv(65536)) != len(answer):
                        raise EchoError("an answer of another length")
                count += 20
            return (self._helper.cpu_seconds() - before) / count * 1e6
        finally:
            _end([sock])


def _job(job: str, labels: list[str], session: Callable[[Helper], Session]) -> Setup:
    """Return the setup of servers that have something else to do than echo."""

    def starter(label: str) -> Callable[[], Session]:
        return lambda: session(Helper("crowd_servers", job, _LIBRARIES[label]))

    return lambda stack: {label: starter(label) for label in labels}


def _echo(labels: list[str], session: Callable[[Helper], Session]) -> Setup:
    """Return the setup of servers that echo."""

    def starter(label: str) -> Callable[[], Session]:
        return lambda: session(SERVERS[label].start())

    return lambda stack: {label: starter(label) for label in labels}


def _opening(name: str, how: str, open_all: Open, targets: tuple[Target, ...]) -> list[Benchmark]:
    """Return the benchmarks of opening connections, by time and by the server's CPU time."""
    labels = [PICOWS, ASYNCIO, OURS, OURS_EVENTS]
    return [
        Benchmark(
            name=f"open-{name}",
            title=f"Connections opened and upgraded, {how}",
            unit="connections/s",
            lower_is_better=False,
            base=ASYNCIO,
            setup=_echo(labels, lambda helper: OpeningSession(helper, open_all)),
            targets=targets,
        ),
        Benchmark(
            name=f"opencpu-{name}",
            title=f"The server's CPU time for each of these connections, {how}",
            unit="µs",
            lower_is_better=True,
            base=ASYNCIO,
            setup=_echo(labels, lambda helper: OpeningCpuSession(helper, open_all)),
            targets=(Target(OURS_EVENTS, "<=", 1, ASYNCIO),),
        ),
    ]


def _beside_the_threaded() -> list[Benchmark]:
    """Return the benchmarks of what the event-driven server must not do worse than the threaded
    one, by the server's CPU time, which hardly depends on what else is going on.
    """
    pipeline = partial(_on_one, lambda c, seconds: pipelined(c, seconds, PIPELINE_DEPTH))
    big, noise = partial(_on_one, big_echo), random.Random(1).randbytes(BIG_SIZE)
    kinds: list[tuple[str, str, Load, int, bytes]] = [
        ("pipelined", f"64 bytes pipelined {PIPELINE_DEPTH} deep", pipeline, TEXT, PAYLOAD),
        ("big", "1 MB (binary)", big, BINARY, noise),
    ]
    found = []
    for name, what, load, opcode, payload in kinds:
        for tls in (False, True):
            session = partial(CpuSession, load=load, opcode=opcode, payload=payload)
            labels = [OURS, OURS_EVENTS]
            found.append(
                Benchmark(
                    name=f"cpu-{'tls-' if tls else ''}{name}",
                    title=f"{'TLS 1.3: ' if tls else ''}the server's CPU time, echo of {what}",
                    unit="µs",
                    lower_is_better=True,
                    base=OURS,
                    setup=tls_setup(labels, lambda s, c, make=session: make(s, context=c))
                    if tls
                    else plain_setup(labels, session),
                    targets=(Target(OURS_EVENTS, "<=", 1.05, OURS),),
                )
            )
    return found


def _on_one(
    load: Callable[[RawConnection, float], float], c: list[RawConnection], s: float
) -> float:
    return load(c[0], s)


def plain_setup(labels: list[str], session: Callable[[Server], Session]) -> Setup:
    """Return a setup of *labels*, which makes each *session* of its server."""

    def starter(label: str) -> Callable[[], Session]:
        return lambda: session(SERVERS[label])

    return lambda stack: {label: starter(label) for label in labels}


BENCHMARKS = [
    Benchmark(
        name="cpu-deflate",
        title="The server's CPU time for a round trip of 1 kB of compressible text, compressed",
        unit="µs",
        lower_is_better=True,
        base=OURS,
        setup=_job("deflate", [ASYNCIO, OURS, OURS_EVENTS], DeflateSession),
        targets=(Target(OURS_EVENTS, "<=", 1.05, OURS),),
    ),
    *_beside_the_threaded(),
    Benchmark(
        name="memory-tls",
        title="TLS 1.3: private memory per idle connection, of 500",
        unit="kB",
        lower_is_better=True,
        base=BARE_TLS,
        setup=tls_setup([BARE_TLS, PICOWS, ASYNCIO, WEBSOCKETS, OURS, OURS_EVENTS], MemorySession),
        targets=(Target(OURS_EVENTS, "<=", 40),),
        max_rounds=1,
    ),
    *_opening("one", "one after another", one_by_one, (Target(OURS_EVENTS, ">=", 1, ASYNCIO),)),
    *_opening(
        "many",
        f"{AT_ONCE} at once",
        at_once,
        (Target(OURS_EVENTS, ">=", 1, ASYNCIO), Target(OURS_EVENTS, ">=", 3, OURS)),
    ),
    Benchmark(
        name="broadcast",
        title=f"Broadcast of 64 bytes to {RECEIVERS} connections, until the last one has it",
        unit="ms",
        lower_is_better=True,
        base=PICOWS,
        setup=_job("broadcast", [PICOWS, OURS_EVENTS], BroadcastSession),
        targets=(Target(OURS_EVENTS, "<=", 0.5, PICOWS),),
        max_rounds=3,
    ),
    Benchmark(
        name="cpu-broadcast",
        title=f"The server's CPU time for each of the {RECEIVERS} receivers of a broadcast",
        unit="µs",
        lower_is_better=True,
        base=PICOWS,
        setup=_job("broadcast", [PICOWS, OURS_EVENTS], BroadcastCpuSession),
        targets=(Target(OURS_EVENTS, "<=", 1.2, PICOWS),),
        max_rounds=3,
    ),
    Benchmark(
        name="fairness",
        title=f"Callbacks that compute 1 ms, {COMPUTING} connections: the slowest beside the mean",
        unit="",
        lower_is_better=False,
        base=PICOWS,
        setup=_job("compute", [PICOWS, OURS, OURS_EVENTS], FairnessSession),
        targets=(Target(OURS_EVENTS, ">=", 0.5),),
        max_rounds=1,
    ),
    Benchmark(
        name="idle",
        title=f"{IDLE} idle connections, a ping of each every {PING_EVERY} s",
        unit="% of a core",
        lower_is_better=True,
        base=PICOWS,
        setup=_echo([PICOWS, OURS_EVENTS], IdleSession),
        targets=(Target(OURS_EVENTS, "<", 5),),
        max_rounds=1,
    ),
]
