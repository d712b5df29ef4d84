# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""The HTTP part of a WebSocket upgrade, for both sides: just enough for peers that behave."""

from __future__ import annotations

import base64
import hashlib
import os
import socket

PROTOCOL = "echo"
"""The sub-protocol that every client here asks for: mORMot matches its protocols by this name."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_HEAD = 16384


class HandshakeError(Exception):
    """The other side did not upgrade the connection."""


def accept_key(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers this ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def read_head(sock: socket.socket) -> tuple[str, dict[str, str]]:
    """Read one HTTP head, as its first line and its headers in lower case.

    Nothing may follow the head in what was received: nobody here sends a frame before the upgrade
    is done.
    """
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        chunk = sock.recv(4096)
        data += chunk
        if not chunk or len(data) > _MAX_HEAD:
            raise HandshakeError(f"no complete HTTP head but {data[:80]!r}")
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return first, headers


def upgrade_as_server(sock: socket.socket) -> None:
    """Read an upgrade request and accept it, with the sub-protocol if the client asked for it."""
    _, headers = read_head(sock)
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(headers.get('sec-websocket-key', ''))}",
    ]
    if PROTOCOL in [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]:
        lines.append(f"Sec-WebSocket-Protocol: {PROTOCOL}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())


def upgrade_as_client(sock: socket.socket, port: int) -> None:
    """Ask for an upgrade and check that it was granted."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET / HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {PROTOCOL}",
    ]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    status, headers = read_head(sock)
    if " 101 " not in status or headers.get("sec-websocket-accept") != accept_key(key):
        raise HandshakeError(f"upgrade refused: {status!r}")
