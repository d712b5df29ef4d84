"""ListeningServer: the common part of servers that listen themselves.

It covers where they listen, how connections are accepted or turned away, and what is logged of
this. It starts no thread: a subclass calls :meth:`ListeningServer._accept_from` when visitors wait,
and serves each connection in its own way.
"""

from __future__ import annotations

import errno
import logging
import socket as sockets
import ssl
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable
from time import sleep
from typing import Any, ClassVar

from ..attributes import IS_INT, IS_TEXT, Check
from ..callbacks import Ignored, check_callback
from ..core.forks import dies_in_child
from ..logs import LOG_SECONDS, SeldomLog, get_logger
from ..request import OnHttpServerRequest
from ..settings import AS_KEYWORDS, WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.systems import descriptor_limit
from ..sockets.tls_contexts import server_tls_context
from ..status import ServerStatus
from .base import WebSocketServerBase
from .connection import WebSocketServerSocket
from .http import simple_answer
from .listener import Visitor
from .listening import Place

_log = get_logger("mormot_ws.server")

#: the errors that mean that there are no more descriptors
_FEW_DESCRIPTORS = 256

#: how many connections are accepted on one socket before other sockets have their turn
_MOST_AT_ONCE = 64

#: the most milliseconds in which free() lets opening handshakes end, and seconds between two checks
_SETTLE_MS = 500
_LOOK_SECONDS = 0.005

OnThread = Callable[[threading.Thread], Ignored]

#: hints for keywords that the constructors do not have
KEYWORDS: dict[str, str] = {
    **AS_KEYWORDS,
    "host": "use port for it too, as in '127.0.0.1:8999'",
    "address": "use port for it too, as in '127.0.0.1:8999'",
    **{
        name: f"set it in the function prepare(server): server.{name} = …"
        for name in WebSocketServerBase._CALLBACKS
    },
    "protocol": "add it in prepare(server): server.websocket_protocols.add(protocol)",
}

#: the parameters of the constructor's callbacks
_PARAMETERS = {"on_start": ("thread",), "on_stop": ("thread",), "prepare": ("server",)}


