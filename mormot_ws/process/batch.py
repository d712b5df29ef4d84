"""Batch: queued frames as one buffer, and how much of it the kernel has accepted.

It only holds bytes and counts: it does not write, wait or lock. The sender uses it under its lock.
"""

from __future__ import annotations

from ..core.outgoing import QueuedFrame


class Batch:
    """The frames that are being sent, and their unsent bytes. Used under ``safe_out``."""

    __slots__ = (
        "_frames",
        "_joined",
        "_joined_bytes",
        "_offered",
        "_sizes",
        "_tail",
        "_uncertain",
        "last",
        "wire",
    )

    def __init__(self) -> None:
        self._frames: list[QueuedFrame] = []
        # the encoded size of each frame, in bytes
        self._sizes: list[int] = []
        # how many of them are joined into one frame on the wire, and the size of its payload
        self._joined = 0
        self._joined_bytes = 0
        # the bytes of a close frame at the end, which belong to none of the frames
        self._tail = 0
        # True from before a write until its result is recorded
        self._offered = False
        # True if a signal handler has raised in between: it is unknown what was sent
        self._uncertain = False
        #: the bytes that the kernel has not accepted; None if nothing is being sent
        self.wire: memoryview | None = None
        #: True if a close frame is at the end: nothing is sent after this batch
        self.last = False

    def fill(self, frames: list[QueuedFrame], parts: list[bytes]) -> None:
        """Begin with *frames*, whose encoded forms are *parts*, one for each."""
        self._frames = frames
        self._sizes = list(map(len, parts))
        self.wire = memoryview(b"".join(parts))

    def fill_joined(self, frames: list[QueuedFrame], wire: bytes, size: int) -> None:
        """Begin with *frames* joined into one on the *wire*, with *size* bytes of payload."""
        self._frames = frames
        self._joined, self._joined_bytes = len(frames), size
        # all bytes count as the first frame's: if one is unsent, all frames are queued again
        self._sizes = [len(wire)] + [0] * (len(frames) - 1)
        self.wire = memoryview(wire)

    def fill_control(self, wire: bytes) -> None:
        """Begin with pings and pongs, which are not counted."""
        self.wire = memoryview(wire)

    def close_behind(
        self, frames: list[QueuedFrame], parts: list[bytes], close: memoryview
    ) -> None:
        """Append more *frames*, and then the bytes of a *close* frame."""
        rest = [] if self.wire is None else [self.wire.tobytes()]
        self._frames = [*self._frames, *frames]
        self._sizes = [*self._sizes, *map(len, parts)]
        self.wire = memoryview(b"".join([*rest, *parts, close]))
        self._tail = len(close)
        self.last = True

    def offer(self) -> memoryview:
        """Return the bytes to write now; :meth:`advance` records the result."""
        assert self.wire is not None
        if self._offered:
            # the result of another write was never recorded, and cannot be told from this one's
            self._uncertain = True
        self._offered = True
        return self.wire

    def advance(self, count: int) -> memoryview:
        """Record that the kernel has accepted *count* bytes; return the rest."""
        assert self.wire is not None
        self.wire = wire = self.wire[count:]
        self._offered = False
        return wire

    def finish(self) -> tuple[int, int]:
        """End the batch, which was sent; return its number of frames and of payload bytes.

        Joined frames count as one.
        """
        frames = self._frames
        count, size = len(frames), 0
        if self._joined and frames:
            # they are sent or lost together
            count -= self._joined - 1
            size = self._joined_bytes
            frames = frames[self._joined :]
        size += sum([len(queued[1]) for queued in frames])
        self.clear()
        return count, size

    def clear(self) -> None:
        """Discard everything."""
        self._frames, self._sizes, self.wire = [], [], None
        self._joined = self._joined_bytes = 0
        self._offered = self._uncertain = False

    def give_up(self, unsent: int) -> tuple[list[QueuedFrame], bool]:
        """Remove and return the frames that were not sent whole, after the connection was lost, and
        whether that is certain: if not, some of them may have been sent.

        *unsent* is the number of bytes that were accepted, but are still in the TLS buffer. The
        frames that stay in the batch were sent; :meth:`finish` counts them.
        """
        lost: list[QueuedFrame] = []
        left = (0 if self.wire is None else len(self.wire)) + unsent - self._tail
        # the unsent bytes are at the end: walk back until they are covered
        while self._frames and left > 0:
            lost.append(self._frames.pop())
            left -= self._sizes.pop()
        lost.reverse()
        return lost, not (self._offered or self._uncertain)
