"""Load on an echo server: connections that send, wait for the echo, and send again.

It measures, and prints nothing.

The echo is handled where it arrives, in the thread of its client: no hop between threads is in the
figures.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

from ..client.client import HttpClientWebSockets
from ..core.frames import WebSocketFrame, focBinary, focConnectionClose, focText
from ..process.process import WebSocketProcess

#: bytes that may be on their way on one connection: below what the kernels on the way hold, so that
#: two ends which both write and do not read cannot get stuck
_MOST_ON_THE_WAY = 1 << 18
_FILLER = b"abcdefghijklmnopqrstuvwxyz012345"


def window_for(size: int, wanted: int) -> int:
    """Return how many messages of *size* bytes may be on their way on a connection."""
    return max(1, min(wanted, _MOST_ON_THE_WAY // size))


class Measurement:
    """One run on several connections: *count* messages of *size* bytes.

    :param window: how many may be in flight on each connection.

    :attr:`finished` becomes True when all echoes are in, or no connection is left; then *notify* is
    called, in a client's thread. Attributes may be read by any thread.
    """

    def __init__(
        self, size: int, count: int, window: int, binary: bool, notify: Callable[[], None]
    ) -> None:
        self.size = size
        self.count = count
        self.window = window
        self._notify = notify
        self._opcode = focBinary if binary else focText
        self._tail = (_FILLER * (size // len(_FILLER) + 1))[:size]
        #: guards the counters; innermost
        self._safe_counts = threading.Lock()
        self._sent = 0
        self._stopping = False
        self._open = 0
        #: seconds from sending to the echo, in the order of their coming
        self.times: list[float] = []
        #: messages that were no echo of ours
        self.strangers = 0
        self.finished: bool = False
        self._started = 0.0
        self._last_echo = 0.0

    @property
    def seconds(self) -> float:
        """From the first message to the last echo."""
        return max(self._last_echo - self._started, 1e-9) if self.times else 0.0

    def run_on(self, links: Sequence[Link]) -> None:
        """Begin on all *links*. They go on by themselves. Main thread."""
        self._open = len(links)
        self._started = perf_counter()
        for link in links:
            link.begin(self)

    def stop(self) -> None:
        """Send no more."""
        self._stopping = True

    # -------------------------------------------------------------------------------- for the links

    def next_frame(self) -> WebSocketFrame | None:
        """Return the next message, each one different; None when there are enough."""
        with self._safe_counts:
            if self._stopping or self._sent >= self.count:
                return None
            self._sent += 1
            number = self._sent
        head = f"{number:x}-".encode()
        return WebSocketFrame(self._opcode, (head + self._tail[len(head) :])[: self.size])

    def echoed(self, seconds: float) -> None:
        """An echo has arrived."""
        self.times.append(seconds)
        self._last_echo = perf_counter()
        if len(self.times) >= self.count:
            self.finished = True
            self._notify()

    def link_lost(self) -> None:
        """A connection has ended."""
        with self._safe_counts:
            self._open -= 1
            over = self._open <= 0
        if over:
            self.finished = True
            self._notify()


class Link:
    """One connection. :meth:`on_incoming_frame` is the callback of its protocol."""

    def __init__(self) -> None:
        self.client: HttpClientWebSockets | None = None
        self._measurement: Measurement | None = None
        #: (payload, when it was sent) of the messages on their way, oldest first
        self._waiting: deque[tuple[bytes, float]] = deque()
        #: held while messages are sent, so that their order is that of the queue above; before
        #: ``safe_out`` in the lock order
        self._safe_waiting = threading.Lock()
        #: how the connection ended, '' while it has not
        self.lost: str = ""

    @property
    def busy(self) -> bool:
        """True while echoes are missing and may come."""
        return bool(self._waiting) and not self.lost

    def begin(self, measurement: Measurement) -> None:
        """Send the first messages. Main thread, while nothing is on its way."""
        self._measurement = measurement
        self._waiting.clear()
        process = None if self.client is None else self.client.websockets
        if process is None or self.lost:
            measurement.link_lost()
            return
        with self._safe_waiting:
            for _ in range(measurement.window):
                self._send(process, measurement)

    def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """In the client's thread."""
        measurement = self._measurement
        if frame.opcode is focConnectionClose:
            self.lost = f"{process.close_code} {process.close_reason or process.last_error}".strip()
            if measurement is not None:
                measurement.link_lost()
        elif (frame.opcode is focText or frame.opcode is focBinary) and measurement is not None:
            now = perf_counter()
            with self._safe_waiting:
                if not self._waiting or self._waiting[0][0] != frame.payload:
                    measurement.strangers += 1
                    return
                sent = self._waiting.popleft()[1]
                self._send(process, measurement)
            measurement.echoed(now - sent)

    def _send(self, process: WebSocketProcess, measurement: Measurement) -> None:
        frame = measurement.next_frame()
        if frame is None:
            return
        self._waiting.append((frame.payload, perf_counter()))
        if measurement.window == 1:
            process.send_frame(frame)
        else:
            # what a callback queues leaves together, behind it; and nobody gets stuck in a write
            process.send_frame_async(frame)
