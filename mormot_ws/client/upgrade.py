"""The client's side of the opening handshake, using websocket-client on our transport.

websocket-client writes the request and checks the answer. Instead of a socket it gets a
:class:`HandshakeSocket`, which puts the headers into the order of native clients, reads the answer
within a deadline and a size limit, and keeps the bytes after it (the first frames) for the process.
"""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..core.deflate import PermessageDeflate
from ..core.handshake import accept_value, header_tokens, split_header_lines
from ..core.names import wire_authority, wire_resource
from ..errors import WebSocketsError
from ..logs import escaped, get_logger
from ..protocols.base import WebSocketProtocol
from ..reconnect_policies import FailureKind, failure_kind
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline, is_foreign_timeout
from ..sockets.transport import Transport

if TYPE_CHECKING:
    import http.client

_log = get_logger("mormot_ws.upgrade")

#: the order in which a native client writes its headers; custom headers follow
_ORDER = (
    "host",
    "accept",
    "user-agent",
    "content-length",
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
)
_EMPTY_LINE = re.compile(rb"\n\r?\n")
#: the continuation of a header in the next line (RFC 9112 §5.2), which clients read as a blank
_FOLD = re.compile(r"[ \t]*\r?\n[ \t]+")
_STATUS_LINE = re.compile(r"HTTP/\d\.\d (\d{3})(?: .*)?")


#: the systems by their own names. Not from platform.system(): on Windows it asks a system service,
#: which can take seconds
_SYSTEMS = {"linux": "Linux", "win32": "Windows", "darwin": "Darwin"}
#: the most bytes of a refusal's body that are kept, and the milliseconds that they may take
_MOST_BODY = 1024
_BODY_MS = 250

_NO_UPGRADE = "Invalid HTTP Upgrade Header"


class UpgradeError(WebSocketsError):
    """The handshake failed; the text is what ``websockets_upgrade`` returns."""

    def __init__(
        self,
        text: str,
        http_status: int = 0,
        kind: FailureKind = FailureKind.upgrade,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
    ) -> None:
        super().__init__(escaped(text))
        #: the HTTP status of the answer; 0: there was none
        self.http_status = http_status
        #: the headers that came with a refusal
        self.headers = headers
        #: the first 1024 bytes of a refusal's body
        self.body = body
        #: the kind of failure, for a reconnection policy
        self.kind = kind

    @property
    def timed_out(self) -> bool:
        """True if there was no answer in time."""
        return self.kind is FailureKind.timeout

    @classmethod
    def from_error(cls, error: OSError) -> UpgradeError:
        """Return the failure for a connection that broke during the handshake.

        With TLS 1.3, a server that rejects our certificate does so at this point.
        """
        kind = failure_kind(error)
        told_apart = kind is FailureKind.tls or kind is FailureKind.timeout
        made = cls(
            f"{type(error).__name__}: {error}", 0, kind if told_apart else FailureKind.upgrade
        )
        made.__cause__ = error
        return made


@dataclass
class UpgradeResult:
    """The result of a successful handshake."""

    #: the server's ``Sec-WebSocket-Connection-ID``; 0 if it is missing
    connection_id: int = 0
    #: the extensions that the server chose
    extensions: list[str] = field(default_factory=list)
    #: the bytes that arrived after the answer
    unread: bytes = b""
    #: False if sub-protocols were requested and the server chose none of them
    subprotocol_chosen: bool = field(default=True, compare=False)


def default_user_agent() -> str:
    """Return the ``User-Agent`` in the form of a native client: system, processor, program."""
    program = PurePath(sys.argv[0] if sys.argv and sys.argv[0] else "python").stem or "python"
    bits = "x64" if sys.maxsize > 2**32 else "x86"
    return (
        f"Mozilla/5.0 ({_SYSTEMS.get(sys.platform, sys.platform)} {bits}; mORMot) HCWS/4 {program}"
    )


