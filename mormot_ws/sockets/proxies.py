"""Proxies: finds the proxy of a connection (argument or environment), and connects through it.

HTTP CONNECT uses h11, SOCKS uses python-socks. The resulting socket ends at the target; the layers
above add TLS and WebSocket.
"""

from __future__ import annotations

import base64
import importlib.util
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from ..core.names import dialled_host, wire_authority, wire_host
from ..logs import escaped, get_logger
from .deadline import Deadline, is_foreign_timeout, timed_out
from .no_proxy import as_address, is_left_out
from .transport import DeadlineSocket, Transport

_log = get_logger("mormot_ws.sockets")

#: dials the proxy itself: f(host, port) -> a connected socket
Dial = Callable[[str, int], Transport]

#: the schemes and their default ports; GNOME exports ``socks``
_PORTS = {"http": 8080, **dict.fromkeys(("socks", "socks5", "socks5h", "socks4", "socks4a"), 1080)}
_PLACE = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d{0,5}))?")
#: the most bytes of a proxy's answer, including interim answers
_MOST_ANSWER = 16384


class ProxyError(OSError):
    """A proxy refused the connection, or its answer was invalid."""

    def __init__(
        self, text: str, http_status: int = 0, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(escaped(text))
        #: the status of an HTTP proxy's answer, 407 for wrong credentials; 0: there was none
        self.http_status = http_status
        #: the headers of that answer
        self.headers = headers


@dataclass(frozen=True)
class ProxyUrl:
    """The parts of a proxy's URL. The credentials are still percent-encoded."""

    scheme: str
    host: str
    port: int
    user: str
    password: str

    @classmethod
    def parse(cls, url: str) -> ProxyUrl:
        """Return the parts of *url*; raise ``ValueError`` if it is not the URL of a proxy.

        The last ``@`` ends the credentials: passwords may contain ``#``, ``/`` and ``@``, encoded
        or not.
        """
        if any(c < " " or c == "\x7f" for c in url):
            raise ValueError("a proxy's URL must not have control characters: percent-encode them")
        scheme, mark, rest = url.partition("://")
        credentials, _, place = rest.rpartition("@")
        user, _, password = credentials.partition(":")
        scheme = scheme.lower()
        match = _PLACE.fullmatch(re.split(r"[/?#]", place, maxsplit=1)[0])
        host = "" if match is None else match[1]
        port = int(match[2] or _PORTS.get(scheme, 0)) if match is not None else 0
        if not mark or scheme not in _PORTS or not host or not 0 < port < 65536:
            raise ValueError(
                "a proxy must be like http://user:password@host:port or socks5://host:port, not "
                f"{_without_password(url)!r}"
            )
        dialled_host(host)
        return cls(scheme, host, port, user, password)


def check_proxy(url: str) -> str:
    """Return *url* if it names a usable proxy; otherwise raise ``ValueError``."""
    ProxyUrl.parse(url)
    return url


def proxy_from_environment(host: str, tls: bool, port: int = 0) -> str:
    """Return the environment's proxy for *host* and *port*; '': none.

    It is in ``https_proxy`` (with TLS) or ``http_proxy``, or else in ``all_proxy``. ``no_proxy`` is
    obeyed, and loopback addresses never use a proxy.
    """
    try:
        name = wire_host(host).lower()
    except ValueError:
        # the host is unreachable anyway; connecting will report why
        return ""
    if _is_loopback(name):
        return ""
    # imported here: most programs use no proxy
    import urllib.request

    proxies = urllib.request.getproxies()
    url = proxies.get("https" if tls else "http") or proxies.get("all") or ""
    if not url or is_left_out(name, port, proxies.get("no", "")):
        return ""
    if not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(name):
        # the system's settings, on macOS and Windows
        return ""
    return url if "://" in url else f"http://{url}"


def open_through_proxy(
    url: str, host: str, port: int, dial: Dial, deadline: Deadline
) -> socket.socket:
    """Return a socket connected to *host* and *port* through the proxy *url*.

    *dial* connects to the proxy; only the socket of its result is used further. Raises
    ``OSError``, or :class:`ProxyError` with the proxy's status.
    """
    try:
        proxy = ProxyUrl.parse(url)
        target = wire_host(host)
    except ValueError as exc:
        # it came from the environment or was set later, so it is not the caller's mistake
        raise OSError(str(exc)) from None
    shown = _without_password(url)
    if proxy.scheme != "http" and importlib.util.find_spec("python_socks") is None:
        raise OSError(f"proxy {shown}: python-socks is missing: pip install 'mormot_ws[proxy]'")
    try:
        transport = dial(proxy.host, proxy.port)
    except TimeoutError as exc:
        if is_foreign_timeout(exc):
            raise
        raise timed_out(f"proxy {shown}: {exc}") from None
    except OSError as exc:
        # the same type, but the text must not look as if the server had refused
        raise type(exc)(f"proxy {shown}: {exc}") from None
    talk = DeadlineSocket(transport, deadline)
    try:
        if proxy.scheme == "http":
            connect_by_http(talk, proxy, wire_authority(host, port))
        else:
            connect_by_socks(talk, proxy, target, port)
    except ProxyError as exc:
        raise ProxyError(f"proxy {shown}: {exc}", exc.http_status, exc.headers) from None
    except TimeoutError as exc:
        if is_foreign_timeout(exc):
            raise
        raise timed_out(f"proxy {shown}: timed out") from None
    except OSError as exc:
        raise OSError(f"proxy {shown}: {exc}") from None
    finally:
        transport.release()
    return transport.sock


def connect_by_http(talk: DeadlineSocket, proxy: ProxyUrl, authority: str) -> None:
    """Ask an HTTP proxy for a tunnel to *authority*. Raises ``OSError``."""
    # imported here, so that clients without a proxy do not load it
    import h11

    headers = [("Host", authority)]
    if proxy.user or proxy.password:
        pair = unquote_to_bytes(proxy.user) + b":" + unquote_to_bytes(proxy.password)
        headers.append(("Proxy-Authorization", f"Basic {base64.b64encode(pair).decode()}"))
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_ANSWER)
    request = h11.Request(method="CONNECT", target=authority, headers=headers)
    talk.sendall((machine.send(request) or b"") + (machine.send(h11.EndOfMessage()) or b""))
    line = b""
    for _ in range(_MOST_ANSWER):
        # byte by byte, because the bytes after the answer come from the server
        byte = talk.recv(1)
        if not byte:
            raise ProxyError("the connection ended before the answer was complete")
        line += byte
        if byte != b"\n":
            continue
        machine.receive_data(line)
        line = b""
        try:
            answer = machine.next_event()
        except h11.RemoteProtocolError as exc:
            raise ProxyError(f"no HTTP answer: {exc}") from None
        if isinstance(answer, h11.Response):
            if 200 <= answer.status_code < 300:
                return
            raise _refusal(answer)
    raise ProxyError(f"its answer has more than {_MOST_ANSWER} bytes")


