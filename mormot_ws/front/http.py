"""HttpRoutes: which function answers which plain HTTP request, and what its result means.

No socket or thread belongs in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..core.handshake import split_header_lines
from ..request import HttpServerRequest
from ..services.values import dump_json
from .callbacks import check_callback, check_plain
from .request import Request

#: the content of an answer
Content = str | bytes | dict[str, Any] | list[Any] | None
#: what a function for HTTP returns
HttpAnswer = Content | int | tuple[int, Content] | tuple[int, Content, Mapping[str, str]]

_TEXT = "text/plain; charset=utf-8"


class HttpRoute:
    """*function*, which answers requests with one of the *methods*.

    Raises ``TypeError`` if the function accepts neither the request alone nor no argument.
    """

    def __init__(self, function: Callable[..., Any], methods: Iterable[str]) -> None:
        check_plain(function, "http")
        self.methods = [method.upper() for method in methods]
        if "GET" in self.methods:
            self.methods.append("HEAD")
        self._function = function
        try:
            check_callback(function, "http", "request")
            self._takes_request = True
        except TypeError as exc:
            try:
                check_callback(function, "http")
            except TypeError:
                raise exc from None
            self._takes_request = False

    def call(self, request: Request) -> Any:
        """Return the function's answer to *request*."""
        return self._function(request) if self._takes_request else self._function()


class HttpRoutes:
    """Routes by path. The server guards :meth:`add`."""

    def __init__(self) -> None:
        self._routes: dict[str, HttpRoute] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def add(self, path: str, route: HttpRoute) -> None:
        """Answer requests of *path* with *route*; raise ``ValueError`` if it is already in use."""
        if path in self._routes:
            raise ValueError(f"the path {path!r} already has a handler")
        self._routes[path] = route

    def answer(self, context: HttpServerRequest) -> int | None:
        """Answer the request in *context*; return the status, or None if there is no route for it.

        Raises what the function raises, and ``TypeError`` for an invalid result.
        """
        uri = context.url if context.url.startswith("/") else f"/{context.url}"
        request = Request(
            context.method,
            uri,
            split_header_lines(context.in_headers),
            context.auth_bearer,
            context.remote_ip,
            context.in_content,
        )
        route = self._routes.get(request.path)
        if route is None:
            return None
        if context.method not in route.methods:
            context.out_custom_headers = f"Allow: {', '.join(route.methods)}"
            return 405
        return _put_answer(context, route.call(request))


def _put_answer(context: HttpServerRequest, answer: Any) -> int:
    """Store *answer* in *context*; return the status."""
    headers: Mapping[str, str] = {}
    if isinstance(answer, tuple):
        if len(answer) not in (2, 3):
            raise TypeError("an http function must return (status, content[, headers])")
        status, content, *rest = answer
        headers = rest[0] if rest else {}
    elif isinstance(answer, int):
        status, content = answer, b""
    else:
        status, content = (204, b"") if answer is None else (200, answer)
    if isinstance(content, str):
        context.out_content, context.out_content_type = content, _TEXT
    elif isinstance(content, bytes):
        context.out_content = content
        context.out_content_type = "application/octet-stream" if content else ""
    elif isinstance(content, (dict, list)):
        context.out_content, context.out_content_type = dump_json(content), "application/json"
    elif content is not None:
        raise TypeError(
            "an http function must return str, bytes, a dict, a list, None or a status, not "
            f"{type(content).__name__}"
        )
    lines = []
    for name, value in headers.items():
        if name.lower() == "content-type":
            context.out_content_type = value
        else:
            lines.append(f"{name}: {value}")
    context.out_custom_headers = "\r\n".join(lines)
    return int(status)
