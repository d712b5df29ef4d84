"""Names and URIs of a client: what is looked up, sent as ``Host`` and SNI, checked in certificates,
and which of several addresses is taken.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
    HOST,
    HttpHead,
    RawServer,
    RawServerPeer,
    Recorder,
    echo,
    echo_server,
    fast_settings,
    ms,
    process_of,
    upgrade,
    wait_for,
)
from support.tls import Authority, tls_server

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProtocolChat,
    WebSocketServer,
    server_tls_context,
)
from mormot_ws.client.arguments import parse_websocket_uri

_LOOK_UP = socket.getaddrinfo


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were looked up; all of them are this machine."""
    names: list[str] = []

    def look_up(host: str, port: int, **options: Any) -> Any:
        names.append(host)
        return _LOOK_UP(HOST, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def client_for(host: str, port: int, tls: bool = False, **options: Any) -> HttpClientWebSockets:
    """Return a client that has tried to connect, not upgraded; free it."""
    return HttpClientWebSockets(
        host, port, tls, timeout=ms(5_000), settings=fast_settings(), proxy="", **options
    )


@pytest.mark.parametrize(
    ("host", "name", "told"),
    [
        ("bücher.test", "xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("server.test.", "server.test.", "server.test"),
        ("fe80::1%lo", "fe80::1%lo", "[fe80::1]"),
        ("[fe80::1%25lo]", "fe80::1%lo", "[fe80::1]"),
        ("My_Host.test", "My_Host.test", "My_Host.test"),
    ],
)
def test_the_host_is_looked_up_and_told_in_its_own_form(
    host: str, name: str, told: str, asked: list[str]
) -> None:
    """By an upgrade and by a plain request alike."""
    heads: list[HttpHead] = []

    def refuse(peer: RawServerPeer) -> None:
        heads.append(peer.read_head())
        peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with RawServer(refuse) as server:
        with client_for(host, server.port) as client:
            assert "404" in upgrade(client)
        with client_for(host, server.port) as client:
            assert client.request("a/é?ü") == 404
    assert asked == [name, name]
    assert [head.headers["host"] for head in heads] == [f"{told}:{server.port}"] * 2
    assert heads[1].first_line == "GET /a/%C3%A9?%C3%BC HTTP/1.1"


@pytest.mark.parametrize("uri", ["café/Łukasz", "caf%C3%A9/%C5%81ukasz", "/café/Łukasz?x=é"])
def test_a_uri_that_is_not_ascii_reaches_its_protocol(uri: str) -> None:
    """Encoded or not."""
    with WebSocketServer(f"{HOST}:0", settings=fast_settings()) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "café/Łukasz", echo))
        with client_for(HOST, server.port) as client:
            assert upgrade(client, uri=uri) == ""
            assert process_of(client).protocol.upgrade_uri == uri


def test_half_a_character_in_a_uri_is_a_value_error(server: WebSocketServer) -> None:
    """It is the caller's mistake, and the connection stays."""
    with client_for(HOST, server.port) as client:
        with pytest.raises(ValueError, match="must not contain lone surrogates"):
            upgrade(client, uri="a\ud800")
        assert upgrade(client) == ""


@pytest.mark.parametrize("host", ["[server.test]", "[::1", "b\ud800.test", "ü..test"])
def test_a_host_that_can_never_work_is_a_value_error(host: str) -> None:
    """At once, without a connection."""
    with pytest.raises(ValueError):
        client_for(host, 1)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("ws://bücher.test/", "bücher.test"),
        ("ws://b%C3%BCcher.test/", "bücher.test"),
        ("ws://[fe80::1%25lo]/", "fe80::1%lo"),
        ("ws://[fe80::1%lo]/", "fe80::1%lo"),
        ("ws://server.test./", "server.test."),
    ],
)
def test_the_host_of_a_uri(uri: str, host: str) -> None:
    """International, percent-encoded, with a zone, with a dot."""
    assert parse_websocket_uri(uri)[0] == host


@pytest.mark.parametrize("uri", ["ws://a%2Fb/", "ws://a%20b/", "ws://a%0D%0Ab/", "ws://%00/"])
def test_a_host_of_a_uri_that_is_none_is_a_value_error(uri: str) -> None:
    """Also when it shows only once it is decoded."""
    with pytest.raises(ValueError):
        parse_websocket_uri(uri)


# ---------------------------------------------------------------------------------------------- TLS


@pytest.fixture
def seen() -> list[str | None]:
    """The names that clients have sent as SNI."""
    return []


@pytest.fixture
def tls_for(
    tmp_path: Path, seen: list[str | None], request: pytest.FixtureRequest
) -> Callable[[str], tuple[WebSocketServer, ssl.SSLContext]]:
    """Makes a server whose certificate is for a name, and the context of a client that trusts
    it.
    """
    authority = Authority(tmp_path)

    def make(name: str) -> tuple[WebSocketServer, ssl.SSLContext]:
        context = server_tls_context(*authority.issue(name))
        context.sni_callback = lambda _, sni, __: seen.append(sni)
        server = tls_server(context, echo)
        request.addfinalizer(server.free)
        return server, authority.client_context()

    return make


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("server.test", "server.test"),
        ("server.test.", "server.test"),
        ("bücher.test", "xn--bcher-kva.test"),
    ],
)
def test_sni_and_certificate_are_for_the_name_without_its_dot(
    host: str, name: str, tls_for: Any, seen: list[str | None], asked: list[str]
) -> None:
    """And in ASCII."""
    server, context = tls_for(name)
    with client_for(host, server.port, True, tls_context=context) as client:
        assert client.last_error == ""
        assert upgrade(client) == ""
    assert seen == [name]


