"""HttpClientWebSockets: connects, upgrades, and keeps the connection alive by a background thread
that reconnects.

Threads: the application's own, one per client (it runs the process loop, every callback, and the
reconnection), and the keeper that all clients share.
"""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Callable, Collection
from threading import current_thread, get_ident
from typing import Any
from urllib.parse import urlsplit

from ..errors import WebSocketsError
from ..logs import get_logger
from ..process.free_in_callback import meet_free_in_callback
from ..process.freeing import FreedByWith, close_at_exit, forget_at_exit, stay_at_exit
from ..process.keeper import ProcessKeeper, acquire_shared_keeper, release_shared_keeper
from ..protocols.base import OnBeforeIncomingFrame, WebSocketProtocol
from ..protocols.offered import is_localhost
from ..reconnect_policies import ReconnectPolicy
from ..request import HTTP_CLIENTERROR, OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.crtsocket import CrtSocket
from ..sockets.deadline import Deadline
from ..sockets.transport import Transport
from ..states import WebSocketProtocolBinaryOptions, pboSynLzCompress, wpsRun
from ..status import ClientStatus
from .connection import WebSocketProcessClient
from .http import HttpAnswer, http_request, rest_request
from .thread import WebSocketProcessClientThread
from .upgrade import UpgradeError, check_custom_headers, client_upgrade, default_user_agent

_log = get_logger("mormot_ws.client")

#: milliseconds that an upgrade waits for its thread to enter the loop
_ENTER_LOOP_MS = 5_000
#: milliseconds that free() gives to the close handshake, and to the end of the TCP connection after
#: it
_CLOSE_MS = 1_000
#: milliseconds that free() waits in all
_FREE_MS = 2_800
_FREED = "The client is being freed"
_BUSY = "Another upgrade is in progress"
_CONNECTING = "Another thread is connecting this client"
_NOT_ENDED = (
    "The last connection has not ended yet: upgrade again in on_reconnect or on_websockets_closed"
)


