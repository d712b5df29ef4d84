"""Where a server listens, and who reaches it there."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import BOUND, MS, RawClient, echo_server, exchange, upgraded, wait_for

from mormot_ws import HttpServerError, WebSocketServer
from mormot_ws.server.listening import listen, parse_port


def has_ipv6() -> bool:
    """Tell whether this machine has the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def reaches(address: str, port: int) -> bool:
    """Tell whether something listens there."""
    try:
        socket.create_connection((address, port), BOUND).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("port", "parsed"),
    [
        (8999, ("", 8999)),
        (" 8999 ", ("", 8999)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:1", ("localhost", 1)),
        ("[::]:8999", ("::", 8999)),
        ("[fe80::1%eth0]:0", ("fe80::1%eth0", 0)),
    ],
)
def test_a_port_is_taken_apart(port: str | int, parsed: tuple[str, int]) -> None:
    """Into the address, '' for all of them, and the number."""
    assert parse_port(port) == parsed


@pytest.mark.parametrize("port", ["::1:0", "[::1:0", "::1]:0", "[]:0", "[127.0.0.1:0"])
def test_an_ipv6_address_without_its_brackets_is_a_value_error(port: str) -> None:
    """``::1:8999`` may be an address alone: it is not guessed at."""
    with pytest.raises(ValueError, match="port must"):
        parse_port(port)


@ipv6
@pytest.mark.parametrize("port", ["0", "[::]:0", "localhost:0", "LocalHost:0"])
def test_both_families_are_served_on_one_port(port: str) -> None:
    """A port alone, all IPv6 addresses, and the name that stands for both loopback addresses."""
    with WebSocketServer(port) as server:
        assert reaches("127.0.0.1", server.port)
        assert reaches("::1", server.port)


def test_one_address_is_one_address() -> None:
    """``0.0.0.0`` and ``127.0.0.1`` are IPv4 only."""
    for port in ("0.0.0.0:0", "127.0.0.1:0"):
        with WebSocketServer(port) as server:
            assert reaches("127.0.0.1", server.port)
            assert not reaches("::1", server.port)


@ipv6
def test_a_visitor_by_ipv4_has_an_ipv4_address() -> None:
    """Also on a server that listens on all addresses, and the limits count it as that."""
    with echo_server() as _, WebSocketServer(0) as server:
        with RawClient(server.port):
            wait_for(lambda: server._sockets)
            assert [item.remote_ip for item in server._sockets] == ["127.0.0.1"]
        wait_for(lambda: not server._sockets)
        with contextlib.closing(socket.create_connection(("::1", server.port), BOUND)):
            wait_for(lambda: server._sockets)
            assert [item.remote_ip for item in server._sockets] == ["::1"]


@ipv6
def test_all_addresses_of_a_name_are_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their order."""
    real = socket.getaddrinfo

    def both(host: str, *args: Any, **kwargs: Any) -> Any:
        return real("::1", *args, **kwargs) + real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    listeners = listen("some.name", 0)
    try:
        assert [sock.getsockname()[0] for sock in listeners] == ["::1", "127.0.0.1"]
        assert len({sock.getsockname()[1] for sock in listeners}) == 1
    finally:
        for sock in listeners:
            sock.close()


@ipv6
def test_a_link_local_address_keeps_its_zone() -> None:
    """``[fe80::…%eth0]:0`` listens there, where the machine has such an address."""
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as file:
        for line in file:
            digits, _, _, scope, _, name = line.split()
            if scope == "20":
                address = ":".join(digits[at : at + 4] for at in range(0, 32, 4))
                with WebSocketServer(f"[{address}%{name}]:0") as server:
                    assert server.host.startswith("fe80:")
                return
    pytest.skip("this machine has no link-local address")


class NoIPv6(socket.socket):
    """The sockets of a kernel without IPv6."""

    def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *args, **kwargs)


@pytest.mark.parametrize("port", [0, "localhost:0", "[::]:0"])
def test_a_kernel_without_ipv6_serves_ipv4(
    port: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other family is left out."""
    monkeypatch.setattr("mormot_ws.server.listening.socket.socket", NoIPv6)
    with WebSocketServer(port) as server:
        assert reaches("127.0.0.1", server.port)


@ipv6
def test_a_port_that_another_program_has_in_one_family_is_taken() -> None:
    """A server that only some clients reach is none; nothing stays open behind the error."""
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(HttpServerError, match="another program listens there"):
            WebSocketServer(port)
        assert not reaches("127.0.0.1", port)


@ipv6
def test_port_0_is_free_in_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is taken in the second family is given up for another."""
    refused: list[int] = []
    real = socket.socket.bind

    class Picky(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6 and not refused:
                refused.append(address[1])
                raise OSError(errno.EADDRINUSE, "Address already in use")
            real(self, address)

    monkeypatch.setattr("mormot_ws.server.listening.socket.socket", Picky)
    with WebSocketServer(0) as server:
        assert refused
        assert reaches("127.0.0.1", server.port)
        assert reaches("::1", server.port)


@pytest.fixture
def default_timeout() -> Iterator[None]:
    """A program that has set a default time-out for sockets."""
    socket.setdefaulttimeout(50 * MS)
    yield
    socket.setdefaulttimeout(None)


def test_a_default_timeout_of_the_program_changes_nothing(
    default_timeout: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither for the accept thread, which stays silent, nor for connections that are idle."""
    with caplog.at_level(logging.INFO, "mormot_ws"), echo_server() as server:
        with upgraded(server.port) as peer:
            began = time.monotonic()
            # longer than the time-out
            wait_for(lambda: time.monotonic() - began > 200 * MS)
            assert exchange(peer, ["still"]) == ["still"]
        assert not caplog.records
