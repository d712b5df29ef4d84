"""The client's address, also behind reverse proxies, and the host that it requests. Pure.

``connection.py`` calls it with the header of ``settings.remote_ip_header`` (e.g. X-Real-IP).
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ..core.addresses import UNIX_PEER

_Network = IPv4Network | IPv6Network


def ip_of(sock: socket.socket, address: object) -> str:
    """Return the IP address in a socket's *address*; an IPv4-mapped one in its IPv4 form."""
    ip = str(address[0]) if isinstance(address, tuple) and address else ""
    if not ip and sock.family == getattr(socket, "AF_UNIX", None):
        return UNIX_PEER
    return ip.removeprefix("::ffff:") if "." in ip else ip


def is_trusted(ip: str, proxies: Collection[str]) -> bool:
    """Return whether *ip* is in *proxies*: addresses, networks, and ``unix:`` for Unix sockets."""
    if ip == UNIX_PEER:
        return UNIX_PEER in proxies
    address = _address(ip) if proxies else None
    if address is None:
        return False
    return any(
        address.version == network.version and address in network
        for network in _networks(tuple(proxies))
    )


def visitor(peer: str, forwarded: Sequence[str], proxies: Collection[str]) -> str:
    """Return the address of the client that *peer*, a trusted proxy, has forwarded.

    *forwarded* has the values of the forwarding header, each with one or more addresses; *peer* has
    added the last one. The result is the last address that is not in *proxies*, because the client
    may have made up those before it. Without a usable value, the result is *peer*.
    """
    found = peer
    for text in reversed([item for value in forwarded for item in value.split(",")]):
        address = _address(_without_port(text.strip()))
        if address is None:
            break
        found = str(address)
        if not is_trusted(found, proxies):
            break
    return found


def host_is_in(hosts: Sequence[str], allowed: Collection[str] | None) -> bool:
    """Return whether a request's ``Host`` is in *allowed*; None allows all.

    *hosts* are the values of that header; there must be exactly one. The case is ignored, and the
    port matters only where *allowed* has one.
    """
    if allowed is None:
        return True
    if len(hosts) != 1:
        return False
    host = hosts[0].strip().lower()
    name = _without_port(host, keep_brackets=True)
    names = {host, name, name.rstrip("."), name.strip("[]")}
    return any(item.strip().lower().rstrip(".") in names for item in allowed)


@lru_cache(maxsize=64)
def _networks(proxies: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ip_network(proxy, strict=False) for proxy in proxies if proxy != UNIX_PEER)


def _address(ip: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _without_port(text: str, keep_brackets: bool = False) -> str:
    """Return ``'192.0.2.1'`` for ``'192.0.2.1:5000'``, and ``'::1'`` for ``'[::1]:5000'``."""
    if text.startswith("["):
        inside = text[1:].partition("]")[0]
        return f"[{inside}]" if keep_brackets else inside
    return text.partition(":")[0] if text.count(":") == 1 else text
