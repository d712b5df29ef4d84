"""The quick reading of ordinary upgrade requests: what it takes, h11 reads in the same way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mormot_ws.core.handshake import UpgradeRequest
from mormot_ws.server import http
from mormot_ws.server.http import HttpFault, HttpServerConnection, read_ordinary

LINES = [
    b"Host: example.org:8080",
    b"Upgrade: websocket",
    b"Connection: keep-alive, Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Protocol: chat, superchat",
]
HEAD = b"GET /chat?token=%20x HTTP/1.1\r\n" + b"\r\n".join(LINES) + b"\r\n\r\n"


def with_line(line: bytes) -> bytes:
    """Return the ordinary head with one more line."""
    return HEAD[:-2] + line + b"\r\n\r\n"


def fields(request: UpgradeRequest) -> tuple[Any, ...]:
    """Return all that is said of a request."""
    return (request.method, request.target, request.http_version, request.headers)


def by_h11(data: bytes) -> tuple[Any, ...] | None:
    """Return the same of what h11 alone reads, with what it leaves unread; None: it refuses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "read_ordinary", lambda data, most: None)
        connection = HttpServerConnection(None, 65536, 65536)  # type: ignore[arg-type]
        connection.feed(data)
        try:
            found = connection.parse()
        except HttpFault:
            return None
        if not isinstance(found, tuple):
            return None
        return (*fields(found[0]), found[1], connection.unread)


def test_an_ordinary_head_is_read_without_h11() -> None:
    found = read_ordinary(HEAD + b"\x81\x80abcd", 65536)
    assert found is not None
    request, unread = found
    assert (*fields(request), b"", unread) == by_h11(HEAD + b"\x81\x80abcd")
    assert request.path == "chat"


@pytest.mark.parametrize(
    "data",
    [
        HEAD.replace(b"GET", b"POST"),
        HEAD.replace(b"1.1", b"1.0"),
        HEAD.replace(b"/chat", b"http://example.org/chat"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade:websocket"),
        HEAD.replace(b"\r\n", b"\n"),
        HEAD.replace(b"Host: example.org:8080\r\n", b""),
        HEAD[:-1],
        with_line(b"Host: other"),
        with_line(b"Content-Length: 5"),
        with_line(b"Transfer-Encoding: chunked"),
        with_line(b"Expect: 100-continue"),
        with_line(b" folded"),
        with_line(b"X: \xff"),
        with_line(b"X: a\x00b"),
        with_line(b"X : a"),
        with_line(b"X:"),
        with_line(b"X: a "),
        with_line(b"X:  a"),
        with_line(b"X: a\rb: c"),
    ],
)
def test_everything_else_is_left_to_h11(data: bytes) -> None:
    assert read_ordinary(data, 65536) is None


def test_a_long_head_is_left_to_h11() -> None:
    assert read_ordinary(with_line(b"X: " + b"a" * 4096), 65536) is None


def test_a_head_above_the_limit_is_left_to_h11() -> None:
    assert read_ordinary(HEAD, len(HEAD)) is not None
    assert read_ordinary(HEAD, len(HEAD) - 1) is None


#: what is nearly ordinary
PIECES = st.sampled_from(
    [
        *LINES,
        b"host: b",
        b"Content-Length: 0",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"X-Y: a, b",
        b"x: y z",
        b"X:\ty",
        b"!#$%&'*+.^_`|~-: ~",
        b"",
        b"\r",
        b": x",
    ]
)


@given(
    st.lists(PIECES, max_size=4),
    st.integers(0, 6),
    st.sampled_from([b"/", b"/a b", b"/\x7f", b"/?q=1#f", b"*", b"/\xc3\xa9"]),
    st.binary(max_size=3),
)
@settings(deadline=None, max_examples=150)
def test_what_is_read_quickly_h11_reads_in_the_same_way(
    more: list[bytes], at: int, target: bytes, behind: bytes
) -> None:
    """Also what follows it; and what is refused is refused."""
    lines = [b"GET " + target + b" HTTP/1.1", *LINES[:at], *more, *LINES[at:]]
    data = b"\r\n".join(lines) + b"\r\n\r\n" + behind
    found = read_ordinary(data, 65536)
    if found is not None:
        assert (*fields(found[0]), b"", found[1]) == by_h11(data)


def test_frames_that_come_behind_an_ordinary_head_are_unread() -> None:
    """At once or later, before the request is asked for."""
    connection = HttpServerConnection(None, 65536, 65536)  # type: ignore[arg-type]
    connection.feed(b"\r\n" + HEAD + b"ab")
    connection.feed(b"c")
    connection.feed(b"")
    found = connection.parse()
    assert isinstance(found, tuple)
    assert (found[0].uri, connection.unread) == ("chat?token=%20x", b"abc")
