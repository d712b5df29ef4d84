"""One accepted connection of a server, and the process that runs it once it was upgraded.

What the connection needs of its server is :class:`ServerOwner`: no server class is imported here,
and no thread is started. A server calls :meth:`WebSocketServerSocket.run` in a thread of its
choice; ``wsgi.py`` begins after the HTTP request, with the upgrade.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from threading import current_thread
from typing import Any, Protocol

from ..core.frames import WebSocketFrame
from ..core.handshake import UpgradeRequest, split_header_lines, upgrade_refusal
from ..logs import get_logger
from ..process.keeper import ProcessKeeper
from ..process.on_socket import WebCrtSocketProcess
from ..protocols.base import WebSocketProtocol
from ..protocols.offered import WebSocketProtocolList
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
    request_context,
    simple_answer,
)
from .visitors import host_is_in, is_trusted, visitor

_log = get_logger("mormot_ws.server")

_PLAIN_TEXT = "text/plain; charset=utf-8"


class ServerOwner(Protocol):
    """What a connection needs of its server. The methods may be called from any thread."""

    settings: WebSocketProcessSettings
    process_name: str
    websocket_protocols: WebSocketProtocolList
    tls_context: ssl.SSLContext | None
    on_request: OnHttpServerRequest | None
    process_class: type[WebSocketProcessServer]
    on_websocket_connect: Callable[[WebSocketServerSocket], Any] | None
    on_websocket_disconnect: Callable[[WebSocketServerSocket], Any] | None
    on_websocket_close: Callable[[WebSocketProtocol], Any] | None
    #: sends heartbeats and what is queued
    _keeper: ProcessKeeper
    #: which connections are in which groups
    _groups: Groups

    @property
    def description(self) -> str:
        """What the server says it is, to a visitor that is no WebSocket client."""

    @property
    def websocket_connections(self) -> int:
        """How many WebSocket connections there are now."""

    def is_active_websocket(self, connection_id: int) -> WebSocketProcessServer | None:
        """Return the process of that connection, None when it is not connected."""

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
        """Count *process* among the WebSocket connections, and find it by its number."""

    def _unregister(self, process: WebSocketProcessServer) -> None:
        """Undo :meth:`_register`."""

    def _forget(self, connection: WebSocketServerSocket) -> None:
        """The connection has ended."""

    def _identify(self, connection: WebSocketServerSocket, ip: str) -> str:
        """Count *connection* for the visitor *ip*; return '', or why it cannot be served."""

    def _tell_turned_away(self, connection: WebSocketServerSocket, why: str) -> None:
        """Count a connection that a limit has turned away, and log it."""

    def _count_refused(self) -> None:
        """Count a refused upgrade."""

    def _notify(self, callback: Callable[[Any], Any] | None, argument: object) -> None:
        """Call *callback*, and log what it raises."""


class WebSocketProcessServer(WebCrtSocketProcess):
    """The server's side of one connection. Mirrors ``TWebSocketProcessServer``."""

    # True while the server's tables have it
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
        )
        #: the accepted connection that this process runs on
        self.owner = owner
        self.remote_ip: str = owner.remote_ip
        self.owner_thread: threading.Thread | None = current_thread()

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        context = HttpServerRequest(connection_id=self.connection_id, remote_ip=self.remote_ip)
        context.auth_bearer = self.protocol.upgrade_bearer_token
        return context, self.owner.server.on_request

    @property
    def given_up(self) -> bool:
        """True once it was cut: its loop is about to end."""
        return self.closer.given_up

    def join(self, group: str) -> bool:
        """Put this connection into *group*, a name of your choice, which is made by that.

        From any thread. Returns False when the connection has ended. It leaves all groups at its
        end. :meth:`WebSocketServer.websocket_broadcast` sends to a group,
        :meth:`WebSocketServer.connections` lists it. Raises ``TypeError``/``ValueError`` for a name
        that is not a ``str``, or empty.
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
        # the callbacks for the end count, and send to, those that are still there
        self.leave_server()
        super().process_stop()

    def leave_server(self) -> None:
        """Be no connection of the server any more.

        In the connection's thread. Safe to call twice.
        """
        if self._listed and not self.owner._inherited:
            self._listed = False
            self._last_groups = self.groups
            self.owner.server._unregister(self)

    def join_server(self) -> None:
        """Be a connection of the server; called once, by the connection's thread."""
        self._listed = True
        self.owner.server._register(self)


