"""Puts load on an echo server: connections that send, wait for the echo, and send again.

Each echo is handled in its client's thread, so the figures include no thread switch. This module
prints nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

from ..client.client import HttpClientWebSockets
from ..core.frames import WebSocketFrame, focBinary, focConnectionClose, focText
from ..process.process import WebSocketProcess

#: the most bytes in flight on one connection. The kernels' buffers hold more, so the two peers
#: cannot block each other by writing without reading
_MOST_ON_THE_WAY = 1 << 18
_FILLER = b"abcdefghijklmnopqrstuvwxyz012345"


def window_for(size: int, wanted: int) -> int:
    """Return how many messages of *size* bytes may be in flight on a connection."""
    return max(1, min(wanted, _MOST_ON_THE_WAY // size))


class Measurement:
    """One run on several connections: *count* messages of *size* bytes.

    :param window: the most messages in flight on each connection.

    When all echoes have arrived or no connection is left, :attr:`finished` becomes True, and
    *notify* is called in a client's thread. Any thread may read the attributes.
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
        #: guards the counters; last in the lock order
        self._safe_counts = threading.Lock()
        self._sent = 0
        self._stopping = False
        self._open = 0
        #: seconds from sending to the echo, in the order of the echoes
        self.times: list[float] = []
        #: messages that were not echoes of ours
        self.strangers = 0
        self.finished: bool = False
        self._started = 0.0
        self._last_echo = 0.0

    @property
    def seconds(self) -> float:
        """The seconds from the first message to the last echo."""
        return max(self._last_echo - self._started, 1e-9) if self.times else 0.0

    def run_on(self, links: Sequence[Link]) -> None:
        """Start on all *links*, which continue by themselves. Called in the main thread."""
        self._open = len(links)
        self._started = perf_counter()
        for link in links:
            link.begin(self)

    def stop(self) -> None:
        """Send no more."""
        self._stopping = True

    # -------------------------------------------------------------------------------- for the links

    def next_frame(self) -> WebSocketFrame | None:
        """Return the next message; None when enough were sent. No two messages are equal."""
        with self._safe_counts:
            if self._stopping or self._sent >= self.count:
                return None
            self._sent += 1
            number = self._sent
        head = f"{number:x}-".encode()
        return WebSocketFrame(self._opcode, (head + self._tail[len(head) :])[: self.size])

    def echoed(self, seconds: float) -> None:
        """Count an echo."""
        self.times.append(seconds)
        self._last_echo = perf_counter()
        if len(self.times) >= self.count:
            self.finished = True
            self._notify()

    def link_lost(self) -> None:
        """Count a lost connection."""
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
        #: (payload, when it was sent) of the messages in flight, oldest first
        self._waiting: deque[tuple[bytes, float]] = deque()
        #: held while sending, so that messages are sent in the order of the queue above; comes
        #: before ``safe_out`` in the lock order
        self._safe_waiting = threading.Lock()
        #: how the connection ended; '' while it is open
        self.lost: str = ""

    @property
    def busy(self) -> bool:
        """True while echoes are missing and may still arrive."""
        return bool(self._waiting) and not self.lost

    def begin(self, measurement: Measurement) -> None:
        """Send the first messages. Called in the main thread, with nothing in flight."""
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
        """Handle a message; called in the client's thread."""
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
            # frames queued in a callback are sent together after it, so no write can block it
            process.send_frame_async(frame)
