"""The container in which the native protocols send compressed data: two CRC-32C, a marker, and the data stored or as SynLZ.

Also the two tests by which a sender decides not to try: is this content text, and is it compressed already. Pure functions on
bytes; no frame, socket or thread belongs in here.
"""

from __future__ import annotations

#: plain data of fewer bytes is stored as it is
COMPRESS_FROM = 450
#: bytes that a container adds to stored data
OVERHEAD = 9


def algo_compress(data: bytes, *, stored: bool = False, threshold: int = COMPRESS_FROM) -> bytes:
    """Return the container of *data*; b'' for no data. Mirrors ``AlgoSynLZ.Compress``.

    It is compressed from *threshold* bytes on when that makes it shorter; with *stored* never.
    """
    raise NotImplementedError


def algo_decompress(container: bytes, max_size: int) -> bytes:
    """Return the data in *container*; b'' when it does not verify or its data has more than *max_size* bytes. Never raises for bytes.

    Mirrors ``AlgoSynLZ.Decompress``.
    """
    raise NotImplementedError


def is_text_type(content_type: str) -> bool:
    """Tell whether *content_type* names text of some kind, which is worth compressing whatever it begins with."""
    raise NotImplementedError


def is_compressed(content: bytes) -> bool:
    """Tell whether *content* begins like a format that is compressed already (JPEG, PNG, ZIP, …). Mirrors ``IsContentCompressed``."""
    raise NotImplementedError


def is_worth_storing(content_type: str, content: bytes) -> bool:
    """Tell whether a message with this *content* is to be stored: it has a type that is not text, and is compressed already."""
    raise NotImplementedError
