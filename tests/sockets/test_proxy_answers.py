"""What goes to a proxy, and what is made of its answers: CONNECT as HTTP/1.1, odd URLs, and proxies
that say nonsense, too much or too little.
"""

from __future__ import annotations

import base64
import logging
import threading
import time

import pytest
from support import BOUND, HOST, HttpHead, RawServer, RawServerPeer, echo_server, ms, upgrade
from support.proxies import Asked, HttpProxy, SocksProxy

from mormot_ws import HttpClientWebSockets
from mormot_ws.sockets.crtsocket import CrtSocket
from mormot_ws.sockets.proxies import ProxyError, ProxyUrl

HIDDEN = "server.test"


def through(url: str, host: str = HIDDEN, port: int = 80, timeout: float = 5_000) -> CrtSocket:
    """Return a client that has tried to connect through the proxy *url*; close it."""
    client = CrtSocket(host, port, timeout=ms(timeout), proxy=url)
    client.reopen()
    return client


def answered(answer: bytes, scheme: str = "http", timeout: float = 5_000) -> CrtSocket:
    """Return a client that has got *answer* from its proxy, and is closed again."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.receive()
        peer.send(answer)

    with RawServer(behaviour) as server:
        client = through(f"{scheme}://{HOST}:{server.port}", timeout=timeout)
    client.close()
    return client


@pytest.mark.parametrize(
    ("host", "port", "authority"),
    [
        (HIDDEN, 80, "server.test:80"),
        ("server.test.", 443, "server.test:443"),
        ("bücher.test", 80, "xn--bcher-kva.test:80"),
        ("fd00::1", 80, "[fd00::1]:80"),
        ("[fe80::1%25eth0]", 80, "[fe80::1]:80"),
    ],
)
def test_connect_is_http_1_1_with_a_host(host: str, port: int, authority: str) -> None:
    """RFC 9110 §9.3.6: the same authority in both, with its port, in ASCII, without a zone."""
    heads: list[HttpHead] = []
    with RawServer(lambda peer: heads.append(peer.read_head())) as server:
        through(f"http://{HOST}:{server.port}", host, port).close()
    assert heads[0].first_line == f"CONNECT {authority} HTTP/1.1"
    assert heads[0].headers == {"host": authority}


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("http://me:a#b@{}", "me", "a#b"),
        ("http://me:a@b@{}", "me", "a@b"),
        ("http://me:a/b?c@{}", "me", "a/b?c"),
        ("http://me:a:b@{}", "me", "a:b"),
        ("http://me:a%23b%40@{}/", "me", "a#b@"),
        ("http://me:100%25@{}/path", "me", "100%"),
        ("http://me:100%@{}", "me", "100%"),
        ("http://me@{}", "me", ""),
        ("http://:token@{}", "", "token"),
        ("HTTP://mé:ü@{}", "mé", "ü"),
    ],
)
def test_a_password_may_have_any_character(url: str, user: str, password: str) -> None:
    """Encoded or not; the last ``@`` is in front of the host."""
    heads: list[HttpHead] = []
    with RawServer(lambda peer: heads.append(peer.read_head())) as server:
        through(url.format(f"{HOST}:{server.port}")).close()
    token = heads[0].headers["proxy-authorization"].removeprefix("Basic ")
    assert base64.b64decode(token).decode() == f"{user}:{password}"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://proxy", ("http", "proxy", 8080)),
        ("http://proxy:3128/", ("http", "proxy", 3128)),
        ("http://[fd00::1]:3128", ("http", "[fd00::1]", 3128)),
        ("socks://proxy", ("socks", "proxy", 1080)),
        ("SOCKS5://proxy:9", ("socks5", "proxy", 9)),
    ],
)
def test_the_place_of_a_proxy(url: str, place: tuple[str, str, int]) -> None:
    """With the usual ports where there is none."""
    parts = ProxyUrl.parse(url)
    assert (parts.scheme, parts.host, parts.port) == place


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret",
        "http://secret:x@",
        "http://me:secret@host:port",
        "http://me:secret@ho st",
        "http://me:secret@[host]",
        "http://me:secret@h:70000",
        "ftp://me:secret@h",
        "me:secret@h:1",
    ],
)
def test_a_url_that_is_no_proxy_shows_no_password(url: str) -> None:
    """Not even where it stands in the wrong place."""
    with pytest.raises(ValueError) as raised:
        ProxyUrl.parse(url)
    assert "secret" not in str(raised.value)


def test_socks_without_a_number_is_socks5() -> None:
    """What GNOME puts into ``all_proxy``."""
    with (
        echo_server() as server,
        SocksProxy() as proxy,
        HttpClientWebSockets(
            HIDDEN, server.port, proxy=f"socks://{HOST}:{proxy.port}/", timeout=ms(5_000)
        ) as client,
    ):
        assert upgrade(client) == ""
        assert proxy.asked == [Asked(HIDDEN, server.port)]


def test_a_refusal_tells_its_status_and_headers() -> None:
    """A policy stops on 407: wrong credentials, tried again and again, lock an account."""
    with HttpProxy("me", "good") as proxy:
        client = through(proxy.url_for("me", "bad"))
    assert isinstance(client.last_exception, ProxyError)
    assert client.last_exception.http_status == 407
    assert ("proxy-authenticate", 'Basic realm="test"') in client.last_exception.headers
    assert "407 Proxy Authentication Required" in client.last_error


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\nVia: x\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hm\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_comes_behind_a_good_answer_is_the_servers(answer: bytes) -> None:
    """Each 2xx opens the tunnel, and its headers describe no body (RFC 9110 §9.3.6)."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(answer + b"early")
        peer.wait_end()

    with RawServer(behaviour) as server:
        client = through(f"http://{HOST}:{server.port}")
        assert client.last_error == ""
        assert client.transport is not None
        assert client.transport.recv(100) == b"early"
        client.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "the connection ended"),
        (b"HTTP/1.1 200 OK\r\nVia", "the connection ended"),
        (b"\x05\x00", "the connection ended"),
        (b"\x05\x00\r\n\r\n", "no HTTP answer"),
        (b"SSH-2.0-x\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 302 \x1b[31m\r\n\r\n", "302"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "proxy http"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000, "more than 16384 bytes"),
    ],
)
def test_an_http_answer_that_is_none_is_an_error(answer: bytes, words: str) -> None:
    """Within a bound of bytes; nothing of it reaches the terminal."""
    client = answered(answer)
    assert not client.connected
    assert client.last_error.startswith(("ProxyError: proxy http://", "OSError: proxy http://"))
    assert words in client.last_error
    assert client.last_error.isprintable()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x05",
        b"\x04\x00",
        b"\x05\x02",
        b"\x05\xff",
        b"\x05\x77",
        b"\x05\x00\x05\x00\x00\x03\x04\xff\xfe\xfd\xfc\x00\x00",
        b"\x05\x00\x05\x99\x00\x01" + bytes(6),
        b"\x05\x00\x05\x00\x00\x09" + bytes(6),
    ],
)
def test_a_socks_answer_that_is_none_is_an_error(answer: bytes) -> None:
    """Whatever python-socks raises: nothing but a failed attempt."""
    client = answered(answer, "socks5")
    assert not client.connected or answer.endswith(b"\xfc\0\0")
    if not client.connected and client.last_error:
        assert "proxy socks5://" in client.last_error


def test_credentials_that_socks_cannot_carry_are_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are a failed attempt, without the letters of the password."""
    with caplog.at_level(logging.DEBUG, "mormot_ws"), SocksProxy("me", "x") as proxy:
        client = through(proxy.url_for("me", "gehe\xefm" * 60))
    assert "unusual credentials" in client.last_error
    assert "\xef" not in client.last_error + caplog.text


def test_a_byte_now_and_then_does_not_prolong_the_deadline() -> None:
    """The time is for all of the answer."""
    stop = threading.Event()

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(ms(20) / 1000):
            peer.send(b"x")

    with RawServer(behaviour) as server:
        began = time.monotonic()
        client = through(f"http://{HOST}:{server.port}", timeout=300)
        assert time.monotonic() - began < BOUND / 2
        stop.set()
    assert "timed out" in client.last_error


def test_the_text_of_a_proxys_refusal_has_no_control_characters() -> None:
    """What a proxy says is escaped in the exception itself, not only in the log."""
    assert str(ProxyError("403 no \x85\x9b31m\n")) == "403 no \\x85\\x9b31m\\n"
