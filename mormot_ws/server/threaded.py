"""WebSocketServer: listens, upgrades, and gives each connection its own thread.

There is one thread that accepts, one per connection (first for HTTP, then for the loop), and the
keeper's. The list of connections is never locked while a callback runs or a socket blocks.
"""

from __future__ import annotations

import contextlib
import selectors
import socket as sockets
import ssl
import threading
from collections.abc import Callable, Iterable
from threading import current_thread

from ..attributes import explains_keywords
from ..callbacks import Ignored
from ..errors import HttpServerError
from ..logs import LOG_SECONDS, SeldomLog, get_logger
from ..process.freeing import close_at_exit, joined
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from .accepting import KEYWORDS, ListeningServer, OnThread
from .connection import WebSocketServerSocket

_log = get_logger("mormot_ws.server")


class WebSocketServer(ListeningServer):
    """A WebSocket server that gives each connection a thread. Mirrors ``TWebSocketServer``.

    :param port: ``'8999'`` or ``8999`` for all addresses of the machine, IPv4 and IPv6;
        ``'127.0.0.1:8999'``, ``'[::1]:8999'``, ``'[fe80::1%eth0]:8999'`` or ``'localhost:8999'``
        (IPv4 and IPv6) for some of them. Port ``0`` is any free port (the attribute ``port`` says
        which). ``'unix:/path'``: a Unix socket; ``'systemd:'`` or ``'systemd:name'``: sockets
        passed by systemd; ``'fd://3'``: an inherited descriptor (see :doc:`/how-to/listen`).
    :param on_start: ``f(thread)``, called in each thread of the server when it starts.
    :param on_stop: ``f(thread)``, called in each thread of the server when it ends.
    :param process_name: a name for the threads and for log lines.
    :param settings: :class:`WebSocketProcessSettings`; by default a new object, with a
        heartbeat every 20 000 ms.
    :param tls_context: an ``ssl.SSLContext`` for ``wss://`` (see :func:`server_tls_context`); None:
        ``ws://``.
    :param prepare: ``f(server)``, called before the first connection is accepted. What it adds and
        sets is in place for the first client, even one that reconnects at that very moment.
    :param certificate_file: a PEM file with the certificate; *private_key_file* has its key. A
        short alternative to *tls_context*.
    :param socket: instead of *port*: one or several sockets that are already listening. They then
        belong to the server, which closes them; other OS processes that have them continue to
        listen.
    :param reuse_port: let other servers of this user listen on the same port, all of them with
        ``reuse_port=True``: the kernel divides the connections among them (Linux; other systems
        share the port in other ways).
    :param unix_mode: the permissions of a Unix socket's file, e.g. ``0o660``; None: determined by
        the umask. A user who may write to the file may connect.

    It listens when the constructor returns; add protocols to ``websocket_protocols``. Raises
    :class:`HttpServerError` if it cannot listen, and ``ValueError`` or ``TypeError`` for invalid
    arguments. As a context manager it calls ``free()``.

    The callbacks below run in the connection's thread. An exception in one is logged, and does not
    affect other connections.
    """

    # both ends of a socket pair; free() writes a byte to the second one, to wake the accept thread
    _wake: tuple[sockets.socket, ...] = ()

    @explains_keywords(**KEYWORDS)
    def __init__(
        self,
        port: str | int | None = None,
        on_start: OnThread | None = None,
        on_stop: OnThread | None = None,
        process_name: str = "",
        *,
        settings: WebSocketProcessSettings | None = None,
        tls_context: ssl.SSLContext | None = None,
        prepare: Callable[[WebSocketServer], Ignored] | None = None,
        certificate_file: str | None = None,
        private_key_file: str | None = None,
        socket: sockets.socket | Iterable[sockets.socket] | None = None,
        reuse_port: bool = False,
        unix_mode: int | None = None,
    ) -> None:
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
        # free() sets it to end the accept thread's pause after an error
        self._retry = threading.Event()
        # the threads of connections until they end, later than their connections; changed by single
        # operations
        self._threads: dict[threading.Thread, WebSocketServerSocket] = {}
        # used only in the accept thread
        self._thread_log = SeldomLog(LOG_SECONDS)
        where = f":{self.port}" if self.port else self.address
        # a daemon thread: a server that was not freed must not prevent the interpreter from exiting
        self._acceptor = threading.Thread(
            target=self._accept_loop,
            name=f"{process_name or 'WebSocketServer'} accept {where}",
            daemon=True,
        )
        try:
            if prepare is not None:
                prepare(self)
            self._start_acceptor()
        except BaseException:
            self._close_sockets()
            raise
        close_at_exit(self)

    def die_in_child(self) -> None:
        super().die_in_child()
        self._threads.clear()
        self._close_sockets()
        self._retry = threading.Event()
        self._retry.set()

    # -------------------------------------------------------------------------- accepting, stopping

    def _start_acceptor(self) -> None:
        try:
            self._wake = sockets.socketpair()
            for end in self._wake:
                end.setblocking(False)
            self._acceptor.start()
        except (OSError, RuntimeError) as exc:
            raise HttpServerError(f"no thread to accept connections: {exc}") from exc

    def _accept_loop(self) -> None:
        """Accept connections until free() wakes it. Runs in the accept thread."""
        self._notify(self._on_start, current_thread())
        # poll() rather than epoll(), because it needs no descriptor
        poller = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        for sock in (*self._listener.sockets, *self._wake[:1]):
            if sock.fileno() >= 0:
                poller.register(sock, selectors.EVENT_READ, sock)
        while not self._stopping:
            try:
                # no time-out, because free() wakes it
                for key, _ in poller.select():
                    if key.data in self._listener.sockets:
                        self._accept_from(key.data)
            # e.g. MemoryError, or an exception from a callback or a limit of the system: a server
            # that no longer accepts connections would be worse
            except BaseException as exc:  # noqa: BLE001
                self._cannot_accept(exc)
                self._retry.wait(0.1)
        self._notify(self._on_stop, current_thread())

    def _serve(self, connection: WebSocketServerSocket, sock: sockets.socket) -> None:
        # a daemon thread: a callback that never returns must not block the exit
        thread = threading.Thread(
            target=self._run_connection,
            args=(connection,),
            name=f"{self.process_name or 'WebSocketServer'} #{connection.connection_id}",
            daemon=True,
        )
        connection.served_by(thread)
        self._threads[thread] = connection
        try:
            thread.start()
        except RuntimeError as exc:
            del self._threads[thread]
            self._forget(connection)
            more = self._thread_log.due()
            if more is not None:
                _log.error(
                    "%r: no thread for a connection: %s; settings.max_connections limits their "
                    "number%s",
                    self,
                    exc,
                    more,
                )
            self._count_turned_away()
            self._turn_away(sock, "too many connections")

    def _run_connection(self, connection: WebSocketServerSocket) -> None:
        self._notify(self._on_start, current_thread())
        try:
            connection.run()
            self._notify(self._on_stop, current_thread())
        finally:
            self._threads.pop(current_thread(), None)

    def _end(self) -> None:
        super()._end()
        deadline = Deadline(2500)
        for thread, connection in list(self._threads.items()):
            # those of connections that have not ended were waited for, and logged
            ended = connection not in self._sockets and thread is not current_thread()
            if ended and not joined(thread, deadline):
                number = connection.connection_id
                fields = {"connection_id": number, "remote_ip": connection.remote_ip}
                text = "%r: on_stop of #%d does not return; its thread is left behind"
                _log.error(text, self, number, extra=fields)
        _log.debug("%r freed", self)

    def _own_threads(self) -> set[threading.Thread | None]:
        return super()._own_threads() | {self._acceptor}

    def _stop_accepting(self) -> None:
        self._retry.set()
        for end in self._wake[1:]:
            with contextlib.suppress(OSError):
                end.send(b"\0")
        joined(self._acceptor, Deadline(5_000))
        self._close_sockets()

    def _close_sockets(self) -> None:
        """Stop listening; safe to call twice."""
        self._listener.close()
        for end in self._wake:
            end.close()
