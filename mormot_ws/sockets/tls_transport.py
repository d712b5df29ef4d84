"""TlsTransport: an encrypted transport, safe for one reader and several writers.

An ``ssl.SSLSocket`` is not safe under TLS 1.3 if one thread reads while another writes, in any
version of Python. Here, the SSL object has two memory buffers instead of a socket, and is used
under a lock that is never held while waiting. The socket itself is read and written as without TLS.

Lock order: ``_safe_write`` < ``_safe_read`` < ``_safe_tls``.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Callable

from ..core.masking import Buffer
from ..core.taking import take
from ..logs import get_logger
from .deadline import Deadline, is_foreign_timeout
from .transport import Transport

_log = get_logger("mormot_ws.transport")

#: bytes of plain text encrypted at a time: limits the memory of a write, and how long the TLS lock
#: is held
_CHUNK = 1 << 18
#: the most plain text of one TLS record, in bytes
_RECORD = 16384
#: bytes read from the socket at a time: a whole record with its header, or several
_RAW = 16640
_RAW_LARGE = 1 << 17
#: seconds after which a writer that waits for the reader checks again by itself
_LOOK_AGAIN = 0.05


class TlsTransport(Transport):
    """A connected socket with TLS: the same methods as :class:`Transport`, but encrypted.

    Call :meth:`handshake` first. TLS errors raise ``ssl.SSLError`` (an ``OSError``).
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
        self._make_locks()
        self._ended = False  # the TCP stream has ended
        # the last _recv_event() has found no whole record
        self._starved = False
        # see read_by_events()
        self._has_input: Callable[[], object] | None = None
        self._feeds = 0  # how often input was fed; guarded by _safe_tls
        self._unsent = b""  # encrypted, but not yet accepted by the kernel; guarded by _safe_write
        self._torn = False  # a record was cut short: nothing can follow it; guarded by _safe_write

    def _direct_methods(self) -> tuple[Callable[[int], bytes], Callable[[Buffer], None]]:
        return self._recv, self._sendall

    def _make_locks(self) -> None:
        #: guards the SSL object and its two buffers; last in the lock order; held only to compute
        self._safe_tls = threading.Lock()
        #: notified when input was fed, if a writer is waiting because OpenSSL needs input
        self._fed = threading.Condition(self._safe_tls)
        self._waiting = 0  # the number of waiting writers; guarded by _safe_tls
        #: held from reading the socket to feeding the bytes, so that records are fed in order; the
        #: reader waits under it
        self._safe_read = threading.Lock()
        #: held from encrypting to writing, so that records are sent in the order of encryption
        self._safe_write = threading.Lock()

    def die_in_child(self) -> None:
        super().die_in_child()
        self._make_locks()

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The ``ssl.SSLObject``, for its certificate and cipher; do not read or write with it."""
        return self._tls

    def handshake(self, deadline: Deadline) -> None:
        """Do the TLS handshake.

        Raises ``TimeoutError`` at the *deadline*, and ``ssl.SSLError`` if it fails.
        """
        while not self._shake():
            with self._safe_read:
                self._feed(self._raw_within(deadline))

    def handshake_now(self) -> bool:
        """Do as much of the handshake as the input allows; return whether it is done.

        Raises ``ssl.SSLError`` if it fails.
        """
        while not self._shake():
            if not self._feed_now():
                return False
        return True

    def _shake(self) -> bool:
        """Take one step of the handshake; return False if it is the peer's turn."""
        done = False
        try:
            with self._safe_tls:
                self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass  # it is the peer's turn; OpenSSL's output is flushed below
        except ssl.SSLError:
            # sending the alert is a courtesy: only the error itself matters
            with contextlib.suppress(OSError):
                self._flush_blocking()
            raise
        self._flush_blocking()
        return done

    # -------------------------------------------------------------------------------------- reading

    def _raw_within(self, deadline: Deadline) -> bytes:
        while True:
            raw = super().recv_now(_RECORD)
            if raw is not None:
                return raw
            self._wait_input(deadline)

    def _feed(self, raw: bytes) -> None:
        assert self._safe_read.locked()
        with self._safe_tls:
            if raw:
                self._incoming.write(raw)
            else:
                self._incoming.write_eof()
                self._ended = True
            self._feeds += 1
            if self._waiting:
                self._fed.notify_all()

    def _decrypted(self, size: int) -> bytes | None:
        """Return decrypted bytes; ``b''`` at the end of the stream; None: more input is needed."""
        with self._safe_tls:
            try:
                data: bytes | None = self._tls.read(size)
            except ssl.SSLWantReadError:
                data = None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # with or without close_notify: the close frame shows whether the stream was cut
                data = b""
            if self._waiting:
                self._fed.notify_all()  # a writer may wait for what OpenSSL has just read
            answer = self._outgoing.pending
        if answer or self._unsent:
            self._flush_now()
        return data

    def _recv(self, size: int) -> bytes:
        # several records at once, if the caller asks for many bytes
        raw_size = _RAW if size <= _RECORD else _RAW_LARGE
        while True:
            feeds = self._feeds
            # an exception of OpenSSL costs as much as a record: do not call it if it can only ask
            # for input
            with self._safe_tls:
                worth_asking = self._incoming.pending or self._tls.pending() or self._unsent
            if worth_asking:
                data = self._decrypted(size)
                if data is not None:
                    return data
            with self._safe_read:
                if feeds == self._feeds:  # otherwise a writer has fed input meanwhile
                    self._feed(self._read(raw_size))
                    if self._ended:
                        return b""

    def read_by_events(self, has_input: Callable[[], object]) -> None:
        super().read_by_events(has_input)
        self._has_input = has_input

    def _event_method(self) -> Callable[[int], bytes]:
        return self._recv_event

    def _recv_event(self, size: int) -> bytes:
        raw_size = _RAW if size <= _RECORD else _RAW_LARGE
        while True:
            # see _recv()
            with self._safe_tls:
                worth_asking = self._incoming.pending or self._tls.pending() or self._unsent
            data = self._decrypted(size) if worth_asking else None
            if data is None:
                if not self._feed_now(raw_size):
                    self._starved = True
                    raise BlockingIOError(errno.EAGAIN, "no whole record has arrived")
                if self._ended:
                    data = self._decrypted(size)
            if data is not None:
                self._starved = False
                return data

    @property
    def holds_input(self) -> bool:
        with self._safe_tls:
            return not self._starved and bool(self._incoming.pending or self._tls.pending())

    def recv_now(self, size: int) -> bytes | None:
        while True:
            data = self._decrypted(size)
            if data is not None or not self._feed_now():
                return data

    def _feed_now(self, size: int = _RAW) -> bool:
        """Feed up to *size* available bytes without waiting; return False if there are none.

        Also returns False if another thread is reading.
        """
        held: list[bool] = []
        try:
            if not take(self._safe_read, held):
                return False
            raw = super().recv_now(size)
            if raw is None:
                return False
            self._feed(raw)
            return True
        finally:
            if held and held[0]:
                self._safe_read.release()

    # -------------------------------------------------------------------------------------- writing

    def _encrypt(self, data: Buffer) -> bytes:
        """Encrypt *data*, and return all encrypted output.

        Raises ``SSLWantReadError`` while OpenSSL is inside a TLS message of the peer.
        """
        assert self._safe_write.locked()
        if self._torn:
            raise ConnectionAbortedError(errno.ECONNABORTED, "an earlier write was cut short")
        with self._safe_tls:
            if data:
                self._tls.write(data)
            return self._outgoing.read()

    def _encrypt_patiently(self, data: Buffer) -> bytes:
        """Encrypt *data*, after waiting for the rest of a TLS message of the peer."""
        deadline = Deadline(self._send_timeout)
        while True:
            feeds = self._feeds
            try:
                return self._encrypt(data)
            except ssl.SSLWantReadError:
                if deadline.passed:
                    raise BlockingIOError("the peer does not end its TLS message") from None
            self._await_input(feeds, deadline)

    def _await_input(self, feeds: int, deadline: Deadline) -> None:
        """Wait until input was fed since *feeds*, by the reader or by ourselves.

        We feed it if the reader is not reading (we may be the reader).
        """
        held: list[bool] = []
        try:
            if take(self._safe_read, held):
                if feeds == self._feeds:
                    with contextlib.suppress(TimeoutError):
                        self._feed(self._raw_within(deadline.sooner(1000 * _LOOK_AGAIN)))
                return
        finally:
            if held and held[0]:
                self._safe_read.release()
            if feeds != self._feeds and self._has_input is not None:
                # the reader gets no event for what we have read from the socket
                self._starved = False
                self._has_input()
        with self._safe_tls:
            self._waiting += 1
            self._fed.wait_for(lambda: feeds != self._feeds, _LOOK_AGAIN)
            self._waiting -= 1

    # Once OpenSSL has encrypted something, it has to be sent, whole and in order. An exception
    # before that (a time-out, or from a signal handler) leaves a stream that the peer cannot read
    # further: it is torn, nobody writes any more, and the exception goes on to its caller.

    def _sendall(self, data: Buffer) -> None:
        view = memoryview(data)
        with self._safe_write:
            try:
                self._finish_unsent()
                for start in range(0, len(view), _CHUNK):
                    self._write(self._encrypt_patiently(view[start : start + _CHUNK]))
            except BaseException:
                self._torn = True
                raise
        # a reader leaves its own answers (to a key update, …) to us. The data has been sent whole;
        # if this fails, the reader meets the same fault, and reports it
        if self._outgoing.pending:
            try:
                self._flush_blocking()
            except OSError as exc:
                if is_foreign_timeout(exc):
                    raise

    def send_parts(self, header: bytes, payload: bytes) -> None:
        self._sendall(header)
        self._sendall(payload)

    def _flush_blocking(self) -> None:
        with self._safe_write:
            try:
                self._finish_unsent()
                raw = self._encrypt(b"")
                if raw:
                    self._write(raw)
            except BaseException:
                self._torn = True
                raise

    def _finish_unsent(self) -> None:
        """Send the rest of a record; if that fails, its bytes still count as unsent."""
        assert self._safe_write.locked()
        if self._unsent and not self._torn:
            self._write(self._unsent)
            self._unsent = b""
            self.unsent_bytes: int = 0

    def _flush_now(self) -> None:
        """Send the records that reading has caused; a thread that is writing sends them, too."""
        held: list[bool] = []
        try:
            if not take(self._safe_write, held):
                return
            if not self._torn:
                self._send_unsent(self._encrypt(b""))
        except OSError as exc:
            # not logged here, because the reader's lock may be held
            self.answer_fault = f"TLS answer not sent: {exc}"
            self._torn = True
        except BaseException:
            self._torn = True
            raise
        finally:
            if held and held[0]:
                self._safe_write.release()

    def _send_unsent(self, raw: bytes) -> None:
        assert self._safe_write.locked()
        raw = self._unsent + raw
        self._unsent = raw[super().send_now(raw) :] if raw else b""
        if not self._unsent:
            self.unsent_bytes = 0

    def send_now(self, data: Buffer) -> int:
        """Encrypt and send without waiting; return the number of plain bytes accepted.

        It is at most 16 kB; 0: older output is still waiting. While part of their record is unsent,
        the bytes count in :attr:`unsent_bytes`; the next call sends it.
        """
        held: list[bool] = []
        try:
            if not take(self._safe_write, held):
                return 0
            if self._unsent and not self._torn:
                self._send_unsent(b"")
                if self._unsent:
                    return 0
            part = memoryview(data)[:_RECORD]
            try:
                raw = self._encrypt(part)
            except ssl.SSLWantReadError:
                return 0  # see waits_for_input
            self._send_unsent(raw)
            # it is one record: the peer cannot read any of it before all of it is sent
            self.unsent_bytes = len(part) if self._unsent else 0
            return len(part)
        except BaseException:
            self._torn = True
            raise
        finally:
            if held and held[0]:
                self._safe_write.release()
            if self._outgoing.pending:
                self._flush_now()

    @property
    def waits_for_input(self) -> bool:
        return not self._unsent

    def wait_writable(self, deadline: Deadline) -> bool:
        if self._unsent:
            return super().wait_writable(deadline)
        self._await_input(self._feeds, deadline)
        return not deadline.passed

    def end_output(self) -> bool:
        with self._safe_tls:
            # OpenSSL also looks for the peer's end, and fails permanently if it finds data instead
            if self._incoming.pending or self._tls.pending():
                return False
            # usual: the peer's close_notify has not arrived yet
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self._flush_now()
        return not self._unsent and super().end_output()

    def _end_output(self) -> None:
        fault: ssl.SSLError | None = None
        with self._safe_tls:
            try:
                self._tls.unwrap()
            except ssl.SSLError as exc:
                # usual: the peer's close_notify has not arrived yet
                fault = exc
        if fault is not None:
            _log.debug("TLS close: %s", fault)
        self._flush_now()
