"""permessage-deflate (RFC 7692): its negotiation, and the two streams of a connection.

It is off unless ``settings.permessage_deflate`` is set. The message limit applies to inflated
bytes, so a small frame cannot become a huge message. This module has no sockets or threads.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..errors import WebSocketsProtocolError

EXTENSION = "permessage-deflate"
_TAIL = b"\x00\x00\xff\xff"
_WINDOW = 1 << 15
#: bytes inflated at a time: zlib's buffers grow to twice what they hold
_PIECE = 1 << 18
#: the most blocks with BFINAL set in one compressed message
_MAX_RESTARTS = 1000


@dataclass(frozen=True)
class PermessageDeflate:
    """The options of permessage-deflate; the setting ``True`` means these defaults.

    The first four are the parameters of RFC 7692 §7.1. Raises ``ValueError`` for a value that is
    out of range.
    """

    #: the server starts every message with an empty window, which needs less memory between
    #: messages, but makes messages larger
    server_no_context_takeover: bool = False
    #: the same for the client
    client_no_context_takeover: bool = False
    #: the server's window is at most 2 to this power, in bytes: 9–15; None: no limit
    server_max_window_bits: int | None = None
    #: the same for the client
    client_max_window_bits: int | None = None
    #: zlib's compression level, 1 (fast) to 9 (small)
    level: int = 6
    #: zlib's memory for compressing, 1 to 9
    mem_level: int = 8
    #: messages of fewer bytes are sent uncompressed
    min_bytes: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                right = isinstance(value, bool)
            else:
                right = type(value) is int or (value is None and field.default is None)
            if not right:
                kind = "True or False" if isinstance(field.default, bool) else "a whole number"
                raise TypeError(f"{field.name} must be {kind}, not {type(value).__name__}")
        for name in ("server_max_window_bits", "client_max_window_bits"):
            bits = getattr(self, name)
            if bits is not None and not 9 <= bits <= 15:
                raise ValueError(f"{name} must be from 9 to 15, or None, not {bits}")
        if not 1 <= self.level <= 9 or not 1 <= self.mem_level <= 9 or self.min_bytes < 0:
            raise ValueError(
                "level and mem_level must be from 1 to 9 and min_bytes at least 0, not "
                f"{self.level}, {self.mem_level} and {self.min_bytes}"
            )

    # ----------------------------------------------------------------------------------- the client

    def offer(self) -> str:
        """Return the client's ``Sec-WebSocket-Extensions``."""
        items = [EXTENSION]
        if self.server_no_context_takeover:
            items.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            items.append("client_no_context_takeover")
        if self.server_max_window_bits is not None:
            items.append(f"server_max_window_bits={self.server_max_window_bits}")
        bits = self.client_max_window_bits
        items.append("client_max_window_bits" if bits is None else f"client_max_window_bits={bits}")
        return "; ".join(items)

    def settle(self, answer: Sequence[str]) -> DeflateAgreement:
        """Return the agreement that the server's *answer* (its list of extensions) makes.

        Raises ``ValueError`` if the answer does not fit the offer.
        """
        if len(answer) != 1:
            raise ValueError("exactly one extension was offered")
        name, parameters = parse_extension(answer[0])
        if name != EXTENSION:
            raise ValueError(f"{_short(name)} was not offered")
        agreed = DeflateAgreement.read(parameters, valueless_ok=False)
        limit = self.server_max_window_bits
        if self.server_no_context_takeover and not agreed.server_no_context_takeover:
            raise ValueError("the server does not drop its context")
        if limit is not None and (agreed.server_max_window_bits or 15) > limit:
            raise ValueError("the server's window is larger than allowed")
        return DeflateAgreement(
            agreed.server_no_context_takeover,
            agreed.client_no_context_takeover or self.client_no_context_takeover,
            agreed.server_max_window_bits,
            _least(agreed.client_max_window_bits, self.client_max_window_bits),
        )

    # ----------------------------------------------------------------------------------- the server

    def accept(self, offers: Sequence[str]) -> tuple[str, DeflateAgreement] | None:
        """Return (answer, agreement) for the first of the client's *offers* that we accept.

        None: the connection works without the extension.
        """
        for offer in offers:
            try:
                name, parameters = parse_extension(offer)
                if name != EXTENSION:
                    continue
                asked = DeflateAgreement.read(parameters, valueless_ok=True)
            except ValueError:
                continue  # RFC 7692 §7: an offer that is invalid is declined, not an error
            if asked.server_max_window_bits == 8:
                continue  # zlib cannot compress with a window of 256 bytes
            return self._answer(
                asked, any(key == "client_max_window_bits" for key, _ in parameters)
            )
        return None

    def _answer(
        self, asked: DeflateAgreement, client_bits_known: bool
    ) -> tuple[str, DeflateAgreement]:
        agreed = DeflateAgreement(
            asked.server_no_context_takeover or self.server_no_context_takeover,
            asked.client_no_context_takeover or self.client_no_context_takeover,
            _least(asked.server_max_window_bits, self.server_max_window_bits),
            # the answer must not contain a parameter that the client did not name
            _least(asked.client_max_window_bits, self.client_max_window_bits)
            if client_bits_known
            else None,
        )
        items = [EXTENSION]
        if agreed.server_no_context_takeover:
            items.append("server_no_context_takeover")
        if agreed.client_no_context_takeover:
            items.append("client_no_context_takeover")
        if agreed.server_max_window_bits is not None:
            items.append(f"server_max_window_bits={agreed.server_max_window_bits}")
        if agreed.client_max_window_bits is not None:
            items.append(f"client_max_window_bits={agreed.client_max_window_bits}")
        return "; ".join(items), agreed


