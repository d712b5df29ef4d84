"""One accepted connection of an event-driven server, as a member of its pool of threads.

It goes through stages: the TLS handshake, HTTP requests, the WebSocket, and the wait for the peer's
end of TCP. Each stage does what it can with the available input, and never waits for more. The
handling of the input is in ``connection.py``, and the same for all servers.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Protocol

from ..process.keeper import Timer
from ..sockets.deadline import Deadline
from ..sockets.tls_transport import TlsTransport
from ..sockets.transport import Transport
from .connection import WebSocketProcessServer, WebSocketServerSocket
from .http import HTTP_READ, EndOfInput, HttpFault, HttpServerConnection
from .leader_pool import LeaderPool
from .opening import Opening
from .owner import ServerOwner


class EventServerOwner(ServerOwner, Protocol):
    """What an event-driven connection needs from its server."""

    #: the threads that handle the connections
    _pool: LeaderPool


class WebSocketAsyncConnection(WebSocketServerSocket):
    """One accepted connection of a :class:`WebSocketAsyncServer`. Mirrors
    ``TWebSocketAsyncConnection``.

    It has no thread of its own: ``thread`` is None. Its callbacks run one at a time, in order, each
    in one of the server's threads.
    """

    server: EventServerOwner
    _http: HttpServerConnection | None = None
    # the process, from its first callback to its last
    _running: WebSocketProcessServer | None = None
    # cuts the connection at the end of the stage's time
    _timer: Timer | None = None
    _lingers: bool = False

    def __init__(
        self, server: EventServerOwner, sock: socket.socket, address: Any, connection_id: int
    ) -> None:
        super().__init__(server, sock, address, connection_id)
        #: held by the thread that handles this connection
        self.busy = threading.Lock()
        #: True while the pool does not wait for its socket; written by the pool
        self.masked = False
        #: True if its callbacks block; written by the pool
        self.blocks = False
        #: the stage: reads the available input, and returns False at the end of the connection
        self.handle: Callable[[], bool] = self._read_http

    # ------------------------------------------------------------------ called by the server's pool

    def open(self) -> None:
        """Begin to serve the connection. Raises ``OSError``."""
        limit = self.server.settings.handshake_timeout
        opening = self._opening(Deadline(limit))
        if opening is None:
            self._open_for_events()
        else:
            self.handle = partial(self._read_opening, opening)
        self._limit(limit)
        try:
            self.server._pool.add(self)
        except BaseException:
            self._unlimit()
            raise

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def end(self, exc: BaseException | None) -> bool:
        """Do what is left after the last step, which *exc* has ended; return True while waiting
        for the peer's end of TCP.
        """
        try:
            if exc is not None:
                self._log_failure(exc)
            self._end_process()
        finally:
            if not self._inherited and not self._lingers:
                self._release()
        return self._lingers

    def callback_is_long(self) -> None:
        """Let the keeper answer pings meanwhile. Called in the watcher's thread."""
        process = self._running
        if process is not None:
            process.liveness.callback_is_long()

    def callback_has_ended(self) -> bool:
        """Handle what the keeper has read meanwhile; return False at the end of the connection."""
        process = self._running
        if process is None:
            return True
        while not process.liveness.callback_has_ended():
            # for the callbacks of those frames, which may also be long
            process.liveness.callback_is_long()
            if not process.loop_step():
                return False
        return True

    # ----------------------------------------------------------------------------------- the stages

    def _open_for_events(self) -> None:
        transport = self._open_transport()
        transport.read_by_events(partial(self.server._pool.revisit, self))
        self.handle = self._shake_hands if transport.is_tls else self._read_http

    def _read_opening(self, opening: Opening) -> bool:
        if not opening.step():
            return True
        if not self._opened(opening):
            return False
        self._open_for_events()
        # the next input may already be there
        return self.handle()

    def _shake_hands(self) -> bool:
        transport = self._transport
        assert isinstance(transport, TlsTransport)
        if not transport.handshake_now():
            return True
        self.handle = self._read_http
        # a request may have arrived with the end of the handshake
        return self._read_http()

    def _read_http(self) -> bool:
        transport = self._transport
        assert transport is not None
        http = self._http
        if http is None:
            http = self._http = self._new_http(transport)
        while True:
            try:
                asked = http.parse()
            except HttpFault as fault:
                self._unlimit()
                self._refuse_fault(transport, fault)
                return False
            if isinstance(asked, EndOfInput):
                return False
            if asked is None:
                data = transport.recv_now(HTTP_READ)
                if data is None:
                    return True
                http.feed(data)
                continue
            self._unlimit()
            process = self._serve_request(http, *asked)
            if process is not None:
                self._http = None
                return self._begin(process)
            if not http.stays_open:
                return False
            # an idle connection keeps nothing of its last request
            del asked
            self._limit(self.server.settings.keep_alive_timeout)

    def _begin(self, process: WebSocketProcessServer) -> bool:
        """Begin the WebSocket; return False if it has already ended."""
        transport = self._transport
        assert transport is not None
        process.reader.allow_ahead(False)
        self._running = process
        self._tell_connected()
        if not process.begin_loop():
            return False
        # from now on in any thread of the server
        process.run_by(None)
        # without TLS, nothing of ours is between the pool and the loop
        step = process.loop_step
        # neither a subclass nor the application has put another one in its place
        if getattr(step, "__func__", None) is WebSocketProcessServer.loop_step:
            step = process.loop.step
        self.handle = self._steps if transport.is_tls else step
        while process.reader.has_input:
            if not process.loop_step():
                return False
        return not transport.holds_input or self.handle()

    def _steps(self) -> bool:
        """Take steps until all input is decrypted: the kernel does not report it again."""
        process, transport = self._running, self._transport
        assert process is not None
        assert transport is not None
        while process.loop_step():
            if not transport.holds_input:
                return True
        return False

    def _end_process(self) -> None:
        process = self._running
        if process is None:
            return
        try:
            if not process.inherited:
                process.end_loop()
        finally:
            self._running = None
            self._process_ended(process)

    def _drain(self) -> bool:
        """Wait for the peer's end of TCP; return False when it is reached."""
        transport = self._transport
        assert transport is not None
        if not transport.drained():
            return True
        self._lingers = False
        return False

    # -------------------------------------------------------------------------------------- the end

    def lingers(self, process: WebSocketProcessServer) -> bool:
        transport = self._transport
        assert transport is not None
        if process.closing.sent and process.closing.ends_reading:
            self._finish(transport)
        if not self._lingers:
            # while it has a descriptor, under which the pool knows it
            self.server._pool.remove(self)
        return self._lingers

    def _finish(self, transport: Transport) -> None:
        # events report the peer's end of TCP
        if transport.begin_end():
            self._lingers = True
            self.handle = self._drain
            self._limit(self.server.settings.close_timeout)
        else:
            transport.shutdown()

    def _release(self) -> None:
        self._unlimit()
        self.server._pool.remove(self)
        process = self.websocket_process
        if process is None:
            super()._release()
            return
        # this wakes a writer, so that the lock is free soon
        self.interrupt()
        holders, me = process.sender.holders, get_ident()
        holders += (me,)
        try:
            with process.safe_out:
                # no thread is inside a write when the descriptor is closed
                self._sock.close()
        finally:
            holders.remove(me)
        super()._release()

    def _limit(self, milliseconds: int) -> None:
        """Cut the connection after this many milliseconds, unless the stage ends before."""
        self._unlimit()
        due = monotonic() + milliseconds / 1000
        self._timer = self.server._keeper.call_at(due, self.interrupt)

    def _unlimit(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
