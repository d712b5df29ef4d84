"""Listening sockets that another party has opened: systemd, a parent, the application."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterable

from ..errors import HttpServerError

#: the first descriptor that systemd passes
_FIRST = 3
#: systemd's name for a socket to which its unit gives no name
UNNAMED = "unknown"


def systemd_sockets(name: str | None = None) -> list[socket.socket]:
    """Return the listening sockets that systemd has passed to this process; an empty list if none.

    :param name: only those with that name (``FileDescriptorName=`` in the socket unit); None: all.

    Each call creates new objects for the same sockets. Pass them to a server
    (``WebSocketServer(socket=…)``), or close them. The sockets of systemd stay open, so a server
    can be started again. The environment is only read: ``LISTEN_FDS``, ``LISTEN_PID`` and
    ``LISTEN_FDNAMES``. Raises :class:`HttpServerError` if the environment announces sockets that do
    not exist, or that are not listening sockets.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        # for another process, or nothing was passed
        return []
    count = os.environ.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit() and len(count) < 6):
        raise HttpServerError(f"LISTEN_FDS must be a number, not {count!r}")
    given = os.environ.get("LISTEN_FDNAMES")
    names = given.split(":") if given else []
    found: list[socket.socket] = []
    try:
        for at in range(int(count)):
            if name is None or name == (names[at] if at < len(names) else UNNAMED):
                # a program that we start must not listen there, too
                with contextlib.suppress(OSError):
                    os.set_inheritable(_FIRST + at, False)
                found.append(from_descriptor(_FIRST + at))
    except BaseException:
        close_all(found)
        raise
    return found


def from_descriptor(number: int) -> socket.socket:
    """Return a new object for the listening socket of the descriptor *number*, which stays open.

    Raises :class:`HttpServerError`.
    """
    try:
        sock = socket.socket(fileno=os.dup(number))
    except OSError as exc:
        raise HttpServerError(f"descriptor {number} is not a socket: {exc}") from exc
    try:
        check_listening(sock, f"descriptor {number}")
    except ValueError as exc:
        sock.close()
        raise HttpServerError(str(exc)) from exc
    return sock


def handed_over(given: object) -> list[socket.socket]:
    """Return the sockets of the argument ``socket=``, one or several.

    Raises ``TypeError`` or ``ValueError`` for anything that is not a listening socket.
    """
    found: list[object] = list(given) if isinstance(given, Iterable) else [given]
    if not found:
        raise ValueError("socket must be a listening socket, or several, not an empty list")
    sockets: list[socket.socket] = []
    for sock in found:
        if not isinstance(sock, socket.socket):
            raise TypeError(f"socket must be a listening socket, or several, not {sock!r}")
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("socket must not be an SSLSocket: pass tls_context for TLS")
        check_listening(sock, "socket")
        sockets.append(sock)
    return sockets


def check_listening(sock: socket.socket, what: str) -> None:
    """Raise ``ValueError`` if *sock* does not accept stream connections."""
    families = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}
    if sock.fileno() < 0:
        raise ValueError(f"{what} is closed")
    if sock.family not in families or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"{what} is not a TCP or Unix stream socket: {sock!r}")
    option = getattr(socket, "SO_ACCEPTCONN", None)
    # if the system does not report this, the first accept() will
    with contextlib.suppress(OSError):
        if option is not None and not sock.getsockopt(socket.SOL_SOCKET, option):
            raise ValueError(f"{what} is not listening: call its listen() first")


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close all *sockets*."""
    for sock in sockets:
        sock.close()
