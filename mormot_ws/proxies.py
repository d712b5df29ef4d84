"""Proxies: which one a connection goes through (argument or environment), and the way through it, by python-socks."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from .deadline import Deadline

#: dials the proxy itself: f(host, port) -> a connected socket
Dial = Callable[[str, int], socket.socket]

_SCHEMES = ("http", "socks4", "socks4a", "socks5", "socks5h")


def check_proxy(url: str) -> str:
    """Return *url* if it names a proxy that can be used, else raise ``ValueError``."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(
            f"a proxy is like http://user:password@host:port or socks5://host:port, not {_without_password(url)!r}"
        )
    return url


def proxy_from_environment(host: str, tls: bool) -> str:
    """Return the proxy that ``https_proxy`` (with TLS) or ``http_proxy``, else ``all_proxy``, names for *host*; '' for none.

    ``no_proxy`` is obeyed, and loopback addresses never go through a proxy.
    """
    if _is_loopback(host):
        return ""
    proxies = urllib.request.getproxies()
    url = proxies.get("https" if tls else "http") or proxies.get("all") or ""
    if not url or urllib.request.proxy_bypass(host):
        return ""
    return url if "://" in url else f"http://{url}"


def open_through_proxy(url: str, host: str, port: int, dial: Dial, deadline: Deadline) -> socket.socket:
    """Return a socket connected to *host* and *port* through the proxy *url*, which *dial* reaches. Raises ``OSError``."""
    try:
        from python_socks import ProxyError  # here: an extra, and rarely used
        from python_socks.sync import Proxy
    except ImportError:
        raise OSError(
            f"the proxy {_without_password(url)} needs python-socks: pip install 'mormot_ws[proxy]'"
        ) from None
    parts = urlsplit(check_proxy(url))
    plain = url if parts.port is not None else _with_default_port(url)
    # python-socks asks the "proxy before the proxy" for its socket: ours dials, so that it can be interrupted
    proxy = Proxy.from_url(plain.replace("socks5h://", "socks5://"), rdns=True, forward=_Dialer(dial, deadline))
    try:
        return proxy.connect(host, port, timeout=deadline.seconds())
    except ProxyError as exc:
        raise OSError(f"proxy {_without_password(url)}: {exc}") from None


class _Dialer:
    """Stands where python-socks expects a proxy to go through first."""

    def __init__(self, dial: Dial, deadline: Deadline) -> None:
        self._dial = dial
        self._deadline = deadline

    def connect(self, dest_host: str, dest_port: int, timeout: float | None = None, **_: Any) -> socket.socket:
        sock = self._dial(dest_host, dest_port)
        sock.settimeout(self._deadline.seconds())
        return sock


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _with_default_port(url: str) -> str:
    parts = urlsplit(url)
    port = 8080 if parts.scheme == "http" else 1080
    return parts._replace(netloc=f"{parts.netloc}:{port}").geturl()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
