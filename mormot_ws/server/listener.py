"""Listener: the listening sockets of a server, and accepting on them without waiting.

A server creates one from its constructor's arguments (``listening.py``) and is its only user. The
server decides which thread accepts, and how it waits for visitors: nothing in here waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any, NamedTuple

from ..core.addresses import unix_address
from .unix_file import UnixFile

#: the errors if the system, or the OS process, has no descriptors left
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
#: the most bytes of a request that are discarded with its connection
_UNREAD = 65536


class Visitor(NamedTuple):
    """An accepted connection."""

    sock: socket.socket
    address: Any
    #: why it can only be turned away: it has the last descriptor; None: nothing is wrong
    shortage: OSError | None = None


class Listener:
    """Listening sockets, all of one server; poll :attr:`sockets` for reading.

    :param sockets: they listen, and belong to this object from now on.
    :param file: the file of a Unix socket, removed at the end.

    Call :meth:`accept_now` and :meth:`turn_away` from one thread at a time.
    """

    def __init__(self, sockets: list[socket.socket], file: UnixFile | None = None) -> None:
        #: the sockets, which do not block
        self.sockets = tuple(sockets)
        for sock in self.sockets:
            sock.setblocking(False)
        self._file = file
        name = self.sockets[0].getsockname()
        self._is_ip = isinstance(name, tuple)
        #: the address, the first if there are several; ``unix:/path`` for a Unix socket
        self.host: str = str(name[0]) if self._is_ip else unix_address(name)
        #: the port; 0 for a Unix socket
        self.port: int = int(name[1]) if self._is_ip else 0
        #: a descriptor that is given up for a visitor if there is no other, so that the visitor
        #: gets an answer; −1: there is none
        self._reserve = -1
        self._keep_reserve()

    @property
    def address(self) -> str:
        """The address with its port, as a server takes it for its *port*."""
        if not self._is_ip:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def accept_now(self, sock: socket.socket) -> Visitor | None:
        """Accept a connection from *sock*, one of :attr:`sockets`, without waiting; None: there is
        none.

        If no descriptor is left, it uses the one in reserve, and reports this in
        :attr:`Visitor.shortage`: such a visitor has to be turned away immediately. Raises
        ``OSError`` if even that is not possible, or if memory is short. Visitors then keep waiting
        in the kernel, the socket stays readable, and the caller has to pause.
        """
        try:
            return Visitor(*sock.accept())
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # another OS process was faster, or the client has already left
            return None
        except OSError as exc:
            if exc.errno not in _NO_DESCRIPTOR:
                raise
            return self._accept_in_reserve(sock, exc)

    def _accept_in_reserve(self, sock: socket.socket, shortage: OSError) -> Visitor | None:
        self._keep_reserve()
        if self._reserve < 0:
            raise shortage
        os.close(self._reserve)
        self._reserve = -1
        try:
            return Visitor(*sock.accept(), shortage)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self._keep_reserve()
            return None

    def turn_away(self, sock: socket.socket, answer: bytes) -> None:
        """Send *answer*, as far as possible without waiting, and close an accepted connection."""
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            if answer:
                sock.send(answer)
                sock.shutdown(socket.SHUT_WR)
            # closing with unread input would reset the connection, and could destroy the answer
            sock.recv(_UNREAD)
        sock.close()
        self._keep_reserve()

    def _keep_reserve(self) -> None:
        if self._reserve < 0:
            # without one, accept_now() raises when descriptors run out
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY)

    def remove_file(self) -> None:
        """Remove the file of a Unix socket, if it is still ours. Safe to call twice."""
        if self._file is not None:
            self._file.remove()

    def close(self) -> None:
        """Stop listening. Other OS processes that have the same sockets continue. Safe to call
        twice.
        """
        # first the file: while the socket is open, no other file can have its number
        self.remove_file()
        for sock in self.sockets:
            sock.close()
        reserve, self._reserve = self._reserve, -1
        if reserve >= 0:
            os.close(reserve)

    def die_in_child(self) -> None:
        """Only close the copies of the descriptors, in a forked child."""
        if self._file is not None:
            self._file.leave()
        self.close()
