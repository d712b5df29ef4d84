"""A plain HTTP/1.1 request on a client's connection, by ``http.client`` on our transport."""

from __future__ import annotations

import http.client
import io
from dataclasses import dataclass, field
from typing import Any

from .deadline import Deadline
from .handshake import split_header_lines
from .masking import Buffer
from .sockets import CrtSocket
from .transport import Transport

#: the original's pseudo status for a request that could not be sent or got no answer
HTTP_CLIENT_ERROR = 666


@dataclass
class HttpAnswer:
    """The answer to a plain request."""

    status: int = 0
    content: bytes = b""
    content_type: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    #: True when the connection can be used again
    keep_alive: bool = False
    #: why there is no answer, '' when there is one
    error: str = ""


class _Input(io.RawIOBase):
    """What ``http.client`` reads its answer from."""

    def __init__(self, transport: Transport, deadline: Deadline) -> None:
        self._transport = transport
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._transport.recv_within(len(buffer), self._deadline)
        buffer[: len(data)] = data
        return len(data)


class _Socket:
    """What ``http.client`` takes for its socket; the transport stays the client's."""

    def __init__(self, transport: Transport, deadline: Deadline) -> None:
        self._transport = transport
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Input(self._transport, self._deadline))

    def sendall(self, data: Buffer) -> None:
        self._transport.sendall(data)

    def close(self) -> None:
        """The client closes its transport itself."""


def http_request(
    client: CrtSocket,
    transport: Transport,
    url: str,
    method: str,
    keep_alive: int,
    header: str,
    data: bytes,
    data_type: str,
) -> HttpAnswer:
    """Send a request on *transport* and return its answer. Raises ``ValueError`` for headers that are none."""
    headers = {"Connection": "Keep-Alive" if keep_alive else "Close"}
    if data_type:
        headers["Content-Type"] = data_type
    headers.update(split_header_lines(header))
    connection = http.client.HTTPConnection(client.host, client.port)
    connection.sock = _Socket(transport, Deadline(client.timeout))
    connection.auto_open = 0
    try:
        connection.request(method or "GET", url if url.startswith("/") else f"/{url}", data or None, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        return HttpAnswer(status=HTTP_CLIENT_ERROR, error=f"{type(exc).__name__}: {exc}")
    return HttpAnswer(
        answer.status, content, answer.getheader("Content-Type", ""), answer.getheaders(), not answer.will_close
    )
