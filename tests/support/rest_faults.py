"""What becomes of REST requests when the ends do not agree, or frames arrive damaged: ``python -m
tests.support.rest_faults [--quick]``.

Three tables, all on real sockets. Ends with different keys and options: what the upgrade and a
request return, and how often the request was executed. Three captured requests, then three captured
answers, truncated behind each byte and with each bit inverted (``--quick``: one bit of each byte):
how many were refused with a close code, dropped, or taken. None may be executed twice, hang, or be
taken changed where the SynLZ container guards the frame. The exit code is 1 when one did.
``test_rest_faults.py`` runs the same in a fast form.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebProcessInFrame,
    WebSocketProtocolBinary,
    WebSocketProtocolBinaryOptions,
    WebSocketProtocolJson,
    WebSocketProtocolRest,
    WebSocketServerRest,
    encode_frame,
    pboNoLocalHostCompress,
    pboNoLocalHostEncrypt,
    pboSynLzCompress,
)
from mormot_ws.core.frames import parse_close_payload
from mormot_ws.rest.messages import RestRequest

from . import BOUND, HOST, RawClient, RawServer, RawServerPeer, fast_settings, ms
from .wire_vectors import ALL_VECTORS, Vector, wire_of

NONE = WebSocketProtocolBinaryOptions(0)
#: milliseconds that a client waits for an answer; less than 2 000 count as that, unless a test
#: changes it
ANSWER_TIMEOUT = 2_000


# --------------------------------------------------------------------------- ends that do not agree


class End(NamedTuple):
    """How one side is configured."""

    key: str = ""
    options: WebSocketProtocolBinaryOptions = pboSynLzCompress
    ajax: bool = False
    aes: tuple[tuple[str, Any], ...] = ()


class Ends(NamedTuple):
    """A server and a client, and what is expected of a request: 'answered', 'refused', 'closed' or
    'no answer'.
    """

    name: str
    server: End
    client: End
    expected: str


SECRET = End("secret")
UNENCRYPTED_HERE = End("secret", pboSynLzCompress | pboNoLocalHostEncrypt)
UNCOMPRESSED_HERE = End("", pboSynLzCompress | pboNoLocalHostCompress)
#: ends that do not decrypt what this machine sends
UNENCRYPTED = [End(), End("", NONE), UNENCRYPTED_HERE]
PAIRS = [
    Ends("the same key and options", SECRET, SECRET, "answered"),
    Ends("a wrong key", SECRET, End("Secret"), "closed"),
    Ends("a wrong key, no compression", End("secret", NONE), End("Secret", NONE), "closed"),
    Ends("a key on the client only", End(), SECRET, "no answer"),
    Ends("a key on the server only", SECRET, End(), "closed"),
    Ends("compression on the client only", End("", NONE), End(), "closed"),
    Ends("compression on the server only", End(), End("", NONE), "closed"),
    Ends("compression on the client only, a key", End("secret", NONE), SECRET, "closed"),
    Ends("no encryption on this machine, client only", SECRET, UNENCRYPTED_HERE, "closed"),
    Ends("no encryption on this machine, server only", UNENCRYPTED_HERE, SECRET, "no answer"),
    Ends("no compression on this machine, client only", End(), UNCOMPRESSED_HERE, "answered"),
    Ends("another salt", SECRET, End("secret", aes=(("aes_salt", "other"),)), "closed"),
    Ends("other rounds", SECRET, End("secret", aes=(("aes_rounds", 512),)), "closed"),
    Ends("256 bits on the client only", SECRET, End("secret", aes=(("aes_bits", 256),)), "closed"),
    Ends("JSON on the client only", End(), End(ajax=True), "refused"),
]  # fmt: skip


class Outcome(NamedTuple):
    """What became of a request."""

    upgrade: str
    status: int
    error: str
    executed: int
    milliseconds: float

    @property
    def word(self) -> str:
        """'answered', 'refused', 'closed' or 'no answer'."""
        if self.upgrade:
            return "refused"
        if self.status == 200:
            return "answered"
        return "no answer" if "no answer within" in self.error else "closed"


class Executed:
    """An ``on_request`` that remembers what it was asked, and answers with it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []

    def __call__(self, ctxt: HttpServerRequest) -> int:
        self.requests.append((ctxt.method, ctxt.url, ctxt.in_content))
        ctxt.out_content, ctxt.out_content_type = b'{"done":1}', "application/json"
        return 200


@contextlib.contextmanager
def rest_server(end: End) -> Iterator[tuple[WebSocketServerRest, Executed]]:
    """Serve as *end* says."""
    executed = Executed()
    # all the damaged messages come from one address
    settings = fast_settings(max_key_faults_per_minute=0, **dict(end.aes))
    server = WebSocketServerRest(
        f"{HOST}:0", None, None, "", "", end.key, end.ajax, end.options, settings=settings
    )
    server.on_request = executed
    with server:
        yield server, executed


