"""WebProcessInFrame: the decoder, a state machine that turns bytes into messages.

It takes bytes in slices of any size and returns whole messages and control frames. It checks every
rule of RFC 6455 §5 as early as the bytes allow. It has no socket, thread or clock: threaded and
event-driven connections, the WSGI server and the fuzzers all use the same machine.

Memory for a message grows with the bytes that arrive, never with an announced length. After the
peer's first fault the machine stays in error: :attr:`WebProcessInFrame.error` says why, and the
frames before the fault are still returned.
"""

from __future__ import annotations

import codecs
from enum import IntEnum
from typing import Final, Protocol

from ..errors import WebSocketsProtocolError
from .frames import (
    WebSocketFrame,
    WebSocketFrameOpCode,
    decoded_frame,
    focBinary,
    focText,
    parse_close_payload,
)
from .masking import mask_bytes

_utf8_decoder = codecs.getincrementaldecoder("utf-8")

#: smaller parts of a message, in bytes, are gathered in one buffer of about this size
_SMALL_PART = 2048
_GATHERED = 65536

_CONTROL: Final = {int(opcode): opcode for opcode in WebSocketFrameOpCode if opcode >= 8}


class WebProcessInFrameState(IntEnum):
    """The state of the decoder. Mirrors the ``pfs…`` states of ``TWebProcessInFrame``."""

    pfsHeader = 0  # waiting for a whole frame header
    pfsData = 1  # inside the payload of a frame
    pfsError = 2  # the peer broke a rule: nothing more is read


class MessageInflater(Protocol):
    """Inflates compressed messages, a piece at a time; a compression extension supplies it."""

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return the inflated *data*.

        Raises :class:`WebSocketsProtocolError` if it is corrupt or inflates to more than *limit*
        bytes.
        """

    def end_message(self, limit: int) -> bytes:
        """Return the rest of a message after its last piece; raises like :meth:`decompress`."""


class WebProcessInFrame:
    """Decodes what one peer sends. Mirrors ``TWebProcessInFrame``.

    :param masked: True if the peer must mask its frames (we are the server), False if it must not
        (we are the client).
    :param max_message_bytes: a longer message (after joining and inflating) is refused with 1009.
    :param max_frame_bytes: a frame that announces a larger payload is refused with 1009
        immediately.
    :param max_fragments: a message with more frames is refused with 1008.
    :param inflater: inflates messages if permessage-deflate was negotiated; None: RSV1 is an
        error.
    :param lenient_text: True: accept text that is not UTF-8, for protocols whose native peers send
        it (``synopsejson``).

    Call :meth:`feed` from one thread at a time.
    """

    # misspelt names are rejected, at no cost to messages
    __slots__ = (
        "_compressed",
        "_control",
        "_fin",
        "_head_size",
        "_in_payload",
        "_inflater",
        "_lenient_text",
        "_mask",
        "_mask_bit",
        "_message_opcode",
        "_opcode",
        "_parts",
        "_pending",
        "_short_limit",
        "_size",
        "_small",
        "_utf8",
        "_whole_limit",
        "at_rest",
        "closed",
        "error",
        "fragments",
        "masked",
        "max_fragments",
        "max_frame_bytes",
        "max_message_bytes",
        "missing_bytes",
    )

    def __init__(
        self,
        masked: bool,
        max_message_bytes: int = 16 << 20,
        max_frame_bytes: int = 256 << 20,
        max_fragments: int = 1 << 20,
        inflater: MessageInflater | None = None,
        lenient_text: bool = False,
    ) -> None:
        if type(masked) is not bool:
            raise TypeError(f"masked must be True or False, not {type(masked).__name__}")
        for limit in (max_message_bytes, max_frame_bytes, max_fragments):
            if type(limit) is not int:
                raise TypeError(f"a limit must be a whole number, not {type(limit).__name__}")
        self.masked = masked
        self.max_message_bytes = max_message_bytes
        self.max_frame_bytes = max_frame_bytes
        self.max_fragments = max_fragments
        #: the first fault of the peer, or None
        self.error: WebSocketsProtocolError | None = None
        #: True once a close frame was decoded: all bytes after it are ignored (RFC 6455 §1.4)
        self.closed: bool = False
        self._mask_bit = 0x80 if masked else 0
        # the most bytes that a message in one frame may have
        self._whole_limit = min(max_message_bytes, max_frame_bytes)
        # the size of a short frame's header, and the most bytes of a payload after it
        self._head_size = 6 if masked else 2
        self._short_limit = min(125, self._whole_limit)
        # True while nothing is in progress, unless there was a fault or a close frame
        self.at_rest = True
        self._inflater = inflater
        self._lenient_text = lenient_text
        # the frame in progress
        self._pending = b""  # bytes of an incomplete header
        self._in_payload = False
        self._opcode = 0
        self._fin = True
        self._mask = b""
        #: bytes of the current frame that have not arrived; 0 between frames: a hint for the size
        #: of the next read
        self.missing_bytes: int = 0
        self._control = b""  # what has arrived of a control frame's payload
        # the message in progress
        self._message_opcode: WebSocketFrameOpCode | None = None
        self._parts: list[bytes] = []  # what has arrived of it, in large pieces
        # small pieces after those, gathered so that a tiny fragment does not cost an object
        self._small = bytearray()
        self._size = 0
        #: frames of the current message so far; 0 between messages
        self.fragments: int = 0
        self._compressed = False
        self._utf8: codecs.IncrementalDecoder | None = None

    @property
    def state(self) -> WebProcessInFrameState:
        """The state: header, data or error; mirrors ``State``."""
        if self.error is not None:
            return WebProcessInFrameState.pfsError
        return (
            WebProcessInFrameState.pfsData if self._in_payload else WebProcessInFrameState.pfsHeader
        )

    @property
    def message_bytes(self) -> int:
        """Bytes of the current message that have arrived; 0 between messages."""
        return 0 if self._message_opcode is None else self._size

    @property
    def in_message(self) -> bool:
        """True between the first and last byte of a message or frame.

        If the stream ended now, it would be truncated.
        """
        return self._in_payload or self._message_opcode is not None or bool(self._pending)

    def __repr__(self) -> str:
        fault = "" if self.error is None else f" {self.error!r}"
        closed = " closed" if self.closed else ""
        return (
            f"<WebProcessInFrame {self.state.name} missing={self.missing_bytes} "
            f"fragments={self.fragments}{closed}{fault}>"
        )

    def drop_error(self) -> None:
        """Discard the peer's fault, because it can no longer be reported to the peer."""
        self.error = None

    def feed(self, data: bytes) -> list[WebSocketFrame]:
        """Decode *data*; return the messages and control frames that it completes, in order.

        Never raises for a peer's input: handle the returned frames, then check :attr:`error`.
        """
        if self.at_rest:
            # the usual case, at the least cost: one short message, and nothing else
            size = len(data) - self._head_size
            if 0 <= size <= self._short_limit and data[1] == self._mask_bit | size:
                payload = mask_bytes(data[6:], data[2:6]) if self._mask_bit else data[2:]
                first = data[0]
                if first == 0x81:
                    if payload.isascii() or self._is_text(payload):
                        return [decoded_frame(focText, payload)]
                elif first == 0x82:
                    return [decoded_frame(focBinary, payload)]
        return self._feed_any(data)

    def _feed_any(self, data: bytes) -> list[WebSocketFrame]:
        """Do the work of :meth:`feed` in all cases."""
        frames: list[WebSocketFrame] = []
        if self.error is not None or self.closed:
            return frames
        # until it is known again: in the main thread, a signal handler may raise in any line
        self.at_rest = False
        try:
            position = 0
            if self._in_payload:
                position = self._payload_part(data, 0, frames)
            elif self._pending:
                data = self._pending + data
                self._pending = b""
            self._parse(data, position, frames)
        except WebSocketsProtocolError as exc:
            # a copy without the traceback, which would keep alive the stack frames of this call,
            # with the megabytes of a deflate bomb
            self.error = WebSocketsProtocolError(exc.code, exc.reason)
            self._drop_message()
            self._pending = b""
        self.at_rest = not (self.in_message or self.closed or self.error is not None)
        return frames

    # -------------------------------------------------------------------------------------- parsing

    def _parse(self, data: bytes, position: int, frames: list[WebSocketFrame]) -> None:
        """Decode *data* from *position*, the first byte of a frame.

        The first branch of the loop is the hot path.
        """
        mask_bit = self._mask_bit
        mask_size = 4 if mask_bit else 0
        limit = self._whole_limit
        end = len(data)
        unmask = mask_bytes
        append = frames.append
        while position < end and not self.closed:
            first = data[position]
            if end - position < 2:
                self._check_first_byte(first)
                break
            second = data[position + 1]
            size = second & 0x7F
            start = position + 2
            if (
                (first == 0x81 or first == 0x82)
                and (second & 0x80) == mask_bit
                and self._message_opcode is None
            ):
                # an unfragmented, uncompressed data message
                if size >= 126:
                    width = 2 if size == 126 else 8
                    if end - start < width:
                        break
                    size = self._long_size(data, start, width)
                    start += width
                start += mask_size
                stop = start + size
                if stop <= end and size <= limit:
                    if mask_bit:
                        payload = unmask(data[start:stop], data[start - 4 : start])
                    else:
                        payload = data[start:stop]
                    if first == 0x82:
                        append(decoded_frame(focBinary, payload))
                    elif payload.isascii() or self._is_text(payload):
                        append(decoded_frame(focText, payload))
                    else:
                        raise WebSocketsProtocolError(1007, "text is not UTF-8")
                    position = stop
                    continue
            else:
                self._check_header(first, second)
                if size >= 126:
                    width = 2 if size == 126 else 8
                    if end - start < width:
                        break
                    size = self._long_size(data, start, width)
                    start += width
                start += mask_size
            if start > end:
                break
            self._begin_frame(first, size, data[start - mask_size : start])
            position = self._payload_part(data, start, frames)
        if position < end and not self._in_payload and not self.closed:
            self._pending = data[position:]

    def _check_first_byte(self, first: int) -> None:
        """Raise if the first byte of a frame breaks a rule."""
        opcode = first & 0x0F
        if first & 0x70 and not (
            first & 0x70 == 0x40 and self._inflater is not None and opcode in (1, 2)
        ):
            raise WebSocketsProtocolError(1002, "reserved bits are set")
        if opcode in _CONTROL:
            if not first & 0x80:
                raise WebSocketsProtocolError(1002, "fragmented control frame")
        elif opcode == 0:
            if self._message_opcode is None:
                raise WebSocketsProtocolError(1002, "continuation without a message")
        elif opcode > 2:
            raise WebSocketsProtocolError(1002, f"reserved opcode {opcode}")
        elif self._message_opcode is not None:
            raise WebSocketsProtocolError(1002, "new message inside a fragmented one")

    def _check_header(self, first: int, second: int) -> None:
        """Raise if the first two bytes of a frame break a rule."""
        self._check_first_byte(first)
        if (second & 0x80) != self._mask_bit:
            raise WebSocketsProtocolError(
                1002,
                "unmasked frame from a client" if self.masked else "masked frame from a server",
            )
        if first & 0x08 and second & 0x7F > 125:
            raise WebSocketsProtocolError(1002, "control frame of more than 125 bytes")

    def _long_size(self, data: bytes, start: int, width: int) -> int:
        size = int.from_bytes(data[start : start + width], "big")
        if size < (126 if width == 2 else 65536):
            raise WebSocketsProtocolError(1002, "length is not in its shortest form")
        if size >> 63:
            raise WebSocketsProtocolError(1002, "length has its highest bit set")
        self._check_size(size)
        return size

    def _check_size(self, size: int) -> None:
        if size > self.max_frame_bytes:
            raise WebSocketsProtocolError(1009, f"frame of more than {self.max_frame_bytes} bytes")

    # ---------------------------------------------------------------------- frames off the hot path

    def _begin_frame(self, first: int, size: int, mask: bytes) -> None:
        """Start on the payload of a frame whose header has been checked."""
        opcode = first & 0x0F
        self._check_size(size)
        self._fin = bool(first & 0x80)
        self._opcode = opcode
        self._mask = mask
        self.missing_bytes = size
        self._in_payload = True
        if opcode >= 8:
            self._control = b""
            return
        if opcode:
            self._message_opcode = WebSocketFrameOpCode(opcode)
            self._compressed = bool(first & 0x40)
            self.fragments = 0
            self._utf8 = _utf8_decoder("strict") if opcode == 1 and not self._lenient_text else None
        self.fragments += 1
        if self.fragments > self.max_fragments:
            raise WebSocketsProtocolError(
                1008, f"message of more than {self.max_fragments} fragments"
            )
        if not self._compressed and self._size + size > self.max_message_bytes:
            raise WebSocketsProtocolError(
                1009, f"message of more than {self.max_message_bytes} bytes"
            )

    def _payload_part(self, data: bytes, position: int, frames: list[WebSocketFrame]) -> int:
        """Take the part of the current payload that is in *data*; return the position after it."""
        part = data[position : position + self.missing_bytes]
        position += len(part)
        self.missing_bytes -= len(part)
        if part and self._mask:
            whole = mask_bytes(part, self._mask)
            turn = len(part) & 3
            if turn:
                self._mask = self._mask[turn:] + self._mask[:turn]
            part = whole
        if self._opcode >= 8:
            self._control += part
        elif part:
            self._message_part(part)
        if not self.missing_bytes:
            self._in_payload = False
            if self._opcode >= 8:
                self._end_control(frames)
            elif self._fin:
                self._end_message(frames)
        return position

    def _message_part(self, part: bytes) -> None:
        if self._compressed:
            assert self._inflater is not None
            part = self._inflater.decompress(part, self.max_message_bytes - self._size)
        self._add_part(part)

    def _add_part(self, part: bytes) -> None:
        if self._utf8 is not None:
            self._decode(part, final=False)
        self._size += len(part)
        if len(part) < _SMALL_PART and len(self._small) < _GATHERED:
            self._small += part
        else:
            if self._small:
                self._parts.append(bytes(self._small))
                self._small = bytearray()
            self._parts.append(part)

    def _drop_message(self) -> None:
        self._parts = []
        self._small = bytearray()
        self._size = 0

    def _end_message(self, frames: list[WebSocketFrame]) -> None:
        assert self._message_opcode is not None
        if self._compressed:
            assert self._inflater is not None
            self._add_part(self._inflater.end_message(self.max_message_bytes - self._size))
        if self._utf8 is not None:
            self._decode(b"", final=True)
        if self._small:
            self._parts.append(bytes(self._small))
        payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        frames.append(WebSocketFrame(self._message_opcode, payload))
        self._drop_message()
        self._message_opcode = None
        self.fragments = 0
        self._utf8 = None

    def _end_control(self, frames: list[WebSocketFrame]) -> None:
        opcode = _CONTROL[self._opcode]
        if opcode is WebSocketFrameOpCode.focConnectionClose:
            parse_close_payload(self._control)  # raises if it is invalid
            self.closed = True
        frames.append(WebSocketFrame(opcode, self._control))
        self._control = b""

    def _decode(self, part: bytes, final: bool) -> None:
        assert self._utf8 is not None
        try:
            self._utf8.decode(part, final)
        except UnicodeDecodeError:
            raise WebSocketsProtocolError(1007, "text is not UTF-8") from None
        # a surrogate is recognisable from its second byte, but Python's decoder waits for the third
        waiting = self._utf8.getstate()[0]
        if len(waiting) == 2 and waiting[0] == 0xED and waiting[1] >= 0xA0:
            raise WebSocketsProtocolError(1007, "text is not UTF-8")

    def _is_text(self, payload: bytes) -> bool:
        """Return whether *payload* may be that of a text message."""
        if self._lenient_text:
            return True
        try:
            payload.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True
