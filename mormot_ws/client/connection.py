"""The client's side of a connection, across all its reconnections.

The thread that runs it is in ``thread.py``. ``client.py`` opens sockets and does the handshakes.
``owner.py`` says what it needs from the client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from ..attributes import IS_BOOL, IS_INT, IS_NUMBER, Check
from ..core.frames import CLOSE_ABNORMAL
from ..process.keeper import ProcessKeeper
from ..process.on_socket import WebCrtSocketProcess
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest, OnHttpServerRequest
from ..settings import DEFAULT_ANSWER_TIMEOUT_MS
from ..states import WebSocketProcessState, wpsDestroy
from .owner import ClientOwner

if TYPE_CHECKING:
    from .thread import WebSocketProcessClientThread

OnReconnect = Callable[["WebSocketProcessClient | None"], "str | None"]


class WebSocketProcessClient(WebCrtSocketProcess):
    """The client's side of a connection, across all its reconnections.

    Mirrors ``TWebSocketProcessClient``. Each client has one, ``client.websockets``, created by the
    first upgrade, or by ``auto_reconnect()`` before that.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "attempts": IS_INT,
        "upgrades": IS_INT,
        "lived_ms": IS_NUMBER,
        "lost_code": IS_INT,
        "reconnects": IS_INT,
        "upgraded": IS_BOOL,
    }
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {"on_reconnect": ("process",)}

    def __init__(
        self,
        client: ClientOwner,
        protocol: WebSocketProtocol,
        keeper: ProcessKeeper,
        on_reconnect: OnReconnect | None = None,
    ) -> None:
        super().__init__(
            protocol,
            client.settings,
            keeper,
            mask_sent_frames=True,
            process_name=client.process_name,
        )
        self._on_reconnect = on_reconnect
        #: attempts since the connection was lost, or since the start; 0 while it runs
        self.attempts = 0
        #: how many upgrades have succeeded
        self.upgrades = 0
        #: how long the last connection lasted, in milliseconds
        self.lived_ms: float = 0.0
        #: the close code of the last connection
        self.lost_code = 0
        #: how often the connection was lost and re-established
        self.reconnects = 0
        self._client = client
        self._thread: WebSocketProcessClientThread | None = None
        #: True from an upgrade until the loop starts: there is a connection to run
        self.upgraded = False
        #: the messages that the protocol had received and sent when the connection began
        self._counts_before = (0, 0)

    @property
    def on_reconnect(self) -> OnReconnect | None:
        """``f(process or None) -> text``, called after each attempt to reopen the TCP connection.

        It runs in the client's thread. If the attempt failed, the argument is None and the result
        is ignored. If it succeeded, the argument is this process, and the callback must call
        ``websockets_upgrade(…, reconnect=True)`` and return its result: '' continues, any other
        text closes the socket and tries again. If this attribute is None, there is no reconnection.
        Mirrors ``OnReconnect``.

        An exception, even ``SystemExit``, is logged and counts as a failed attempt. If the thread
        has ended after a loss because this attribute was None, setting it starts the reconnection.
        If no thread can be started, this is logged; set it again to retry.
        """
        return self._on_reconnect

    @on_reconnect.setter
    def on_reconnect(self, callback: OnReconnect | None) -> None:
        self._on_reconnect = callback
        if callback is not None:
            self._client.revive()

    @property
    def client_thread(self) -> WebSocketProcessClientThread | None:
        """The thread that runs this process; mirrors ``OwnerThread``."""
        return self._thread

    def reconnect_now(self) -> None:
        """End the wait before the next attempt, like :meth:`HttpClientWebSockets.reconnect_now`."""
        thread = self.client_thread
        if thread is not None:
            thread.reconnect_now()

    def answer_timeout(self) -> int:
        """Return the client's ``timeout``, unless ``callback_answer_timeout_ms`` was changed.

        This is the rule of the original.
        """
        timeout = self.settings.callback_answer_timeout_ms
        return self._client.timeout if timeout == DEFAULT_ANSWER_TIMEOUT_MS else timeout

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        context, _ = super().compute_context()
        return context, self._client.on_callback_request_process

    def process_start(self) -> bool:
        self.upgraded = False
        return super().process_start()

    def _begin(self) -> None:
        super()._begin()
        self.protocol.reset()

    def _renew(self, protocol: WebSocketProtocol) -> None:
        """Prepare for the next connection."""
        if protocol is not self.protocol and self.exchange is not None:
            self.exchange.end()  # a new protocol that carries requests creates its own
        self.renew(protocol)

    def owned_by(self, thread: WebSocketProcessClientThread) -> None:
        """Record that *thread* runs the connections from now on."""
        self._thread = thread
        self.run_by(thread)

    def discard(self, state: WebSocketProcessState = wpsDestroy) -> None:
        """Reset the state, because the upgraded connection will not run."""
        self.liveness.unwatch()
        if self.upgraded:
            self.upgrades -= 1
        self.upgraded = False
        if self.state is not state:
            self.set_state(state)

    def connection_ended(self, lived_ms: float) -> None:
        """Record that the loop of a connection has ended after *lived_ms*."""
        self.lived_ms = lived_ms
        self.lost_code = self.close_code or CLOSE_ABNORMAL

    def attempt_begins(self) -> None:
        """Count an attempt to connect."""
        self.attempts += 1

    def reconnected(self) -> None:
        """Record that an attempt has led to a new connection."""
        self.attempts = 0
        if self.upgrades > 1:
            self.reconnects += 1

    def exchanged_both_ways(self) -> bool:
        """Return whether the last connection carried messages in both directions."""
        before_in, before_out = self._counts_before
        protocol = self.protocol
        return protocol.frames_in_count > before_in and protocol.frames_out_count > before_out

    def enter_run(self) -> None:
        self._counts_before = (self.protocol.frames_in_count, self.protocol.frames_out_count)
        self.upgraded = True
        self.upgrades += 1
        super().enter_run()
        # on_reconnect may take long before the loop starts
        self.liveness.watch()

    def keeps_queue(self) -> bool:
        """Return True while a reconnection is possible: queued frames wait for it."""
        thread = self.client_thread
        return (
            self.on_reconnect is not None
            and thread is not None
            and thread.is_alive()
            and not thread.terminated
        )
