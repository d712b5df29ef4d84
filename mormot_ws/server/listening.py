"""Where a server listens: parses the constructor's arguments, and opens the sockets.

There is one socket per address; a port alone gets one for IPv4 and one for IPv6.
"""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import dataclass
from typing import Any

from ..core.addresses import is_unix, unix_name
from ..errors import HttpServerError
from ..sockets.systems import own_port
from .handed_over import close_all, from_descriptor, handed_over, systemd_sockets
from .listener import Listener
from .unix_file import UnixFile

#: the most connections that the kernel keeps until they are accepted
_BACKLOG = 1024
#: how many free ports are tried if one is free only for one of the two families
_PORT_TRIES = 20

#: the errors for an address family that this machine does not have
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)

_HINTS = {
    errno.EADDRINUSE: "; another program listens there; port 0 picks a free one",
    errno.EACCES: (
        "; another program is using the port, or Windows has reserved it"
        if sys.platform == "win32"
        else "; ports below 1024 need privileges"
    ),
    errno.EADDRNOTAVAIL: "; it is not an address of this machine",
}
_SHARED_HINT = "; a program listens there without reuse_port, or as another user"
_UNIX_HINTS = {
    errno.EADDRINUSE: "; another program listens there",
    errno.ENOENT: "; there is no such directory",
}

_DESCRIPTOR = "fd://"
_SYSTEMD = "systemd:"


def parse_port(port: str | int) -> tuple[str, int]:
    """Return the (address, number) of a server's *port*; raise ``ValueError`` if it is malformed.

    The forms are ``8999``, ``'8999'``, ``'127.0.0.1:8999'``, ``'[::1]:8999'`` and
    ``'[fe80::1%eth0]:8999'``; and, with the number 0, ``'unix:/path'``, ``'unix:@name'``,
    ``'fd://3'``, ``'systemd:'`` and ``'systemd:name'``.

    The address is ``''`` for a port alone: all addresses of the machine.
    """
    text = str(port).strip()
    if is_unix(text):
        unix_name(text)
        return text, 0
    if text.startswith(_SYSTEMD):
        return text, 0
    if text.startswith(_DESCRIPTOR):
        number = text.removeprefix(_DESCRIPTOR)
        if not (number.isascii() and number.isdigit() and len(number) < 8):
            raise ValueError(f"a descriptor must look like 'fd://3', not {text!r}")
        return text, 0
    address, colon, number = text.rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    if bracketed:
        address = address[1:-1]
    if (
        isinstance(port, bool)
        or not isinstance(port, (int, str))
        or (colon and not address)
        or (":" in address) != bracketed
        or set("[]").intersection(address)
    ):
        raise ValueError(
            f"port must look like '8999', 8999, 'host:8999', '[::1]:8999' or 'unix:/path',"
            f" not {port!r}; put an IPv6 address in brackets"
        )
    if not (number.isascii() and number.isdigit() and int(number) < 65536):
        if colon or number.strip("-").isdigit():
            raise ValueError(f"port must be a number up to 65535, not {number!r}")
        # the address alone, with the port as the next argument, as in most of Python
        raise ValueError(
            f"port must be a number up to 65535, or '127.0.0.1:8999' with an address, not"
            f" {number!r}: pass address and port as one argument"
        )
    return address, int(number)


def is_ip(address: str) -> bool:
    """Return whether *address* has a port, unlike that of a Unix socket or of systemd's."""
    return not is_unix(address) and not address.startswith((_SYSTEMD, _DESCRIPTOR))


@dataclass(frozen=True)
class Place:
    """Where a server is to listen: checked, but not opened yet."""

    #: what :func:`parse_port` returns; ``('', 0)`` with *sockets*
    address: str
    port: int
    #: sockets that are already listening
    sockets: tuple[socket.socket, ...] = ()
    reuse_port: bool = False
    unix_mode: int | None = None

    @property
    def is_shared(self) -> bool:
        """True if the sockets may also belong to others."""
        return bool(self.sockets) or self.address.startswith((_SYSTEMD, _DESCRIPTOR))

    @classmethod
    def of(
        cls, port: str | int | None, given: object, reuse_port: bool, unix_mode: int | None
    ) -> Place:
        """Return the place for a server's arguments; *given* is the argument ``socket``.

        Raises ``ValueError`` or ``TypeError`` for invalid arguments.
        """
        if (port is None) == (given is None):
            raise ValueError("port must be given, unless you pass socket")
        address, number = ("", 0) if port is None else parse_port(port)
        place = cls(
            address,
            number,
            () if given is None else tuple(handed_over(given)),
            bool(reuse_port),
            unix_mode,
        )
        if reuse_port and not place.is_ip:
            raise ValueError("reuse_port requires a port")
        if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise ValueError("this system cannot share a port: do not use reuse_port")
        if unix_mode is not None:
            if not is_unix(address) or unix_name(address)[0] == "\0":
                raise ValueError("unix_mode requires 'unix:/path'")
            if isinstance(unix_mode, bool) or not isinstance(unix_mode, int):
                raise TypeError(f"unix_mode must be a number like 0o660, not {unix_mode!r}")
            if not 0 <= unix_mode <= 0o777:
                raise ValueError(f"unix_mode must be octal, like 0o660, up to 0o777: {unix_mode}")
        return place

    @property
    def is_ip(self) -> bool:
        """True for a port, on one address or on all."""
        return not self.sockets and is_ip(self.address)

    def __str__(self) -> str:
        if self.sockets:
            return "a socket"
        if not self.is_ip:
            return self.address
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{shown}:{self.port}" if self.address else f"port {self.port}"

    def check_open(self) -> None:
        """Raise :class:`HttpServerError` if a given socket is closed."""
        if any(sock.fileno() < 0 for sock in self.sockets):
            raise HttpServerError("the socket is closed: a server closes its sockets when it ends")

    def open(self) -> Listener:
        """Listen there; raise :class:`HttpServerError` if that is not possible."""
        if self.sockets:
            self.check_open()
            return Listener(list(self.sockets))
        if self.is_ip:
            return Listener(listen(self.address, self.port, self.reuse_port))
        if is_unix(self.address):
            return _listen_on_unix(self.address, self.unix_mode)
        if self.address.startswith(_DESCRIPTOR):
            return Listener([from_descriptor(int(self.address.removeprefix(_DESCRIPTOR)))])
        name = self.address.removeprefix(_SYSTEMD)
        found = systemd_sockets(name or None)
        if not found:
            named = f" with the name {name!r}" if name else ""
            raise HttpServerError(f"systemd has passed no socket{named} to this process")
        return Listener(found)


