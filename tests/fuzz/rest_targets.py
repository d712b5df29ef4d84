"""The REST protocols as fuzz targets: both forms of messages, jumbo frames, SynLZ and its
container, AES. See ``targets.py``.

The first byte of an input says which of these reads the rest.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from mormot_ws import (
    HttpServerRequest,
    WebSocketFrame,
    WebSocketsProtocolError,
    focBinary,
    focText,
    pboSynLzCompress,
)
from mormot_ws.rest.algosynlz import algo_compress, algo_decompress
from mormot_ws.rest.binary_form import (
    decode_binary,
    decode_jumbo,
    encode_binary,
    encode_jumbo,
    is_jumbo,
)
from mormot_ws.rest.crc32c import crc32c
from mormot_ws.rest.encryption import AesEncryption
from mormot_ws.rest.json_form import decode_json, encode_json, json_head
from mormot_ws.rest.messages import RestAnswer, RestMessageError, RestRequest, is_json_type
from mormot_ws.rest.protocols import (
    WebSocketProtocolBinary,
    WebSocketProtocolJson,
    WebSocketProtocolRest,
)
from mormot_ws.rest.synlz import SynLZError, synlz_compress, synlz_decompress

MAX_INPUT = 8192
#: bytes that a message may have
MOST = 40_000
_AES = AesEncryption.of_bytes(bytes(range(16)))


def check(condition: object, what: str) -> None:
    """Raise when something that must hold does not."""
    if not condition:
        raise AssertionError(what)


class _Process:
    """Stands for a process: remembers what is sent, and what the application is asked."""

    exchange = None
    remote_ip = "127.0.0.1"

    def __init__(self) -> None:
        self.sent: list[WebSocketFrame] = []
        self.asked = 0
        self.takes_messages = True
        self.dropped_count = 0

    def log_fields(self) -> dict[str, object]:
        return {}

    def send_frame(self, frame: WebSocketFrame) -> bool:
        self.sent.append(frame)
        return True

    def compute_context(self) -> tuple[HttpServerRequest, Any]:
        return HttpServerRequest(), self.on_request

    def on_request(self, ctxt: HttpServerRequest) -> int:
        self.asked += 1
        ctxt.out_content, ctxt.out_content_type, ctxt.out_custom_headers = (
            ctxt.in_content,
            "text/x",
            ctxt.in_headers,
        )
        return 200


def _received(protocol: WebSocketProtocolRest, opcode: Any, payload: bytes) -> tuple[int, int]:
    """Return (requests that the application saw, answers) when *payload* arrives; each answer can
    be read.
    """
    process: Any = _Process()
    protocol.process_incoming_frame(process, WebSocketFrame(opcode, payload), "")
    for frame in process.sent:
        check(isinstance(protocol.decode(frame)[1], RestAnswer), "an answer that is none")
    check(len(process.sent) <= process.asked, "an answer that nobody asked for")
    return min(process.asked, 3), min(len(process.sent), 3)


def _summary(
    head: str, message: RestRequest | RestAnswer, again: RestRequest | RestAnswer
) -> tuple[Hashable, ...]:
    """Describe *message*; *again* is what it became when it was sent once more."""
    if message.content:
        if is_json_type(message.content_type):
            message.content_type = again.content_type = ""
        check(again == message, f"{message} came back as {again}")
    if isinstance(message, RestRequest):
        return "request", head[:2], message.no_answer, message.method[:4], message.content_type[:6]
    return "answer", head[:2], message.status, message.content_type[:6]


def _json(payload: bytes) -> Hashable:
    counts = _received(WebSocketProtocolJson(), focText, payload)
    head = json_head(payload)
    try:
        found, message = decode_json(payload)
    except RestMessageError as exc:
        return "json", str(exc), head[:2]
    check(found == head, "two heads")
    return "json", counts, _summary(head, message, decode_json(encode_json(message, head))[1])


def _binary(payload: bytes) -> Hashable:
    counts = _received(WebSocketProtocolBinary(options=()), focBinary, payload)
    try:
        frames = decode_jumbo(payload) if is_jumbo(payload) else [payload]
        check(sum(map(len, frames)) <= len(payload), "more than there was")
        head, message = decode_binary(frames[0])
    except RestMessageError as exc:
        return "binary", is_jumbo(payload), counts, str(exc)
    again = decode_binary(encode_binary(head, message))[1]
    return "binary", is_jumbo(payload), counts, _summary(head, message, again)


def _unpack(stream: bytes) -> Hashable:
    try:
        data = synlz_decompress(stream, MOST)
    except SynLZError as exc:
        return "unpack", str(exc)[:32].rstrip("0123456789 ")
    check(len(data) <= MOST, "more than allowed")
    container = (
        crc32c(data).to_bytes(4, "little") + b"\1" + crc32c(stream).to_bytes(4, "little") + stream
    )
    check(
        algo_decompress(container, MOST) == data or len(stream) == 0,
        "the container gives something else",
    )
    return "unpacked", len(data).bit_length()


def _pack(data: bytes) -> Hashable:
    stream = synlz_compress(data)
    check(synlz_decompress(stream, len(data)) == data, "packed and unpacked it is something else")
    check(len(stream) <= len(data) + len(data) // 8 + 8, "a stream is too long")
    container = algo_compress(data)
    check(algo_decompress(container, len(data)) == data, "the container gives something else")
    return "packed", len(stream) < len(data), container[4:5]


def _wire(payload: bytes) -> Hashable:
    """A whole message as it arrives, encrypted and compressed."""
    protocol = WebSocketProtocolBinary()
    protocol.encryption = _AES
    protocol._max_message_bytes = MOST
    frame = WebSocketFrame(focBinary, payload)
    try:
        protocol.after_get_frame(frame)
    except WebSocketsProtocolError as exc:
        check(exc.code == 1008, f"close code {exc.code}")
        return "wire", exc.reason
    check(len(frame.payload) <= MOST, "more than allowed")
    return "wire", len(frame.payload) > 0


_READERS = (_json, _binary, _unpack, _pack, _wire)


def run_rest(data: bytes) -> Hashable:
    """Give an input to the reader that its first byte says."""
    return _READERS[data[0] % len(_READERS)](data[1:MAX_INPUT]) if data else "nothing"


_KEY_KINDS = (b"r", b"a", b"f")


def run_rest_key(data: bytes) -> Hashable:
    """Give a server with a key what a peer has encrypted, with the key (odd first byte) or not.

    Either it is a message, and then nothing raises, or the connection ends, always with the same
    code and reason, before the application was asked.
    """
    if not data:
        return "nothing"
    how, payload = data[0], data[1:MAX_INPUT]
    options = pboSynLzCompress if how & 2 else ()
    protocol = WebSocketProtocolBinary(options=options)
    protocol.encryption = _AES
    protocol._max_message_bytes = MOST
    if how & 4:
        payload = algo_compress(payload)
    frame = WebSocketFrame(focBinary, _AES.encrypt(payload) if how & 1 else payload)
    process: Any = _Process()
    try:
        protocol.after_get_frame(frame)
    except WebSocketsProtocolError as exc:
        check((exc.code, exc.reason) == (1008, "a message cannot be read"), f"it says {exc}")
        return "key", how & 7, "fault"
    check(frame.payload[:1] in _KEY_KINDS, "not a message")
    check(len(frame.payload) <= MOST, "more than allowed")
    protocol.process_incoming_frame(process, frame, "")
    check(protocol.frames_in_dropped == 0, "something was dropped")
    return "key", how & 7, frame.payload[:2], min(process.asked, 3), min(len(process.sent), 3)


def rest_key_seeds() -> list[bytes]:
    """Return messages and what is nearly one, in all ways of :func:`run_rest_key`."""
    request = encode_binary("r000001", RestRequest("GET", "/hello?a=b", "X-A: 1"))
    answer = encode_binary("a000001", RestAnswer(404, "X: y", "text/plain", b"text" * 200))
    plains = [request, answer, encode_jumbo([request, answer]), request[:-4], b"x" + request[1:]]
    seeds = [bytes([1]) + plain for plain in plains]
    seeds += [bytes([7]) + plain for plain in plains]
    seeds += [bytes([3]) + algo_compress(plain) for plain in plains]
    seeds += [bytes([2]) + _AES.encrypt(algo_compress(plain)) for plain in plains]
    return [*seeds, b"\0" + _AES.encrypt(request)]


def rest_seeds() -> list[bytes]:
    """Return valid inputs of each reader."""
    text = b"the quick brown fox jumps over the lazy dog, the quick brown fox sleeps. " * 12
    messages: list[RestRequest | RestAnswer] = [
        RestRequest("GET", "/hello?a=b", "X-A: 1\r\nX-B: 2"),
        RestRequest("POST", "/é", "", True, "application/json", b'{"a":[1,"]}\\"",null]}'),
        RestRequest("PUT", '/"\\', "", False, "application/octet-stream", bytes(range(256))),
        RestAnswer(404, "X: y", "text/plain", text[:300]),
        RestAnswer(200, "", "application/json", b'"\\ud83d\\ude00"'),
    ]
    json_seeds = [encode_json(message) for message in messages] + [
        b' { "rzz" : [ null , "" , "", "1" ,"text/x", bare]}'
    ]
    frames = [
        encode_binary("r000001" if isinstance(m, RestRequest) else "a000001", m) for m in messages
    ]
    binary_seeds = [*frames, encode_jumbo(frames), encode_jumbo(frames[:1])]
    streams = [
        synlz_compress(part) for part in (b"", b"abc", text, bytes(30_000), bytes(range(256)) * 3)
    ]
    wires = []
    for plain in (*frames, text):
        wires.append(_AES.encrypt(algo_compress(plain)))
    seeds = (json_seeds, binary_seeds, streams, [text, bytes(range(200)) * 2], wires)
    return [bytes([reader]) + seed for reader, group in enumerate(seeds) for seed in group]


REST_TOKENS = [
    *(
        b'{"request":[',
        b'{"answer":[',
        b'"',
        b"\\",
        b"\\u",
        b"\\ud83d",
        b"]}",
        b",",
        b"null",
        b"\xef\xbf\xb0",
        b"AAE=",
    ),
    *(
        b"frames\1",
        b"r000001\1",
        b"a000001\1",
        b"request\1",
        b"\x80\x80\x80\x80\x01",
        b"\xff\xff\xff\xff\x0f",
        b"\1",
        b"\0",
    ),
    *(
        b"\xff\x7f",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\x80\0\0",
        b"text/plain",
        b"application/json",
        b"\r\n",
    ),
]
