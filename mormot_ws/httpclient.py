"""A plain HTTP/1.1 request on a client's connection, by ``http.client`` on our transport."""

from __future__ import annotations

from dataclasses import dataclass, field

from .deadline import Deadline
from .handshake import split_header_lines
from .sockets import CrtSocket
from .transport import DeadlineSocket, Transport

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
    import http.client  # here: it takes 10 ms, and most clients upgrade without a plain request

    headers = {"Connection": "Keep-Alive" if keep_alive else "Close"}
    if data_type:
        headers["Content-Type"] = data_type
    headers.update(split_header_lines(header))
    connection = http.client.HTTPConnection(client.host, client.port)
    connection.sock = DeadlineSocket(transport, Deadline(client.timeout))
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
