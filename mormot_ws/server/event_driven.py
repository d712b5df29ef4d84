"""WebSocketAsyncServer: few threads for any number of connections, driven by events.

Its threads are those of a :class:`~mormot_ws.server.leader_pool.LeaderPool`, one that watches them,
and the keeper's. Accepting, the handshakes, HTTP, frames and the end of a connection all happen
when the kernel reports that there is something to read; ``event_connection.py`` has the stages.
"""

from __future__ import annotations

import logging
import socket as sockets
import ssl
import threading
from collections.abc import Callable, Iterable
from threading import current_thread
from time import monotonic
from typing import Any, ClassVar

from ..core.frames import WebSocketFrame
from ..errors import HttpServerError
from ..logs import get_logger
from ..process.freeing import close_at_exit
from ..process.keeper import ProcessKeeper
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.readiness import HAS_READINESS
from .accepting import ListeningServer, OnThread
from .connection import WebSocketProcessServer, WebSocketServerSocket
from .event_connection import WebSocketAsyncConnection
from .leader_pool import LeaderPool

_log = get_logger("mormot_ws.server")

#: seconds without accepting after a fault
_PAUSE = 0.1
#: seconds between two checks whether a broadcast has left
_LOOK_SECONDS = 0.002
#: milliseconds that free() waits for the threads once all connections have ended, and if some
#: have not, because their callbacks do not return
_THREADS_MS = 2_500
_STUCK_MS = 100


class WebSocketAsyncServer(ListeningServer):
    """A WebSocket server for many connections, with few threads. Mirrors ``TWebSocketAsyncServer``.

    It offers the same as :class:`WebSocketServer`: protocols, callbacks, settings and limits. The
    callbacks of one connection run one at a time and in order, each in one of the server's threads;
    those of different connections run concurrently. They may block: while one does, another thread
    serves the other connections. ``settings.max_server_threads`` limits the number of threads.

    The parameters are those of :class:`WebSocketServer`, and:

    :param server_thread_pool_count: the number of threads that are started immediately and kept
        when there is little to do, from 1; with 1 there are two. More are started while callbacks
        block.
    :param on_start: ``f(thread)``, called in each thread that runs callbacks when it starts.
    :param on_stop: ``f(thread)``, called in each of them when it ends.

    Raises :class:`HttpServerError` if the system has neither ``epoll`` nor ``kqueue`` (Windows):
    use :class:`WebSocketServer` there.
    """

    _KIND: ClassVar[str] = "WebSocketAsyncServer"

    def __init__(
        self,
        port: str | int | None = None,
        on_start: OnThread | None = None,
        on_stop: OnThread | None = None,
        process_name: str = "",
        server_thread_pool_count: int = 2,
        *,
        settings: WebSocketProcessSettings | None = None,
        tls_context: ssl.SSLContext | None = None,
        prepare: Callable[[WebSocketAsyncServer], Any] | None = None,
        certificate_file: str | None = None,
        private_key_file: str | None = None,
        socket: sockets.socket | Iterable[sockets.socket] | None = None,
        reuse_port: bool = False,
        unix_mode: int | None = None,
    ) -> None:
        count = server_thread_pool_count
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(
                f"server_thread_pool_count must be a number, at least 1, not {count!r}"
            )
        if not HAS_READINESS:
            raise HttpServerError(
                "this system has neither epoll nor kqueue, which WebSocketAsyncServer needs:"
                " use WebSocketServer, which offers the same"
            )
        super().__init__(
            port,
            on_start,
            on_stop,
            process_name,
            settings,
            tls_context,
            prepare,
            certificate_file,
            private_key_file,
            socket,
            reuse_port,
            unix_mode,
        )
        where = f":{self.port}" if self.port else self.address
        self._doors = [_Door(self, sock) for sock in self._listener.sockets]
        try:
            self._pool = LeaderPool(
                f"{process_name or self._KIND} {where}",
                count,
                lambda: self.settings.max_server_threads,
                lambda: self._notify(self._on_start, current_thread()),
                lambda: self._notify(self._on_stop, current_thread()),
            )
            try:
                if prepare is not None:
                    prepare(self)
                self._pool.start()
                for door in self._doors:
                    self._pool.add(door)
            except BaseException:
                self._pool.stop(Deadline(_THREADS_MS))
                raise
        except BaseException as exc:
            self._listener.close()
            if isinstance(exc, (OSError, RuntimeError)) and not isinstance(exc, HttpServerError):
                raise HttpServerError(f"no thread to serve connections: {exc}") from exc
            raise
        close_at_exit(self)

    def _clear(self) -> None:
        super()._clear()
        #: notified when a connection has ended; guards no data. It is reentrant for free() in a
        #: signal handler
        self._ended = threading.Condition()

    # ---------------------------------------------------------------------------------- for anybody

    def websocket_broadcast(
        self,
        frame: WebSocketFrame,
        connection_ids: Iterable[int] | None = None,
        *,
        group: str | None = None,
        exclude: Iterable[int] = (),
        timeout: int = 0,
    ) -> int:
        """Queue *frame* on all connections, as a threaded server does.

        :param timeout: the maximum time in milliseconds to wait until the frame has been sent to
            all receivers, as in the original; 0: do not wait. Do not wait in a callback.

        In any case, returns how many connections have queued it.
        """
        if timeout:
            receivers = self._receivers(connection_ids, group, exclude)
            connection_ids = [process.connection_id for process in receivers]
        queued = super().websocket_broadcast(frame, connection_ids, group=group, exclude=exclude)
        if timeout:
            _Departure(self._keeper, receivers).wait(timeout)
        return queued

    # ------------------------------------------------------------------------- accepting, stopping

    def _connection(
        self, sock: sockets.socket, address: Any, connection_id: int
    ) -> WebSocketServerSocket:
        return WebSocketAsyncConnection(self, sock, address, connection_id)

    def _serve(self, connection: WebSocketServerSocket, sock: sockets.socket) -> None:
        assert isinstance(connection, WebSocketAsyncConnection)
        connection.open()

    def _forget(self, connection: WebSocketServerSocket) -> None:
        super()._forget(connection)
        # nobody waits unless free() was called
        if self._stopping:
            with self._ended:
                self._ended.notify_all()

    def _wait_ended(
        self, connections: Iterable[WebSocketServerSocket], deadline: Deadline
    ) -> list[WebSocketServerSocket]:
        waited_for = set(connections)
        with self._ended:
            self._ended.wait_for(lambda: waited_for.isdisjoint(self._sockets), deadline.seconds())
            return [connection for connection in self._sockets if connection in waited_for]

    def _own_threads(self) -> set[threading.Thread | None]:
        return set(self._pool.threads)

    def _stop_accepting(self) -> None:
        for door in self._doors:
            self._pool.remove(door)
        for door in self._doors:
            # until a connection that is being accepted is in the tables
            if door.busy.acquire(timeout=5):
                door.busy.release()
        self._listener.close()

    def _end(self) -> None:
        super()._end()
        # connections that were left behind are in the log already
        stuck = bool(self._sockets)
        for thread in self._pool.stop(Deadline(_STUCK_MS if stuck else _THREADS_MS)):
            _log.log(
                logging.DEBUG if stuck else logging.ERROR,
                "%r: the thread %s does not end; it is left behind",
                self,
                thread.name,
            )
        _log.debug("%r freed", self)