class HandshakeSocket:
    """Used by websocket-client as its socket during the handshake."""

    def __init__(
        self, transport: Transport, deadline: Deadline, max_head: int, uri: str = ""
    ) -> None:
        self._transport = transport
        # websocket-client would parse the URI and rebuild it; we send it as the application passed
        # it, but in ASCII
        self._request_line = f"GET /{wire_resource(uri.removeprefix('/'))} HTTP/1.1".encode()
        #: the key of the request; '' before it was sent
        self.key: str = ""
        self._deadline = deadline
        self._max_head = max_head
        self._heads = 0  # bytes of the heads read so far
        self._answer: io.BytesIO | None = None
        #: the headers of the answer
        self.headers: http.client.HTTPMessage | None = None
        #: the bytes that arrived after the answer
        self.unread: bytes = b""
        #: an exception from a signal handler, which websocket-client would mistake for its time-out
        self.raised: OSError | None = None

    def gettimeout(self) -> float:
        return 0  # makes websocket-client call send and recv directly, without its own selectors

    def settimeout(self, timeout: float | None) -> None:
        """Do nothing: the deadline applies."""

    def close(self) -> None:
        """Do nothing: the transport belongs to the client."""

    def send(self, request: bytes) -> int:
        self.key = _header_of(request, b"sec-websocket-key")
        try:
            self._transport.sendall(_native_order(request, self._request_line))
        except TimeoutError as exc:
            self.raised = exc
            raise
        return len(request)

    def recv(self, size: int) -> bytes:
        if self._answer is None:
            self._answer = self._read_answer()
        return self._answer.read(size)

    def values(self, name: str) -> list[str]:
        """Return the values of the answer's header *name*, unfolded and trimmed."""
        values = [] if self.headers is None else self.headers.get_all(name, [])
        return [_FOLD.sub(" ", value).strip(" \t") for value in values]

    def _read_answer(self) -> io.BytesIO:
        """Read and check the answer's head; return it in a strict form for websocket-client."""
        # imported here, because only an upgrade needs it
        import http.client

        while True:
            status_line, stream = self._read_head()
            match = _STATUS_LINE.fullmatch(status_line)
            if match is not None and match[1].startswith("1") and match[1] != "101":
                continue  # RFC 9110 §15.2: interim answers may come first
            break
        if match is None or match[1] != "101" or not status_line.startswith("HTTP/1.1"):
            raise self._refusal(
                status_line.strip() or "No server response", int(match[1]) if match else 0, stream
            )
        if b"\r" in stream.getvalue().replace(b"\r\n", b""):
            # other programs on the way may see other headers than we do
            raise UpgradeError(
                "Invalid HTTP Upgrade Header: a carriage return without its line feed", 101
            )
        try:
            self.headers = http.client.parse_headers(stream)
        except http.client.HTTPException as exc:
            raise UpgradeError(f"Invalid HTTP Upgrade Header: {exc}", 101) from None
        if self.headers.defects:
            raise UpgradeError("Invalid HTTP Upgrade Header", 101)
        # Only the headers that websocket-client checks, each in one line. It would misread repeated
        # lines, keep cookies for the whole OS process, and fail on bytes that are not UTF-8.
        lines = [
            f"{name}: {', '.join(self.values(name))}\r\n"
            for name in ("Upgrade", "Connection", "Sec-WebSocket-Accept")
            if name in self.headers
        ]
        return io.BytesIO(
            "".join(["HTTP/1.1 101 Switching Protocols\r\n", *lines, "\r\n"]).encode("latin-1")
        )

    def _refusal(self, text: str, status: int, stream: io.BytesIO) -> UpgradeError:
        """Return the server's refusal, with its headers and the beginning of its body.

        What does not arrive soon is left out.
        """
        import http.client

        headers: tuple[tuple[str, str], ...] = ()
        wanted = _MOST_BODY
        try:
            parsed = http.client.parse_headers(stream)
            headers = tuple((name, str(value)) for name, value in parsed.items())
            length = parsed.get("Content-Length", "")
            if length.isascii() and length.isdigit():
                wanted = min(wanted, int(length[:9]))
        except http.client.HTTPException as exc:
            _log.debug("the headers of a refusal cannot be read: %s", exc)
        body = self.unread
        patience = self._deadline.sooner(_BODY_MS)
        try:
            while len(body) < wanted and (data := self._transport.recv_within(4096, patience)):
                body += data
        except OSError as exc:
            if is_foreign_timeout(exc):
                self.raised = exc
                raise
            _log.debug("the body of a refusal was cut off: %s", exc)
        return UpgradeError(text, status, headers=headers, body=body[:wanted])

    def _read_head(self) -> tuple[str, io.BytesIO]:
        """Read one head; return its status line and the rest; keep later bytes in ``unread``.

        The limits apply to all heads together, so a server cannot keep us busy with interim
        answers.
        """
        head = self.unread
        while (end := _EMPTY_LINE.search(head)) is None:
            self._check_size(head)
            try:
                data = self._transport.recv_within(4096, self._deadline)
            except TimeoutError as exc:
                if is_foreign_timeout(exc):
                    self.raised = exc
                    raise
                text = "TimeoutError: the server did not answer the upgrade in time"
                raise UpgradeError(text, kind=FailureKind.timeout) from None
            if not data:
                raise UpgradeError(_cut_answer(head))
            head += data
        head, self.unread = head[: end.end()], head[end.end() :]
        self._check_size(head)
        self._heads += len(head)
        stream = io.BytesIO(head)
        status_line = stream.readline().decode("latin-1").rstrip("\r\n")
        return status_line, stream

    def _check_size(self, head: bytes) -> None:
        if self._heads + len(head) > self._max_head:
            raise UpgradeError(f"Invalid HTTP Upgrade Header: more than {self._max_head} bytes")


