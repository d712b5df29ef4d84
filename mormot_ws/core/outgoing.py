"""OutgoingFrames: the bounded queue behind ``send_frame_async``, and its batches.

The queue belongs to a ``WebSocketProcess`` and outlives its TCP connections: frames that were not
fully written when a connection was lost are at the head of the queue again when the next one
starts. This module has no sockets or threads; the queue has its own lock.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from .frames import WebSocketFrame, WebSocketFrameOpCode, WebSocketFramePayload


class QueuedFrame(NamedTuple):
    """An immutable copy of a frame, so that the caller may change the original immediately."""

    opcode: WebSocketFrameOpCode
    payload: bytes
    content: WebSocketFramePayload
    #: the encoded frame, if several connections share one encoding (a server's broadcast)
    wire: bytes | None = None

    @classmethod
    def copy_of(cls, frame: WebSocketFrame) -> QueuedFrame:
        """Return a copy of *frame*."""
        return cls(frame._opcode, frame._payload, frame._content)

    def frame(self) -> WebSocketFrame:
        """Return a new frame with this content."""
        return WebSocketFrame(self.opcode, self.payload, self.content)


class OutgoingFrames:
    """Frames waiting to be sent, in order. Mirrors the ``Outgoing`` list of ``TWebSocketProcess``.

    :param max_frames: the most frames that may wait (0: no limit).
    :param max_bytes: the most payload bytes that may wait (0: no limit). An empty queue always
        accepts one frame.
    :param drop_oldest: True: a full queue drops its oldest frames instead of refusing the new one.

    All methods are thread-safe.
    """

    def __init__(self, max_frames: int = 0, max_bytes: int = 0, drop_oldest: bool = False) -> None:
        self.max_frames = max_frames
        self.max_bytes = max_bytes
        self.drop_oldest = drop_oldest
        #: how many frames were refused or dropped because the queue was full
        self.lost: int = 0
        #: guards the fields below; last in the lock order; nothing is called while it is held
        self._safe = threading.RLock()
        # whether a change is in progress, and what signal handlers or finalisers of the same thread
        # push meanwhile: the same change, or the next one, appends it to the frames
        self._busy = False
        self._late: list[QueuedFrame] = []
        #: the waiting frames, oldest first; other objects only check whether it is empty
        self.frames: deque[QueuedFrame] = deque()
        #: what :meth:`take` returned last, until :meth:`settled`: if a signal handler raises in
        #: between, the frames are found here
        self.taken: list[QueuedFrame] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.frames) + len(self._late)

    def __repr__(self) -> str:
        return f"<OutgoingFrames count={self.count} bytes={self.bytes} lost={self.lost}>"

    @property
    def count(self) -> int:
        """The number of waiting frames; mirrors ``Count``."""
        return len(self)

    @property
    def bytes(self) -> int:
        """The number of waiting payload bytes."""
        return self._bytes

    def is_held_here(self) -> bool:
        """Return whether the calling thread is inside a method of this object.

        True only in a signal handler or finaliser, which then must not wait for a thread that sends
        queued frames, because that thread waits for this one.
        """
        # every Python's RLock has it: Condition needs it
        return bool(self._safe._is_owned())  # type: ignore[attr-defined]

    def push(self, frame: WebSocketFrame) -> bool:
        """Append a copy of *frame*; return False if the queue is full. Mirrors ``Push``."""
        return self.push_queued(QueuedFrame.copy_of(frame))

    def push_queued(self, queued: QueuedFrame) -> bool:
        """Append *queued* itself; return False if the queue is full."""
        size = len(queued[1])
        with self._safe:
            frames = self.frames
            if (
                frames
                and not self._busy
                and not self._late
                and (not self.max_bytes or self._bytes + size <= self.max_bytes)
                and (not self.max_frames or len(frames) < self.max_frames)
            ):
                # the usual case. A signal handler or finaliser that runs in between appends its
                # frame before this one, which changes nothing here
                self._bytes += size
                frames.append(queued)
                return True
            return self._push_carefully(queued, size)

    def _push_carefully(self, queued: QueuedFrame, size: int) -> bool:
        """Append *queued*, or refuse it, in any state of the queue."""
        if self._busy:
            # we are in a signal handler or finaliser that has interrupted this same thread
            self._late.append(queued)
            return True
        # a signal handler may raise after any call: nothing is called in the ``finally``
        try:
            self._busy = True
            if self._late:
                self._push_late()
            pushed = self._push(queued, size)
            if self._late:
                self._push_late()
            return pushed
        finally:
            self._busy = False

    def _push_late(self) -> None:
        """Append what was pushed during a change. An interrupted call is continued here."""
        while self._late:
            late = self._late[0]
            if not (self.frames and self.frames[-1] is late):
                # it was accepted, so the limits do not apply
                self._append(late, len(late.payload))
            del self._late[0]

    def _push(self, queued: QueuedFrame, size: int) -> bool:
        if self.frames and (
            (self.max_bytes and self._bytes + size > self.max_bytes)
            or (self.max_frames and len(self.frames) >= self.max_frames)
        ):
            if not self.drop_oldest:
                self.lost += 1
                return False
            self._make_room(size)
        self._append(queued, size)
        return True

    def _append(self, queued: QueuedFrame, size: int) -> None:
        if not self.frames:
            # an interrupted change may have left a wrong number
            self._bytes = 0
        self._bytes += size
        self.frames.append(queued)

    def _make_room(self, size: int) -> None:
        while self.frames and (
            (self.max_bytes and self._bytes + size > self.max_bytes)
            or (self.max_frames and len(self.frames) >= self.max_frames)
        ):
            self._bytes -= len(self.frames.popleft().payload)
            self.lost += 1

    def take(self, max_bytes: int) -> list[QueuedFrame]:
        """Remove and return the oldest frames, up to about *max_bytes* of payload.

        At least one frame is returned, unless the queue is empty. :meth:`settled` follows.
        """
        with self._safe:
            try:
                self._busy = True
                if self._late:
                    self._push_late()
                return self._take(max_bytes)
            finally:
                self._busy = False

    def _take(self, max_bytes: int) -> list[QueuedFrame]:
        frames = self.frames
        if self._bytes + (len(frames) << 4) <= max_bytes:
            taken = self.taken = list(frames)
            frames.clear()
            self._bytes = 0
            return taken
        taken = self.taken = []
        size = 0
        while frames and (not taken or size + len(frames[0].payload) <= max_bytes):
            queued = frames.popleft()
            taken.append(queued)
            size += len(queued.payload) + 16
        self._bytes -= sum(len(queued.payload) for queued in taken)
        return taken

    def settled(self) -> None:
        """Record that the taken frames are in other hands, or were dropped or put back."""
        self.taken = []

    def drop(self, count: int) -> None:
        """Count *count* frames as lost that were taken and cannot be sent."""
        with self._safe:
            self.lost += count

    def put_back(self, frames: list[QueuedFrame]) -> None:
        """Put *frames*, which were taken but not sent, back at the head in their order.

        The limits do not apply.
        """
        with self._safe:
            try:
                self._busy = True
                self._bytes += sum(len(queued.payload) for queued in frames)
                self.frames.extendleft(reversed(frames))
                if self._late:
                    self._push_late()
            finally:
                self._busy = False

    def die_in_child(self) -> None:
        """Become empty in a forked child, where a thread of the parent may have held the lock."""
        self._safe = threading.RLock()
        self._busy, self._late = False, []
        self.frames, self.taken, self._bytes, self.lost = deque(), [], 0, 0

    def clear(self) -> None:
        """Remove all frames."""
        with self._safe:
            self.frames.clear()
            self._late.clear()
            self._bytes = 0
