"""IP addresses as the limits per address count them.

Text in, text out: no socket and no table in here.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network


def address_key(ip: str) -> str:
    """Return what the limits per address count *ip* as: an IPv6 address as its /64, an IPv4 one in
    its IPv6 form as itself, and text that is no address as it is.
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