def _cut_answer(head: bytes) -> str:
    if not head:
        return "No server response"
    return "EOFError: the server closed the connection in the middle of its answer"


def _native_order(request: bytes, request_line: bytes) -> bytes:
    """Put the header lines of *request* into the order of a native client, after *request_line*."""
    lines = request.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]

    def place(line: bytes) -> int:
        name = line.partition(b":")[0].decode("latin-1").lower()
        return _ORDER.index(name) if name in _ORDER else len(_ORDER)

    return b"\r\n".join([request_line, *sorted(lines, key=place)]) + b"\r\n\r\n"


def _header_of(request: bytes, name: bytes) -> str:
    for line in request.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().decode("latin-1")
    return ""


def try_upgrade(
    transport: Transport,
    host: str,
    port: int,
    uri: str,
    protocol: WebSocketProtocol,
    headers: str,
    user_agent: str,
    timeout: int,
    settings: WebSocketProcessSettings,
) -> UpgradeResult | UpgradeError:
    """Do the handshake within *timeout* ms; return the reason for a failure instead of raising it.

    Exceptions from signal handlers are raised again.
    """
    compressed = settings.permessage_deflate and not protocol.encrypted
    try:
        return client_upgrade(
            transport,
            host,
            port,
            uri,
            protocol,
            headers,
            user_agent,
            Deadline(timeout),
            settings.max_header_bytes,
            settings.deflate_options() if compressed else None,
        )
    except UpgradeError as exc:
        return exc
    except OSError as exc:
        if is_foreign_timeout(exc):
            raise
        return UpgradeError.from_error(exc)


