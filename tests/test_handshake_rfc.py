"""The opening handshake on real sockets, to the letter of RFC 6455 §4 and RFC 9110/9112: what a server has to take and to refuse, and what
a client has to send, to take and to refuse.

``test_handshake.py`` has the same as values. Here a raw client writes requests octet by octet, a raw server writes answers.
"""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest
from support import (
    HOST,
    MS,
    Behaviour,
    HttpHead,
    RawClient,
    RawServer,
    RawServerPeer,
    Recorder,
    accept_for,
    echo,
    echo_server,
    in_threads,
    ms,
    new_client,
    sending,
    text,
    upgrade,
    upgraded,
)

from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat, WebSocketServer, focText

KEY = RawClient.KEY
MAX_HEADER = 4096
MAX_BODY = 8192

#: a request as a browser would write it, line by line
REQUEST = [
    "GET / HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: echo",
]


def octets(lines: list[str], end: str = "\r\n") -> bytes:
    """Return a head of these *lines*."""
    return (end.join(lines) + 2 * end).encode("latin-1")


def changed(name: str, *lines: str, of: list[str] = REQUEST) -> list[str]:
    """Return *of* with *lines* in the place of the header *name*, or of the first line for the name ``''``."""
    at = next((at for at, line in enumerate(of) if line.lower().startswith(f"{name.lower()}:")), 0)
    assert bool(at) is bool(name), name
    return [*of[:at], *lines, *of[at + 1 :]]


# =========================================================================================================== the server


@pytest.fixture
def server() -> Iterator[WebSocketServer]:
    """A server with small limits, that offers ``echo`` everywhere, ``room`` on one URI, and counts what its callbacks see."""
    with echo_server(max_header_bytes=MAX_HEADER, max_body_bytes=MAX_BODY) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("room", "chat/room", echo))
        yield server


def asked(server: WebSocketServer, request: bytes, chop: int = 0) -> tuple[HttpHead, bytes]:
    """Send *request* on a new connection, and return the head of the answer and all that comes behind it."""
    with RawClient(server.port) as raw:
        raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), chop or len(request)):
            raw.send(request[at : at + (chop or len(request))])
        head = raw.read_head()
        if head.status == 101:
            raw.send_frame(8, b"")
        else:
            raw.sock.shutdown(socket.SHUT_WR)
        return head, raw.read_to_end()


GOOD_REQUESTS = {
    "as it is": REQUEST,
    "names in lower case": [
        REQUEST[0],
        *[line.replace(line.split(":")[0], line.split(":")[0].lower()) for line in REQUEST[1:]],
    ],
    "names in upper case": [
        REQUEST[0],
        *[line.replace(line.split(":")[0], line.split(":")[0].upper()) for line in REQUEST[1:]],
    ],
    "another order": [REQUEST[0], *reversed(REQUEST[1:])],
    "no blank behind colons": [REQUEST[0], *[line.replace(": ", ":") for line in REQUEST[1:]]],
    "blanks around values": [REQUEST[0], *[line.replace(": ", ": \t ") + " \t" for line in REQUEST[1:]]],
    "upgrade in another case": changed("Upgrade", "Upgrade: WebSocket"),
    "upgrade of several tokens": changed("Upgrade", "Upgrade: h2c, websocket"),
    "upgrade of several tokens, first": changed("Upgrade", "Upgrade: websocket,foo/1.0"),
    "upgrade twice": changed("Upgrade", "Upgrade: h2c", "Upgrade: websocket"),
    "connection in another case": changed("Connection", "Connection: UPGRADE"),
    "connection of several tokens": changed("Connection", "Connection: keep-alive, Upgrade"),
    "connection with empty tokens": changed("Connection", "Connection: ,keep-alive,, upgrade ,"),
    "connection twice": changed("Connection", "Connection: keep-alive", "Connection: Upgrade"),
    "folded with a blank": changed("Connection", "Connection: keep-alive,", " Upgrade"),
    "folded with a tab": changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: other,", "\techo"),
    "protocols of several tokens": changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: other, echo, more"),
    "protocols in several lines": changed(
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: other", "Sec-WebSocket-Protocol: echo"
    ),
    "an empty extensions header": [*REQUEST, "Sec-WebSocket-Extensions:"],
    "unknown extensions": [*REQUEST, "Sec-WebSocket-Extensions: foo; a=1; b, bar"],
    "unknown headers": [
        *REQUEST,
        "X-Empty:",
        "X-Long: " + "a" * 500,
        "X-Latin: \xe4\xff",
        "Cookie: a=b",
        "Cookie: c=d",
    ],
    "a length of 0": [*REQUEST, "Content-Length: 0"],
    "the host of a port": changed("Host", "Host: localhost:8080"),
    "an empty host": changed("Host", "Host:"),
    "a target with a query": ["GET /a/b?c=d&e=%20 HTTP/1.1", *REQUEST[1:]],
}


