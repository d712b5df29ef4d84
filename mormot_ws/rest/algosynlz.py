"""The container for compressed data in the native protocols.

It consists of two CRC-32C, a marker, and the data, either stored or compressed with SynLZ. This
module also contains the tests that decide whether to compress: is the content text, or is it
already compressed? All functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable

from .crc32c import crc32c
from .synlz import SynLZError, synlz_compress, synlz_decompress

#: plain data of fewer bytes is stored uncompressed
COMPRESS_FROM = 450
#: bytes that a container adds to stored data: CRC of the data, marker, CRC of the contents
OVERHEAD = 9
_STORED = b"\x00"
_SYNLZ = b"\x01"

_TEXT_APPLICATIONS = ("json", "javascript", "xml", "rtf")
#: the first bytes of formats that a native sender treats as already compressed; only these, so that
#: both sides produce the same bytes
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG",
    b"GIF8",
    b"II*\0",  # TIFF, in four forms
    b"MM\0*",
    b"MM\0+",
    b"I I",
    b"PK\x03\x04",  # ZIP, and the many formats based on it
    b"\x1f\x8b\x08",  # gzip
    b"BZh",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x04\x22\x4d\x18",  # LZ4
    b"\xffLZM",
    b"MSCF",  # cabinets
    b"ISc(",
    b"\x5f\x27\xa8\x89",  # JAR
    b"\xce\xce\xce\xce",  # JCEKS
    b"!<ar",  # Debian packages
    b"\xed\xab\xee\xdb",  # RPM
    b"\xd0\xcf\x11\xe0",  # MSI, and documents of old versions of Office
    b"RIFF",  # WebP, AVI, …
    b"fLaC",
    b"ID3",
    b"\x00\x00\x01\xb7",  # MPEG
    b"\x00\x00\x01\xba",
    b"\x30\x26\xb2\x75",  # WMA
    b"\xd7\xcd\xc6\x9a",  # WMV
    b"moov",
    b"FLV",
    b"FWS",  # Flash
    b"CWS",
    b"ZWS",
    b"wOFF",
    # mORMot's own files: maps, tables, logs, databases
    b"\xa5\xa5\xa5\xa5",
    b"\x5a\xa5\xa5\xa5",
    b"\xa5\xa5\xab\xa5",
    b"\x51\x10\xa5\xab",
    *(bytes((first, 0xA5, 0xA5, 0xAB)) for first in range(0xAB, 0xB3)),
)
#: the same for bytes 4 to 7: MP4, QuickTime
_LATE_SIGNATURES = (b"ftyp", b"moov")


def algo_compress(data: bytes, *, stored: bool = False, threshold: int = COMPRESS_FROM) -> bytes:
    """Return the container of *data*; b'' for no data. Mirrors ``AlgoSynLZ.Compress``.

    Data of at least *threshold* bytes is compressed if that makes it shorter, unless *stored*.
    """
    if not data:
        return b""
    crc = crc32c(data).to_bytes(4, "little")
    if not stored and len(data) >= threshold:
        stream = synlz_compress(data)
        if len(stream) < len(data):
            return b"".join((crc, _SYNLZ, crc32c(stream).to_bytes(4, "little"), stream))
    return b"".join((crc, _STORED, crc, data))


def is_container(payload: bytes) -> bool:
    """Return whether *payload* is a container, judging by the checksum of its contents."""
    return len(payload) > OVERHEAD and crc32c(payload[9:]).to_bytes(4, "little") == payload[5:9]


def algo_decompress(
    container: bytes, max_size: int, between: Callable[[], object] | None = None
) -> bytes:
    """Return the data in *container*; b'' if a checksum is wrong or there are too many bytes.

    *max_size* is the limit in bytes. *between* is called repeatedly while a large stream is
    decompressed. Only exceptions from *between* are raised. Mirrors ``AlgoSynLZ.Decompress``.
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
        data = synlz_decompress(rest, max_size, between)
    except SynLZError:
        return b""
    return data if crc32c(data).to_bytes(4, "little") == crc else b""


def is_text_type(content_type: str) -> bool:
    """Return whether *content_type* is a kind of text, which is always worth compressing."""
    kind = content_type.strip().lower()
    if kind.startswith(("text/", "image/svg")):
        return True
    family, _, name = kind.partition("/")
    return family == "application" and (
        name.startswith(_TEXT_APPLICATIONS) or "+json" in name or "+xml" in name
    )


def is_compressed(content: bytes) -> bool:
    """Return whether *content* begins like an already compressed format (JPEG, PNG, ZIP, …).

    Mirrors ``IsContentCompressed``.
    """
    return len(content) > 8 and (
        content.startswith(_SIGNATURES) or content[4:8] in _LATE_SIGNATURES
    )


def is_worth_storing(content_type: str, content: bytes) -> bool:
    """Return whether to store *content*: its type is not text, and it is already compressed."""
    return content_type != "" and is_compressed(content) and not is_text_type(content_type)