def client_upgrade(
    transport: Transport,
    host: str,
    port: int,
    uri: str,
    protocol: WebSocketProtocol,
    headers: str,
    user_agent: str,
    deadline: Deadline,
    max_head: int,
    deflate: PermessageDeflate | None = None,
) -> UpgradeResult:
    """Do the handshake for *protocol* on *transport*.

    Raises :class:`UpgradeError`, or ``OSError`` if the connection breaks.
    """
    # imported here: it takes 30 ms
    from websocket import WebSocket, WebSocketException

    authority = wire_authority(host, port, 443 if transport.is_tls else 80)
    asked = protocol.get_subprotocols()
    lines, named_host = _header_lines(asked, headers, user_agent)
    if deflate is not None:
        lines.append(f"Sec-WebSocket-Extensions: {deflate.offer()}")
    sock = HandshakeSocket(transport, deadline, max_head, uri)
    try:
        WebSocket().connect(  # type: ignore[no-untyped-call]
            f"{'wss' if transport.is_tls else 'ws'}://{authority}/",
            socket=sock,
            header=lines,
            suppress_origin=True,
            redirect_limit=0,
            host=named_host or authority,
        )
    except WebSocketException as exc:
        if sock.raised is not None:
            raise sock.raised from None
        _log.debug("websocket-client refused the answer: %s", exc)
        raise UpgradeError(
            "Invalid HTTP Upgrade Accept Challenge" if _is_upgraded(sock) else _NO_UPGRADE, 101
        ) from None
    return _settle(sock, protocol, asked, deflate)


def check_custom_headers(headers: str) -> None:
    """Raise ``ValueError`` for custom headers that are malformed or belong to the handshake."""
    for name, _ in split_header_lines(headers):
        if name.lower() in _ORDER and name.lower() not in ("host", "accept", "user-agent"):
            raise ValueError(f"the handshake sets the header {name!r} itself: leave it out")


def _header_lines(asked: str, headers: str, user_agent: str) -> tuple[list[str], str]:
    """Return the header lines for websocket-client, and the application's Host ('': the usual)."""
    fields = {"Accept": "*/*", "User-Agent": user_agent}
    custom = []
    host = ""
    for name, value in split_header_lines(headers):
        if name.lower() == "host":
            host = value
        elif name.title() in fields:
            fields[name.title()] = value
        else:
            custom.append(f"{name}: {value}")
    lines = [f"{name}: {value}" for name, value in fields.items()] + ["Content-Length: 0"]
    if asked:
        # not with `subprotocols=`: websocket-client would reject an answer that names none, as
        # native servers send it
        lines.append(f"Sec-WebSocket-Protocol: {asked}")
    return lines + custom, host


def _is_upgraded(sock: HandshakeSocket) -> bool:
    """Return whether the answer says that the connection is a WebSocket now.

    (websocket-client also trims characters that are not blanks.)
    """
    upgrade = [token.lower() for token in header_tokens(sock.values("upgrade"))]
    connection = [token.lower() for token in header_tokens(sock.values("connection"))]
    return "websocket" in upgrade and "upgrade" in connection


def _settle(
    sock: HandshakeSocket,
    protocol: WebSocketProtocol,
    asked: str,
    deflate: PermessageDeflate | None,
) -> UpgradeResult:
    """Check the choices in the answer against the request."""
    if not _is_upgraded(sock):
        raise UpgradeError(_NO_UPGRADE, 101)
    # checked again: websocket-client ignores the case, which matters in base64
    if sock.values("sec-websocket-accept") != [accept_value(sock.key)]:
        raise UpgradeError("Invalid HTTP Upgrade Accept Challenge", 101)
    chosen = sock.values("sec-websocket-protocol")
    if chosen and (len(chosen) > 1 or not asked or not protocol.set_subprotocol(chosen[0])):
        raise UpgradeError("Invalid HTTP Upgrade Sub-Protocol", 101)
    if not chosen and "," in asked:
        raise UpgradeError("Invalid HTTP Upgrade Sub-Protocol", 101)
    extensions = header_tokens(sock.values("sec-websocket-extensions"))
    protocol.compression_agreed(None)
    if extensions:
        if deflate is None:
            raise UpgradeError(
                "Invalid HTTP Upgrade ProcessHandshake: no extension was requested", 101
            )
        try:
            protocol.compression_agreed(deflate.settle(extensions))
        except ValueError as exc:
            raise UpgradeError(f"Invalid HTTP Upgrade ProcessHandshake: {exc}", 101) from None
    number = "".join(sock.values("sec-websocket-connection-id")[:1])
    known = number.isascii() and number.isdigit() and len(number) < 20
    return UpgradeResult(
        int(number) if known else 0, extensions, sock.unread, bool(chosen) or not asked
    )
