# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""What is measured, with whom, and what is expected of ``mormot_ws``."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import ssl
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .clients import PAYLOAD
from .processes import Helper, MissingLibrary
from .raw_client import (
    BINARY,
    TEXT,
    Message,
    RawConnection,
    big_echo,
    ping_pong,
    pipelined,
    raw_connections,
    round_trip,
)

BARE = "bare TCP echo thread"
PICOWS = "picows"
WEBSOCKETS = "websockets sync"
SIMPLE = "simple-websocket"
OURS = "mormot_ws"
OURS_ASYNC = "mormot_ws async"
OURS_NO_MASK = "mormot_ws no mask extra"
OURS_EVENTS = "mormot_ws event-driven"
ASYNCIO = "websockets asyncio"
BARE_TLS = "bare TLS echo thread"
RAW = "raw socket"
CLIENT = "websocket-client"

PIPELINE_DEPTH = 100
PING_PONG_CONNECTIONS = 200
IDLE_CONNECTIONS = 500
_FIRST_CONNECTIONS = 20  # open before memory is counted, so that what is made once is not counted
# left to a server between the last message and the look at its memory: it does not tell when it is
# done
_SETTLE_SECONDS = 0.5
_WARM_UP = 0.05  # seconds of the same load before each measure
BIG_SIZE = 1_000_000

NO_MASK_EXTRA = {"MORMOT_WS_NO_SPEEDUPS": "1"}


def mask_extra_available() -> bool:
    """Tell if the compiled masking of websockets is installed, without which there is no mask
    extra.
    """
    try:
        return importlib.util.find_spec("websockets.speedups") is not None
    except ImportError:
        return False


class Session(ABC):
    """One contestant, ready to be measured again and again."""

    @abstractmethod
    def measure(self, seconds: float) -> float:
        """Measure once, for about that long, and return the figure in the unit of the benchmark."""

    @abstractmethod
    def close(self) -> None:
        """End whatever was started."""


@dataclass(frozen=True)
class Server:
    """How to start a server, and how to talk to it."""

    name: str
    websocket: bool = True
    no_mask_extra: bool = False
    certificate: str = ""
    """A PEM file with a certificate and its key, for TLS."""

    def start(self) -> Helper:
        """Start the server in a process of its own."""
        arguments = [self.name, self.certificate] if self.certificate else [self.name]
        return Helper(
            "servers", *arguments, environment=NO_MASK_EXTRA if self.no_mask_extra else None
        )


SERVERS = {
    BARE: Server("bare", websocket=False),
    PICOWS: Server("picows"),
    WEBSOCKETS: Server("websockets"),
    SIMPLE: Server("simple-websocket"),
    OURS: Server("mormot_ws"),
    OURS_ASYNC: Server("mormot_ws-async"),
    OURS_NO_MASK: Server("mormot_ws", no_mask_extra=True),
    OURS_EVENTS: Server("mormot_ws-events"),
    ASYNCIO: Server("websockets-asyncio"),
}

_CLIENTS = {RAW: "raw", WEBSOCKETS: "websockets", CLIENT: "websocket-client", OURS: "mormot_ws"}

Load = Callable[[list[RawConnection], float], float]
"""Drives some connections for that many seconds and returns a figure."""