class HttpClientWebSockets(CrtSocket, FreedByWith):
    """An HTTP client that can become a WebSocket client. Mirrors ``THttpClientWebSockets``.

    The parameters are those of :class:`CrtSocket`, and *settings*:
    :class:`WebSocketProcessSettings`, by default new ones; *process_name* names the thread and the
    log lines. Constructing it opens the TCP connection; when that fails it does not raise: the
    upgrade then returns ``Not Connected``.

    ``free()`` it when it is not needed any more, from outside its callbacks; it is a context
    manager that does so.
    """

    def __init__(
        self,
        host: str,
        port: int | str,
        tls: bool = False,
        tls_context: ssl.SSLContext | None = None,
        timeout: int = 10_000,
        *,
        settings: WebSocketProcessSettings | None = None,
        process_name: str = "",
        proxy: str | None = None,
    ) -> None:
        #: shared by reference with the process; change what you need before the upgrade
        self.settings: WebSocketProcessSettings = (
            WebSocketProcessSettings() if settings is None else settings
        )
        super().__init__(
            host,
            port,
            tls,
            tls_context,
            timeout,
            proxy=proxy,
            send_timeout=self.settings.send_timeout,
            resolve_timeout=self.settings.resolve_timeout,
        )
        self.process_name = process_name
        #: ``f(client)``, called in the client's thread each time a connection has ended, after its
        #: last frame callback. It may ``reopen()`` and upgrade again with ``reconnect=True``
        self.on_websockets_closed: Callable[[HttpClientWebSockets], Any] | None = None
        #: ``f(process, frame) -> bool``, called for each message before its protocol; True: it was
        #: handled
        self.on_before_incoming_frame: OnBeforeIncomingFrame | None = None
        #: ``f(ctxt: HttpServerRequest) -> status``, answers requests of the server (REST
        #: protocols), in the client's thread; None: 404. Mirrors ``OnCallbackRequestProcess``
        self.on_callback_request_process: OnHttpServerRequest | None = None
        #: the ``User-Agent`` of requests
        self.user_agent: str = default_user_agent()
        self._answers = threading.local()
        self._process: WebSocketProcessClient | None = None
        self._thread: WebSocketProcessClientThread | None = None
        self.policy: ReconnectPolicy | None = None
        #: why the last upgrade failed: its ``http_status``, ``headers`` and ``body`` are what the
        #: server has answered; None when it did not fail
        self.upgrade_failure: UpgradeError | None = None
        #: False when the server chose none of the sub-protocols that the last upgrade asked for
        self.subprotocol_chosen = True
        self._keeper: ProcessKeeper | None = None
        #: guards _freeing, _upgrading and _opening, and the making of the keeper's use and of the
        #: thread, so that free() misses neither; before the keeper's and the thread's own locks,
        #: nothing blocks while it is held. Taken again by its own thread: a signal handler may
        #: call free() at any moment
        self._safe_free = threading.RLock()
        #: the thread that upgrades just now, 0: none; two must not talk on one socket
        self._upgrading = 0
        #: the thread that opens the TCP connection just now, 0: none
        self._opening = 0
        self._freeing = False
        #: held by the thread that does the work of free(); others wait for it, with a bound. First
        #: in the lock order; taken again by its own thread, for signal handlers
        self._safe_freed = threading.RLock()
        #: True when the work of free() is done: one that was interrupted is done again
        self._freed = False
        close_at_exit(self)
        self.reopen()

    # -------------------------------------------------------------------------------- the factories

    @classmethod
    def open(
        cls,
        host: str,
        port: int | str,
        tls: bool = False,
        tls_context: ssl.SSLContext | None = None,
        timeout: int = 10_000,
        **options: Any,
    ) -> HttpClientWebSockets:
        """Return a client with a TCP connection to *host* and *port*; the same as the constructor.
        Mirrors ``Open``.
        """
        return cls(host, port, tls, tls_context, timeout, **options)

    @classmethod
    def websockets_connect(
        cls,
        host: str,
        port: int | str | WebSocketProtocol | None = None,
        protocol: WebSocketProtocol | None = None,
        uri: str = "",
        headers: str = "",
        tls: bool = False,
        tls_context: ssl.SSLContext | None = None,
        timeout: int = 10_000,
        **options: Any,
    ) -> HttpClientWebSockets | None:
        """Connect and upgrade in one call; return None when either fails (the log says why).
        Mirrors ``WebSocketsConnect``.

        Two forms: ``websockets_connect('localhost', 8999, protocol, 'uri')`` and
        ``websockets_connect('ws://localhost:8999/uri', protocol)``.
        Raises ``ValueError``/``TypeError`` for arguments that can never work.
        """
        if "://" in host:
            if isinstance(port, WebSocketProtocol):
                protocol, port = port, None
            host, number, uri, tls = parse_websocket_uri(host)
            port = number if port is None else port
        if protocol is None or isinstance(port, WebSocketProtocol) or port is None:
            raise TypeError(
                "call websockets_connect(host, port, protocol) or"
                " websockets_connect('ws://…', protocol); a protocol is needed"
            )
        client = cls(host, port, tls, tls_context, timeout, **options)
        error = client.websockets_upgrade(uri, "", False, frozenset(), protocol, headers)
        if error:
            _log.warning("%s:%d: %s %s", client.host, client.port, error, client.last_error)
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
        """The WebSocket side, None before the first upgrade. Mirrors ``WebSockets``."""
        return self._process

    def websockets_upgrade(
        self,
        uri: str,
        key: str,
        ajax: bool = False,
        options: Collection[Any] | WebSocketProtocolBinaryOptions | None = None,
        protocol: WebSocketProtocol | None = None,
        headers: str = "",
        reconnect: bool = False,
    ) -> str:
        """Upgrade the open TCP connection to WebSocket; return '' or an error text. Mirrors
        ``WebSocketsUpgrade``.

        :param uri: the resource; ``''`` and ``'/'`` ask for the same.
        :param key: encryption key of the binary REST protocol; ``''`` with a *protocol* of your
            own, which has its key.
        :param ajax: with ``protocol=None``: the JSON protocol (:class:`WebSocketProtocolJson`)
            instead of the binary one (:class:`WebSocketProtocolBinary`).
        :param options: of the binary protocol: ``pboSynLzCompress`` by default (None), an empty set
            for none; not looked at with a *protocol* of your own.
        :param protocol: what to speak; from then on it belongs to the client. None: a REST
            protocol, see *ajax*.
        :param headers: further header lines, separated by CRLF.
        :param reconnect: True inside ``on_reconnect``: upgrade again, with the same process and
            protocol objects.

        A network or handshake failure is a returned text, never an exception; the socket is then
        closed, and :attr:`upgrade_failure` has what the server said. Takes up to ``timeout`` ms for
        the server's answer. In the frame callbacks of this client it is refused with a text: the
        connection has not ended there. Raises ``TypeError``/``ValueError`` for arguments that can
        never work, also for a *protocol* that another client is using, :class:`WebSocketsError` for
        a *key* without the extra ``crypto``.
        """
        _check_upgrade_arguments(uri, key, protocol, headers)
        with self._safe_free:
            if self._upgrading:
                return _BUSY
            self._upgrading = get_ident()
        try:
            process, thread, transport = self._process, self._thread, self._transport
            if transport is None:
                return "Not Connected"
            if process is not None and (not reconnect or process.state is wpsRun):
                return _already_upgraded(process, uri)
            if thread is not None:
                if thread.in_loop:
                    return _NOT_ENDED
                if thread.attempting and thread is not current_thread():
                    return _CONNECTING
            if protocol is None and process is not None:
                protocol = process.protocol
            if protocol is None:
                # here: a client of another protocol need not load it
                from ..rest.protocols import new_rest_protocol

                protocol = new_rest_protocol(
                    uri, key, ajax, pboSynLzCompress if options is None else options, self.settings
                )
            self._check_owner(protocol)
            return self._upgrade(transport, uri, protocol, headers)
        finally:
            self._upgrading = 0

    def reopen(self, timeout: int | None = None) -> str:
        """Close, and connect again with the same parameters. Mirrors ``ReOpen``.

        Takes up to *timeout* milliseconds (None: that of the constructor) and returns '', or the
        error in words: one is that another thread connects or upgrades this client just now.
        """
        me = get_ident()
        with self._safe_free:
            if self._opening or self._upgrading not in (0, me):
                return _CONNECTING
            self._opening = me
        self.upgrade_failure = None
        try:
            return super().reopen(timeout)
        finally:
            self._opening = 0

    def auto_reconnect(
        self,
        uri: str | Callable[[], str] | None = None,
        headers: str | Callable[[], str] | None = None,
    ) -> None:
        """Reconnect for ever with the parameters of the last upgrade: a ready-made
        ``on_reconnect``, for the simple case.

        :param uri: another URI, or a function that returns it for each attempt; None: the same as
            before.
        :param headers: header lines, or a function that returns them for each attempt (a fresh
            token); None: the same as before.

        Call it after the first upgrade. The functions run in the client's thread; what they raise
        counts as a failed attempt. Raises :class:`WebSocketsError` before the first upgrade. What
        the application wants to do on each connection (subscribe, …) belongs into its callback for
        ``focContinuation``.
        """
        process = self._process
        if process is None:
            raise WebSocketsError("auto_reconnect() comes after the first websockets_upgrade()")

        def upgrade_again(reopened: WebSocketProcessClient | None) -> str:
            if reopened is None:
                return "Retry"
            protocol = reopened.protocol
            new_uri = uri() if callable(uri) else uri
            new_headers = headers() if callable(headers) else headers
            return self.websockets_upgrade(
                protocol.upgrade_uri if new_uri is None else new_uri,
                "",
                False,
                frozenset(),
                protocol,
                protocol.upgrade_bearer_token if new_headers is None else new_headers,
                True,
            )

        process.on_reconnect = upgrade_again

    def reconnect_now(self) -> None:
        """Cut short the wait before the next attempt to reconnect. From any thread and from signal
        handlers, returns at once.

        Also when that wait has not begun: in a callback that tells of the loss, or during an
        attempt, which another one follows at once should it fail. On a running connection it does
        nothing.
        """
        thread = self._thread
        if thread is not None:
            thread.reconnect_now()

    def status(self) -> ClientStatus:
        """Return a snapshot for monitoring. From any thread and from signal handlers, never waits.

        ``connected`` is True only while there is a thread that reads.
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

        :param keep_alive: of plain HTTP: 0 closes the connection afterwards.
        :param header: further header lines, separated by CRLF.
        :param data: the body (a ``str`` is sent as UTF-8), *data_type* its ``Content-Type``.

        Before an upgrade it is plain HTTP/1.1. After one to a REST protocol it travels over the
        WebSocket, where any number of threads may request at once, and a line in *header* says how:
        ``Sec-WebSocket-REST: WithoutAnswer`` sends without waiting, ``Sec-WebSocket-REST:
        NonBlocking`` queues; both return 200.

        What came back is in :attr:`answer`, for the calling thread alone. Without an answer its
        ``error`` says why, and the status is 666 when the request surely did not reach the server,
        404 when it may have. Raises ``ValueError`` for header lines that are none, and
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

    def free(self) -> None:
        """Close the connection and end its thread, for good. Mirrors ``Free``.

        From any thread but the client's own: inside one of its callbacks it behaves as
        ``settings.free_in_callback`` says. Also from a signal handler, whatever it has interrupted.
        The close handshake takes up to ``close_timeout`` ms, all of it less than 3 s; a callback
        that runs longer is left behind, with a log line. Safe to call twice; when it was
        interrupted by an exception, the next call finishes the work.
        """
        thread = self._thread
        if thread is not None and thread is current_thread():
            if self.settings.free_in_callback != "raise":
                thread.terminate()
            meet_free_in_callback(self, "client", self.settings)
        with self._safe_free:
            self._freeing = True  # no other thread is made from here on
        lock = self._safe_freed
        if not lock.acquire(timeout=_FREE_MS / 1000):
            # another thread is at it, and takes the time that it has
            return
        try:
            if not self._freed:
                self._free()
                self._freed = True
        finally:
            lock.release()

    def _free(self) -> None:
        """Do the work of free(), as far as it is not done."""
        deadline = Deadline(_FREE_MS)
        thread, process = self._thread, self._process
        if thread is not None:
            thread.terminate()
        if (
            process is not None
            and process.state is wpsRun
            and process.shutdown_within(1000, _CLOSE_MS)
            and thread is not None
            and thread.is_alive()
        ):
            # the peer's end of the TCP connection, the last callbacks
            thread.join(_CLOSE_MS / 1000)
        self.interrupt()
        if thread is not None and thread.is_alive():
            thread.join(deadline.seconds())
            if thread.is_alive():
                _log.error("%s: a callback does not return; its thread is left behind", thread.name)
        self.close()
        with self._safe_free:
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            release_shared_keeper()
        forget_at_exit(self)

    def __repr__(self) -> str:
        what = "freed" if self._freeing else ("connected" if self.connected else "not connected")
        process = "" if self._process is None else f" {self._process!r}"
        tls = " TLS" if self.tls else ""
        return f"<HttpClientWebSockets {self.host}:{self.port}{tls} {what}{process}>"

    # ------------------------------------------------------------------------------------- internal

    def _http_request(
        self, url: str, method: str, keep_alive: int, header: str, body: bytes, data_type: str
    ) -> HttpAnswer:
        """Send a request over plain HTTP, on a new connection if there is none."""
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

    def _check_owner(self, protocol: WebSocketProtocol) -> None:
        """Raise ``ValueError`` when another client is using *protocol*."""
        owner = None if protocol._client is None else protocol._client()
        if owner is None or owner is self:
            return
        thread = owner._thread
        if thread is not None and thread.is_alive() and owner._process.protocol is protocol:
            raise ValueError(
                "the protocol object belongs to another client, which is using it: give each"
                " client one of its own"
            )

    def _upgrade(
        self, transport: Transport, uri: str, protocol: WebSocketProtocol, headers: str
    ) -> str:
        """Do the handshake on the open connection, and start or renew what runs on it."""
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
        if failure is not None:
            # what is returned is our own: another thread that reopens meanwhile empties last_error,
            # and '' would be a success
            self.last_error = text = str(failure)
            self.close()
            return text
        if self.subprotocol_chosen and not result.subprotocol_chosen:
            _log.warning(
                "%s:%d: the server chose none of the sub-protocols that were asked for: it may not"
                " know what the messages mean",
                self.host,
                self.port,
            )
        self.subprotocol_chosen = result.subprotocol_chosen
        protocol.upgrade_uri = uri
        protocol.upgrade_bearer_token = headers
        protocol._client = weakref.ref(self)
        process = self._process
        first = process is None
        if process is None:
            with self._safe_free:  # a free() that came first would not give the keeper back
                if self._freeing:
                    return _FREED
                if self._keeper is None:  # else from an upgrade whose policy, or protocol, raised
                    self._keeper = acquire_shared_keeper()
            process = WebSocketProcessClient(self, protocol, self._keeper)
        else:
            process._renew(protocol)
        protocol.on_before_incoming_frame = (
            self.on_before_incoming_frame or protocol.on_before_incoming_frame
        )
        remote_ip = _peer_ip(transport)
        process.met(result.connection_id, remote_ip)
        protocol.remote_ip = remote_ip
        protocol.remote_localhost = is_localhost(remote_ip)
        process.attach(transport, result.unread)
        protocol.prepare_process(process)
        protocol.after_upgrade(process)
        return self._start(process, first)

    def _start(self, process: WebSocketProcessClient, first: bool) -> str:
        """Let a thread run the process: a new one, or the one that is reconnecting just now."""
        if self._freeing:
            return _FREED
        thread = self._thread
        try:
            if not first:
                process.run_at_once()
                if thread is not None and thread.will_run():
                    return ""
            thread = self._new_thread(process, first)
        except _NoThreadError as exc:
            self.last_error = text = str(exc)
            self.close()
            return text
        if thread is None:
            return _FREED
        thread.entered.wait(_ENTER_LOOP_MS / 1000)
        return ""

    def _new_thread(
        self, process: WebSocketProcessClient, first: bool
    ) -> WebSocketProcessClientThread | None:
        """Start the thread that runs *process*; return None when the client is being freed.

        When it raises, a fault of the policy's factory included, nobody takes the process for a
        running one.
        """
        started = False
        try:
            policy = self.settings.reconnect_policy()
            with self._safe_free:
                # free() sees all of it, a started thread included, or comes first
                if self._freeing:
                    return None
                # kept until the lock is free: its finaliser is the application's
                before, self.policy = self.policy, policy
                thread = WebSocketProcessClientThread(self, process)
                self._process = process
                self._thread = thread
                process.owned_by(thread)
                try:
                    if first:
                        process.enter_run()
                    thread.start()
                except (OSError, RuntimeError) as exc:
                    # no descriptor for the keeper, or no further thread
                    if first:
                        # as if never upgraded
                        self._process = self._thread = None
                    raise _NoThreadError(f"{type(exc).__name__}: {exc}") from exc
            del before
            started = True
            if first:
                process.entered_run()
            return thread
        finally:
            if not started:
                process.discard()

    def revive(self) -> None:
        """Start a thread that reconnects, if the last one has ended without ``on_reconnect``."""
        with self._safe_free:
            last, process = self._thread, self._process
            if self._freeing or last is None or process is None or not last.may_be_revived():
                return
            thread = WebSocketProcessClientThread(self, process, lost=True)
            thread.take_over(last)
            self._thread = thread
            process.owned_by(thread)
            last.revived(True)
            try:
                thread.start()
                return
            except RuntimeError as exc:
                # as if it had never been tried: the next time there may be a thread
                self._thread = last
                process.owned_by(last)
                last.revived(False)
                text = f"{type(exc).__name__}: {exc}"
                process.note_error(text)
        _log.error(
            "%s: no thread can be started (%s), so nobody reconnects: set on_reconnect again later",
            last.name,
            text,
        )

    def notify_closed(self) -> None:
        """In the client's thread: tell the application that the connection has ended."""
        if self.on_websockets_closed is not None:
            try:
                self.on_websockets_closed(self)
            except BaseException:  # noqa: BLE001
                # the original's thread would end here, silently; SystemExit would end ours
                process = self._process
                fields = {} if process is None else process.log_fields()
                _log.exception("%r: on_websockets_closed failed", self, extra=fields)

    def die_in_child(self) -> None:
        """In a forked child: a client that has been upgraded, or is connected, is dead; any other
        one is as new.
        """
        super().die_in_child()
        self._safe_free, self._safe_freed = threading.RLock(), threading.RLock()
        self._upgrading = self._opening = 0
        thread, self._thread = self._thread, None
        self._keeper = None
        if thread is not None:
            thread.die_in_child()
        if self._freeing or self._inherited or self._process is not None:
            # there is nothing left to do for a free()
            self._inherited = self._interrupted = self._freeing = True
            self._freed = True
        else:
            stay_at_exit(self)

    def begin_exit(self) -> None:
        """The interpreter ends: say goodbye, without waiting."""
        if self._thread is not None:
            self._thread.terminate()
        if self._process is not None:
            self._process.start_shutdown(1001, "")

    def end_exit(self, deadline: Deadline) -> None:
        """The interpreter ends: wait for the goodbye, then cut."""
        thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join(deadline.seconds())
        self.interrupt()


