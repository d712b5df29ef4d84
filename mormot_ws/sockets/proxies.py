"""Proxies: which one a connection goes through (argument or environment), and the way through it,
by ``http.client`` and python-socks.

The socket that comes out of it ends at the target; TLS and WebSocket are for those above. No thread
belongs in here.
"""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from .deadline import Deadline
from .transport import DeadlineSocket, Transport

#: dials the proxy itself: f(host, port) -> a connected socket
Dial = Callable[[str, int], socket.socket]

_SCHEMES = ("http", "socks4", "socks4a", "socks5", "socks5h")


def check_proxy(url: str) -> str:
    """Return *url* if it names a proxy that can be used, else raise ``ValueError``."""
    try:
        parts = urlsplit(url)
        # .port raises ValueError for what is no port
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "a proxy is like http://user:password@host:port or socks5://host:port, not "
            f"{_without_password(url)!r}"
        )
    return url


def proxy_from_environment(host: str, tls: bool) -> str:
    """Return the proxy that ``https_proxy`` (with TLS) or ``http_proxy``, else ``all_proxy``, names
    for *host*; '' for none.

    ``no_proxy`` is obeyed, and loopback addresses never go through a proxy.
    """
    if _is_loopback(host):
        return ""
    # here, as below: most programs use no proxy, and need not load what that takes
    import urllib.request

    proxies = urllib.request.getproxies()
    url = proxies.get("https" if tls else "http") or proxies.get("all") or ""
    if not url or urllib.request.proxy_bypass(host):
        return ""
    return url if "://" in url else f"http://{url}"


def open_through_proxy(
    url: str, host: str, port: int, dial: Dial, deadline: Deadline
) -> socket.socket:
    """Return a socket connected to *host* and *port* through the proxy *url*, which *dial*
    reaches. Raises ``OSError``.
    """
    try:
        check_proxy(url)
    except ValueError as exc:
        # it came from the environment: no mistake of the caller's
        raise OSError(str(exc)) from None
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme != "http" and importlib.util.find_spec("python_socks") is None:
        raise OSError(
            f"proxy {_without_password(url)}: python-socks is missing: pip install "
            "'mormot_ws[proxy]'"
        )
    try:
        sock = dial(parts.hostname, parts.port or (8080 if parts.scheme == "http" else 1080))
    except OSError as exc:
        # of the same kind, but it must not read as if the server had refused
        raise type(exc)(f"proxy {_without_password(url)}: {exc}") from None
    talk = DeadlineSocket(Transport(sock), deadline)
    credentials = unquote(parts.username or ""), unquote(parts.password or "")
    try:
        if parts.scheme == "http":
            _connect_by_http(talk, parts.hostname, credentials, host, port)
        else:
            _connect_by_socks(talk, parts.scheme, credentials, host, port)
    except TimeoutError:
        raise TimeoutError(f"proxy {_without_password(url)}: timed out") from None
    except OSError as exc:
        raise OSError(f"proxy {_without_password(url)}: {exc}") from None
    return sock


def _connect_by_http(
    talk: DeadlineSocket, proxy: str, credentials: tuple[str, str], host: str, port: int
) -> None:
    """Ask an HTTP proxy for a tunnel, by ``http.client``."""
    import http.client

    class Tunnel(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = talk
            self._tunnel()  # type: ignore[attr-defined]  # what its own connect() does

    headers = {}
    if credentials[0]:
        token = base64.b64encode(":".join(credentials).encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {token}"
    connection = Tunnel(proxy)
    connection.set_tunnel(host, port, headers)
    if ":" in host:
        # before Python 3.12 it forgets the brackets
        connection._tunnel_host = f"[{host}]"  # type: ignore[attr-defined]
    try:
        connection.connect()
    except http.client.HTTPException as exc:
        raise OSError(f"{type(exc).__name__}: {exc}") from None


def _connect_by_socks(
    talk: DeadlineSocket, scheme: str, credentials: tuple[str, str], host: str, port: int
) -> None:
    """Ask a SOCKS proxy for a connection, by python-socks."""
    from python_socks import ProxyError, ProxyType  # here: an extra, and rarely used
    from python_socks.sync import Proxy

    kind = ProxyType.SOCKS4 if scheme.startswith("socks4") else ProxyType.SOCKS5
    name, password = credentials
    # python-socks asks the "proxy before the proxy" for its socket: ours is connected to the proxy
    # already
    forward: Any = _Connected(talk)
    proxy = Proxy(
        kind,
        "proxy",
        0,
        username=name or None,
        password=password or None,
        rdns=True,
        forward=forward,
    )
    try:
        proxy.connect(host, port)
    except ProxyError as exc:
        raise OSError(str(exc)) from None


class _Connected:
    """Stands where python-socks expects a proxy to go through first."""

    def __init__(self, talk: DeadlineSocket) -> None:
        self._talk = talk

    def connect(self, **_: Any) -> DeadlineSocket:
        return self._talk


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
