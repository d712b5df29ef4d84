"""Peers on plain sockets, which send whatever bytes a test wants."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
from collections.abc import Sequence
from typing import NamedTuple

from mormot_ws import (
    WebProcessInFrame,
    WebSocketFrame,
    WebSocketFrameOpCode,
    encode_frame,
    focText,
)
from mormot_ws.process.freeing import ClosedByWith

from .places import HOST
from .waiting import BOUND


class HttpHead(NamedTuple):
    """The head of a request or an answer."""

    first_line: str
    headers: dict[str, str]  # names in lower case
    raw: bytes

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.first_line.split()[1])


def accept_for(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` for *key*, worked out independently of the library."""
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()


class RawPeer(ClosedByWith):
    """One end of a connection on a plain socket: sends whatever bytes a test wants, and frames.

    Everything that waits raises ``TimeoutError`` after ``BOUND``; the end of the stream is an
    ``EOFError`` where more was needed.
    """

    def __init__(self, sock: socket.socket, client_side: bool) -> None:
        sock.settimeout(BOUND)
        self.sock = sock
        self.client_side = client_side
        self._mask = b"\x12\x34\x56\x78" if client_side else None
        self._decoder = WebProcessInFrame(masked=not client_side, max_message_bytes=64 << 20)
        self._frames: list[WebSocketFrame] = []
        self._unread = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def encoded(self, opcode: int, payload: bytes | str = b"", fin: bool = True) -> bytes:
        """Return the bytes of a frame as this side sends it."""
        return encode_frame(
            opcode, payload.encode() if isinstance(payload, str) else payload, self._mask, fin=fin
        )

    def send_frame(self, opcode: int, payload: bytes | str = b"", fin: bool = True) -> None:
        """Send one frame."""
        self.send(self.encoded(opcode, payload, fin))

    def receive(self) -> bytes:
        """Return the next bytes, ``b''`` at the end of the stream."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        return self.sock.recv(65536)

    def receive_frame(self) -> WebSocketFrame:
        """Return the next message or control frame."""
        while not self._frames:
            data = self.receive()
            if not data:
                raise EOFError("the peer ended the connection")
            self._frames = self._decoder.feed(data)
            assert self._decoder.error is None, self._decoder.error
        return self._frames.pop(0)

    def receive_opcode(self, opcode: WebSocketFrameOpCode) -> WebSocketFrame:
        """Return the next frame, which has to be of that *opcode*."""
        frame = self.receive_frame()
        assert frame.opcode is opcode, frame
        return frame

    def read_head(self) -> HttpHead:
        """Return the next HTTP head; what came behind it is kept for the next read."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.receive()
            if not more:
                raise EOFError(f"the stream ended inside a head: {data!r}")
            data += more
        raw, _, self._unread = data.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return HttpHead(
            first, {name.lower(): value.strip() for name, _, value in fields}, raw + b"\r\n\r\n"
        )

    def read_answer(self) -> tuple[HttpHead, bytes]:
        """Return the head and the body (by its ``Content-Length``) of an HTTP answer."""
        head = self.read_head()
        size = int(head.headers.get("content-length", "0"))
        body = b""
        while len(body) < size:
            more = self.receive()
            if not more:
                raise EOFError(f"the stream ended inside a body: {body!r}")
            body += more
        self._unread = body[size:]
        return head, body[:size]

    def read_to_end(self) -> bytes:
        """Read until the peer ends the connection, and return all of it. A reset counts as an
        end.
        """
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := self.receive():
                data += more
        return data

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class RawClient(RawPeer):
    """A WebSocket client on a plain socket, for tests of the server."""

    KEY = "dGhlIHNhbXBsZSBub25jZQ=="

    def __init__(self, port: int | str, receive_buffer: int = 0) -> None:
        """Connect to *port*, or to the Unix socket at that path (``'\\0name'``: an abstract one),
        with a small *receive_buffer* if its size in bytes is given.
        """
        sock = socket.socket() if isinstance(port, int) else socket.socket(socket.AF_UNIX)
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(BOUND)
            sock.connect((HOST, port) if isinstance(port, int) else port)
        except OSError:
            sock.close()
            raise
        super().__init__(sock, client_side=True)
        #: the ``Sec-WebSocket-Connection-ID`` of the upgrade
        self.connection_id = 0

    @classmethod
    def request(cls, uri: str = "", protocol: str = "echo", **headers: str | None) -> bytes:
        """Return an upgrade request. Header names are written with ``_``; None leaves a header
        out.
        """
        fields: dict[str, str | None] = {
            "Host": "localhost",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": cls.KEY,
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": protocol or None,
        }
        known = {name.lower(): name for name in fields}
        for name, value in headers.items():
            dashed = name.replace("_", "-")
            fields[known.get(dashed.lower(), dashed)] = value
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        return "\r\n".join([f"GET /{uri} HTTP/1.1", *lines, "", ""]).encode()

    def upgrade(self, uri: str = "", protocol: str = "echo", behind: bytes = b"") -> HttpHead:
        """Upgrade, and return the head of the answer; *behind* is sent in the same segment as the
        request.
        """
        self.send(self.request(uri, protocol) + behind)
        head = self.read_head()
        assert head.status == 101, head.first_line
        assert head.headers["sec-websocket-accept"] == accept_for(self.KEY)
        self.connection_id = int(head.headers["sec-websocket-connection-id"])
        return head


def upgraded(port: int | str, receive_buffer: int = 0) -> RawClient:
    """Return a raw client that has upgraded to ``echo``; close it."""
    client = RawClient(port, receive_buffer)
    try:
        client.upgrade()
    except BaseException:
        client.close()
        raise
    return client


def exchange(client: RawClient, payloads: Sequence[str]) -> list[str]:
    """Send text messages on an upgraded raw client and return as many answers."""
    for payload in payloads:
        client.send_frame(focText, payload)
    return [client.receive_opcode(focText).text for _ in payloads]


class RawServerPeer(RawPeer):
    """The server's end of one connection of a :class:`RawServer`."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, client_side=False)

    def answer(self, head: HttpHead, **headers: str | None) -> bytes:
        """Return a 101 answer to the request *head*; *headers* change or (None) leave out what is
        in it.
        """
        fields: dict[str, str | None] = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Connection-ID": "7",
            "Sec-WebSocket-Protocol": head.headers.get("sec-websocket-protocol"),
            "Sec-WebSocket-Accept": accept_for(head.headers["sec-websocket-key"]),
        }
        known = {name.lower(): name for name in fields}
        for name, value in headers.items():
            dashed = name.replace("_", "-")
            fields[known.get(dashed.lower(), dashed)] = value
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()

    def accept(self) -> HttpHead:
        """Do the server's side of the handshake; return the request."""
        head = self.read_head()
        self.send(self.answer(head))
        return head

    def wait_end(self) -> None:
        """Read and ignore until the client ends the connection, however long that takes."""
        self.sock.settimeout(None)
        self.read_to_end()
