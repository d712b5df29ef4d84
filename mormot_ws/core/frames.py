"""WebSocket frames: opcodes, the frame record, and encoding.

Pure: no sockets, threads or clocks. The decoder is in ``incoming.py``.
"""

from __future__ import annotations

from enum import Flag, IntEnum
from typing import TYPE_CHECKING, ClassVar, Final

from ..elsewhere import Elsewhere
from ..errors import WebSocketsProtocolError
from .masking import Buffer, mask_bytes


class WebSocketFrameOpCode(IntEnum):
    """The opcodes of RFC 6455 §5.2. Mirrors ``TWebSocketFrameOpCode``."""

    # on the wire: a further fragment; in a chat callback: the connection is open
    focContinuation = 0
    focText = 1  # a UTF-8 text message
    focBinary = 2  # a binary message
    # on the wire: the close handshake; in a chat callback: the connection has ended
    focConnectionClose = 8
    focPing = 9  # answered immediately with a focPong of the same payload
    focPong = 10  # the answer to a ping, or unsolicited


focContinuation = WebSocketFrameOpCode.focContinuation
focText = WebSocketFrameOpCode.focText
focBinary = WebSocketFrameOpCode.focBinary
focConnectionClose = WebSocketFrameOpCode.focConnectionClose
focPing = WebSocketFrameOpCode.focPing
focPong = WebSocketFrameOpCode.focPong


_OPCODES = sorted(WebSocketFrameOpCode)


class WebSocketFramePayload(Flag):
    """Properties of a payload. Mirrors the Pascal set ``TWebSocketFramePayload``; 0 is ``[]``."""

    fopAlreadyCompressed = 1  # compressing it again would gain nothing


fopAlreadyCompressed = WebSocketFramePayload.fopAlreadyCompressed
_NO_FLAGS = WebSocketFramePayload(0)


def _payload_bytes(payload: object) -> bytes:
    if isinstance(payload, str):
        return payload.encode("utf-8")
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"a frame's payload must be bytes or str, not {type(payload).__name__}")


def _opcode_of(opcode: object) -> WebSocketFrameOpCode:
    if isinstance(opcode, int) and not isinstance(opcode, bool):
        try:
            return WebSocketFrameOpCode(opcode)
        except ValueError:
            raise ValueError(
                f"{opcode} is not an opcode: they are {', '.join(map(str, map(int, _OPCODES)))}"
            ) from None
    text = ": the text comes second, as in WebSocketFrame(focText, text)"
    raise TypeError(
        f"a frame's opcode must be focText, focBinary or another {WebSocketFrameOpCode.__name__},"
        f" not {type(opcode).__name__}{text if isinstance(opcode, (str, bytes)) else ''}"
    )


def _content_of(content: object) -> WebSocketFramePayload:
    if not isinstance(content, WebSocketFramePayload):
        raise TypeError(
            "a frame's content must be WebSocketFramePayload flags, like fopAlreadyCompressed, not"
            f" {type(content).__name__}: the data to send is its payload"
        )
    return content


def _tix_of(tix: object) -> int:
    if not isinstance(tix, int):
        raise TypeError(
            f"a frame's tix must be a whole number of seconds, not {type(tix).__name__}"
        )
    return tix


