"""What a WebSocketServer does with plain HTTP, and with peers that break the rules of either
protocol.
"""

from __future__ import annotations

import pytest
from support import (
    RawClient,
    Recorder,
    active,
    echo_server,
    exchange,
    ms,
    upgraded,
)

from mormot_ws import (
    HttpServerRequest,
    WebSocketProtocolChat,
    WebSocketServer,
    encode_frame,
    focConnectionClose,
    focText,
    parse_close_payload,
)

# --------------------------------------------------------------------------------------- plain HTTP


def test_a_plain_request_is_answered_by_on_request(server: WebSocketServer) -> None:
    """The callback sees the request, and its status, headers and body are the answer."""
    seen: list[HttpServerRequest] = []

    def on_request(context: HttpServerRequest) -> int:
        seen.append(context)
        context.out_content = b"created\0"
        context.out_content_type = "application/x-test"
        context.out_custom_headers = "X-One: 1\r\nX-Two: 2"
        return 201

    server.on_request = on_request
    with RawClient(server.port) as client:
        client.send(
            b"POST /path?q=1 HTTP/1.1\r\nHost: x\r\nContent-Type: text/x\r\nContent-Length: 4\r\n"
            b"Authorization: Bearer token\r\nX-Mine: yes\r\n\r\nbody"
        )
        head, body = client.read_answer()
    (context,) = seen
    assert (context.method, context.url, context.in_content) == ("POST", "/path?q=1", b"body")
    assert (context.in_content_type, context.in_header("X-MINE"), context.auth_bearer) == (
        "text/x",
        "yes",
        "token",
    )
    assert (context.remote_ip, context.connection_id) == ("127.0.0.1", 1)
    assert (head.status, body) == (201, b"created\0")
    assert head.first_line == "HTTP/1.1 201 Created"
    assert head.headers["content-type"] == "application/x-test"
    assert (head.headers["x-one"], head.headers["x-two"]) == ("1", "2")


def test_an_answer_given_as_str_is_sent_as_utf8(server: WebSocketServer) -> None:
    """A ``str`` body is encoded, and its length counts bytes."""

    def on_request(context: HttpServerRequest) -> int:
        context.out_content = "grün"
        return 200

    server.on_request = on_request
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer()[1] == "grün".encode()


def test_a_connection_is_kept_alive_for_further_requests_and_an_upgrade(
    server: WebSocketServer,
) -> None:
    """Two pipelined requests and then an upgrade are served on one connection, with one ID."""
    ids: list[int] = []

    def on_request(context: HttpServerRequest) -> int:
        ids.append(context.connection_id)
        context.out_content = context.url
        return 200

    server.on_request = on_request
    with RawClient(server.port) as client:
        client.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [client.read_answer()[1] for _ in range(2)] == [b"/1", b"/2"]
        client.upgrade()
        assert ids == [client.connection_id] * 2
        assert exchange(client, ["x"]) == ["x"]


