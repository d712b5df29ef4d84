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

from ..core.forks import dies_in_child
from ..core.handshake import UpgradeRequest, split_header_lines
from ..core.publicdir import PublicDir
from ..errors import HttpServerError
from ..process.free_in_callback import meet_free_in_callback
from ..process.freeing import close_at_exit, forget_at_exit
from ..process.on_socket import WebCrtSocketProcess
from ..protocols.base import WebSocketProtocol
from ..request import NORESPONSE_CONTENT_TYPE, HttpServerRequest, OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.tls_contexts import server_tls_context
from ..sockets.tls_transport import TlsTransport
from ..sockets.transport import Transport
from ..states import wpsDestroy
from ..status import ServerStatus
from .base import WebSocketHost
from .http import HttpFault, HttpServerConnection, request_context, simple_answer

_log = logging.getLogger("mormot_ws.server")

#: seconds between two log lines about the same error of accepting, while it lasts
_ACCEPT_LOG_SECONDS = 10.0

OnThread = Callable[[threading.Thread], Any]


class WebSocketProcessServer(WebCrtSocketProcess):
    """The server's side of one connection. Mirrors ``TWebSocketProcessServer``."""

    def __init__(
        self, owner: WebSocketServerSocket, protocol: WebSocketProtocol, server: WebSocketHost
    ) -> None:
        super().__init__(
            protocol,
            server.settings,
            server._keeper,
            mask_sent_frames=False,
            connection_id=owner.connection_id,
            process_name=server.process_name,
        )
        #: the accepted connection that this process runs on
        self.owner = owner
        self.remote_ip: str = owner.remote_ip
        self.owner_thread: threading.Thread | None = current_thread()

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        context = HttpServerRequest(connection_id=self.connection_id, remote_ip=self.remote_ip)
        context.auth_bearer = self.protocol.upgrade_bearer_token
        return context, self.owner.server.on_request


