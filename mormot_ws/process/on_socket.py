"""WebCrtSocketProcess: a connection on a transport, i.e. on a blocking socket."""

from __future__ import annotations

import errno
from threading import get_ident
from types import NoneType
from typing import ClassVar

from ..attributes import Check, of_kind
from ..logs import get_logger
from ..sockets.deadline import Deadline
from ..sockets.transport import Transport
from .process import WebSocketProcess

_log = get_logger("mormot_ws.process")


class WebCrtSocketProcess(WebSocketProcess):
    """A connection on a blocking socket. Mirrors ``TWebCrtSocketProcess``.

    :meth:`attach` gives it a connected transport before the loop begins. From then on it owns the
    transport.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {"transport": of_kind(Transport, NoneType)}

    #: the transport; None before :meth:`attach`; mirrors ``Socket``
    transport: Transport | None = None

    def attach(self, transport: Transport, unread: bytes = b"") -> None:
        """Take over *transport*, and the *unread* bytes that arrived after the handshake."""
        self.transport = transport
        self.reader.push_unread(unread)
        # the hot path calls the transport directly (or, without TLS, the socket), unless a subclass
        # has methods of its own
        kind = type(self)
        if kind.receive_bytes is WebCrtSocketProcess.receive_bytes:
            self.reader.read_with(transport.recv)
        if kind.write_bytes is WebCrtSocketProcess.write_bytes:
            self.sender.write_with(transport.sendall)

    def receive_bytes(self, size: int) -> bytes:
        if self.transport is None:
            raise _no_socket()
        return self.transport.recv(size)

    def write_bytes(self, data: bytes) -> None:
        if self.transport is None:
            raise _no_socket()
        self.transport.sendall(data)

    def write_parts(self, header: bytes, payload: bytes) -> None:
        if self.transport is None:
            raise _no_socket()
        if type(self).write_bytes is not WebCrtSocketProcess.write_bytes:
            # a subclass with its own gets large frames, too
            super().write_parts(header, payload)
            return
        self.transport.send_parts(header, payload)

    def receive_now(self, size: int) -> bytes | None:
        try:
            return None if self.transport is None else self.transport.recv_now(size)
        except OSError:
            # the loop will meet the error, too, and report it
            return None

    def write_now(self, data: bytes | memoryview) -> int:
        if self.transport is None:
            raise _no_socket()
        return self.transport.send_now(data)

    def end_output(self) -> bool:
        return self.transport is None or self.transport.end_output()

    def interrupt(self) -> None:
        transport = self.transport
        if transport is not None:
            transport.shutdown()

    def fileno(self) -> int:
        return -1 if self.transport is None else self.transport.fileno()

    def output_state(self) -> tuple[int, int] | None:
        return None if self.transport is None else self.transport.output_state()

    def received_bytes(self) -> int | None:
        return None if self.transport is None else self.transport.received_bytes()

    def unsent_bytes(self) -> int:
        return 0 if self.transport is None else self.transport.unsent_bytes

    def wait_writable(self, deadline: Deadline) -> bool:
        return self.transport is not None and self.transport.wait_writable(deadline)

    def waits_for_input(self) -> bool:
        return self.transport is not None and self.transport.waits_for_input

    def finish(self) -> None:
        transport = self.transport
        if transport is None:
            return
        if transport.answer_fault:
            _log.debug("%s: %s", self, transport.answer_fault)
        if self.closing.sent and self.closing.ends_reading:
            transport.end(Deadline(self.settings.close_timeout), wait_first=self.client_side)
        # this wakes a writer, so that the lock below is free soon
        transport.shutdown()
        holders, me = self.sender.holders, get_ident()
        holders += (me,)
        try:
            with self.safe_out:
                # no thread is inside a write when the descriptor is closed
                transport.close()
        finally:
            holders.remove(me)


def _no_socket() -> OSError:
    return OSError(errno.ENOTCONN, "no socket")
