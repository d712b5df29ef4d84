"""SynLZ, the fast LZ compression of the native protocols, in pure Python: streams are the same bytes both ways.

A stream carries no offsets: both sides keep the same table of 4096 positions. What wraps a stream into a checked container is in
``algosynlz.py``. No frame, socket, thread or clock belongs in here.
"""

from __future__ import annotations


class SynLZError(ValueError):
    """A SynLZ stream that cannot be decompressed: truncated, corrupt, or larger than allowed."""


def synlz_compress(data: bytes) -> bytes:
    """Return the SynLZ stream of *data*, byte for byte that of the native encoder. It can be longer than *data*, by an eighth."""
    raise NotImplementedError


def synlz_decompress(stream: bytes, max_size: int) -> bytes:
    """Return what the SynLZ *stream* was made from.

    Raises :class:`SynLZError`, and nothing else, for a stream that is truncated or corrupt, or whose content has more than
    *max_size* bytes. Memory stays within *max_size* whatever the header announces.
    """
    raise NotImplementedError
