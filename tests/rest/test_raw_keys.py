"""A raw AES key in place of a password, on the binary protocols and on both servers."""

from __future__ import annotations

from typing import Any

import pytest
from support import HOST, fast_settings
from support.rest import mirror

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketAsyncServerRest,
    WebSocketProtocolBinary,
    WebSocketServerRest,
)
from mormot_ws.rest.encryption import derive_key

SERVERS = [WebSocketServerRest, WebSocketAsyncServerRest]


def asked(port: int, protocol: WebSocketProtocolBinary) -> int:
    """Return the status of a request with *protocol*."""
    with HttpClientWebSockets(HOST, port, settings=fast_settings()) as client:
        assert client.websockets_upgrade("root", protocol=protocol) == ""
        return client.request("x", "POST", data=b"[1]")


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_takes_a_raw_key(kind: Any, size: int) -> None:
    """Its clients need the same bytes: others are closed out."""
    key = bytes(range(size))
    with kind(f"{HOST}:0", uri="root", settings=fast_settings()) as server:
        server.on_request = mirror
        server.set_encrypt_key_aes(key)
        same, other = WebSocketProtocolBinary("root"), WebSocketProtocolBinary("root")
        same.set_encrypt_key_aes(bytearray(key))
        other.set_encrypt_key_aes(bytes(size))
        assert asked(server.port, same) == 200
        assert asked(server.port, other) != 200
        server.set_encrypt_key_aes(b"")
        assert asked(server.port, WebSocketProtocolBinary("root")) == 200


def test_a_raw_key_is_that_of_a_password() -> None:
    """With a password one end may have the key that is derived from it."""
    with WebSocketServerRest(
        f"{HOST}:0", uri="root", key="k3y", settings=fast_settings()
    ) as server:
        server.on_request = mirror
        protocol = WebSocketProtocolBinary("root")
        protocol.set_encrypt_key_aes(derive_key("k3y")[:16])
        assert protocol.encrypted
        assert asked(server.port, protocol) == 200


@pytest.mark.parametrize(
    ("key", "error"), [(b"short", ValueError), (bytes(17), ValueError), ("x" * 16, TypeError)]
)
def test_what_is_no_aes_key_is_refused(key: Any, error: type[Exception]) -> None:
    """At once."""
    with pytest.raises(error, match="16, 24 or 32 bytes"):
        WebSocketProtocolBinary().set_encrypt_key_aes(key)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_without_a_binary_protocol_takes_no_key(kind: Any) -> None:
    with kind(f"{HOST}:0") as server, pytest.raises(ValueError, match="websockets_enable"):
        server.set_encrypt_key_aes(bytes(16))
