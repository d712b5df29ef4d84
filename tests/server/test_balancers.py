"""Load balancers that send a header of the PROXY protocol."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from pathlib import Path

import pytest
from support import BOUND, HOST, RawClient, echo_server, ms, wait_for
from support.tls import Authority

from mormot_ws import WebSocketProcessSettings, WebSocketServer, focText, server_tls_context

V1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    + socket.inet_aton("192.0.2.7")
    + socket.inet_aton("10.0.0.1")
    + struct.pack("!HH", 5000, 443)
)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def remote_ip(server: WebSocketServer) -> str:
    """Return the address of the only connection."""
    (process,) = server.connections()
    return process.remote_ip


@pytest.mark.parametrize(
    ("header", "ip"),
    [(V1, "192.0.2.7"), (V2, "192.0.2.7"), (LOCAL, HOST), (b"PROXY UNKNOWN\r\n", HOST)],
)
def test_the_header_tells_whose_connection_it_is(header: bytes, ip: str) -> None:
    """In both versions; a connection of the balancer's own keeps its address."""
    with echo_server(proxy_protocol_from={HOST}) as server, RawClient(server.port) as client:
        client.send(header)
        client.upgrade()
        assert remote_ip(server) == ip
        client.send_frame(focText, "hello")
        assert client.receive_frame().payload == b"hello"


@pytest.mark.parametrize("header", [V1, V2])
def test_it_may_come_in_pieces_and_with_the_request(header: bytes) -> None:
    """TCP cuts where it likes."""
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with echo_server(proxy_protocol_from={HOST}) as server:
        server.on_request = lambda ctxt: 299
        for cut in (1, 9, len(header) - 1, len(header) + 3):
            with RawClient(server.port) as client:
                whole = header + request
                client.send(whole[:cut])
                # let the server see the first piece alone, if it is quick
                wait_for(lambda: server.status().sockets == 1)
                client.send(whole[cut:])
                assert client.read_head().status == 299
            wait_for(lambda: not server.status().sockets)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "does not begin with a PROXY header"),
        (b"PROXY TCP4 nobody\r\n", "malformed"),
        (V2[:13] + b"\x77" + V2[14:], "unknown version"),
    ],
)
def test_a_bad_or_missing_header_closes_the_connection(
    sent: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a line in the log: the balancer, or the setting, is wrong."""
    with echo_server(proxy_protocol_from={HOST}) as server:
        with RawClient(server.port) as client:
            client.send(sent)
            assert client.read_to_end() == b""
        (line,) = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert why in line.getMessage()
        assert vars(line)["remote_ip"] == HOST
        assert server.status().upgraded == 0


def test_a_header_that_ends_early_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """But a connection without a byte is not: checks of a port are like that."""
    with echo_server(proxy_protocol_from={HOST}) as server:
        RawClient(server.port).close()
        wait_for(lambda: server.status().accepted == 1 and not server.status().sockets)
        assert not [r for r in caplog.records if r.levelno >= logging.INFO]
        with RawClient(server.port) as client:
            client.send(V1[:9])
            client.sock.shutdown(socket.SHUT_WR)
            assert client.read_to_end() == b""
        assert "ended inside its PROXY header" in caplog.text


@pytest.mark.parametrize("sent", [b"", V1[:20], V2[:20]])
def test_the_wait_for_a_header_is_bounded(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """By handshake_timeout."""
    with echo_server(proxy_protocol_from={HOST}, handshake_timeout=ms(60)) as server:
        with RawClient(server.port) as client:
            client.send(sent)
            assert client.read_to_end() == b""
        wait_for(lambda: "in time" in caplog.text)


def test_who_is_no_balancer_sends_no_header() -> None:
    """Nobody else can choose an address."""
    with echo_server(proxy_protocol_from={"10.0.0.0/8"}) as server:
        with RawClient(server.port) as client:
            client.upgrade()
            assert remote_ip(server) == HOST
        with RawClient(server.port) as client:
            client.send(V1 + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.read_head().status == 400


def test_tls_and_health_checks_come_behind_the_header(tmp_path: Path) -> None:
    """The balancer does not look into what it forwards."""
    authority = Authority(tmp_path)
    server = echo_server(proxy_protocol_from={HOST}, health_path="/health")
    server.tls_context = server_tls_context(authority.certificate_file, authority.private_key_file)
    seen: list[str] = []

    def on_request(ctxt: object) -> int:
        seen.append(ctxt.remote_ip)  # type: ignore[attr-defined]
        return 299

    server.on_request = on_request
    context = ssl.create_default_context(cafile=authority.file)
    with server:
        with socket.create_connection((HOST, server.port), BOUND) as plain:
            plain.sendall(V2)
            with context.wrap_socket(plain, server_hostname="localhost") as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert sock.recv(1000).startswith(b"HTTP/1.1 299")
        assert seen == ["192.0.2.7"]
        with RawClient(server.port) as client:
            client.send(V1 + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.read_head().status == 200


def test_the_limit_per_address_is_for_the_client() -> None:
    """Not for the balancer, from which all connections come."""
    with (
        echo_server(proxy_protocol_from={HOST}, max_connections_per_ip=1) as server,
        RawClient(server.port) as first,
        RawClient(server.port) as second,
    ):
        first.send(V1)
        first.upgrade()
        second.send(V1.replace(b".7 ", b".8 "))
        second.upgrade()
        with RawClient(server.port) as third:
            third.send(V1)
            assert third.read_head().status == 503


def test_behind_it_a_header_of_http_counts_when_that_proxy_is_trusted() -> None:
    """client → proxy of HTTP → balancer of TCP → server."""
    with echo_server(
        proxy_protocol_from={HOST},
        remote_ip_header="X-Real-IP",
        trusted_proxies={"192.0.2.7"},
    ) as server:
        server.on_request = lambda ctxt: 200 if ctxt.remote_ip == "198.51.100.9" else 500
        with RawClient(server.port) as client:
            client.send(V1 + b"GET / HTTP/1.1\r\nHost: x\r\nX-Real-IP: 198.51.100.9\r\n\r\n")
            assert client.read_head().status == 200


@pytest.mark.parametrize("value", ["10.0.0.0/8", {"balancer"}, {5}, None])
def test_balancers_are_addresses_and_networks(value: object) -> None:
    """A mistake is refused where it stands."""
    with pytest.raises(ValueError, match="proxy_protocol_from"):
        WebSocketProcessSettings(proxy_protocol_from=value)  # type: ignore[arg-type]
