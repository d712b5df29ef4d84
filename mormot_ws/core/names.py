"""Host names and resources, as people write them and as they are sent. No I/O."""

from __future__ import annotations

import importlib
import re
from ipaddress import IPv6Address
from types import ModuleType
from urllib.parse import quote

from .addresses import is_unix, unix_name

_LOCAL = "localhost"
#: the characters of a name once it is ASCII: nothing that separates the parts of a URI
_ASCII_NAME = re.compile(r"[!$&'()*+,.;=_~0-9A-Za-z-]+")
#: the name or the number of a network interface
_ZONE = re.compile(r"[!$&'()*+,.:;=_~0-9A-Za-z-]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
#: IDNA 2003 turns these into other letters, or drops them, which would lead to another host
_DEVIATIONS = frozenset("\xdf\u1e9e\u03c2\u200c\u200d")


def plain_host(host: str) -> str:
    """Return *host* without the brackets and the encoded ``%`` that a URI requires around an IPv6
    address with a zone: ``fe80::1%eth0`` for ``[fe80::1%25eth0]``. Raises ``ValueError``.
    """
    if host[:1] == "[" or host[-1:] == "]":
        inner = host[1:-1]
        if f"[{inner}]" != host or ":" not in inner:
            raise ValueError(f"brackets are for an IPv6 address, not {host!r}")
        host = inner
    address, mark, zone = host.partition("%")
    if mark and ":" in address and zone.startswith("25") and len(zone) > 2:
        zone = zone[2:]
    return f"{address}{mark}{zone}"


def dialled_host(host: str) -> str:
    """Return *host* as it is looked up: in ASCII (IDNA), with its zone, and with a dot at its end
    that avoids search domains. Raises ``ValueError``.
    """
    host = plain_host(host)
    if ":" in host:
        address, mark, zone = host.partition("%")
        if mark and not _ZONE.fullmatch(zone):
            raise ValueError(f"{host!r} has no zone after its '%'")
        # raises ValueError as well
        IPv6Address(address)
        return host
    name = host if host.isascii() else _to_ascii(host)
    if not _ASCII_NAME.fullmatch(name):
        raise ValueError(f"{host!r} is not a host name")
    return name


def wire_host(host: str) -> str:
    """Return *host* as it is sent: in ``Host``, in SNI, to a proxy, and as it is checked against
    the certificate. It has no dot at its end and no zone, which only has a meaning on this machine
    (RFC 6874 §4); for a Unix socket it is ``localhost``. Raises ``ValueError``.
    """
    if is_unix(host):
        unix_name(host)
        return _LOCAL
    name = dialled_host(host)
    if ":" in name:
        return name.partition("%")[0]
    return name.removesuffix(".") or name


def wire_authority(host: str, port: int, default_port: int = 0) -> str:
    """Return ``host:port`` for a request, without the port if it is the scheme's default.
    Raises ``ValueError``.
    """
    name = wire_host(host)
    if is_unix(host):
        return name
    literal = f"[{name}]" if ":" in name else name
    return literal if port == default_port else f"{literal}:{port}"


def wire_resource(uri: str) -> str:
    """Return *uri*, a path with its query, with everything that is not ASCII percent-encoded as
    UTF-8; the rest stays unchanged. Raises ``ValueError``.
    """
    if uri.isascii():
        return uri
    try:
        return _NOT_ASCII.sub(lambda match: quote(match[0], safe=""), uri)
    except UnicodeEncodeError:
        # not shown: it may contain a token
        raise ValueError("a URI must not contain lone surrogates") from None


def _to_ascii(name: str) -> str:
    """Return the DNS form of an international *name*, using the package idna or else the standard
    library.
    """
    library = _idna()
    if library is not None:
        try:
            # as browsers do (UTS 46, nontransitional)
            return str(library.encode(name, uts46=True).decode("ascii"))
        except ValueError as exc:
            # maybe only because of a symbol: IDNA 2008 has dropped them, browsers have not
            if not _DEVIATIONS.isdisjoint(name):
                raise ValueError(f"{name!r} is not a host name: {exc}") from None
    elif not _DEVIATIONS.isdisjoint(name):
        raise ValueError(
            f"{name!r} needs IDNA 2008: pip install 'mormot_ws[idna]', or write it as xn--…"
        )
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise ValueError(f"{name!r} is not a host name: {exc}") from None


def _idna() -> ModuleType | None:
    """Return the package idna; None if it is not installed."""
    try:
        return importlib.import_module("idna")
    except ImportError:
        return None
