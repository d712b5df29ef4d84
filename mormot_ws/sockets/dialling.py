"""Dialling: connects to the first address of a host that answers (Happy Eyeballs, RFC 8305)."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
from typing import Any

from ..logs import get_logger
from .deadline import Deadline, is_foreign_timeout, timed_out
from .lookup import AddressInfo, LookUp, in_order
from .systems import system_error

_log = get_logger("mormot_ws.sockets")

#: milliseconds between the starts of two attempts (RFC 8305 §5)
STAGGER_MS = 250
#: the same between the two addresses of ``localhost``
_LOOPBACK_MS = 20
#: the same before an address that did not work last time: it answers, and must not win only because
#: it is closer
_AFTER_FAILURE_MS = 1000
#: the longest wait in seconds: system calls do not accept longer ones
_LONGEST_WAIT = 3600.0
_UNIX = getattr(socket, "AF_UNIX", None)
#: seconds between attempts to connect to a Unix socket whose server is busy
_QUEUE_PAUSE = 0.01
#: the errors that mean that an attempt is in progress
_IN_PROGRESS = (
    errno.EINPROGRESS,
    errno.EWOULDBLOCK,
    errno.EINTR,
    getattr(errno, "WSAEWOULDBLOCK", -1),
)
#: poll() rather than epoll(), because it needs no descriptor
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


class _QueueFull(Exception):
    """Raised if a Unix socket's server has not accepted earlier clients yet."""


def _unix_error(code: int) -> Exception:
    """Return the exception for a failed connection to a Unix socket, which never takes time."""
    if code == errno.EAGAIN:
        return _QueueFull()
    if code == errno.ENOENT:
        # as on a port: nobody listens there
        return ConnectionRefusedError(code, str(system_error(code).strerror))
    return system_error(code)