@dataclass(frozen=True)
class DeflateAgreement:
    """The result of the negotiation. ``None`` as window bits means 15."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | None = None

    @classmethod
    def read(
        cls, parameters: Sequence[tuple[str, str | None]], valueless_ok: bool
    ) -> DeflateAgreement:
        """Return the agreement that *parameters* describe.

        Raises ``ValueError`` for a parameter that is unknown, repeated or out of range. With
        *valueless_ok*, ``client_max_window_bits`` may have no value, as in an offer.
        """
        found: dict[str, bool | int | None] = {}
        for name, value in parameters:
            if name in found:
                raise ValueError(f"{name} is repeated")
            if name in ("server_no_context_takeover", "client_no_context_takeover"):
                if value is not None:
                    raise ValueError(f"{name} has no value")
                found[name] = True
            elif name in ("server_max_window_bits", "client_max_window_bits"):
                if value is None and name.startswith("client") and valueless_ok:
                    found[name] = None
                elif value is None or value not in ("8", "9", "10", "11", "12", "13", "14", "15"):
                    raise ValueError(f"{name} must be from 8 to 15")
                else:
                    found[name] = int(value)
            else:
                raise ValueError(f"{_short(name)} is unknown")
        return cls(**found)  # type: ignore[arg-type]

    def deflater(self, client_side: bool, options: PermessageDeflate) -> Deflater:
        """Return the compressor for the messages of this side."""
        if client_side:
            return Deflater(
                self.client_max_window_bits or 15, self.client_no_context_takeover, options
            )
        return Deflater(self.server_max_window_bits or 15, self.server_no_context_takeover, options)

    def inflater(self, client_side: bool) -> Inflater:
        """Return the decompressor for the messages of the other side."""
        return Inflater(
            self.server_no_context_takeover if client_side else self.client_no_context_takeover
        )


class Deflater:
    """Compresses the messages of one side, in the order of sending."""

    def __init__(
        self, window_bits: int, no_context_takeover: bool, options: PermessageDeflate
    ) -> None:
        # A server may ask a client for a window of 8 bits, but zlib needs at least 9. The server
        # could not read the output of a larger window, so nothing is compressed then.
        self.min_bytes: int = options.min_bytes if window_bits > 8 else 1 << 62
        self._window_bits = max(window_bits, 9)
        self._options = options
        self._no_context_takeover = no_context_takeover
        # 256 kB, created for the first message; with no_context_takeover for each message
        self._zlib: zlib._Compress | None = None

    def _new(self) -> zlib._Compress:
        return zlib.compressobj(
            self._options.level, zlib.DEFLATED, -self._window_bits, self._options.mem_level
        )

    def compress(self, payload: bytes) -> bytes:
        """Return *payload* as the payload of a compressed message."""
        stream = self._zlib
        if stream is None:
            stream = self._new()
            if not self._no_context_takeover:
                self._zlib = stream
        data = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
        return data[:-4]


class Inflater:
    """Inflates the messages of the other side, piece by piece (a ``MessageInflater``)."""

    def __init__(self, no_context_takeover: bool) -> None:
        self._no_context_takeover = no_context_takeover
        # created for the first message; with no_context_takeover for each message
        self._zlib: zlib._Decompress | None = None
        self._window = b""  # the last output, to which a new stream may refer
        self._restarts = 0

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return the inflated *data*.

        Raises :class:`WebSocketsProtocolError`: 1007 if it is corrupt, 1009 above *limit* bytes.
        """
        parts = []
        stream = self._zlib
        if stream is None:
            stream = self._zlib = zlib.decompressobj(-15)
        while data:
            try:
                part = stream.decompress(data, min(limit + 1, _PIECE))
            except zlib.error as exc:
                raise WebSocketsProtocolError(
                    1007, f"compressed data is corrupt: {exc}"[:100]
                ) from None
            limit -= len(part)
            if limit < 0:
                raise WebSocketsProtocolError(1009, "message is too large when inflated")
            parts.append(part)
            self._window = (
                part[-_WINDOW:] if len(part) >= _WINDOW else (self._window + part)[-_WINDOW:]
            )
            data = stream.unconsumed_tail
            # RFC 7692 §7.2.3.5 allows blocks with BFINAL set; the rest is a new stream with the
            # old window
            if stream.eof:
                data = stream.unused_data
                stream = self._zlib = self._restarted()
        return b"".join(parts)

    def end_message(self, limit: int) -> bytes:
        """Return the rest of the message."""
        rest = self.decompress(_TAIL, limit)
        self._restarts = 0
        if self._no_context_takeover:
            self._zlib = None
            self._window = b""
        return rest

    def _restarted(self) -> zlib._Decompress:
        self._restarts += 1
        # each restart sets up a window, and costs the peer only two bytes
        if self._restarts > _MAX_RESTARTS:
            raise WebSocketsProtocolError(1008, "too many final blocks in a compressed message")
        return zlib.decompressobj(-15, zdict=self._window)


def parse_extension(text: str) -> tuple[str, list[tuple[str, str | None]]]:
    """Return (name, parameters) of one extension, ``name; key; key=value``, in lower case.

    Raises ``ValueError`` if *text* is malformed.
    """
    name, *items = [item.strip(" \t") for item in text.split(";")]
    parameters: list[tuple[str, str | None]] = []
    for item in items:
        key, equals, value = item.partition("=")
        key, value = key.strip(" \t").lower(), value.strip(" \t")
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if not key or (equals and not value):
            raise ValueError(f"{_short(text)!r} is not an extension")
        parameters.append((key, value if equals else None))
    if not name:
        raise ValueError(f"{_short(text)!r} is not an extension")
    return name.lower(), parameters


def _short(text: str) -> str:
    """Return the beginning of a peer's *text*, for an error."""
    return text if len(text) <= 80 else f"{text[:80]}…"


def _least(*bits: int | None) -> int | None:
    known = [value for value in bits if value is not None]
    return min(known) if known else None