def test_the_name_in_the_certificate_may_be_another_than_the_hosts(
    tls_for: Any, seen: list[str | None]
) -> None:
    """``tls_server_name``: to an address, or through a tunnel, with the certificate of the real
    name.
    """
    server, context = tls_for("ws.example.com")
    with client_for(HOST, server.port, True, tls_context=context) as client:
        assert "IP address mismatch" in client.last_error
    for name in ("ws.example.com", "ws.example.com."):
        with client_for(
            HOST, server.port, True, tls_context=context, tls_server_name=name
        ) as client:
            assert client.last_error == ""
            assert upgrade(client, headers="Host: ws.example.com") == ""
    assert seen == [None, "ws.example.com", "ws.example.com"]
    with client_for(
        HOST, server.port, True, tls_context=context, tls_server_name="other.test"
    ) as client:
        assert "Hostname mismatch" in client.last_error


@pytest.mark.parametrize("name", ["", ".", " ", 5, "[x]"])
def test_a_tls_server_name_that_is_none_is_a_value_error(name: Any) -> None:
    """At once, without a connection."""
    with pytest.raises(ValueError):
        client_for(HOST, 1, True, tls_server_name=name)


def test_renewed_authorities_are_seen_by_the_next_reconnection(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with the default context runs for months, and the machine's authorities change."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(old.file).read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    first = tls_server(old.server_context(), echo)
    try:
        with client_for("localhost", first.port, True) as client:
            assert client.last_error == ""
            assert upgrade(client, recorder.frame) == ""
            context = client._default_context.get()
            assert client._default_context.get() is context
            client.auto_reconnect()
            bundle.write_bytes(Path(new.file).read_bytes())
            assert client._default_context.get() is not context
            port = first.port
            first.free()
            second = tls_server(new.server_context(), echo, port)
            try:
                recorder.wait("focContinuation", 2)
                client.free()
            finally:
                second.free()
    finally:
        first.free()


def test_a_refused_certificate_makes_the_authorities_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where their files show no change."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(old.file).read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setattr("mormot_ws.sockets.tls_contexts._state_of_authorities", list)
    with (
        tls_server(new.server_context(), echo) as server,
        client_for("localhost", server.port, True) as client,
    ):
        assert "CERTIFICATE_VERIFY_FAILED" in client.last_error
        bundle.write_bytes(Path(new.file).read_bytes())
        assert client.reopen() == ""


def test_a_function_gives_the_context_of_each_connection(tls_for: Any) -> None:
    """To read files anew that change: authorities and certificates of one's own."""
    server, context = tls_for("localhost")
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(context)
        return context

    with client_for("localhost", server.port, True, tls_context=make) as client:
        assert client.last_error == ""
        assert client.reopen() == ""
    assert len(made) == 2


def test_a_function_that_cannot_read_its_files_is_a_failed_attempt(tls_for: Any) -> None:
    """Like a server that is away: the next attempt may find them."""
    server, _ = tls_for("localhost")

    def missing() -> ssl.SSLContext:
        raise FileNotFoundError("ca.pem")

    with client_for("localhost", server.port, True, tls_context=missing) as client:
        assert client.last_error == "FileNotFoundError: ca.pem"


# -------------------------------------------------------------------------------- several addresses


def refusing(answer: bytes) -> Callable[[RawServerPeer], None]:
    """Behaviour: accept, and answer the first bytes by *answer*, ``b''`` for none."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.receive()
        peer.send(answer)

    return behaviour


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs all of 127.0.0.0/8")
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"])
def test_an_address_that_fails_in_the_upgrade_is_tried_last_the_next_time(
    answer: bytes, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second server of a name is well: a reconnecting client gets there by its second
    attempt.
    """

    def both(_: str, port: int, **__: object) -> Any:
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*stream, (HOST, port)), (*stream, ("127.0.0.2", port))]

    with (
        WebSocketServer("127.0.0.2:0", settings=fast_settings()) as good,
        echo_server(good.port) as first,
        client_for("rr.test", good.port, connect=False) as client,
    ):
        good.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        monkeypatch.setattr(socket, "getaddrinfo", both)
        assert upgrade(client, recorder.frame) == ""
        assert process_of(client).remote_ip == HOST
        client.auto_reconnect()
        port = first.port
        first.free()
        with RawServer(refusing(answer), port=port) as half_dead:
            wait_for(lambda: process_of(client).reconnects == 1, what="the other server")
            assert process_of(client).remote_ip == "127.0.0.2"
            assert half_dead.accepted <= 1
        client.free()


def test_an_address_that_fails_in_tls_is_tried_last_the_next_time(
    tls_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same below the upgrade; and when it works again it is an address like others."""
    server, context = tls_for("rr.test")
    stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    with RawServer(refusing(b"no TLS\r\n")) as broken:
        addresses = [(*stream, (HOST, port)) for port in (broken.port, server.port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with client_for("rr.test", server.port, True, tls_context=context) as client:
            assert "SSL" in client.last_error
            assert list(client._failed_addresses) == [(HOST, broken.port)]
            assert client.reopen() == ""
            assert upgrade(client) == ""
            assert broken.accepted == 1
            client._address = (HOST, broken.port)
            client._judge_address(True)
            assert not client._failed_addresses
