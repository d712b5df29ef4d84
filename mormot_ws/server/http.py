"""The HTTP side of a server's connection, using h11: reads requests, answers the plain ones.

It only recognises an upgrade; the protocols decide on it. The object for ``on_request`` is in
``request.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from sys import intern
from typing import Any

import h11

from ..core.handshake import UpgradeRequest
from ..request import HttpServerRequest
from ..sockets.deadline import Deadline
from ..sockets.transport import JOIN_BELOW, Transport

#: header values no longer than ``keep-alive, Upgrade`` are often the same
_SHORT_VALUE = 20
#: bytes read at a time from a visitor
HTTP_READ = 16384
#: an unambiguous head, as all browsers and libraries send it; h11 would accept all its values
#: unchanged
_ORDINARY = re.compile(
    rb"GET (/[!-~]*) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [!-~](?:[ -~]*[!-~])?\r\n)+)\r\n"
)
#: the most bytes of such a head
_ORDINARY_BYTES = 4096
#: headers that start something other than an upgrade, or for which h11 has rules
_LEFT_TO_H11 = frozenset({"content-length", "transfer-encoding", "expect"})


def _shared(value: str) -> str:
    return intern(value) if len(value) <= _SHORT_VALUE else value


def read_ordinary(data: bytes, max_head: int) -> tuple[UpgradeRequest, bytes] | None:
    """Return the upgrade request that *data* begins with, and the bytes after it. None: it is
    something else, or not in the most ordinary form, and h11 has to read it, which takes six times
    as long.
    """
    end = data.find(b"\r\n\r\n", 0, min(_ORDINARY_BYTES, max_head)) + 4
    found = _ORDINARY.fullmatch(data, 0, end)
    if found is None:
        return None
    headers = []
    for line in found[2].decode("ascii")[:-2].split("\r\n"):
        name, _, value = line.partition(": ")
        # values that all clients send exist once in memory: each connection keeps its headers
        headers.append((intern(name.lower()), _shared(value)))
    names = [name for name, _ in headers]
    if names.count("host") != 1 or not _LEFT_TO_H11.isdisjoint(names):
        return None
    request = UpgradeRequest("GET", found[1].decode("ascii"), "1.1", headers)
    return (request, data[end:]) if request.is_upgrade else None


def request_context(
    request: UpgradeRequest, content: bytes, connection_id: int, remote_ip: str
) -> HttpServerRequest:
    """Return the object that ``on_request`` gets for a plain HTTP request."""
    context = HttpServerRequest(
        request.target,
        request.method,
        "\r\n".join(f"{name}: {value}" for name, value in request.headers),
        content,
        request.header("content-type"),
        connection_id,
        remote_ip,
    )
    context.auth_bearer = request.bearer_token
    return context


def answer_visitor(context: HttpServerRequest, description: str, served: bool) -> int:
    """Describe the server to the visitor in *context*, who is not a WebSocket client; return the
    status. *served*: a WebSocket client would be served on that URI.
    """
    context.out_content = f"This is {description}; connect to it with a WebSocket client.\n"
    context.out_content_type = "text/plain; charset=utf-8"
    if not served:
        return 404
    context.out_custom_headers = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
    )
    return 426


@dataclass
class HttpFault(Exception):
    """Raised for a request that cannot be served; the connection ends after the answer."""

    status: int
    text: str


class UnsendableAnswer(Exception):
    """Raised for an answer that HTTP does not allow; the text says why."""


class EndOfInput(Enum):
    """The type of :data:`END_OF_INPUT`: the peer ended the connection before a request."""

    end_of_input = "end of input"


END_OF_INPUT = EndOfInput.end_of_input


class HttpServerConnection:
    """Reads requests from *transport* one after another. Only the connection's thread uses it.

    *max_head* and *max_body* are limits in bytes.
    """

    def __init__(self, transport: Transport, max_head: int, max_body: int) -> None:
        self.transport = transport
        self._max_head = max_head
        self._max_body = max_body
        self._begin(b"")

    def _begin(self, unread: bytes) -> None:
        """Prepare for a request, of which *unread* has already arrived."""
        # an upgrade in its ordinary form, which h11 has not seen, and what arrived after it
        self._ordinary: tuple[UpgradeRequest, bytes] | None = None
        # created when it is needed
        self._parser: h11.Connection | None = None
        self._received = 0  # bytes of the request, and of what arrived after it
        self._method = b""
        #: True once the last request was answered and another one may follow
        self.stays_open = False
        # the request, once its head is complete, and its body so far
        self._request: UpgradeRequest | None = None
        self._body: list[bytes] = []
        self._size = 0
        if unread:
            self._take(unread)

    @property
    def _h11(self) -> h11.Connection:
        """What reads a request that is not in its ordinary form, and encodes answers."""
        if self._parser is None:
            self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head)
        return self._parser

    def _take(self, data: bytes) -> None:
        if not self._received:
            data = data.lstrip(b"\r\n")  # RFC 9112 §2.2: empty lines before a request are ignored
            self._ordinary = read_ordinary(data, self._max_head)
        elif self._ordinary is not None:
            # first frames
            self._ordinary = (self._ordinary[0], self._ordinary[1] + data)
        if data:
            self._received += len(data)
            if self._ordinary is None:
                self._h11.receive_data(data)

    def feed(self, data: bytes) -> None:
        """Process bytes from the peer; ``b''``: its stream has ended."""
        if data:
            self._take(data)
        else:
            self._h11.receive_data(b"")

    def parse(self) -> tuple[UpgradeRequest, bytes] | EndOfInput | None:
        """Return the next request with its body; None: more bytes are needed.

        Raises :class:`HttpFault` for an unacceptable request.
        """
        if self._ordinary is not None:
            return self._ordinary[0], b""
        if self._parser is None:
            return None
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Request):
                self._check_sizes(event)
                self._method = event.method
                self._request = UpgradeRequest(
                    event.method.decode("ascii"),
                    event.target.decode("ascii"),
                    event.http_version.decode("ascii"),
                    [
                        # common values exist once in memory: each connection keeps them
                        (intern(name.decode("ascii")), _shared(value.decode("latin-1")))
                        for name, value in event.headers
                    ],
                )
            elif isinstance(event, h11.Data):
                self._size += len(event.data)
                if self._size > self._max_body:
                    raise HttpFault(413, f"the body has more than {self._max_body} bytes")
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                return self._request, b"".join(self._body)
            elif isinstance(event, h11.ConnectionClosed):
                return END_OF_INPUT

    def read_request(self, deadline: Deadline) -> tuple[UpgradeRequest, bytes] | None:
        """Wait for the next request; return it with its body, None if the peer ends the connection
        first.

        Raises :class:`HttpFault` for an unacceptable request, ``TimeoutError`` at the *deadline*,
        and ``OSError`` if the connection breaks.
        """
        while (found := self.parse()) is None:
            self.feed(self.transport.recv_within(HTTP_READ, deadline))
        return None if isinstance(found, EndOfInput) else found

    def _check_sizes(self, request: h11.Request) -> None:
        if (
            self._received - len(self._h11.trailing_data[0]) > self._max_head
        ):  # h11 checks only incomplete heads
            raise HttpFault(431, f"the head has more than {self._max_head} bytes")
        for name, value in request.headers:
            if name == b"content-length" and int(value) > self._max_body:
                raise HttpFault(413, f"the body has more than {self._max_body} bytes")

    def _next_event(self) -> Any:
        try:
            event = self._h11.next_event()
            if event is h11.NEED_DATA and self._h11.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            return event
        except h11.RemoteProtocolError as exc:
            if (
                self._h11.our_state is h11.ERROR
                or self._h11.trailing_data[0]
                or self._h11.their_state is h11.ERROR
            ):
                raise HttpFault(exc.error_status_hint, str(exc)) from None
            return h11.ConnectionClosed()

    @property
    def unread(self) -> bytes:
        """Bytes read after the request: first frames of a client that does not wait for the 101."""
        if self._ordinary is not None:
            return self._ordinary[1]
        return bytes(self._h11.trailing_data[0])

    def answer(
        self, status: int, content: object, content_type: str, headers: list[tuple[str, str]]
    ) -> bool:
        """Answer the request that was read; return True if another one may follow.

        *content* is bytes-like, or a ``str``, which is sent as UTF-8. Raises
        :class:`UnsendableAnswer` before anything is sent, and ``OSError``.
        """
        try:
            body = content.encode("utf-8") if isinstance(content, str) else _bytes_of(content)
            parts = self._encode(status, body, content_type, headers)
        except (h11.LocalProtocolError, TypeError, ValueError) as exc:  # UnicodeError included
            raise UnsendableAnswer(str(exc)) from None
        # as one segment, unless joining the parts costs more
        for part in [b"".join(parts)] if len(body) < JOIN_BELOW else parts:
            self.transport.sendall(part)
        if self._h11.our_state is h11.MUST_CLOSE:
            return False
        self._h11.start_next_cycle()
        self._begin(self._h11.trailing_data[0])
        self.stays_open = True
        return True

    def _encode(
        self, status: int, body: bytes, content_type: str, headers: list[tuple[str, str]]
    ) -> list[bytes]:
        """Return the parts of an answer, as they are sent."""
        if status in (204, 304):
            if body:
                raise ValueError(f"an answer with status {status} must not have content")
            length = []
        else:
            length = [("Content-Length", str(len(body)))]
        fields = [*length, *headers, *([("Content-Type", content_type)] if content_type else [])]
        response = h11.Response(
            status_code=status,
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in fields],
            reason=_reason(status),
        )
        events: list[Any] = [response]
        # RFC 9110 §9.3.2: the answer to HEAD has the length, but not the content
        if body and self._method != b"HEAD":
            events.append(h11.Data(data=body))
        events.append(h11.EndOfMessage())
        parts: list[bytes | None] = [self._h11.send(event) for event in events]
        return [part for part in parts if part]

    def _send(self, event: Any) -> None:
        data = self._h11.send(event)
        if data:
            self.transport.sendall(data)


def _bytes_of(content: object) -> bytes:
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError(f"the content must be bytes or str, not {type(content).__name__}")
    return bytes(content)


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def simple_answer(status: int, text: str, headers: str = "") -> bytes:
    """Return a complete answer with a line of plain *text*, which closes the connection."""
    body = (text + "\n").encode("utf-8")
    reason = _reason(status).decode("ascii")
    return (
        f"HTTP/1.1 {status} {reason}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode("latin-1") + body
