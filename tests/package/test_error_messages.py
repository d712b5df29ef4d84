"""A message about a mistake of the caller says what to do, not only what is wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from support import HOST, connect, echo_server, process_of

import mormot_ws
from mormot_ws import WebSocketFrame, focBinary, focContinuation, focPing, focText


@pytest.mark.parametrize(
    ("mistake", "advice"),
    [
        (
            lambda: mormot_ws.WebSocketProcessSettings(hearbeat_delay=1),
            "did you mean 'heartbeat_delay'",
        ),
        (
            lambda: mormot_ws.CrtSocket("ws://127.0.0.1", 1),
            r"websockets_connect\(\) takes a whole URI",
        ),
        (
            lambda: mormot_ws.HttpClientWebSockets.websockets_connect("127.0.0.1", 1),
            "a protocol is required",
        ),
        (
            lambda: mormot_ws.WebSocketProtocolChat("a b"),
            "use letters, digits, '-', '.' and '_'",
        ),
        (lambda: mormot_ws.close_payload(None, "bye"), r"e\.g\. 1000"),
        (lambda: mormot_ws.close_payload(1006), "or 3000 to 4999"),
        (lambda: mormot_ws.ExponentialBackoff(base_ms=0), "not base_ms=0"),
        (lambda: mormot_ws.LinearBackoff(cap_ms=-1), "cap_ms=-1"),
        (lambda: mormot_ws.PermessageDeflate(level=10), "not 10, 8 and 64"),
        (lambda: mormot_ws.WebSocketServer(":8999"), "or 'unix:/path', not ':8999'"),
        (lambda: mormot_ws.WebSocketServer("192.0.2.1:0"), "it is not an address of this machine"),
    ],
)
def test_an_argument_that_can_never_work(mistake: Callable[[], Any], advice: str) -> None:
    with pytest.raises((ValueError, TypeError, mormot_ws.HttpServerError), match=advice):
        mistake()


@pytest.mark.parametrize(
    ("frame", "advice"),
    [
        ("hello", r"create one with WebSocketFrame\(focText, text\)"),
        (WebSocketFrame(focText, b"\xff"), "use focBinary for other bytes"),
        (WebSocketFrame(focContinuation), "whole, as focText or focBinary"),
        (WebSocketFrame(focPing, bytes(126)), "use a focBinary frame for more"),
    ],
)
def test_a_frame_that_cannot_be_sent(frame: Any, advice: str) -> None:
    """By either of the two ways out, and the connection is none the worse for it."""
    with echo_server() as server, connect(server.port) as client:
        process = process_of(client)
        for send in (process.send_frame, process.send_frame_async):
            with pytest.raises((ValueError, TypeError), match=advice):
                send(frame)
        assert process.send_frame(WebSocketFrame(focBinary, b"still there"))


def test_a_port_that_is_taken() -> None:
    """The usual mistake of a second start."""
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        with pytest.raises(
            mormot_ws.HttpServerError,
            match="another program listens there; port 0 picks a free one",
        ):
            mormot_ws.WebSocketServer(address)
