"""OutgoingFrames: the bounded queue behind ``send_frame_async``, and its batches.

The queue belongs to a process and outlives its connections: what the kernel had not taken whole
when a connection was lost is at the head of the queue again when the next one starts. No socket and
no thread in here; the lock is the queue's own.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from .frames import WebSocketFrame, WebSocketFrameOpCode, WebSocketFramePayload


class QueuedFrame(NamedTuple):
    """An immutable copy of a frame, so that the caller may change his own at once."""

    opcode: WebSocketFrameOpCode
    payload: bytes
    content: WebSocketFramePayload
    #: the frame as it goes over the wire, when one encoding serves several connections (a server's
    #: broadcast)
    wire: bytes | None = None

    def frame(self) -> WebSocketFrame:
        """Return a new frame with this content."""
        return WebSocketFrame(self.opcode, self.payload, self.content)


class OutgoingFrames:
    """Frames waiting to be sent, in order. Mirrors the ``Outgoing`` list of ``TWebSocketProcess``.

    :param max_frames: how many may wait (0: any number).
    :param max_bytes: how many bytes of payload may wait (0: any number). One frame is always
        accepted by an empty queue.
    :param drop_oldest: what gives way when it is full: the oldest frames, instead of the new one.

    All methods may be called from any thread.
    """

    def __init__(self, max_frames: int = 0, max_bytes: int = 0, drop_oldest: bool = False) -> None:
        self.max_frames = max_frames
        self.max_bytes = max_bytes
        self.drop_oldest = drop_oldest
        #: how many frames a full queue has refused or dropped
        self.lost: int = 0
        #: guards the fields below; innermost in the lock order, nothing is called while it is held
        self._safe = threading.RLock()
        # a push is under way, and what its own thread's signal handlers or finalisers push
        # meanwhile
        self._busy = False
        self._late: deque[QueuedFrame] = deque()
        #: what waits, oldest first; others only look whether there is anything
        self.frames: deque[QueuedFrame] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        return f"<OutgoingFrames count={self.count} bytes={self.bytes} lost={self.lost}>"

    @property
    def count(self) -> int:
        """How many frames wait; mirrors ``Count``."""
        return len(self.frames)

    @property
    def bytes(self) -> int:
        """How many bytes of payload wait."""
        return self._bytes

    def push(self, frame: WebSocketFrame) -> bool:
        """Append a copy of *frame*; return False when the queue is full. Mirrors ``Push``."""
        return self.push_queued(QueuedFrame(frame.opcode, frame.payload, frame.content))

    def push_queued(self, queued: QueuedFrame) -> bool:
        """Append *queued* itself; return False when the queue is full."""
        size = len(queued[1])
        with self._safe:
            if self._busy:
                # in a signal handler or finaliser that has interrupted this very thread
                self._late.append(queued)
                return True
            self._busy = True
            try:
                return self._push(queued, size)
            finally:
                self._done()

    def _done(self) -> None:
        """A change is complete: make those that came in the middle of it."""
        self._busy = False
        while self._late:
            late = self._late.popleft()
            self._push(late, len(late.payload))

    def _push(self, queued: QueuedFrame, size: int) -> bool:
        if self.frames and (
            (self.max_bytes and self._bytes + size > self.max_bytes)
            or (self.max_frames and len(self.frames) >= self.max_frames)
        ):
            if not self.drop_oldest:
                self.lost += 1
                return False
            self._make_room(size)
        self.frames.append(queued)
        self._bytes += size
        return True

    def _make_room(self, size: int) -> None:
        while self.frames and (
            (self.max_bytes and self._bytes + size > self.max_bytes)
            or (self.max_frames and len(self.frames) >= self.max_frames)
        ):
            self._bytes -= len(self.frames.popleft().payload)
            self.lost += 1

    def take(self, max_bytes: int) -> list[QueuedFrame]:
        """Remove and return the oldest frames, at least one if there is any, up to about
        *max_bytes* of payload.
        """
        with self._safe:
            self._busy = True
            try:
                return self._take(max_bytes)
            finally:
                self._done()

    def _take(self, max_bytes: int) -> list[QueuedFrame]:
        frames = self.frames
        if self._bytes + (len(frames) << 4) <= max_bytes:
            taken = list(frames)
            frames.clear()
            self._bytes = 0
            return taken
        taken = []
        size = 0
        while frames and (not taken or size + len(frames[0].payload) <= max_bytes):
            queued = frames.popleft()
            taken.append(queued)
            size += len(queued.payload) + 16
        self._bytes -= sum(len(queued.payload) for queued in taken)
        return taken

    def drop(self, count: int) -> None:
        """Count *count* frames that were taken and cannot be sent as lost."""
        with self._safe:
            self.lost += count

    def put_back(self, frames: list[QueuedFrame]) -> None:
        """Put *frames* that were taken but not sent at the head again, in their order; the limits
        do not apply.
        """
        with self._safe:
            self._busy = True
            try:
                self.frames.extendleft(reversed(frames))
                self._bytes += sum(len(queued.payload) for queued in frames)
            finally:
                self._done()

    def clear(self) -> None:
        """Remove all frames."""
        with self._safe:
            self.frames.clear()
            self._bytes = 0
