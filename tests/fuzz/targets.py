"""What is fuzzed, and what must hold for every input.

A target takes one input, runs the library on it twice (in one piece and cut to pieces), and returns
an *outcome*: a short hashable description of what happened, by which the plain fuzzer tells a new
behaviour from an old one. Anything that it raises is a finding: an exception that is not
documented, a limit that was exceeded, a result that depends on where the bytes were cut.

No sockets here: transports are made of the input's bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

from mormot_ws import (
    PermessageDeflate,
    WebProcessInFrame,
    WebSocketFrame,
    WebSocketProtocolChat,
    WebSocketProtocolList,
    close_payload,
    encode_frame,
    focBinary,
    focText,
)
from mormot_ws.client.upgrade import UpgradeError, client_upgrade
from mormot_ws.core.deflate import Inflater
from mormot_ws.server.http import HttpFault, HttpServerConnection, request_context, simple_answer
from mormot_ws.sockets.deadline import Deadline

from .loose_targets import LOOSE_TOKENS, loose_seeds, run_loose
from .name_targets import NAME_TOKENS, PROXY_TOKENS, name_seeds, proxy_seeds, run_names, run_proxy
from .rest_targets import REST_TOKENS, rest_key_seeds, rest_seeds, run_rest, run_rest_key
from .service_targets import SERVICE_TOKENS, run_service, service_seeds

#: bytes of an input that are looked at
MAX_INPUT = 8192
#: how much more than its limits a reader may hold: one read, and a header that is not complete
SLACK = 16384 + 256
NEVER = Deadline(None)


class Target(NamedTuple):
    """One reader under test."""

    name: str
    run: Callable[[bytes], Hashable]
    #: valid inputs to start from
    seeds: list[bytes]
    #: byte strings that mean something to this reader
    tokens: list[bytes]


def check(condition: object, what: str) -> None:
    """Raise when something that must hold does not (an ``assert`` that ``python -O`` leaves in)."""
    if not condition:
        raise AssertionError(what)


def held_bytes(thing: Any, seen: set[int] | None = None) -> int:
    """Return how many bytes *thing* keeps in buffers, in lists of them, and in the library's
    objects below it.
    """
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, (bytes, bytearray)):
        return len(thing)
    if isinstance(thing, (list, tuple, deque, set)):
        return sum(held_bytes(item, seen) for item in thing)
    if isinstance(thing, dict):
        return sum(held_bytes(item, seen) for item in thing.values())
    if type(thing).__module__.split(".")[0] not in ("mormot_ws", "h11"):
        return 0
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    values = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    return sum(
        held_bytes(value, seen)
        for value in [*values, *[getattr(thing, name, None) for name in slots]]
    )


def pieces(data: bytes, control: int) -> Iterator[bytes]:
    """Give *data* in pieces whose sizes follow from *control* (0–255): all of one size, or of
    changing sizes.
    """
    size = control & 0x3F or 1
    at = 0
    while at < len(data):
        yield data[at : at + size]
        at += size
        if control & 0x40:
            size = size * 7 % 61 + 1
        if control & 0x80:
            size += 1


# ------------------------------------------------------------------------------------------- frames

MAX_MESSAGE, MAX_FRAME, MAX_FRAGMENTS = 2048, 3000, 40
_CODES = {1002, 1007, 1008, 1009}
#: what the first byte of an input says
_MASKED, _DEFLATE, _NO_CONTEXT = 1, 2, 4
_MASK = b"\x11\x22\x33\x44"


def _machine(flags: int) -> WebProcessInFrame:
    return WebProcessInFrame(
        masked=bool(flags & _MASKED),
        max_message_bytes=MAX_MESSAGE,
        max_frame_bytes=MAX_FRAME,
        max_fragments=MAX_FRAGMENTS,
        inflater=Inflater(bool(flags & _NO_CONTEXT)) if flags & _DEFLATE else None,
    )


def _check_held(machine: WebProcessInFrame, fed: int, compressed: bool) -> None:
    """An inflater may keep one window beside the message; without one nothing is held that has not
    arrived.
    """
    bound = MAX_MESSAGE + SLACK + 32768 if compressed else min(fed, MAX_MESSAGE + SLACK)
    held = held_bytes(machine)
    check(held <= bound + 64, f"{held} bytes held of {fed}")


def _decode(
    flags: int, parts: Iterator[bytes]
) -> tuple[list[WebSocketFrame], int | None, bool, str]:
    machine = _machine(flags)
    frames: list[WebSocketFrame] = []
    fed = 0
    for number, part in enumerate(parts):
        ended = machine.error is not None or machine.closed
        got = machine.feed(part)
        check(not (ended and got), "frames after the end")
        frames += got
        fed += len(part)
        if number & 63 == 63:  # not each time: looking is slow
            _check_held(machine, fed, bool(flags & _DEFLATE))
    _check_held(machine, fed, bool(flags & _DEFLATE))
    for frame in frames:
        check(
            len(frame.payload) <= (MAX_MESSAGE if frame.opcode in (focText, focBinary) else 125),
            "a frame is too long",
        )
        if frame.opcode is focText:
            frame.payload.decode("utf-8")
    error = machine.error
    if error is not None:
        check(error.code in _CODES, f"close code {error.code}")
        close_payload(error.code, error.reason)  # it can be told to the peer
    return (
        frames,
        None if error is None else error.code,
        machine.closed,
        "" if error is None else error.reason[:24],
    )


def run_frames(data: bytes) -> Hashable:
    """Feed ``WebProcessInFrame`` as server or client, with or without permessage-deflate."""
    flags, control, stream = (data[0], data[1], data[2:MAX_INPUT]) if len(data) > 2 else (0, 0, b"")
    frames, code, closed, reason = _decode(flags, iter([stream]))
    again, code_again, closed_again, _ = _decode(flags, pieces(stream, control))
    # inflated text can be too long and no text as well: which shows first depends on the pieces
    same_code = code == code_again or (flags & _DEFLATE and {code, code_again} == {1007, 1009})
    check(same_code, f"{code} in one piece, {code_again} in pieces")
    check(frames == again, "other frames in pieces")
    check(closed == closed_again, "closed in one piece only")
    return (
        flags & 7,
        code,
        closed,
        reason,
        min(len(frames), 6),
        tuple({int(frame.opcode) for frame in frames}),
    )


def _frame_seeds() -> list[bytes]:
    seeds = []
    for flags in range(8):
        mask = _MASK if flags & _MASKED else None

        def put(
            opcode: int,
            payload: bytes,
            fin: bool = True,
            rsv1: bool = False,
            mask: bytes | None = mask,
        ) -> bytes:
            return encode_frame(opcode, payload, mask, fin=fin, rsv1=rsv1)

        streams = [
            put(1, b"hello") + put(2, bytes(range(200))) + put(9, b"ping") + put(10, b""),
            put(1, "Hé€😀".encode()) + put(8, b"\x03\xe8bye"),
            put(1, b"a" * 126) + put(2, b"b" * 1000) + put(8, b""),
            put(1, b"one ", fin=False)
            + put(9, b"p")
            + put(0, "zwei €".encode(), fin=False)
            + put(0, b" three"),
            put(2, b"", fin=False) + put(0, b"x" * 500, fin=False) * 3 + put(0, b""),
            encode_frame(2, b"x" * 2048, mask) + put(1, b""),
            put(2, b"x", fin=False) + put(0, b"y", fin=False) * 38 + put(0, b"z"),
        ]
        if flags & _DEFLATE:
            deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
            for text in (b"Hello " * 50, b"Hello again " * 9, b""):
                data = (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
                streams.append(put(1, data, rsv1=True))
                streams.append(
                    put(1, data[:3], fin=False, rsv1=True)
                    + put(9, b"")
                    + put(0, data[3:], fin=False)
                    + put(0, b"")
                )
            bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
            streams.append(
                put(
                    2, bomb.compress(bytes(100_000)) + bomb.flush(zlib.Z_SYNC_FLUSH)[:-4], rsv1=True
                )
            )
            streams.append(put(1, bytes.fromhex("f348cdc9c9070000"), rsv1=True) * 2)
        seeds += [bytes([flags, at * 37 & 0xFF]) + stream for at, stream in enumerate(streams)]
    return seeds


_FRAME_TOKENS = [
    b"\x81\x80",
    b"\x01\x81",
    b"\x80\x81",
    b"\xc1\x87",
    b"\x41\x01",
    b"\x89\xfd",
    b"\x88\x82",
    b"\x82\xfe\x00\x7e",
    b"\x82\x7e\x08\x00",
    b"\x82\xff\x7f" + b"\xff" * 7,
    b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82\xac",
    b"\x00\x00\xff\xff",
    _MASK,
    b"\0\0\0\0",
]


# -------------------------------------------------------------------------------------- a transport


class Played:
    """A transport that plays pieces of bytes, then the end of the stream or a time-out, and
    remembers what was sent.
    """

    is_tls = False

    def __init__(
        self,
        parts: Iterator[bytes],
        times_out: bool = False,
        prepare: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._parts = parts
        self._times_out = times_out
        self._prepare = prepare
        self._left = b""
        self.sent = b""
        self.taken = 0

    def recv_within(self, size: int, deadline: Deadline) -> bytes:
        if not self._left:
            self._left = next(self._parts, b"")
            if not self._left:
                if self._times_out:
                    raise TimeoutError("timed out")
                return b""
        data, self._left = self._left[:size], self._left[size:]
        self.taken += len(data)
        return data

    def sendall(self, data: bytes) -> None:
        check(len(self.sent) + len(data) < 1 << 22, "an endless answer")
        self.sent += bytes(data)

    def rest(self) -> bytes:
        """Return what was not taken."""
        return self._left + b"".join(self._parts)


# -------------------------------------------------------------------------------- the server's head

MAX_HEAD, MAX_BODY = 1024, 512
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def _protocols() -> WebSocketProtocolList:
    protocols = WebSocketProtocolList()
    protocols.add(WebSocketProtocolChat("echo"))
    protocols.add(WebSocketProtocolChat("room", "chat/room"))
    return protocols


_PROTOCOLS = _protocols()


def _check_head(answer: bytes) -> None:
    """An answer is a status line and header lines, whatever the request made it quote."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    check(end, "an answer without an end")
    first, *lines = head.split(b"\r\n")
    check(
        first.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) and first[9:12].isdigit(),
        f"status line {first!r}",
    )
    for line in (first, *lines):
        check(
            not any(octet < 32 and octet != 9 for octet in line), f"control characters in {line!r}"
        )
    check(all(b": " in line for line in lines), f"header lines {lines!r}")