class ListeningServer(WebSocketServerBase):
    """A server that listens. The parameters are those of :class:`~mormot_ws.WebSocketServer`."""

    _CHECKS: ClassVar[dict[str, Check]] = {"host": IS_TEXT, "port": IS_INT}

    #: the name of the server in log lines, and of its threads without a *process_name*
    _KIND: ClassVar[str] = "WebSocketServer"

    def __init__(
        self,
        port: str | int | None,
        on_start: OnThread | None,
        on_stop: OnThread | None,
        process_name: str,
        settings: WebSocketProcessSettings | None,
        tls_context: ssl.SSLContext | None,
        prepare: Callable[..., Any] | None,
        certificate_file: str | None,
        private_key_file: str | None,
        socket: sockets.socket | Iterable[sockets.socket] | None,
        reuse_port: bool,
        unix_mode: int | None,
    ) -> None:
        place = Place.of(port, socket, reuse_port, unix_mode)
        callbacks = {"on_start": on_start, "on_stop": on_stop, "prepare": prepare}
        for name, callback in callbacks.items():
            if callback is not None:
                check_callback(callback, name, *_PARAMETERS[name])
        super().__init__(process_name or self._KIND, process_name, settings)
        if private_key_file is not None and certificate_file is None:
            raise ValueError("private_key_file requires certificate_file")
        if certificate_file is not None and tls_context is None:
            tls_context = server_tls_context(certificate_file, private_key_file)
        self.tls_context = tls_context
        #: ``f(ctxt: HttpServerRequest) -> status``, handles plain HTTP requests, and those of the
        #: REST protocols; None: 426 or 404
        self.on_request: OnHttpServerRequest | None = None
        self._on_start = on_start
        self._on_stop = on_stop
        # used only by the thread that accepts
        self._accept_log = SeldomLog(LOG_SECONDS)
        #: True: visitors are left to other OS processes that have the same listening socket
        self._leaves_visitors = False
        #: one item for each thread that is accepting; only appended to and popped
        self._accepting: list[None] = []
        # another party has the listening sockets, too, and continues to use them
        self._is_shared = place.is_shared
        self._listener = place.open()
        #: the address on which it listens; the first if there are several; ``unix:/path`` on a Unix
        #: socket
        self.host: str = self._listener.host
        #: the actual port number, even if 0 was given; 0 on a Unix socket
        self.port: int = self._listener.port
        dies_in_child(self)
        self._hint_at_limit()

    def _hint_at_limit(self) -> None:
        limit = descriptor_limit()
        most = self.settings.max_connections
        # macOS gives a program 256
        if limit is not None and limit <= _FEW_DESCRIPTORS and not 0 < most < limit:
            _log.warning(
                "%r: this OS process may open only %d files, and each connection is one: raise the"
                " limit (ulimit -n 8192), or set settings.max_connections below it",
                self,
                limit,
            )

    # ------------------------------------------------------------------------------------- public

    @property
    def address(self) -> str:
        """Where it listens, in the form of the parameter *port*: ``'127.0.0.1:8999'``,
        ``'[::1]:8999'`` or ``'unix:/path'``; the first if there are several.
        """
        return self._listener.address

    def status(self) -> ServerStatus:
        """Return a snapshot for monitoring.

        Any thread may call it. It takes a few µs, plus 1 µs per connection.
        """
        return self._status(self.host, self.port)

    def answer_path(self, path: str, on_request: OnHttpServerRequest) -> None:
        """Let ``f(ctxt: HttpServerRequest) -> status`` handle plain HTTP requests of *path*, e.g.
        ``'/metrics'``, instead of ``on_request``.

        Any thread may call it. Raises ``TypeError`` or ``ValueError`` for invalid arguments, and if
        the path already has a handler.
        """
        if not isinstance(path, str) or not path.startswith("/") or "?" in path:
            raise ValueError(f"the path must begin with '/' and must not contain '?': {path!r}")
        check_callback(on_request, "on_request", "ctxt")
        if self._path_answers.setdefault(path[1:], on_request) is not on_request:
            raise ValueError(f"the path {path!r} already has a handler")

    def leave_visitors(self) -> None:
        """Accept no further connections; existing connections continue.

        Use it only if another OS process has the same listening socket, and accepts the waiting
        connections. Otherwise they wait in vain, and this server keeps a core busy. After this,
        call only ``free()``.
        """
        self._leaves_visitors = True

    def is_settled(self) -> bool:
        """After :meth:`leave_visitors`, return whether no opening handshake is in progress."""
        if self._accepting:
            return False
        status = self.status()
        return status.sockets <= status.connections

    def _unready(self) -> str:
        return "stopping" if self._leaves_visitors else super()._unready()

    def die_in_child(self) -> None:
        super().die_in_child()
        self._listener.die_in_child()
        # free() has nothing left to do
        self._leave_to_parent()

    def end_exit(self, deadline: Deadline) -> None:
        super().end_exit(deadline)
        self._listener.remove_file()

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        state = "stopped" if self._stopping else "running"
        return (
            f"<{self._KIND} {name}{self.address} {state} connections={self.websocket_connections}>"
        )

    # ------------------------------------------------------------------- in the thread that accepts

    @abstractmethod
    def _serve(self, connection: WebSocketServerSocket, sock: sockets.socket) -> None:
        """Begin to serve *connection*, on its blocking *sock*.

        An exception ends the connection, and is logged.
        """

    def _connection(
        self, sock: sockets.socket, address: Any, connection_id: int
    ) -> WebSocketServerSocket:
        """Return a new connection for an accepted socket."""
        return WebSocketServerSocket(self, sock, address, connection_id)

    def _accept_from(self, listening: sockets.socket) -> None:
        """Accept the connections that wait on one of the listener's sockets, without waiting; not
        all of them in a flood.

        Raises the exception of one connection, or of accepting: pass it to :meth:`_cannot_accept`,
        and pause.
        """
        self._accepting.append(None)
        try:
            self._accept_several(listening)
        finally:
            self._accepting.pop()

    def _accept_several(self, listening: sockets.socket) -> None:
        for _ in range(_MOST_AT_ONCE):
            closed = self._stopping or self._leaves_visitors
            visitor = None if closed else self._listener.accept_now(listening)
            if visitor is None:
                return
            if visitor.shortage is not None:
                self._next_connection_id()
                self._count_turned_away()
                self._turn_away(visitor.sock, "too many connections")
                self._cannot_accept(visitor.shortage)
                continue
            try:
                # regardless of socket.setdefaulttimeout()
                visitor.sock.settimeout(None)
                self._begin(visitor)
            except BaseException:
                visitor.sock.close()
                raise

    def _begin(self, visitor: Visitor) -> None:
        sock, address, _ = visitor
        connection = self._connection(sock, address, self._next_connection_id())
        refused = self._admit(connection)
        if refused:
            if not self._stopping:
                self._tell_turned_away(connection, refused)
            self._turn_away(sock, refused)
            return
        try:
            self._serve(connection, sock)
        except BaseException:
            self._forget(connection)
            raise

    @property
    def _is_closed(self) -> bool:
        # otherwise those accepted at the last moment would be the only ones that are refused
        return self._stopping and not self._is_shared

    def _settle(self) -> None:
        if not self._is_shared:
            return
        until = Deadline(min(_SETTLE_MS, self.settings.handshake_timeout))
        while not self.is_settled() and not until.passed:
            # no event reports the end of a handshake, and this happens once in a server's life
            sleep(_LOOK_SECONDS)

    def _turn_away(self, sock: sockets.socket, why: str) -> None:
        """Turn a connection away without waiting: the answer is a courtesy."""
        # with TLS it could not be sent without waiting for the client
        answer = simple_answer(503, why) if self.tls_context is None else b""
        self._listener.turn_away(sock, answer)

    def _cannot_accept(self, exc: BaseException) -> None:
        """Log why a connection was not served, but not every time while the fault lasts."""
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
                "%r: a connection was lost, the server continues: %s: %s%s",
                self,
                type(exc).__name__,
                exc,
                more,
                exc_info=exc,
            )
