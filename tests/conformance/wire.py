"""Frames as the suite writes and reads them: a second codec, written from RFC 6455 §5 and RFC 7692
alone.

It shares nothing with the library, can write what the library refuses to, and reads strictly:
whatever the library sends against the RFC is an assertion here.
"""

from __future__ import annotations

from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RESERVED_OPCODES = (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
#: the mask of the raw client, unless a case wants another
MASK = b"\x37\xfa\x21\x3d"


class Frame(NamedTuple):
    """One frame; *rsv* holds RSV1, RSV2 and RSV3 as the number that they form (4, 2 and 1)."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0


def octets(payload: bytes | str) -> bytes:
    """Return *payload* as bytes, a ``str`` in UTF-8."""
    return payload.encode("utf-8") if isinstance(payload, str) else payload


def text(payload: bytes | str = b"", fin: bool = True, rsv: int = 0) -> Frame:
    """Return a text frame, valid or not."""
    return Frame(TEXT, octets(payload), fin, rsv)


def binary(payload: bytes = b"", fin: bool = True, rsv: int = 0) -> Frame:
    """Return a binary frame."""
    return Frame(BINARY, payload, fin, rsv)


def more(payload: bytes | str = b"", fin: bool = True, rsv: int = 0) -> Frame:
    """Return a continuation frame, by default the last one of its message."""
    return Frame(CONTINUATION, octets(payload), fin, rsv)


def ping(payload: bytes | str = b"") -> Frame:
    """Return a ping."""
    return Frame(PING, octets(payload))


def pong(payload: bytes | str = b"") -> Frame:
    """Return a pong."""
    return Frame(PONG, octets(payload))


def close(code: int | None = None, reason: bytes | str = b"") -> Frame:
    """Return a close frame, with any 16-bit *code*, or empty."""
    return Frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + octets(reason))


def fragments(opcode: int, *parts: bytes | str, rsv: int = 0) -> list[Frame]:
    """Return a message in one frame for each of its *parts*; *rsv* goes to the first of them."""
    last = len(parts) - 1
    return [
        Frame(CONTINUATION if at else opcode, octets(part), at == last, 0 if at else rsv)
        for at, part in enumerate(parts)
    ]


def cut(payload: bytes, size: int) -> list[bytes]:
    """Return *payload* in pieces of *size* bytes, at least one of them."""
    return [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]


def xor(payload: bytes, mask: bytes) -> bytes:
    """Return *payload* masked with, or freed from, *mask*."""
    size = len(payload)
    pad = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def encode(
    frame: Frame, mask: bytes | None, width: int | None = None, announce: int | None = None
) -> bytes:
    """Return the bytes of *frame*, masked if there is a *mask*.

    *width* is the number of bytes (0, 2 or 8) of the extended length, by default the least that
    will do; *announce* the length to write instead of that of the payload.
    """
    opcode, payload, fin, rsv = frame
    size = len(payload) if announce is None else announce
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    header = bytes([fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | short])
    header += size.to_bytes(width, "big") if width else b""
    return header + payload if mask is None else header + mask + xor(payload, mask)


class FrameReader:
    """Takes frames out of what the library sends, and asserts that each is what RFC 6455 allows
    that side to send.
    """

    def __init__(self, masked: bool, rsv1: bool) -> None:
        """*masked*: the frames have to be masked; *rsv1*: they may be compressed."""
        self._masked = masked
        self._rsv1 = rsv1
        self._unread = bytearray()
        #: the masking keys of all frames
        self.masks: list[bytes] = []
        #: sizes on the wire, headers included, of all frames
        self.sizes: list[int] = []

    @property
    def unread(self) -> bytes:
        """What has arrived of a frame that is not complete."""
        return bytes(self._unread)

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._unread += data

    def next(self) -> Frame | None:
        """Return the next frame, None while it is not complete."""
        data = self._unread
        if len(data) < 2:
            return None
        fin, rsv, opcode = bool(data[0] & 0x80), data[0] >> 4 & 7, data[0] & 15
        size, start = data[1] & 0x7F, 2
        assert opcode not in RESERVED_OPCODES, f"reserved opcode {opcode}"
        assert not rsv or (rsv == 4 and self._rsv1 and opcode in (TEXT, BINARY)), (
            f"reserved bits {rsv:03b}"
        )
        assert opcode < 8 or (fin and size <= 125), (
            "a control frame that is fragmented, or of more than 125 bytes"
        )
        assert bool(data[1] & 0x80) is self._masked, "masked" if not self._masked else "not masked"
        if size > 125:
            start += 2 if size == 126 else 8
            if len(data) < start:
                return None
            least = 126 if size == 126 else 65536
            size = int.from_bytes(data[2:start], "big")
            assert least <= size < 1 << 63, "the length is not in its shortest form"
        mask = bytes(data[start : start + 4]) if self._masked else b""
        start += len(mask)
        if len(data) < start + size or (self._masked and len(mask) < 4):
            return None
        payload = bytes(data[start : start + size])
        del data[: start + size]
        self.sizes.append(start + size)
        if self._masked:
            self.masks.append(mask)
            payload = xor(payload, mask)
        return Frame(opcode, payload, fin, rsv)