def _serve(parts: Iterator[bytes], times_out: bool, max_head: int) -> tuple[Hashable, ...]:
    """What a connection of the server does with the bytes, up to the first frame."""
    transport = Played(parts, times_out)
    http = HttpServerConnection(transport, max_head, MAX_BODY)  # type: ignore[arg-type]
    steps: list[Hashable] = []
    while True:
        try:
            asked = http.read_request(NEVER)
        except HttpFault as fault:
            check(400 <= fault.status <= 599, f"status {fault.status}")
            _check_head(simple_answer(fault.status, fault.text))
            steps.append(fault.status)
            break
        except TimeoutError:
            steps.append("timed out")
            break
        finally:
            check(
                held_bytes(http) <= max_head + MAX_BODY + 2 * SLACK,
                f"{held_bytes(http)} bytes held",
            )
        if asked is None:
            steps.append("end")
            break
        request, content = asked
        check(len(content) <= MAX_BODY, "a body is too long")
        request_context(request, content, 1, "127.0.0.1")
        if request.is_upgrade:
            status, protocol, answer = _PROTOCOLS.server_upgrade(
                request, "127.0.0.1", 1, PermessageDeflate()
            )
            _check_head(answer)
            check((protocol is not None) is (status == 101), "a protocol with a refusal")
            steps.append((status, protocol and protocol.name, protocol and protocol.compression))
            if protocol is not None:
                digest = base64.b64encode(
                    hashlib.sha1(request.key.strip().encode("latin-1") + _GUID).digest()
                )
                check(
                    b"Sec-WebSocket-Accept: " + digest + b"\r\n" in answer, "a wrong accept value"
                )
                machine = WebProcessInFrame(True)
                machine.feed(http.unread + transport.rest())
            break
        steps.append((request.method[:8], len(content) > 0))
        if not http.answer(200, b"ok", "text/plain", [("Server", "fuzz")]):
            steps.append("closed")
            break
    if transport.sent:
        _check_head(transport.sent)
    return tuple(steps)