def _refusal(answer: Any) -> ProxyError:
    reason = answer.reason.decode("latin-1")
    return ProxyError(
        f"Tunnel connection failed: {answer.status_code} {reason}".rstrip(),
        answer.status_code,
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers),
    )


def connect_by_socks(talk: DeadlineSocket, proxy: ProxyUrl, host: str, port: int) -> None:
    """Ask a SOCKS proxy for a connection, using python-socks. Raises ``OSError``."""
    from python_socks import ProxyError as SocksError
    from python_socks import ProxyType
    from python_socks.sync import Proxy

    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    # python-socks asks a "proxy before the proxy" for its socket; ours is already connected to the
    # proxy
    forward: Any = _Connected(talk)
    library = Proxy(
        kind,
        "proxy",
        0,
        username=unquote(proxy.user) or None,
        password=unquote(proxy.password) or None,
        rdns=True,
        forward=forward,
    )
    try:
        library.connect(host, port)
    except OSError:
        raise
    except SocksError as exc:
        raise ProxyError(str(exc)) from None
    except Exception as exc:  # noqa: BLE001
        # python-socks did not expect this answer or these credentials; the text may show them
        _log.debug("python-socks raised %s", type(exc).__name__)
        raise ProxyError(
            f"no SOCKS answer, or unusual credentials ({type(exc).__name__})"
        ) from None


class _Connected:
    """Replaces the first of two proxies in python-socks."""

    def __init__(self, talk: DeadlineSocket) -> None:
        self._talk = talk

    def connect(self, **_: Any) -> DeadlineSocket:
        return self._talk


def _is_loopback(name: str) -> bool:
    address = as_address(name)
    return name == "localhost" if address is None else address.is_loopback


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    place = re.split(r"[/?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    name, colon, port = place.rpartition(":")
    if colon and port and not port.isdigit() and "]" not in port:
        # without an '@' this may be a password
        place = f"{name}:…"
    return f"{scheme}{mark}{place}"