class WebSocketServerSocket(PublicDir):
    """One accepted TCP connection, from its first byte to its last. Mirrors
    ``TWebSocketServerSocket``.

    Given to ``on_websocket_connect`` and ``on_websocket_disconnect``.
    """

    _internal = frozenset({"die_in_child", "run", "say_goodbye"})

    def __init__(
        self, server: WebSocketHost, sock: socket.socket, address: Any, connection_id: int
    ) -> None:
        #: the server that accepted it
        self.server = server
        #: the server's number for this connection: counts every accepted one, from 1
        self.connection_id = connection_id
        #: the peer's IP address; '' for a socket without one
        self.remote_ip: str = str(address[0]) if isinstance(address, tuple) and address else ""
        #: the WebSocket side, None before the upgrade; mirrors ``WebSocketProcess``
        self.websocket_process: WebSocketProcessServer | None = None
        self._sock = sock
        self._transport: Transport | None = None
        self._inherited = False  # this is a forked child

    @property
    def websocket_protocol(self) -> WebSocketProtocol | None:
        """The protocol of the connection, None before the upgrade; mirrors ``WebSocketProtocol``."""
        process = self.websocket_process
        return None if process is None else process.protocol

    def say_goodbye(self, wait_ms: int) -> bool:
        """Send the close frame of a server that stops; False when there is no WebSocket, or
        somebody is writing for all of *wait_ms*.

        True too where a close handshake is under way: it has its own bound, and must not be cut
        short.
        """
        process = self.websocket_process
        return process is not None and (
            process.start_shutdown(1001, "server stopped", wait_ms)
            or process.connection_close_was_sent
            or process.state is wpsDestroy
        )

    def die_in_child(self) -> None:
        """In a forked child: close this copy of the descriptor."""
        self._inherited = True
        self._sock.close()

    def interrupt(self) -> None:
        """Break the connection, from any thread; its own thread then ends."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    # ---------------------------------------------------------------------- the connection's thread

    def run(self) -> None:
        """Serve the connection to its end."""
        server = self.server
        try:
            self._serve()
        except (OSError, EOFError) as exc:
            if not self._inherited:
                _log.debug(
                    "#%d from %s: %s: %s",
                    self.connection_id,
                    self.remote_ip,
                    type(exc).__name__,
                    exc,
                )
        except Exception:  # noqa: BLE001 - one connection's fault must not reach the others
            fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
            _log.exception("#%d from %s failed", self.connection_id, self.remote_ip, extra=fields)
        finally:
            with contextlib.suppress(OSError):
                self._sock.close()
            server._forget(self)

    def _serve(self) -> None:
        server = self.server
        settings = server.settings
        deadline = Deadline(settings.handshake_timeout)
        if server.tls_context is None:
            transport = Transport(self._sock, settings.send_timeout)
        else:
            transport = TlsTransport(
                self._sock, server.tls_context, settings.send_timeout, server_side=True
            )
            transport.handshake(deadline)
        self._transport = transport
        process = self._handshake(transport, deadline)
        if process is not None:
            self._run_process(process)

    def _handshake(self, transport: Transport, deadline: Deadline) -> WebSocketProcessServer | None:
        """Answer HTTP requests until one upgrades; return its process, or None when the connection
        is done with.

        A function of its own, so that nothing of the handshake stays in memory while the process
        runs.
        """
        settings = self.server.settings
        http = HttpServerConnection(transport, settings.max_header_bytes, settings.max_body_bytes)
        while True:
            try:
                asked = http.read_request(deadline)
            except HttpFault as fault:
                _log.debug("#%d: bad request: %s", self.connection_id, fault.text)
                self._refuse(transport, simple_answer(fault.status, fault.text))
                return None
            if asked is None:
                return None
            request, content = asked
            if request.is_upgrade:
                return self._upgrade(transport, request, http.unread)
            if not self._answer_plain(http, request, content):
                transport.finish(Deadline(settings.close_timeout))
                return None
            deadline = Deadline(settings.keep_alive_timeout)

    def _answer_plain(
        self, http: HttpServerConnection, request: UpgradeRequest, content: bytes
    ) -> bool:
        """Answer what is no upgrade; return True when the connection stays open."""
        server = self.server
        context = request_context(request, content, self.connection_id, self.remote_ip)
        headers: list[tuple[str, str]] = []
        if server.on_request is None:
            if server.websocket_protocols.serves_uri(request.path):
                status = 426
                headers = [
                    ("Upgrade", "websocket"),
                    ("Connection", "Upgrade"),
                    ("Sec-WebSocket-Version", "13"),
                ]
            else:
                status = 404
            context.out_content = (
                f"This is {server.description}; connect to it with a WebSocket client.\n"
            )
            context.out_content_type = "text/plain; charset=utf-8"
        else:
            try:
                status = int(server.on_request(context))
                headers = split_header_lines(context.out_custom_headers)
            except Exception:  # noqa: BLE001 - a bug in the user's code is a 500 for this request
                fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
                _log.exception("on_request failed for %r", context, extra=fields)
                status, headers = 500, []
                context.out_content, context.out_content_type = (
                    "on_request failed\n",
                    "text/plain; charset=utf-8",
                )
        if context.out_content_type == NORESPONSE_CONTENT_TYPE:
            context.out_content_type = ""  # plain HTTP cannot do without an answer
        body = context.out_content
        if isinstance(body, str):
            body = body.encode("utf-8")
        return http.answer(
            status, body, context.out_content_type, [("Server", "mormot_ws"), *headers]
        )

    def _upgrade(
        self, transport: Transport, request: UpgradeRequest, unread: bytes
    ) -> WebSocketProcessServer | None:
        _, protocol, answer = self._negotiate(request)
        if protocol is None:
            self._refuse(transport, answer)
            return None
        return self._accept(transport, protocol, answer, unread)

    def _negotiate(self, request: UpgradeRequest) -> tuple[int, WebSocketProtocol | None, bytes]:
        """Return the status, the connection's protocol, and the answer; there is no protocol when
        the upgrade is refused.
        """
        server = self.server
        settings = server.settings
        status, protocol, answer = server.websocket_protocols.server_upgrade(
            request,
            self.remote_ip,
            self.connection_id,
            settings.deflate_options() if settings.permessage_deflate else None,
            settings.allowed_origins,
        )
        if protocol is None:
            server._count_refused()
            fields = {
                "connection_id": self.connection_id,
                "remote_ip": self.remote_ip,
                "http_status": status,
            }
            _log.info(
                "#%d from %s: upgrade refused with %d",
                self.connection_id,
                self.remote_ip,
                status,
                extra=fields,
            )
        return status, protocol, answer

    def _accept(
        self, transport: Transport, protocol: WebSocketProtocol, answer: bytes, unread: bytes
    ) -> WebSocketProcessServer:
        """Send the *answer* that accepts an upgrade; return the connection's process."""
        server = self.server
        process = server.process_class(self, protocol, server)
        process.attach(transport, unread)
        protocol.prepare_process(process)
        try:
            # whoever stops the server meanwhile waits for our answer, and says goodbye behind it;
            # known before the client has it, so that a broadcast reaches every client whose upgrade
            # has returned
            with process.safe_out:
                self.websocket_process = process
                process.run_at_once()
                server._register(process)
                transport.sendall(answer)
            protocol.after_upgrade(process)
        except BaseException:
            server._unregister(process)
            process._set_state(wpsDestroy)
            raise
        return process

    def _run_process(self, process: WebSocketProcessServer) -> None:
        """Run an upgraded connection to its end."""
        server = self.server
        try:
            server._notify(server.on_websocket_connect, self)
            process.process_loop()
        finally:
            if not self._inherited:
                server._unregister(process)
                server._notify(server.on_websocket_disconnect, self)
                server._notify(server.on_websocket_close, process.protocol)

    def _refuse(self, transport: Transport, answer: bytes) -> None:
        transport.sendall(answer)
        transport.finish(Deadline(self.server.settings.close_timeout))

    def __repr__(self) -> str:
        return f"<WebSocketServerSocket #{self.connection_id} {self.remote_ip} {self.websocket_process!r}>"