def run_server(data: bytes) -> Hashable:
    """Let the server read requests, answer the plain ones, and decide on an upgrade."""
    control, flags, stream = (data[0], data[1], data[2:MAX_INPUT]) if len(data) > 2 else (0, 0, b"")
    times_out = bool(flags & 1)
    if flags & 2:  # a limit that inputs exceed
        return "small", _serve(pieces(stream, control), times_out, MAX_HEAD)
    outcome = _serve(iter([stream]), times_out, MAX_INPUT)
    again = _serve(pieces(stream, control), times_out, MAX_INPUT)
    check(outcome == again, f"{outcome} in one piece, {again} in pieces")
    return outcome[:4], len(outcome)


_UPGRADE = (
    b"GET /chat/room?a=b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: "
    b"keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: "
    b"13\r\nSec-WebSocket-Protocol: room, echo\r\n"
)


def _server_seeds() -> list[bytes]:
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    streams = [
        _UPGRADE + b"\r\n",
        _UPGRADE + b"\r\n" + encode_frame(1, b"early", _MASK),
        _UPGRADE
        + (
            b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10, foo; "
            b'a="b"\r\n\r\n'
        ),
        _UPGRADE
        + b"Authorization: Bearer token\r\nOrigin: http://example.com\r\nCookie: a=b\r\n\r\n",
        _UPGRADE.replace(b"keep-alive, ", b"keep-alive,\r\n ") + b"\r\n",
        _UPGRADE.replace(b"13", b"8") + b"\r\n",
        _UPGRADE.replace(b"/1.1", b"/1.0") + b"\r\n",
        get,
        get * 3 + _UPGRADE + b"\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nHello"
        + get,
        (
            b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
            b"chunked\r\n\r\n3\r\nabc\r\n5;x=y\r\n12345\r\n0\r\nA: b\r\n\r\n"
        ),
        b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 600\r\n\r\n"
        + b"x" * 600,
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 1200 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Y: z\r\n" * 200 + b"\r\n",
    ]
    return [
        bytes([at * 29 & 0xFF, flags]) + stream
        for at, stream in enumerate(streams)
        for flags in (0, 1, 2)
    ]


