"""The opening handshake on real sockets, to the letter of RFC 6455 §4 and RFC 9110/9112: what a
server has to take and to refuse.

``test_handshake.py`` has the same as values, ``test_handshake_rfc_client.py`` the other side. Here
a raw client writes requests octet by octet.
"""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator

import pytest
from support import (
    MS,
    HttpHead,
    RawClient,
    Recorder,
    accept_for,
    echo,
    echo_server,
    in_threads,
    new_client,
    text,
    upgrade,
    upgraded,
)
from support.heads import REQUEST, changed, octets

from mormot_ws import WebSocketProtocolChat, WebSocketServer, focText

KEY = RawClient.KEY
MAX_HEADER = 4096
MAX_BODY = 8192


@pytest.fixture
def server() -> Iterator[WebSocketServer]:
    """A server with small limits, that offers ``echo`` everywhere, ``room`` on one URI, and counts
    what its callbacks see.
    """
    with echo_server(max_header_bytes=MAX_HEADER, max_body_bytes=MAX_BODY) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("room", "chat/room", echo))
        yield server


def asked(server: WebSocketServer, request: bytes, chop: int = 0) -> tuple[HttpHead, bytes]:
    """Send *request* on a new connection, and return the head of the answer and all that comes
    behind it.
    """
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
    "blanks around values": [
        REQUEST[0],
        *[line.replace(": ", ": \t ") + " \t" for line in REQUEST[1:]],
    ],
    "upgrade in another case": changed("Upgrade", "Upgrade: WebSocket"),
    "upgrade of several tokens": changed("Upgrade", "Upgrade: h2c, websocket"),
    "upgrade of several tokens, first": changed("Upgrade", "Upgrade: websocket,foo/1.0"),
    "upgrade twice": changed("Upgrade", "Upgrade: h2c", "Upgrade: websocket"),
    "connection in another case": changed("Connection", "Connection: UPGRADE"),
    "connection of several tokens": changed("Connection", "Connection: keep-alive, Upgrade"),
    "connection with empty tokens": changed("Connection", "Connection: ,keep-alive,, upgrade ,"),
    "connection twice": changed("Connection", "Connection: keep-alive", "Connection: Upgrade"),
    "folded with a blank": changed("Connection", "Connection: keep-alive,", " Upgrade"),
    "folded with a tab": changed(
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: other,", "\techo"
    ),
    "protocols of several tokens": changed(
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: other, echo, more"
    ),
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
    """Case, order, blanks, folding, lists and repetition of headers are as free as RFC 9110 has
    them.
    """
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
    """Old clients send one behind the body of a POST, most often in the same segment (RFC 9112
    §2.2).
    """
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
    """A server has to accept the absolute form (RFC 9112 §3.2.2), whose path is the resource (RFC
    6455 §4.2.1).
    """
    lines = changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: room")
    for target in ("/chat/room?x=1", f"http://localhost:{server.port}/chat/room?x=1"):
        head, _ = asked(server, octets([f"GET {target} HTTP/1.1", *lines[1:]]))
        assert (target, head.status) == (target, 101)


