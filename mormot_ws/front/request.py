"""Request: the HTTP request of a peer's upgrade, or of a plain HTTP client.

Values only: no socket or thread belongs in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar
from urllib.parse import parse_qsl

from ..logs import escaped, shown_uri
from .attributes import FixedAttributes


class Headers(Mapping[str, str]):
    """The headers of a request, case-insensitive; if a header is repeated, its first value."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = [(name.lower(), value) for name, value in pairs]

    def __getitem__(self, name: str) -> str:
        wanted = name.lower()
        for key, value in self._pairs:
            if key == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    def __len__(self) -> int:
        return len(dict(self._pairs))

    def get_all(self, name: str) -> list[str]:
        """Return the values of all headers *name*."""
        wanted = name.lower()
        return [value for key, value in self._pairs if key == wanted]

    def __repr__(self) -> str:
        # the values may be tokens
        return f"<Headers {', '.join(map(escaped, self))}>"


class Request(FixedAttributes):
    """An HTTP request: that of a peer's upgrade, or a plain one."""

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "args": "query",
        "cookies": "headers.get('cookie')",
        "data": "body",
        "get_json": "json.loads(request.body)",
        "host": "headers.get('host')",
        "json": "json.loads(request.body)",
        "text": "use body, which is bytes",
        "token": "bearer",
        "url": "uri",
    }

    __slots__ = ("bearer", "body", "headers", "method", "path", "query", "remote_ip", "uri")

    def __init__(
        self,
        method: str,
        uri: str,
        headers: Iterable[tuple[str, str]],
        bearer: str = "",
        remote_ip: str = "",
        body: bytes = b"",
    ) -> None:
        #: ``'GET'`` for an upgrade
        self.method: str = method
        #: the path with its query, e.g. ``'/chat?room=7'``
        self.uri: str = uri
        path, _, query = uri.partition("?")
        #: the path alone
        self.path: str = path
        #: the parameters of the query, decoded; if one is repeated, its last value
        self.query: dict[str, str] = dict(parse_qsl(query, keep_blank_values=True))
        #: the headers, case-insensitive
        self.headers: Headers = Headers(headers)
        #: the token of ``Authorization: Bearer …``; '' without one
        self.bearer: str = bearer
        #: the client's IP address, ``'unix:'`` on a Unix socket; behind a trusted proxy, the
        #: address that the proxy reports
        self.remote_ip: str = remote_ip
        #: the body of a plain request
        self.body: bytes = body

    def __repr__(self) -> str:
        return f"<Request {escaped(self.method)} {shown_uri(self.uri)}>"
