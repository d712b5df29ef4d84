"""WebSocketServer: listens, upgrades, and gives every connection a thread of its own.

Threads: one that accepts, one per connection (HTTP first, then the process loop), and the keeper.
The list of connections is never locked while a callback runs or a socket blocks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from threading import current_thread
from time import monotonic
from typing import Any

from ..errors import HttpServerError
from ..process.freeing import close_at_exit
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.tls_contexts import server_tls_context
from ..status import ServerStatus
from .base import WebSocketServerBase
from .connection import WebSocketProcessServer, WebSocketServerSocket
from .http import simple_answer
from .logs import SafeLogger

_log = SafeLogger("mormot_ws.server")

#: seconds between two log lines about the same error of accepting, while it lasts
_ACCEPT_LOG_SECONDS = 10.0

OnThread = Callable[[threading.Thread], Any]


class WebSocketServer(WebSocketServerBase):
    """A WebSocket server that gives each connection a thread. Mirrors ``TWebSocketServer``.

    :param port: ``'8999'``, ``8999``, ``'127.0.0.1:8999'``, ``'[::1]:8999'``, or port ``0`` for a
        free one (see :attr:`port`).
    :param on_start: ``f(thread)``, called in each thread of the server when it starts.
    :param on_stop: ``f(thread)``, called in each thread of the server when it ends.
    :param process_name: names the threads and the log lines.
    :param settings: :class:`WebSocketProcessSettings`; by default new ones with a heartbeat every
        20 000 ms.
    :param tls_context: an ``ssl.SSLContext`` for ``wss://`` (see :func:`server_tls_context`); None:
        ``ws://``.
    :param certificate_file: PEM file with the certificate, *private_key_file* with its key: the
        short way to a *tls_context*.

    It listens when the constructor returns; add protocols to ``websocket_protocols``. Raises
    :class:`HttpServerError` when it cannot listen there, ``ValueError`` for a *port* that is none.
    It is a context manager that calls :meth:`free`.

    The callbacks below run in the connection's thread; an exception in one is logged and hurts
    nobody else.
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
        certificate_file: str | None = None,
        private_key_file: str | None = None,
    ) -> None:
        host, number = parse_port(port)
        super().__init__(process_name or "WebSocketServer", process_name, settings)
        if certificate_file is not None and tls_context is None:
            tls_context = server_tls_context(certificate_file, private_key_file)
        self.tls_context = tls_context
        #: ``f(ctxt: HttpServerRequest) -> status``, answers plain HTTP requests, and those of the
        #: REST protocols; None: 426 or 404
        self.on_request: OnHttpServerRequest | None = None
        self.process_class = WebSocketProcessServer
        self._on_start = on_start
        self._on_stop = on_stop
        # set by free(): ends the accept thread's pause after an error
        self._retry = threading.Event()
        self._listener = _listen(host, number)
        #: the address that it listens on
        self.host: str = self._listener.getsockname()[0]
        #: the real port number, also when it was asked for as 0
        self.port: int = self._listener.getsockname()[1]
        # daemon: a forgotten server must not keep the interpreter from ending
        self._acceptor = threading.Thread(
            target=self._accept_loop,
            name=f"{process_name or 'WebSocketServer'} accept :{self.port}",
            daemon=True,
        )
        self._acceptor.start()
        close_at_exit(self)

    # ---------------------------------------------------------------------------------- for anybody

    def status(self) -> ServerStatus:
        """Return a snapshot for monitoring. From any thread; costs some µs, and 1 µs per
        connection.
        """
        return self._status(self.host, self.port)

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        state = "stopped" if self._stopping else "running"
        return (
            f"<WebSocketServer {name}{self.host}:{self.port} {state} "
            f"connections={self.websocket_connections}>"
        )

    # -------------------------------------------------------------------------- accepting, stopping

    def _accept_loop(self) -> None:
        """The accept thread: ends when free() shuts the listener down."""
        self._notify(self._on_start, current_thread())
        told, told_at = 0, 0.0
        while not self._stopping:
            try:
                sock, address = self._listener.accept()
            except OSError as exc:
                if self._stopping:
                    break
                # out of descriptors or memory: waiting is all that helps, and free() ends the wait
                # it may last for hours: one line now and then will do
                if exc.errno != told or monotonic() - told_at >= _ACCEPT_LOG_SECONDS:
                    told, told_at = exc.errno or 0, monotonic()
                    scarce = exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
                    hint = (
                        "; raise the limit of open files, or set settings.max_connections below it"
                    )
                    text = hint if exc.errno == errno.EMFILE else ""
                    _log.log(
                        logging.ERROR if scarce else logging.WARNING,
                        "%r cannot accept: %s%s",
                        self,
                        exc,
                        text,
                    )
                self._retry.wait(0.1)
                continue
            self._start_connection(sock, address)
        self._notify(self._on_stop, current_thread())

    def _start_connection(self, sock: socket.socket, address: Any) -> None:
        connection = WebSocketServerSocket(self, sock, address, self._next_connection_id())
        # daemon: a callback that never returns must not keep the interpreter from ending
        thread = threading.Thread(
            target=self._run_connection,
            args=(connection,),
            name=f"{self.process_name or 'WebSocketServer'} #{connection.connection_id}",
            daemon=True,
        )
        connection.thread = thread
        refused = self._admit(connection)
        if refused:
            self._turn_away(sock, refused, connection)
            return
        try:
            thread.start()
        except RuntimeError as exc:
            _log.error(
                "%r: no thread for a connection: %s; settings.max_connections bounds their number",
                self,
                exc,
            )
            self._forget(connection)
            sock.close()

    def _turn_away(self, sock: socket.socket, why: str, connection: WebSocketServerSocket) -> None:
        """In the accept thread, without waiting: the answer is a courtesy."""
        fields = {"connection_id": connection.connection_id, "remote_ip": connection.remote_ip}
        if self._stopping:  # it may be our own, which wakes this thread
            _log.debug("%r turns a connection away: %s", self, why, extra=fields)
        else:
            self._count_turned_away()
            _log.info("%r turns a connection away: %s", self, why, extra=fields)
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

    def _own_threads(self) -> set[threading.Thread | None]:
        return super()._own_threads() | {self._acceptor}

    def _stop_accepting(self) -> None:
        self._retry.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept() on Linux
        with contextlib.suppress(OSError), socket.socket(self._listener.family) as knock:
            # and a connection wakes it elsewhere
            if self._acceptor.is_alive():
                knock.settimeout(0.2)
                knock.connect(self._listener.getsockname())
        self._acceptor.join(5)
        self._listener.close()


