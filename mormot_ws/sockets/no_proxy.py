"""``no_proxy``: the hosts for which the environment's proxy is not used, interpreted as by curl."""

from __future__ import annotations

import ipaddress
import re
from fnmatch import fnmatchcase

from ..core.names import wire_host

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_left_out(host: str, port: int, no_proxy: str) -> bool:
    """Return whether *no_proxy* has an entry for *host* and *port*.

    :param host: the host in the form of :func:`wire_host`, in lower case.
    :param port: the port; 0: an entry for any port matches.
    :param no_proxy: entries separated by commas or blanks. An entry is a name, which includes its
        subdomains, or an IP address or network (``10.0.0.0/8``); ``*`` matches any characters; with
        ``:port`` it is only for that port.
    """
    address = as_address(host)
    return any(
        _matches(entry, host, address, port) for entry in re.split(r"[,\s]+", no_proxy) if entry
    )


def _matches(entry: str, host: str, address: _Address | None, port: int) -> bool:
    pattern, wanted = _without_port(entry)
    if wanted and port and wanted != port:
        return False
    if pattern == "*":
        return True
    if address is not None:
        return _has_address(pattern, address) or ("*" in pattern and fnmatchcase(host, pattern))
    try:
        # international names are compared in one form; '*' stays
        name = wire_host(pattern.lower()).removesuffix(".")
    except ValueError:
        return False
    if "*" in name:
        return fnmatchcase(host, name)
    name = name.lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _without_port(entry: str) -> tuple[str, int]:
    """Return an *entry* without brackets and port, and its port; 0 if it has none."""
    match = re.fullmatch(r"(?:\[([^\]]*)\](/\d+)?|([^:]*))(?::(\d{1,5}))?", entry)
    if match is None:
        # an IPv6 address without brackets
        return entry, 0
    inner, length, name, port = match.groups()
    return f"{inner}{length or ''}" if inner is not None else name, int(port or 0)


def _has_address(pattern: str, address: _Address) -> bool:
    try:
        network = ipaddress.ip_network(pattern.partition("%")[0], strict=False)
    except ValueError:
        return False
    return address in network


def as_address(host: str) -> _Address | None:
    """Return *host* as an IP address; None if it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
