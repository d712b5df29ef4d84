"""One accepted connection of a server, and the process that runs it after the upgrade.

:class:`ServerOwner` is what a connection needs of its server: this module imports no server class,
and starts no thread. A server calls :meth:`WebSocketServerSocket.run` in a thread of its choice;
``wsgi.py`` begins with the upgrade, after the HTTP request.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from threading import current_thread
from typing import Any, Protocol

from ..attributes import KnownAttributes
from ..core.addresses import UNIX_PEER
from ..core.frames import WebSocketFrame
from ..core.handshake import UpgradeRequest, split_header_lines, upgrade_refusal
from ..logs import get_logger
from ..process.keeper import ProcessKeeper
from ..process.on_socket import WebCrtSocketProcess
from ..protocols.base import WebSocketProtocol
from ..protocols.protocol_list import WebSocketProtocolList
from ..request import NORESPONSE_CONTENT_TYPE, HttpServerRequest, OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.tls_transport import TlsTransport
from ..sockets.transport import Transport
from ..states import wpsDestroy
from .groups import Groups
from .http import (
    HttpFault,
    HttpServerConnection,
    UnsendableAnswer,
    answer_visitor,
    request_context,
    simple_answer,
)
from .visitors import host_is_in, is_trusted, visitor

_log = get_logger("mormot_ws.server")

_PLAIN_TEXT = "text/plain; charset=utf-8"


class ServerOwner(Protocol):
    """What a connection needs of its server. Any thread may call the methods."""

    settings: WebSocketProcessSettings
    process_name: str
    websocket_protocols: WebSocketProtocolList
    tls_context: ssl.SSLContext | None
    on_request: OnHttpServerRequest | None
    process_class: type[WebSocketProcessServer]
    on_websocket_connect: Callable[[WebSocketServerSocket], Any] | None
    on_websocket_disconnect: Callable[[WebSocketServerSocket], Any] | None
    on_websocket_close: Callable[[WebSocketProtocol], Any] | None
    #: sends heartbeats and queued frames
    _keeper: ProcessKeeper
    #: which connections are in which groups
    _groups: Groups

    @property
    def description(self) -> str:
        """The server's description of itself, for visitors that are not WebSocket clients."""

    @property
    def websocket_connections(self) -> int:
        """The number of current WebSocket connections."""

    def is_active_websocket(self, connection_id: int) -> WebSocketProcessServer | None:
        """Return the process of that connection; None when it is not connected."""

    def websocket_broadcast(
        self,
        frame: WebSocketFrame,
        connection_ids: Iterable[int] | None = None,
        *,
        group: str | None = None,
        exclude: Iterable[int] = (),
    ) -> int:
        """Queue *frame* on all connections, those of *connection_ids*, or those of *group*."""

    def _register(self, process: WebSocketProcessServer) -> None:
        """Add *process* to the table of WebSocket connections."""

    def _unregister(self, process: WebSocketProcessServer) -> None:
        """Undo :meth:`_register`."""

    def _forget(self, connection: WebSocketServerSocket) -> None:
        """Remove *connection*, which has ended."""

    def _identify(self, connection: WebSocketServerSocket, ip: str) -> str:
        """Count *connection* for the client *ip*; return '', or why it cannot be served."""

    def _tell_turned_away(self, connection: WebSocketServerSocket, why: str) -> None:
        """Count and log a connection that a limit has turned away."""

    def _count_refused(self) -> None:
        """Count a refused upgrade."""

    def _notify(self, callback: Callable[[Any], Any] | None, argument: object) -> None:
        """Call *callback*, and log what it raises."""


class WebSocketProcessServer(WebCrtSocketProcess):
    """The server's side of one connection. Mirrors ``TWebSocketProcessServer``."""

    # True while it is in the server's tables
    _listed = False
    # the groups that it was in at its end
    _last_groups: frozenset[str] = frozenset()

    def __init__(
        self, owner: WebSocketServerSocket, protocol: WebSocketProtocol, server: ServerOwner
    ) -> None:
        super().__init__(
            protocol,
            server.settings,
            server._keeper,
            mask_sent_frames=False,
            connection_id=owner.connection_id,
            process_name=server.process_name,
            remote_ip=owner.remote_ip,
            owner_thread=current_thread(),
        )
        #: the accepted connection on which this process runs
        self.owner = owner

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        context = HttpServerRequest(connection_id=self.connection_id, remote_ip=self.remote_ip)
        context.auth_bearer = self.protocol.upgrade_bearer_token
        return context, self.owner.server.on_request

    @property
    def given_up(self) -> bool:
        """True once the connection was cut: its loop is about to end."""
        return self.closer.given_up

    def join(self, group: str) -> bool:
        """Put this connection into *group*, a name of your choice, which is made by that.

        From any thread. Returns False when the connection has ended. It leaves all groups at its
        end. The server's ``websocket_broadcast()`` sends to a group, its ``connections()`` lists
        it. Raises ``TypeError``/``ValueError`` for a name that is not a ``str``, or empty.
        """
        return self.owner.server._groups.join(self, group)

    def leave(self, group: str) -> bool:
        """Take this connection out of *group*; return False when it was not in it. From any
        thread.
        """
        return self.owner.server._groups.leave(self, group)

    @property
    def groups(self) -> frozenset[str]:
        """The groups that this connection is in; once it has ended, those that it was in then."""
        return self.owner.server._groups.groups_of(self) or self._last_groups

    def process_stop(self) -> None:
        # the callbacks for the end count only, and send only to, the other connections
        self.leave_server()
        super().process_stop()

    def leave_server(self) -> None:
        """Leave the server's tables.

        Called in the connection's thread. Safe to call twice.
        """
        if self._listed and not self.owner._inherited:
            self._listed = False
            self._last_groups = self.groups
            self.owner.server._unregister(self)

    def join_server(self) -> None:
        """Join the server's tables; called once, in the connection's thread."""
        self._listed = True
        self.owner.server._register(self)


