"""MessageCounts: how many messages a protocol object has carried, and how large they were."""

from __future__ import annotations


class MessageCounts:
    """The counts of one protocol object, over all its connections.

    The receiving numbers belong to the thread that reads, the sending ones to the thread that
    holds the output lock; any thread may read them.
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