class WebSocketFrame:
    """One WebSocket message or control frame. Mirrors the record ``TWebSocketFrame``.

    *opcode* is a :class:`WebSocketFrameOpCode`; *payload* is kept as ``bytes`` (a ``str`` is
    encoded as UTF-8; for ``focText``, bytes must be UTF-8). *content* holds
    :class:`WebSocketFramePayload` flags, *tix* is the tick in seconds that
    ``WebSocketFrameList`` uses for expiry.

    Raises ``ValueError`` for an unknown opcode and ``TypeError`` for values of other types, here
    and when an attribute is set.
    """

    # where every frame passes, the package reads them without the properties
    __slots__ = ("_content", "_opcode", "_payload", "_tix")

    def __init__(
        self,
        opcode: WebSocketFrameOpCode | int,
        payload: Buffer | str = b"",
        content: WebSocketFramePayload = _NO_FLAGS,
        tix: int = 0,
    ) -> None:
        # every frame of a loop comes through here: the quick checks keep this fast
        if type(opcode) is not WebSocketFrameOpCode:
            opcode = _opcode_of(opcode)
        if type(payload) is not bytes:
            payload = _payload_bytes(payload)
        if content is not _NO_FLAGS:
            content = _content_of(content)
        if type(tix) is not int:
            tix = _tix_of(tix)
        self._opcode = opcode
        self._payload = payload
        self._content = content
        self._tix = tix

    @staticmethod
    def _decoded(opcode: WebSocketFrameOpCode, payload: bytes) -> WebSocketFrame:
        """Return the same as the constructor, at half the cost, for values that need no check."""
        frame: WebSocketFrame = _new_frame(WebSocketFrame)
        frame._opcode = opcode
        frame._payload = payload
        frame._content = _NO_FLAGS
        frame._tix = 0
        return frame

    @property
    def opcode(self) -> WebSocketFrameOpCode:
        """What kind of frame it is. A number is converted as in the constructor."""
        return self._opcode

    @opcode.setter
    def opcode(self, opcode: WebSocketFrameOpCode) -> None:
        self._opcode = _opcode_of(opcode)

    @property
    def content(self) -> WebSocketFramePayload:
        """Flags of the payload."""
        return self._content

    @content.setter
    def content(self, content: WebSocketFramePayload) -> None:
        self._content = _content_of(content)

    @property
    def tix(self) -> int:
        """The tick in seconds at which a :class:`WebSocketFrameList` drops the frame; 0: never."""
        return self._tix

    @tix.setter
    def tix(self, tix: int) -> None:
        self._tix = _tix_of(tix)

    @property
    def payload(self) -> bytes:
        """The content, as bytes. A new value is converted as in the constructor."""
        return self._payload

    # Buffer | str once every type checker lets a setter take more than its getter returns
    @payload.setter
    def payload(self, payload: bytes) -> None:
        self._payload = payload if type(payload) is bytes else _payload_bytes(payload)

    @property
    def text(self) -> str:
        """The payload decoded as UTF-8; for a close frame, the reason after its code.

        Raises ``UnicodeDecodeError`` if it is not UTF-8 (a binary frame may contain any bytes).
        """
        payload = self._payload[2:] if self._opcode is focConnectionClose else self.payload
        return payload.decode("utf-8")

    # if a type checker saw them, it would allow them
    if not TYPE_CHECKING:
        data = Elsewhere("data", "did you mean payload, the bytes, or text?")
        message = Elsewhere("message", "did you mean payload, the bytes, or text?")
        body = Elsewhere("body", "did you mean payload?")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WebSocketFrame):
            return NotImplemented
        return (
            self.opcode == other.opcode
            and self.payload == other.payload
            and self.content == other.content
        )

    # Python sets it to None because of __eq__: a frame is mutable, like the record
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = self.payload[:32]
        more = f"… {len(self.payload)} bytes" if len(self.payload) > len(shown) else ""
        return f"WebSocketFrame({self.opcode.name}, {shown!r}{more})"


_new_frame = WebSocketFrame.__new__
decoded_frame = WebSocketFrame._decoded


def check_frame(frame: object) -> None:
    """Raise ``TypeError`` if *frame* is not a ``WebSocketFrame``."""
    if not isinstance(frame, WebSocketFrame):
        raise TypeError(
            f"only a WebSocketFrame can be sent, not {type(frame).__name__}: create one with"
            " WebSocketFrame(focText, text) or WebSocketFrame(focBinary, data)"
        )


# ----------------------------------------------------------------------------------------- encoding

#: the headers of a server's short unfragmented messages, by payload length
SHORT_TEXT: Final = [bytes((0x81, size)) for size in range(126)]
_BINARY_HEADERS = [bytes((0x82, size)) for size in range(126)]
#: and those of a client's, before the masking key
_MASKED_TEXT = [bytes((0x81, 0x80 | size)) for size in range(126)]


def encode_header(first: int, size: int, mask: bytes | None = None) -> bytes:
    """Return the header of a frame.

    *first* is its first byte (FIN, RSV and opcode), *size* the payload's length in bytes, and
    *mask* the masking key, if there is one.
    """
    bit = 0 if mask is None else 0x80
    if size < 126:
        if first == 0x81 and mask is not None:
            # the usual case, without a call
            return _MASKED_TEXT[size] + mask
        header = bytes((first, bit | size))
    elif size < 65536:
        header = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return header if mask is None else header + mask


