"""ProxyHeader: the header of the PROXY protocol, versions 1 and 2.

With it, a load balancer that forwards TCP says whose connection it is. It is the first thing on a
connection, before TLS. The reader is fed with bytes as they arrive, and takes none after it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from .addresses import UNIX_PEER

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1 = b"PROXY "
#: the most bytes of a header of version 1, with its line end
_V1_MOST = 107
#: the most bytes of a header of version 2 after its first 16: more does not make sense
_V2_MOST = 4096
_V2_HEAD = 16
#: bytes of the addresses and ports, by family: IPv4, IPv6, Unix sockets
_V2_LEAST = {1: 12, 2: 36, 3: 216}


class ProxyHeaderError(ValueError):
    """Raised for bytes that are not a header of the PROXY protocol; the text says why."""


class ProxyHeader:
    """Reads one header."""

    __slots__ = ("_got", "complete", "source")

    def __init__(self) -> None:
        self._got = b""
        #: True once the whole header was taken
        self.complete = False
        #: the client's IP address; ``unix:`` for a Unix socket; '': the connection is the
        #: balancer's own, or the balancer does not know the address
        self.source = ""

    @property
    def begun(self) -> bool:
        """True once a byte was taken."""
        return bool(self._got)

    def take(self, seen: bytes) -> int:
        """Take the part of *seen*, the next bytes, that belongs to the header; return its length in
        bytes. It is all of them until the header is :attr:`complete`.

        Raises :class:`ProxyHeaderError`.
        """
        before = len(self._got)
        whole = self._got + seen
        if whole[: len(_SIGNATURE)] == _SIGNATURE[: len(whole)]:
            end = self._end_of_v2(whole)
        elif whole[: len(_V1)] == _V1[: len(whole)]:
            end = self._end_of_v1(whole)
        else:
            raise ProxyHeaderError("the connection does not begin with a PROXY header")
        self._got = whole[:end]
        return len(self._got) - before

    def _end_of_v1(self, whole: bytes) -> int:
        line, found, _ = whole[:_V1_MOST].partition(b"\r\n")
        if not found:
            if len(whole) >= _V1_MOST:
                raise ProxyHeaderError(f"the PROXY line has more than {_V1_MOST} bytes")
            return len(whole)
        self.source = _source_of_v1(line)
        self.complete = True
        return len(line) + 2

    def _end_of_v2(self, whole: bytes) -> int:
        if len(whole) < _V2_HEAD:
            return len(whole)
        length = int.from_bytes(whole[14:16], "big")
        if length > _V2_MOST:
            raise ProxyHeaderError(f"the PROXY header has {length} bytes, more than {_V2_MOST}")
        end = _V2_HEAD + length
        if len(whole) >= end:
            self.source = _source_of_v2(whole[:end])
            self.complete = True
        return min(end, len(whole))


def _source_of_v1(line: bytes) -> str:
    """Return the client's address in a *line* without its end."""
    family, *fields = line[len(_V1) :].split(b" ")
    if family == b"UNKNOWN":
        return ""
    if family not in (b"TCP4", b"TCP6") or len(fields) != 4:
        raise ProxyHeaderError("the PROXY line is malformed")
    kind = IPv4Address if family == b"TCP4" else IPv6Address
    try:
        source, _ = [kind(field.decode("ascii")) for field in fields[:2]]
    except ValueError:
        raise ProxyHeaderError(f"the PROXY line has no {family.decode()} addresses") from None
    if not all(_is_port(field) for field in fields[2:]):
        raise ProxyHeaderError("the PROXY line has no ports")
    return _text_of(source)


def _is_port(field: bytes) -> bool:
    return field.isdigit() and str(int(field[:6])).encode() == field and int(field) < 65536


def _source_of_v2(header: bytes) -> str:
    """Return the client's address in a whole *header*."""
    version, command = divmod(header[12], 16)
    family, transport = divmod(header[13], 16)
    if version != 2 or command > 1 or family > 3 or transport > 2:
        raise ProxyHeaderError("the PROXY header has an unknown version, command or family")
    # LOCAL: the balancer's own connection, a check for example
    if command == 0 or family == 0:
        return ""
    if transport == 2:
        raise ProxyHeaderError("the PROXY header is for a datagram")
    if len(header) - _V2_HEAD < _V2_LEAST[family]:
        raise ProxyHeaderError("the PROXY header is too short for its addresses")
    if family == 3:
        return UNIX_PEER
    if family == 1:
        return _text_of(IPv4Address(header[16:20]))
    return _text_of(IPv6Address(header[16:32]))


def _text_of(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