def test_an_absolute_target_is_the_uri_that_the_protocol_sees(server: WebSocketServer) -> None:
    """``upgrade_uri`` is the resource with its query, whatever form the request had."""
    seen: list[str] = []

    def on_upgraded(protocol: object) -> int:
        # the parameter's class does not matter
        seen.append(getattr(protocol, "upgrade_uri"))  # noqa: B009
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
    "a key without padding": (
        changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {KEY.rstrip('=')}"),
        400,
    ),
    "a key that is no base64": (
        changed("Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!!ubmFtcGxlIG5vbmNlQ=="),
        400,
    ),
    "a key with a blank inside": (
        changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {KEY[:9]} {KEY[9:]}"),
        400,
    ),
    "two keys": (changed("Sec-WebSocket-Key", *[f"Sec-WebSocket-Key: {KEY}"] * 2), 400),
    "no version": (changed("Sec-WebSocket-Version"), 400),
    "two versions": (changed("Sec-WebSocket-Version", *["Sec-WebSocket-Version: 13"] * 2), 400),
    "an unknown protocol": (
        changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: unknown"),
        400,
    ),
    "no protocol name": (changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol:"), 400),
    "a protocol that is no token": (
        changed("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: echo, a b"),
        400,
    ),
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
def test_a_request_that_is_wrong_is_refused_and_the_connection_closed(
    server: WebSocketServer, case: str
) -> None:
    """Each fault has its status; the answer is complete and the connection ends cleanly, with no
    reset.
    """
    lines, status = REFUSED_REQUESTS[case]
    with RawClient(server.port) as raw:
        raw.send(octets(lines))
        head = raw.read_head()
        assert head.status == status
        assert head.headers["connection"].lower() == "close"
        while raw.receive():  # ends without ConnectionResetError
            pass
    assert server.websocket_connections == 0


@pytest.mark.parametrize(
    "version", ["0", "7", "8", "12", "14", "25", "113", "x", "", "13.0", "13, 8", "8, 13"]
)
def test_another_version_is_told_the_one_that_works(server: WebSocketServer, version: str) -> None:
    """A version other than 13 is answered by 426 with the server's own (RFC 6455 §4.4), and
    ``Upgrade`` (RFC 9110 §15.5.22).
    """
    head, _ = asked(
        server, octets(changed("Sec-WebSocket-Version", f"Sec-WebSocket-Version: {version}"))
    )
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
def test_a_request_for_something_else_is_never_switched(
    server: WebSocketServer, lines: list[str]
) -> None:
    """Without any of what RFC 6455 §4.2.1 demands the answer is an ordinary HTTP error."""
    head, _ = asked(server, octets(lines))
    assert 400 <= head.status < 500
    assert "sec-websocket-accept" not in head.headers
    assert server.websocket_connections == 0


# ------------------------------------------------------------------------------------------- limits

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
    """A head of more than ``max_header_bytes`` is answered by 431 (or, for its first line, 414),
    even if it never ends.
    """
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
    "by its length": octets(["POST /x HTTP/1.1", "Host: a", f"Content-Length: {MAX_BODY + 1}"])
    + b"b" * (MAX_BODY + 1),
    "by a length of gigabytes": octets(
        ["POST /x HTTP/1.1", "Host: a", "Content-Length: 9999999999"]
    )
    + b"b" * 2 * MAX_BODY,
    "in chunks": octets(["POST /x HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"])
    + CHUNK * (MAX_BODY // 0x400 + 1),
    "in one chunk of gigabytes": octets(
        ["POST /x HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]
    )
    + b"ffffffff\r\n"
    + b"b" * 2 * MAX_BODY,
    "of an upgrade": octets([*REQUEST, f"Content-Length: {MAX_BODY + 1}"]) + b"b" * (MAX_BODY + 1),
}


@pytest.mark.parametrize("request_", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_body_above_the_limit_is_413(server: WebSocketServer, request_: bytes) -> None:
    """A body above ``max_body_bytes`` is answered by 413, whichever way its length is told."""
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
    request_ = (
        octets(["POST /x HTTP/1.1", "Host: a", f"Content-Length: {MAX_BODY}"]) + b"b" * MAX_BODY
    )
    assert asked(server, request_)[0].status == 200
    assert bodies == [MAX_BODY]


# --------------------------------------------------------------------------------------- pipelining


@pytest.mark.parametrize("cut_at", [0, 1, 5, 11])
def test_frames_in_the_segment_of_the_request_are_read(
    server: WebSocketServer, cut_at: int
) -> None:
    """A client may send frames before it has seen the answer; a frame that the segment cuts is put
    together.
    """
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
    [
        ("Content-Length: 5", b"12345"),
        ("Transfer-Encoding: chunked", b"3\r\n123\r\n2\r\n45\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_a_body_of_an_upgrade_is_not_taken_for_frames(
    server: WebSocketServer, header: str, body: bytes
) -> None:
    """What belongs to the request by its length ends where it says; the frames begin behind it."""
    with RawClient(server.port) as raw:
        raw.send(octets([*REQUEST, header]) + body + raw.encoded(focText, "frame"))
        assert raw.read_head().status == 101
        assert raw.receive_opcode(focText).text == "frame"


def test_an_upgrade_may_follow_other_requests_at_once(server: WebSocketServer) -> None:
    """Requests, an upgrade and a frame in one segment are all answered, in order (RFC 9112
    §9.3.2).
    """
    server.on_request = lambda ctxt: 204
    with RawClient(server.port) as raw:
        get = octets(["GET /one HTTP/1.1", "Host: a"])
        post = octets(["POST /two HTTP/1.1", "Host: a", "Content-Length: 3"]) + b"abc"
        raw.send(get + post + octets(REQUEST) + raw.encoded(focText, "frame"))
        assert [raw.read_head().status for _ in range(3)] == [204, 204, 101]
        assert raw.receive_opcode(focText).text == "frame"


def test_what_follows_a_refused_upgrade_is_no_request(server: WebSocketServer) -> None:
    """After a refusal the connection is closed: frames, or a second request, behind it are not
    looked at.
    """
    with RawClient(server.port) as raw:
        raw.send(
            octets(changed("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8")) + octets(REQUEST)
        )
        assert raw.read_head().status == 426
        raw.sock.shutdown(socket.SHUT_WR)
        assert b"HTTP/" not in raw.read_to_end()


def test_a_refusal_is_not_destroyed_by_input_that_stays_unread(server: WebSocketServer) -> None:
    """A client that goes on sending gets the whole answer, and an end of stream rather than a
    reset.
    """
    with RawClient(server.port) as raw:
        raw.send(octets(changed("Sec-WebSocket-Key")) + b"x" * 300_000)
        assert raw.read_head().status == 400
        while raw.receive():
            pass


def test_100_continue_is_sent_before_a_body_that_waits_for_it(server: WebSocketServer) -> None:
    """A client that expects ``100-continue`` gets it, and then its answer (RFC 9110 §10.1.1)."""
    server.on_request = lambda ctxt: 204
    with RawClient(server.port) as raw:
        raw.send(
            octets(["POST / HTTP/1.1", "Host: a", "Content-Length: 3", "Expect: 100-continue"])
        )
        assert raw.read_head().status == 100
        raw.send(b"abc")
        assert raw.read_head().status == 204


def test_the_accept_value_answers_each_key(server: WebSocketServer) -> None:
    """It is computed from the key of the request as it was sent, blanks around it apart (RFC 6455
    §4.2.2).
    """
    for key in (base64.b64encode(bytes(range(at, at + 16))).decode() for at in range(5)):
        head, _ = asked(server, octets(changed("Sec-WebSocket-Key", f"Sec-WebSocket-Key:  {key} ")))
        assert head.headers["sec-websocket-accept"] == accept_for(key)


def test_the_first_protocol_of_the_client_that_the_server_has_is_chosen(
    server: WebSocketServer,
) -> None:
    """The client's order counts, over several headers, and there is one name in the answer (RFC
    6455 §4.2.2).
    """
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
