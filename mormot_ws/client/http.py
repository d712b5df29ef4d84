"""A client's requests and their answers, over plain HTTP/1.1 or a REST protocol.

Plain HTTP uses ``http.client`` on our transport.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.handshake import checked_header_value, split_header_lines
from ..core.names import wire_authority, wire_resource
from ..logs import escaped, shown_name
from ..process.process import WebSocketProcess
from ..request import HTTP_CLIENTERROR, HttpServerRequest, header_value
from ..sockets.crtsocket import CrtSocket
from ..sockets.deadline import Deadline, is_foreign_timeout
from ..sockets.transport import DeadlineSocket, Transport
from ..states import wscBlockWithAnswer, wscBlockWithoutAnswer, wscNonBlockWithoutAnswer

if TYPE_CHECKING:
    import http.client


@dataclass
class HttpAnswer:
    """The answer to a request."""

    status: int = 0
    content: bytes = b""
    content_type: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    #: True if the connection can be used again
    keep_alive: bool = False
    #: why there is no answer; '' if there is one
    error: str = ""


def http_request(
    client: CrtSocket,
    url: str,
    method: str,
    keep_alive: int,
    header: str,
    data: bytes,
    data_type: str,
    user_agent: str = "",
    max_answer_bytes: int = 0,
) -> HttpAnswer:
    """Send a plain HTTP request, on a new connection if there is none; return its answer.

    *max_answer_bytes* is the limit for the body; 0: none. Raises ``ValueError`` for invalid header
    lines, and for a *data_type* that a header cannot contain. An exception from a signal handler is
    raised again, and closes the connection.
    """
    headers = _headers(client, keep_alive, header, data_type, user_agent)
    client._drop_unfinished_exchange()
    error = "" if client.connected else client.reopen()
    transport = client.transport
    if transport is None:
        return HttpAnswer(HTTP_CLIENTERROR, error=error or client.last_error or "not connected")

    def send() -> HttpAnswer:
        answer = _send_on(client, transport, url, method, headers, data, max_answer_bytes)
        if not answer.keep_alive:
            client.close()
        return answer

    return client._exchanging(transport, send)


def _headers(
    client: CrtSocket, keep_alive: int, header: str, data_type: str, user_agent: str
) -> dict[str, str]:
    """Return the headers of a request."""
    headers = {"Connection": "Keep-Alive" if keep_alive else "Close", "Accept": "*/*"}
    if user_agent:
        headers["User-Agent"] = user_agent
    if data_type:
        headers["Content-Type"] = checked_header_value("data_type", data_type)
    for name, value in split_header_lines(header):
        # the application's header replaces ours, in any case
        headers = {known: text for known, text in headers.items() if known.lower() != name.lower()}
        headers[name] = value
    if not any(name.lower() == "host" for name in headers):
        authority = wire_authority(client.host, client.port, 443 if client.tls else 80)
        headers = {"Host": authority, **headers}
    return headers


def _send_on(
    client: CrtSocket,
    transport: Transport,
    url: str,
    method: str,
    headers: dict[str, str],
    data: bytes,
    max_answer_bytes: int,
) -> HttpAnswer:
    """Send a request on *transport* and return its answer, or why there is none."""
    # imported here: it takes 10 ms, and most clients upgrade without a plain request
    import http.client

    connection = http.client.HTTPConnection("server", client.port)
    connection.sock = DeadlineSocket(transport, Deadline(client.timeout))
    connection.auto_open = 0
    try:
        connection.request(
            method or "GET",
            wire_resource(url if url.startswith("/") else f"/{url}"),
            data or None,
            headers,
        )
        answer = connection.getresponse()
        content = _read_body(answer, max_answer_bytes)
    except http.client.InvalidURL:
        # the exception's text has the whole URL, whose query may contain a token
        text = "InvalidURL: percent-encode spaces and control characters in a URL"
        return HttpAnswer(status=HTTP_CLIENTERROR, error=text)
    except (OSError, http.client.HTTPException) as exc:
        if isinstance(exc, OSError) and is_foreign_timeout(exc):
            raise
        return HttpAnswer(status=HTTP_CLIENTERROR, error=escaped(f"{type(exc).__name__}: {exc}"))
    return HttpAnswer(
        answer.status,
        content,
        answer.getheader("Content-Type", ""),
        answer.getheaders(),
        not answer.will_close,
    )


#: bytes of a body that are read at a time
_BODY_READ = 1 << 16


class _AnswerTooLong(OSError):
    """Raised for an answer whose body is longer than ``max_answer_bytes``."""


def _read_body(answer: http.client.HTTPResponse, most: int) -> bytes:
    """Return the body of *answer*; raise ``OSError`` if it has more than *most* bytes.

    It reads in pieces of a fixed size, so the memory used is proportional to the body, even if the
    body is sent in many small chunks.
    """
    from http.client import IncompleteRead

    announced = answer.length or 0
    if 0 < most < announced:
        raise _AnswerTooLong(f"the answer has {announced} bytes, but max_answer_bytes is {most}")
    body = bytearray()
    while piece := answer.read1(_BODY_READ):
        body += piece
        if 0 < most < len(body):
            raise _AnswerTooLong(f"the answer has more bytes than max_answer_bytes, {most}")
    if announced and len(body) < announced:
        raise IncompleteRead(bytes(body), announced - len(body))
    return bytes(body)


#: values of the header ``Sec-WebSocket-REST``; without it a request waits for its answer
_MODES = {"WithoutAnswer": wscBlockWithoutAnswer, "NonBlocking": wscNonBlockWithoutAnswer}


def checked_body(url: str, method: str, header: str, data: bytes | str, data_type: str) -> bytes:
    """Return the body of a request; raise ``TypeError`` for parts of the wrong type."""
    for name, value in (("url", url), ("method", method), ("data_type", data_type)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not isinstance(header, str):
        raise TypeError(
            f"header must be a str with lines like 'Name: value', joined by CRLF, not"
            f" {type(header).__name__}"
        )
    if not isinstance(data, (bytes, str, bytearray, memoryview)):
        raise TypeError(
            f"data must be bytes or str, not {type(data).__name__}; json.dumps(value) returns a str"
        )
    return data.encode("utf-8") if isinstance(data, str) else data


def rest_request(
    process: WebSocketProcess, url: str, method: str, header: str, data: bytes, data_type: str
) -> HttpAnswer:
    """Send a request over the REST protocol of *process*, and return its answer.

    Raises ``ValueError`` for malformed headers.
    """
    split_header_lines(header)
    checked_header_value("data_type", data_type)
    mode = _MODES.get(header_value(header, "Sec-WebSocket-REST"), wscBlockWithAnswer)
    if process.exchange is None:
        name = shown_name(process.protocol.name)
        return HttpAnswer(
            HTTP_CLIENTERROR,
            error=f"the protocol of the WebSocket, {name!r}, does not support requests",
        )
    context = HttpServerRequest(url, method or "GET", header, data, data_type)
    status = process.notify_callback(context, mode)
    content = context.out_content
    assert isinstance(content, bytes)
    return HttpAnswer(
        status,
        content,
        context.out_content_type,
        answer_headers(context.out_custom_headers),
        keep_alive=True,
        error=context.out_error,
    )


def answer_headers(lines: str) -> list[tuple[str, str]]:
    """Return the (name, value) pairs of an answer's header *lines*, without malformed ones."""
    pairs = (line.partition(":") for line in lines.split("\r\n"))
    return [(name.strip(), value.strip()) for name, colon, value in pairs if colon]
