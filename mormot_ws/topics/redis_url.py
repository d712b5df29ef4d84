"""The URL of Redis: parsed, and shown without its password. This module uses no connections."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from ..core.addresses import shown_target

_PORT = 6379


class RedisUrl(NamedTuple):
    """The address of Redis. Only :attr:`shown` may be logged."""

    host: str
    port: int
    database: int
    tls: bool
    user: str
    password: str

    @property
    def shown(self) -> str:
        """The address as shown in logs, errors and reprs."""
        return f"Redis at {shown_target(self.host, self.port)}"

    def __repr__(self) -> str:
        return f"RedisUrl(<{self.shown}>)"


def parse_redis_url(url: object) -> RedisUrl:
    """Parse ``redis://[[user]:password@]host[:port][/database]``.

    ``rediss://`` uses TLS, ``unix:///path[?db=database]`` a Unix socket. Raises ``TypeError`` or
    ``ValueError`` for an invalid URL, without showing its password.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        port = parts.port
    # its text may contain the password
    except ValueError:
        raise ValueError("invalid url: write special characters in the password as %XX") from None
    wanted = "redis://host:port/0, rediss://… with TLS, or unix:///path?db=0"
    database, options = parts.path.strip("/"), parse_qs(parts.query)
    host = unquote(parts.hostname or "")
    if parts.scheme == "unix" and parts.path.strip("/"):
        host, database = f"unix:{unquote(parts.path)}", options.pop("db", ["0"])[0]
    elif parts.scheme not in ("redis", "rediss") or not host:
        raise ValueError(f"url must be {wanted}; it begins with {parts.scheme + '://':.20}")
    if options or parts.fragment:
        raise ValueError(f"url must be {wanted}, without {', '.join(options) or 'a fragment'}")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError(f"the database in the url must be a number, as in {wanted}")
    return RedisUrl(
        host,
        _PORT if port is None else port,
        int(database or 0),
        parts.scheme == "rediss",
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )
