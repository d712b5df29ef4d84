"""Where a server listens: it parses the ``port`` parameter, and opens the listening sockets.

There is one socket per address; a port alone gets one for IPv4 and one for IPv6.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from typing import Any

from ..errors import HttpServerError

#: the most connections that the kernel keeps until they are accepted
_BACKLOG = 1024
#: how many free ports are tried, when one is free only for one of the two families
_PORT_TRIES = 20

#: the errors for an address family that this machine does not have
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)

_HINTS = {
    errno.EADDRINUSE: "; another program listens there, port 0 takes a free one",
    errno.EACCES: "; ports below 1024 are for privileged users",
    errno.EADDRNOTAVAIL: "; it is not an address of this machine",
}


def parse_port(port: str | int) -> tuple[str, int]:
    """Return the (address, number) of a server's *port*; raise ``ValueError`` if it is malformed.

    The forms are ``8999``, ``'8999'``, ``'127.0.0.1:8999'``, ``'[::1]:8999'`` and
    ``'[fe80::1%eth0]:8999'``.

    The address is ``''`` for a port alone: all addresses of the machine.
    """
    address, colon, number = str(port).strip().rpartition(":")
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
            f"port is '8999', 8999, 'host:8999' or '[::1]:8999', not {port!r}; "
            "put an IPv6 address in brackets"
        )
    if not (number.isascii() and number.isdigit() and int(number) < 65536):
        if colon or number.strip("-").isdigit():
            raise ValueError(f"port is a number up to 65535, not {number!r}")
        # the address alone, with the port as the next argument, as in most of Python
        raise ValueError(
            f"port is a number up to 65535, or '127.0.0.1:8999' with an address, not {number!r}:"
            " address and port are one argument"
        )
    return address, int(number)


def listen(address: str, port: int) -> list[socket.socket]:
    """Return non-blocking listening sockets for *address*, all on one *port*; 0: any free one.

    A host name stands for all its addresses, and ``'localhost'`` for both loopback addresses. IPv6
    is left out where the machine has none. Raises :class:`HttpServerError`.
    """
    try:
        for last in range(_PORT_TRIES, 0, -1):
            try:
                return _listen_on_all(_wanted(address, port), port)
            except OSError as exc:
                # the port was free for the first family, but not for the second
                if exc.errno != errno.EADDRINUSE or port or last == 1:
                    raise
        raise AssertionError("not reached")
    except (OSError, UnicodeError) as exc:
        hint = _HINTS.get(getattr(exc, "errno", None) or 0, "")
        shown = f"[{address}]" if ":" in address else address
        where = f"{shown}:{port}" if address else f"port {port}"
        raise HttpServerError(f"cannot listen on {where}: {exc}{hint}") from exc


def _wanted(address: str, port: int) -> list[tuple[int, Any]]:
    """Return the distinct (family, socket address) pairs for which *address* stands."""
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


def _listen_on_all(wanted: list[tuple[int, Any]], port: int) -> list[socket.socket]:
    """Listen on those of *wanted* that this machine has, all on one port.

    Raises ``OSError`` when it has none of them.
    """
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, place in wanted:
            try:
                listeners.append(_listen_on(family, (place[0], port, *place[2:])))
            except OSError as exc:
                if exc.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = exc
            port = port or (listeners[0].getsockname()[1] if listeners else 0)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    if not listeners:
        raise missing or OSError(errno.EADDRNOTAVAIL, "it has no address")
    return listeners


def _listen_on(family: int, place: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # on Windows it would let two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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


def wake_accept(listeners: list[socket.socket], knock: bool) -> None:
    """Wake a thread that waits for connections on *listeners*, so that it can end.

    With *knock* it also connects to them, for systems where shutting them down wakes nothing.
    """
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes it on Linux
        if knock:
            # a connection wakes it on other systems
            with contextlib.suppress(OSError), socket.socket(listener.family) as visitor:
                visitor.settimeout(0.2)
                visitor.connect(listener.getsockname())