class _Door:
    """One listening socket, as a member of the pool."""

    def __init__(self, server: WebSocketAsyncServer, sock: sockets.socket) -> None:
        self._server = server
        self._sock = sock
        self.busy = threading.Lock()
        self.masked = False
        self.blocks = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def handle(self) -> bool:
        """Accept what waits."""
        self._server._accept_from(self._sock)
        return True

    def end(self, exc: BaseException | None) -> bool:
        """Pause after a fault: a server that no longer accepts would be worse."""
        server = self._server
        if exc is not None:
            server._cannot_accept(exc)
        server._pool.remove(self)
        server._keeper.call_at(monotonic() + _PAUSE, self._open_again)
        return True

    def _open_again(self) -> None:
        """Accept again. Called in the keeper's thread."""
        server = self._server
        if server._stopping or self._sock.fileno() < 0:
            return
        try:
            server._pool.add(self)
        except OSError as exc:
            server._cannot_accept(exc)
            server._keeper.call_at(monotonic() + _PAUSE, self._open_again)

    def callback_is_long(self) -> None:
        """Do nothing: nobody waits for an answer from a door."""

    def callback_has_ended(self) -> bool:
        """Continue."""
        return True


class _Departure:
    """Waits until the queues of some connections are empty; the keeper checks."""

    def __init__(self, keeper: ProcessKeeper, processes: list[WebSocketProcessServer]) -> None:
        self._keeper = keeper
        self._left = processes
        self._over = False
        self._done = threading.Event()

    def wait(self, milliseconds: int) -> None:
        """Wait for up to this many milliseconds."""
        self._look()
        self._done.wait(milliseconds / 1000)
        self._over = True

    def _look(self) -> None:
        self._left = [process for process in self._left if process.sender.has_queued]
        if self._left and not self._over:
            self._keeper.call_at(monotonic() + _LOOK_SECONDS, self._look)
        else:
            self._done.set()
