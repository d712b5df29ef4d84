"""Where a front door's server listens: arguments, checked immediately and used at each start."""

from __future__ import annotations

import ssl
from typing import Any

from ..server.listening import Place, is_ip
from ..sockets.tls_contexts import server_tls_context


class Where:
    """The place given by a server's arguments. Raises ``ValueError``/``TypeError`` for invalid
    arguments.
    """

    def __init__(
        self,
        port: int | str | None,
        address: object,
        socket: object,
        reuse_port: bool,
        unix_mode: int | None,
    ) -> None:
        whole = _whole_port(port, address)
        #: the requested place
        self.place = Place.of(whole, socket, reuse_port, unix_mode)
        self._arguments: dict[str, Any] = {
            "port": whole,
            "socket": self.place.sockets or None,
            "reuse_port": reuse_port,
            "unix_mode": unix_mode,
        }

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for a ``WebSocketServer``; raise :class:`HttpServerError` if a
        given socket is closed, e.g. at a second start.
        """
        self.place.check_open()
        return self._arguments


def _whole_port(port: int | str | None, address: object) -> int | str | None:
    """Return *port* with its *address*, in the form that ``WebSocketServer`` takes."""
    if not isinstance(address, str):
        raise TypeError(f"address must be a str, not {type(address).__name__}")
    if not address or isinstance(port, bool) or not isinstance(port, (int, str, type(None))):
        return port
    if port is None:
        return address
    if not is_ip(address):
        raise ValueError(f"{address!r} needs no port, so do not pass {port!r}")
    whole = f"[{address}]:{port}" if ":" in address.strip("[]") else f"{address}:{port}"
    return whole.replace("[[", "[").replace("]]", "]")


def tls_context(tls: Any) -> ssl.SSLContext | None:
    """Return the TLS context of a server. Raises ``TypeError`` for an invalid *tls*."""
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    if isinstance(tls, tuple) and len(tls) == 2:
        return server_tls_context(*tls)
    raise TypeError(
        "tls must be an ssl.SSLContext, or a tuple of a certificate's file and its key's, not "
        f"{type(tls).__name__}"
    )
