"""Encoder: turns frames into bytes, with the protocol's changes, compression and masking.

It does not write, wait or lock. The sender uses it under its lock, because the bytes of a frame may
depend on the order of sending. Methods that need no lock say so.
"""

from __future__ import annotations

from ..core.deflate import Deflater, PermessageDeflate
from ..core.frames import (
    WebSocketFrame,
    WebSocketFramePayload,
    check_frame,
    encode_header,
    focBinary,
    focConnectionClose,
    focContinuation,
    focText,
    fopAlreadyCompressed,
    parse_close_payload,
)
from ..core.masking import MaskSource, mask_bytes
from ..core.outgoing import QueuedFrame
from ..errors import WebSocketsProtocolError
from ..protocols.base import WebSocketProtocol

#: a protocol, and a frame that it has prepared for the wire
PreparedFrame = tuple[WebSocketProtocol, WebSocketFrame]

_NO_FLAGS = WebSocketFramePayload(0)


class Encoder:
    """Encodes the frames of a connection. Any thread may read its attributes.

    :param mask: True on a client, which masks its frames.
    """

    def __init__(self, mask: bool) -> None:
        #: supplies the masking keys; None on a server
        self.masks: MaskSource | None = MaskSource() if mask else None

    def begin(self, protocol: WebSocketProtocol, options: PermessageDeflate) -> None:
        """Prepare for a new connection with *protocol*."""
        #: True if text need not be UTF-8
        self.lenient_text: bool = protocol.lenient_text
        #: True if the protocol may join several frames into one
        self.joins: bool = type(protocol).join_payloads is not WebSocketProtocol.join_payloads
        compression = protocol.compression
        #: compresses what is sent; None: no compression
        self.deflater: Deflater | None = None
        if compression is not None:
            self.deflater = compression.deflater(self.masks is not None, options)
        #: False if frames are sent unchanged; tested for each frame, so that unused features cost
        #: nothing
        self.prepares: bool = (
            self.deflater is not None
            or type(protocol).before_send_frame is not WebSocketProtocol.before_send_frame
        )
        #: True if frames are sent unchanged and unmasked
        self.sends_plain: bool = self.masks is None and not self.prepares
        #: True if the protocol may prepare frames in another order than that of sending
        self.prepares_ahead: bool = self.prepares and protocol.prepares_in_any_order

    def prepare_ahead(
        self, protocol: WebSocketProtocol, frame: WebSocketFrame
    ) -> PreparedFrame | None:
        """Let *protocol* prepare a copy of *frame* without a lock; return None if it cannot."""
        if not self.prepares_ahead:
            return None
        if frame.opcode is not focText and frame.opcode is not focBinary:
            return None
        copy = WebSocketFrame(frame.opcode, frame.payload, frame.content)
        protocol.before_send_frame(copy)
        return protocol, copy

    def prepare(
        self, protocol: WebSocketProtocol, frame: WebSocketFrame, ahead: PreparedFrame | None
    ) -> tuple[bytes, WebSocketFramePayload]:
        """Return payload and flags as prepared by *protocol*.

        The result of :meth:`prepare_ahead` is used, unless the protocol has changed since.
        """
        if ahead is not None and ahead[0] is protocol:
            copy = ahead[1]
        else:
            copy = WebSocketFrame(frame.opcode, frame.payload, frame.content)
            protocol.before_send_frame(copy)
        return copy.payload, copy.content

    def prepared(
        self, protocol: WebSocketProtocol, frame: WebSocketFrame, ahead: PreparedFrame | None
    ) -> tuple[bytes, WebSocketFramePayload]:
        """Do the same for a frame of any kind; most are sent unchanged."""
        opcode = frame._opcode
        if self.prepares and (opcode is focText or opcode is focBinary):
            return self.prepare(protocol, frame, ahead)
        return frame._payload, frame._content

    def deflate(
        self, opcode: int, payload: bytes, flags: WebSocketFramePayload
    ) -> tuple[int, bytes]:
        """Return the first byte and the payload, compressed if permessage-deflate is in use."""
        deflater = self.deflater
        assert deflater is not None
        if opcode > 2 or len(payload) < deflater.min_bytes or fopAlreadyCompressed in flags:
            return 0x80 | opcode, payload
        return 0xC0 | opcode, deflater.compress(payload)

    def encode_parts(
        self, opcode: int, payload: bytes, flags: WebSocketFramePayload
    ) -> tuple[bytes, bytes]:
        """Return header and payload of a frame as sent: compressed and masked."""
        first = 0x80 | opcode
        if self.deflater is not None:
            first, payload = self.deflate(opcode, payload, flags)
        if self.masks is None:
            return encode_header(first, len(payload)), payload
        key = self.masks.next_key()
        return encode_header(first, len(payload), key), mask_bytes(payload, key)

    def encode_queued(self, protocol: WebSocketProtocol, queued: QueuedFrame) -> bytes:
        """Return the encoded form of a queued frame."""
        opcode, payload, flags, _ = queued
        if self.prepares and (opcode is focText or opcode is focBinary):
            payload, flags = self.prepare(protocol, queued.frame(), None)
        header, payload = self.encode_parts(opcode, payload, flags)
        return header + payload

    def join(
        self, protocol: WebSocketProtocol, frames: list[QueuedFrame]
    ) -> tuple[bytes, int] | None:
        """Return *frames* as one: its bytes on the wire, and the size of its payload; None if
        *protocol* does not join them.
        """
        if any(queued.opcode is not focBinary for queued in frames):
            return None
        payload = protocol.join_payloads([queued.payload for queued in frames])
        if payload is None:
            return None
        wire = self.encode_queued(protocol, QueuedFrame(focBinary, payload, _NO_FLAGS))
        return wire, len(payload)

    def next_key(self) -> bytes | None:
        """Return the masking key of the next frame; None on the server's side."""
        return None if self.masks is None else self.masks.next_key()


def check_sendable(frame: WebSocketFrame) -> None:
    """Raise ``TypeError`` or ``ValueError`` for a frame that must not be sent."""
    check_frame(frame)
    opcode, payload = frame._opcode, frame._payload
    if opcode is focText:
        try:
            payload.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ValueError(
                f"the payload of a text frame must be UTF-8; use focBinary for other bytes: {exc}"
            ) from None
    elif opcode is focContinuation:
        raise ValueError(
            "frames are sent whole, as focText or focBinary: focContinuation cannot be sent"
        )
    elif opcode is not focBinary:
        if len(payload) > 125:
            raise ValueError(
                f"a ping, pong or close frame has at most 125 bytes, not {len(payload)}: "
                "use a focBinary frame for more"
            )
        if opcode is focConnectionClose:
            try:
                parse_close_payload(payload)
            except WebSocketsProtocolError as exc:
                raise ValueError(exc.reason) from None