def _listen_on_unix(address: str, mode: int | None) -> Listener:
    if not hasattr(socket, "AF_UNIX"):
        raise HttpServerError(f"cannot listen on {address}: this Python has no Unix sockets")
    name = unix_name(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file: UnixFile | None = None
    try:
        if name[0] == "\0":
            if sys.platform != "linux":
                raise HttpServerError(f"cannot listen on {address}: only Linux has abstract names")
            sock.bind(name)
            sock.listen(_BACKLOG)
        else:
            file = UnixFile(name)
            file.listen(sock, _BACKLOG, mode)
        return Listener([sock], file)
    except (OSError, UnicodeError) as exc:
        sock.close()
        hint = _UNIX_HINTS.get(getattr(exc, "errno", None) or 0, "")
        raise HttpServerError(f"cannot listen on {address}: {exc}{hint}") from exc
    except BaseException:
        sock.close()
        raise


def listen(address: str, port: int, reuse_port: bool = False) -> list[socket.socket]:
    """Return non-blocking listening sockets for *address*, all on one *port*; 0: any free port.

    A host name stands for all its addresses, and ``'localhost'`` for both loopback addresses. IPv6
    is left out if the machine has none. With *reuse_port*, other sockets may listen on the same
    port, and the kernel divides the connections among them. Raises :class:`HttpServerError`.
    """
    try:
        for last in range(_PORT_TRIES, 0, -1):
            try:
                return _listen_on_all(_wanted(address, port), port, reuse_port)
            except OSError as exc:
                # the port was free for the first family, but not for the second
                if exc.errno != errno.EADDRINUSE or port or last == 1:
                    raise
        raise AssertionError("not reached")
    except (OSError, UnicodeError) as exc:
        number = getattr(exc, "errno", None) or 0
        hint = _HINTS.get(number, "")
        if reuse_port and number == errno.EADDRINUSE:
            hint = _SHARED_HINT
        raise HttpServerError(f"cannot listen on {Place(address, port)}: {exc}{hint}") from exc


def _wanted(address: str, port: int) -> list[tuple[int, Any]]:
    """Return the distinct (family, socket address) pairs that *address* stands for."""
    families = {"": ("0.0.0.0", "::"), "::": ("::", "0.0.0.0")}
    if address in families:
        return _of_numbers(families[address], port)
    wanted = {}
    if address.lower().rstrip(".") == "localhost":
        # both, even if the machine's hosts file has only one, because browsers try both
        wanted = dict.fromkeys(_of_numbers(("127.0.0.1", "::1"), port))
    infos = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    wanted.update(
        dict.fromkeys(
            (int(family), place)
            for family, _, _, _, place in infos
            if family in (socket.AF_INET, socket.AF_INET6)
        )
    )
    return list(wanted)


def _of_numbers(addresses: tuple[str, ...], port: int) -> list[tuple[int, Any]]:
    return [
        (int(socket.AF_INET6), (address, port, 0, 0))
        if ":" in address
        else (int(socket.AF_INET), (address, port))
        for address in addresses
    ]


def _listen_on_all(
    wanted: list[tuple[int, Any]], port: int, reuse_port: bool
) -> list[socket.socket]:
    """Listen on those of *wanted* that this machine has, all on one port.

    Raises ``OSError`` if it has none of them.
    """
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, place in wanted:
            try:
                listeners.append(_listen_on(family, (place[0], port, *place[2:]), reuse_port))
            except OSError as exc:
                if exc.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = exc
            port = port or (listeners[0].getsockname()[1] if listeners else 0)
    except BaseException:
        close_all(listeners)
        raise
    if not listeners:
        raise missing or OSError(errno.EADDRNOTAVAIL, "it has no address")
    return listeners


def _listen_on(family: int, place: Any, reuse_port: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        own_port(listener)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # IPv4 has its own socket, whose peers have plain IPv4 addresses
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
