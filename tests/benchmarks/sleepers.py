"""Round trips of one connection while callbacks of others sleep: ``python -m
tests.benchmarks.sleepers``.

The others send again as soon as they are answered, so that callbacks begin and end all the time.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from statistics import median, quantiles

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketAsyncServer,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focText,
)

_SLEEP = b"sleep "


def _answer(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    if frame.opcode is focText:
        if frame.payload.startswith(_SLEEP):
            # what the application would wait for, not what the benchmark does
            time.sleep(float(frame.payload[len(_SLEEP) :]))
        process.send_frame(frame)


class _Client:
    """A connection that waits for each answer."""

    def __init__(self, port: int) -> None:
        self._answered = threading.Event()
        protocol = WebSocketProtocolChat("", "", self._received)
        self._client = HttpClientWebSockets("127.0.0.1", port)
        problem = self._client.websockets_upgrade("", protocol=protocol)
        if problem:
            raise SystemExit(problem)

    def _received(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            self._answered.set()

    def ask(self, payload: bytes) -> float:
        """Return the milliseconds until the answer."""
        self._answered.clear()
        begin = time.perf_counter()
        process = self._client.websockets
        if process is None or not process.send_frame(WebSocketFrame(focText, payload)):
            raise SystemExit("the connection is lost")
        if not self._answered.wait(60):
            raise SystemExit("no answer within a minute")
        return (time.perf_counter() - begin) * 1000

    def free(self) -> None:
        self._client.free()


def measure(
    kind: type[WebSocketServer | WebSocketAsyncServer],
    count: int,
    seconds: float,
    least: float,
    most: float,
) -> None:
    """Print how long the round trips take beside *count* connections whose callbacks sleep for
    *least* to *most* milliseconds.
    """
    protocol = WebSocketProtocolChat("", "", _answer)
    with kind("127.0.0.1:0", prepare=lambda server: server.websocket_protocols.add(protocol)) as s:
        over = threading.Event()
        clients = [_Client(s.port) for _ in range(count + 1)]

        def keep_busy(client: _Client, draw: random.Random) -> None:
            while not over.is_set():
                client.ask(_SLEEP + b"%.4f" % (draw.uniform(least, most) / 1000))

        threads = [
            threading.Thread(target=keep_busy, args=(client, random.Random(number)))
            for number, client in enumerate(clients[1:])
        ]
        for thread in threads:
            thread.start()
        times = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            times.append(clients[0].ask(b"x"))
            # between two questions of a person, say
            over.wait(0.002)
        over.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.free()
    print(
        f"{kind.__name__:22s} {len(times):6d} round trips, median {median(times):6.2f} ms,"
        f" 99 % {quantiles(times, n=100)[98]:7.1f} ms, longest {max(times):7.1f} ms"
    )


def main() -> None:
    """Print a line for each server."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sleepers")
    parser.add_argument("--count", type=int, default=16, help="connections whose callbacks sleep")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--least", type=float, default=150, help="the shortest sleep, ms")
    parser.add_argument("--most", type=float, default=350, help="the longest sleep, ms")
    given = parser.parse_args()
    for kind in (WebSocketServer, WebSocketAsyncServer):
        measure(kind, given.count, given.seconds, given.least, given.most)


if __name__ == "__main__":
    main()
