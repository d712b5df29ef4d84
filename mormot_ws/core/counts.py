"""MessageCounts: the number and size of the messages that a protocol object has carried."""

from __future__ import annotations


class MessageCounts:
    """The counts of one protocol object, over all its connections.

    The reading thread updates the received counts; the thread that holds the output lock updates
    the sent counts. Any thread may read them.
    """

    __slots__ = ("bytes_in", "bytes_out", "frames_in", "frames_out")

    def __init__(self) -> None:
        #: messages received
        self.frames_in = 0
        #: bytes of their payload
        self.bytes_in = 0
        #: messages sent
        self.frames_out = 0
        #: bytes of their payload
        self.bytes_out = 0

    def sent(self, frames: int, size: int) -> None:
        """Count *frames* messages, of *size* bytes together, as sent."""
        self.frames_out += frames
        self.bytes_out += size

    def decoded(self, received: int, size: int) -> None:
        """Correct the size of a received message from *received* to *size* bytes."""
        self.bytes_in += size - received
