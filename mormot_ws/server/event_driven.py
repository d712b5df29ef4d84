"""WebSocketAsyncServer: few threads for any number of connections, driven by events."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from functools import partial
from threading import current_thread
from time import monotonic
from typing import Any

from ..callbacks import check_plain
from ..core.forks import dies_in_child
from ..errors import HttpServerError
from ..logs import LOG_SECONDS, SeldomLog, get_logger
from ..process.freeing import close_at_exit
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.readiness import HAS_READINESS
from ..sockets.tls_contexts import server_tls_context
from ..status import ServerStatus
from .base import WebSocketServerBase
from .connection import WebSocketServerSocket
from .event_connection import WebSocketAsyncServerSocket
from .http import simple_answer
from .leader_pool import LeaderPool
from .listening import listen, parse_port
from .threaded import OnThread

_log = get_logger("mormot_ws.server")

_ACCEPTS = 64
_RETRY_SECONDS = 0.1


class _Listening:
    def __init__(self, server: WebSocketAsyncServer, sock: socket.socket) -> None:
        self._server = server
        self.sock = sock
        self.busy = threading.Lock()
        self.masked = False

    def fileno(self) -> int:
        return self.sock.fileno()

    def handle(self) -> bool:
        for _ in range(_ACCEPTS):
            if not self._server._accept(self.sock):
                break
        return True

    def end(self, exc: BaseException | None) -> bool:
        self._server._cannot_accept(exc)
        return True

    def callback_is_long(self) -> None:
        pass

    def callback_has_ended(self) -> bool:
        return True


class WebSocketAsyncServer(WebSocketServerBase):
    """An event-driven WebSocket server. Mirrors ``TWebSocketAsyncServer``."""

    def __init__(
        self,
        port: str | int,
        on_start: OnThread | None = None,
        on_stop: OnThread | None = None,
        process_name: str = "",
        server_thread_pool_count: int = 2,
        *,
        settings: WebSocketProcessSettings | None = None,
        tls_context: ssl.SSLContext | None = None,
        prepare: Callable[[Any], Any] | None = None,
        certificate_file: str | None = None,
        private_key_file: str | None = None,
    ) -> None:
        address, number = parse_port(port)
        if not HAS_READINESS:
            raise HttpServerError("no epoll or kqueue here: use WebSocketServer")
        super().__init__(process_name or "WebSocketAsyncServer", process_name, settings)
        if certificate_file is not None and tls_context is None:
            tls_context = server_tls_context(certificate_file, private_key_file)
        self.tls_context = tls_context
        self.on_request: OnHttpServerRequest | None = None
        self._accept_log = SeldomLog(LOG_SECONDS)
        self._on_start = on_start
        self._on_stop = on_stop
        self._listeners = listen(address, number)
        dies_in_child(self)
        self.host: str = self._listeners[0].getsockname()[0]
        self.port: int = self._listeners[0].getsockname()[1]
        self._pool = LeaderPool(
            f"{process_name or 'WebSocketAsyncServer'} :{self.port}",
            server_thread_pool_count,
            lambda: self.settings.max_server_threads,
            lambda: self._notify(self._on_start, current_thread()),
            lambda: self._notify(self._on_stop, current_thread()),
        )
        self._listening = [_Listening(self, sock) for sock in self._listeners]
        if prepare is not None:
            prepare(self)
        self._pool.start()
        for listening in self._listening:
            self._pool.add(listening)
        close_at_exit(self)

    def _clear(self) -> None:
        super()._clear()
        self._ended = threading.Condition()

    def status(self) -> ServerStatus:
        return self._status(self.host, self.port)

    def _accept(self, listener: socket.socket) -> bool:
        try:
            sock, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        try:
            sock.settimeout(None)
            connection = WebSocketAsyncServerSocket(self, sock, address, self._next_connection_id())
            refused = self._admit(connection)
            if refused:
                if not self._stopping:
                    self._tell_turned_away(connection, refused)
                sock.close()
                return True
            connection.open()
            self._pool.add(connection)
        except BaseException:
            sock.close()
            raise
        return True

    def _cannot_accept(self, exc):
        _log.error("cannot accept", exc_info=exc)

    def _own_threads(self):
        return set(self._pool.threads)

    def _forget(self, connection: WebSocketServerSocket) -> None:
        super()._forget(connection)
        if self._stopping:
            with self._ended:
                self._ended.notify_all()

    def _wait_ended(self, connections, deadline):
        waited_for = set(connections)
        with self._ended:
            self._ended.wait_for(lambda: waited_for.isdisjoint(self._sockets), deadline.seconds())
            return [connection for connection in list(self._sockets) if connection in waited_for]

    def _stop_accepting(self) -> None:
        for listening in self._listening:
            self._pool.remove(listening)
            with listening.busy:
                listening.sock.close()

    def _end(self) -> None:
        super()._end()
        self._pool.stop(Deadline(5000))