def encode_frame(
    opcode: int,
    payload: Buffer = b"",
    mask: bytes | None = None,
    *,
    fin: bool = True,
    rsv1: bool = False,
) -> bytes:
    """Return the bytes of one frame on the wire.

    *mask* is the 4-byte masking key of a client's frame, ``None`` for a server's. The length is
    always encoded in its shortest form. The caller is responsible for the rules that depend on the
    connection (order of fragments, negotiated RSV1).
    """
    first = opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)
    header = encode_header(first, len(payload), mask)
    return header + (payload if mask is None else mask_bytes(payload, mask))


def encode_unmasked(first: int, payload: bytes) -> bytes:
    """Return the bytes of a server's frame with that *first* byte.

    A short form of :func:`encode_frame` for the hot path.
    """
    size = len(payload)
    if size < 126:
        if first == 0x81:
            return SHORT_TEXT[size] + payload
        if first == 0x82:
            return _BINARY_HEADERS[size] + payload
    return encode_header(first, size) + payload


# ----------------------------------------------------------------------------------- close payloads

#: close codes that RFC 6455 §7.4 and the IANA registry allow on the wire below 3000
_WIRE_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))
#: reported, never sent: the codes of a connection without a close frame, and of one whose close
#: frame was empty
CLOSE_ABNORMAL = 1006
CLOSE_NO_STATUS = 1005


def is_wire_close_code(code: int) -> bool:
    """Return whether *code* may appear in a close frame.

    Allowed are 1000–1014 except the reserved codes, and 3000–4999.
    """
    return code in _WIRE_CODES or 3000 <= code <= 4999


def close_payload(code: int | None = None, reason: str = "") -> bytes:
    """Return the payload of a close frame: the code and the UTF-8 *reason*, or nothing.

    Raises ``ValueError`` for a code that must not be sent, for a reason without a code, and for a
    reason of more than 123 bytes; ``TypeError`` if the code is not a number, or the reason not a
    text.
    """
    if code is None:
        if reason:
            raise ValueError("a close reason needs a close code, e.g. 1000")
        return b""
    if not isinstance(code, int) or not isinstance(reason, str):
        raise TypeError(
            "a close code must be an int and its reason a str, as in close(1000, 'bye'), not"
            f" {type(code).__name__} and {type(reason).__name__}"
        )
    if not is_wire_close_code(code):
        raise ValueError(
            f"{code} is not a close code that may be sent: use 1000 to 1014 without 1004 to 1006, "
            "or 3000 to 4999"
        )
    text = reason.encode("utf-8")
    if len(text) > 123:
        raise ValueError(f"a close reason must be at most 123 bytes of UTF-8, not {len(text)}")
    return code.to_bytes(2, "big") + text


def parse_close_payload(payload: bytes) -> tuple[int, str]:
    """Return the (code, reason) of a close frame's *payload*; (1005, '') for an empty one.

    Raises :class:`WebSocketsProtocolError` (1002 or 1007) for a payload that RFC 6455 §5.5.1
    forbids.
    """
    if not isinstance(payload, (bytes, bytearray)):
        raise TypeError(f"the payload of a close frame must be bytes, not {type(payload).__name__}")
    if not payload:
        return CLOSE_NO_STATUS, ""
    if len(payload) == 1:
        raise WebSocketsProtocolError(1002, "close payload of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_wire_close_code(code):
        raise WebSocketsProtocolError(1002, f"invalid close code {code}")
    try:
        return code, payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise WebSocketsProtocolError(1007, "close reason is not UTF-8") from None


__all__ = [
    "CLOSE_ABNORMAL",
    "CLOSE_NO_STATUS",
    "WebSocketFrame",
    "WebSocketFrameOpCode",
    "WebSocketFramePayload",
    "close_payload",
    "encode_frame",
    "encode_header",
    "encode_unmasked",
    "fopAlreadyCompressed",
    "focBinary",
    "focConnectionClose",
    "focContinuation",
    "focPing",
    "focPong",
    "focText",
    "is_wire_close_code",
    "parse_close_payload",
]