_HTTP_TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\n ",
    b"\0",
    b": ",
    b",",
    b";",
    b'"',
    b"=",
    b"\xff",
    b"\xc2\xa0",
    b"%00",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/9.9",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate",
    b"server_max_window_bits=",
    b"client_no_context_takeover",
    b"99999999999999999999",
    b"9" * 5000,
    b"-1",
    b"0x1f",
    "１".encode(),
]
_SERVER_TOKENS = [
    *_HTTP_TOKENS,
    b"GET ",
    b"POST ",
    b"Sec-WebSocket-Key: ",
    b"Sec-WebSocket-Protocol: echo\r\n",
    b"Expect: 100-continue\r\n",
]


# ------------------------------------------------------------------------------ the client's answer

MAX_ANSWER = 16384
#: stands for the accept value that belongs to the request's key, which is another one each time
ACCEPT = b"{accept}"


class _Answered(Played):
    """Plays an answer that quotes the accept value of the request that was sent."""

    def __init__(self, template: bytes, control: int | None, times_out: bool) -> None:
        super().__init__(iter(()), times_out)
        self._template = template
        self._control = control
        self.accept = b""
        self.answer = b""

    def sendall(self, data: bytes) -> None:
        super().sendall(data)
        key = next(
            line for line in data.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")
        ).split(b": ")[1]
        self.accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        self.answer = self._template.replace(ACCEPT, self.accept)
        self._parts = (
            iter([self.answer]) if self._control is None else pieces(self.answer, self._control)
        )


#: an answer before the final one
_INTERIM = re.compile(rb"HTTP/\d\.\d 1(?!01)\d\d.*?\n\r?\n", re.DOTALL)
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)


def _check_accepted(head: bytes, accept: bytes) -> None:
    """An answer that was accepted is one by RFC 9112 and RFC 6455 §4.1.

    A bare LF may end its lines; CR and NUL may be taken for blanks; fields whose name is none may
    be passed over.
    """
    text = head.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\0", b" ")
    text, end, rest = text.partition(b"\n\n")
    check(end and not rest, "the answer did not end at its first empty line")
    first, *lines = re.sub(rb"\n[ \t]+", b" ", text).split(b"\n")
    check(re.fullmatch(rb"HTTP/1\.1 101( .*)?", first, re.DOTALL), f"status line {first!r}")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match:
            fields.setdefault(match[1].lower(), []).append(match[2])
    check(
        fields.get(b"sec-websocket-accept") == [accept],
        f"accept {fields.get(b'sec-websocket-accept')}",
    )
    for name, token in ((b"upgrade", b"websocket"), (b"connection", b"upgrade")):
        tokens = [
            item.strip(b" \t").lower()
            for value in fields.get(name, [])
            for item in value.split(b",")
        ]
        check(token in tokens, f"{name!r} is {tokens}")


