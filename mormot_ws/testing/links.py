"""The state of the fault proxy's links: plain values, used only by the relay's thread."""

from __future__ import annotations

import socket
from collections import deque

#: bytes that the proxy buffers in one direction of a link before it stops reading; the kernel's
#: buffers hold more
HELD_BYTES = 65536


class Gate:
    """The state of one direction, for all links."""

    def __init__(self) -> None:
        self.open = True
        self.delay: float = 0.0  # seconds
        self.rate: float = 0.0  # bytes per second; 0: no limit
        self.carried = 0


class End:
    """One socket of a link.

    ``sock`` is None before it is opened, and after it was closed or reset.
    """

    def __init__(self, link: Link, sock: socket.socket | None) -> None:
        self.link = link
        self.sock = sock
        self.connecting = False
        self.mask = 0  # what the selector waits for; 0: not registered


class Flow:
    """One direction of one link."""

    def __init__(self, gate: Gate, source: End, sink: End) -> None:
        self.gate = gate
        self.source = source
        self.sink = sink
        # (when it may be sent, data); empty data: FIN
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.held = 0
        self.next_at: float = 0.0  # when the throttle allows the next bytes
        self.left: int | None = None  # bytes until the truncation
        self.ended = False  # the source has sent FIN
        self.finished = False  # FIN was sent to the sink
        self.reset = False  # the source was reset

    def may_read(self) -> bool:
        return (
            self.gate.open
            and not self.ended
            and not self.source.connecting
            and self.held < HELD_BYTES
        )

    def due(self) -> float | None:
        """Return when the next bytes may be sent; None: not until something changes."""
        if not self.chunks or not self.gate.open or self.sink.sock is None or self.sink.connecting:
            return None
        return max(self.chunks[0][0], self.next_at)


class Link:
    """A client's connection, and the one to the target."""

    def __init__(self, client: socket.socket, up: Gate, down: Gate) -> None:
        self.client: End = End(self, client)
        self.target: End = End(self, None)
        self.up: Flow = Flow(up, self.client, self.target)
        self.down: Flow = Flow(down, self.target, self.client)
        self.flows: tuple[Flow, Flow] = (self.up, self.down)
        self.ends: tuple[End, End] = (self.client, self.target)
        self.opened = False  # the connection to the target has been started
        self.closing = False  # close() was called: read both streams to their ends
