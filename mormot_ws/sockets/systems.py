"""Small differences between systems: the text of an error, and who may share a port."""

from __future__ import annotations

import errno
import os
import socket
import sys

#: replaces ``SO_REUSEADDR`` on Windows, where that option lets any program steal the port
_EXCLUSIVE: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)


def system_error(code: int) -> OSError:
    """Return the exception for the error *code* of a socket, with the system's text and of the
    right subclass.
    """
    if sys.platform == "win32" and code >= 10000:
        # the C library, and therefore os.strerror(), does not know the codes of sockets
        import ctypes

        return ctypes.WinError(code)
    return OSError(code, os.strerror(code))


def error_text(error: OSError) -> str:
    """Return the system's text for *error*, without its number."""
    if error.strerror and "Unknown error" not in error.strerror:
        return error.strerror
    return system_error(error.errno or errno.EIO).strerror or str(error)


def descriptor_limit() -> int | None:
    """Return how many descriptors this OS process may have; None: no limit, or it is
    unknown.
    """
    try:
        import resource
    except ImportError:  # missing on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def own_port(sock: socket.socket) -> None:
    """Prevent other programs from using the port of *sock*, which is not bound yet, but let a new
    server use it while connections of an old one are ending. Raises ``OSError``.
    """
    if _EXCLUSIVE is not None:
        sock.setsockopt(socket.SOL_SOCKET, _EXCLUSIVE, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
