"""How long one large message keeps the other threads of its OS process waiting: ``python -m
tests.benchmarks.blocking``.

A thread wakes every millisecond. What is told is the most processor time that the OS process has
used between two of its turns, so other programs do not count.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from mormot_ws import HttpClientWebSockets, WebSocketProtocolJson, WebSocketServerRest
from mormot_ws.rest.long_work import LongWork
from mormot_ws.rest.synlz import synlz_compress, synlz_decompress


class Blocked:
    """The thread that wakes every millisecond."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last = time.process_time()
        while not self.ended.wait(0.001):
            now = time.process_time()
            self.longest = max(self.longest, now - last)
            last = now


def measure(name: str, work: Callable[[], object]) -> None:
    """Do *work* in this thread, and print what it has cost."""
    blocked = Blocked()
    begin = time.process_time()
    work()
    used = time.process_time() - begin
    blocked.ended.wait(0.005)
    blocked.ended.set()
    print(
        f"{name:34s} {used * 1000:7.0f} ms of CPU, at most {blocked.longest * 1000:5.1f} ms at once"
    )


def decompress(stream: bytes, size: int) -> None:
    """Decompress as a connection does."""
    with LongWork(lambda: True) as between:
        synlz_decompress(stream, size, between)


def slow_stream(groups: int) -> tuple[bytes, int]:
    """Return a stream of short matches, the slowest there is, and the size of its content."""
    first = b"\xf0\xff\xff\xff" + bytes(4) + b"\x01\x00" * 28
    size = 4 + 28 * 3 + groups * 96
    head = (0x8000 | size & 0x7FFF | size >> 15 << 16).to_bytes(4, "little")
    return head + first + (b"\xff" * 4 + b"\x01\x00" * 32) * groups, size


def main() -> None:
    """Print a line for each kind of message."""
    measure("SynLZ, the slowest stream, 11 MB", lambda: decompress(*slow_stream(120_000)))
    stream = synlz_compress(os.urandom(15 << 20))
    measure("SynLZ, 15 MB of literals", lambda: decompress(stream, 15 << 20))
    bodies = {
        "JSON, a string of 15 MB": b'"' + b"x" * (15 << 20) + b'"',
        "JSON, 14 MB of escapes": b'"' + b"\\n" * (7 << 20) + b'"',
        "JSON, 10 MB of numbers": b"[" + b"1," * (5 << 20) + b"1]",
    }
    with WebSocketServerRest("127.0.0.1:0", uri="", ajax=True) as server:
        server.on_request = lambda ctxt: 200
        with HttpClientWebSockets("127.0.0.1", server.port) as client:
            assert not client.websockets_upgrade("", protocol=WebSocketProtocolJson(""))
            for name, body in bodies.items():
                measure(
                    f"{name}, both ends",
                    lambda body=body: client.request(  # type: ignore[misc]
                        "/x", "POST", data=body, data_type="application/json"
                    ),
                )


if __name__ == "__main__":
    main()
