"""HttpClientWebSockets: connects, upgrades, and reconnects in a background thread.

Besides the application's threads, each client has one thread, which runs the loop, all callbacks
and the reconnection. All clients share the keeper's thread. ``life.py`` has what runs behind a
client, and how it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, ClassVar, Literal, overload

from ..attributes import Check, explains_keywords
from ..callbacks import Ignored
from ..core.addresses import shown_target
from ..errors import WebSocketsError
from ..logs import get_logger
from ..process.freeing import FreedByWith
from ..protocols.base import OnBeforeIncomingFrame, WebSocketProtocol
from ..reconnect_policies import ReconnectFailure, ReconnectPolicy, check_policy
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings, checked_settings
from ..sockets.crtsocket import CrtSocket
from ..sockets.deadline import Deadline
from ..sockets.tls_contexts import TlsContext
from ..sockets.transport import Transport
from ..states import WebSocketProtocolBinaryOptions
from ..status import ClientStatus
from .arguments import HeaderValue, check_upgrade_arguments, connect_target, rest_protocol
from .auto_reconnect import AutoReconnect
from .checks import CLIENT_CALLBACKS, CLIENT_CHECKS, ELSEWHERE, KEYWORDS, flag
from .connection import WebSocketProcessClient
from .delays import reopen_failure, upgrade_failure
from .first_connection import begin, check_owner
from .http import HttpAnswer, checked_body, http_request, rest_request
from .life import ClientLife, NoThreadError
from .socket_use import CONNECTING, SocketUse
from .upgrade import UpgradeError, default_user_agent, try_upgrade

_log = get_logger("mormot_ws.client")

_NOT_CONNECTED = "Not Connected"


class HttpClientWebSockets(CrtSocket, FreedByWith):
    """An HTTP client that can become a WebSocket client. Mirrors ``THttpClientWebSockets``.

    The parameters are those of :class:`CrtSocket`, and *settings*, a
    :class:`WebSocketProcessSettings`, by default a new one. *process_name* is a name for the thread
    and for log lines. The constructor opens the TCP connection, unless *connect* is False. If that
    fails, it does not raise: the upgrade tries again, and returns ``Not Connected`` on failure.

    Call ``free()`` when you no longer need it, but not in its callbacks. As a context manager it
    calls ``free()`` itself.
    """

    #: the ``User-Agent`` of requests and upgrades. Setting it raises ``TypeError``/``ValueError``
    #: for a value that a header line cannot contain
    user_agent = HeaderValue()

    _CHECKS: ClassVar[dict[str, Check]] = CLIENT_CHECKS
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = CLIENT_CALLBACKS
    _ELSEWHERE: ClassVar[dict[str, str]] = ELSEWHERE

    @explains_keywords(**KEYWORDS)
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
        #: shared by reference with the process; change values before the upgrade
        self.settings: WebSocketProcessSettings = checked_settings(settings)
        super().__init__(
            host,
            port,
            tls,
            tls_context,
            timeout,
            tls_server_name=tls_server_name,
            proxy=proxy,
            send_timeout=self.settings.send_timeout,
            resolve_timeout=self.settings.resolve_timeout,
        )
        #: a name for the thread and for log lines
        self.process_name = process_name
        #: decides the waits; created when the thread starts
        self.policy: ReconnectPolicy | None = None
        #: why the policy gave up; None if it did not
        self.gave_up: ReconnectFailure | None = None
        #: why the last upgrade failed, with the server's answer as ``http_status``, ``headers`` and
        #: ``body``; None if it did not fail
        self.upgrade_failure: UpgradeError | None = None
        self._use = SocketUse()
        self._life = ClientLife(self)
        #: ``f(client)``, called in the client's thread each time a connection has ended, after its
        #: last frame callback. It may ``reopen()`` and upgrade again with ``reconnect=True``
        self.on_websockets_closed: Callable[[HttpClientWebSockets], Ignored] | None = None
        #: ``f(process, frame) -> bool``, called for each message before its protocol; True: the
        #: message was handled
        self.on_before_incoming_frame: OnBeforeIncomingFrame | None = None
        #: ``f(client, failure)``, called in the client's thread when the policy gives up: there
        #: will be no further attempt. *failure* is a :class:`ReconnectFailure`
        self.on_gave_up: Callable[[HttpClientWebSockets, ReconnectFailure], Ignored] | None = None
        #: ``f(client)``, called last of all in the client's thread, whatever the reason for its end
        self.on_ended: Callable[[HttpClientWebSockets], Ignored] | None = None
        #: ``f(ctxt: HttpServerRequest) -> status``, handles requests from the server (REST
        #: protocols), in the client's thread; None: 404. Mirrors ``OnCallbackRequestProcess``
        self.on_callback_request_process: OnHttpServerRequest | None = None
        self.user_agent = default_user_agent()
        self._answers = threading.local()
        #: False if the server chose none of the requested sub-protocols in the last upgrade
        self.subprotocol_chosen = True
        if flag("connect", connect):
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

    @overload
    @classmethod
    def websockets_connect(
        cls,
        host: str,
        port: int | str | WebSocketProtocol | None = None,
        protocol: WebSocketProtocol | str | None = None,
        uri: str = "",
        headers: str = "",
        *,
        retry: Literal[True],
        **options: Any,
    ) -> HttpClientWebSockets: ...
    @overload
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
    ) -> HttpClientWebSockets | None: ...
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

        :param retry: return the client immediately, never None, and let it connect in the
            background until it succeeds, like :meth:`auto_reconnect` with a *protocol*.

        Raises ``ValueError`` or ``TypeError`` for invalid arguments. Mirrors ``WebSocketsConnect``.
        """
        target = connect_target(host, port, protocol, uri, headers, tls)
        host, port, protocol, uri, headers, tls = target
        options.setdefault("connect", not flag("retry", retry))
        client = cls(host, port, tls, tls_context, timeout, **options)
        return client if begin(client, uri, protocol, headers, retry) else None

    # ------------------------------------------------------------------------------------- public

    @property
    def answer(self) -> HttpAnswer:
        """The answer to the last :meth:`request` of the calling thread."""
        answer = getattr(self._answers, "answer", None)
        return HttpAnswer() if answer is None else answer

    @property
    def websockets(self) -> WebSocketProcessClient | None:
        """The process of the WebSocket. Mirrors ``WebSockets``.

        It is None before the first upgrade, unless :meth:`auto_reconnect` makes that upgrade.
        """
        return self._life.process

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

        Before the first successful upgrade, it opens the connection if necessary, so you can simply
        call it again after a failure.

        :param uri: the resource; ``''`` and ``'/'`` mean the same.
        :param key: the encryption key of the binary REST protocol; ``''`` with a *protocol* of your
            own, which has its own key.
        :param ajax: with ``protocol=None``: use the JSON protocol (:class:`WebSocketProtocolJson`)
            instead of the binary one (:class:`WebSocketProtocolBinary`).
        :param options: the options of the binary protocol; None: ``pboSynLzCompress``; an empty
            set: no options. Ignored with a *protocol* of your own.
        :param protocol: the protocol to use, which then belongs to the client. None: a REST
            protocol, see *ajax*.
        :param headers: additional header lines, separated by CRLF.
        :param reconnect: True inside ``on_reconnect``: upgrade again, with the same process and
            protocol objects.

        A failure of the network or the handshake is returned as text, never raised. The socket is
        then closed, and :attr:`upgrade_failure` has the server's answer. After
        :meth:`auto_reconnect`, the client keeps trying in the background. The upgrade takes up to
        ``timeout`` ms for the server's answer, and as long again for connecting. In this client's
        frame callbacks it returns an error text, because the connection has not ended there.

        Raises ``TypeError`` or ``ValueError`` for invalid arguments, including a *protocol* that
        another client is using, and :class:`WebSocketsError` for a *key* without the extra
        ``crypto``. Mirrors ``WebSocketsUpgrade``.
        """
        check_upgrade_arguments(uri, key, protocol, headers)
        made = partial(self._protocol, protocol, uri, key, ajax, options)
        life = self._life
        text = self._use.upgrade(lambda: self._try_upgrade(uri, made, headers, reconnect))
        if text and life.reconnects:
            failed = (
                reopen_failure(self.last_exception, self.last_error)
                if text == _NOT_CONNECTED
                else upgrade_failure(self.upgrade_failure, text)
            )
            life.connect_later(made(), uri, headers, failed)
        return text

    def reopen(self, timeout: int | None = None) -> str:
        """Close the connection and connect again with the same parameters. Mirrors ``ReOpen``.

        Takes up to *timeout* milliseconds (None: that of the constructor), and returns '' or an
        error text. It is also an error if another thread is connecting or upgrading this client.
        """
        return self._use.open(partial(self._reopen, timeout))

    def _reopen(self, timeout: int | None) -> str:
        self.upgrade_failure = None
        return super().reopen(timeout)

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

        If you call it after the first upgrade, it applies to later losses. If you call it before,
        a failed first upgrade is also retried in the background. If you call it instead of the
        first upgrade, with a *protocol*, all attempts are made in the background, starting
        immediately; :attr:`websockets` then exists, so you can queue frames. The policy decides the
        waits; when it gives up, :attr:`on_gave_up` is called.

        :param uri: another URI, or a function that returns it for each attempt; None: the same as
            before. A whole ``ws://…`` or ``wss://…`` URI may name another server.
        :param headers: header lines, or a function that returns them for each attempt (e.g. with a
            fresh token); None: the same as before.
        :param protocol: the protocol to use; only before the first upgrade.
        :param policy: decides the waits; None: the policy from ``settings.reconnect_policy``.
            Only before the first upgrade.

        The functions run in the client's thread; an exception in one counts as a failed attempt. Do
        what each connection needs (subscribe, …) in the callback for ``focContinuation``. Raises
        ``TypeError`` or ``ValueError`` for invalid arguments, and :class:`WebSocketsError` if no
        thread can be started.
        """
        again = AutoReconnect(self, uri, headers)
        life = self._life
        process = life.process
        if process is not None:
            if protocol is not None or policy is not None:
                raise ValueError("pass protocol and policy before the first websockets_upgrade()")
            process.on_reconnect = again
            return
        check_upgrade_arguments("", "", protocol, "")
        if policy is not None:
            check_policy("policy", policy)
        if protocol is not None:
            check_owner(self, protocol)
        life.reconnect_by(again, policy)
        if protocol is not None and (error := life.connect_later(protocol, "", "", None)):
            raise WebSocketsError(f"no thread can be started: {error}")

    def status(self) -> ClientStatus:
        """Return a snapshot for monitoring.

        Any thread and any signal handler may call it; it never waits. ``connected`` is True only
        while a thread is reading.
        """
        return self._life.status(self.last_error)

    def reconnect_now(self) -> None:
        """End the wait before the next attempt to connect.

        Any thread and any signal handler may call it; it returns immediately. It also works before
        the wait begins: in a callback that reports the loss, or during an attempt; if that attempt
        fails, the next one follows immediately. On a running connection it does nothing.
        """
        thread = self._life.thread
        if thread is not None:
            thread.reconnect_now()

    def free(self) -> None:
        """Close the connection permanently and end its thread. Mirrors ``Free``.

        Call it from any thread except the client's own: in one of its callbacks,
        ``settings.free_in_callback`` determines what happens. A signal handler may call it,
        whatever it has interrupted. The close handshake takes up to ``close_timeout`` ms, and the
        whole call less than 3 s; a callback that runs longer is left behind, with a log line. Safe
        to call twice; if an exception interrupts a call, the next one finishes the work.
        """
        self._life.free()

    def free_later(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, and :meth:`free` the client when its thread ends.

        Use it in the client's callbacks, which must not call ``free()``. Any thread may call it; it
        returns immediately.
        """
        self._life.free_later(code, reason)

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
        :param header: additional header lines, separated by CRLF.
        :param data: the body (a ``str`` is sent as UTF-8), *data_type* its ``Content-Type``.

        Before an upgrade this is plain HTTP/1.1. After an upgrade to a REST protocol, the request
        is sent over the WebSocket, where any number of threads may send requests concurrently.
        There, a line in *header* changes the mode: ``Sec-WebSocket-REST: WithoutAnswer`` sends
        without waiting, ``Sec-WebSocket-REST: NonBlocking`` queues; both return 200.

        The answer is in :attr:`answer`, for the calling thread only. If there is no answer, its
        ``error`` says why; the status is 666 if the request certainly did not reach the server,
        and 404 if it may have. Raises ``ValueError`` for malformed header lines, and
        :class:`WebSocketsError` for a request that would wait inside a callback of this client.
        """
        body = checked_body(url, method, header, data, data_type)
        process = self._life.process
        if process is not None:
            answer = rest_request(process, url, method, header, body, data_type)
        else:
            limit = self.settings.max_answer_bytes
            answer = http_request(
                self, url, method, keep_alive, header, body, data_type, self.user_agent, limit
            )
        self._answers.answer = answer
        if answer.error:
            self._note_error(answer.error)
        return answer.status

    def __repr__(self) -> str:
        life = self._life
        what = "freed" if life.freeing else ("connected" if self.connected else "not connected")
        process = "" if life.process is None else f" {life.process!r}"
        tls = " TLS" if self.tls else ""
        return f"<HttpClientWebSockets {shown_target(self.host, self.port)}{tls} {what}{process}>"

    # ------------------------------------------------------------------------------------- internal

    def _protocol(
        self,
        protocol: WebSocketProtocol | None,
        uri: str,
        key: str,
        ajax: bool,
        options: Collection[Any] | WebSocketProtocolBinaryOptions | None,
    ) -> WebSocketProtocol:
        """Return the protocol to use: *protocol*, the previous one, or a REST protocol."""
        process = self._life.process
        if protocol is None and process is not None:
            protocol = process.protocol
        if protocol is None:
            protocol = rest_protocol(uri, key, ajax, options, self.settings)
        check_owner(self, protocol)
        return protocol

    def _try_upgrade(
        self, uri: str, made: Callable[[], WebSocketProtocol], headers: str, reconnect: bool
    ) -> str:
        """Upgrade, if the state of the client allows it."""
        life = self._life
        process = life.process
        if process is None or not (process.upgrades or reconnect):
            self._drop_unfinished_exchange()
            if life.has_thread:
                return CONNECTING
            if self._transport is None:
                self._use.open(partial(self._reopen, None), in_upgrade=True)
        transport = self._transport
        if transport is None:
            self.upgrade_failure = None
            return _NOT_CONNECTED
        refused = life.refusal(uri, reconnect)
        return refused or self._exchanging(
            transport, lambda: self._upgrade(transport, uri, made(), headers)
        )

    def _upgrade(
        self, transport: Transport, uri: str, protocol: WebSocketProtocol, headers: str
    ) -> str:
        """Do the handshake on the open connection, and start or renew its process."""
        mine = self.user_agent, self.timeout, self.settings
        result = try_upgrade(transport, self.host, self.port, uri, protocol, headers, *mine)
        if isinstance(result, UpgradeError):
            self.upgrade_failure = result
            self._judge_address(False)
            return self._close_after(str(result))
        self.upgrade_failure = None
        self._judge_address(True)
        if self.subprotocol_chosen and not result.subprotocol_chosen:
            _log.warning(
                "%s: the server chose none of the requested sub-protocols, so it may not"
                " know what the messages mean",
                shown_target(self.host, self.port),
            )
        self.subprotocol_chosen = result.subprotocol_chosen
        try:
            return self._life.take_over(transport, protocol, uri, headers, result)
        except NoThreadError as exc:
            return self._close_after(str(exc))

    def _close_after(self, error: str) -> str:
        """Close, and return *error*.

        Never ``last_error``: another thread that reopens clears it, and '' would mean success.
        """
        self._note_error(error)
        self.close()
        return error

    # --------------------------------------------------------- for the thread: see ``owner.py``

    def use_policy(self, policy: ReconnectPolicy) -> object:
        """Use *policy* from now on; return an object to keep alive until no lock is held."""
        before = self.policy, self.gave_up
        self.policy, self.gave_up = policy, None
        return before

    def revive(self) -> None:
        """Start a thread that reconnects, if the last one ended without ``on_reconnect``."""
        self._life.revive()

    def thread_ends(self) -> None:
        """Free the client if free_later() was called. Runs at the end of the client's thread."""
        self._life.thread_ends()

    def notify_closed(self) -> None:
        """Report to the application that the connection has ended, in the client's thread."""
        self._tell("on_websockets_closed", self.on_websockets_closed)

    def notify_gave_up(self, failure: ReconnectFailure) -> None:
        """Report to the application that there will be no more attempts, in the client's thread."""
        self.gave_up = failure
        self._tell("on_gave_up", self.on_gave_up, failure)

    def notify_ended(self) -> None:
        """Report to the application that the thread ends, in the client's thread."""
        self._tell("on_ended", self.on_ended)

    def _tell(self, name: str, callback: Callable[..., Any] | None, *values: Any) -> None:
        """Call a callback of the application, the attribute *name*, if there is one."""
        if callback is None:
            return
        try:
            callback(self, *values)
        except BaseException:  # noqa: BLE001
            # the original's thread would silently end here; SystemExit would end ours
            process = self._life.process
            fields = {} if process is None else process.log_fields()
            _log.exception("%r: %s failed", self, name, extra=fields)

    def prepare_attempt(self) -> None:
        """Determine where the next attempt goes. Runs in the client's thread."""
        process = self._life.process
        again = None if process is None else process.on_reconnect
        if isinstance(again, AutoReconnect):
            again.prepare()

    def begin_exit(self) -> None:
        """Send a close frame when the interpreter exits, without waiting."""
        self._life.begin_exit()

    def end_exit(self, deadline: Deadline) -> None:
        """Wait for the close handshake when the interpreter exits, then cut the connection."""
        self._life.end_exit(deadline)

    def die_in_child(self) -> None:
        """In a forked child: become dead if connected or ever upgraded; otherwise start afresh."""
        super().die_in_child()
        self._use.die_in_child()
        life = self._life
        dead = life.freeing or self._inherited or life.process is not None
        if dead:
            self._leave_to_parent()
        life.die_in_child(dead)
