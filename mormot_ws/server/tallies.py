"""What a server counts about its connections: messages, bytes, losses, and close codes.

Peers choose their codes, so the number of different codes is limited. The server guards this.
"""

from __future__ import annotations

from .connection import WebSocketProcessServer

#: the most different codes that are counted, besides those of RFC 6455
_MOST_OTHER = 50
#: a connection that ended without a close frame
_LOST = 1006


class CloseCodes:
    """Counts how often each close code has ended a connection."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def count(self, code: int) -> None:
        """Count one connection; 0 counts as 1006, lost. Codes above the limit count as 0."""
        counts = self._counts
        code = code or _LOST
        if code not in counts and not 1000 <= code < 1016 and len(counts) >= _MOST_OTHER:
            code = 0
        counts[code] = counts.get(code, 0) + 1

    def as_dict(self) -> dict[int, int]:
        """Return the counts by code, as a new dictionary. From any thread."""
        return self._counts.copy()


def totals_of(process: WebSocketProcessServer) -> tuple[int, int, int, int, int]:
    """Return messages in and out, bytes in and out, and messages that its queue has lost."""
    protocol = process.protocol
    return (
        protocol.frames_in_count,
        protocol.frames_out_count,
        protocol.frames_in_bytes,
        protocol.frames_out_bytes,
        process.outgoing.lost,
    )