def request_between(pair: Ends) -> Outcome:
    """Let the client of *pair* upgrade and make one request."""
    with (
        rest_server(pair.server) as (server, executed),
        HttpClientWebSockets(
            HOST,
            server.port,
            timeout=ms(ANSWER_TIMEOUT),
            settings=fast_settings(**dict(pair.client.aes)),
        ) as client,
    ):
        upgrade = client.websockets_upgrade(
            "", pair.client.key, pair.client.ajax, pair.client.options
        )
        if upgrade:
            return Outcome(upgrade, 0, "", len(executed.requests), 0)
        began = time.monotonic()
        status = client.request("/x", "POST", 0, "", b'{"a":1}' * 100, "application/json")
        took = (time.monotonic() - began) * 1000
        return Outcome("", status, client.answer.error, len(executed.requests), took)


def is_as_expected(pair: Ends, outcome: Outcome) -> bool:
    """Tell whether *outcome* is that of *pair*, and the request was executed only if it was
    answered.
    """
    # one message in 256 that was made with another key has a valid padding: it is then dropped, and
    # not answered
    expected = ("closed", "no answer") if pair.expected == "closed" else (pair.expected,)
    return outcome.word in expected and outcome.executed == (outcome.word == "answered")


# ----------------------------------------------------------------------------------- damaged frames


def vector_named(name: str) -> Vector:
    """Return one captured frame."""
    return next(vector for vector in ALL_VECTORS if vector["name"] == name)


class Captured(NamedTuple):
    """A captured frame, and the end that takes it."""

    name: str
    what: str
    end: End
    #: a change of any bit is noticed
    guarded: bool

    @property
    def wire(self) -> bytes:
        """The frame as it was on the wire."""
        return wire_of(vector_named(self.name))

    def protocol(self) -> WebSocketProtocolRest:
        """Return the protocol of either end."""
        if self.end.ajax:
            return WebSocketProtocolJson()
        return WebSocketProtocolBinary("", self.end.key, self.end.options)


REQUESTS = [
    Captured("synopsebin_f42_c2s", "4 requests in a jumbo frame, compressed", End(), True),
    Captured("synopsebin_enc_f05_c2s", "a request, stored and encrypted", SECRET, True),
    Captured(
        "synopsejson_f05_c2s", "a request in JSON, which nothing guards", End(ajax=True), False
    ),
]
ANSWERS = [
    Captured("synopsebin_f26_s2c", "an answer, compressed", End(), True),
    Captured("synopsebin_enc_f02_s2c", "an answer, stored and encrypted", SECRET, True),
    Captured(
        "synopsejson_f06_s2c", "an answer in JSON, which nothing guards", End(ajax=True), False
    ),
]


def damaged(wire: bytes, quick: bool) -> Iterator[bytes]:
    """Yield *wire* cut behind each of its bytes but the last, then with bits inverted: each one,
    or one of each byte.
    """
    for size in range(len(wire)):
        yield wire[:size]
    for at in range(len(wire)):
        for bit in (at * 5 % 8,) if quick else range(8):
            yield wire[:at] + bytes((wire[at] ^ 1 << bit,)) + wire[at + 1 :]


def meant_by(captured: Captured) -> tuple[int, list[tuple[str, str, bytes]]]:
    """Return (answers, executed requests) of the intact frame, by what the vector says."""
    decoded = vector_named(captured.name)["decoded"]
    messages = decoded if isinstance(decoded, list) else [decoded]
    executed = [(m["method"], m["url"], bytes.fromhex(m["content"])) for m in messages]
    return sum(not message["noanswer"] for message in messages), executed


def sent_to_server(
    server: WebSocketServerRest, captured: Captured, wire: bytes
) -> tuple[bytes, int]:
    """Send *wire* and an intact request behind it, and end; return (payload of the server's close
    frame, answers before).
    """
    protocol = captured.protocol()
    after = protocol.encode(
        RestRequest("GET", "/after"), "request" if captured.end.ajax else "r00ffff"
    )
    protocol.before_send_frame(after)
    with RawClient(server.port) as client:
        name = "synopsejson" if captured.end.ajax else "synopsebin"
        client.upgrade("root", name)
        with contextlib.suppress(ConnectionError):
            client.send(wire + encode_frame(after.opcode, after.payload, b"\x21\x43\x65\x87"))
            client.sock.shutdown(socket.SHUT_WR)
        frames = WebProcessInFrame(masked=False).feed(client.read_to_end())
    closes = [frame.payload for frame in frames if frame.opcode == 8]
    return closes[0] if closes else b"", sum(frame.opcode in (1, 2) for frame in frames)