class WebSocketServerSocket(KnownAttributes):
    """One accepted TCP connection; mirrors ``TWebSocketServerSocket``.

    ``on_websocket_connect`` and ``on_websocket_disconnect`` get it.
    """

    def __init__(
        self, server: ServerOwner, sock: socket.socket, address: Any, connection_id: int
    ) -> None:
        #: the server that accepted it
        self.server = server
        #: the server's number for this connection; all accepted connections count, from 1
        self.connection_id = connection_id
        #: the client's IP address; ``'unix:'`` on a Unix socket. Behind one of
        #: ``settings.trusted_proxies`` it is taken from ``settings.remote_ip_header``
        self.remote_ip: str = _ip_of(sock, address)
        self._peer_ip = self.remote_ip
        # True in a forked child: the connection belongs to the parent
        self._inherited = False
        #: the process of the WebSocket; None before the upgrade; mirrors ``WebSocketProcess``
        self.websocket_process: WebSocketProcessServer | None = None
        #: the thread that serves only this connection; None if there is none
        self.thread: threading.Thread | None = None
        self._sock = sock
        self._transport: Transport | None = None

    @property
    def websocket_protocol(self) -> WebSocketProtocol | None:
        """The protocol after the upgrade, None before it; mirrors ``WebSocketProtocol``."""
        process = self.websocket_process
        return None if process is None else process.protocol

    def say_goodbye(self, wait_ms: int) -> bool:
        """Send the close frame of a server that stops; return whether the client will get one.

        False when there is no WebSocket, or when another thread is writing for all of *wait_ms*.
        True also when a close handshake is under way: it has its own time limit, and must not be
        cut short.
        """
        process = self.websocket_process
        return process is not None and (
            process.start_shutdown(1001, "server stopped", wait_ms)
            or process.connection_close_was_sent
            or process.state is wpsDestroy
        )

    def interrupt(self) -> None:
        """Break the connection, so that its thread ends. Any thread may call it."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def die_in_child(self) -> None:
        """Close this copy of the descriptor, in a forked child."""
        self._inherited = True
        self._sock.close()

    # ---------------------------------------------------------------------- the connection's thread

    def run(self) -> None:
        """Serve the connection to its end."""
        server = self.server
        try:
            self._serve()
        except (OSError, EOFError) as exc:
            self._log_end(exc)
        # a fault of one connection must not affect others, and is logged
        except BaseException:
            # it has to end a child that was forked by a callback
            if self._inherited:
                raise
            fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
            _log.exception("#%d from %s failed", self.connection_id, self.remote_ip, extra=fields)
        finally:
            with contextlib.suppress(OSError):
                self._sock.close()
            server._forget(self)

    def _log_end(self, exc: Exception) -> None:
        if not self._inherited:
            what = type(exc).__name__
            _log.debug("#%d from %s: %s: %s", self.connection_id, self.remote_ip, what, exc)

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
        """Answer HTTP requests until one upgrades; return its process, None at the end.

        It is a separate function, so that the handshake's data do not stay in memory while the
        process runs.
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
            status, why = self._admission(request)
            if status:
                self._refuse(transport, simple_answer(status, why))
                return None
            if request.is_upgrade:
                return self._upgrade(transport, request, http.unread)
            if not self._answer_plain(http, request, content):
                transport.finish(Deadline(settings.close_timeout))
                return None
            # an idle connection holds nothing of its last request
            del asked, request, content
            deadline = Deadline(settings.keep_alive_timeout)

    def _admission(self, request: UpgradeRequest) -> tuple[int, str]:
        """Check the client's address and the host; return (status of a refusal or 0, why)."""
        server = self.server
        settings = server.settings
        fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
        header = settings.remote_ip_header
        if header and is_trusted(self._peer_ip, settings.trusted_proxies):
            self.remote_ip = visitor(
                self._peer_ip, request.all(header.lower()), settings.trusted_proxies
            )
            fields["remote_ip"] = self.remote_ip
            why = server._identify(self, self.remote_ip)
            if why:
                server._tell_turned_away(self, why)
                return 503, why
        if not host_is_in(request.all("host"), settings.allowed_hosts):
            _log.info(
                "#%d from %s: a request for the host %.200r is refused: allowed_hosts does not "
                "have it",
                self.connection_id,
                self.remote_ip,
                ", ".join(request.all("host")),
                extra=fields,
            )
            return 403, "this host is not served"
        # for an upgrade, the list of protocols checks the origin, and refuses it in its own form
        if not request.is_upgrade and not request.origin_is_in(settings.allowed_origins):
            _log.info(
                "#%d from %s: a request by a page of %.200s is refused: allowed_origins does not "
                "have that origin",
                self.connection_id,
                self.remote_ip,
                ", ".join(map(repr, request.all("origin"))),
                extra=fields,
            )
            return 403, "this origin is not served"
        return 0, ""

    def _answer_plain(
        self, http: HttpServerConnection, request: UpgradeRequest, content: bytes
    ) -> bool:
        """Answer a plain HTTP request; return True when the connection stays open."""
        server = self.server
        context = request_context(request, content, self.connection_id, self.remote_ip)
        headers: list[tuple[str, str]] = []
        if server.on_request is None:
            served = server.websocket_protocols.serves_uri(request.path)
            status = answer_visitor(context, server.description, served)
            headers = split_header_lines(context.out_custom_headers)
        else:
            try:
                status = int(server.on_request(context))
                headers = split_header_lines(context.out_custom_headers)
            # a bug or sys.exit() in the user's code gives this request a 500
            except BaseException:
                # it has to end a child that was forked by on_request
                if self._inherited:
                    raise
                fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
                _log.exception("on_request failed for %r", context, extra=fields)
                status, headers = 500, []
                context.out_content, context.out_content_type = "on_request failed\n", _PLAIN_TEXT
        if context.out_content_type == NORESPONSE_CONTENT_TYPE:
            context.out_content_type = ""  # plain HTTP always needs an answer
        headers.insert(0, ("Server", "mormot_ws"))
        try:
            return http.answer(status, context.out_content, context.out_content_type, headers)
        except UnsendableAnswer as exc:
            fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
            _log.error(
                "what on_request has answered to %r cannot be sent: %s; 500 is sent",
                context,
                exc,
                extra=fields,
            )
        transport = http.transport
        answer = simple_answer(500, "on_request failed")
        transport.sendall(
            answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if context.method == "HEAD" else answer
        )
        return False

    def _upgrade(
        self, transport: Transport, request: UpgradeRequest, unread: bytes
    ) -> WebSocketProcessServer | None:
        _, protocol, answer = self._negotiate(request)
        if protocol is None:
            self._refuse(transport, answer)
            return None
        return self._accept(transport, protocol, answer, unread)

    def _negotiate(self, request: UpgradeRequest) -> tuple[int, WebSocketProtocol | None, bytes]:
        """Return the status, the connection's protocol (None: refused) and the answer."""
        server = self.server
        settings = server.settings
        fields: dict[str, Any] = {
            "connection_id": self.connection_id,
            "remote_ip": self.remote_ip,
        }
        try:
            status, protocol, answer = server.websocket_protocols.server_upgrade(
                request,
                self.remote_ip,
                self.connection_id,
                settings.deflate_options() if settings.permessage_deflate else None,
                settings.allowed_origins,
            )
        # a bug or sys.exit() in one of the application's protocols
        except BaseException:
            # it has to end a child that was forked by the protocol
            if self._inherited:
                raise
            _log.exception(
                "#%d from %s: a protocol failed on an upgrade",
                self.connection_id,
                self.remote_ip,
                extra=fields,
            )
            status, protocol, answer = 500, None, upgrade_refusal(500)
        if protocol is None:
            server._count_refused()
            fields["http_status"] = status
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
            # Under the lock, a thread that stops the server waits for our answer, and sends its
            # close frame after it. The tables get the process before the client gets the answer, so
            # a broadcast reaches every client whose upgrade has returned.
            with process.safe_out:
                self.websocket_process = process
                process.enter_run()
                process.join_server()
                transport.sendall(answer)
            process.entered_run()
            protocol.after_upgrade(process)
        except BaseException:
            process.leave_server()
            process.set_state(wpsDestroy)
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
                process.leave_server()
                server._notify(server.on_websocket_disconnect, self)
                server._notify(server.on_websocket_close, process.protocol)

    def _refuse(self, transport: Transport, answer: bytes) -> None:
        transport.sendall(answer)
        transport.finish(Deadline(self.server.settings.close_timeout))

    def served_by(self, thread: threading.Thread) -> None:
        """Record that *thread* serves only this connection; called by the server."""
        self.thread = thread

    def __repr__(self) -> str:
        return (
            f"<WebSocketServerSocket #{self.connection_id} {self.remote_ip} "
            f"{self.websocket_process!r}>"
        )


def _ip_of(sock: socket.socket, address: object) -> str:
    """Return the IP address in a socket's *address*; an IPv4-mapped one in its IPv4 form."""
    ip = str(address[0]) if isinstance(address, tuple) and address else ""
    if not ip and sock.family == getattr(socket, "AF_UNIX", None):
        return UNIX_PEER
    return ip.removeprefix("::ffff:") if "." in ip else ip
