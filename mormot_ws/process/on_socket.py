"""WebCrtSocketProcess: the process loop on a transport, i.e. on a blocking socket. Nothing but the
way from the one to the other.
"""

from __future__ import annotations

import logging

from ..sockets.deadline import Deadline
from ..sockets.transport import Transport
from .process import WebSocketProcess

_log = logging.getLogger("mormot_ws.process")


class WebCrtSocketProcess(WebSocketProcess):
    """The loop on a blocking socket. Mirrors ``TWebCrtSocketProcess``.

    :meth:`attach` gives it a connected transport before :meth:`~WebSocketProcess.process_loop`
    runs; it owns the transport from then on.
    """

    #: what carries the bytes, None before :meth:`attach`; mirrors ``Socket``
    transport: Transport | None = None
    _acknowledged = 0  # what the peer's kernel had taken of our bytes at the last heartbeat …
    _ping_position = 0  # … and will have taken when that heartbeat has reached it

    def attach(self, transport: Transport, unread: bytes = b"") -> None:
        """Take over *transport*, and the bytes that the handshake has read beyond its end."""
        self.transport = transport
        self._unread = unread
        # straight to the transport (in its plain form, to the socket): these three are the hot path
        self.receive_bytes = transport.recv  # type: ignore[method-assign, assignment]
        self.write_bytes = transport.sendall  # type: ignore[method-assign, assignment]
        self.write_parts = transport.send_parts  # type: ignore[method-assign]

    def receive_bytes(self, size: int) -> bytes:
        raise OSError("no socket")  # replaced by attach()

    def write_bytes(self, data: bytes) -> None:
        raise OSError("no socket")  # replaced by attach()

    def write_parts(self, header: bytes, payload: bytes) -> None:
        raise OSError("no socket")  # replaced by attach()

    def receive_now(self, size: int) -> bytes | None:
        try:
            return None if self.transport is None else self.transport.recv_now(size)
        except OSError as exc:
            _log.debug("%s: %s", self, exc)  # the loop will meet it too
            return None

    def write_now(self, data: memoryview) -> int:
        if self.transport is None:
            raise OSError("no socket")
        return self.transport.send_now(data)

    def interrupt(self) -> None:
        transport = self.transport
        if transport is not None:
            transport.shutdown()

    def fileno(self) -> int:
        return -1 if self.transport is None else self.transport.fileno()

    def _mark_ping(self) -> None:
        state = None if self.transport is None else self.transport.output_state()
        if state is not None:
            self._acknowledged, waiting = state
            self._ping_position = self._acknowledged + waiting

    def _output_moves(self) -> bool:
        state = None if self.transport is None else self.transport.output_state()
        if state is None:
            return False
        acknowledged = state[0]
        # a ping that the peer's kernel has acknowledged needs no further patience: a frozen
        # program's kernel takes small sends for long
        stuck = acknowledged < self._ping_position or bool(self._controls)
        return stuck and acknowledged != self._acknowledged

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
        if self._close_sent and self._close_ends_reading:
            transport.end(Deadline(self.settings.close_timeout), wait_first=self.client_side)
        transport.shutdown()  # wakes a writer, so that the lock below is free soon
        with self.safe_out:  # nobody is inside a write when the descriptor goes
            transport.close()