class _NoThreadError(Exception):
    """There is no thread to be had for a connection, or no descriptor for the keeper."""


def _check_upgrade_arguments(
    uri: str, key: str, protocol: WebSocketProtocol | None, headers: str
) -> None:
    if protocol is not None and not isinstance(protocol, WebSocketProtocol):
        raise TypeError(f"protocol is a WebSocketProtocol or None, not {type(protocol).__name__}")
    for name, value in (("uri", uri), ("key", key), ("headers", headers)):
        if not isinstance(value, str):
            raise TypeError(f"{name} is a str, not {type(value).__name__}")
    if any(c <= " " or c in "#\x7f" for c in uri):
        # without the query, which may hold a token
        raise ValueError(
            f"{uri.partition('?')[0]!r}, with its query, cannot be requested: blanks, '#' and"
            " control characters have to be percent-encoded"
        )
    if (
        key and protocol is not None and not protocol.encrypted
    ):  # else it may be the one that this key was given to before
        raise ValueError(
            "key goes with the REST protocols: leave it '' with a protocol of your own"
        )
    check_custom_headers(headers)


def _already_upgraded(process: WebSocketProcessClient, uri: str) -> str:
    current = process.protocol.uri
    if current.lower() == uri.lower():
        return "Already upgraded to WebSockets on this URI"
    # without the query, which may hold a token
    requested = uri.partition("?")[0]
    return f"Already upgraded to WebSockets with URI=[{current}] but requested [{requested}]"


def _peer_ip(transport: Any) -> str:
    try:
        return str(transport.sock.getpeername()[0])
    except OSError:
        return ""


def parse_websocket_uri(uri: str) -> tuple[str, int, str, bool]:
    """Return (host, port, resource with its query, TLS) of a ``ws://`` or ``wss://`` *uri*; raise
    ``ValueError`` for anything else.
    """
    parts = urlsplit(uri)
    if (
        parts.scheme not in ("ws", "wss")
        or not parts.hostname
        or parts.fragment
        or parts.username is not None
    ):
        # what may be secret, a password or the query, is not shown
        begin, mark, _ = uri.partition("://")
        shown = (
            f"{begin}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            if mark
            else uri.partition("?")[0]
        )
        raise ValueError(
            f"{shown!r} is not a WebSocket URI like ws://host:port/resource, without user name and"
            " fragment"
        )
    tls = parts.scheme == "wss"
    resource = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    return parts.hostname, parts.port or (443 if tls else 80), resource, tls