class WebSocketServerSocket:
    """One accepted TCP connection; mirrors ``TWebSocketServerSocket``.

    Given to ``on_websocket_connect`` and ``on_websocket_disconnect``.
    """

    def __init__(
        self, server: ServerOwner, sock: socket.socket, address: Any, connection_id: int
    ) -> None:
        #: the server that accepted it
        self.server = server
        #: the server's number for this connection: counts every accepted one, from 1
        self.connection_id = connection_id
        #: the visitor's IP address; '' for a socket without one. Behind a proxy of
        #: ``settings.trusted_proxies`` the one that ``settings.remote_ip_header`` tells
        self.remote_ip: str = _ip_of(address)
        #: what the limits per address count it as; '' for nobody. Guarded by the server's lock
        self.counted_as = ""
        self._peer_ip = self.remote_ip
        # True in a forked child: the connection is the parent's
        self._inherited = False
        #: the WebSocket side, None before the upgrade; mirrors ``WebSocketProcess``
        self.websocket_process: WebSocketProcessServer | None = None
        #: the thread that serves this connection and no other, None where there is none
        self.thread: threading.Thread | None = None
        self._sock = sock
        self._transport: Transport | None = None

    @property
    def websocket_protocol(self) -> WebSocketProtocol | None:
        """The protocol after the upgrade, None before it; mirrors ``WebSocketProtocol``."""
        process = self.websocket_process
        return None if process is None else process.protocol

    def say_goodbye(self, wait_ms: int) -> bool:
        """Send the close frame of a server that stops; tell whether the client will be told.

        False when there is no WebSocket, or somebody is writing for all of *wait_ms*.

        True too where a close handshake is under way: it has its own bound, and must not be cut
        short.
        """
        process = self.websocket_process
        return process is not None and (
            process.start_shutdown(1001, "server stopped", wait_ms)
            or process.connection_close_was_sent
            or process.state is wpsDestroy
        )

    def interrupt(self) -> None:
        """Break the connection, from any thread; its own thread then ends."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def die_in_child(self) -> None:
        """In a forked child: close this copy of the descriptor."""
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
        # one connection's fault must not reach the others, and each end has its line in the log
        except BaseException:
            # it ends a child that a callback has forked
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
            status, why = self._admission(request)
            if status:
                self._refuse(transport, simple_answer(status, why))
                return None
            if request.is_upgrade:
                return self._upgrade(transport, request, http.unread)
            if not self._answer_plain(http, request, content):
                transport.finish(Deadline(settings.close_timeout))
                return None
            deadline = Deadline(settings.keep_alive_timeout)

    def _admission(self, request: UpgradeRequest) -> tuple[int, str]:
        """Find out who asks and for what host; return the status of a refusal, or 0, and why."""
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
        # an upgrade is refused by the list of protocols, in the form that is due there
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
            context.out_content_type = _PLAIN_TEXT
        else:
            try:
                status = int(server.on_request(context))
                headers = split_header_lines(context.out_custom_headers)
            # a bug in the user's code, or its sys.exit(), is a 500 for this request
            except BaseException:
                # it ends a child that on_request has forked
                if self._inherited:
                    raise
                fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
                _log.exception("on_request failed for %r", context, extra=fields)
                status, headers = 500, []
                context.out_content, context.out_content_type = "on_request failed\n", _PLAIN_TEXT
        if context.out_content_type == NORESPONSE_CONTENT_TYPE:
            context.out_content_type = ""  # plain HTTP cannot do without an answer
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
        # a bug in one of the application's protocols, or its sys.exit()
        except BaseException:
            # it ends a child that the protocol has forked
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
            # a thread that stops the server meanwhile waits for our answer, and says goodbye behind
            # it; known before the client has it, so that a broadcast reaches every client whose
            # upgrade has returned
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
        """*thread* serves this connection, and no other: for the server."""
        self.thread = thread

    def __repr__(self) -> str:
        return (
            f"<WebSocketServerSocket #{self.connection_id} {self.remote_ip} "
            f"{self.websocket_process!r}>"
        )


def _ip_of(address: object) -> str:
    """Return the IP address in a socket's *address*; an IPv4 one without its IPv6 form."""
    ip = str(address[0]) if isinstance(address, tuple) and address else ""
    return ip.removeprefix("::ffff:") if "." in ip else ip
