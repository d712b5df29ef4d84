"""What the front door costs: ``python -m tests.benchmarks.door [--seconds S] [--rounds N]
[--any-cpu]``.

The same conversation by the door, and by the classes underneath, as a program would use them for
the same. Clients: by ``connect()``, with the same echo server, which is a process of its own;
answered in a callback, or by a thread that receives. Servers: by ``Server``, with the same plain
socket. One message at a time (round trip) and 100 under way (messages per second).

Contestants take turns in each round; the ratio is the median of those within the rounds, of which
many short ones are less disturbed by what else the machine does than a few long ones. At most 15 %
more per message is the aim.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from queue import SimpleQueue

from mormot_ws import (
    Connection,
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    connect,
    focText,
)

from .handshake import PROTOCOL
from .processes import Helper
from .raw_client import TEXT as RAW_TEXT
from .raw_client import Message, pipelined, raw_connections, round_trip
from .rounds import rounds_and_seconds
from .servers import HOST

TEXT = bytes(range(32, 96)).decode()
DEPTHS = {"round trip": 1, "100 under way": 100}
AIM = 1.15
SERVERS = ("mormot_ws", "mormot_ws-below", "mormot_ws-door")

#: plays for that many seconds with so many messages under way; returns the microseconds for each
Measure = Callable[[float, int], float]


class Game:
    """Counts the echoes of a contestant whose callback sends the next message."""

    def __init__(self) -> None:
        self._end = 0.0
        self._count = 0
        self._done = threading.Event()
        # how many messages are still under way, and set when there are none
        self._depth = 0
        self._quiet = threading.Event()

    def goes_on(self) -> bool:
        """An echo has come; tell whether another message is to be sent."""
        self._count += 1
        if time.perf_counter() < self._end:
            return True
        self._done.set()
        self._depth -= 1
        if not self._depth:
            self._quiet.set()
        return False

    def play(self, seconds: float, depth: int, send: Callable[[], object]) -> float:
        """Begin with *depth* messages; return the microseconds for each echo."""
        self._count = 0
        self._depth = depth
        self._done.clear()
        self._quiet.clear()
        begin = time.perf_counter()
        self._end = begin + seconds
        for _ in range(depth):
            send()
        if not self._done.wait(seconds + 10):
            raise ConnectionError("no answer")
        took = time.perf_counter() - begin
        counted = self._count
        if not self._quiet.wait(10):
            raise ConnectionError("not all answers have come")
        return took / counted * 1e6


def _loop(
    seconds: float, depth: int, send: Callable[[], object], receive: Callable[[], object]
) -> float:
    """Receive in this thread, with *depth* messages under way."""
    for _ in range(depth):
        send()
    count = 0
    begin = now = time.perf_counter()
    end = begin + seconds
    while now < end:
        receive()
        send()
        count += 1
        now = time.perf_counter()
    for _ in range(depth):
        receive()
    return (now - begin) / count * 1e6


@contextmanager
def classes(
    port: int, callback: Callable[[WebSocketProcess, WebSocketFrame], object]
) -> Iterator[WebSocketProcess]:
    """Give the connection of a client made of the classes underneath."""
    with HttpClientWebSockets(HOST, port) as client:
        protocol = WebSocketProtocolChat(PROTOCOL, "", callback)
        error = client.websockets_upgrade("", protocol=protocol)
        process = client.websockets
        if error or process is None:
            raise ConnectionError(error)
        yield process


@contextmanager
def classes_callback(port: int) -> Iterator[Measure]:
    """The classes; the next message is sent in the callback."""
    game = Game()

    def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            text = frame.text
            if game.goes_on():
                process.send_frame(WebSocketFrame(focText, text))

    with classes(port, on_incoming_frame) as process:

        def send() -> None:
            process.send_frame(WebSocketFrame(focText, TEXT))

        yield lambda seconds, depth: game.play(seconds, depth, send)


@contextmanager
def door_callback(port: int) -> Iterator[Measure]:
    """The door; the next message is sent in ``on_message``."""
    game = Game()

    def on_message(ws: Connection, message: str | bytes) -> None:
        if game.goes_on():
            ws.send(message)

    with connect(f"ws://{HOST}:{port}/", protocol=PROTOCOL, on_message=on_message) as ws:
        ws.wait_connected(10)
        yield lambda seconds, depth: game.play(seconds, depth, lambda: ws.send(TEXT))


@contextmanager
def classes_queue(port: int) -> Iterator[Measure]:
    """The classes; another thread takes the texts from a queue."""
    texts: SimpleQueue[str] = SimpleQueue()

    def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            texts.put(frame.text)

    with classes(port, on_incoming_frame) as process:

        def send() -> None:
            process.send_frame(WebSocketFrame(focText, TEXT))

        yield lambda seconds, depth: _loop(seconds, depth, send, lambda: texts.get(timeout=10))


@contextmanager
def door_recv(port: int) -> Iterator[Measure]:
    """The door; another thread receives."""
    with connect(f"ws://{HOST}:{port}/", protocol=PROTOCOL) as ws:
        ws.wait_connected(10)
        yield lambda seconds, depth: _loop(
            seconds, depth, lambda: ws.send(TEXT), lambda: ws.recv(10)
        )


@contextmanager
def raw_client(port: int) -> Iterator[Measure]:
    """A plain socket, for what a server costs."""
    message = Message(RAW_TEXT, TEXT.encode(), websocket=True)
    with raw_connections(port, message, websocket=True) as (connection,):

        def measure(seconds: float, depth: int) -> float:
            if depth == 1:
                return round_trip(connection, seconds)
            return 1e6 / pipelined(connection, seconds, depth)

        yield measure


Maker = Callable[[int], AbstractContextManager[Measure]]
#: each with the classes and with the door: the server, and how it is measured
PAIRS: dict[str, list[tuple[str, Maker]]] = {
    "a client, in a callback": [("mormot_ws", classes_callback), ("mormot_ws", door_callback)],
    "a client, by a thread that receives": [("mormot_ws", classes_queue), ("mormot_ws", door_recv)],
    "a server": [("mormot_ws-below", raw_client), ("mormot_ws-door", raw_client)],
}


def compare(ports: dict[str, int], rounds: int, seconds: float) -> None:
    """Measure all, and print the medians."""
    for title, depth in DEPTHS.items():
        for how, pair in PAIRS.items():
            with ExitStack() as stack:
                measures = [stack.enter_context(make(ports[server])) for server, make in pair]
                figures: list[list[float]] = []
                for number in range(rounds + 1):
                    order = [0, 1] if number % 2 else [1, 0]
                    values = [0.0, 0.0]
                    for which in order:
                        values[which] = measures[which](seconds, depth)
                    figures.append(values)
            figures = figures[1:]  # the first one is for warming up
            below, door = (statistics.median(column) for column in zip(*figures, strict=True))
            ratio = statistics.median(values[1] / values[0] for values in figures)
            verdict = "ok" if ratio <= AIM else f"above {AIM:g}"
            print(
                f"{title}, {how}: classes {below:.1f} µs, door {door:.1f} µs per message"
                f" ({1e6 / below:,.0f} and {1e6 / door:,.0f}/s), ratio {ratio:.3f}, {verdict}",
                flush=True,
            )


def main() -> None:
    """Read the command line, start the server, measure."""
    rounds, seconds = rounds_and_seconds("tests.benchmarks.door", __doc__, 41, 0.1)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(closing(Helper("servers", name))) for name in SERVERS}
        ports = {name: server.greeting["port"] for name, server in servers.items()}
        compare(ports, rounds, seconds)


if __name__ == "__main__":
    main()