class Dialling:
    """One attempt to reach *host* and *port*, in the thread that calls :meth:`connect`.

    :param failed: addresses that failed before, the oldest failure first.
    """

    def __init__(self, host: str, port: int, failed: dict[Any, None]) -> None:
        self._host = host
        self._failed = failed
        self._look_up = LookUp(host, port)
        #: guards the fields below, so that stop() in another thread finds every socket; last in the
        #: lock order; nothing blocks under it; reentrant for signal handlers
        self._safe = threading.RLock()
        self._stopped = False
        #: the sockets of this attempt with their addresses, including the one returned
        self._sockets: dict[socket.socket, Any] = {}
        #: both ends of the socket pair that wakes the thread while it waits
        self._wake: tuple[socket.socket, socket.socket] | None = None

    def connect(self, deadline: Deadline, look_up_deadline: Deadline) -> tuple[socket.socket, Any]:
        """Return a connected socket and the peer's address.

        Raises ``OSError`` if there is none by the *deadline*. :meth:`stop` also stops the returned
        socket until :meth:`taken` is called.
        """
        found = self._look_up.addresses(look_up_deadline)
        try:
            sock = self._first(in_order(found, self._failed), deadline)
            return sock, self._sockets[sock]
        except BaseException:
            self.taken(None)
            raise

    def taken(self, sock: socket.socket | None) -> None:
        """Give *sock*, which now belongs to the caller, away, and close all others."""
        with self._safe:
            others, self._sockets = self._sockets, {}
            wake, self._wake = self._wake, None
        for other in (*others, *(wake or ())):
            if other is not sock:
                other.close()

    def stop(self) -> None:
        """Make :meth:`connect` fail now. Any thread and any signal handler may call it."""
        with self._safe:
            self._stopped = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            if self._wake is not None:
                with contextlib.suppress(OSError):
                    self._wake[1].send(b"\0")
        self._look_up.stop()

    def die_in_child(self) -> bool:
        """Only close the copies of the descriptors, in a forked child; return whether any."""
        self._safe = threading.RLock()
        self._stopped = True
        began = bool(self._sockets)
        self.taken(None)
        return began

    def _first(self, waiting: list[AddressInfo], deadline: Deadline) -> socket.socket:
        """Start one attempt after another; return the first connected socket."""
        error: OSError = OSError(f"no address for {self._host}")
        pause = Deadline(0)
        pending: set[socket.socket] = set()
        with _Selector() as selector:
            while waiting or pending:
                self._check_running()
                if deadline.passed:
                    raise timed_out("no answer to the connection attempt")
                if waiting and (pause.passed or not pending):
                    pause = self._pause(waiting, deadline)
                    try:
                        begun = self._start(waiting[0])
                    except _QueueFull:
                        # there is nothing to wait for except time
                        self._wait(selector, min(_QUEUE_PAUSE, deadline.seconds() or _QUEUE_PAUSE))
                        continue
                    except OSError as exc:
                        if is_foreign_timeout(exc):
                            raise
                        del waiting[0]
                        error, pause = exc, Deadline(0)
                        continue
                    del waiting[0]
                    pending.add(begun)
                    selector.register(begun, selectors.EVENT_WRITE, begun)
                ends = (deadline.seconds(), pause.seconds() if waiting else None, _LONGEST_WAIT)
                until = min(seconds for seconds in ends if seconds is not None)
                for key, _ in selector.select(0) or self._wait(selector, until):
                    sock: socket.socket | None = key.data
                    if sock is None:
                        continue
                    try:
                        _check_connected(sock)
                        self._check_running()
                    except OSError as exc:
                        if is_foreign_timeout(exc):
                            raise
                        error = exc
                        selector.unregister(sock)
                        pending.discard(sock)
                        self._drop(sock)
                        # the next one need not wait
                        pause = Deadline(0)
                    else:
                        return sock
        # if stop() was called, that is the reason, not its effect on the sockets
        self._check_running()
        raise error

    def _pause(self, waiting: list[AddressInfo], deadline: Deadline) -> Deadline:
        """Return when the second of the *waiting* addresses starts beside the first."""
        share = deadline.share(len(waiting))
        first, second = (
            [info[4] in self._failed for info in waiting[:2]] if waiting[1:] else (False, False)
        )
        if second and not first:
            return share.sooner(_AFTER_FAILURE_MS)
        return share.sooner(_LOOPBACK_MS if _is_localhost(waiting[:2]) else STAGGER_MS)

    def _start(self, info: AddressInfo) -> socket.socket:
        """Return a socket that connects to one address; raise ``OSError`` if it cannot."""
        family, kind, protocol, _, address = info
        # raises if the kernel has no IPv6; names may still have IPv6 addresses there
        sock = socket.socket(family, kind, protocol)
        try:
            with self._safe:
                self._check_running()
                self._sockets[sock] = address
            sock.setblocking(False)
            code = sock.connect_ex(address)
            if code and family == _UNIX:
                raise _unix_error(code)
            if code and code not in _IN_PROGRESS:
                raise system_error(code)
        except BaseException:
            self._drop(sock)
            raise
        return sock

    def _drop(self, sock: socket.socket) -> None:
        with self._safe:
            self._sockets.pop(sock, None)
        sock.close()

    def _check_running(self) -> None:
        if self._stopped:
            raise ConnectionAbortedError("interrupted")

    def _wait(
        self, selector: selectors.BaseSelector, seconds: float
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for an attempt to end, or for stop().

        On some systems, shutting down a connecting socket does not end the wait.
        """
        if self._wake is None:
            try:
                wake = socket.socketpair()
            except OSError as exc:
                # no descriptor left: the wait may then last until the deadline
                _log.debug("an interrupted attempt may continue until its deadline: %s", exc)
            else:
                wake[1].setblocking(False)
                with self._safe:
                    self._wake = wake
                    # an earlier stop() has not seen the socket pair
                    self._check_running()
                selector.register(wake[0], selectors.EVENT_READ, None)
        return selector.select(seconds)


def _is_localhost(infos: list[AddressInfo]) -> bool:
    """Return whether these are the two addresses of ``localhost``.

    This machine answers immediately or not at all, but Windows takes two seconds to refuse.
    """
    return {str(info[4][0]) for info in infos} == {"127.0.0.1", "::1"}


def _check_connected(sock: socket.socket) -> None:
    """Raise ``OSError`` if *sock*, whose attempt has ended, is not connected to a peer."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise system_error(code)
    # after an interrupted attempt there may be no error, but there is no peer either
    if sock.getpeername() == sock.getsockname():
        # nothing listens there: the kernel gave us that same port, and connected us to ourselves
        raise system_error(errno.ECONNREFUSED)
