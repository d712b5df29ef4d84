"""HttpClientWebSockets: connects, upgrades, and reconnects in a background thread.

Besides the application's threads there is one per client, which runs the loop, all callbacks and
the reconnection, and the keeper's thread, which all clients share. ``life.py`` has what runs behind
a client, and how it ends.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection
from functools import partial
from threading import current_thread, get_ident
from typing import Any, ClassVar

from ..core.addresses import shown_target
from ..errors import WebSocketsError
from ..logs import get_logger
from ..protocols.base import OnBeforeIncomingFrame, WebSocketProtocol
from ..reconnect_policies import ReconnectFailure, ReconnectPolicy
from ..request import HTTP_CLIENTERROR, OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.tls_contexts import TlsContext
from ..sockets.transport import Transport
from ..states import WebSocketProtocolBinaryOptions, pboSynLzCompress, wpsRun
from ..status import ClientStatus
from .arguments import (
    already_upgraded,
    check_upgrade_arguments,
    connect_target,
)
from .auto_reconnect import AutoReconnect
from .connection import WebSocketProcessClient
from .delays import reopen_failure, upgrade_failure
from .http import HttpAnswer, http_request, rest_request
from .life import FREED, ClientLife, NoThreadError
from .upgrade import UpgradeError, client_upgrade, default_user_agent

_log = get_logger("mormot_ws.client")

#: milliseconds that an upgrade waits for its thread to enter the loop
_ENTER_LOOP_MS = 5_000
_NOT_CONNECTED = "Not Connected"
_BUSY = "Another upgrade is in progress"
_CONNECTING = "Another thread is connecting this client"
_NOT_ENDED = (
    "The last connection has not ended yet: upgrade again in on_reconnect or on_websockets_closed"
)

#: what a client is told that is given a callback for messages
_OF_PROTOCOL = (
    "messages are the protocol's: WebSocketProtocolChat(name, uri, on_incoming_frame), which is"
    " called with focContinuation first and focConnectionClose last"
)


class HttpClientWebSockets(ClientLife):
    """An HTTP client that can become a WebSocket client. Mirrors ``THttpClientWebSockets``.

    The parameters are those of :class:`CrtSocket`, and *settings*, a
    :class:`WebSocketProcessSettings`, by default new ones. *process_name* is a name for the thread
    and in log lines. The constructor opens the TCP connection, unless *connect* is False. If that
    fails it does not raise: the upgrade tries again, and returns ``Not Connected`` if it fails too.

    Call ``free()`` when you no longer need it, but not in its callbacks. As a context manager it
    calls ``free()`` itself.
    """

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "on_reconnect": "it belongs to the connection: client.websockets.on_reconnect = …",
        "on_incoming_frame": _OF_PROTOCOL,
        "on_message": _OF_PROTOCOL,
        "on_open": _OF_PROTOCOL,
        "on_close": "set on_websockets_closed",
        "send": "call client.websockets.send_frame(WebSocketFrame(focText, text))",
        "on_error": "set on_gave_up; what fails is returned, or raised, where it is called",
    }

    def __init__(
        self,
        host: str,
        port: int | str = "",
        tls: bool = False,
        tls_context: TlsContext | None = None,
        timeout: int = 10_000,
        *,
        settings: WebSocketProcessSettings | None = None,
        process_name: str = "",
        tls_server_name: str | None = None,
        proxy: str | None = None,
        connect: bool = True,
    ) -> None:
        super().__init__(
            host,
            port,
            tls,
            tls_context,
            timeout,
            settings,
            process_name,
            tls_server_name,
            proxy,
        )
        #: ``f(client)``, called in the client's thread each time a connection has ended, after its
        #: last frame callback. It may ``reopen()`` and upgrade again with ``reconnect=True``
        self.on_websockets_closed: Callable[[HttpClientWebSockets], Any] | None = None
        #: ``f(process, frame) -> bool``, called for each message before its protocol; True: it was
        #: handled
        self.on_before_incoming_frame: OnBeforeIncomingFrame | None = None
        #: ``f(client, failure)``, called in the client's thread when the policy gives up: there
        #: will be no further attempt. *failure* is a :class:`ReconnectFailure`
        self.on_gave_up: Callable[[HttpClientWebSockets, ReconnectFailure], Any] | None = None
        #: ``f(client)``, called in the client's thread last of all, for whatever reason it ends
        self.on_ended: Callable[[HttpClientWebSockets], Any] | None = None
        #: ``f(ctxt: HttpServerRequest) -> status``, answers requests of the server (REST
        #: protocols), in the client's thread; None: 404. Mirrors ``OnCallbackRequestProcess``
        self.on_callback_request_process: OnHttpServerRequest | None = None
        self.user_agent = default_user_agent()
        self._answers = threading.local()
        #: False when the server chose none of the sub-protocols of the last upgrade
        self.subprotocol_chosen = True
        if connect:
            self.reopen()

    # -------------------------------------------------------------------------------- the factories

    @classmethod
    def open(
        cls,
        host: str,
        port: int | str = "",
        tls: bool = False,
        tls_context: TlsContext | None = None,
        timeout: int = 10_000,
        **options: Any,
    ) -> HttpClientWebSockets:
        """Return a client, connected to *host* and *port* or to a Unix socket. Mirrors ``Open``."""
        return cls(host, port, tls, tls_context, timeout, **options)

    @classmethod
    def websockets_connect(
        cls,
        host: str,
        port: int | str | WebSocketProtocol | None = None,
        protocol: WebSocketProtocol | str | None = None,
        uri: str = "",
        headers: str = "",
        tls: bool = False,
        tls_context: TlsContext | None = None,
        timeout: int = 10_000,
        retry: bool = False,
        **options: Any,
    ) -> HttpClientWebSockets | None:
        """Connect and upgrade in one call; return None if either fails (the log says why).

        There are two forms: ``websockets_connect('localhost', 8999, protocol, 'uri')`` and
        ``websockets_connect('ws://localhost:8999/uri', protocol, headers)``. For a Unix socket they
        are ``websockets_connect('unix:/path', protocol=protocol, uri='uri')`` and
        ``websockets_connect('ws+unix:/path:/uri', protocol, headers)``.

        :param retry: return the client at once, never None, and let it connect in the background
            until it succeeds, like :meth:`auto_reconnect` with a *protocol*.

        Raises ``ValueError`` or ``TypeError`` for invalid arguments. Mirrors ``WebSocketsConnect``.
        """
        target = connect_target(host, port, protocol, uri, headers, tls)
        host, port, protocol, uri, headers, tls = target
        options.setdefault("connect", not retry)
        client = cls(host, port, tls, tls_context, timeout, **options)
        if retry:
            try:
                client.auto_reconnect(uri, headers, protocol=protocol)
            except BaseException:
                client.free()
                raise
            return client
        error = client.websockets_upgrade(uri, protocol=protocol, headers=headers)
        if error:
            place = shown_target(client.host, client.port)
            _log.warning("%s: %s %s", place, error, client.last_error)
            client.free()
            return None
        return client

    # ---------------------------------------------------------------------------------- for anybody

    @property
    def answer(self) -> HttpAnswer:
        """The answer to the last :meth:`request` of the calling thread."""
        answer = getattr(self._answers, "answer", None)
        return HttpAnswer() if answer is None else answer

    @property
    def websockets(self) -> WebSocketProcessClient | None:
        """The process of the WebSocket. Mirrors ``WebSockets``.

        It is None before the first upgrade, unless :meth:`auto_reconnect` is to make that upgrade.
        """
        return self._process

    def websockets_upgrade(
        self,
        uri: str,
        key: str = "",
        ajax: bool = False,
        options: Collection[Any] | WebSocketProtocolBinaryOptions | None = None,
        protocol: WebSocketProtocol | None = None,
        headers: str = "",
        reconnect: bool = False,
    ) -> str:
        """Upgrade the TCP connection to WebSocket; return '' or an error text.

        Before the first upgrade has succeeded, it opens the connection if there is none: after a
        failed upgrade, just call it again.

        :param uri: the resource; ``''`` and ``'/'`` ask for the same.
        :param key: the encryption key of the binary REST protocol; ``''`` with a *protocol* of your
            own, which has its own key.
        :param ajax: with ``protocol=None``: use the JSON protocol (:class:`WebSocketProtocolJson`)
            instead of the binary one (:class:`WebSocketProtocolBinary`).
        :param options: the options of the binary protocol; None: ``pboSynLzCompress``; an empty
            set: none. Ignored with a *protocol* of your own.
        :param protocol: the protocol to speak, which then belongs to the client. None: a REST
            protocol, see *ajax*.
        :param headers: further header lines, separated by CRLF.
        :param reconnect: True inside ``on_reconnect``: upgrade again, with the same process and
            protocol objects.

        A failure of the network or the handshake is returned as a text, never raised. The socket is
        then closed, and :attr:`upgrade_failure` has the server's answer. After
        :meth:`auto_reconnect` the client keeps trying in the background. The upgrade takes up to
        ``timeout`` ms for the server's answer, and as much for connecting. In the frame callbacks
        of this client it is refused with a text, because the connection has not ended there.

        Raises ``TypeError`` or ``ValueError`` for invalid arguments, including a *protocol* that
        another client is using, and :class:`WebSocketsError` for a *key* without the extra
        ``crypto``. Mirrors ``WebSocketsUpgrade``.
        """
        check_upgrade_arguments(uri, key, protocol, headers)
        made = partial(self._protocol, protocol, uri, key, ajax, options)
        me, ours = get_ident(), False
        try:
            # in the try, because a signal handler may raise right behind it
            with self._safe_free:
                if self._upgrading:
                    return _BUSY
                ours = True
                self._upgrading.append(me)
            text = self._try_upgrade(uri, made, headers, reconnect)
        finally:
            if ours:
                self._upgrading.clear()
        if text and self._again is not None and self._process is None and not self._freeing:
            failed = (
                reopen_failure(self.last_exception, self.last_error)
                if text == _NOT_CONNECTED
                else upgrade_failure(self.upgrade_failure, text)
            )
            self._connect_later(made(), uri, headers, failed)
        return text

    def reopen(self, timeout: int | None = None) -> str:
        """Close, and connect again with the same parameters. Mirrors ``ReOpen``.

        Takes up to *timeout* milliseconds (None: that of the constructor), and returns '' or an
        error text. It is also an error if another thread is connecting or upgrading this client.
        """
        me, ours = get_ident(), False
        try:
            with self._safe_free:
                if self._opening or self._upgrading not in ([], [me]):
                    return _CONNECTING
                ours = True
                self._opening.append(me)
            self.upgrade_failure = None
            return super().reopen(timeout)
        finally:
            if ours:
                self._opening.clear()

    def auto_reconnect(
        self,
        uri: str | Callable[[], str] | None = None,
        headers: str | Callable[[], str] | None = None,
        *,
        protocol: WebSocketProtocol | None = None,
        policy: ReconnectPolicy | None = None,
    ) -> None:
        """Reconnect automatically after a loss, and retry the first connection too.

        This sets a ready-made ``on_reconnect``, which repeats the last upgrade.

        Called after the first upgrade, it applies to later losses. Called before it, a failed first
        upgrade is retried in the background too. Called instead of it, with a *protocol*, it makes
        all attempts in the background, the first one at once; :attr:`websockets` exists from then
        on, so frames can be queued. The policy decides on the waits; when it gives up,
        :attr:`on_gave_up` is called.

        :param uri: another URI, or a function that returns it for each attempt; None: the same as
            before. A whole ``ws://…`` or ``wss://…`` URI may name another server.
        :param headers: header lines, or a function that returns them for each attempt (e.g. with a
            fresh token); None: the same as before.
        :param protocol: the protocol to speak; only before the first upgrade.
        :param policy: decides on the waits; None: the policy from ``settings.reconnect_policy``.
            Only before the first upgrade.

        The functions run in the client's thread; an exception in one counts as a failed attempt. Do
        what each connection needs (subscribe, …) in the callback for ``focContinuation``. Raises
        ``TypeError`` or ``ValueError`` for invalid arguments, and :class:`WebSocketsError` when no
        thread can be started.
        """
        again = AutoReconnect(self, uri, headers)
        process = self._process
        if process is not None:
            if protocol is not None or policy is not None:
                raise ValueError("protocol and policy come before the first websockets_upgrade()")
            self._again = process.on_reconnect = again
            return
        check_upgrade_arguments("", "", protocol, "")
        if protocol is not None:
            self._check_owner(protocol)
        self._again, self._own_policy = again, policy
        if protocol is not None and (error := self._connect_later(protocol, "", "", None)):
            raise WebSocketsError(f"no thread can be started: {error}")

    def status(self) -> ClientStatus:
        """Return a snapshot for monitoring.

        Any thread and any signal handler may call it; it never waits. ``connected`` is True only
        while there is a thread that reads.
        """
        process, thread = self._process, self._thread
        return ClientStatus(
            host=self.host,
            port=self.port,
            connected=process is not None
            and process.state is wpsRun
            and thread is not None
            and thread.is_alive(),
            thread_state="" if thread is None else thread.thread_state.name,
            attempts=0 if process is None else process.attempts,
            reconnects=0 if process is None else process.reconnects,
            last_error=self.last_error
            if process is None
            else process.last_error or self.last_error,
            connection=None if process is None else process.status(),
        )

    def request(
        self,
        url: str,
        method: str = "GET",
        keep_alive: int = 30_000,
        header: str = "",
        data: bytes | str = b"",
        data_type: str = "",
    ) -> int:
        """Send a request and wait for its answer; return the status. Mirrors ``Request``.

        :param keep_alive: 0 closes the connection afterwards (plain HTTP only).
        :param header: further header lines, separated by CRLF.
        :param data: the body (a ``str`` is sent as UTF-8), *data_type* its ``Content-Type``.

        Before an upgrade this is plain HTTP/1.1. After an upgrade to a REST protocol the request
        goes over the WebSocket, where any number of threads may send requests at once. There a line
        in *header* changes the mode: ``Sec-WebSocket-REST: WithoutAnswer`` sends without waiting,
        ``Sec-WebSocket-REST: NonBlocking`` queues; both return 200.

        The answer is in :attr:`answer`, for the calling thread only. If there is no answer, its
        ``error`` says why; the status is 666 when the request certainly did not reach the server,
        and 404 when it may have. Raises ``ValueError`` for malformed header lines, and
        :class:`WebSocketsError` for a request that would wait inside a callback of this client.
        """
        body = data.encode("utf-8") if isinstance(data, str) else data
        process = self._process
        if process is not None:
            answer = rest_request(process, url, method, header, body, data_type)
        else:
            answer = self._http_request(url, method, keep_alive, header, body, data_type)
        self._answers.answer = answer
        if answer.error:
            self.last_error: str = answer.error
        return answer.status

    def __repr__(self) -> str:
        what = "freed" if self._freeing else ("connected" if self.connected else "not connected")
        process = "" if self._process is None else f" {self._process!r}"
        tls = " TLS" if self.tls else ""
        return f"<HttpClientWebSockets {shown_target(self.host, self.port)}{tls} {what}{process}>"

    # ------------------------------------------------------------------------------------- internal

    def _http_request(
        self, url: str, method: str, keep_alive: int, header: str, body: bytes, data_type: str
    ) -> HttpAnswer:
        """Send a request by plain HTTP, on a new connection if there is none."""
        error = "" if self.connected else self.reopen()
        transport = self._transport
        if transport is None:
            return HttpAnswer(HTTP_CLIENTERROR, error=error or self.last_error or "not connected")
        answer = http_request(
            self,
            transport,
            url,
            method,
            keep_alive,
            header,
            body,
            data_type,
            self.user_agent,
            self.settings.max_answer_bytes,
        )
        if not answer.keep_alive:
            self.close()
        return answer

    def _protocol(
        self,
        protocol: WebSocketProtocol | None,
        uri: str,
        key: str,
        ajax: bool,
        options: Collection[Any] | WebSocketProtocolBinaryOptions | None,
    ) -> WebSocketProtocol:
        """Return the protocol to speak: *protocol*, the previous one, or a REST protocol."""
        if protocol is None and self._process is not None:
            protocol = self._process.protocol
        if protocol is None:
            # imported here, so that clients of other protocols do not load it
            from ..rest.protocols import new_rest_protocol

            protocol = new_rest_protocol(
                uri, key, ajax, pboSynLzCompress if options is None else options, self.settings
            )
        self._check_owner(protocol)
        return protocol

    def _check_owner(self, protocol: WebSocketProtocol) -> None:
        """Raise ``ValueError`` when another client is using *protocol*."""
        owner = None if protocol._client is None else protocol._client()
        if owner is None or owner is self:
            return
        thread = owner._thread
        if thread is not None and thread.is_alive() and owner._process.protocol is protocol:
            raise ValueError(
                "the protocol object belongs to another client, which is using it: give each"
                " client its own"
            )

    def _try_upgrade(
        self, uri: str, made: Callable[[], WebSocketProtocol], headers: str, reconnect: bool
    ) -> str:
        """Upgrade, if the state of the client allows it."""
        process, thread = self._process, self._thread
        alive = thread is not None and thread.is_alive() and thread is not current_thread()
        if process is None or not (process.upgrades or reconnect):
            if alive:
                return _CONNECTING
            if self._transport is None:
                self.reopen()
        transport = self._transport
        if transport is None:
            self.upgrade_failure = None
            return _NOT_CONNECTED
        if process is not None and (
            (process.upgrades and not reconnect) or process.state is wpsRun
        ):
            if (
                thread is not None
                and thread is current_thread()
                and not thread.in_loop
                and not reconnect
            ):
                _log.error(
                    "%s: on_reconnect called websockets_upgrade() without reconnect=True, which"
                    " upgrades a client once only: the attempt is lost, and so is each further one",
                    thread.name,
                )
            return already_upgraded(process.protocol.uri, uri)
        if thread is not None:
            if thread.in_loop:
                return _NOT_ENDED
            if thread.attempting and thread is not current_thread():
                return _CONNECTING
        return self._upgrade(transport, uri, made(), headers)

    def _upgrade(
        self, transport: Transport, uri: str, protocol: WebSocketProtocol, headers: str
    ) -> str:
        """Do the handshake on the open connection, and start or renew its process."""
        try:
            result = client_upgrade(
                transport,
                self.host,
                self.port,
                uri,
                protocol,
                headers,
                self.user_agent,
                Deadline(self.timeout),
                self.settings.max_header_bytes,
                self.settings.deflate_options()
                if self.settings.permessage_deflate and not protocol.encrypted
                else None,
            )
        except UpgradeError as exc:
            failure: UpgradeError | None = exc
        except OSError as exc:
            failure = UpgradeError.from_error(exc)
        else:
            failure = None
        self.upgrade_failure = failure
        self._judge_address(failure is None)
        if failure is not None:
            # what is returned is our own: another thread that reopens meanwhile empties last_error,
            # and '' would be a success
            self.last_error = text = str(failure)
            self.close()
            return text
        if self.subprotocol_chosen and not result.subprotocol_chosen:
            _log.warning(
                "%s: the server chose none of the sub-protocols that were asked for: it may not"
                " know what the messages mean",
                shown_target(self.host, self.port),
            )
        self.subprotocol_chosen = result.subprotocol_chosen
        protocol._client = weakref.ref(self)
        process = self._process
        first = process is None
        if process is None:
            process = self._new_process(protocol)
            if process is None:
                return FREED
        else:
            process._renew(protocol)
        protocol.on_before_incoming_frame = (
            self.on_before_incoming_frame or protocol.on_before_incoming_frame
        )
        remote_ip = transport.peer_ip()
        process.met(result.connection_id, remote_ip)
        protocol.connection_upgraded(uri, headers, remote_ip, result.connection_id)
        process.attach(transport, result.unread)
        protocol.prepare_process(process)
        protocol.after_upgrade(process)
        return self._start(process, first)

    def _start(self, process: WebSocketProcessClient, first: bool) -> str:
        """Let a thread run the process: a new one, or the one that is reconnecting now."""
        if self._freeing:
            return FREED
        thread = self._thread
        try:
            if not first:
                process.run_at_once()
                if thread is not None and thread.will_run():
                    return ""
            thread = self._new_thread(process, first)
        except NoThreadError as exc:
            self.last_error = text = str(exc)
            self.close()
            return text
        if thread is None:
            return FREED
        thread.entered.wait(_ENTER_LOOP_MS / 1000)
        return ""

    def notify_closed(self) -> None:
        """Tell the application that the connection has ended. Runs in the client's thread."""
        self._tell("on_websockets_closed", self.on_websockets_closed)

    def notify_gave_up(self, failure: ReconnectFailure) -> None:
        """Tell the application that there will be no more attempts. Runs in the client's thread."""
        self.gave_up = failure
        self._tell("on_gave_up", self.on_gave_up, failure)

    def notify_ended(self) -> None:
        """Tell the application that the thread ends. Runs in the client's thread."""
        self._tell("on_ended", self.on_ended)

    def _tell(self, name: str, callback: Callable[..., Any] | None, *values: Any) -> None:
        """Call a callback of the application, the attribute *name*, if there is one."""
        if callback is None:
            return
        try:
            callback(self, *values)
        except BaseException:  # noqa: BLE001
            # the original's thread would silently end here; SystemExit would end ours
            process = self._process
            fields = {} if process is None else process.log_fields()
            _log.exception("%r: %s failed", self, name, extra=fields)

    def prepare_attempt(self) -> None:
        """Find out where the next attempt goes. Runs in the client's thread."""
        process = self._process
        again = None if process is None else process.on_reconnect
        if isinstance(again, AutoReconnect):
            again.prepare()
