"""Batch: queued frames as one buffer, half sent perhaps, and which of them the kernel has taken.

Bytes and counts only: nothing here writes, waits or locks. The sender uses it under its lock.
"""

from __future__ import annotations

from ..core.outgoing import QueuedFrame


class Batch:
    """The frames that are being sent, and what is left of their bytes. Under ``safe_out``."""

    __slots__ = ("_frames", "_joined", "_joined_bytes", "_sizes", "_tail", "last", "wire")

    def __init__(self) -> None:
        self._frames: list[QueuedFrame] = []
        # bytes of each of them on the wire
        self._sizes: list[int] = []
        # of them, how many are one on the wire, and the bytes of payload of that one
        self._joined = 0
        self._joined_bytes = 0
        # bytes at the end that belong to none of them: those of a close frame
        self._tail = 0
        #: what the kernel has not taken; None when nothing is being sent
        self.wire: memoryview | None = None
        #: True when a close frame is at the end: nothing comes after this batch
        self.last = False

    def fill(self, frames: list[QueuedFrame], parts: list[bytes]) -> None:
        """Begin with *frames*, whose bytes on the wire are *parts*, one by one."""
        self._frames = frames
        self._sizes = list(map(len, parts))
        self.wire = memoryview(b"".join(parts))

    def fill_joined(self, frames: list[QueuedFrame], wire: bytes, size: int) -> None:
        """Begin with *frames* that are one on the *wire*, with *size* bytes of payload."""
        self._frames = frames
        self._joined, self._joined_bytes = len(frames), size
        # as if all of it were the first one's: what is not taken whole is requeued whole
        self._sizes = [len(wire)] + [0] * (len(frames) - 1)
        self.wire = memoryview(wire)

    def fill_control(self, wire: bytes) -> None:
        """Begin with pings and pongs, which nobody counts."""
        self.wire = memoryview(wire)

    def close_behind(
        self, frames: list[QueuedFrame], parts: list[bytes], close: memoryview
    ) -> None:
        """Append further *frames*, and the rest of a *close* frame as the last bytes of all."""
        rest = [] if self.wire is None else [self.wire.tobytes()]
        self._frames = [*self._frames, *frames]
        self._sizes = [*self._sizes, *map(len, parts)]
        self.wire = memoryview(b"".join([*rest, *parts, close]))
        self._tail = len(close)
        self.last = True

    def advance(self, count: int) -> memoryview:
        """The kernel has taken *count* bytes; return what is left."""
        assert self.wire is not None
        self.wire = self.wire[count:]
        return self.wire

    def finish(self) -> tuple[int, int]:
        """All of it was taken: return how many frames and bytes of payload that were. Those that
        are one on the wire count as one.
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
        """Forget everything."""
        self._frames, self._sizes, self.wire = [], [], None
        self._joined = self._joined_bytes = 0

    def give_up(self, unsent: int) -> list[QueuedFrame]:
        """The connection is lost: remove and return the frames that the kernel has not taken whole.

        *unsent*: bytes that it seemed to have taken, and that have not left (TLS). What stays in
        the batch was sent, and is counted by :meth:`finish`.
        """
        lost: list[QueuedFrame] = []
        left = (0 if self.wire is None else len(self.wire)) + unsent - self._tail
        # the sizes are known from the end: walk back until the unsent bytes are covered
        while self._frames and left > 0:
            lost.append(self._frames.pop())
            left -= self._sizes.pop()
        lost.reverse()
        return lost
