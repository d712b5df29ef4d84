"""Clients that name no sub-protocol, through real sockets."""

from __future__ import annotations

import pytest
import websocket
from support import HOST, Recorder, echo, echo_server, fast_settings, text

from mormot_ws import HttpClientWebSockets, WebSocketProtocolChat, WebSocketServer


@pytest.mark.parametrize("path", ["/", "/x", "/a/b?c=d"])
def test_another_librarys_client_is_served_without_a_sub_protocol(path: str) -> None:
    """As browsers and websocket-client connect by default."""
    with WebSocketServer(f"{HOST}:0", settings=fast_settings()) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("", "", echo))
        other = websocket.create_connection(f"ws://{HOST}:{server.port}{path}", timeout=10)
        other.send("hello")
        assert other.recv() == "hello"
        other.close()


def test_our_own_client_is_served_without_a_sub_protocol() -> None:
    """Its protocol has no name either."""
    heard = Recorder()
    with WebSocketServer(f"{HOST}:0", settings=fast_settings()) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("", "", echo))
        protocol = WebSocketProtocolChat("", "", heard.frame)
        client = HttpClientWebSockets.websockets_connect(HOST, server.port, protocol, "any")
        assert client is not None
        with client:
            protocol.send_frame(client.websockets, text("hello"))
            heard.wait("focText")


def test_a_client_that_names_none_where_it_has_to_reads_which_there_are() -> None:
    """In the body of the answer."""
    with (
        echo_server() as server,
        pytest.raises(websocket.WebSocketBadStatusException) as caught,
    ):
        websocket.create_connection(f"ws://{HOST}:{server.port}/", timeout=10)
    assert caught.value.status_code == 400
    assert caught.value.resp_body is not None
    assert b"'echo'" in caught.value.resp_body