@pytest.mark.parametrize("lines", GOOD_REQUESTS.values(), ids=GOOD_REQUESTS)
def test_a_request_in_any_valid_form_is_upgraded(server: WebSocketServer, lines: list[str]) -> None:
    """Case, order, blanks, folding, lists and repetition of headers are as free as RFC 9110 has them."""
    head, rest = asked(server, octets(lines))
    assert head.first_line == "HTTP/1.1 101 Switching Protocols"
    assert head.headers["sec-websocket-accept"] == accept_for(KEY)
    assert head.headers["upgrade"].lower() == "websocket"
    assert head.headers["connection"].lower() == "upgrade"
    assert head.headers["sec-websocket-protocol"] == "echo"
    assert "sec-websocket-extensions" not in head.headers
    assert rest == b"\x88\x00"


@pytest.mark.parametrize("chop", [1, 2, 7, 100])
def test_a_request_in_chops_is_upgraded(server: WebSocketServer, chop: int) -> None:
    """Where TCP cuts the request makes no difference, be it byte by byte."""
    assert asked(server, octets(REQUEST), chop)[0].status == 101


def test_empty_lines_before_the_request_are_ignored(server: WebSocketServer) -> None:
    """A server should ignore at least one empty line before the request line (RFC 9112 §2.2)."""
    assert asked(server, b"\r\n" + octets(REQUEST))[0].status == 101


@pytest.mark.parametrize("where", ["together", "behind the body", "before the request"])
def test_an_empty_line_between_requests_is_ignored(server: WebSocketServer, where: str) -> None:
    """Old clients send one behind the body of a POST, most often in the same segment (RFC 9112 §2.2)."""
    server.on_request = lambda ctxt: 204
    post = octets(["POST / HTTP/1.1", "Host: a", "Content-Length: 3"]) + b"abc"
    with RawClient(server.port) as raw:
        if where == "together":
            raw.send(post + b"\r\n" + octets(REQUEST))
        else:
            raw.send(post + (b"\r\n" if where == "behind the body" else b""))
        assert raw.read_head().status == 204
        if where != "together":
            raw.send((b"\r\n" if where == "before the request" else b"") + octets(REQUEST))
        assert raw.read_head().status == 101


def test_an_absolute_target_names_the_same_resource(server: WebSocketServer) -> None:
    """A server has to accept the absolute form (RFC 9112 §3.2.2), whose path is the resource (RFC 6455 §4.2.1)."""
    lines = changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: room")
    for target in ("/chat/room?x=1", f"http://localhost:{server.port}/chat/room?x=1"):
        head, _ = asked(server, octets([f"GET {target} HTTP/1.1", *lines[1:]]))
        assert (target, head.status) == (target, 101)


def test_an_absolute_target_is_the_uri_that_the_protocol_sees(server: WebSocketServer) -> None:
    """``upgrade_uri`` is the resource with its query, whatever form the request had."""
    seen: list[str] = []

    def on_upgraded(protocol: object) -> int:
        seen.append(getattr(protocol, "upgrade_uri"))  # noqa: B009 - the parameter's class does not matter
        return 200

    server.on_websocket_upgraded = on_upgraded
    for target in ("/a/b?c=d", "http://localhost/a/b?c=d"):
        assert asked(server, octets([f"GET {target} HTTP/1.1", *REQUEST[1:]]))[0].status == 101
    assert seen == ["a/b?c=d", "a/b?c=d"]


