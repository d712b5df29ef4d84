"""Addresses of peers and servers, as text: IP addresses as the limits count them, Unix sockets.

Text in, text out: no socket or table belongs in here.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from urllib.parse import quote

#: stands for the IP address of a peer on a Unix socket, which has none; nginx uses the same text
UNIX_PEER = "unix:"
_UNIX = "unix:"


def address_key(ip: str) -> str:
    """Return the key under which the limits per address count *ip*: an IPv6 address as its /64, an
    IPv4 address in IPv6 form as IPv4, and any other text unchanged.
    """
    if ":" not in ip:
        return ip
    try:
        address = IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))


def is_unix(address: str) -> bool:
    """Return whether *address* is that of a Unix socket, ``unix:/path`` or ``unix:@name``."""
    return address[:5].lower() == _UNIX


def unix_name(address: str) -> str:
    """Return the name to which the Unix socket at *address* is bound: the path in ``unix:/path``,
    or ``'\\0name'`` for ``unix:@name``, a Linux name that is not in any directory.

    ``unix:///path`` is the same as ``unix:/path``. Raises ``ValueError`` for anything else.
    """
    name = address[len(_UNIX) :]
    if not is_unix(address) or not name.removeprefix("@") or "\0" in name or name[-1] == "/":
        raise ValueError(f"a Unix socket is written 'unix:/path' or 'unix:@name', not {address!r}")
    if name[0] == "@":
        return f"\0{name[1:]}"
    return f"/{name.lstrip('/')}" if name[:2] == "//" else name


def unix_address(name: str | bytes) -> str:
    """Return the address, ``unix:/path`` or ``unix:@name``, for the name of a Unix socket."""
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    return f"{_UNIX}@{text[1:]}" if text[:1] == "\0" else f"{_UNIX}{text}"


def shown_target(host: str, port: int) -> str:
    """Return where a client connects, in the form for logs and reprs."""
    return host if is_unix(host) else f"{host}:{port}"


def websocket_uri(host: str, port: int, resource: str, tls: bool) -> str:
    """Return the URI of *resource* on *host* and *port*; for a Unix socket that is
    ``ws+unix:/path:/resource``.
    """
    scheme = "wss" if tls else "ws"
    if is_unix(host):
        return f"{scheme}+unix:{quote(host[len(_UNIX) :], safe='/@')}:/{resource}"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{resource}"
