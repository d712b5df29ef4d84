"""The container in which the native protocols send compressed data: two CRC-32C, a marker, and the data stored or as SynLZ.

Also the two tests by which a sender decides not to try: is this content text, and is it compressed already. Pure functions on
bytes; no frame, socket or thread belongs in here.
"""

from __future__ import annotations

from .crc32c import crc32c
from .synlz import SynLZError, synlz_compress, synlz_decompress

#: plain data of fewer bytes is stored as it is
COMPRESS_FROM = 450
#: bytes that a container adds to stored data: CRC of the data, marker, CRC of what follows
OVERHEAD = 9
_STORED = b"\x00"
_SYNLZ = b"\x01"

_TEXT_APPLICATIONS = ("json", "javascript", "xml", "rtf")
#: how formats that are compressed already begin
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG",
    b"GIF8",
    b"PK\x03\x04",  # ZIP, and the many formats that are one
    b"\x1f\x8b",  # gzip
    b"BZh",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"RIFF",  # WebP, AVI, …
    b"OggS",
    b"ID3",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",  # Zstandard
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"wOFF",
    b"wOF2",
)


def algo_compress(data: bytes, *, stored: bool = False, threshold: int = COMPRESS_FROM) -> bytes:
    """Return the container of *data*; b'' for no data. Mirrors ``AlgoSynLZ.Compress``.

    It is compressed from *threshold* bytes on when that makes it shorter; with *stored* never.
    """
    if not data:
        return b""
    crc = crc32c(data).to_bytes(4, "little")
    if not stored and len(data) >= threshold:
        stream = synlz_compress(data)
        if len(stream) < len(data):
            return b"".join((crc, _SYNLZ, crc32c(stream).to_bytes(4, "little"), stream))
    return b"".join((crc, _STORED, crc, data))


def algo_decompress(container: bytes, max_size: int) -> bytes:
    """Return the data in *container*; b'' when it does not verify or its data has more than *max_size* bytes. Never raises for bytes.

    Mirrors ``AlgoSynLZ.Decompress``.
    """
    if len(container) <= OVERHEAD:
        return b""
    crc, marker, crc_of_rest, rest = container[:4], container[4:5], container[5:9], container[9:]
    if crc32c(rest).to_bytes(4, "little") != crc_of_rest:
        return b""
    if marker == _STORED:
        return rest if crc == crc_of_rest and len(rest) <= max_size else b""
    if marker != _SYNLZ:
        return b""
    try:
        data = synlz_decompress(rest, max_size)
    except SynLZError:
        return b""
    return data if crc32c(data).to_bytes(4, "little") == crc else b""


def is_text_type(content_type: str) -> bool:
    """Tell whether *content_type* names text of some kind, which is worth compressing whatever it begins with."""
    kind = content_type.strip().lower()
    if kind.startswith(("text/", "image/svg")):
        return True
    family, _, name = kind.partition("/")
    return family == "application" and (name.startswith(_TEXT_APPLICATIONS) or "+json" in name or "+xml" in name)


def is_compressed(content: bytes) -> bool:
    """Tell whether *content* begins like a format that is compressed already (JPEG, PNG, ZIP, …). Mirrors ``IsContentCompressed``."""
    return len(content) > 8 and (content.startswith(_SIGNATURES) or content[4:8] == b"ftyp")


def is_worth_storing(content_type: str, content: bytes) -> bool:
    """Tell whether a message with this *content* is to be stored: it has a type that is not text, and is compressed already."""
    return content_type != "" and is_compressed(content) and not is_text_type(content_type)
