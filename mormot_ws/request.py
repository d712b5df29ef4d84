"""HttpServerRequest: one request and its answer, as an application sees them, whether plain HTTP or
a REST frame carried them.

Values only: who makes it from what arrived, and sends what it holds, lives above. No socket, thread
or codec belongs in here.
"""

from __future__ import annotations

from collections.abc import Callable

from .logs import escaped, shown_uri

#: the content type by which an application says that no answer is to be sent (REST protocols only);
#: mirrors ``NORESPONSE_CONTENT_TYPE``
NORESPONSE_CONTENT_TYPE = "!NORESPONSE"
#: the original's pseudo status of a request without an answer: on a WebSocket one that surely did
#: not reach the other side, on plain HTTP one that perhaps did not; mirrors ``HTTP_CLIENTERROR``
HTTP_CLIENTERROR = 666


class HttpServerRequest:
    """A request and its answer, for ``on_request(ctxt) -> status`` and for calls back. Mirrors
    ``THttpServerRequest``.

    The ``in_…`` attributes are the request's. Who answers one sets the ``out_…`` attributes; who
    sends one, by :meth:`~mormot_ws.WebSocketServerRest.callback` or
    :meth:`~mormot_ws.WebSocketProcess.notify_callback`, finds the answer there.

    It belongs to one thread at a time.
    """

    # a misspelt name is refused, at no cost to the requests
    __slots__ = (
        "auth_bearer",
        "connection_id",
        "in_content",
        "in_content_type",
        "in_headers",
        "method",
        "out_content",
        "out_content_type",
        "out_custom_headers",
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
        #: the token of an ``Authorization: Bearer …`` header, of the request or of the upgrade; ''
        #: without one
        self.auth_bearer = ""
        #: the answer's body; a ``str`` is sent as UTF-8
        self.out_content: bytes | str = b""
        self.out_content_type = ""
        #: further header lines as ``Name: value``, joined by CRLF
        self.out_custom_headers = ""
        #: on a request that was sent: why there is no answer; '' when there is one
        self.out_error = ""
        #: on a request that was sent: there is no answer because it, or the request's turn, did not
        #: come in time
        self.out_timed_out = False
        self.prepare(url, method, in_headers, in_content, in_content_type, remote_ip)

    def prepare(
        self,
        url: str,
        method: str = "POST",
        in_headers: str = "",
        in_content: bytes | str = b"",
        in_content_type: str = "",
        remote_ip: str = "",
    ) -> HttpServerRequest:
        """Set the request's side, and return this object. Mirrors ``Prepare``; a ``str`` as
        *in_content* becomes UTF-8.
        """
        #: the request target, with its query; on plain HTTP it begins with '/'
        self.url = url
        self.method = method
        #: header lines as ``Name: value``, joined by CRLF; of plain HTTP with names in lower case
        self.in_headers = in_headers
        self.in_content: bytes = (
            in_content.encode("utf-8") if isinstance(in_content, str) else in_content
        )
        self.in_content_type = in_content_type
        self.remote_ip = remote_ip
        return self

    def in_header(self, name: str) -> str:
        """Return the value of the first request header *name*, whatever its case; '' when there is
        none.
        """
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


#: answers a request, and returns the HTTP status
OnHttpServerRequest = Callable[[HttpServerRequest], int]


def header_value(headers: str, name: str) -> str:
    """Return the value of the first line *name* in CRLF-separated *headers*, whatever its case,
    trimmed; '' without one.
    """
    name = name.lower()
    for line in headers.split("\r\n"):
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() == name:
            return value.strip()
    return ""


def bearer_of(authorization: str) -> str:
    """Return the token of an ``Authorization`` header's value; '' when it is of another scheme."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
