"""WebSocketProcess: the loop of one connection, without a socket (that is in ``crtprocess.py``).

One thread, the connection's own, runs :meth:`WebSocketProcess.process_loop`: it reads, decodes, and
calls the protocol, which calls the user. Any thread may send. The keeper's thread looks after
heartbeats, time-outs and queued frames.

Lock order: ``safe_in`` < ``safe_out`` < the queue's and transport's own locks. No callback runs
while any of them is held.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from functools import partial
from threading import get_ident
from time import monotonic, sleep

from ..core.frames import (
    CLOSE_ABNORMAL,
    CLOSE_NO_STATUS,
    WebSocketFrame,
    close_payload,
    encode_frame,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    parse_close_payload,
)
from ..core.incoming import WebProcessInFrame
from ..errors import WebSocketsProtocolError
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest, OnHttpServerRequest
from ..rest.exchange import RestExchange
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..states import (
    WebSocketProcessNotifyCallback,
    WebSocketProcessState,
    wpsClose,
    wpsCreate,
    wpsDestroy,
    wpsRun,
    wscBlockWithAnswer,
)
from ..status import ConnectionStatus, connection_status
from .keeper import ProcessKeeper, Timer
from .liveness import KeptProcess

_log = logging.getLogger("mormot_ws.process")

#: bytes asked of the kernel at a time: first few, because an idle connection holds that buffer;
#: more while reads come back full; many (which costs page faults at every call) only while a large
#: frame is under way
_RECV_IDLE = 4096
_RECV_BUSY = 16384
_RECV_LARGE = 1 << 18
_RECV_FRAGMENTS = 1024
_MANY_FRAGMENTS = 256
#: seconds that a flood of fragments pauses after each read
_FAIR_PAUSE = 0.0001


class WebSocketProcess(KeptProcess):
    """What both sides of a connection have in common, whatever carries the bytes. Mirrors
    ``TWebSocketProcess``.

    :param protocol: this connection's own protocol object.
    :param settings: shared by reference with the server or client.
    :param keeper: the thread that looks after heartbeats and queued frames.
    :param mask_sent_frames: True on the client's side (the original's ``MaskSentFrames``).
    :param connection_id: the server's number for the connection.
    :param process_name: names threads and log lines.

    For anybody, from any thread: :meth:`send_frame`, :meth:`send_frame_async`, :meth:`shutdown`,
    and the attributes, to be read. To be implemented below: :meth:`receive_bytes`,
    :meth:`write_bytes`, :meth:`write_now`, :meth:`interrupt`, :meth:`fileno`.
    """

    _internal = frozenset(
        {"exchange", "finish", "run_at_once", "shutdown_within", "start_shutdown"}
    )

    #: what waits for answers, on REST protocols; None on others
    exchange: RestExchange | None = None

    def __init__(
        self,
        protocol: WebSocketProtocol,
        settings: WebSocketProcessSettings,
        keeper: ProcessKeeper,
        *,
        mask_sent_frames: bool,
        connection_id: int = 0,
        process_name: str = "",
    ) -> None:
        super().__init__(protocol, settings, keeper, mask_sent_frames)
        self.process_name = process_name
        #: the server's number for this connection; on a client the one that the last handshake
        #: brought (0: none)
        self.connection_id = connection_id
        #: the peer's IP address; '' when unknown
        self.remote_ip = ""
        #: the thread that runs the loop
        self.owner_thread: threading.Thread | None = None
        #: what ended the connection, or the last fault, in words; '' when there was none
        self.last_error: str = ""
        #: the code of the close frame that ended the connection, ours or the peer's, whichever came
        #: first; 1005: it had none; 1006: there was no close frame; 0: the connection is open
        self.close_code: int = 0
        #: the reason in that close frame
        self.close_reason: str = ""

        self._state_since = monotonic()
        self._begin()

    def _begin(self) -> None:
        """(Re)set what belongs to one connection. The loop is not running; a reconnected client
        comes here again.
        """
        self._begin_sending()
        self._begin_keeping()
        settings = self.settings
        compression = self.protocol.compression
        self.in_frame: WebProcessInFrame = WebProcessInFrame(
            masked=self._masks is None,
            max_message_bytes=settings.max_message_bytes,
            max_frame_bytes=settings.max_frame_mb << 20,
            max_fragments=settings.max_fragments,
            inflater=None if compression is None else compression.inflater(self.client_side),
            lenient_text=self.protocol.lenient_text,
        )
        self.last_error = ""
        self.close_code = 0
        self.close_reason = ""
        self._close_sent = False
        self._close_received = False
        # a close frame, not the end of the stream, ended the reading
        self._close_ends_reading = False
        self._loop_ident = 0
        self._recv_size = _RECV_IDLE
        self._close_timer: Timer | None = None
        kind = type(self.protocol)
        self._after_get = (
            None
            if kind.after_get_frame is WebSocketProtocol.after_get_frame
            else self.protocol.after_get_frame
        )
        self._reading_ended = False
        #: set by the loop when nothing more will be read; made by the first shutdown() that waits
        #: for it, under safe_out
        self._reading_ended_event: threading.Event | None = None

    # ---------------------------------------------------------------------------------- for anybody

    @property
    def state(self) -> WebSocketProcessState:
        """Where the connection is in its life; mirrors ``State``."""
        return self._state

    @property
    def state_since(self) -> float:
        """Milliseconds since :attr:`state` last changed."""
        return (monotonic() - self._state_since) * 1000

    def notify_callback(
        self, request: HttpServerRequest, mode: WebSocketProcessNotifyCallback = wscBlockWithAnswer
    ) -> int:
        """Send *request* to the peer over a REST protocol; return the status. Mirrors
        ``NotifyCallback``.

        From any thread. Waits with ``wscBlockWithAnswer``, up to :meth:`answer_timeout` ms; the
        answer is then in the ``out_…`` attributes of *request*. The other modes return 200 when the
        request was sent or queued. Without an answer the status is 666 when the request surely did
        not reach the peer, 404 when it may have, and ``request.out_error`` says why. 404 on a
        protocol without requests.

        Raises :class:`WebSocketsError` when it would have to wait inside a callback of this very
        connection, whose thread reads the answers, and ``ValueError`` for a *mode* that is none.

        Requests that wait take turns on ``synopsejson`` and ``synopsebinary``, whose answers carry
        no number: each waits up to another :meth:`answer_timeout` for its turn, and gets 666 when
        that does not come.
        """
        if self.exchange is None:
            request.out_error = f"the protocol {self.protocol.name!r} carries no requests"
            return 404
        return self.exchange.notify(request, mode)

    def answer_timeout(self) -> int:
        """Return the milliseconds that a request waits for its answer, as they are set:
        ``callback_answer_timeout_ms``.
        """
        return self.settings.callback_answer_timeout_ms

    def compute_context(self) -> tuple[HttpServerRequest, OnHttpServerRequest | None]:
        """Return a new context for a request of the peer, and who answers it (None: nobody).
        Mirrors ``ComputeContext``.
        """
        return HttpServerRequest(connection_id=self.connection_id, remote_ip=self.remote_ip), None

    @property
    def connection_close_was_sent(self) -> bool:
        """True once our close frame was given to the connection; mirrors
        ``ConnectionCloseWasSent``.

        To cut a connection without a close frame call :meth:`abort`; the original sets this
        property for that.
        """
        return self._close_sent

    def status(self) -> ConnectionStatus:
        """Return a snapshot for monitoring. From any thread, never waits."""
        return connection_status(self)

    def log_fields(self) -> dict[str, object]:
        """Return what log records of this connection carry as ``extra``."""
        return {
            "connection_id": self.connection_id,
            "remote_ip": self.remote_ip,
            "close_code": self.close_code,
        }

    def shutdown(self, code: int | None = 1000, reason: str = "") -> bool:
        """Close the connection in the orderly way: send a close frame once, wait for the answer.
        Mirrors ``Shutdown``.

        From any thread. Waits up to ``close_timeout`` ms for the peer's close frame, then cuts the
        connection; inside a callback of this connection it does not wait, the loop goes on and ends
        by itself. Returns True when the peer answered (inside a callback: when the frame was sent).
        Raises ``ValueError`` for a *code* that may not be sent.
        """
        payload = close_payload(code, reason)
        sent = self._send_close(CLOSE_NO_STATUS if code is None else code, reason, payload)
        if get_ident() == self._loop_ident:
            return sent
        return self._await_close(self.settings.close_timeout)

    def shutdown_within(self, code: int, most_ms: int) -> bool:
        """The same for ``free()``, which has a bound of its own: wait up to *most_ms*, whatever
        ``close_timeout`` says.
        """
        most_ms = min(most_ms, self.settings.close_timeout)
        self._send_close(code, "", close_payload(code), most_ms // 2)
        return self._await_close(most_ms)

    def _await_close(self, wait_ms: int) -> bool:
        if not (self._close_sent and self._wait_reading_ended(wait_ms / 1000)):
            self.abort(self.last_error or "no answer to our close frame")
        return self._close_received

    def _wait_reading_ended(self, timeout: float) -> bool:
        with self.safe_out:
            event = self._reading_ended_event
            if event is None:
                event = self._reading_ended_event = threading.Event()
        # the loop sets the flag before it looks for the event, we look at the flag after making the
        # event: one of us sees the other
        return self._reading_ended or event.wait(timeout)

    def start_shutdown(self, code: int, reason: str, wait_ms: int = 0) -> bool:
        """Send a close frame without waiting for the answer, which has ``close_timeout`` ms to
        come; tell whether it was sent.

        Waits up to *wait_ms* for another thread that is writing on the connection just now.
        """
        return self._send_close(code, reason, close_payload(code, reason), wait_ms)

    def run_at_once(self) -> None:
        """After the handshake: frames may be sent, even before the loop starts."""
        self._set_state(wpsRun)

    def abort(self, why: str) -> None:
        """Cut the connection at once, from any thread: its loop ends, a blocked write fails. *why*
        becomes ``last_error``.
        """
        if not self._reading_ended:
            self.last_error = why
            _log.debug("%s: cut: %s", self, why)
        self.interrupt()

    # ---------------------------------------------------------------------- to be implemented below

    @abstractmethod
    def receive_bytes(self, size: int) -> bytes:
        """Return up to *size* bytes from the peer, ``b''`` at the end; raise ``OSError`` when the
        connection is broken.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Break the connection so that reads and writes in other threads return. From any thread,
        must not raise.
        """

    def finish(self) -> None:
        """Close what carries the bytes, after the last read. Called by the loop's thread."""

    # ------------------------------------------------------------------------------------- the loop

    def process_loop(self) -> None:
        """Run the connection from its first callback to its last. Called by the owner thread, once
        per connection.
        """
        self._loop_ident = get_ident()
        try:
            if self.process_start():
                self._run()
        finally:
            self._in_hand = ()
            self._reading_ended = True
            if self._reading_ended_event is not None:
                self._reading_ended_event.set()
            self._keeper.unwatch(self)
            for timer in (self._heartbeat, self._close_timer):
                if timer is not None:
                    timer.cancel()
            if not self.close_code:
                self.close_code = CLOSE_ABNORMAL
            self._set_state(wpsClose)
            why = self.last_error or self.close_reason or "in an orderly way"
            _log.debug("%s: ended with %d: %s", self, self.close_code, why, extra=self.log_fields())
            self.finish()
            self._requeue_batch()
            self.process_stop()
            self._loop_ident = 0
            self._set_state(wpsDestroy)

    def process_start(self) -> bool:
        """Enter ``wpsRun`` and tell the user; return False when a callback refused by an
        exception. Mirrors ``ProcessStart``.
        """
        # else run_at_once() was called, and the connection may be closing already
        if self._state is wpsCreate:
            self._set_state(wpsRun)
        self._last_in = monotonic()
        if self.settings.heartbeat_delay:
            delay = self.settings.heartbeat_delay / 1000
            self._schedule_heartbeat(self._last_in + delay)
        self._watch()
        try:
            if self.settings.on_client_connected is not None:
                self.settings.on_client_connected(self)
            self.protocol.process_incoming_frame(self, WebSocketFrame(focContinuation), "")
        # whatever the user's code raises ends this connection only
        except Exception:  # noqa: BLE001
            _log.exception("%s: a callback refused the connection", self, extra=self.log_fields())
            self.last_error = "a callback refused the connection"
            self._send_close(1011, "refused", close_payload(1011, "refused"))
            return False
        return True

    def process_stop(self) -> None:
        """Tell the user that the connection has ended. Mirrors ``ProcessStop``."""
        payload = b""
        if self.close_code not in (CLOSE_ABNORMAL, CLOSE_NO_STATUS):
            payload = self.close_code.to_bytes(2, "big") + self.close_reason.encode("utf-8")
        try:
            self.protocol.process_incoming_frame(
                self, WebSocketFrame(focConnectionClose, payload), ""
            )
        # the connection has ended: there is nobody left to tell but the log
        except Exception:  # noqa: BLE001
            _log.exception(
                "%s: the callback for the end of the connection failed",
                self,
                extra=self.log_fields(),
            )
        try:
            if self.settings.on_client_disconnected is not None:
                self.settings.on_client_disconnected(self)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("%s: on_client_disconnected failed", self, extra=self.log_fields())

    def _run(self) -> None:
        """Read and dispatch until the connection ends."""
        received = self.process_loop_received
        outgoing = self.outgoing
        in_frame = self.in_frame
        self._queue_open = True
        try:
            while not self._close_received:
                if outgoing:
                    self.process_loop_step_send()
                frames = self.process_loop_step_receive()
                if frames is None:
                    return
                self._in_hand = frames
                for frame in frames:
                    received(frame)
                self._in_hand = ()
                if in_frame.error is not None and not self._backlog:
                    raise in_frame.error
            if outgoing:
                self.process_loop_step_send()
        except WebSocketsProtocolError as exc:
            self._fault(exc)

    def process_loop_step_receive(self) -> list[WebSocketFrame] | None:
        """Wait for bytes and return the frames that they complete; None when there is nothing more
        to read.
        """
        in_frame = self.in_frame
        with self.safe_in:
            if self._backlog:
                frames, self._backlog = self._backlog, []
                self._backlog_bytes = 0
                return frames
            data = self._unread
            if data:
                self._unread = b""
            else:
                size = self._recv_size
                if in_frame.missing_bytes > _RECV_BUSY:
                    size = _RECV_LARGE
                try:
                    data = self.receive_bytes(size)
                except OSError as exc:
                    self._lost(f"{type(exc).__name__}: {exc}")
                    return None
            if not data:
                self._lost("the peer ended the TCP connection without a close frame")
                return None
            self._recv_size = _RECV_IDLE if len(data) < _RECV_IDLE else _RECV_BUSY
            if in_frame.fragments > _MANY_FRAGMENTS:
                # tiny fragments cost far more than their bytes. Between two reads the threads of
                # other connections have to get their turn, and giving up Python's global lock for
                # the time of a system call is too short for them to wake up
                self._recv_size = _RECV_FRAGMENTS
                sleep(_FAIR_PAUSE)
            self._last_in = monotonic()
            return in_frame.feed(data)

    def process_loop_received(self, frame: WebSocketFrame) -> None:
        """Handle one frame in the loop's thread. Mirrors ``ProcessLoopReceived``."""
        opcode = frame.opcode
        if self._log_frames:
            self._log_frame("received", frame)
        protocol = self.protocol
        if opcode is focText or opcode is focBinary:
            protocol.frames_in_count += 1
            protocol.frames_in_bytes += len(frame.payload)
            self._dispatch(frame)
        elif opcode is focPing:
            self._ping_received(frame)
            if self.settings.notify_all_frames:
                self._dispatch(frame)
        elif opcode is focPong:
            self._pong_received(frame)
            if self.settings.notify_all_frames:
                self._dispatch(frame)
        elif opcode is focConnectionClose:
            self._close_received = self._close_ends_reading = True
            self._send_close(*parse_close_payload(frame.payload), frame.payload)

    def _dispatch(self, frame: WebSocketFrame) -> None:
        protocol = self.protocol
        try:
            if self._after_get is not None:
                self._after_get(frame)
            before = protocol.on_before_incoming_frame
            if before is None or not before(self, frame):
                protocol.process_incoming_frame(self, frame, "")
        except WebSocketsProtocolError:
            # what the peer sent cannot be used (a frame that does not decrypt): the loop closes
            raise
        # a bug in the user's code must not end the connection; the log has it
        except Exception:  # noqa: BLE001
            _log.exception("%s: a callback failed on %r", self, frame, extra=self.log_fields())

    # ------------------------------------------------------------------------------ closing, faults

    def _send_close(
        self, code: int, reason: str, payload: bytes, wait_ms: int | None = None
    ) -> bool:
        """Send a close frame, once per connection, and leave ``wpsRun``; tell whether it was sent
        by this call.

        A writer may hold the lock while the peer does not read: the close frame waits up to
        *wait_ms* (None: ``close_timeout``).
        """
        if wait_ms is None:
            wait_ms = self.settings.close_timeout
        deadline = Deadline(wait_ms)
        if not self.safe_out.acquire(timeout=wait_ms / 1000):
            self._note_close(code, reason)
            return False
        try:
            if self._close_sent or self._state is not wpsRun:
                return False
            self._close_sent = True
            self._note_close(code, reason)
            self._set_state(wpsClose)  # from here on nobody adds to what is drained below
            key = None if self._masks is None else self._masks.next_key()
            wire = memoryview(encode_frame(focConnectionClose, payload, key))
            if self._drain(deadline):
                rest = self._write_within(wire, deadline)
                if rest is not None:
                    self._send_behind(rest)
            else:
                self._send_behind(wire)
        except OSError as exc:
            _log.debug("%s: close frame not sent: %s", self, exc)
            return False
        finally:
            self.safe_out.release()
        _log.debug("%s: close frame sent, %d %s", self, code, reason)
        if not self._close_received:
            timeout = self.settings.close_timeout / 1000
            self._close_timer = self._keeper.call_at(
                monotonic() + timeout, partial(self._close_overdue, self.in_frame)
            )
        return True

    def _close_overdue(self, connection: object) -> None:
        """In the keeper's thread: the peer did not answer our close frame in time."""
        if connection is self.in_frame and not self._reading_ended:
            self.abort("no answer to our close frame")

    def _note_close(self, code: int, reason: str) -> None:
        if not self.close_code:
            self.close_code = code
            self.close_reason = reason

    def _drain(self, deadline: Deadline) -> bool:
        """Write what was half sent or is queued, before a close frame; return False when the
        *deadline* came first.
        """
        while self._batch_wire is not None or (self.outgoing and not self._keeps_queue()):
            if self._batch_wire is None:
                self._next_batch()
            assert self._batch_wire is not None
            # step by step, so that what the kernel has taken is known even when the next step
            # fails: it must not be sent again
            self._batch_wire = self._batch_wire[self.write_now(self._batch_wire) :]
            if not self._batch_wire and not self.unsent_bytes():
                self._batch_sent()
            elif deadline.passed or not self.wait_writable(deadline):
                return (
                    # a peer that reads slowly has the socket writable again and again, and no bound
                    # of its own
                    False
                )
        return True

    def _send_behind(self, close: memoryview) -> None:
        """Leave the rest of what is queued, and the close frame behind it, to the keeper, which
        has ``close_timeout`` ms for that.
        """
        parts = [] if self._batch_wire is None else [self._batch_wire.tobytes()]
        if not self._keeps_queue():
            for queued in self.outgoing.take(1 << 62):
                wire = self._encode_queued(queued) if queued.wire is None else queued.wire
                self._batch.append(queued)
                self._batch_sizes.append(len(wire))
                parts.append(wire)
        self._batch_wire = memoryview(b"".join([*parts, close]))
        self._batch_tail = len(close)
        self._last_batch = True
        self._keeper.wake(self)

    def _fault(self, error: WebSocketsProtocolError, wait_ms: int | None = None) -> bool:
        """The peer broke a rule: close with the code that this deserves; tell whether the close
        frame was sent, as :meth:`_send_close`.
        """
        _log.info(
            "%s: closing with %d: %s", self, error.code, error.reason, extra=self.log_fields()
        )
        self.last_error = str(error)
        self._close_ends_reading = True
        return self._send_close(
            error.code, error.reason, close_payload(error.code, error.reason), wait_ms
        )

    def _lost(self, why: str) -> None:
        """Nothing more can be read."""
        if not self._close_sent and not self.last_error:
            self.last_error = why
        _log.debug("%s: reading ended: %s", self, why)

    def _overflowed(self) -> None:
        if self._state is wpsRun and not self.start_shutdown(1008, "outgoing queue is full"):
            self.abort("outgoing queue is full: the peer does not read")

    def _write_failed(self, exc: Exception) -> None:
        """A write failed, or waited too long: the stream may be cut inside a frame, so it can only
        be given up.
        """
        why = (
            "the peer does not read"
            if isinstance(exc, BlockingIOError)
            else f"{type(exc).__name__}: {exc}"
        )
        self.abort(f"write failed: {why}")

    def _set_state(self, state: WebSocketProcessState) -> None:
        """The one place where the state changes."""
        if state is not self._state:
            _log.debug("%s: %s -> %s", self, self._state.name, state.name)
            self._state = state
            if self.exchange is not None and state is not wpsRun:
                self.exchange.closed()
            self._state_since = monotonic()

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        return (
            f"<{type(self).__name__} {name}#{self.connection_id} {self.protocol.name!r} {self._state.name}"
            f"{' ' + self.remote_ip if self.remote_ip else ''}>"
        )
