"""Transport: sends and receives bytes on one connected socket, without TLS.

``tls_transport.py`` has the form with TLS. Both have the same few methods, for one thread that
reads while others write. Without TLS, the socket is blocking, so a read or a write is one system
call. The kernel returns from a write that waits at intervals, to check whether the peer accepts
data. Where the platform cannot do that, ``portable.py`` waits outside the kernel's calls.

Where gevent has patched the standard library, its sockets wait even in calls that must not wait.
Those calls then use the descriptor, and all waits use the patched ``select``.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import io
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from ..core.addresses import UNIX_PEER
from ..core.forks import dies_in_child
from ..core.masking import Buffer
from ..logs import get_logger
from . import portable
from .deadline import Deadline, timed_out
from .patience import Patience

try:
    import fcntl
    import termios
except ImportError:  # missing on Windows
    fcntl = None  # type: ignore[assignment]

_log = get_logger("mormot_ws.transport")

#: below this many bytes, joining header and payload is cheaper than ``sendmsg``
JOIN_BELOW = 65536
#: the offsets of ``tcpi_bytes_acked`` and ``tcpi_bytes_received`` in ``struct tcp_info``
_BYTES_ACKED = 120
_BYTES_RECEIVED = 128
_DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
#: bytes discarded at a time after the end, and how often before other connections have a turn
_DRAINED = 65536
_DRAINS = 8


def wait_socket(sock: socket.socket, write: bool, deadline: Deadline) -> bool:
    """Wait until *sock* can be read (or written); return False if the *deadline* comes first.

    An error or a hang-up counts as ready: the next operation reports it.
    """
    if hasattr(select, "poll"):
        poller = select.poll()
        try:
            poller.register(sock, select.POLLOUT if write else select.POLLIN)
        except ValueError:
            raise OSError(errno.EBADF, "the socket was closed meanwhile") from None
        return bool(poller.poll(deadline.milliseconds()))
    wanted = [sock]
    try:
        ready = select.select(
            [] if write else wanted, wanted if write else [], wanted, deadline.seconds()
        )
    except ValueError:
        raise OSError(errno.EBADF, "the socket was closed meanwhile") from None
    return any(ready)


def _set_kernel_timeout(sock: socket.socket, option: int, milliseconds: int) -> None:
    """Let the kernel end a blocking call after *milliseconds*, if the platform supports that."""
    if sys.platform == "win32":
        value = struct.pack("@L", milliseconds)
    else:
        value = struct.pack("@ll", milliseconds // 1000, milliseconds % 1000 * 1000)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    # a platform without it: only heartbeats and free() end writes there
    except OSError as exc:
        _log.debug("no kernel time-out on this socket: %s", exc)


_KEEP_ALIVE = [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (
        ("TCP_KEEPIDLE", 60),
        # its name on macOS
        ("TCP_KEEPALIVE", 60),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 120_000),
    )
    if hasattr(socket, name)
] + [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


def _set_keep_alive(sock: socket.socket) -> None:
    """Let the kernel detect a vanished peer, too, in case heartbeats are off.

    The times are generous, so that a slow peer is not cut.
    """
    for level, option, value in _KEEP_ALIVE:
        try:
            sock.setsockopt(level, option, value)
        # not a TCP socket, or not supported: heartbeats work without it
        except OSError:
            continue


class Transport:
    """A connected socket without TLS.

    ``recv(size) -> bytes`` blocks until there are bytes (``b''``: end of stream). ``sendall(data)``
    blocks until the kernel has accepted everything, and raises ``BlockingIOError`` if the peer
    accepted no data for *send_timeout* milliseconds. Both raise ``OSError`` on a broken connection.
    One thread may read while others write; writers must take turns (using the connection's output
    lock).

    The kernel knows whether the peer accepts data (:meth:`output_state`), but reports room only
    when a third of its buffer is free, which can take minutes with a slow peer. If it does not
    report this, the bytes that it accepts from us count.
    """

    is_tls = False
    #: bytes accepted by the last :meth:`send_now` that the kernel has not fully accepted (always 0
    #: without TLS)
    unsent_bytes = 0
    #: why an answer that a read has caused was not sent (always '' without TLS)
    answer_fault = ""

    def __init__(self, sock: socket.socket, send_timeout: int = 10_000) -> None:
        sock.settimeout(None)
        if sock.family in (socket.AF_INET, getattr(socket, "AF_INET6", None)):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send_timeout = send_timeout
        _set_keep_alive(sock)
        self.sock = sock
        # a socket of gevent is not one of the C class, and waits in its own way
        self._patched = not isinstance(sock, _socket.socket)
        # waits where the kernel must not; None: the kernel waits
        self._io: portable.PortableIO | None = None
        self._read: Callable[[int], bytes] = sock.recv
        self._send: Callable[[Buffer], int] = self._send_waiting if self._patched else sock.send
        # the longest time that one write waits before it checks how much the peer has accepted
        step = Patience.step_of(send_timeout)
        if portable.NEVER_BLOCKS and not self._patched:
            self._io = portable.PortableIO(sock, step)
            self._read, self._send = self._io.recv, self._io.send
        else:
            _set_kernel_timeout(sock, socket.SO_SNDTIMEO, step)
        # sends the rest of what it did not send, in a step of its own; and whether that first call
        # has taken a step
        self._send_more = self._send
        self._waits = True
        self.recv: Callable[[int], bytes]
        self.sendall: Callable[[Buffer], None]
        self.recv, self.sendall = self._direct_methods()
        dies_in_child(self)

    def read_by_events(self, has_input: Callable[[], object]) -> None:
        """From now on, :attr:`recv` raises ``BlockingIOError`` instead of waiting for input: it is
        called when the kernel has reported some.

        *has_input* is called if there is input that the kernel no longer reports, because a writer
        has read it from the socket. Without TLS there is no such input.
        """
        if not self._patched and self._io is None:
            self.sock.setblocking(False)
            self._send_more = self._send_waiting
            self._waits = False
        self.recv = self._event_method()

    def _event_method(self) -> Callable[[int], bytes]:
        """Return the function that becomes ``recv``: the socket's own if it does not block, like
        :meth:`_direct_methods`.
        """
        return self._recv_event if self._waits else self.sock.recv

    def _recv_event(self, size: int) -> bytes:
        if self._patched:
            return os.read(self.sock.fileno(), size)
        return self.sock.recv(size, _DONTWAIT)

    @property
    def holds_input(self) -> bool:
        """True if :attr:`recv` may return more without an event from the kernel.

        Never True without TLS.
        """
        return False

    def _direct_methods(self) -> tuple[Callable[[int], bytes], Callable[[Buffer], None]]:
        """Return the functions that become ``recv`` and ``sendall`` of this object.

        The first is the socket's own, so little code is between the loop and the kernel.
        """
        return self._read, self._write

    def die_in_child(self) -> None:
        """Only close this copy of the descriptor, in a forked child.

        The connection, and its TLS state, belong to the parent.
        """
        self.close()

    def fileno(self) -> int:
        """Return the file descriptor; −1 once it is closed."""
        return self.sock.fileno()

    def peer_ip(self) -> str:
        """Return the IP address of the peer, ``'unix:'`` on a Unix socket; '' if unknown."""
        try:
            address = self.sock.getpeername()
        except OSError:
            return ""
        # the address of a Unix socket is a path
        return str(address[0]) if isinstance(address, tuple) else UNIX_PEER

    def _write(self, data: Buffer) -> None:
        """Write *data* whole, in clear text."""
        # a local variable: Python calls it faster than an attribute
        send = self._send
        try:
            sent = send(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            self._write_rest(memoryview(data)[sent:])

    def _write_rest(self, view: memoryview) -> None:
        """Write what the kernel did not accept at once, as slowly as the peer accepts it."""
        limit = self._send_timeout
        if not self._waits:
            # the step that a blocking send has behind it: what the peer's empty buffer takes in
            # it does not show that the peer is slow rather than dead
            with contextlib.suppress(BlockingIOError):
                view = view[self._send_more(view) :]
            if not view:
                return
        patience = Patience(self.output_state, limit, Patience.step_of(limit))
        while view:
            try:
                sent = self._send_more(view)
            except BlockingIOError:
                patience.look()
            else:
                view = view[sent:]
                patience.taken()

    def _send_waiting(self, data: Buffer) -> int:
        """Do what a blocking ``send`` does, for a non-blocking socket, or one of gevent's."""
        # the method of this class: that of TLS would encrypt the data, which is encrypted already
        sent = Transport.send_now(self, data)
        if sent == len(data):
            return sent
        view, deadline = memoryview(data), Deadline(Patience.step_of(self._send_timeout))
        # like the kernel, until the step has passed: what was accepted is looked at only then
        while sent < len(view) and not deadline.passed:
            if wait_socket(self.sock, True, deadline):
                sent += Transport.send_now(self, view[sent:])
        if not sent:
            raise BlockingIOError(errno.EAGAIN, "the peer accepts no data")
        return sent

    def send_parts(self, header: bytes, payload: bytes) -> None:
        """Send both like ``sendall(header + payload)``, without joining them in memory."""
        if self._io is not None or self._patched or not hasattr(self.sock, "sendmsg"):
            self._write(header)
            self._write(payload)
            return
        try:
            sent = self.sock.sendmsg((header, payload))
        except BlockingIOError:
            sent = 0
        if sent < len(header):
            self._write_rest(memoryview(header)[sent:])
            sent = len(header)
        if sent < len(header) + len(payload):
            self._write_rest(memoryview(payload)[sent - len(header) :])

    def send_now(self, data: Buffer) -> int:
        """Send what the kernel accepts without waiting; return the number of bytes (0: none now).

        Raises ``OSError``.
        """
        try:
            if self._patched:
                return os.write(self.sock.fileno(), data)
            if self._io is not None:
                return self._io.send_now(data)
            return self.sock.send(data, _DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return 0

    def recv_now(self, size: int) -> bytes | None:
        """Return available bytes without waiting; None: there are none; ``b''``: end of stream.

        Raises ``OSError``.
        """
        try:
            if self._patched:
                return os.read(self.sock.fileno(), size)
            return self.sock.recv(size, _DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return b"" if self._io is not None and self._io.cut_off else None

    def recv_within(self, size: int, deadline: Deadline) -> bytes:
        """Return what arrives before the *deadline*; raise ``TimeoutError`` if nothing does.

        The deadline applies to the whole operation: after it, nothing is returned, even if bytes
        are available, so a peer that sends byte by byte cannot prolong it.
        """
        while True:
            if deadline.passed:
                raise timed_out()
            data = self.recv_now(size)
            if data is not None:
                return data
            self._wait_input(deadline)

    def _wait_input(self, deadline: Deadline) -> None:
        if not self._wait(False, deadline):
            raise timed_out()

    def _wait(self, write: bool, deadline: Deadline) -> bool:
        if self._io is not None:
            return self._io.wait(write, deadline)
        return wait_socket(self.sock, write, deadline)

    def wait_writable(self, deadline: Deadline) -> bool:
        """Wait until :meth:`send_now` may continue; return False if the *deadline* comes first."""
        return self._wait(True, deadline)

    @property
    def waits_for_input(self) -> bool:
        """True if :meth:`send_now` accepted nothing although the socket is not full.

        Never True without TLS.
        """
        return False

    def output_state(self) -> tuple[int, int] | None:
        """Return how many bytes the peer's kernel has acknowledged, and how many are in flight.

        None if the kernel does not report this.
        """
        if fcntl is None or sys.platform != "linux":
            # the number of bytes that the kernel has accepted from us is the next best
            return None if self._io is None else (self._io.taken, 0)
        try:
            waiting = struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0]
        except (OSError, ValueError):
            return None
        acknowledged = self._tcp_count(_BYTES_ACKED)
        return None if acknowledged is None else (acknowledged, waiting)

    def received_bytes(self) -> int | None:
        """Return how many bytes our kernel has received from the peer, read or not.

        None if it does not report this.
        """
        return self._tcp_count(_BYTES_RECEIVED)

    def _tcp_count(self, at: int) -> int | None:
        """Return the number at *at* in Linux's ``struct tcp_info``."""
        if sys.platform != "linux":
            return None
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, at + 8)
        except OSError:
            # another kind of socket, or one closed meanwhile
            return None
        # an older kernel returns a shorter struct
        return int(struct.unpack_from("Q", info, at)[0]) if len(info) == at + 8 else None

    def end_output(self) -> bool:
        """End our side of the stream, but continue reading; return False if that is impossible now.

        Any thread may call it when nothing more is written. Never waits or raises.
        """
        # the method of the base class, as below
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        return True

    def shutdown(self) -> None:
        """End the connection in both directions now; wakes threads that read or write.

        Any thread may call it. Never raises.
        """
        # the method of the base class: SSLSocket.shutdown() would drop its TLS state, and continue
        # in plain text
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        if self._io is not None:
            self._io.cut()

    def close(self) -> None:
        """Close the file descriptor. Never raises.

        For the reading thread, once no other thread uses the transport.
        """
        self.release()
        with contextlib.suppress(OSError):
            self.sock.close()

    def release(self) -> None:
        """Leave the socket open, for another transport on it. Do not use this one any more."""
        if self._io is not None:
            self._io.close()

    def finish(self, deadline: Deadline) -> None:
        """Close gracefully, until the *deadline*, when no other thread uses the transport.

        Never raises.
        """
        self.end(deadline)
        self.close()

    def end(self, deadline: Deadline, wait_first: bool = False) -> None:
        """End our side of the stream, then read until the peer's ends, or until the *deadline*.

        With *wait_first* the peer ends first, as RFC 6455 §7.1.1 asks of a client. Never raises.

        The reading is necessary: if a socket is closed with unread input, the kernel sends a reset,
        which can destroy what we sent last in the peer's receive buffer.
        """
        try:
            self._end_output()
            if not wait_first:
                self.sock.shutdown(socket.SHUT_WR)
            while self._wait(False, deadline):
                if self._at_end() or deadline.passed:
                    break
        except OSError as exc:
            _log.debug("orderly close cut short: %s", exc)

    def begin_end(self) -> bool:
        """Begin what :meth:`end` does, without waiting; return False if there is nothing to wait
        for. Never raises.
        """
        try:
            self._end_output()
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            _log.debug("orderly close cut short: %s", exc)
            return False
        return True

    def drained(self) -> bool:
        """Discard what the peer still sends after :meth:`begin_end`; return whether the peer's end
        of the stream was reached. Never waits, never raises.
        """
        try:
            return any(self._at_end() for _ in range(_DRAINS))
        except BlockingIOError:
            return False
        except OSError as exc:
            _log.debug("orderly close cut short: %s", exc)
            return True

    def _at_end(self) -> bool:
        """Discard input; return whether there was none because the peer's stream has ended."""
        # the socket's own: TLS is over
        return not Transport._recv_event(self, _DRAINED)

    def _end_output(self) -> None:
        """Do nothing: only TLS has to end its output."""


class DeadlineSocket:
    """A stand-in for a socket, with which libraries use a transport: one deadline for all calls.

    For ``http.client`` and python-socks. Closing it does nothing: the transport keeps its owner.
    """

    def __init__(self, transport: Transport, deadline: Deadline) -> None:
        self._transport = transport
        self._deadline = deadline

    def recv(self, size: int) -> bytes:
        return self._transport.recv_within(size, self._deadline)

    def sendall(self, data: Buffer) -> None:
        self._transport.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Input(self))

    def setsockopt(self, *_: object) -> None:
        """Do nothing: the transport sets its own options."""

    def close(self) -> None:
        """Do nothing: the transport belongs to its owner."""


class _Input(io.RawIOBase):
    def __init__(self, sock: DeadlineSocket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._sock.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)