REFUSED_REQUESTS: dict[str, tuple[list[str], int]] = {
    "no key": (changed("Sec-WebSocket-Key"), 400),
    "an empty key": (changed("Sec-WebSocket-Key", "Sec-WebSocket-Key:"), 400),
    "a key of 15 bytes": (
        changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {base64.b64encode(bytes(15)).decode()}"),
        400,
    ),
    "a key of 17 bytes": (
        changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {base64.b64encode(bytes(17)).decode()}"),
        400,
    ),
    "a key without padding": (changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {KEY.rstrip('=')}"), 400),
    "a key that is no base64": (changed("Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!!ubmFtcGxlIG5vbmNlQ=="), 400),
    "a key with a blank inside": (changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {KEY[:9]} {KEY[9:]}"), 400),
    "two keys": (changed("Sec-WebSocket-Key", *[f"Sec-WebSocket-Key: {KEY}"] * 2), 400),
    "no version": (changed("Sec-WebSocket-Version"), 400),
    "two versions": (changed("Sec-WebSocket-Version", *["Sec-WebSocket-Version: 13"] * 2), 400),
    "an unknown protocol": (changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: unknown"), 400),
    "no protocol name": (changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol:"), 400),
    "a protocol that is no token": (changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: echo, a b"), 400),
    "no host": (changed("Host"), 400),
    "two hosts": (changed("Host", "Host: a", "Host: b"), 400),
    "a blank before the colon": (changed("Upgrade", "Upgrade : websocket"), 400),
    "a header without a colon": ([*REQUEST, "nonsense"], 400),
    "a header without a name": ([*REQUEST, ": nonsense"], 400),
    "a name that is no token": ([*REQUEST, "a b: nonsense"], 400),
    "a value with a nul": ([*REQUEST, "X-Nul: a\0b"], 400),
    "a value with a bare cr": ([*REQUEST, "X-CR: a\rb"], 400),
    "a folded first header": ([REQUEST[0], " folded", *REQUEST[1:]], 400),
    "no request line": (REQUEST[1:], 400),
    "a request line of one word": (["GET", *REQUEST[1:]], 400),
    "a request line without a version": (["GET /", *REQUEST[1:]], 400),
    "a request line of another protocol": (["GET / FTP/1.1", *REQUEST[1:]], 400),
    "a target with a blank": (["GET /a b HTTP/1.1", *REQUEST[1:]], 400),
    "a target beyond ascii": (["GET /\xe4 HTTP/1.1", *REQUEST[1:]], 400),
    "two different lengths": ([*REQUEST, "Content-Length: 1", "Content-Length: 2"], 400),
    "a length that is none": ([*REQUEST, "Content-Length: x"], 400),
    "a negative length": ([*REQUEST, "Content-Length: -1"], 400),
    "an unknown transfer coding": ([*REQUEST, "Transfer-Encoding: foo"], 501),
}


@pytest.mark.parametrize("case", REFUSED_REQUESTS)
def test_a_request_that_is_wrong_is_refused_and_the_connection_closed(server: WebSocketServer, case: str) -> None:
    """Each fault has its status; the answer is complete and the connection ends cleanly, with no reset."""
    lines, status = REFUSED_REQUESTS[case]
    with RawClient(server.port) as raw:
        raw.send(octets(lines))
        head = raw.read_head()
        assert head.status == status
        assert head.headers["connection"].lower() == "close"
        while raw.receive():  # ends without ConnectionResetError
            pass
    assert server.websocket_connections == 0


@pytest.mark.parametrize("version", ["0", "7", "8", "12", "14", "25", "113", "x", "", "13.0", "13, 8", "8, 13"])
def test_another_version_is_told_the_one_that_works(server: WebSocketServer, version: str) -> None:
    """A version other than 13 is answered by 426 with the server's own (RFC 6455 §4.4), and ``Upgrade`` (RFC 9110 §15.5.22)."""
    head, _ = asked(server, octets(changed("Sec-WebSocket-Version", f"Sec-WebSocket-Version: {version}")))
    assert head.status == 426
    assert head.headers["sec-websocket-version"] == "13"
    assert head.headers["upgrade"].lower() == "websocket"


NO_UPGRADES = {
    "http/1.0": ["GET / HTTP/1.0", *REQUEST[1:]],
    "http/0.9": ["GET / HTTP/0.9", *REQUEST[1:]],
    "post": ["POST / HTTP/1.1", *REQUEST[1:]],
    "head": ["HEAD / HTTP/1.1", *REQUEST[1:]],
    "get in lower case": ["get / HTTP/1.1", *REQUEST[1:]],
    "no upgrade": changed("Upgrade"),
    "another upgrade": changed("Upgrade", "Upgrade: h2c"),
    "an upgrade that only begins so": changed("Upgrade", "Upgrade: websocket2"),
    "an upgrade with a version": changed("Upgrade", "Upgrade: web socket"),
    "no connection": changed("Connection"),
    "another connection": changed("Connection", "Connection: keep-alive"),
    "a connection that only begins so": changed("Connection", "Connection: upgraded"),
}


@pytest.mark.parametrize("lines", NO_UPGRADES.values(), ids=NO_UPGRADES)
def test_a_request_for_something_else_is_never_switched(server: WebSocketServer, lines: list[str]) -> None:
    """Without any of what RFC 6455 §4.2.1 demands the answer is an ordinary HTTP error."""
    head, _ = asked(server, octets(lines))
    assert 400 <= head.status < 500
    assert "sec-websocket-accept" not in head.headers
    assert server.websocket_connections == 0


# ------------------------------------------------------------------------------------------------------------- limits

TOO_LONG = {
    "a long request line": octets([f"GET /{'a' * MAX_HEADER} HTTP/1.1", *REQUEST[1:]]),
    "a request line that does not end": b"GET /" + b"a" * 4 * MAX_HEADER,
    "a long header": octets([*REQUEST, f"X-Long: {'a' * MAX_HEADER}"]),
    "a header that does not end": octets(REQUEST)[:-2] + b"X-Long: " + b"a" * 4 * MAX_HEADER,
    "many headers": octets([*REQUEST, *[f"X-{number}: a" for number in range(MAX_HEADER // 8)]]),
    "many folded lines": octets([*REQUEST, "X-Folded: a", *[" a"] * MAX_HEADER]),
    "a megabyte": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 170_000,
}


@pytest.mark.parametrize("request_", TOO_LONG.values(), ids=TOO_LONG)
def test_a_head_above_the_limit_is_431(server: WebSocketServer, request_: bytes) -> None:
    """A head of more than ``max_header_bytes`` is answered by 431 (or, for its first line, 414), even if it never ends."""
    with RawClient(server.port) as raw:
        with contextlib.suppress(ConnectionError):  # the server need not read all of it
            raw.send(request_)
        head = raw.read_head()
        assert head.status in ((431, 414) if "GET /a" in request_[:6].decode() else (431,))
    assert server.websocket_connections == 0


def test_a_head_below_the_limit_is_read(server: WebSocketServer) -> None:
    """Nearly ``max_header_bytes`` are still a request."""
    lines = [*REQUEST, f"X-Long: {'a' * (MAX_HEADER - len(octets(REQUEST)) - 20)}"]
    assert MAX_HEADER - 20 < len(octets(lines)) < MAX_HEADER
    assert asked(server, octets(lines))[0].status == 101


CHUNK = b"400\r\n" + b"b" * 0x400 + b"\r\n"
TOO_LARGE = {
    "by its length": octets(["POST /x HTTP/1.1", "Host: a", f"Content-Length: {MAX_BODY + 1}"]) + b"b" * (MAX_BODY + 1),
    "by a length of gigabytes": octets(["POST /x HTTP/1.1", "Host: a", "Content-Length: 9999999999"])
    + b"b" * 2 * MAX_BODY,
    "in chunks": octets(["POST /x HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"])
    + CHUNK * (MAX_BODY // 0x400 + 1),
    "in one chunk of gigabytes": octets(["POST /x HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"])
    + b"ffffffff\r\n"
    + b"b" * 2 * MAX_BODY,
    "of an upgrade": octets([*REQUEST, f"Content-Length: {MAX_BODY + 1}"]) + b"b" * (MAX_BODY + 1),
}


@pytest.mark.parametrize("request_", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_body_above_the_limit_is_413(server: WebSocketServer, request_: bytes) -> None:
    """A body of more than ``max_body_bytes`` is answered by 413, whichever way its length is told."""
    with RawClient(server.port) as raw:
        with contextlib.suppress(ConnectionError):
            raw.send(request_)
        assert raw.read_head().status == 413
    assert server.websocket_connections == 0


def test_a_body_that_announces_too_much_is_413_before_it_comes(server: WebSocketServer) -> None:
    """The announced length is enough: nobody has to wait for a body that is not wanted."""
    with RawClient(server.port) as raw:
        raw.sock.settimeout(2_000 * MS)
        raw.send(octets(["POST /x HTTP/1.1", "Host: a", f"Content-Length: {1 << 40}"]))
        assert raw.read_head().status == 413


def test_a_body_of_the_limit_is_read(server: WebSocketServer) -> None:
    """Exactly ``max_body_bytes`` reach ``on_request``."""
    bodies: list[int] = []

    def on_request(ctxt: object) -> int:
        bodies.append(len(getattr(ctxt, "in_content")))  # noqa: B009 - as above
        return 200

    server.on_request = on_request
    request_ = octets(["POST /x HTTP/1.1", "Host: a", f"Content-Length: {MAX_BODY}"]) + b"b" * MAX_BODY
    assert asked(server, request_)[0].status == 200
    assert bodies == [MAX_BODY]


# ---------------------------------------------------------------------------------------------------------- pipelining


@pytest.mark.parametrize("cut_at", [0, 1, 5, 11])
def test_frames_in_the_segment_of_the_request_are_read(server: WebSocketServer, cut_at: int) -> None:
    """A client may send frames before it has seen the answer; a frame that the segment cuts is put together."""
    with RawClient(server.port) as raw:
        stream = raw.encoded(focText, "early") + raw.encoded(focText, "bird")
        raw.send(octets(REQUEST) + stream[: len(stream) - cut_at])
        assert raw.read_head().status == 101
        raw.send(stream[len(stream) - cut_at :])
        assert [raw.receive_opcode(focText).text for _ in range(2)] == ["early", "bird"]


def test_many_frames_in_the_segment_of_the_request_are_read(server: WebSocketServer) -> None:
    """More than one read of frames behind the request is no head that is too long."""
    with RawClient(server.port) as raw:
        raw.send(octets(REQUEST) + raw.encoded(focText, "x" * 10) * 5_000)
        assert raw.read_head().status == 101
        for _ in range(5_000):
            raw.receive_opcode(focText)


@pytest.mark.parametrize(
    ("header", "body"),
    [("Content-Length: 5", b"12345"), ("Transfer-Encoding: chunked", b"3\r\n123\r\n2\r\n45\r\n0\r\n\r\n")],
    ids=["length", "chunked"],
)
def test_a_body_of_an_upgrade_is_not_taken_for_frames(server: WebSocketServer, header: str, body: bytes) -> None:
    """What belongs to the request by its length ends where it says; the frames begin behind it."""
    with RawClient(server.port) as raw:
        raw.send(octets([*REQUEST, header]) + body + raw.encoded(focText, "frame"))
        assert raw.read_head().status == 101
        assert raw.receive_opcode(focText).text == "frame"


def test_an_upgrade_may_follow_other_requests_at_once(server: WebSocketServer) -> None:
    """Requests, an upgrade and a frame in one segment are all answered, in order (RFC 9112 §9.3.2)."""
    server.on_request = lambda ctxt: 204
    with RawClient(server.port) as raw:
        get = octets(["GET /one HTTP/1.1", "Host: a"])
        post = octets(["POST /two HTTP/1.1", "Host: a", "Content-Length: 3"]) + b"abc"
        raw.send(get + post + octets(REQUEST) + raw.encoded(focText, "frame"))
        assert [raw.read_head().status for _ in range(3)] == [204, 204, 101]
        assert raw.receive_opcode(focText).text == "frame"


def test_what_follows_a_refused_upgrade_is_no_request(server: WebSocketServer) -> None:
    """After a refusal the connection is closed: frames, or a second request, behind it are not looked at."""
    with RawClient(server.port) as raw:
        raw.send(octets(changed("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8")) + octets(REQUEST))
        assert raw.read_head().status == 426
        raw.sock.shutdown(socket.SHUT_WR)
        assert b"HTTP/" not in raw.read_to_end()


def test_a_refusal_is_not_destroyed_by_input_that_stays_unread(server: WebSocketServer) -> None:
    """A client that goes on sending gets the whole answer, and an end of stream rather than a reset."""
    with RawClient(server.port) as raw:
        raw.send(octets(changed("Sec-WebSocket-Key")) + b"x" * 300_000)
        assert raw.read_head().status == 400
        while raw.receive():
            pass


def test_100_continue_is_sent_before_a_body_that_waits_for_it(server: WebSocketServer) -> None:
    """A client that expects ``100-continue`` gets it, and then its answer (RFC 9110 §10.1.1)."""
    server.on_request = lambda ctxt: 204
    with RawClient(server.port) as raw:
        raw.send(octets(["POST / HTTP/1.1", "Host: a", "Content-Length: 3", "Expect: 100-continue"]))
        assert raw.read_head().status == 100
        raw.send(b"abc")
        assert raw.read_head().status == 204


def test_the_accept_value_answers_each_key(server: WebSocketServer) -> None:
    """It is computed from the key of the request as it was sent, blanks around it apart (RFC 6455 §4.2.2)."""
    for key in (base64.b64encode(bytes(range(at, at + 16))).decode() for at in range(5)):
        head, _ = asked(server, octets(changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key:  {key} ")))
        assert head.headers["sec-websocket-accept"] == accept_for(key)


def test_the_first_protocol_of_the_client_that_the_server_has_is_chosen(server: WebSocketServer) -> None:
    """The client's order counts, over several headers, and there is one name in the answer (RFC 6455 §4.2.2)."""
    server.websocket_protocols.add(WebSocketProtocolChat("second", "", echo))
    for lines, chosen in (
        (["Sec-WebSocket-Protocol: x, second, echo"], "second"),
        (["Sec-WebSocket-Protocol: x", "Sec-WebSocket-Protocol: echo,second"], "echo"),
    ):
        head, _ = asked(server, octets(changed("Sec-WebSocket-Protocol", *lines)))
        assert head.headers["sec-websocket-protocol"] == chosen


def test_a_client_that_asks_for_no_protocol_is_answered_none() -> None:
    """The answer names a sub-protocol only to a client that asked for one (RFC 6455 §4.2.2)."""
    with echo_server() as server:
        server.websocket_protocols.add(WebSocketProtocolChat("room", "chat/room", echo))
        lines = changed("Sec-WebSocket-Protocol", of=["GET /chat/room HTTP/1.1", *REQUEST[1:]])
        head, _ = asked(server, octets(lines))
        assert head.status == 101
        assert "sec-websocket-protocol" not in head.headers


# =========================================================================================================== the client


def attempt(behaviour: Behaviour, timeout: float = 5_000) -> tuple[str, int]:
    """Let a client upgrade on a raw server of that *behaviour*; return what it returned, and the HTTP status that it noted."""
    with RawServer(behaviour) as raw, new_client(raw.port, timeout, close_timeout=ms(10)) as client:
        error = upgrade(client)
        failure = client.upgrade_failure
        assert client.connected is not bool(error)
        return error, 0 if failure is None else failure.http_status


def answer_lines(head: HttpHead) -> list[str]:
    """Return a good answer to the request *head*, line by line."""
    return [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Protocol: echo",
        f"Sec-WebSocket-Accept: {accept_for(head.headers['sec-websocket-key'])}",
    ]


def answering_with(
    change: Callable[[list[str]], list[str]], chop: int = 0, behind: bytes = b"", end: str = "\r\n"
) -> Behaviour:
    """Behaviour: a good answer *change*\\ d, in pieces of *chop* bytes, with something *behind* it; then wait for the end."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = octets(change(answer_lines(peer.read_head())), end) + behind
        for at in range(0, len(data), chop or len(data)):
            peer.send(data[at : at + (chop or len(data))])
        peer.wait_end()

    return behaviour


def test_the_request_is_to_the_letter() -> None:
    """The client sends what RFC 6455 §4.1 demands, and no ``Origin``, which is for browsers."""
    heads: list[HttpHead] = []

    def behaviour(peer: RawServerPeer) -> None:
        heads.append(peer.accept())
        peer.wait_end()

    with RawServer(behaviour) as raw:
        for _ in range(3):
            with new_client(raw.port, close_timeout=ms(10)) as client:
                assert upgrade(client, uri="chat/room?a=b") == ""
    for head in heads:
        assert head.first_line == "GET /chat/room?a=b HTTP/1.1"
        assert head.headers["host"] == f"{HOST}:{raw.port}"
        assert head.headers["upgrade"].lower() == "websocket"
        assert "upgrade" in head.headers["connection"].lower()
        assert head.headers["sec-websocket-version"] == "13"
        assert head.headers["sec-websocket-protocol"] == "echo"
        assert "origin" not in head.headers
        assert "sec-websocket-extensions" not in head.headers
        names = [line.split(b":")[0].lower() for line in head.raw.split(b"\r\n")[1:] if line]
        assert len(names) == len(set(names))
    keys = {head.headers["sec-websocket-key"] for head in heads}
    assert len(keys) == len(heads) == 3
    assert {len(base64.b64decode(key, validate=True)) for key in keys} == {16}


def _in_other_case(lines: list[str]) -> list[str]:
    split = [line.partition(": ") for line in lines[1:]]
    return [lines[0], *[f"{name.swapcase()}: {value}" for name, _, value in split]]


GOOD_ANSWERS: dict[str, Callable[[list[str]], list[str]]] = {
    "as it is": lambda lines: lines,
    "names in another case": _in_other_case,
    "another order": lambda lines: [lines[0], *reversed(lines[1:])],
    "no blank behind colons": lambda lines: [line.replace(": ", ":") for line in lines],
    "blanks around values": lambda lines: [lines[0], *[line.replace(": ", ": \t ") + " \t" for line in lines[1:]]],
    "upgrade in another case": lambda lines: changed("Upgrade", "Upgrade: WebSocket", of=lines),
    "connection of several tokens": lambda lines: changed("Connection", "Connection: keep-alive, UPGRADE", of=lines),
    "connection twice": lambda lines: changed("Connection", "Connection: keep-alive", "Connection: Upgrade", of=lines),
    "folded with a blank": lambda lines: [*lines[:-1], lines[-1].replace(": ", ":\r\n ")],
    "folded with a tab": lambda lines: changed("Connection", "Connection: keep-alive,", "\tUpgrade", of=lines),
    "another reason": lambda lines: ["HTTP/1.1 101 Web Socket Protocol Handshake", *lines[1:]],
    "an empty reason": lambda lines: ["HTTP/1.1 101 ", *lines[1:]],
    "no reason": lambda lines: ["HTTP/1.1 101", *lines[1:]],
    "a reason beyond ascii": lambda lines: ["HTTP/1.1 101 Protokoll ge\xe4ndert", *lines[1:]],
    "unknown headers": lambda lines: [
        *lines,
        "X-Empty:",
        "X-Latin: \xe4",
        "Set-Cookie: a=b",
        "Set-Cookie: c=d; Path=/",
    ],
    "no protocol": lambda lines: changed("Sec-WebSocket-Protocol", of=lines),
}


@pytest.mark.parametrize("change", GOOD_ANSWERS.values(), ids=GOOD_ANSWERS)
def test_an_answer_in_any_valid_form_is_taken(change: Callable[[list[str]], list[str]]) -> None:
    """Case, order, blanks, folding, lists, repetition and reason phrase are as free as RFC 9110 and 9112 have them."""
    assert attempt(answering_with(change)) == ("", 0)


@pytest.mark.parametrize("chop", [1, 2, 9])
def test_an_answer_in_chops_is_taken(chop: int) -> None:
    """Where TCP cuts the answer makes no difference, be it byte by byte."""
    assert attempt(answering_with(lambda lines: lines, chop)) == ("", 0)


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_an_interim_answer_comes_before_the_final_one(interim: str) -> None:
    """A client has to be able to read 1xx answers before the final one, even when it does not expect one (RFC 9110 §15.2)."""

    def change(lines: list[str]) -> list[str]:
        return [f"HTTP/1.1 {interim}", "Link: </style.css>", "", *lines]

    assert attempt(answering_with(change)) == ("", 0)


@pytest.mark.parametrize("chop", [0, 1])
def test_frames_behind_the_answer_are_read(chop: int) -> None:
    """A server may send frames in the segment of its answer, or byte by byte behind it."""
    recorder = Recorder()
    frames = b"\x81\x05early\x89\x00\x81\x04bird"
    with (
        RawServer(answering_with(lambda lines: lines, chop, frames)) as raw,
        new_client(raw.port, close_timeout=ms(10)) as client,
    ):
        assert upgrade(client, recorder.frame) == ""
        recorder.wait("focText", 2)
        assert recorder.texts() == ["early", "bird"]


def _accept(change: Callable[[str], list[str]]) -> Callable[[list[str]], list[str]]:
    return lambda lines: [
        *lines[:-1],
        *[f"Sec-WebSocket-Accept: {value}" for value in change(lines[-1].split(": ")[1])],
    ]


REFUSED_ANSWERS: dict[str, Callable[[list[str]], list[str]]] = {
    "no accept": _accept(lambda value: []),
    "an empty accept": _accept(lambda value: [""]),
    "a wrong accept": _accept(lambda value: [accept_for("x")]),
    "an accept in another case": _accept(lambda value: [value.swapcase()]),
    "an accept without padding": _accept(lambda value: [value.rstrip("=")]),
    "an accept and more": _accept(lambda value: [f"{value}, {value}"]),
    "two accepts": _accept(lambda value: [value, value]),
    "two accepts, one wrong": _accept(lambda value: [value, accept_for("x")]),
    "two accepts, the other wrong": _accept(lambda value: [accept_for("x"), value]),
    "no upgrade": lambda lines: changed("Upgrade", of=lines),
    "another upgrade": lambda lines: changed("Upgrade", "Upgrade: h2c", of=lines),
    "upgrade with a no-break space": lambda lines: changed("Upgrade", "Upgrade: websocket\xa0", of=lines),
    "upgrade with a control character": lambda lines: changed("Upgrade", "Upgrade: websocket\x1d", of=lines),
    "no connection": lambda lines: changed("Connection", of=lines),
    "connection with a no-break space": lambda lines: changed("Connection", "Connection: \xa0Upgrade", of=lines),
    "accept with a no-break space": _accept(lambda value: [f"{value}\xa0"]),
    "another connection": lambda lines: changed("Connection", "Connection: close", of=lines),
    "a protocol that was not asked for": lambda lines: changed(
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: chat", of=lines
    ),
    "two protocols": lambda lines: changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: echo, echo", of=lines),
    "the protocol twice": lambda lines: changed(
        "Sec-WebSocket-Protocol", *["Sec-WebSocket-Protocol: echo"] * 2, of=lines
    ),
    "an empty protocol": lambda lines: changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol:", of=lines),
    "an extension that was not asked for": lambda lines: [*lines, "Sec-WebSocket-Extensions: permessage-deflate"],
    "an unknown extension": lambda lines: [*lines, "Sec-WebSocket-Extensions: foo; bar=1"],
    "a header without a colon": lambda lines: [*lines, "nonsense"],
    "a blank before the colon": lambda lines: [*lines, "X-Blank : x"],
    "a header without a name": lambda lines: [*lines, ": nonsense"],
    "the accept behind a bare cr": lambda lines: [*lines[:-1], f"X-CR: a\r{lines[-1]}"],
}


@pytest.mark.parametrize("change", REFUSED_ANSWERS.values(), ids=REFUSED_ANSWERS)
def test_an_answer_that_is_wrong_fails_the_handshake(change: Callable[[list[str]], list[str]]) -> None:
    """Each of the client's checks of RFC 6455 §4.1 fails by a text, closes the socket, and delivers nothing."""
    error, status = attempt(answering_with(change))
    assert error.startswith("Invalid HTTP Upgrade"), error
    assert status == 101


@pytest.mark.parametrize("start", [" ", "\t", "\x1d", "\xa0"], ids=ascii)
def test_a_status_line_that_begins_with_something_else_is_refused(start: str) -> None:
    """The answer begins with ``HTTP/1.1 101``, not with a blank or anything that Python takes for one."""
    assert attempt(answering_with(lambda lines: [start + lines[0], *lines[1:]]))[0]


def test_an_answer_ends_at_its_first_empty_line() -> None:
    """Where a bare LF ends a line, CRLF may end the next: what follows the empty line are frames."""
    recorder = Recorder()

    def behaviour(peer: RawServerPeer) -> None:
        head = "\n".join(answer_lines(peer.read_head())) + "\n\r\n"
        peer.send(head.encode() + b"\x81\x02hi\x82\x04\r\n\r\n")
        peer.wait_end()

    with (
        RawServer(behaviour) as raw,
        new_client(raw.port, close_timeout=ms(10)) as client,
    ):
        error = upgrade(client, recorder.frame)
        if not error:
            assert recorder.wait("focText", bound=2000 * MS).value.text == "hi"


def test_an_unasked_protocol_is_refused() -> None:
    """A client that asks for no sub-protocol takes none (RFC 6455 §4.1)."""
    with (
        RawServer(answering_with(lambda lines: lines)) as raw,
        HttpClientWebSockets.open(HOST, raw.port, timeout=ms(5000)) as client,
    ):
        error = client.websockets_upgrade("", "", protocol=WebSocketProtocolChat("", ""))
        assert error == "Invalid HTTP Upgrade Sub-Protocol"


STATUSES = {
    "200": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "400": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad",
    "401": b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n',
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<p>no way</p>",
    "404": b"HTTP/1.0 404 Not Found\r\n\r\nno length, and an end",
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "426": b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "500": b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "502": b"HTTP/1.1 502 \r\nContent-Length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
}


@pytest.mark.parametrize("status", STATUSES)
def test_an_http_error_is_reported_with_its_status_line(status: str) -> None:
    """Whatever body comes with it, the status line is the error that ``websockets_upgrade`` returns."""
    error, number = attempt(sending(STATUSES[status]))
    assert error == STATUSES[status].split(b"\r\n")[0].decode().strip()
    assert number == int(status)


@pytest.mark.parametrize(
    "status",
    ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"],
)
@pytest.mark.parametrize("location", ["http", "ws", "relative"])
def test_a_redirect_is_reported_and_not_followed(status: str, location: str) -> None:
    """The application learns of the redirect; neither the other server nor this one is asked again."""
    with RawServer(sending(b"")) as other:
        target = "/other" if location == "relative" else f"{location}://{HOST}:{other.port}/"
        answer = f"HTTP/1.1 {status}\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        with RawServer(sending(answer)) as raw, new_client(raw.port) as client:
            assert upgrade(client) == f"HTTP/1.1 {status}"
            assert client.upgrade_failure is not None
            assert client.upgrade_failure.http_status == int(status[:3])
        assert (raw.accepted, other.accepted) == (1, 0)


GARBAGE = {
    "an empty line": b"\r\n\r\n",
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "another protocol": b"ICY 101 OK\r\n\r\n",
    "http/1.0": b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "http/2": b"HTTP/2 101 Switching Protocols\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 1010 OK\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status in other digits": "HTTP/1.1 １０１ OK\r\n\r\n".encode(),
    "frames": b"\x81\x05hello\r\n\r\n",
    "noise": bytes(range(256)) * 10 + b"\r\n\r\n",
    "nothing": b"",
    "a cut status line": b"HTTP/1.1 10",
    "a cut header": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_an_answer_that_is_none_fails_the_handshake(data: bytes) -> None:
    """Whatever a server sends instead of an answer is an error text, never an exception."""
    error, _ = attempt(sending(data))
    assert error


ENDLESS = {
    "a status line": (b"HTTP/1.1 101 ", b"a" * 1000),
    "a header": (b"HTTP/1.1 101 Switching Protocols\r\nX-Long: ", b"a" * 1000),
    "headers": (b"HTTP/1.1 101 Switching Protocols\r\n", b"a: b\r\n" * 200),
    "folded lines": (b"HTTP/1.1 101 Switching Protocols\r\na: b\r\n", b" c\r\n" * 200),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_that_does_not_end_is_given_up_at_the_limit(what: str) -> None:
    """A head of more than ``max_header_bytes`` fails the handshake at once, not at its time-out."""
    start, part = ENDLESS[what]
    sent: list[int] = []

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(start)
        for _ in range(100_000):
            sent.append(len(part))
            peer.send(part)

    error, _ = attempt(behaviour, timeout=60_000)
    assert error.startswith("Invalid HTTP Upgrade Header")
    assert sum(sent) < 50_000_000


def test_a_head_of_many_headers_fails_or_is_read_but_does_not_raise() -> None:
    """Hundreds of headers within ``max_header_bytes`` are an answer or an error text."""
    more = [f"X-{number}: {number}" for number in range(300)]
    error, _ = attempt(answering_with(lambda lines: [lines[0], *more, *lines[1:]]))
    assert not error or error.startswith("Invalid HTTP Upgrade Header")


def test_an_answer_of_bare_line_feeds_is_read_or_refused() -> None:
    """A recipient may take a single LF for a line's end (RFC 9112 §2.2), or refuse; it does not hang."""
    error, _ = attempt(answering_with(lambda lines: lines, end="\n"))
    assert not error or error.startswith("Invalid HTTP Upgrade")


def test_upgrades_of_many_clients_do_not_mix(server: WebSocketServer) -> None:
    """Handshakes in many threads at once get their own answers."""
    failures: list[str] = []

    def run(number: int) -> None:
        recorder = Recorder()
        with new_client(server.port) as client:
            error = upgrade(client, recorder.frame, uri=f"client/{number}")
            process = client.websockets
            if error or process is None or not process.send_frame(text(str(number))):
                failures.append(error)
            elif recorder.wait("focText").value.text != str(number):
                failures.append("mixed")

    in_threads(20, run)
    assert not failures
    with upgraded(server.port) as raw:
        assert raw.connection_id == 21