def _upgrade(template: bytes, control: int | None, flags: int) -> tuple[Hashable, ...]:
    transport = _Answered(template, control, bool(flags & 1))
    protocol = WebSocketProtocolChat("echo" if flags & 2 else "")
    deflate = PermessageDeflate() if flags & 4 else None
    try:
        result = client_upgrade(
            transport,  # type: ignore[arg-type]
            "127.0.0.1",
            80,
            "chat",
            protocol,
            "",
            "fuzz",
            NEVER,
            MAX_ANSWER,
            deflate,
        )
    except UpgradeError as exc:
        check(0 <= exc.http_status <= 999, f"status {exc.http_status}")
        check(str(exc), "an error without a text")
        check(transport.taken <= MAX_ANSWER + 4096, "read beyond the limit")
        return "refused", exc.http_status, str(exc)[:40] if str(exc).startswith("Invalid") else ""
    except TimeoutError:
        return ("timed out",)
    unread = result.unread + transport.rest()
    check(transport.answer.endswith(unread), "bytes behind the answer are lost")
    head = transport.answer.removesuffix(unread)
    while match := _INTERIM.match(head):
        head = head[match.end() :]
    _check_accepted(head, transport.accept)
    check(deflate is not None or protocol.compression is None, "compression that nobody asked for")
    check(0 <= result.connection_id < 1 << 64, f"connection id {result.connection_id}")
    WebProcessInFrame(False).feed(unread)
    return (
        "upgraded",
        result.connection_id > 0,
        protocol.compression,
        protocol.name,
        len(unread) > 0,
    )


def run_client(data: bytes) -> Hashable:
    """Let the client send its request and judge an answer."""
    control, flags, template = (
        (data[0], data[1], data[2:MAX_INPUT]) if len(data) > 2 else (0, 0, b"")
    )
    outcome = _upgrade(template, None, flags)
    again = _upgrade(template, control, flags)
    check(outcome[:2] == again[:2], f"{outcome} in one piece, {again} in pieces")
    return outcome


_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
    b"Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
)


def _client_seeds() -> list[bytes]:
    streams = [
        _ANSWER + b"\r\n",
        _ANSWER + b"\r\n" + encode_frame(1, b"early") + encode_frame(8, b"\x03\xe8"),
        _ANSWER + b"Sec-WebSocket-Protocol: echo\r\nSec-WebSocket-Connection-ID: 42\r\n\r\n",
        _ANSWER
        + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10\r\n\r\n",
        _ANSWER
        + b"Set-Cookie: a=b; Path=/\r\nSet-Cookie: c\r\nX-Long: "
        + b"x" * 600
        + b"\r\n\r\n",
        _ANSWER.replace(b": {", b":\r\n {") + b"\r\n",
        _ANSWER.replace(b"\r\n", b"\n") + b"\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + _ANSWER + b"\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nHello",
        b"HTTP/1.1 302 Found\r\nLocation: ws://example.com/\r\n\r\n",
        (
            b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: "
            b"chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        ),
        b"HTTP/1.0 101 Switching Protocols\r\n\r\n",
    ]
    return [
        bytes([at * 31 & 0xFF, flags]) + stream
        for at, stream in enumerate(streams)
        for flags in (2, 3, 6)
    ]


_CLIENT_TOKENS = [
    *_HTTP_TOKENS,
    ACCEPT,
    b"Sec-WebSocket-Accept: {accept}\r\n",
    b"Sec-WebSocket-Protocol: echo\r\n",
    b"101",
    b"Sec-WebSocket-Connection-ID: ",
]

TARGETS = {
    target.name: target
    for target in (
        Target("frames", run_frames, _frame_seeds(), _FRAME_TOKENS),
        Target("server", run_server, _server_seeds(), _SERVER_TOKENS),
        Target("client", run_client, _client_seeds(), _CLIENT_TOKENS),
        Target("rest", run_rest, rest_seeds(), REST_TOKENS),
        Target("key", run_rest_key, rest_key_seeds(), REST_TOKENS),
        Target("services", run_service, service_seeds(), SERVICE_TOKENS),
        Target("loose", run_loose, loose_seeds(), LOOSE_TOKENS),
        Target("proxy", run_proxy, proxy_seeds(), PROXY_TOKENS),
        Target("names", run_names, name_seeds(), NAME_TOKENS),
    )
}
