"""WebSocketProcess: one connection, without its socket, which is in ``on_socket.py``.

It has six parts, each with its own state: a reader, a sender, the liveness, a closer, a dispatcher,
and the loop. The loop can be stepped with ``begin_loop()``, ``loop_step()`` and ``end_loop()``.
Either the connection's own thread calls them (``process_loop()``), or an owner that knows when
bytes are ready to read.

Lock order: the reader's ``safe_in``, then the sender's ``safe_out``, then the locks of the queue
and the transport. No callback runs and nothing is logged while any of them is held.
"""

from __future__ import annotations

import threading
from threading import get_ident
from time import monotonic

from ..core.closing import CloseHandshake
from ..core.forks import dies_in_child
from ..core.frames import (
    WebSocketFrame,
    close_payload,
    focBinary,
    focConnectionClose,
    focText,
    parse_close_payload,
)
from ..core.incoming import WebProcessInFrame
from ..core.outgoing import OutgoingFrames, QueuedFrame
from ..errors import WebSocketsProtocolError
from ..logs import get_logger, shown_name
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest, OnHttpServerRequest, RequestExchange
from ..settings import WebSocketProcessSettings
from ..states import (
    WebSocketProcessNotifyCallback,
    WebSocketProcessState,
    wpsClose,
    wpsCreate,
    wpsDestroy,
    wpsRun,
    wscBlockWithAnswer,
)
from ..status import ConnectionStatus
from .checks import CheckedConnection, check_request
from .closer import Closer
from .dispatcher import Dispatcher
from .encoder import PreparedFrame, check_sendable
from .frame_log import log_frame
from .keeper import ProcessKeeper
from .liveness import Liveness
from .loop import Loop
from .reader import Reader
from .sender import Sender
from .snapshot import connection_status

_log = get_logger("mormot_ws.process")
_new_queued = tuple.__new__


