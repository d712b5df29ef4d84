"""The binary form of REST messages (``synopsebin``, ``synopsebinary``), before compression.

A message has a head, a separator, and fields with their lengths. A jumbo frame has several
messages. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .messages import (
    MAX_FIELD,
    RestAnswer,
    RestMessageError,
    RestRequest,
    check_field,
    parse_status,
    received_content_type,
    sent_content_type,
    to_bytes,
    to_text,
)

JUMBO_HEAD = "frames"
_SEPARATOR = b"\x01"
_JUMBO_START = JUMBO_HEAD.encode() + _SEPARATOR
#: the maximum messages of a jumbo frame: one full of empty messages would take minutes to handle
MAX_JUMBO = 1 << 16
#: the maximum bytes of a head
_MAX_HEAD = 64
#: the number of fields before the content, by the first letter of the head
_FIELDS = {ord("r"): 5, ord("a"): 3}
_SMALL = [bytes((value,)) for value in range(128)]


def encode_varuint(value: int) -> bytes:
    """Return *value* (0 to 2³²−1) in 7-bit groups, the low ones first.

    Raises ``ValueError`` outside that range.
    """
    if 0 <= value < 128:
        return _SMALL[value]
    if not 0 <= value < 1 << 32:
        raise ValueError(f"a varuint must be from 0 to 2**32-1, not {value}")
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def decode_varuint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, offset after it) of the number at offset *at*.

    Raises :class:`RestMessageError` if there is none, or if it has more than 5 bytes or 32 bits.
    """
    value = shift = 0
    for byte in data[at : at + 5]:
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 32:
                break
            return value, at
        shift += 7
    raise RestMessageError("a length is truncated or too large")


def is_readable(plain: bytes) -> bool:
    """Return whether *plain* is a whole request or answer, or a jumbo frame of them.

    Copies nothing.
    """
    try:
        if not is_jumbo(plain):
            return _is_message(plain, 0, len(plain))
        last, at = decode_varuint(plain, len(_JUMBO_START))
        if last >= MAX_JUMBO:
            return False
        for _ in range(last + 1):
            size, at = decode_varuint(plain, at)
            end = at + size
            if end > len(plain) or not _is_message(plain, at, end):
                return False
            at = end
    except RestMessageError:
        return False
    return True


def _is_message(plain: bytes, at: int, end: int) -> bool:
    """Return whether there is a whole message from offset *at* to *end*."""
    separator = plain.find(_SEPARATOR, at, min(end, at + _MAX_HEAD))
    if separator <= at:
        return False
    count = _FIELDS.get(plain[at])
    if count is None:
        return False
    is_answer = count == 3
    at = separator + 1
    for number in range(count):
        size, at = decode_varuint(plain, at)
        if at + size > end or size > MAX_FIELD:
            return False
        if is_answer and number == 0 and not (size <= 9 and plain[at : at + size].isdigit()):
            return False
        at += size
    return True


def encode_binary(head: str, message: RestRequest | RestAnswer) -> bytes:
    """Return the plain frame of *message* under *head* (``r000001``, ``request``, …)."""
    content_type = sent_content_type(message.content_type, message.content)
    if isinstance(message, RestRequest):
        method = "" if message.method == "POST" else message.method
        fields = [
            method,
            message.url,
            message.headers,
            "1" if message.no_answer else "0",
            content_type,
        ]
    else:
        fields = [str(message.status), message.headers, content_type]
    parts = [head.encode("latin-1"), _SEPARATOR]
    for field in fields:
        data = to_bytes(field)
        parts += (encode_varuint(len(data)), data)
    parts.append(message.content)
    return b"".join(parts)


def binary_head(plain: bytes) -> str:
    """Return the head of the *plain* frame; ``'frames'`` for a jumbo frame; '' if it has none.

    Cheap, because only the beginning is read.
    """
    end = plain.find(_SEPARATOR, 0, _MAX_HEAD)
    return plain[:end].decode("latin-1") if end > 0 else ""


def decode_binary(plain: bytes) -> tuple[str, RestRequest | RestAnswer]:
    """Return (head, message) of a *plain* frame.

    It is a request if its head begins with ``r``, an answer if it begins with ``a``. Raises
    :class:`RestMessageError` for anything else. Use :func:`decode_jumbo` first for a jumbo frame.
    """
    head = binary_head(plain)
    kind = head[:1]
    if kind == "r":
        (method, url, headers, no_answer, kind_of_content), content = _fields(
            plain, len(head) + 1, 5
        )
        content_type = received_content_type(to_text(kind_of_content), content)
        name = to_text(method) or "POST"
        return head, RestRequest(
            name, to_text(url), to_text(headers), no_answer == b"1", content_type, content
        )
    if kind == "a":
        (status, headers, kind_of_content), content = _fields(plain, len(head) + 1, 3)
        content_type = received_content_type(to_text(kind_of_content), content)
        return head, RestAnswer(parse_status(status), to_text(headers), content_type, content)
    raise RestMessageError("neither a request nor an answer")


def _fields(plain: bytes, at: int, count: int) -> tuple[list[bytes], bytes]:
    """Return (the *count* fields from offset *at*, the rest)."""
    fields = []
    for _ in range(count):
        field, at = _field(plain, at)
        fields.append(check_field(field))
    return fields, plain[at:]


def _field(plain: bytes, at: int) -> tuple[bytes, int]:
    size, at = decode_varuint(plain, at)
    end = at + size
    if end > len(plain):
        raise RestMessageError("a field is truncated")
    return plain[at:end], end


def is_jumbo(plain: bytes) -> bool:
    """Return whether *plain* is a jumbo frame."""
    return plain.startswith(_JUMBO_START)


def encode_jumbo(frames: Sequence[bytes]) -> bytes:
    """Return the jumbo frame of the plain *frames*. Raises ``ValueError`` if there are none."""
    if not frames:
        raise ValueError("a jumbo frame must contain at least one frame")
    parts = [_JUMBO_START, encode_varuint(len(frames) - 1)]
    for frame in frames:
        parts += (encode_varuint(len(frame)), frame)
    return b"".join(parts)


def decode_jumbo(plain: bytes) -> list[bytes]:
    """Return the plain frames of a jumbo frame; bytes after the last one are ignored.

    Raises :class:`RestMessageError` if it is not a jumbo frame, is truncated, or has more than 2¹⁶
    frames.
    """
    jumbo_count(plain)
    return list(split_jumbo(plain))


def jumbo_count(plain: bytes) -> int:
    """Return how many frames a jumbo frame has. Raises the same as :func:`decode_jumbo`."""
    if not is_jumbo(plain):
        raise RestMessageError("not a jumbo frame")
    last, at = decode_varuint(plain, len(_JUMBO_START))
    if last >= MAX_JUMBO:
        raise RestMessageError("a jumbo frame has too many messages")
    # each frame has at least one byte, so a wrong count is detected at the first missing frame
    for _ in range(last + 1):
        size, at = decode_varuint(plain, at)
        at += size
        if at > len(plain):
            raise RestMessageError("a field is truncated")
    return last + 1


def split_jumbo(plain: bytes) -> Iterator[bytes]:
    """Yield the plain frames of a jumbo frame that :func:`jumbo_count` has accepted.

    They are produced one by one, because many small frames at once would need far more memory than
    the bytes received.
    """
    last, at = decode_varuint(plain, len(_JUMBO_START))
    for _ in range(last + 1):
        frame, at = _field(plain, at)
        yield frame