class ServerSession(Session):
    """A server under load; it lives as long as the session, the connections as long as one
    measure.
    """

    def __init__(
        self,
        server: Server,
        load: Load,
        opcode: int,
        payload: bytes,
        connections: int = 1,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Start the server; with a context it is talked to behind TLS."""
        self._context = context
        self._websocket = server.websocket
        self._load = load
        self._message = Message(opcode, payload, websocket=server.websocket)
        self._connections = connections
        self._helper = server.start()

    def measure(self, seconds: float) -> float:
        """Connect, warm up, and measure."""
        port = self._helper.greeting["port"]
        with raw_connections(
            port,
            self._message,
            websocket=self._websocket,
            count=self._connections,
            context=self._context,
        ) as connections:
            self._load(connections, _WARM_UP)
            return self._load(connections, seconds)

    def close(self) -> None:
        """End the server."""
        self._helper.close()


class CpuSession(ServerSession):
    """The computing time of a server under load, which hardly depends on what else is going on."""

    def measure(self, seconds: float) -> float:
        """Return the microseconds of the server's CPU time for each message."""
        port = self._helper.greeting["port"]
        with raw_connections(
            port,
            self._message,
            websocket=self._websocket,
            count=self._connections,
            context=self._context,
        ) as connections:
            self._load(connections, _WARM_UP)
            before = self._helper.cpu_seconds()
            count = self._load(connections, seconds) * seconds
            return (self._helper.cpu_seconds() - before) / count * 1e6


class MemorySession(Session):
    """The memory of a server; each measure takes a new process, since memory is seldom given
    back.
    """

    def __init__(self, server: Server, context: ssl.SSLContext | None = None) -> None:
        """Start the server, to see if it can be; with a context it is talked to behind TLS."""
        self._server = server
        self._context = context
        self._message = Message(TEXT, PAYLOAD, websocket=server.websocket)
        self._helper: Helper | None = server.start()

    def measure(self, seconds: float) -> float:
        """Return the kB of private memory that each of many idle connections adds; the time is not
        used.
        """
        helper = self._helper or self._server.start()
        self._helper = None
        port, websocket = helper.greeting["port"], self._server.websocket
        try:
            connections = partial(
                raw_connections, port, self._message, websocket=websocket, context=self._context
            )
            with connections(count=_FIRST_CONNECTIONS):
                time.sleep(_SETTLE_SECONDS)
                before = helper.private_bytes()
                with connections(count=IDLE_CONNECTIONS):
                    time.sleep(_SETTLE_SECONDS)
                    return (helper.private_bytes() - before) / IDLE_CONNECTIONS / 1000
        finally:
            helper.close()

    def close(self) -> None:
        """End the server, if it was never measured."""
        if self._helper is not None:
            self._helper.close()


class ClientSession(Session):
    """A client library, in a process of its own, that plays ping-pong with the fast server."""

    def __init__(self, name: str, port: int) -> None:
        """Start the client and let it connect."""
        self._helper = Helper("clients", name, str(port))

    def measure(self, seconds: float) -> float:
        """Return the microseconds per round trip."""
        self._helper.ask(str(_WARM_UP), _WARM_UP + 15)
        return float(self._helper.ask(str(seconds), seconds + 15)["value"])

    def close(self) -> None:
        """End the client."""
        self._helper.close()


@dataclass(frozen=True)
class Target:
    """What is expected: the figure of the subject related to a number, or to so many times that of
    a peer.
    """

    subject: str
    relation: str
    factor: float
    peer: str | None = None
    net_of: str | None = None
    """A contestant whose figure is first taken off both sides: the part that no library can help.
    """

    def __str__(self) -> str:
        """Tell the expectation in a few signs, like ``<= 1.8 x picows``."""
        if self.peer is None:
            digits = 0 if self.factor >= 1 else 2
            return f"{self.relation} {self.factor:,.{digits}f}".replace(",", " ")
        net = f" (net of {self.net_of})" if self.net_of else ""
        return (
            f"{self.relation} {'' if self.factor == 1 else f'{self.factor:g} x '}{self.peer}{net}"
        )

    def holds(self, figure: float) -> bool:
        """Tell if this figure, or ratio to the peer, is as expected."""
        if self.relation == "<":
            return figure < self.factor
        return figure <= self.factor if self.relation == "<=" else figure >= self.factor


Setup = Callable[[contextlib.ExitStack], dict[str, Callable[[], Session]]]
"""Starts what the contestants share, to be ended with the stack, and tells how to start each
contestant.
"""


@dataclass(frozen=True)
class Benchmark:
    """One table of the report."""

    name: str
    title: str
    unit: str
    lower_is_better: bool
    base: str
    """The contestant that all others are compared with."""
    setup: Setup
    targets: tuple[Target, ...]
    max_rounds: int | None = None
    """A limit for what is slow to measure and hardly varies."""


def _servers(
    labels: list[str], load: Load, opcode: int, payload: bytes, connections: int = 1
) -> Setup:
    """Return the setup of a benchmark where each server has its own process and nothing is
    shared.
    """

    def starter(label: str) -> Callable[[], Session]:
        return lambda: ServerSession(SERVERS[label], load, opcode, payload, connections)

    return lambda stack: {label: starter(label) for label in labels}


def _certificate(stack: contextlib.ExitStack) -> tuple[str, ssl.SSLContext]:
    """Return a certificate with its key, in a file that ends with the stack, and the context of a
    client that trusts it.
    """
    try:
        import trustme
    except ImportError as error:
        raise MissingLibrary(str(error)) from error
    authority = trustme.CA()
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return str(path), context


def _tls_servers(labels: list[str], load: Load, opcode: int, payload: bytes) -> Setup:
    """Return the setup of a benchmark over TLS 1.3, where all servers have the same certificate."""
    return tls_setup(
        labels,
        lambda server, context: ServerSession(server, load, opcode, payload, context=context),
    )


def tls_setup(labels: list[str], session: Callable[[Server, ssl.SSLContext], Session]) -> Setup:
    """Return a setup of *labels* with the same certificate, which makes each *session* of its
    server.
    """

    def setup(stack: contextlib.ExitStack) -> dict[str, Callable[[], Session]]:
        made: list[tuple[str, ssl.SSLContext]] = []

        def starter(label: str) -> Callable[[], Session]:
            def start() -> Session:
                if not made:
                    made.append(_certificate(stack))
                certificate, context = made[0]
                server = replace(
                    SERVERS[BARE if label == BARE_TLS else label], certificate=certificate
                )
                return session(server, context)

            return start

        return {label: starter(label) for label in labels}

    return setup


def _memory(stack: contextlib.ExitStack) -> dict[str, Callable[[], Session]]:
    """Set up the measure of memory."""

    def starter(label: str) -> Callable[[], Session]:
        return lambda: MemorySession(SERVERS[label])

    return {
        label: starter(label) for label in (BARE, PICOWS, WEBSOCKETS, SIMPLE, OURS, OURS_EVENTS)
    }


def _clients(stack: contextlib.ExitStack) -> dict[str, Callable[[], Session]]:
    """Set up the measure of clients, all with one and the same server."""
    helper = Server("fast").start()
    stack.callback(helper.close)

    def starter(name: str) -> Callable[[], Session]:
        return lambda: ClientSession(name, helper.greeting["port"])

    return {label: starter(name) for label, name in _CLIENTS.items()}


_PEERS = [BARE, PICOWS, WEBSOCKETS, SIMPLE]
_BUSY = [PICOWS, ASYNCIO, WEBSOCKETS, OURS, OURS_EVENTS]


def _busy(connections: int, least: float) -> list[Benchmark]:
    """Return the benchmarks of so many connections that are busy at the same time; the event-driven
    server is to be *least* times as fast as the threaded one.
    """

    def cpu(stack: contextlib.ExitStack) -> dict[str, Callable[[], Session]]:
        def starter(label: str) -> Callable[[], Session]:
            return lambda: CpuSession(SERVERS[label], ping_pong, TEXT, PAYLOAD, connections)

        return {label: starter(label) for label in _BUSY}

    return [
        Benchmark(
            name=f"busy-{connections}",
            title=f"Ping-pong of 64 bytes on {connections} connections",
            unit="messages/s",
            lower_is_better=False,
            base=PICOWS,
            setup=_servers(_BUSY, ping_pong, TEXT, PAYLOAD, connections),
            targets=(Target(OURS_EVENTS, ">=", least, OURS),),
        ),
        Benchmark(
            name=f"cpu-{connections}",
            title=f"The server's CPU time for each of these messages, {connections} connections",
            unit="µs",
            lower_is_better=True,
            base=PICOWS,
            setup=cpu,
            targets=(Target(OURS_EVENTS, "<=", 1.2, PICOWS),),
        ),
    ]


BENCHMARKS = [
    Benchmark(
        name="roundtrip",
        title="Round trip of 64 bytes, 1 connection",
        unit="µs",
        lower_is_better=True,
        base=BARE,
        setup=_servers(
            [*_PEERS, OURS, OURS_NO_MASK, OURS_EVENTS],
            lambda c, seconds: round_trip(c[0], seconds),
            TEXT,
            PAYLOAD,
        ),
        targets=(
            Target(OURS, "<=", 1.8, BARE),
            Target(OURS, "<", 1, PICOWS),
            Target(OURS_EVENTS, "<=", 1.1, OURS),
        ),
    ),
    Benchmark(
        name="pipelined",
        title=f"Echo of 64 bytes pipelined {PIPELINE_DEPTH} deep, 1 connection",
        unit="messages/s",
        lower_is_better=False,
        base=PICOWS,
        setup=_servers(
            [PICOWS, WEBSOCKETS, SIMPLE, OURS, OURS_ASYNC, OURS_EVENTS],
            lambda c, seconds: pipelined(c[0], seconds, PIPELINE_DEPTH),
            TEXT,
            PAYLOAD,
        ),
        targets=(
            Target(OURS, ">=", 80_000),
            Target(OURS_ASYNC, ">=", 200_000),
            Target(OURS_EVENTS, ">=", 0.95, OURS),
        ),
    ),
    Benchmark(
        name="big",
        title="Echo of 1 MB (binary), 1 connection",
        unit="messages/s",
        lower_is_better=False,
        base=BARE,
        setup=_servers(
            [*_PEERS, OURS, OURS_NO_MASK, OURS_EVENTS],
            lambda c, seconds: big_echo(c[0], seconds),
            BINARY,
            random.Random(1).randbytes(BIG_SIZE),
        ),
        targets=(
            Target(OURS, ">=", 300),
            Target(OURS_NO_MASK, ">=", 120),
            Target(OURS_EVENTS, ">=", 0.95, OURS),
        ),
    ),
    Benchmark(
        name="many",
        title=f"Ping-pong of 64 bytes on {PING_PONG_CONNECTIONS} connections",
        unit="messages/s",
        lower_is_better=False,
        base=BARE,
        setup=_servers([*_PEERS, OURS], ping_pong, TEXT, PAYLOAD, PING_PONG_CONNECTIONS),
        targets=(Target(OURS, ">=", 0.6, BARE),),
    ),
    Benchmark(
        name="memory",
        title=f"Private memory per idle connection, of {IDLE_CONNECTIONS}",
        unit="kB",
        lower_is_better=True,
        base=BARE,
        setup=_memory,
        targets=(Target(OURS, "<=", 35), Target(OURS_EVENTS, "<=", 8)),
        max_rounds=3,
    ),
    Benchmark(
        name="client",
        title="Client: round trip of 64 bytes with the same fast server",
        unit="µs",
        lower_is_better=True,
        base=RAW,
        setup=_clients,
        targets=(
            Target(OURS, "<=", 0.5, CLIENT),
            Target(OURS, "<=", 0.5, WEBSOCKETS),
            Target(OURS, "<=", 0.5, CLIENT, net_of=RAW),
            Target(OURS, "<=", 0.5, WEBSOCKETS, net_of=RAW),
        ),
    ),
    Benchmark(
        name="tls-roundtrip",
        title="TLS 1.3: round trip of 64 bytes, 1 connection",
        unit="µs",
        lower_is_better=True,
        base=BARE_TLS,
        setup=_tls_servers(
            [BARE_TLS, WEBSOCKETS, OURS, OURS_EVENTS],
            lambda c, seconds: round_trip(c[0], seconds),
            TEXT,
            PAYLOAD,
        ),
        targets=(
            Target(OURS, "<=", 0.5, WEBSOCKETS),
            Target(OURS, "<=", 0.5, WEBSOCKETS, net_of=BARE_TLS),
            Target(OURS_EVENTS, "<=", 1.1, OURS),
        ),
    ),
    Benchmark(
        name="tls-pipelined",
        title=f"TLS 1.3: echo of 64 bytes pipelined {PIPELINE_DEPTH} deep, 1 connection",
        unit="messages/s",
        lower_is_better=False,
        base=WEBSOCKETS,
        setup=_tls_servers(
            [WEBSOCKETS, OURS, OURS_ASYNC, OURS_EVENTS],
            lambda c, seconds: pipelined(c[0], seconds, PIPELINE_DEPTH),
            TEXT,
            PAYLOAD,
        ),
        targets=(
            Target(OURS, ">=", 2, WEBSOCKETS),
            Target(OURS_ASYNC, ">=", 2, WEBSOCKETS),
            Target(OURS_EVENTS, ">=", 0.95, OURS),
        ),
    ),
    Benchmark(
        name="tls-big",
        title="TLS 1.3: echo of 1 MB (binary), 1 connection",
        unit="messages/s",
        lower_is_better=False,
        base=BARE_TLS,
        setup=_tls_servers(
            [BARE_TLS, WEBSOCKETS, OURS, OURS_EVENTS],
            lambda c, seconds: big_echo(c[0], seconds),
            BINARY,
            random.Random(1).randbytes(BIG_SIZE),
        ),
        targets=(Target(OURS, ">=", 2, WEBSOCKETS), Target(OURS_EVENTS, ">=", 0.95, OURS)),
    ),
    *_busy(200, 4),
    *_busy(1000, 10),
]
