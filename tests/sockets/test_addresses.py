"""Names become addresses within a bound, and one that cannot be used does not hide the next."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
from support import BOUND, chat, echo_server, ms, new_client

from mormot_ws.sockets.transport import Transport

_SOCKET = socket.socket


def test_a_look_up_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``resolve_timeout``, whatever else the attempt might take."""
    over = threading.Event()

    def never(*_: object, **__: object) -> Any:
        over.wait(BOUND)
        raise OSError("too late")

    try:
        with new_client(1, 5_000, resolve_timeout=ms(100)) as client:
            monkeypatch.setattr(socket, "getaddrinfo", never)
            began = time.monotonic()
            client.host = "name.invalid"
            assert "the look-up did not end" in client.reopen()
            assert time.monotonic() - began < BOUND / 2
    finally:
        over.set()


def test_a_kernel_without_ipv6_tries_the_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """``socket()`` itself fails there."""

    class NoIpv6(_SOCKET):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *arguments, **options)

    with echo_server() as server:

        def both(host: str, port: int, **_: object) -> Any:
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        monkeypatch.setattr(socket, "socket", NoIpv6)
        with new_client(server.port) as client:
            client.host = "localhost"
            assert client.reopen() == ""
            assert client.websockets_upgrade("", "", protocol=chat()) == ""


def test_a_name_that_cannot_be_looked_up_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an exception: a label of 64 characters is a failed attempt like others."""
    with new_client(1) as client:
        client.host = "a" * 64 + ".invalid"
        assert "cannot be looked up" in client.reopen()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_the_peer_of_a_unix_socket_has_no_ip() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = Transport(ours)
        try:
            assert transport.peer_ip() == "unix:"
        finally:
            transport.close()
