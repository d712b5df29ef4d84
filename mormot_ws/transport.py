"""Transports: how bytes get through one connected socket, in two forms, plain and TLS.

Both have the same few methods, and are built for one thread that reads while any others write:

* plain: the socket stays blocking, so that a read or a write is one system call; time-outs of writes are the kernel's.
* TLS: OpenSSL works on memory only, under a lock that is never held while waiting; the socket below is read and written
  as in the plain form. An ``ssl.SSLSocket`` used by two threads at once is not safe under TLS 1.3, in no version of Python.

No frame, no protocol and no thread of its own belongs in here.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable

from .deadline import Deadline
from .masking import Buffer

_log = logging.getLogger("mormot_ws.transport")

#: joining header and payload is cheaper than ``sendmsg`` below this many bytes
JOIN_BELOW = 65536
#: how much plain text is encrypted at a time, in bytes: bounds the memory of a write and the time the TLS lock is held
_TLS_CHUNK = 1 << 18
_DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)


def wait_socket(sock: socket.socket, write: bool, deadline: Deadline) -> bool:
    """Wait until *sock* can be read (or written); return False when the *deadline* came first.

    An error or a hang-up counts as ready: the operation that follows reports it.
    """
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sock, select.POLLOUT if write else select.POLLIN)
        return bool(poller.poll(deadline.milliseconds()))
    wanted = [sock]
    ready = select.select([] if write else wanted, wanted if write else [], wanted, deadline.seconds())
    return any(ready)


def _set_kernel_timeout(sock: socket.socket, option: int, milliseconds: int) -> None:
    """Let the kernel end a blocking call after *milliseconds*, where the platform can."""
    if sys.platform == "win32":
        value = struct.pack("@L", milliseconds)
    else:
        value = struct.pack("@ll", milliseconds // 1000, milliseconds % 1000 * 1000)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    except OSError as exc:  # a platform without it: writes are then bounded by heartbeats and by free() only
        _log.debug("no kernel time-out on this socket: %s", exc)


def _set_keep_alive(sock: socket.socket) -> None:
    """Let the kernel notice a vanished peer too, for when heartbeats are off. Generous: a peer that is only slow must not suffer."""
    for option, value in (
        ("TCP_KEEPIDLE", 60),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 120_000),
    ):
        number = getattr(socket, option, None)
        if number is not None:
            with contextlib.suppress(OSError):  # no TCP socket, or not supported: heartbeats do without it
                sock.setsockopt(socket.IPPROTO_TCP, number, value)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Transport:
    """A connected socket in the plain form.

    ``recv(size) -> bytes`` blocks until there is something (``b''``: end of stream); ``sendall(data)`` blocks until the kernel
    has it all, and raises ``BlockingIOError`` when the peer took nothing for *send_timeout* milliseconds. Both raise ``OSError``
    on a broken connection. One thread may read while others write; writers take turns by themselves (the process' output lock).
    """

    is_tls = False
    #: bytes that :meth:`send_now` accepted last and the kernel has not taken whole (always 0 in the plain form)
    unsent_bytes = 0

    def __init__(self, sock: socket.socket, send_timeout: int = 10_000) -> None:
        sock.settimeout(None)
        if sock.family in (socket.AF_INET, getattr(socket, "AF_INET6", None)):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _set_kernel_timeout(sock, socket.SO_SNDTIMEO, send_timeout)
        _set_keep_alive(sock)
        self.sock = sock
        # bound methods of the socket itself: nothing of ours is between the loop and the kernel
        self.recv: Callable[[int], bytes] = sock.recv
        self.sendall: Callable[[Buffer], None] = sock.sendall

    def fileno(self) -> int:
        """Return the file descriptor, −1 once closed."""
        return self.sock.fileno()

    def send_parts(self, header: bytes, payload: bytes) -> None:
        """Send both like ``sendall(header + payload)``, without joining them in memory."""
        sent = self.sock.sendmsg((header, payload)) if hasattr(self.sock, "sendmsg") else 0
        if sent < len(header):
            self.sock.sendall(header[sent:])
            sent = len(header)
        if sent < len(header) + len(payload):
            self.sock.sendall(memoryview(payload)[sent - len(header) :])

    def send_now(self, data: Buffer) -> int:
        """Send what the kernel takes without waiting; return that number of bytes (0: none now). Raises ``OSError``."""
        try:
            return self.sock.send(data, _DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return 0

    def recv_now(self, size: int) -> bytes | None:
        """Return what is there without waiting, None when nothing is, ``b''`` at the end of the stream. Raises ``OSError``."""
        try:
            return self.sock.recv(size, _DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return None

    def recv_within(self, size: int, deadline: Deadline) -> bytes:
        """Return what arrives before the *deadline*; raise ``TimeoutError`` when nothing does."""
        while True:
            data = self.recv_now(size)
            if data is not None:
                return data
            self._wait_input(deadline)

    def _wait_input(self, deadline: Deadline) -> None:
        if not wait_socket(self.sock, False, deadline):
            raise TimeoutError("timed out")

    def shutdown(self) -> None:
        """End the connection in both directions at once, from any thread: wakes whoever reads or writes. Never raises."""
        # the method of the base class: SSLSocket.shutdown() would forget its TLS state and go on in clear text
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the file descriptor. For the thread that reads, once nobody else uses the transport. Never raises."""
        with contextlib.suppress(OSError):
            self.sock.close()

    def finish(self, deadline: Deadline, wait_first: bool = False) -> None:
        """Close in an orderly way: say that no more will be sent, then read to the peer's end of stream, until the *deadline*.

        *wait_first*: leave it to the peer to end first, as RFC 6455 §7.1.1 wants of a client.

        Input that stays unread when a socket is closed makes the kernel send a reset, which can destroy what we sent last in the
        peer's receive buffer; hence the reading.
        """
        try:
            if not wait_first:
                self._end_output()
                self.sock.shutdown(socket.SHUT_WR)
            while wait_socket(self.sock, False, deadline):
                if not self.sock.recv(65536, _DONTWAIT) or deadline.passed:
                    break
        except OSError as exc:
            _log.debug("orderly close cut short: %s", exc)
        self.close()

    def _end_output(self) -> None:
        """Nothing to say below TLS."""


class TlsTransport(Transport):
    """A connected socket in the TLS form: the same methods, encrypted.

    The handshake is :meth:`handshake`; call it before anything else. Raises ``ssl.SSLError`` (an ``OSError``) on faults of TLS.
    """

    is_tls = True

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        send_timeout: int = 10_000,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__(sock, send_timeout)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        #: guards the SSL object and its two buffers; innermost lock, held for computation only, never while waiting
        self._safe_tls = threading.Lock()
        #: held from encrypting to writing, so that records leave in the order of their encryption; before ``_safe_tls``
        self._safe_write = threading.Lock()
        self._unsent = b""  # encrypted, not taken by the kernel yet; guarded by _safe_write
        self.recv = self._recv
        self.sendall = self._sendall

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The ``ssl.SSLObject``, for its certificate and cipher; not for reading or writing."""
        return self._tls

    def handshake(self, deadline: Deadline) -> None:
        """Do the TLS handshake; raise ``TimeoutError`` at the *deadline*, ``ssl.SSLError`` when it fails."""
        while True:
            try:
                with self._safe_tls:
                    self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the alert is a courtesy: the error itself is what counts
                    self._flush_blocking()
                raise
            self._flush_blocking()
            if done:
                return
            raw = super().recv_now(16384)
            while raw is None:
                self._wait_input(deadline)
                raw = super().recv_now(16384)
            self._feed(raw)

    def _feed(self, raw: bytes) -> None:
        with self._safe_tls:
            if raw:
                self._incoming.write(raw)
            else:
                self._incoming.write_eof()

    def _decrypted(self, size: int) -> bytes | None:
        """Return decrypted bytes, ``b''`` at the end of the stream, None when more input is needed."""
        with self._safe_tls:
            try:
                data: bytes | None = self._tls.read(size)
            except ssl.SSLWantReadError:
                data = None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""  # with or without close_notify: WebSocket's close frame tells a cut from an end
            answer = self._outgoing.pending
        if answer:
            self._flush_now()
        return data

    def _recv(self, size: int) -> bytes:
        while True:
            data = self._decrypted(size)
            if data is not None:
                return data
            self._feed(self.sock.recv(16384))

    def recv_now(self, size: int) -> bytes | None:
        while True:
            data = self._decrypted(size)
            if data is not None:
                return data
            raw = super().recv_now(16384)
            if raw is None:
                return None
            self._feed(raw)

    def _encrypt(self, data: Buffer) -> bytes:
        assert self._safe_write.locked()
        with self._safe_tls:
            if data:
                self._tls.write(data)
            return self._outgoing.read()

    def _sendall(self, data: Buffer) -> None:
        view = memoryview(data)
        with self._safe_write:
            for start in range(0, len(view), _TLS_CHUNK):
                raw = self._unsent + self._encrypt(view[start : start + _TLS_CHUNK])
                self._unsent = b""
                self.unsent_bytes = 0
                self.sock.sendall(raw)

    def send_parts(self, header: bytes, payload: bytes) -> None:
        self._sendall(header)
        self._sendall(payload)

    def _flush_blocking(self) -> None:
        with self._safe_write:
            raw = self._unsent + self._encrypt(b"")
            self._unsent = b""
            self.unsent_bytes = 0
            if raw:
                self.sock.sendall(raw)

    def _flush_now(self) -> None:
        """Send the records that reading gave rise to (a key update, an alert), if no writer is at it: it takes them along."""
        if self._safe_write.acquire(blocking=False):
            try:
                self._send_unsent(self._encrypt(b""))
            except OSError as exc:
                _log.debug("TLS answer not sent: %s", exc)
            finally:
                self._safe_write.release()

    def _send_unsent(self, raw: bytes) -> None:
        assert self._safe_write.locked()
        raw = self._unsent + raw
        self._unsent = raw[super().send_now(raw) :] if raw else b""
        if not self._unsent:
            self.unsent_bytes = 0

    def send_now(self, data: Buffer) -> int:
        """Encrypt and send without waiting; return the plain bytes accepted (up to 16 kB; 0: older output is still waiting).

        While a part of the record that holds them has not left, they are counted in :attr:`unsent_bytes`; it leaves with
        the next call.
        """
        if not self._safe_write.acquire(blocking=False):
            return 0
        try:
            if self._unsent:
                self._send_unsent(b"")
                if self._unsent:
                    return 0
            part = memoryview(data)[:16384]
            self.unsent_bytes = len(part)  # one record: unless all of it leaves, the peer can read nothing of it
            self._send_unsent(self._encrypt(part))
            return len(part)
        finally:
            self._safe_write.release()

    def _end_output(self) -> None:
        with self._safe_tls:
            try:
                self._tls.unwrap()
            except ssl.SSLError as exc:
                # usual: the peer's close_notify is not there yet
                _log.debug("TLS close: %s", exc)
        self._flush_now()
