"""HttpServerRequest: one request and its answer, as an application sees them.

It is used for plain HTTP and for the REST protocols alike. It only holds values: the layers above
create it from what arrived, and send its contents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .logs import escaped, shown_uri
from .states import WebSocketProcessNotifyCallback

#: the content type that tells the library to send no answer (REST protocols only); mirrors
#: ``NORESPONSE_CONTENT_TYPE``
NORESPONSE_CONTENT_TYPE = "!NORESPONSE"
#: the original's pseudo status for a request without an answer; mirrors ``HTTP_CLIENTERROR``. Over
#: a WebSocket, the request certainly did not reach the other side; over plain HTTP, it may have
HTTP_CLIENTERROR = 666


_CONTENT = (bytes, str, bytearray, memoryview)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        hint = "; header lines are one str, joined by CRLF" if name.endswith("headers") else ""
        raise TypeError(f"{name} must be a str, not {type(value).__name__}{hint}")


class HttpServerRequest:
    """A request and its answer, for ``on_request`` and for callbacks to clients.

    Mirrors ``THttpServerRequest``. The ``in_…`` attributes hold the request, the ``out_…``
    attributes the answer. A handler ``on_request(ctxt) -> status`` sets the answer. If you send a
    request with ``callback()`` of a :class:`~mormot_ws.WebSocketServerRest` or
    :meth:`~mormot_ws.WebSocketProcess.notify_callback`, you find the answer there.

    Not thread-safe: use it from one thread at a time.
    """

    # misspelt names are rejected, at no cost to requests
    __slots__ = (
        "_out_content",
        "_out_content_type",
        "_out_custom_headers",
        "auth_bearer",
        "connection_id",
        "in_content",
        "in_content_type",
        "in_headers",
        "method",
        "out_error",
        "out_timed_out",
        "remote_ip",
        "url",
    )

    def __init__(
        self,
        url: str = "",
        method: str = "POST",
        in_headers: str = "",
        in_content: bytes | str = b"",
        in_content_type: str = "",
        connection_id: int = 0,
        remote_ip: str = "",
    ) -> None:
        #: the server's number of the connection
        self.connection_id = connection_id
        #: the token from ``Authorization: Bearer …`` of the request or the upgrade; '': none
        self.auth_bearer = ""
        self._out_content: bytes | str = b""
        self._out_content_type = ""
        self._out_custom_headers = ""
        #: on a request that was sent: why there is no answer; '' if there is one
        self.out_error = ""
        #: on a request that was sent: True if the answer, or the request's turn, did not come in
        #: time
        self.out_timed_out = False
        self.prepare(url, method, in_headers, in_content, in_content_type, remote_ip)

    # The answer's values are checked when they are set: later, the error could not point to the
    # function that set them.

    @property
    def out_content(self) -> bytes | str:
        """The answer's body; a ``str`` is sent as UTF-8."""
        return self._out_content

    @out_content.setter
    def out_content(self, value: bytes | str) -> None:
        if not isinstance(value, _CONTENT):
            raise TypeError(
                f"out_content is bytes or str: {type(value).__name__} cannot be sent as it is, but"
                " json.dumps(value) can"
            )
        self._out_content = value

    @property
    def out_content_type(self) -> str:
        """The media type of the answer's body, e.g. ``'application/json'``."""
        return self._out_content_type

    @out_content_type.setter
    def out_content_type(self, value: str) -> None:
        _check_text("out_content_type", value)
        self._out_content_type = value

    @property
    def out_custom_headers(self) -> str:
        """Additional header lines of the answer as ``Name: value``, joined by CRLF."""
        return self._out_custom_headers

    @out_custom_headers.setter
    def out_custom_headers(self, value: str) -> None:
        _check_text("out_custom_headers", value)
        self._out_custom_headers = value

    def prepare(
        self,
        url: str,
        method: str = "POST",
        in_headers: str = "",
        in_content: bytes | str = b"",
        in_content_type: str = "",
        remote_ip: str = "",
    ) -> HttpServerRequest:
        """Set the attributes of the request and return this object. Mirrors ``Prepare``.

        A ``str`` as *in_content* is encoded as UTF-8. Raises ``TypeError`` for values of other
        types.
        """
        _check_text("url", url)
        _check_text("method", method)
        _check_text("in_headers", in_headers)
        _check_text("in_content_type", in_content_type)
        if not isinstance(in_content, _CONTENT):
            raise TypeError(
                f"in_content must be bytes or str, not {type(in_content).__name__}; "
                "json.dumps(value) returns a str"
            )
        #: the request target, with its query; over plain HTTP it begins with '/'
        self.url = url
        self.method = method
        #: header lines as ``Name: value``, joined by CRLF; over plain HTTP with lower-case names
        self.in_headers = in_headers
        self.in_content: bytes = (
            in_content.encode("utf-8") if isinstance(in_content, str) else in_content
        )
        self.in_content_type = in_content_type
        self.remote_ip = remote_ip
        return self

    def in_header(self, name: str) -> str:
        """Return the value of the first request header *name*, ignoring case; '' if missing."""
        return header_value(self.in_headers, name)

    @property
    def host(self) -> str:
        """The request's ``Host`` header; mirrors ``Host``."""
        return self.in_header("host")

    @property
    def user_agent(self) -> str:
        """The request's ``User-Agent`` header; mirrors ``UserAgent``."""
        return self.in_header("user-agent")

    def __repr__(self) -> str:
        shown = f"{escaped(self.method[:20])} {shown_uri(self.url)}"
        return f"<HttpServerRequest #{self.connection_id} {shown}>"


#: a handler: answers a request and returns the HTTP status
OnHttpServerRequest = Callable[[HttpServerRequest], int]


def header_value(headers: str, name: str) -> str:
    """Return the trimmed value of the first header *name* in CRLF-separated *headers*.

    The case of the name is ignored. Returns '' if there is no such header.
    """
    name = name.lower()
    for line in headers.split("\r\n"):
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() == name:
            return value.strip()
    return ""


def bearer_of(authorization: str) -> str:
    """Return the token in the value of an ``Authorization`` header; '' for another scheme."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class RequestExchange(Protocol):
    """What a protocol that carries requests attaches to its connection."""

    def notify(self, request: HttpServerRequest, mode: WebSocketProcessNotifyCallback) -> int:
        """Do what :meth:`~mormot_ws.WebSocketProcess.notify_callback` says."""

    def closed(self) -> None:
        """The connection has ended: wake all threads that wait for answers. Never blocks."""

    def end(self) -> None:
        """Another protocol takes over."""

    def leaving(self) -> None:
        """This side is about to close the connection permanently. Never blocks."""