class WebSocketServer(WebSocketHost):
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
        #: set by the first free() when it has done its work; later ones wait for it
        self._freed = threading.Event()
        # set by free(): ends the accept thread's pause after an error
        self._retry = threading.Event()
        self._listener = _listen(host, number)
        dies_in_child(self)
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

    def free(self) -> None:
        """Stop: send 1001 to every client, wait for the answers together, end every thread. Mirrors
        ``Free``.

        From any thread but the server's own: inside a callback of one of its connections it behaves
        as ``settings.free_in_callback`` says. Takes up to ``close_timeout`` ms for clients that do
        not answer, and for callbacks that run up to 2.5 s more. Safe to call twice.
        """
        with self._safe_connections:
            own = current_thread() is self._acceptor or current_thread() in self._sockets.values()
            first = not self._stopping
            if not own:
                self._stopping = True
        if own:
            meet_free_in_callback(self, "server", self.settings)
        if not first:
            self._freed.wait(10)
            return
        self._stop_accepting()
        with self._safe_connections:
            sockets = dict(self._sockets)
        self._say_goodbye(sockets)
        self._join(sockets)
        self._keeper.stop()
        forget_at_exit(self)
        self._freed.set()
        _log.debug("%r freed", self)

    def die_in_child(self) -> None:
        super().die_in_child()
        self._listener.close()
        # there is nothing left to do for a free()
        self._stopping = self._inherited = True
        self._freed, self._retry = threading.Event(), threading.Event()
        self._freed.set()
        self._retry.set()

    def end_exit(self, deadline: Deadline) -> None:
        """The interpreter ends: wait for the goodbyes, then cut."""
        with self._safe_connections:
            sockets = dict(self._sockets)
        for socket_, thread in sockets.items():
            # else it has ended, or was not started yet, which join() does not like
            if thread.is_alive():
                thread.join(deadline.seconds())
            socket_.interrupt()

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        state = "stopped" if self._stopping else "running"
        return f"<WebSocketServer {name}{self.host}:{self.port} {state} connections={self.websocket_connections}>"

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
        self._last_connection_id += 1
        connection = WebSocketServerSocket(self, sock, address, self._last_connection_id)
        # daemon: a callback that never returns must not keep the interpreter from ending
        thread = threading.Thread(
            target=self._run_connection,
            args=(connection,),
            name=f"{self.process_name or 'WebSocketServer'} #{connection.connection_id}",
            daemon=True,
        )
        refused = self._admit(connection, thread)
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

    def _join(self, sockets: dict[WebSocketServerSocket, threading.Thread]) -> None:
        """Wait for the connections' threads: first for the close handshakes, then for those that
        had to be cut.
        """
        deadline = Deadline(2 * self.settings.close_timeout)
        for thread in sockets.values():
            thread.join(deadline.seconds())
        left = {socket_: thread for socket_, thread in sockets.items() if thread.is_alive()}
        for socket_ in left:
            socket_.interrupt()
        deadline = Deadline(2500)
        for socket_, thread in left.items():
            thread.join(deadline.seconds())
            if thread.is_alive():
                number = socket_.connection_id
                fields = {"connection_id": number, "remote_ip": socket_.remote_ip}
                _log.error(
                    "%r: a callback of #%d does not return; its thread is left",
                    self,
                    number,
                    extra=fields,
                )


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