@pytest.mark.parametrize(
    "request_",
    [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"],
)
def test_a_request_without_keep_alive_closes_the_connection(
    server: WebSocketServer, request_: bytes
) -> None:
    """``Connection: close`` and HTTP/1.0 get their whole answer, then the end."""
    server.on_request = lambda context: 200
    with RawClient(server.port) as client:
        client.send(request_)
        assert client.read_answer()[0].status == 200
        assert client.read_to_end() == b""


def test_an_idle_keep_alive_connection_is_dropped() -> None:
    """After ``keep_alive_timeout`` without another request the connection is closed."""
    with echo_server(keep_alive_timeout=ms(50)) as server, RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer()[0].status == 426
        assert client.read_to_end() == b""


def test_without_on_request_a_visitor_is_told_to_upgrade(server: WebSocketServer) -> None:
    """On a URI that a protocol serves, a plain request gets 426 and a text that says what this
    server is.
    """
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head, body = client.read_answer()
    assert head.status == 426
    assert head.headers["upgrade"] == "websocket"
    assert head.headers["content-type"].startswith("text/plain")
    assert b"WebSocket server" in body


def test_without_on_request_an_unknown_uri_is_404() -> None:
    """Where no protocol is served, a plain request gets 404 and a text that says what this server
    is.
    """
    with (
        WebSocketServer("127.0.0.1:0", process_name="Ticker") as server,
        RawClient(server.port) as client,
    ):
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "only-here"))
        client.send(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n")
        head, body = client.read_answer()
        assert head.status == 404
        assert b"Ticker WebSocket server" in body


@pytest.mark.parametrize("change", [{"Upgrade": "h2c"}, {"Connection": "close"}, {"Upgrade": None}])
def test_a_request_that_asks_for_no_websocket_is_plain_http(
    server: WebSocketServer, change: dict[str, str | None]
) -> None:
    """Without both ``Upgrade: websocket`` and ``Connection: Upgrade`` it is a plain request."""
    with RawClient(server.port) as client:
        client.send(client.request("", "echo", **change))
        assert client.read_answer()[0].status == 426


def test_an_on_request_that_raises_is_a_500(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor gets 500, the log the traceback, and the connection goes on."""

    def on_request(context: HttpServerRequest) -> int:
        if context.url == "/bad":
            raise RuntimeError("bug in on_request")
        return 204

    server.on_request = on_request
    with RawClient(server.port) as client:
        client.send(b"GET /bad HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer()[0].status == 500
        client.send(b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer()[0].status == 204
    assert "bug in on_request" in caplog.text


# ---------------------------------------------------------------------------------------- bad peers

_FAULTS: dict[str, tuple[bytes, int]] = {
    "unmasked": (encode_frame(focText, b"x"), 1002),
    "reserved bit": (b"\xc1\x80\0\0\0\0", 1002),
    "reserved opcode": (b"\x83\x80\0\0\0\0", 1002),
    "continuation of nothing": (b"\x80\x80\0\0\0\0", 1002),
    "long ping": (b"\x89\xfe\0\x7e\0\0\0\0" + bytes(126), 1002),
    "fragmented ping": (b"\x09\x80\0\0\0\0", 1002),
    "length not minimal": (b"\x81\xfe\0\x01\0\0\0\0x", 1002),
    "close of one byte": (b"\x88\x81\0\0\0\0\x03", 1002),
    "close with 1005": (b"\x88\x82\0\0\0\0\x03\xed", 1002),
    "bad UTF-8": (b"\x81\x82\0\0\0\0\xc3\x28", 1007),
    "too long": (b"\x82\xff" + (1 << 21).to_bytes(8, "big") + bytes(4), 1009),
}


@pytest.mark.parametrize("case", _FAULTS)
def test_a_protocol_error_closes_the_offender_with_its_code(case: str) -> None:
    """The offender gets the close code that its fault deserves and is closed; others are served
    on.
    """
    wire, code = _FAULTS[case]
    with (
        echo_server(max_message_bytes=1 << 20) as server,
        upgraded(server.port) as bad,
        upgraded(server.port) as good,
    ):
        bad.send(wire)
        assert parse_close_payload(bad.receive_opcode(focConnectionClose).payload)[0] == code
        assert bad.read_to_end() == b""
        assert exchange(good, ["still here"]) == ["still here"]


def test_the_messages_before_a_protocol_error_are_delivered(recorder: Recorder) -> None:
    """A fault ends the connection behind the good messages that came in the same segment, with its
    code for the callback.
    """
    with echo_server(callback=recorder.frame) as server, upgraded(server.port) as client:
        client.send(client.encoded(focText, "good") + b"\x83\x80\0\0\0\0")
        closed = recorder.wait("focConnectionClose").value
    assert recorder.texts() == ["good"]
    assert parse_close_payload(closed.payload)[0] == 1002


@pytest.mark.parametrize(
    "goodbye", [b"", b"\x81\x85\0\0"], ids=["between frames", "inside a frame"]
)
def test_a_client_that_vanishes_ends_only_its_connection(
    recorder: Recorder, goodbye: bytes
) -> None:
    """A lost connection is reported once, as abnormal, and others are served on."""
    with echo_server(callback=recorder.frame) as server:
        with upgraded(server.port) as client:
            process = active(server, client.connection_id)
            client.send(goodbye)
        closed = recorder.wait("focConnectionClose").value
        assert closed.payload == b""
        assert process.close_code == 1006
        with upgraded(server.port):
            recorder.wait("focContinuation", 2)
