"""What ``on_request`` answers reaches the visitor, or becomes a 500 that is logged."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from support import RawClient, echo_server

from mormot_ws import HttpServerRequest, WebSocketProtocolChat, WebSocketServer


def get(server: WebSocketServer, method: str = "GET") -> tuple[str, bytes]:
    """Return the status line and the body of an answer that ends the connection."""
    with RawClient(server.port) as client:
        client.send(f"{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = client.read_to_end().partition(b"\r\n\r\n")
        return head.decode("latin-1").split("\r\n")[0], body


def answering(server: WebSocketServer, status: Any = 200, **values: Any) -> None:
    """Let *server* answer like that."""

    def on_request(context: HttpServerRequest) -> Any:
        for name, value in values.items():
            setattr(context, name, value)
        return status

    server.on_request = on_request


@pytest.mark.parametrize(
    "answer",
    [
        {"out_content": None},
        {"out_content": {"a": 1}},
        {"out_content": 5},
        {"out_content": "\ud800"},
        {"status": 204, "out_content": "x"},
        {"status": 304, "out_content": "x"},
        {"status": 99},
        {"status": 101},
        {"status": 1000},
        {"status": None},
        {"status": "no number"},
        {"out_custom_headers": "X-Name: 5 €"},
        {"out_custom_headers": "no header"},
        {"out_custom_headers": ["A: b"]},
        {"out_custom_headers": "Content-Length: 7", "out_content": "x"},
        {"out_content_type": "text/plain\r\nX: y"},
        {"out_content_type": "text/€"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_that_cannot_be_sent_is_a_500(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture, answer: dict[str, Any], method: str
) -> None:
    """The visitor gets a whole answer, and the log says at ERROR what was wrong."""
    answering(server, **answer)
    status, body = get(server, method)
    assert status == "HTTP/1.1 500 Internal Server Error"
    assert body == (b"" if method == "HEAD" else b"on_request failed\n")
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "on_request" in record.message
    assert vars(record)["remote_ip"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ({"out_content": bytearray(b"ok")}, b"ok"),
        ({"out_content": memoryview(b"ok")}, b"ok"),
        ({"out_custom_headers": "X-Name: Zoë", "out_content": "x"}, b"x"),
        ({"out_custom_headers": "Content-Length: 1", "out_content": "x"}, b"x"),
        ({"status": 204}, b""),
        ({"status": 304}, b""),
        ({"status": 599, "out_content": "x"}, b"x"),
    ],
)
def test_an_answer_that_can_be_sent_is_sent(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture, answer: dict[str, Any], body: bytes
) -> None:
    """In whatever form it was given."""
    answering(server, **answer)
    status, received = get(server)
    assert status.startswith(f"HTTP/1.1 {answer.get('status', 200)}")
    assert received == body
    assert not caplog.records


def test_204_has_no_content_length_and_keeps_the_connection(server: WebSocketServer) -> None:
    """RFC 9110 §8.6; the next request is answered on the same connection."""
    answering(server, 204)
    with RawClient(server.port) as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = client.read_answer()[0]
            assert head.status == 204
            assert "content-length" not in head.headers


def test_sys_exit_in_on_request_is_a_500(
    server: WebSocketServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Like any other exception of it: the connection goes on."""
    server.on_request = lambda context: sys.exit("bye")
    with RawClient(server.port) as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.read_answer()[0].status == 500
    assert "SystemExit: bye" in caplog.text


@pytest.mark.parametrize("where", ["on_upgraded", "clone", "process_handshake_uri"])
def test_sys_exit_on_an_upgrade_is_a_500(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever of the application raises it: the client gets its answer, the log a line."""

    class Leaving(WebSocketProtocolChat):
        def clone(self, client_uri: str) -> Any:
            if where == "clone":
                sys.exit("bye")
            return super().clone(client_uri)

        def process_handshake_uri(self, uri: str) -> bool:
            if where == "process_handshake_uri":
                sys.exit("bye")
            return True

    with echo_server() as server:
        server.websocket_protocols.add(Leaving("leaving"))
        if where == "on_upgraded":
            server.on_websocket_upgraded = lambda protocol: sys.exit("bye")
        with RawClient(server.port) as client:
            client.send(client.request("", "leaving"))
            head = client.read_head()
            assert head.first_line == "HTTP/1.1 500 WebSocket Upgrade Error"
            assert client.read_to_end() == b""
        assert server.status().refused == 1
    assert "SystemExit: bye" in caplog.text


def test_a_426_names_the_upgrade_in_its_connection_header(server: WebSocketServer) -> None:
    """RFC 9110 §7.8: ``Upgrade`` counts only where ``Connection`` names it."""
    with RawClient(server.port) as client:
        client.send(client.request(Sec_WebSocket_Version="8"))
        head = client.read_head()
        assert head.first_line == "HTTP/1.1 426 WebSocket Upgrade Error"
        assert head.headers["connection"] == "Upgrade, close"
        assert head.headers["upgrade"] == "websocket"
        assert client.read_to_end() == b""
