"""The background half of a client: the process that survives reconnections, and the thread that
runs it and reconnects.

Every callback of a client runs in this one thread. What the reconnection needs of the client is
:class:`ClientOwner`; opening sockets and handshakes belong to ``client.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ..core.frames import CLOSE_ABNORMAL
from ..logs import get_logger
from ..process.keeper import ProcessKeeper
from ..process.on_socket import WebCrtSocketProcess
from ..protocols.base import WebSocketProtocol
from ..reconnect_policies import FailureKind, ReconnectFailure, ReconnectPolicy, failure_kind
from ..request import HttpServerRequest, OnHttpServerRequest
from ..settings import DEFAULT_ANSWER_TIMEOUT_MS, WebSocketProcessSettings
from ..states import (
    WebSocketProcessClientThreadState,
    sClosed,
    sCreate,
    sFinished,
    sRun,
    wpsCreate,
    wpsRun,
)
from .upgrade import UpgradeError

_log = get_logger("mormot_ws.client")

OnReconnect = Callable[["WebSocketProcessClient | None"], "str | None"]


class ClientOwner(Protocol):
    """What the thread needs of its client."""

    host: str
    port: int
    settings: WebSocketProcessSettings
    process_name: str
    #: milliseconds that its user is ready to wait for the server
    timeout: int
    #: answers requests of the server
    on_callback_request_process: OnHttpServerRequest | None
    #: why the last attempt to open the TCP connection failed, None when it did not
    last_exception: OSError | None
    #: decides the waits
    policy: ReconnectPolicy | None
    #: why the last handshake failed, None when it did not or there was none
    upgrade_failure: UpgradeError | None

    def reopen(self, timeout: int | None = None) -> str:
        """Open the TCP connection again."""

    def close(self) -> None:
        """Close it."""

    def revive(self) -> None:
        """Start a thread that reconnects, if the last one has ended for want of ``on_reconnect``."""

    def notify_closed(self) -> None:
        """Tell the application that a connection has ended."""


class WebSocketProcessClient(WebCrtSocketProcess):
    """The client's side of a connection, through all its reconnections. Mirrors
    ``TWebSocketProcessClient``.

    There is one per client, made by its first upgrade: ``client.websockets``.
    """

    def __init__(
        self, client: ClientOwner, protocol: WebSocketProtocol, keeper: ProcessKeeper
    ) -> None:
        super().__init__(
            protocol,
            client.settings,
            keeper,
            mask_sent_frames=True,
            process_name=client.process_name,
        )
        self._on_reconnect: OnReconnect | None = None
        #: attempts to reconnect since the connection was lost; 0 while it runs
        self.attempts = 0
        #: milliseconds that the last connection lived
        self.lived_ms: float = 0.0
        #: the close code of the last connection
        self.lost_code = 0
        #: how often the connection was lost and came back
        self.reconnects = 0
        self._client = client
        #: set by an upgrade, cleared by the loss: tells whether on_reconnect did what it has to
        self._upgraded = False

    @property
    def on_reconnect(self) -> OnReconnect | None:
        """``f(process or None) -> text``, called in the client's thread after each attempt to open
        the lost TCP connection again.

        With None when that failed (the result is ignored), with this process when it succeeded. It
        then has to call ``websockets_upgrade(…, reconnect=True)`` and to return its result: '' goes
        on, anything else closes the socket and tries again. None instead of a function: no
        reconnection. Mirrors ``OnReconnect``.

        Setting it after the connection was lost, when the thread has ended for want of it, starts
        the reconnection.
        """
        return self._on_reconnect

    @on_reconnect.setter
    def on_reconnect(self, callback: OnReconnect | None) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"on_reconnect is a function or None, not {type(callback).__name__}")
        self._on_reconnect = callback
        if callback is not None:
            self._client.revive()

    @property
    def client_thread(self) -> WebSocketProcessClientThread | None:
        """The thread that runs this process; mirrors ``OwnerThread``."""
        thread = self.owner_thread
        return thread if isinstance(thread, WebSocketProcessClientThread) else None

    def reconnect_now(self) -> None:
        """Cut short the wait before the next attempt, as
        :meth:`HttpClientWebSockets.reconnect_now` does.
        """
        thread = self.client_thread
        if thread is not None:
            thread.reconnect_now()

    def answer_timeout(self) -> int:
        """Return the client's ``timeout``, as in the original, unless
        ``callback_answer_timeout_ms`` was set to something else.
        """
        timeout = self.settings.callback_answer_timeout_ms
        return self._client.timeout if timeout == DEFAULT_ANSWER_TIMEOUT_MS else timeout

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        context, _ = super().compute_context()
        return context, self._client.on_callback_request_process

    def process_start(self) -> bool:
        self._upgraded = False
        return super().process_start()

    def _begin(self) -> None:
        super()._begin()
        self.protocol.reset()

    def _renew(self, protocol: WebSocketProtocol) -> None:
        """Make ready for the next connection."""
        if protocol is not self.protocol and self.exchange is not None:
            self.exchange.end()  # the new one makes its own, if it carries requests
        self.protocol = protocol
        self._begin()
        self.set_state(wpsCreate)

    def run_at_once(self) -> None:
        self._upgraded = True
        super().run_at_once()
        # on_reconnect may go on for long before the loop starts
        self.liveness.watch()

    def keeps_queue(self) -> bool:
        """Frames wait for the reconnection, as long as one may come."""
        thread = self.client_thread
        return (
            self.on_reconnect is not None
            and thread is not None
            and thread.is_alive()
            and not thread.terminated
        )


class WebSocketProcessClientThread(threading.Thread):
    """Runs the process loop, and reconnects when it ends. Mirrors
    ``TWebSocketProcessClientThread``.
    """

    def __init__(
        self, client: ClientOwner, process: WebSocketProcessClient, lost: bool = False
    ) -> None:
        # daemon: a frozen or forgotten client must not keep the interpreter from ending
        super().__init__(
            name=f"{client.process_name or 'WebSocketClient'} {client.host}:{client.port}",
            daemon=True,
        )
        #: what it runs, connection after connection
        self.process = process
        self._lost = lost  # start with reconnecting: the connection ended under an earlier thread
        #: what this thread is doing; mirrors ``ThreadState``
        self.thread_state: WebSocketProcessClientThreadState = sCreate
        #: set when the thread runs; waited for by the first upgrade
        self.entered: threading.Event = threading.Event()
        self._client = client
        self._inherited = False  # this is a forked child
        #: guards the flags below; notified by terminate() and reconnect_now(), waited for between
        #: attempts
        self._wake = threading.Condition()
        #: True once the thread has looked for on_reconnect in vain; guarded by _wake
        self.gave_up_without_callback: bool = False
        self._failures = 0  # failed attempts since the last stable connection
        self._lost_at = 0.0  # when that was lost
        self._terminated = False
        self._hurry = False  # the next wait is to be cut short; guarded by _wake

    @property
    def terminated(self) -> bool:
        """True once :meth:`terminate` was called; mirrors ``Terminated``."""
        return self._terminated

    def terminate(self) -> None:
        """Ask the thread not to reconnect any more, and end its wait. From any thread, callbacks
        included; returns at once.

        A running connection goes on; close it by ``process.shutdown()``. Mirrors ``Terminate``.
        """
        with self._wake:
            self._terminated = True
            self._wake.notify_all()

    def die_in_child(self) -> None:
        """In a forked child: do not reconnect. This thread may be the one that has forked."""
        self._wake = threading.Condition()
        self._terminated = self._inherited = True

    def reconnect_now(self) -> None:
        """Make the next attempt without a wait, unless the connection runs. From any thread,
        returns at once.
        """
        with self._wake:
            if self.process.state is not wpsRun:
                self._hurry = True
                self._wake.notify_all()

    def run(self) -> None:
        """The thread's body."""
        process = self.process
        self.thread_state = sRun
        self.entered.set()
        closed = False
        try:
            while True:
                if not self._lost:
                    self._run_process()
                if self._inherited:
                    return
                self._lost = False
                closed = process.lost_code != CLOSE_ABNORMAL
                if not self._reconnect():
                    break
        # the thread's last words; nothing of the user's reaches this
        except Exception:  # noqa: BLE001
            _log.exception("%s ended by a fault", self.name)
        finally:
            self.thread_state = sClosed if closed else sFinished
            if not self._inherited:
                _log.debug("%s: %s", self.name, self.thread_state.name)

    def _run_process(self) -> None:
        """Run one connection to its end."""
        process = self.process
        with self._wake:
            self._hurry = False  # what was said during the attempt that succeeded
        started = monotonic()
        process.process_loop()
        if self._inherited:
            return
        process.lived_ms = (monotonic() - started) * 1000
        process.lost_code = process.close_code
        self._client.close()
        self._client.notify_closed()

    def __repr__(self) -> str:
        ending = " terminated" if self._terminated else ""
        return f"<WebSocketProcessClientThread {self.name!r} {self.thread_state.name} attempts={self.process.attempts}{ending}>"

    # --------------------------------------------------------------------------------- reconnection

    def _reconnect(self) -> bool:
        """Attempt until a new connection is upgraded; return False when there is to be none."""
        process = self.process
        policy = self._client.policy
        assert policy is not None
        if process.lived_ms >= self._client.settings.reconnect_stable_after or not self._lost_at:
            # a server that accepts and drops at once must not be hammered: only a good connection
            # starts the waits anew
            policy.reset()
            self._failures = 0
            self._lost_at = monotonic()
        ended = process.last_error or f"closed with {process.lost_code}"
        failure = self._failure(FailureKind.lost, ended, 0)
        while self._may_reconnect():
            delay = policy.next_delay(failure)
            if delay is None:
                fields = {"connection_id": process.connection_id, "attempts": failure.attempts}
                _log.warning(
                    "%s: gives up after %d attempts: %s",
                    self.name,
                    failure.attempts,
                    failure.text,
                    extra=fields,
                )
                return False
            _log.debug("%s: next attempt in %.0f ms (%s)", self.name, delay, failure.text)
            if not self._pause(delay):
                return False
            process.attempts += 1
            kind, text, status = self._attempt()
            if not text:
                extra = {"connection_id": process.connection_id, "attempts": process.attempts}
                _log.info("%s: reconnected as #%d", self.name, process.connection_id, extra=extra)
                process.attempts = 0
                process.reconnects += 1
                return True
            process.last_error = text
            self._failures += 1
            failure = self._failure(kind, text, status)
        return False

    def _failure(self, kind: FailureKind, text: str, http_status: int) -> ReconnectFailure:
        elapsed = (monotonic() - self._lost_at) * 1000
        code = self.process.lost_code
        return ReconnectFailure(kind, text, self._failures, elapsed, code, http_status)

    def _may_reconnect(self) -> bool:
        with self._wake:
            if self._terminated or not self._client.settings.client_auto_upgrade:
                return False
            # under the lock: a callback that is set from now on finds the thread ended, and revives
            # the client
            self.gave_up_without_callback = self.process.on_reconnect is None
            return not self.gave_up_without_callback

    def take_over(self, last: WebSocketProcessClientThread) -> None:
        """Go on where *last* has ended: its failures count for the policy."""
        self._failures = last._failures
        self._lost_at = last._lost_at

    def may_be_revived(self) -> bool:
        """Tell whether this thread ends, or has ended, only because there was no ``on_reconnect``."""
        with self._wake:
            return self.gave_up_without_callback and not self._terminated

    def _pause(self, milliseconds: float) -> bool:
        """Wait before an attempt; return False when the thread was terminated."""
        # infinity too: until somebody says reconnect_now()
        seconds = min(milliseconds / 1000, threading.TIMEOUT_MAX)
        with self._wake:
            self._wake.wait_for(lambda: self._terminated or self._hurry, seconds)
            self._hurry = False
            return not self._terminated

    def _attempt(self) -> tuple[FailureKind, str, int]:
        """Open the TCP connection and let the application upgrade; return what failed, with ''
        when nothing did.
        """
        client, process = self._client, self.process
        error = client.reopen()
        if self._terminated:
            return FailureKind.callback, error or "terminated", 0
        if error:
            self._call_on_reconnect(None)
            exception = client.last_exception
            return FailureKind.connect if exception is None else failure_kind(exception), error, 0
        process._renew(process.protocol)
        client.upgrade_failure = None
        result = self._call_on_reconnect(process)
        if self._inherited:
            return FailureKind.callback, "forked", 0
        if not result and process._upgraded:
            return FailureKind.upgrade, "", 0
        if not result:
            _log.error(
                "%s: on_reconnect returned '' without calling websockets_upgrade(…, reconnect=True): the TCP connection is "
                "open again, but it is no WebSocket, nothing can be sent or received on it; closing it and trying again. "
                "See Mistake 3 in docs/porting-guide.md",
                self.name,
                extra={"connection_id": process.connection_id, "attempts": process.attempts},
            )
            result = "on_reconnect did not upgrade"
        if process._upgraded:
            process.liveness.unwatch()
            process.start_shutdown(1000, "")
            process.set_state(wpsCreate)
            process._upgraded = False
        client.close()
        failed = client.upgrade_failure
        if failed is None:
            return FailureKind.callback, result, 0
        return failed.kind, str(failed), failed.http_status

    def _call_on_reconnect(self, argument: WebSocketProcessClient | None) -> str:
        """Call the application; an exception counts as a failed attempt. None counts as ''."""
        callback = self.process.on_reconnect
        if callback is None:
            return "on_reconnect was taken away"
        try:
            return callback(argument) or ""
        except Exception as exc:  # noqa: BLE001 - the original's thread would end here, silently
            fields = {"attempts": self.process.attempts}
            _log.exception("%s: on_reconnect failed; trying again later", self.name, extra=fields)
            return f"{type(exc).__name__}: {exc}"
