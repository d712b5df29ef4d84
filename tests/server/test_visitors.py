"""Whose connection it is behind a proxy, and which hosts and origins are served."""

from __future__ import annotations

import socket
from collections.abc import Collection

import pytest
from support import BOUND, RawClient, echo_server, fast_settings, upgraded, wait_for

from mormot_ws import (
    HttpServerRequest,
    WebSocketProtocolChat,
    WebSocketServer,
    WebSocketServerSocket,
)
from mormot_ws.core.addresses import address_key
from mormot_ws.server.visitors import host_is_in, ip_of, is_trusted, visitor

PROXIES = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("ip", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_an_ipv6_address_counts_as_its_64(ip: str, key: str) -> None:
    """One customer has all of a /64; IPv4 addresses count as themselves."""
    assert address_key(ip) == key


@pytest.mark.parametrize(
    ("address", "ip"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("::1", 5, 0, 0), "::1"),
        ((), ""),
    ],
)
def test_an_ipv4_peer_has_its_ipv4_address(address: object, ip: str) -> None:
    """Also where an IPv6 socket has accepted it."""
    with socket.socket() as sock:
        assert ip_of(sock, address) == ip


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
@pytest.mark.parametrize("address", ["/run/socket", "", b"", ("",)])
def test_a_peer_on_a_unix_socket_is_called_unix(address: object) -> None:
    """Whatever it is bound to, and where a WSGI server tells no address."""
    with socket.socket(socket.AF_UNIX) as sock:
        assert ip_of(sock, address) == "unix:"


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::2", True),
        ("127.0.0.2", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_proxies_are_addresses_and_networks(ip: str, trusted: bool) -> None:
    """Of both families."""
    assert is_trusted(ip, PROXIES) is trusted
    assert not is_trusted(ip, ())


@pytest.mark.parametrize(
    ("forwarded", "found"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.1, 10.0.0.2"], "192.0.2.7"),
        (["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        (["192.0.2.7:5123"], "192.0.2.7"),
        (["[2001:db8::7]:5123"], "2001:db8::7"),
        (["2001:DB8:0::7"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, unknown"], "127.0.0.1"),
        (["unknown, 10.0.0.1"], "10.0.0.1"),
        ([""], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_the_visitor_is_the_last_address_that_is_no_proxy(forwarded: list[str], found: str) -> None:
    """What stands before it, the visitor may have written himself."""
    assert visitor("127.0.0.1", forwarded, PROXIES) == found


@pytest.mark.parametrize(
    ("hosts", "served"),
    [
        (["app.example"], True),
        (["APP.Example:8080"], True),
        (["app.example."], True),
        (["other.example:81"], True),
        (["other.example"], False),
        (["other.example:82"], False),
        (["[::1]:8080"], True),
        (["[::1]"], True),
        (["evil.example"], False),
        (["app.example.evil.example"], False),
        (["app.example", "app.example"], False),
        ([], False),
        ([""], False),
    ],
)
def test_hosts_are_names_with_or_without_port(hosts: list[str], served: bool) -> None:
    """A name alone goes for every port; a request has one ``Host``."""
    assert host_is_in(hosts, {"app.example", "other.example:81", "::1"}) is served
    assert host_is_in(hosts, None)


def asks(server: WebSocketServer, request: bytes) -> int:
    """Return the status that answers *request*."""
    with RawClient(server.port) as client:
        client.send(request)
        return client.read_head().status


def plain(host: str = "app.example", **headers: str) -> bytes:
    """Return a plain request."""
    lines = [f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(["POST /root/Admin.Wipe HTTP/1.1", *lines, "", ""]).encode()


def test_pages_of_other_origins_and_hosts_are_not_answered() -> None:
    """``allowed_origins`` and ``allowed_hosts`` hold for plain requests as for upgrades."""
    asked: list[str] = []

    def on_request(context: HttpServerRequest) -> int:
        asked.append(context.in_header("origin"))
        return 200

    limits = {"allowed_origins": {"https://app.example"}, "allowed_hosts": {"app.example"}}
    with echo_server(**limits) as server:
        server.on_request = on_request
        assert asks(server, plain()) == 200
        assert asks(server, plain(Origin="https://app.example")) == 200
        assert asks(server, plain("app.example:8080", Origin="https://APP.example:443")) == 200
        assert len(asked) == 3
        assert asks(server, plain(Origin="http://evil.example")) == 403
        assert asks(server, plain("evil.example")) == 403
        assert asks(server, plain("evil.example", Origin="https://app.example")) == 403
        for host, origin, status in (
            ("app.example", "https://app.example", 101),
            ("app.example", "https://evil.example", 403),
            ("evil.example", "https://app.example", 403),
        ):
            assert asks(server, RawClient.request(Host=host, Origin=origin)) == status
        assert len(asked) == 3


@pytest.mark.parametrize(
    ("allowed", "origin", "served"),
    [
        ("https://app.example:443", "https://app.example", True),
        ("https://app.example", "https://app.example:443", True),
        ("http://app.example:80", "http://app.example", True),
        ("https://app.example:80", "https://app.example", False),
        ("https://app.example:8443", "https://app.example", False),
        ("null", "null", True),
    ],
)
def test_the_port_of_a_scheme_may_be_left_out_of_an_origin(
    allowed: str, origin: str, served: bool
) -> None:
    """Browsers leave it out, people who write settings do not."""
    with echo_server(allowed_origins={allowed}) as server:
        assert asks(server, RawClient.request(Origin=origin)) == (101 if served else 403)


def behind(proxies: Collection[str] = ("127.0.0.1",), **more: object) -> dict[str, object]:
    """Return the settings of a server behind a proxy on this machine."""
    return {"remote_ip_header": "X-Real-IP", "trusted_proxies": proxies, **more}


def test_behind_a_proxy_the_limit_is_that_of_each_visitor() -> None:
    """Not of the proxy: one connection too many gets 503 when its request has told whose it is."""
    with echo_server(**behind(max_connections_per_ip=2)) as server:
        clients = [RawClient(server.port) for _ in range(6)]
        visitors = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"]
        statuses = []
        for client, ip in zip(clients, visitors, strict=True):
            client.send(client.request(X_Real_IP=ip))
            statuses.append(client.read_head().status)
        assert statuses == [101, 101, 101, 101, 503, 101]
        wait_for(lambda: len(server._sockets) == 5)
        assert server._addresses.counts == {"192.0.2.1": 2, "192.0.2.2": 2, "192.0.2.3": 1}
        assert server.status().turned_away == 1
        for client in clients:
            client.close()
        wait_for(lambda: not server._sockets)
        assert not server._addresses.counts


def test_events_processes_and_requests_name_the_visitor() -> None:
    """All of ``remote_ip`` is the visitor's address; also request by request."""
    seen: list[str] = []

    def on_request(context: HttpServerRequest) -> int:
        seen.append(context.remote_ip)
        return 200

    def on_connect(connection: WebSocketServerSocket) -> None:
        protocol, process = connection.websocket_protocol, connection.websocket_process
        assert protocol is not None
        assert process is not None
        seen.extend([connection.remote_ip, protocol.remote_ip, process.remote_ip])
        seen.append(str(protocol.remote_localhost))

    with echo_server(**behind()) as server:
        server.on_request = on_request
        server.on_websocket_connect = on_connect
        with RawClient(server.port) as client:
            for ip in ("192.0.2.1", "192.0.2.2"):
                client.send(plain(**{"X-Real-IP": ip, "Content-Length": "0"}))
                assert client.read_answer()[0].status == 200
            client.send(client.request(X_Real_IP="192.0.2.3"))
            assert client.read_head().status == 101
            wait_for(lambda: len(seen) == 6)
            assert server._addresses.counts == {"192.0.2.3": 1}
    assert seen == ["192.0.2.1", "192.0.2.2", *["192.0.2.3"] * 3, "False"]


def test_a_header_of_somebody_else_is_not_believed() -> None:
    """Only proxies that are named may say whom they forward."""
    with echo_server(**behind(("192.0.2.9",))) as server, RawClient(server.port) as client:
        client.send(client.request(X_Real_IP="192.0.2.1"))
        assert client.read_head().status == 101
        assert [process.remote_ip for process in server._processes.values()] == ["127.0.0.1"]
        assert server._addresses.counts == {"127.0.0.1": 1}


def test_a_64_counts_as_one_visitor() -> None:
    """Its addresses share the limit."""
    with (
        echo_server(**behind(max_connections_per_ip=1)) as server,
        RawClient(server.port) as first,
        RawClient(server.port) as second,
    ):
        first.send(first.request(X_Real_IP="2001:db8::1"))
        assert first.read_head().status == 101
        second.send(second.request(X_Real_IP="2001:db8::2"))
        assert second.read_head().status == 503


def test_without_proxies_the_limit_holds_before_anything_is_read() -> None:
    """As ever: a connection too many is turned away at once."""
    settings = fast_settings(max_connections_per_ip=1)
    with (
        WebSocketServer("127.0.0.1:0", settings=settings) as server,
        socket.create_connection(("127.0.0.1", server.port), BOUND),
    ):
        wait_for(lambda: server._sockets)
        with RawClient(server.port) as second:
            assert second.read_head().status == 503


def test_uris_that_have_to_be_encoded_are_reachable() -> None:
    """``café`` in ``add()`` is ``/caf%C3%A9`` in an address."""
    with echo_server() as server:
        for uri, wire in (("café", "caf%C3%A9"), ("a b", "a%20b"), ("~me", "%7Eme"), ("x%20y", "")):
            assert server.websocket_protocols.add(WebSocketProtocolChat("other", uri))
            for path in filter(None, (wire, wire.lower(), uri if uri.isascii() else "")):
                if " " not in path:
                    assert asks(server, RawClient.request(path, "other")) == 101, path
        assert not server.websocket_protocols.add(WebSocketProtocolChat("other", "a%20b"))
        for path in ("caf%C3%AA", "a%2520b", "a", "%61%20b"):
            assert asks(server, RawClient.request(path, "other")) == 400, path
        # a slash that is encoded is part of a name
        server.websocket_protocols.add(WebSocketProtocolChat("other", "c/d"))
        assert asks(server, RawClient.request("c%2Fd", "other")) == 400
        with upgraded(server.port):
            pass