def judge_request(
    captured: Captured, server: WebSocketServerRest, executed: Executed, wire: bytes
) -> str:
    """Return what became of a damaged request, in a word or two; ``'FAULT …'`` for what must not
    be.
    """
    executed.requests.clear()
    began = time.monotonic()
    close, answers = sent_to_server(server, captured, wire)
    if time.monotonic() - began > BOUND / 2:
        return "FAULT hangs"
    done = [request for request in executed.requests if request[1] != "/after"]
    after = len(executed.requests) - len(done)
    expected_answers, meant = meant_by(captured)
    if len(done) > len(meant) or after > 1:
        return "FAULT executed twice"
    if done == meant and answers == after + expected_answers:
        return "taken unchanged"
    if done:
        return "FAULT taken changed" if captured.guarded else "taken changed"
    code = parse_close_payload(close)[0]
    if after:
        return "dropped, the next one answered"
    return "connection ended" if code == 1005 else f"closed with {code}"


def matrix_of_requests(captured: Captured, quick: bool) -> Counter[str]:
    """Return how often what became of the damaged forms of a request."""
    with rest_server(captured.end) as (server, executed):
        assert judge_request(captured, server, executed, captured.wire) == "taken unchanged"
        return Counter(
            judge_request(captured, server, executed, wire)
            for wire in damaged(captured.wire, quick)
        )


def judge_answer(captured: Captured, port: int) -> str:
    """Return what a client makes of the damaged answer that its server sends."""
    decoded = vector_named(captured.name)["decoded"]
    protocol = captured.protocol()
    if isinstance(protocol, WebSocketProtocolBinary):
        # the number that was answered then
        protocol._numbers = itertools.count(int(decoded["head"][1:], 16))
    with HttpClientWebSockets(
        HOST, port, timeout=ms(ANSWER_TIMEOUT), settings=fast_settings()
    ) as client:
        error = client.websockets_upgrade("", "", protocol=protocol)
        assert not error, error
        began = time.monotonic()
        status = client.request("/hello", "GET")
        took = time.monotonic() - began
        answer = client.answer
    if took > BOUND / 2:
        return "FAULT hangs"
    if (status, answer.content) == (decoded["status"], bytes.fromhex(decoded["content"])):
        return "taken unchanged"
    if status in (404, 666) and answer.error:
        return f"{status}: {answer.error}"
    return "FAULT taken changed" if captured.guarded else "taken changed"


def matrix_of_answers(captured: Captured, quick: bool) -> Counter[str]:
    """Return how often what became of the damaged forms of an answer. The server ends the
    connection behind each.
    """
    wires = iter([captured.wire, *damaged(captured.wire, quick)])
    name = "synopsejson" if captured.end.ajax else "synopsebin"

    def answering(peer: RawServerPeer) -> None:
        head = peer.read_head()
        peer.send(peer.answer(head, Sec_WebSocket_Protocol=name))
        peer.receive_frame()
        peer.send(next(wires))
        peer.sock.shutdown(socket.SHUT_WR)
        peer.read_to_end()

    with RawServer(answering) as server:
        assert judge_answer(captured, server.port) == "taken unchanged"
        return Counter(judge_answer(captured, server.port) for _ in damaged(captured.wire, quick))


# -------------------------------------------------------------------------------------- the command


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one bit of each byte")
    quick = parser.parse_args().quick
    logging.disable(logging.CRITICAL)  # the library warns of each damaged frame
    faults = 0
    print(f"{'ends':<45}{'request':<12}{'status':>6}{'executed':>10}{'ms':>7}  why")
    for pair in PAIRS:
        outcome = request_between(pair)
        fault = not is_as_expected(pair, outcome)
        faults += fault
        why = outcome.upgrade or outcome.error
        print(
            f"{pair.name:<45}{outcome.word:<12}{outcome.status:>6}{outcome.executed:>10}"
            f"{outcome.milliseconds:>7.0f}  {why}" + ("   FAULT" if fault else "")
        )
    for title, frames, matrix in (
        ("damaged requests, sent to a server", REQUESTS, matrix_of_requests),
        ("damaged answers, sent to a client", ANSWERS, matrix_of_answers),
    ):
        print(f"\n{title}")
        for captured in frames:
            counts = matrix(captured, quick)
            print(f"  {captured.what} ({len(captured.wire)} bytes, {counts.total()} forms)")
            for word, count in counts.most_common():
                print(f"{count:>8}  {word}")
                faults += count if word.startswith("FAULT") else 0
    print(
        f"\n{faults} faults" if faults else "\nno fault: nothing hung, nothing was executed twice"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
