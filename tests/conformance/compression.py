"""The raw peer's side of permessage-deflate, written from RFC 7692 on ``zlib`` alone.

It compresses in any way that the RFC allows and some that it does not, and inflates strictly: with
no more window than was agreed on, so that a library that uses more is found out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mormot_ws import PermessageDeflate

from .peer import Peer, open_peer
from .wire import BINARY, TEXT, Frame, cut

TAIL = b"\x00\x00\xff\xff"
RSV1 = 4


@dataclass(frozen=True)
class Parameters:
    """The four parameters of RFC 7692 §7.1; ``None`` window bits: not mentioned, which means 15."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | None = None

    def header(self) -> str:
        """Return them as a ``Sec-WebSocket-Extensions`` value, fit for an offer and for an
        answer.
        """
        items = ["permessage-deflate"]
        for name, value in vars(self).items():
            if value is True:
                items.append(name)
            elif value:
                items.append(f"{name}={value}")
        return "; ".join(items)

    @classmethod
    def read(cls, header: str) -> Parameters:
        """Return those of an answer, which has to be a valid one."""
        name, *items = [item.strip() for item in header.split(";")]
        assert name == "permessage-deflate", header
        values: dict[str, bool | int] = {}
        for item in items:
            key, _, value = item.partition("=")
            assert key not in values, f"{key} is repeated"
            if key.endswith("_takeover"):
                assert not value, header
                values[key] = True
            else:
                assert key in ("server_max_window_bits", "client_max_window_bits"), header
                assert value in map(str, range(8, 16)), header
                values[key] = int(value)
        return cls(**values)  # type: ignore[arg-type]


class Compression:
    """What both directions of one connection need on the raw side."""

    def __init__(self, peer: Peer, parameters: Parameters) -> None:
        self.peer = peer
        we_are_client = peer.role == "server"
        ours = ("client_{}" if we_are_client else "server_{}").format
        theirs = ("server_{}" if we_are_client else "client_{}").format
        self._our_bits = getattr(parameters, ours("max_window_bits")) or 15
        self._our_reset = getattr(parameters, ours("no_context_takeover"))
        self._their_bits = getattr(parameters, theirs("max_window_bits")) or 15
        self._their_reset = getattr(parameters, theirs("no_context_takeover"))
        self._deflate = self.new_deflate()
        self._inflate = zlib.decompressobj(-self._their_bits)

    def new_deflate(self, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> Any:
        """Return a compressor with an empty window of the agreed size."""
        return zlib.compressobj(level, zlib.DEFLATED, -max(self._our_bits, 9), 8, strategy)

    def deflated(self, payload: bytes) -> bytes:
        """Return the next message's payload, compressed by the rules of §7.2.1."""
        data: bytes = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        if self._our_reset:
            self._deflate = self.new_deflate()
        assert data.endswith(TAIL)
        return data[:-4]

    def inflated(self, frame: Frame) -> bytes:
        """Return the payload of a frame that the library has sent, compressed or not."""
        if not frame.rsv:
            return frame.payload
        payload = self._inflate.decompress(frame.payload + TAIL)
        assert not self._inflate.unused_data
        if self._their_reset:
            self._inflate = zlib.decompressobj(-self._their_bits)
        return payload

    def frames(self, message: Frame, size: int = 0) -> list[Frame]:
        """Return *message* compressed, in fragments of *size* bytes (0: in one frame)."""
        data = self.deflated(message.payload)
        return compressed(message.opcode, data, size)

    def receive(self) -> tuple[Frame, bool, int]:
        """Return the next message inflated, whether it was compressed, and its size on the wire
        without header.
        """
        frame = self.peer.receive()
        return Frame(frame.opcode, self.inflated(frame)), frame.rsv == RSV1, len(frame.payload)

    def expect(self, message: Frame) -> tuple[bool, int]:
        """Receive exactly *message* next; return whether it was compressed, and its size on the
        wire without header.
        """
        received, was_compressed, size = self.receive()
        assert received == message, f"{received.payload[:60]!r} instead of {message.payload[:60]!r}"
        return was_compressed, size

    def exchange(self, message: Frame, size: int = 0) -> tuple[bool, int]:
        """Send *message* compressed, in fragments of *size* bytes, and receive its echo; return
        what :meth:`expect` does.
        """
        self.peer.send(*self.frames(message, size))
        return self.expect(message)


def compressed(opcode: int, data: bytes, size: int = 0) -> list[Frame]:
    """Return the frames of a message whose compressed form is *data*, in fragments of *size* bytes
    (0: in one frame).
    """
    parts = cut(data, size) if size else [data]
    last = len(parts) - 1
    return [
        Frame(0 if at else opcode, part, at == last, 0 if at else RSV1)
        for at, part in enumerate(parts)
    ]


@contextmanager
def open_compressed(
    role: str,
    parameters: Parameters | None = None,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Compression]:
    """Give a connection on which permessage-deflate was agreed on, with *parameters*, the library
    having *options* beyond.
    """
    parameters = parameters or Parameters()
    if role == "server":
        offer = parameters.header()
        settings["permessage_deflate"] = PermessageDeflate(**(options or {}))
        with open_peer(role, offer=offer, **settings) as peer:
            assert Parameters.read(peer.extension) == parameters
            yield Compression(peer, parameters)
    else:
        settings["permessage_deflate"] = PermessageDeflate(
            **{**vars(parameters), **(options or {})}
        )
        with open_peer(role, answer=parameters.header(), **settings) as peer:
            yield Compression(peer, parameters)


def story(kind: str, size: int) -> Frame:
    """Return a message of *size* bytes that compresses well, but only with a window that reaches
    far back.
    """
    line = '{{"id": {0}, "name": "räuber {1}", "tags": ["a{0}", "b{1}", "c{2}"], "value": {2}}}\n'
    text = "".join(
        [
            line.format(number, number % 251, number * 7919 % 10007)
            for number in range(size // 40 + 1)
        ]
    )
    payload = text.encode()[:size]
    if kind == "binary":
        return Frame(BINARY, payload.translate(bytes(range(255, -1, -1))))
    return Frame(TEXT, payload.decode("utf-8", "ignore").encode().ljust(size, b"."))