class WebSocketProcess(CheckedConnection):
    """A connection, on either side. Mirrors ``TWebSocketProcess``.

    :param protocol: this connection's own protocol object.
    :param settings: shared by reference with the server or client.
    :param keeper: sends heartbeats and queued frames.
    :param mask_sent_frames: True on a client (the original's ``MaskSentFrames``).
    :param connection_id: the server's number for the connection.
    :param process_name: a name for threads and for log lines.
    :param remote_ip: the peer's IP address; ``'unix:'`` on a Unix socket, '' if unknown.
    :param owner_thread: the thread that will run the loop.

    Any thread may call :meth:`send_frame`, :meth:`send_frame_async`, :meth:`shutdown`,
    :meth:`abort`, :meth:`notify_callback` and :meth:`status`, and may read the attributes.

    Subclasses implement :meth:`receive_bytes`, :meth:`receive_now`, :meth:`write_bytes`,
    :meth:`write_now`, :meth:`interrupt` and :meth:`fileno`.
    """

    #: True in a forked child: the connection belongs to the parent, and this copy is dead
    inherited: bool = False

    def __init__(
        self,
        protocol: WebSocketProtocol,
        settings: WebSocketProcessSettings,
        keeper: ProcessKeeper,
        *,
        mask_sent_frames: bool,
        connection_id: int = 0,
        process_name: str = "",
        remote_ip: str = "",
        owner_thread: threading.Thread | None = None,
    ) -> None:
        self.protocol = protocol
        self.settings = settings
        self.process_name = process_name
        #: the server's number for this connection; on a client, the one from the last handshake (0:
        #: none)
        self.connection_id = connection_id
        #: the peer's IP address; ``'unix:'`` on a Unix socket, '' if unknown
        self.remote_ip = remote_ip
        #: the thread that runs the loop; None if different threads step it
        self.owner_thread = owner_thread
        #: the requests that wait for answers; set by protocols that carry requests, otherwise None
        self.exchange: RequestExchange | None = None
        #: the state of the connection; mirrors ``State``
        self.state: WebSocketProcessState = wpsCreate
        self._state_since = monotonic()
        self._keeper = keeper
        #: the parts: for the package
        self.reader = Reader(self, keeper)
        self.sender = Sender(self, settings, keeper, mask_sent_frames)
        self.liveness = Liveness(self, keeper)
        self.closer = Closer(self, keeper)
        self._dispatcher = Dispatcher(self, self.liveness, self.closer)
        self.loop = Loop(self, self.reader, self.sender, self.liveness, self.closer)
        #: frames from ``send_frame_async`` that wait to be sent; mirrors ``Outgoing``
        self.outgoing: OutgoingFrames = self.sender.outgoing
        self._begin()
        dies_in_child(self)

    def _begin(self) -> None:
        """Prepare for a new connection, while the loop is not running."""
        self.reader.begin(self.protocol, self.settings, self.client_side)
        self.sender.begin()
        self.liveness.begin()
        self.closer.begin()
        self._log_frames = bool(self.settings.log_details)
        self._lenient_text = self.protocol.lenient_text
        self._dispatcher.begin()
        # without a detour over this object, unless a subclass has its own
        kind = type(self)
        receive = kind.process_loop_step_receive is WebSocketProcess.process_loop_step_receive
        received = kind.process_loop_received is WebSocketProcess.process_loop_received
        self.loop.prepare(
            None if receive else self.process_loop_step_receive,
            self._dispatcher.received if received else self.process_loop_received,
        )

    # ------------------------------------------------------------------------------------- to read

    @property
    def client_side(self) -> bool:
        """True on a client, which connects and masks its frames."""
        return self.sender.encoder.masks is not None

    @property
    def safe_out(self) -> threading.Lock:
        """The sender's lock, held while frames are sent."""
        return self.sender.safe_out

    @property
    def in_frame(self) -> WebProcessInFrame:
        """The decoder of the connection."""
        return self.reader.in_frame

    @property
    def closing(self) -> CloseHandshake:
        """The close handshake: which close frames were sent and received, and their codes."""
        return self.closer.handshake

    @property
    def last_error(self) -> str:
        """Why the connection ended, or a description of the last fault; '' if there was none."""
        return self.closer.last_error

    @property
    def dropped_count(self) -> int:
        """Messages that were read after the end of the connection, and reached no callback."""
        return self._dispatcher.dropped

    @property
    def state_since(self) -> float:
        """Milliseconds since :attr:`state` last changed."""
        return (monotonic() - self._state_since) * 1000

    @property
    def close_code(self) -> int:
        """The code of the first close frame, ours or the peer's.

        1005: the frame had no code. 1006: there was no close frame. 0: the connection is open.
        """
        return self.closing.code

    @property
    def close_reason(self) -> str:
        """The reason in that close frame."""
        return self.closing.reason

    @property
    def connection_close_was_sent(self) -> bool:
        """True once our close frame was handed to the connection.

        Mirrors ``ConnectionCloseWasSent``. To cut a connection without a close frame, call
        :meth:`abort`; in the original you set this property to do that.
        """
        return self.closing.sent

    @property
    def invalid_ping_count(self) -> int:
        """Consecutive heartbeats that could not be sent or were not answered."""
        return self.liveness.invalid_ping_count

    @property
    def invalid_ping_send_count(self) -> int:
        """The Pascal name of :attr:`invalid_ping_count`; mirrors ``InvalidPingSendCount``."""
        return self.liveness.invalid_ping_count

    @property
    def last_ping_delay(self) -> float:
        """Milliseconds from the last heartbeat to its answer; 0: none yet.

        (In the original it is the age of the last traffic.)
        """
        return self.liveness.last_ping_delay

    def status(self) -> ConnectionStatus:
        """Return a snapshot for monitoring. Any thread may call it; it never waits."""
        return connection_status(self)

    def log_fields(self) -> dict[str, object]:
        """Return the ``extra`` of this connection's log records."""
        return {
            "connection_id": self.connection_id,
            "remote_ip": self.remote_ip,
            "close_code": self.close_code,
        }

    # ------------------------------------------------------------------------------------- to send

    def send_frame(self, frame: WebSocketFrame, ahead: PreparedFrame | None = None) -> bool:
        """Send *frame* now. Mirrors ``SendFrame``.

        Any thread may call it; frames from several threads never mix. Returns True if the kernel
        has accepted all bytes of the frame. Otherwise returns False: the connection is not in
        ``wpsRun``, or it is lost, or the peer accepted no data for ``send_timeout`` ms, after which
        the connection is given up. Waits up to another ``send_timeout`` while other threads send. A
        ``focConnectionClose`` frame starts the close handshake.

        In a signal handler or finaliser that has interrupted a ``send_frame`` of the same
        connection, the frame is queued as by :meth:`send_frame_async`.

        Raises ``TypeError`` or ``ValueError`` for a frame that must not be sent. Other exceptions
        (``KeyboardInterrupt``, or from a signal handler) propagate; if part of the frame was sent
        by then, the connection is given up. *ahead* is for the package itself: the result of
        ``prepare_ahead``.
        """
        try:
            opcode = frame._opcode
            payload = frame._payload
        except AttributeError:
            check_sendable(frame)
            raise
        if opcode is focText:
            if not (payload.isascii() or self._lenient_text):
                check_sendable(frame)
        elif opcode is not focBinary:
            check_sendable(frame)
            if opcode is focConnectionClose:
                return self.closer.send(*parse_close_payload(payload), payload)
        sent = self.sender.send(frame, ahead)
        if self._log_frames and sent:
            log_frame(self, "sent", frame)
        return sent

    def send_frame_async(self, frame: WebSocketFrame) -> bool:
        """Queue a copy of *frame*, to be sent soon and together with others.

        Any thread, signal handler or finaliser may call it; it never waits. Returns False if the
        queue is full (``max_outgoing_frames``, ``max_outgoing_bytes``), or if the connection will
        not come back. Frames are sent in the order of the calls. Raises like :meth:`send_frame`.
        Mirrors ``SendFrameAsync``.
        """
        try:
            opcode = frame._opcode
            payload = frame._payload
        except AttributeError:
            check_sendable(frame)
            raise
        if opcode is focText:
            if not (payload.isascii() or self._lenient_text):
                check_sendable(frame)
        elif opcode is not focBinary:
            check_sendable(frame)
        # tuple.__new__: a named tuple's constructor costs as much as the rest of this method
        return self.sender.queue(_new_queued(QueuedFrame, (opcode, payload, frame._content, None)))

    def notify_callback(
        self, request: HttpServerRequest, mode: WebSocketProcessNotifyCallback = wscBlockWithAnswer
    ) -> int:
        """Send *request* to the peer over a REST protocol; return the status.

        Any thread may call it. With ``wscBlockWithAnswer`` it waits up to :meth:`answer_timeout`
        ms; the answer is then in the ``out_…`` attributes of *request*. The other modes return 200
        if the request was sent or queued. If there is no answer, ``request.out_error`` says why;
        the status is 666 if the request certainly did not reach the peer, and 404 if it may have,
        or on a protocol without requests.

        Raises :class:`WebSocketsError` if it would have to wait inside a callback of this same
        connection, whose thread reads the answers, and ``ValueError`` for an unknown *mode*.

        On ``synopsejson`` and ``synopsebinary``, whose answers have no numbers, requests that wait
        take turns: each waits up to another :meth:`answer_timeout` for its turn, and gets 666 if
        its turn does not come. Mirrors ``NotifyCallback``.
        """
        check_request(request)
        if self.exchange is None:
            name = shown_name(self.protocol.name)
            request.out_error = f"the protocol {name!r} does not support requests"
            return 404
        return self.exchange.notify(request, mode)

    def answer_timeout(self) -> int:
        """Return the milliseconds to wait for an answer, from ``callback_answer_timeout_ms``."""
        return self.settings.callback_answer_timeout_ms

    @property
    def takes_messages(self) -> bool:
        """True while messages may reach callbacks: it runs, and was neither closed nor cut."""
        return self.state is wpsRun and not self.closer.given_up

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        """Return a new request object for the peer's request, and its handler, if there is one.

        Mirrors ``ComputeContext``.
        """
        return HttpServerRequest(connection_id=self.connection_id, remote_ip=self.remote_ip), None

    # ------------------------------------------------------------------------------------ to close

    def shutdown(self, code: int | None = 1000, reason: str = "") -> bool:
        """Close the connection with a close handshake. Mirrors ``Shutdown``.

        Any thread may call it. It sends a close frame, once, and waits up to ``close_timeout`` ms
        for the peer's, then cuts the connection. In a callback of this connection it does not wait:
        the loop continues, and ends by itself. Messages that arrive during the wait still reach
        their callback; later messages are dropped, and counted in :attr:`dropped_count`. Returns
        True if the peer answered (in a callback: if the frame was sent). Raises ``ValueError`` for
        a *code* that must not be sent.
        """
        return self.closer.close(code, reason, self.settings.close_timeout, self.runs_loop())

    def shutdown_within(self, code: int, most_ms: int) -> bool:
        """Close for ``free()``, which has its own limit: wait *most_ms*, not ``close_timeout``."""
        return self.closer.close_within(code, min(most_ms, self.settings.close_timeout))

    def start_shutdown(self, code: int, reason: str, wait_ms: int = 0) -> bool:
        """Send a close frame without waiting for the answer; return whether it was sent.

        The answer has ``close_timeout`` ms to arrive. Waits up to *wait_ms* for another thread that
        is writing on the connection.
        """
        return self.closer.send(code, reason, close_payload(code, reason), wait_ms)

    def abort(self, why: str) -> None:
        """Cut the connection immediately: its loop ends, and a blocked write fails.

        Any thread may call it. *why* becomes ``last_error``.
        """
        self.closer.abort(why)

    def attach_exchange(self, exchange: RequestExchange) -> None:
        """Let *exchange* carry the requests of this connection; called by REST protocols."""
        self.exchange = exchange

    def detach_exchange(self) -> None:
        """Undo :meth:`attach_exchange`."""
        self.exchange = None

    def run_at_once(self) -> None:
        """Allow frames to be sent after the upgrade, even before the loop starts."""
        self.enter_run()
        self.entered_run()

    def enter_run(self) -> None:
        """Do the same as :meth:`run_at_once` under a lock, without a log record.

        Call :meth:`entered_run` after the lock is released.
        """
        self.state = wpsRun
        self._state_since = monotonic()

    def entered_run(self) -> None:
        """Log that the connection is running. Called without a lock."""
        _log.debug("%s: %s -> %s", self, wpsCreate.name, wpsRun.name)

    def die_in_child(self) -> None:
        """Become dead in a forked child, without a callback, a log line or a byte to the peer.

        The transport closes its descriptor itself. The forking thread may be the loop's own: then
        it finds nothing more to read or handle, and leaves :meth:`process_loop` silently.
        """
        self.inherited = True
        # not by set_state(), which informs others; all other code checks the state first
        self.state = wpsDestroy
        self._state_since = monotonic()
        # threads that do not exist here may have held the locks of the parts
        self.reader.die_in_child()
        self.sender.die_in_child()
        self.closer.die_in_child()

    # ------------------------------------------------------------------------------------ the loop

    def process_loop(self) -> None:
        """Run the connection to its end; the owner thread calls it once per connection."""
        self.loop.run()

    def begin_loop(self) -> bool:
        """Start the connection, and run its first callbacks; return whether to read.

        Call it in the thread that will call :meth:`loop_step`. Whatever it returns or raises, call
        :meth:`end_loop` in the end.
        """
        return self.loop.begin()

    def loop_step(self) -> bool:
        """Read once, handle the complete frames, and send what callbacks have queued meanwhile;
        return whether to continue.

        It waits if there are no bytes, unless the transport reads by events. Only one thread at a
        time may call it; the frames of a connection are handled one after another, in order.
        """
        return self.loop.step()

    def end_loop(self) -> None:
        """Close the connection after the last step, and run its last callbacks."""
        self.loop.end()

    def runs_loop(self) -> bool:
        """Return whether the calling thread is inside the loop, i.e. in one of its callbacks."""
        return get_ident() == self.loop.ident

    def process_start(self) -> bool:
        """Enter ``wpsRun`` and run the first callbacks; return False if one raises.

        Mirrors ``ProcessStart``.
        """
        if self.state is wpsCreate:
            # otherwise run_at_once() was called, and the connection may already be closing
            self.set_state(wpsRun)
        self.reader.touch()
        self.liveness.start()
        return self._dispatcher.start()

    def process_stop(self) -> None:
        """Run the callbacks for the end of the connection. Mirrors ``ProcessStop``."""
        self._dispatcher.stop()

    def process_loop_step_send(self) -> None:
        """Send frames queued by callbacks in this turn. Mirrors ``ProcessLoopStepSend``."""
        self.sender.step()

    def process_loop_step_receive(self) -> list[WebSocketFrame] | None:
        """Wait for bytes, and return the frames that they complete; None: nothing more to read.

        Mirrors ``ProcessLoopStepReceive``.
        """
        return self.loop.receive()

    def process_loop_received(self, frame: WebSocketFrame) -> None:
        """Handle one frame in the loop's thread. Mirrors ``ProcessLoopReceived``."""
        self._dispatcher.received(frame)

    # ----------------------------------------------------------------------------- closing, faults

    def fault(self, error: WebSocketsProtocolError, wait_ms: int | None = None) -> bool:
        """Close with the code of *error*, because the peer broke a rule.

        Returns whether the close frame was sent. Waits like :meth:`start_shutdown`.
        """
        return self.closer.fault(error, wait_ms)

    def overflowed(self) -> None:
        """Close the connection because the queue is full, as the settings require."""
        if self.state is wpsRun and not self.start_shutdown(1008, "outgoing queue is full"):
            self.abort("outgoing queue is full: the peer does not read")

    def cut(self, exc: BaseException) -> None:
        """Give up the connection after a write that failed or waited too long.

        The stream may end inside a frame. Called under ``safe_out``, so that nothing is written
        after it; logs nothing.
        """
        self.closer.cut(exc)

    def count_dropped(self, messages: int = 1) -> None:
        """Count messages that were read but reached no callback. For the package."""
        self._dispatcher.drop(messages)

    def met(self, connection_id: int, remote_ip: str) -> None:
        """Store the server's number for the connection, and the peer's IP address."""
        self.connection_id = connection_id
        self.remote_ip = remote_ip

    def run_by(self, thread: threading.Thread | None) -> None:
        """Record that *thread* runs the loop from now on; None: changing threads."""
        self.owner_thread = thread

    def renew(self, protocol: WebSocketProtocol) -> None:
        """Prepare for the next connection, with *protocol*."""
        self.protocol = protocol
        self._begin()
        self.set_state(wpsCreate)

    def note_error(self, why: str) -> None:
        """Store *why* as :attr:`last_error`; used by the package."""
        self.closer.note_error(why)

    def set_state(self, state: WebSocketProcessState) -> None:
        """Change the state, and wake threads that wait for answers; used by the package."""
        before = self.state
        if state is not before:
            self.state = state
            self._state_since = monotonic()
            self._state_changed(before)

    def leave_run(self) -> bool:
        """Change from ``wpsRun`` to ``wpsClose``; return False if that was already done.

        Called under ``safe_out``; :meth:`left_run` follows without it.
        """
        if self.state is not wpsRun:
            return False
        self.state = wpsClose
        self._state_since = monotonic()
        return True

    def left_run(self) -> None:
        """Wake threads that wait for answers, because none will arrive."""
        self._state_changed(wpsRun)

    def _state_changed(self, before: WebSocketProcessState) -> None:
        """Log that the state has changed from *before*, and inform the waiting threads."""
        state = self.state
        _log.debug("%s: %s -> %s", self, before.name, state.name)
        if self.exchange is not None and state is not wpsRun:
            self.exchange.closed()

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        return (
            f"<{type(self).__name__} {name}#{self.connection_id} "
            f"{shown_name(self.protocol.name)!r} {self.state.name}"
            f"{' ' + self.remote_ip if self.remote_ip else ''}>"
        )
