"""One accepted connection of a server, and the process that runs it after the upgrade.

This module imports no server class: ``owner.py`` says what a connection needs from its server. It
starts no thread. A server calls :meth:`WebSocketServerSocket.run` in a thread of its choice;
``wsgi.py`` starts with the upgrade, after the HTTP request.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from threading import current_thread, get_ident
from types import NoneType
from typing import Any, ClassVar

from ..attributes import IS_INT, IS_TEXT, Check, CheckedAttributes, of_kind
from ..core.handshake import UpgradeRequest, split_header_lines, upgrade_refusal
from ..logs import get_logger
from ..process.on_socket import WebCrtSocketProcess
from ..protocols.base import WebSocketProtocol
from ..request import NORESPONSE_CONTENT_TYPE, HttpServerRequest, OnHttpServerRequest
from ..sockets.deadline import Deadline
from ..sockets.tls_transport import TlsTransport
from ..sockets.transport import Transport
from ..states import wpsDestroy
from .health import answer_health, is_health_check
from .http import (
    HttpFault,
    HttpServerConnection,
    UnsendableAnswer,
    answer_visitor,
    request_context,
    simple_answer,
)
from .opening import Opening, OpeningFault, opening_of
from .owner import ServerOwner
from .visitors import host_is_in, ip_of, is_trusted, visitor

_log = get_logger("mormot_ws.server")

_PLAIN_TEXT = "text/plain; charset=utf-8"


class WebSocketProcessServer(WebCrtSocketProcess):
    """The server's side of one connection. Mirrors ``TWebSocketProcessServer``."""

    _CHECKS: ClassVar[dict[str, Check]] = {
        # the class below
        "owner": lambda name, value: of_kind(WebSocketServerSocket)(name, value)
    }

    # True while it is in the server's tables
    _listed = False
    # the groups that it belonged to at its end
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
        """Add this connection to *group*, a name of your choice; the group need not exist.

        Any thread may call it. Returns False if the connection has ended. The connection leaves all
        groups when it ends. The server's ``websocket_broadcast()`` sends to a group, its
        ``connections()`` lists it. Raises ``TypeError``/``ValueError`` for a name that is not a
        ``str``, or empty.
        """
        return self.owner.server._groups.join(self, group)

    def leave(self, group: str) -> bool:
        """Remove this connection from *group*; return False if it was not a member. Any thread may
        call it.
        """
        return self.owner.server._groups.leave(self, group)

    @property
    def groups(self) -> frozenset[str]:
        """The groups that this connection belongs to; after its end, those that it belonged to
        last."""
        return self.owner.server._groups.groups_of(self) or self._last_groups

    def finish(self) -> None:
        if not self.owner.lingers(self):
            super().finish()

    def process_stop(self) -> None:
        # callbacks for the end only count, and only send to, the other connections
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


