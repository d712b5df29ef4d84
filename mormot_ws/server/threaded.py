"""WebSocketServer: listens, upgrades, and gives each connection a thread of its own.

The threads are one that accepts, one per connection (first for HTTP, then for the loop), and the
keeper's. The list of connections is never locked while a callback runs or a socket blocks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from threading import current_thread
from typing import Any

from ..callbacks import check_plain
from ..core.forks import dies_in_child
from ..errors import HttpServerError
from ..logs import LOG_SECONDS, SeldomLog, get_logger
from ..process.freeing import close_at_exit, joined
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.tls_contexts import server_tls_context
from ..status import ServerStatus
from .base import WebSocketServerBase
from .connection import WebSocketServerSocket
from .http import simple_answer
from .listening import listen, parse_port, wake_accept

_log = get_logger("mormot_ws.server")

OnThread = Callable[[threading.Thread], Any]


class WebSocketServer(WebSocketServerBase):
    """A WebSocket server that gives each connection a thread. Mirrors ``TWebSocketServer``.

    :param port: ``'8999'`` or ``8999`` for all addresses of the machine, IPv4 and IPv6;
        ``'127.0.0.1:8999'``, ``'[::1]:8999'``, ``'[fe80::1%eth0]:8999'`` or ``'localhost:8999'``
        (IPv4 and IPv6) for some. Port ``0``: any free one (see :attr:`port`).
    :param on_start: ``f(thread)``, called in each thread of the server when it starts.
    :param on_stop: ``f(thread)``, called in each thread of the server when it ends.
    :param process_name: a name for the threads and in log lines.
    :param settings: :class:`WebSocketProcessSettings`; by default new ones with a heartbeat every
        20 000 ms.
    :param tls_context: an ``ssl.SSLContext`` for ``wss://`` (see :func:`server_tls_context`); None:
        ``ws://``.
    :param prepare: ``f(server)``, called before the first connection is accepted: what it adds and
        sets is there for the first client, e.g. one that reconnects at the very moment.
    :param certificate_file: a PEM file with the certificate; *private_key_file* has its key. A
        short way to a *tls_context*.

    It listens when the constructor returns; add protocols to ``websocket_protocols``. Raises
    :class:`HttpServerError` when it cannot listen, and ``ValueError`` for a malformed *port*. As a
    context manager it calls ``free()``.

    The callbacks below run in the connection's thread. An exception in one is logged, and does not
    affect other connections.
    """

    def __init__(
        self,
        port: str | int,
        on_start: OnThread | None = None,
        on_stop: OnThread | None = None,
        process_name: str = "",
        *,
        settings: WebSocketProcessSettings | None = None,
        tls_context: ssl.SSLContext | None = None,
        prepare: Callable[[WebSocketServer], Any] | None = None,
        certificate_file: str | None = None,
        private_key_file: str | None = None,
    ) -> None:
        address, number = parse_port(port)
        callbacks = {"on_start": on_start, "on_stop": on_stop, "prepare": prepare}
        for name, callback in callbacks.items():
            if callback is not None:
                check_plain(callback, name)
        super().__init__(process_name or "WebSocketServer", process_name, settings)
        if certificate_file is not None and tls_context is None:
            tls_context = server_tls_context(certificate_file, private_key_file)
        self.tls_context = tls_context
        #: ``f(ctxt: HttpServerRequest) -> status``, answers plain HTTP requests, and those of the
        #: REST protocols; None: 426 or 404
        self.on_request: OnHttpServerRequest | None = None
        self._on_start = on_start
        self._on_stop = on_stop
        # free() sets it to end the accept thread's pause after an error
        self._retry = threading.Event()
        # used only in the accept thread
        self._accept_log = SeldomLog(LOG_SECONDS)
        self._thread_log = SeldomLog(LOG_SECONDS)
        self._listeners = listen(address, number)
        dies_in_child(self)
        #: the address on which it listens; the first if there are several
        self.host: str = self._listeners[0].getsockname()[0]
        #: the actual port number, even if 0 was given
        self.port: int = self._listeners[0].getsockname()[1]
        # a daemon thread: a server that was not freed must not keep the interpreter from ending
        self._acceptor = threading.Thread(
            target=self._accept_loop,
            name=f"{process_name or 'WebSocketServer'} accept :{self.port}",
            daemon=True,
        )
        try:
            if prepare is not None:
                prepare(self)
            self._start_acceptor()
        except BaseException:
            for listener in self._listeners:
                listener.close()
            raise
        close_at_exit(self)

    # ---------------------------------------------------------------------------------- for anybody

    def status(self) -> ServerStatus:
        """Return a snapshot for monitoring.

        Any thread may call it. It takes some µs, and 1 µs more per connection.
        """
        return self._status(self.host, self.port)

    def die_in_child(self) -> None:
        super().die_in_child()
        for listener in self._listeners:
            listener.close()
        # free() has nothing left to do
        self._leave_to_parent()
        self._retry = threading.Event()
        self._retry.set()

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        state = "stopped" if self._stopping else "running"
        return (
            f"<WebSocketServer {name}{self.host}:{self.port} {state} "
            f"connections={self.websocket_connections}>"
        )

    # -------------------------------------------------------------------------- accepting, stopping

    def _start_acceptor(self) -> None:
        try:
            self._acceptor.start()
        except RuntimeError as exc:
            raise HttpServerError(f"no thread to accept connections: {exc}") from exc

    def _accept_loop(self) -> None:
        """Accept connections until free() shuts the listeners down. Runs in the accept thread."""
        self._notify(self._on_start, current_thread())
        next_listeners = self._waiting_for_connections()
        while not self._stopping:
            try:
                for listener in next_listeners():
                    if not self._stopping:
                        self._accept(listener)
            # e.g. MemoryError, or an exception from a callback or a limit of the system: a server
            # that no longer accepts connections would be worse
            except BaseException as exc:  # noqa: BLE001
                self._cannot_accept(exc)
                self._retry.wait(0.1)
        self._notify(self._on_stop, current_thread())

    def _waiting_for_connections(self) -> Callable[[], list[socket.socket]]:
        """Return a function that waits for connections and returns the listeners that have some.

        It has no time-out, because free() wakes it. A single listener waits in its own
        ``accept()``, which saves a system call for each connection.
        """
        if len(self._listeners) == 1:
            self._listeners[0].settimeout(None)
            return lambda: self._listeners
        poller = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        for listener in self._listeners:
            poller.register(listener, selectors.EVENT_READ, listener)
        return lambda: [key.data for key, _ in poller.select()]

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # the client has already left
        try:
            # regardless of socket.setdefaulttimeout()
            sock.settimeout(None)
            self._start_connection(sock, address)
        except BaseException:
            sock.close()
            raise

    def _cannot_accept(self, exc: BaseException) -> None:
        """Log why a connection was not served, but not every time while the fault lasts.

        Called in the accept thread.
        """
        number = exc.errno if isinstance(exc, OSError) else None
        more = self._accept_log.due((type(exc), number))
        if more is None or self._stopping:
            return
        if isinstance(exc, OSError):
            # out of descriptors or memory: only waiting helps, and free() ends the wait
            scarce = number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
            hint = "; raise the limit of open files, or set settings.max_connections below it"
            _log.log(
                logging.ERROR if scarce else logging.WARNING,
                "%r cannot accept: %s%s%s",
                self,
                exc,
                hint if number == errno.EMFILE else "",
                more,
            )
        else:
            _log.error(
                "%r: a connection is lost, the server goes on: %s: %s%s",
                self,
                type(exc).__name__,
                exc,
                more,
                exc_info=exc,
            )

    def _start_connection(self, sock: socket.socket, address: Any) -> None:
        connection = WebSocketServerSocket(self, sock, address, self._next_connection_id())
        refused = self._admit(connection)
        if refused:
            # a stopping server turns away its own connection, which wakes this thread
            if not self._stopping:
                self._tell_turned_away(connection, refused)
            self._turn_away(sock, refused)
            return
        try:
            # a daemon thread: a callback that never returns must not keep the interpreter from
            # ending
            thread = threading.Thread(
                target=self._run_connection,
                args=(connection,),
                name=f"{self.process_name or 'WebSocketServer'} #{connection.connection_id}",
                daemon=True,
            )
            connection.served_by(thread)
            thread.start()
        except RuntimeError as exc:
            self._forget(connection)
            more = self._thread_log.due()
            if more is not None:
                _log.error(
                    "%r: no thread for a connection: %s; settings.max_connections bounds their "
                    "number%s",
                    self,
                    exc,
                    more,
                )
            self._count_turned_away()
            self._turn_away(sock, "too many connections")
        except BaseException:
            self._forget(connection)
            raise

    def _turn_away(self, sock: socket.socket, why: str) -> None:
        """Turn a connection away without waiting: the answer is a courtesy.

        Called in the accept thread.
        """
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            if self.tls_context is None:
                sock.send(simple_answer(503, why))
                sock.shutdown(socket.SHUT_WR)
        sock.close()

    def _run_connection(self, connection: WebSocketServerSocket) -> None:
        self._notify(self._on_start, current_thread())
        connection.run()
        self._notify(self._on_stop, current_thread())

    def _end(self) -> None:
        super()._end()
        _log.debug("%r freed", self)

    def _own_threads(self) -> set[threading.Thread | None]:
        return super()._own_threads() | {self._acceptor}

    def _stop_accepting(self) -> None:
        self._retry.set()
        wake_accept(self._listeners, self._acceptor.is_alive())
        joined(self._acceptor, Deadline(5_000))
        for listener in self._listeners:
            listener.close()
