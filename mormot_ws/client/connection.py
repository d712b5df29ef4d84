"""The client's side of a connection, through all its reconnections; without the thread that runs it
(``thread.py``), the opening of sockets, and handshakes (``client.py``).

What it needs of the client is in ``owner.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.frames import CLOSE_ABNORMAL
from ..process.keeper import ProcessKeeper
from ..process.on_socket import WebCrtSocketProcess
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest, OnHttpServerRequest
from ..settings import DEFAULT_ANSWER_TIMEOUT_MS
from ..states import WebSocketProcessState, wpsCreate, wpsDestroy
from .owner import ClientOwner

if TYPE_CHECKING:
    from .thread import WebSocketProcessClientThread

OnReconnect = Callable[["WebSocketProcessClient | None"], "str | None"]


class WebSocketProcessClient(WebCrtSocketProcess):
    """The client's side of a connection, through all its reconnections. Mirrors
    ``TWebSocketProcessClient``.

    There is one per client, made by its first upgrade, or before that by ``auto_reconnect()``:
    ``client.websockets``.
    """

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
        #: attempts to connect since the connection was lost, or since the first of them; 0 while
        #: it runs
        self.attempts = 0
        #: how many upgrades have succeeded
        self.upgrades = 0
        #: milliseconds that the last connection lived
        self.lived_ms: float = 0.0
        #: the close code of the last connection
        self.lost_code = 0
        #: how often the connection was lost and came back
        self.reconnects = 0
        self._client = client
        self._thread: WebSocketProcessClientThread | None = None
        #: set by an upgrade, cleared when the loop starts: there is a connection to be run
        self.upgraded = False
        #: the messages that the protocol had received and sent when the connection began
        self._counts_before = (0, 0)

    @property
    def on_reconnect(self) -> OnReconnect | None:
        """``f(process or None) -> text``, called in the client's thread after each attempt to open
        the lost TCP connection again.

        With None when that failed (the result is ignored), with this process when it succeeded. It
        then has to call ``websockets_upgrade(…, reconnect=True)`` and to return its result: '' goes
        on, anything else closes the socket and tries again. None instead of a function: no
        reconnection. Mirrors ``OnReconnect``.

        What it raises, ``SystemExit`` included, is logged and counts as a failed attempt. Setting
        it after the connection was lost, when the thread has ended without it, starts the
        reconnection; when no thread can be started the log says so, and setting it again tries
        again.
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
        return self._thread

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
        self.upgraded = False
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

    def met(self, connection_id: int, remote_ip: str) -> None:
        """A handshake has told the server's number for the connection; it came from *remote_ip*."""
        self.connection_id = connection_id
        self.remote_ip = remote_ip

    def owned_by(self, thread: WebSocketProcessClientThread) -> None:
        """*thread* runs the connections from now on."""
        self.owner_thread = self._thread = thread

    def discard(self, state: WebSocketProcessState = wpsDestroy) -> None:
        """The connection that was upgraded does not run: leave no sign that it does."""
        self.liveness.unwatch()
        if self.upgraded:
            self.upgrades -= 1
        self.upgraded = False
        if self.state is not state:
            self.set_state(state)

    def connection_ended(self, lived_ms: float) -> None:
        """The loop of a connection has ended after *lived_ms*."""
        self.lived_ms = lived_ms
        self.lost_code = self.close_code or CLOSE_ABNORMAL

    def attempt_begins(self) -> None:
        """Count an attempt to connect."""
        self.attempts += 1

    def reconnected(self) -> None:
        """An attempt has led to a new connection."""
        self.attempts = 0
        if self.upgrades > 1:
            self.reconnects += 1

    def exchanged_both_ways(self) -> bool:
        """Tell whether messages went both ways over the last connection."""
        before_in, before_out = self._counts_before
        protocol = self.protocol
        return protocol.frames_in_count > before_in and protocol.frames_out_count > before_out

    def enter_run(self) -> None:
        self._counts_before = (self.protocol.frames_in_count, self.protocol.frames_out_count)
        self.upgraded = True
        self.upgrades += 1
        super().enter_run()
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