def parse_port(port: str | int) -> tuple[str, int]:
    """Return the (host, number) of ``8999``, ``'8999'``, ``'127.0.0.1:8999'`` or ``'[::1]:8999'``;
    raise ``ValueError`` for anything else.

    Without a host it is ``'0.0.0.0'``: all addresses of the machine.
    """
    host, colon, number = str(port).strip().rpartition(":")
    if isinstance(port, bool) or not isinstance(port, (int, str)) or (colon and not host):
        raise ValueError(f"port is '8999', 8999, 'host:8999' or '[::1]:8999', not {port!r}")
    if not (number.isascii() and number.isdigit() and int(number) < 65536):
        raise ValueError(f"port is a number up to 65535, not {number!r}")
    return (host.strip("[]") or "0.0.0.0"), int(number)


_LISTEN_HINTS = {
    errno.EADDRINUSE: "; another program listens there, port 0 takes a free one",
    errno.EACCES: "; ports below 1024 are for privileged users",
    errno.EADDRNOTAVAIL: "; it is no address of this machine",
}


def _listen(host: str, port: int) -> socket.socket:
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(info[4][:2], family=info[0], backlog=1024)
    except OSError as exc:
        hint = _LISTEN_HINTS.get(exc.errno or 0, "")
        raise HttpServerError(f"cannot listen on {host}:{port}: {exc}{hint}") from exc