class WebSocketServerSocket(CheckedAttributes):
    """One accepted TCP connection; mirrors ``TWebSocketServerSocket``.

    It is passed to ``on_websocket_connect`` and ``on_websocket_disconnect``.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "connection_id": IS_INT,
        "remote_ip": IS_TEXT,
        "websocket_process": of_kind(WebSocketProcessServer, NoneType),
        "thread": of_kind(threading.Thread, NoneType),
    }
    _FROM_CLASS = ("websocket_process", "thread")

    #: the process of the WebSocket; None before the upgrade; mirrors ``WebSocketProcess``
    websocket_process: WebSocketProcessServer | None = None
    #: the thread that serves only this connection; None if there is none
    thread: threading.Thread | None = None
    # True in a forked child: the connection belongs to the parent
    _inherited: bool = False
    # a request without TLS on a port with TLS: only health checks are answered
    _plain_on_tls: bool = False
    _transport: Transport | None = None

    def __init__(
        self, server: ServerOwner, sock: socket.socket, address: Any, connection_id: int
    ) -> None:
        #: the server that accepted it
        self.server = server
        #: the server's number for this connection; all accepted connections count, from 1
        self.connection_id = connection_id
        #: the client's IP address; ``'unix:'`` on a Unix socket. Behind one of
        #: ``settings.trusted_proxies`` it is taken from ``settings.remote_ip_header``
        self.remote_ip: str = ip_of(sock, address)
        self._peer_ip = self.remote_ip
        self._sock = sock

    @property
    def websocket_protocol(self) -> WebSocketProtocol | None:
        """The protocol after the upgrade, None before it; mirrors ``WebSocketProtocol``."""
        process = self.websocket_process
        return None if process is None else process.protocol

    def say_goodbye(self, wait_ms: int) -> bool:
        """Send the close frame of a server that stops; return whether the client will get one.

        False if there is no WebSocket, or if another thread is writing for all of *wait_ms*. True
        also if a close handshake is in progress: it has its own time limit, and must not be cut
        short.
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
        # after that: a process that is created meanwhile finds the socket shut down
        if self._transport is not None:
            self._transport.shutdown()

    def die_in_child(self) -> None:
        """Close this copy of the descriptor, in a forked child."""
        self._inherited = True
        self._sock.close()

    # ---------------------------------------------------------------------- the connection's thread

    def run(self) -> None:
        """Serve the connection to its end."""
        try:
            self._serve()
        # a fault of one connection must not affect others, and is logged
        except BaseException as exc:  # noqa: BLE001
            self._log_failure(exc)
        finally:
            self._release()

    def _log_failure(self, exc: BaseException) -> None:
        """Log what has ended the connection. In a child that a callback has forked, raise it
        again, because it has to end that child.
        """
        if isinstance(exc, (OSError, EOFError)):
            self._log_end(exc)
            return
        if self._inherited:
            raise exc
        fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
        if isinstance(exc, OpeningFault):
            exc.log(self.server._opening_log, fields)
            return
        text = "#%d from %s failed"
        _log.error(text, self.connection_id, self.remote_ip, extra=fields, exc_info=exc)

    def _log_end(self, exc: Exception) -> None:
        if not self._inherited:
            what = type(exc).__name__
            _log.debug("#%d from %s: %s: %s", self.connection_id, self.remote_ip, what, exc)

    def _release(self) -> None:
        """Close the socket, and leave the server's tables."""
        with contextlib.suppress(OSError):
            (self._transport or self._sock).close()
        self.server._forget(self)

    def _serve(self) -> None:
        settings = self.server.settings
        deadline = Deadline(settings.handshake_timeout)
        opening = self._opening(deadline)
        if opening is not None:
            opening.wait()
            if not self._opened(opening):
                return
        transport = self._open_transport()
        if isinstance(transport, TlsTransport):
            transport.handshake(deadline)
        process = self._handshake(transport, deadline)
        if process is not None:
            self._run_process(process)

    def _opening(self, deadline: Deadline) -> Opening | None:
        """Return what has to be read before TLS and HTTP; None: nothing."""
        server = self.server
        has_tls = server.tls_context is not None
        return opening_of(self._sock, self._peer_ip, server.settings, has_tls, deadline)

    def _opened(self, opening: Opening) -> bool:
        """Use what was read; return False if the connection cannot be served."""
        self._plain_on_tls = opening.is_plain
        if not opening.source:
            return True
        self._peer_ip = self.remote_ip = opening.source
        why = self.server._identify(self, self.remote_ip)
        if not why:
            return True
        self.server._tell_turned_away(self, why)
        if self.server.tls_context is None:
            # a courtesy, like that to visitors who are turned away earlier
            with contextlib.suppress(OSError):
                self._sock.setblocking(False)
                self._sock.send(simple_answer(503, why))
        return False

    def _open_transport(self) -> Transport:
        """Create the transport on the accepted socket; the TLS handshake is still to be done."""
        server = self.server
        timeout = server.settings.send_timeout
        transport = (
            Transport(self._sock, timeout)
            if server.tls_context is None or self._plain_on_tls
            else TlsTransport(self._sock, server.tls_context, timeout, server_side=True)
        )
        self._transport = transport
        return transport

    def _handshake(self, transport: Transport, deadline: Deadline) -> WebSocketProcessServer | None:
        """Answer HTTP requests until one upgrades; return its process, None at the end.

        It is a separate function, so that the handshake's data do not stay in memory while the
        process runs.
        """
        http = self._new_http(transport)
        while True:
            try:
                asked = http.read_request(deadline)
            except HttpFault as fault:
                self._refuse_fault(transport, fault)
                return None
            if asked is None:
                return None
            served = self._serve_request(http, *asked)
            if served is not None:
                return served
            if not http.stays_open:
                return None
            # an idle connection keeps nothing of its last request
            del asked
            deadline = Deadline(self.server.settings.keep_alive_timeout)

    def _new_http(self, transport: Transport) -> HttpServerConnection:
        settings = self.server.settings
        return HttpServerConnection(transport, settings.max_header_bytes, settings.max_body_bytes)

    def _serve_request(
        self, http: HttpServerConnection, request: UpgradeRequest, content: bytes
    ) -> WebSocketProcessServer | None:
        """Answer one request; return the process if it has upgraded.

        Otherwise another request may follow if ``http.stays_open``; if not, the end of the
        connection has begun.
        """
        server = self.server
        if is_health_check(request, server.settings.health_path):
            if not answer_health(http, request.method, server._unready()):
                self._finish(http.transport)
            return None
        if self._plain_on_tls:
            self._refuse(http.transport, simple_answer(400, "this port is for TLS"))
            return None
        status, why = self._admission(request)
        if status:
            self._refuse(http.transport, simple_answer(status, why))
            return None
        if request.is_upgrade:
            return self._upgrade(http.transport, request, http.unread)
        if not self._answer_plain(http, request, content):
            self._finish(http.transport)
        return None

    def _refuse_fault(self, transport: Transport, fault: HttpFault) -> None:
        _log.debug("#%d: bad request: %s", self.connection_id, fault.text)
        self._refuse(transport, simple_answer(fault.status, fault.text))

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
                "#%d from %s: a request for the host %.200r is refused: it is not in allowed_hosts",
                self.connection_id,
                self.remote_ip,
                ", ".join(request.all("host")),
                extra=fields,
            )
            return 403, "this host is not served"
        # for an upgrade, the list of protocols checks the origin, and refuses it in its own form
        if not request.origin_is_in(settings.allowed_origins) and not request.is_upgrade:
            _log.info(
                "#%d from %s: a request from a page of %.200s is refused: this origin is not in "
                "allowed_origins",
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
        """Answer a plain HTTP request; return True if the connection stays open."""
        server = self.server
        context = request_context(request, content, self.connection_id, self.remote_ip)
        headers: list[tuple[str, str]] = []
        on_request = server._path_answers.get(request.path) or server.on_request
        if on_request is None:
            served = server.websocket_protocols.serves_uri(request.path)
            status = answer_visitor(context, server.description, served)
            headers = split_header_lines(context.out_custom_headers)
        else:
            try:
                status = int(on_request(context))
                headers = split_header_lines(context.out_custom_headers)
            # a bug or sys.exit() in the user's code gives this request a 500
            except BaseException:
                # it has to end a child that on_request has forked
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
                "the answer of on_request to %r cannot be sent: %s; sending 500",
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
            # it has to end a child that the protocol has forked
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
            holders, me = process.sender.holders, get_ident()
            holders += (me,)
            try:
                with process.safe_out:
                    self.websocket_process = process
                    process.enter_run()
                    process.join_server()
                    transport.sendall(answer)
            finally:
                holders.remove(me)
            process.entered_run()
            protocol.after_upgrade(process)
        except BaseException:
            process.leave_server()
            process.set_state(wpsDestroy)
            raise
        return process

    def _run_process(self, process: WebSocketProcessServer) -> None:
        """Run an upgraded connection to its end."""
        try:
            self._tell_connected()
            process.process_loop()
        finally:
            self._process_ended(process)

    def _tell_connected(self) -> None:
        self.server._notify(self.server.on_websocket_connect, self)

    def _process_ended(self, process: WebSocketProcessServer) -> None:
        """Report to the application that the WebSocket has ended, last of all."""
        if not self._inherited:
            server = self.server
            process.leave_server()
            server._notify(server.on_websocket_disconnect, self)
            server._notify(server.on_websocket_close, process.protocol)

    def _refuse(self, transport: Transport, answer: bytes) -> None:
        transport.sendall(answer)
        self._finish(transport)

    def _finish(self, transport: Transport) -> None:
        """Close gracefully, after an answer that ends the connection."""
        transport.finish(Deadline(self.server.settings.close_timeout))

    def lingers(self, process: WebSocketProcessServer) -> bool:
        """Wait for the peer's end of the TCP connection later, without a thread; return False if
        the caller has to wait. Called after the last step of *process*.
        """
        return False

    def served_by(self, thread: threading.Thread) -> None:
        """Record that *thread* serves only this connection; called by the server."""
        self.thread = thread

    def __repr__(self) -> str:
        return (
            f"<WebSocketServerSocket #{self.connection_id} {self.remote_ip} "
            f"{self.websocket_process!r}>"
        )
