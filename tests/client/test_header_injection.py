"""What the application sets as header values cannot add lines to a request."""

from __future__ import annotations

import pytest
from support import HOST, connect, echo_server, new_client

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServerRest,
)

UNSENDABLE = [
    "a\r\nX-Evil: 1",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x0bb",
    "a\x7fb",
    "a\r\n folded",
    "\u20ac",
]


@pytest.mark.parametrize("value", UNSENDABLE)
def test_a_user_agent_that_no_header_can_hold_is_refused(value: str) -> None:
    """When it is set, and the one before stays."""
    with echo_server() as server, connect(server.port) as client:
        before = client.user_agent
        with pytest.raises(ValueError, match="user_agent"):
            client.user_agent = value
        assert client.user_agent == before


def test_a_user_agent_is_a_str() -> None:
    with (
        echo_server() as server,
        connect(server.port) as client,
        pytest.raises(TypeError, match="user_agent"),
    ):
        client.user_agent = None  # type: ignore[assignment]


@pytest.mark.parametrize("value", UNSENDABLE)
def test_a_content_type_that_no_header_can_hold_is_refused(value: str) -> None:
    with (
        echo_server() as server,
        new_client(server.port) as client,
        pytest.raises(ValueError, match="data_type"),
    ):
        client.request("/", "POST", data=b"x", data_type=value)


@pytest.mark.parametrize("value", UNSENDABLE[2:6])
def test_a_header_line_with_a_control_character_is_refused(value: str) -> None:
    with (
        echo_server() as server,
        new_client(server.port) as client,
        pytest.raises(ValueError, match="not a header line"),
    ):
        client.request("/", header=f"X-Mine: {value}")


def test_websockets_enable_returns_the_settings() -> None:
    """To tune them before the first connection, as in the original."""
    settings = WebSocketProcessSettings()
    with WebSocketServerRest("127.0.0.1:0", settings=settings) as server:
        assert server.websockets_enable("root", "") is settings


@pytest.mark.parametrize("uri", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "a\x7fb"])
def test_the_uri_of_a_protocol_with_a_control_character_is_refused(uri: str) -> None:
    """In the constructor and afterwards; the URI before stays, and is not told: it may hold a
    token.
    """
    with pytest.raises(ValueError, match="control characters"):
        WebSocketProtocolChat("chat", uri)
    protocol = WebSocketProtocolChat("chat", "room")
    with pytest.raises(ValueError, match="control characters") as raised:
        protocol.uri = uri
    assert protocol.uri == "room"
    assert uri not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:p@proxy:1/\r\nX: 1",
        "http://u\r\n:p@proxy:1",
        "socks5://u:p\n@proxy:1",
        "http://a\0b",
    ],
)
def test_a_proxy_with_a_control_character_is_refused(url: str) -> None:
    """In the constructor and afterwards; the proxy before stays."""
    with pytest.raises(ValueError, match="control characters"):
        HttpClientWebSockets(HOST, 1, proxy=url, connect=False)
    with HttpClientWebSockets(HOST, 1, proxy="http://proxy:1", connect=False) as client:
        with pytest.raises(ValueError, match="control characters"):
            client.proxy = url
        assert client.proxy == "http://proxy:1"


def test_a_proxy_that_is_set_later_is_checked_too() -> None:
    with HttpClientWebSockets(HOST, 1, proxy="", connect=False) as client:
        with pytest.raises(ValueError, match="a proxy must be like"):
            client.proxy = "ftp://proxy:21"
        client.proxy = None
        assert client.proxy is None
