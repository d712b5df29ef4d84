"""WebSocketProcess: the loop of one connection, without a socket; WebCrtSocketProcess: the same loop on a blocking socket.

One thread, the connection's own, runs :meth:`WebSocketProcess.process_loop`: it reads, decodes, and calls the protocol, which
calls the user. Any thread may send. The keeper's thread looks after heartbeats, time-outs and queued frames.

Lock order: ``safe_in`` < ``safe_out`` < the queue's and transport's own locks. No callback runs while any of them is held.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from threading import get_ident
from time import monotonic

from .deadline import Deadline
from .errors import WebSocketsProtocolError
from .frames import (
    CLOSE_ABNORMAL,
    CLOSE_NO_STATUS,
    WebSocketFrame,
    WebSocketFrameList,
    WebSocketFrameOpCode,
    close_payload,
    encode_frame,
    encode_header,
    encode_unmasked,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    parse_close_payload,
)
from .incoming import WebProcessInFrame
from .keeper import FlushResult, ProcessKeeper, Timer
from .masking import MaskSource, mask_bytes
from .outgoing import OutgoingFrames, QueuedFrame
from .protocols import WebSocketProtocol
from .settings import (
    WebSocketProcessSettings,
    WebSocketProcessSettingsLogDetails,
    logBinaryFrameContent,
    logHeartbeat,
    logTextFrameContent,
)
from .states import WebSocketProcessState, wpsClose, wpsCreate, wpsDestroy, wpsRun
from .transport import JOIN_BELOW, Transport, wait_socket

_log = logging.getLogger("mormot_ws.process")

#: seconds after which an answer nobody waited for is dropped from ``incoming``
_INCOMING_EXPIRY = 30 * 60
#: bytes asked of the kernel at a time: more costs page faults at every call, unless a large frame is under way
_RECV_SMALL = 16384
_RECV_LARGE = 1 << 18
#: bytes that one batch of queued frames may have
_BATCH_BYTES = 1 << 18


class WebSocketProcess(ABC):
    """What both sides of a connection have in common, whatever carries the bytes. Mirrors ``TWebSocketProcess``.

    :param protocol: this connection's own protocol object.
    :param settings: shared by reference with the server or client.
    :param keeper: the thread that looks after heartbeats and queued frames.
    :param mask_sent_frames: True on the client's side (the original's ``MaskSentFrames``).
    :param connection_id: the server's number for the connection.
    :param process_name: names threads and log lines.

    For anybody, from any thread: :meth:`send_frame`, :meth:`send_frame_async`, :meth:`shutdown`, and the attributes, to be read.
    To be implemented below: :meth:`receive_bytes`, :meth:`write_bytes`, :meth:`write_now`, :meth:`interrupt`, :meth:`fileno`.
    """

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
        self.protocol = protocol
        self.settings = settings
        self.process_name = process_name
        #: the server's number for this connection; on a client the one that the last handshake brought (0: none)
        self.connection_id = connection_id
        #: the peer's IP address; '' when unknown
        self.remote_ip = ""
        #: the thread that runs the loop
        self.owner_thread: threading.Thread | None = None
        #: answers that arrived for callers that wait for them (REST protocols); mirrors ``Incoming``
        self.incoming = WebSocketFrameList(_INCOMING_EXPIRY)
        #: frames of ``send_frame_async`` that wait to be sent; mirrors ``Outgoing``
        self.outgoing = OutgoingFrames(settings.max_outgoing_frames, settings.max_outgoing_bytes)
        #: heartbeats in a row that could not be sent or were not answered; mirrors ``InvalidPingSendCount``
        self.invalid_ping_count = 0
        #: milliseconds from the last heartbeat to its answer; 0: none yet. Mirrors ``LastPingDelay``
        self.last_ping_delay = 0.0
        #: what ended the connection, or the last fault, in words; '' when there was none
        self.last_error = ""
        #: the code of the close frame that ended the connection, ours or the peer's, whichever came first; 1005: it had none;
        #: 1006: there was no close frame; 0: the connection is open
        self.close_code = 0
        #: the reason in that close frame
        self.close_reason = ""

        self._keeper = keeper
        self._masks = MaskSource() if mask_sent_frames else None
        self._state = wpsCreate
        #: held by the thread that reads and decodes; before safe_out
        self.safe_in = threading.Lock()
        #: held while a frame, or a batch of them, is written whole; guards _close_sent, _batch and the out counters
        self.safe_out = threading.Lock()
        #: set (by the loop) when nothing more will be read; waited for by shutdown()
        self._reading_ended = threading.Event()
        #: set (by the loop) when the last callback of a connection has returned; waited for by free()
        self._ended = threading.Event()
        self._begin()

    def _begin(self) -> None:
        """(Re)set what belongs to one connection. The loop is not running; a reconnected client comes here again."""
        settings = self.settings
        self.in_frame = WebProcessInFrame(
            masked=self._masks is None,
            max_message_bytes=settings.max_message_bytes,
            max_frame_bytes=settings.max_frame_mb << 20,
            max_fragments=settings.max_fragments,
        )
        self.close_code = 0
        self.close_reason = ""
        self.invalid_ping_count = 0
        self._close_sent = False
        self._close_received = False
        self._loop_ident = 0
        self._unread = b""  # what the handshake read beyond its end
        self._batch: list[QueuedFrame] = []  # frames being sent; requeued if the connection is lost meanwhile
        self._batch_wire: memoryview | None = None  # what the kernel has not taken of them
        self._flush_wanted = False
        self._last_flush = 0.0
        self._last_in = monotonic()
        self._pinged_at = 0.0  # when the heartbeat that waits for any sign of life was due; 0: none does
        self._ping_sent = 0.0  # when the last ping left, until its pong comes
        self._heartbeat: Timer | None = None
        self._close_timer: Timer | None = None
        self._log_frames = bool(settings.log_details)
        protocol = self.protocol
        kind = type(protocol)
        self._before_send = (
            None if kind.before_send_frame is WebSocketProtocol.before_send_frame else protocol.before_send_frame
        )
        self._after_get = (
            None if kind.after_get_frame is WebSocketProtocol.after_get_frame else protocol.after_get_frame
        )
        self._reading_ended.clear()
        self._ended.clear()

    # ------------------------------------------------------------------------------------------------ for anybody

    @property
    def state(self) -> WebSocketProcessState:
        """Where the connection is in its life; mirrors ``State``."""
        return self._state

    @property
    def client_side(self) -> bool:
        """True on the side that connected and masks its frames."""
        return self._masks is not None

    def send_frame(self, frame: WebSocketFrame) -> bool:
        """Send *frame* now. Mirrors ``SendFrame``.

        From any thread; frames of several threads never mix. Returns True when the kernel of a running connection has taken all its
        bytes, else False (not in ``wpsRun``, connection lost, or the peer took nothing for ``send_timeout`` ms: the connection is then
        given up). A ``focConnectionClose`` frame starts the close handshake. Raises ``TypeError``/``ValueError`` for what is no sendable frame.
        """
        if self._state is not wpsRun:
            self._check_sendable(frame)
            return False
        try:
            opcode = frame.opcode
            payload = frame.payload
        except AttributeError:
            raise TypeError(f"a WebSocketFrame is sent, not {type(frame).__name__}") from None
        if opcode is focText:
            if not payload.isascii():
                self._check_sendable(frame)
        elif opcode is not focBinary:
            self._check_sendable(frame)
            if opcode is focConnectionClose:
                return self._send_close(*parse_close_payload(payload), payload)
        if self._before_send is not None:
            copy = WebSocketFrame(opcode, payload, frame.content)
            self._before_send(copy)
            payload = copy.payload
        with self.safe_out:
            if self._state is not wpsRun:
                return False
            try:
                if self._batch_wire is not None:
                    self._finish_batch()
                size = len(payload)
                if self._masks is not None:
                    key = self._masks.next_key()
                    header = encode_header(0x80 | opcode, size, key)
                    payload = mask_bytes(payload, key)
                    if size < JOIN_BELOW:
                        self.write_bytes(header + payload)
                    else:
                        self.write_parts(header, payload)
                elif size < JOIN_BELOW:
                    self.write_bytes(encode_unmasked(opcode, payload))
                else:
                    self.write_parts(encode_header(0x80 | opcode, size), payload)
            except OSError as exc:
                self._write_failed(exc)
                return False
            protocol = self.protocol
            protocol.frames_out_count += 1
            protocol.frames_out_bytes += size
        if self._log_frames:
            self._log_frame("sent", frame)
        return True

    def send_frame_async(self, frame: WebSocketFrame) -> bool:
        """Queue a copy of *frame* to be sent soon, together with others. Mirrors ``SendFrameAsync``.

        From any thread, never waits. Returns False when the queue is full (``max_outgoing_frames``, ``max_outgoing_bytes``) or the
        connection will not come back. Frames leave in the order of these calls. Raises as :meth:`send_frame` does.
        """
        if not isinstance(frame, WebSocketFrame):
            raise TypeError(f"a WebSocketFrame is sent, not {type(frame).__name__}")
        opcode = frame.opcode
        if opcode is not focBinary and (opcode is not focText or not frame.payload.isascii()):
            self._check_sendable(frame)
        return self.send_queued(QueuedFrame(opcode, frame.payload, frame.content))

    def send_queued(self, queued: QueuedFrame) -> bool:
        """Queue *queued*, which may carry its bytes on the wire already (a broadcast); otherwise like :meth:`send_frame_async`."""
        if self._state is not wpsRun and not self._keeps_queue():
            return False
        if not self.outgoing.push_queued(queued):
            return False
        if not self._flush_wanted and get_ident() != self._loop_ident:
            self._want_flush()
        return True

    def shutdown(self, code: int | None = 1000, reason: str = "") -> bool:
        """Close the connection in the orderly way: send a close frame once, wait for the answer. Mirrors ``Shutdown``.

        From any thread. Waits up to ``close_timeout`` ms for the peer's close frame, then cuts the connection; inside a callback of
        this connection it does not wait, the loop goes on and ends by itself. Returns True when the peer answered (inside a callback:
        when the frame was sent). Raises ``ValueError`` for a *code* that may not be sent.
        """
        payload = close_payload(code, reason)
        sent = self._send_close(CLOSE_NO_STATUS if code is None else code, reason, payload)
        if get_ident() == self._loop_ident:
            return sent
        if not (self._close_sent and self._reading_ended.wait(self.settings.close_timeout / 1000)):
            self.abort(self.last_error or "no answer to our close frame")
        return self._close_received

    def start_shutdown(self, code: int, reason: str) -> bool:
        """Send a close frame without waiting for the answer, which has ``close_timeout`` ms to come; tell whether it was sent."""
        return self._send_close(code, reason, close_payload(code, reason), 0)

    @property
    def sends_plain(self) -> bool:
        """True when frames leave as they are: not masked, not changed by the protocol. A broadcast then encodes once for all."""
        return self._masks is None and self._before_send is None

    def abort(self, why: str) -> None:
        """Cut the connection at once, from any thread: its loop ends, a blocked write fails. *why* becomes ``last_error``."""
        if not self._reading_ended.is_set():
            self.last_error = why
            _log.debug("%s: cut: %s", self, why)
        self.interrupt()

    def wait_ended(self, timeout: float | None) -> bool:
        """Wait until the loop and its last callback have ended, for *timeout* seconds at most; tell whether they have."""
        return self._ended.wait(timeout)

    # --------------------------------------------------------------------------------------- to be implemented below

    @abstractmethod
    def receive_bytes(self, size: int) -> bytes:
        """Return up to *size* bytes from the peer, ``b''`` at the end; raise ``OSError`` when the connection is broken."""

    @abstractmethod
    def write_bytes(self, data: bytes) -> None:
        """Write *data* whole; raise ``OSError`` when that fails. Called under ``safe_out``."""

    def write_parts(self, header: bytes, payload: bytes) -> None:
        """Write a large frame; may avoid joining its parts. Called under ``safe_out``."""
        self.write_bytes(header + payload)

    @abstractmethod
    def write_now(self, data: memoryview) -> int:
        """Write what can be written without waiting and return its size; raise ``OSError``. Called under ``safe_out``."""

    @abstractmethod
    def interrupt(self) -> None:
        """Break the connection so that reads and writes in other threads return. From any thread, must not raise."""

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor to wait for, −1 when there is none."""

    def wait_writable(self, deadline: Deadline) -> bool:
        """Wait until :meth:`write_now` may get on; False when the *deadline* came first. Called under ``safe_out``."""
        return False

    def unsent_bytes(self) -> int:
        """Return how many bytes :meth:`write_now` has accepted that have not left yet."""
        return 0

    def finish(self) -> None:
        """Close what carries the bytes, after the last read. Called by the loop's thread."""

    def _keeps_queue(self) -> bool:
        """Tell whether frames may be queued while the connection is not running."""
        return False

    # ------------------------------------------------------------------------------------------------------ the loop

    def process_loop(self) -> None:
        """Run the connection from its first callback to its last. Called by the owner thread, once per connection."""
        self._loop_ident = get_ident()
        started = False
        try:
            started = self.process_start()
            if started:
                self._run()
        finally:
            self._reading_ended.set()
            for timer in (self._heartbeat, self._close_timer):
                if timer is not None:
                    timer.cancel()
            if not self.close_code:
                self.close_code = CLOSE_ABNORMAL
            self._set_state(wpsClose)
            self.finish()
            self._requeue_batch()
            self.process_stop()
            self._loop_ident = 0
            self._ended_state()
            self._ended.set()

    def process_start(self) -> bool:
        """Enter ``wpsRun`` and tell the user; return False when a callback refused by an exception. Mirrors ``ProcessStart``."""
        self._set_state(wpsRun)
        self._last_in = monotonic()
        if self.settings.heartbeat_delay:
            self._heartbeat = self._keeper.call_at(
                self._last_in + self.settings.heartbeat_delay / 1000, self._check_heartbeat
            )
        try:
            if self.settings.on_client_connected is not None:
                self.settings.on_client_connected(self)
            self.protocol.process_incoming_frame(self, WebSocketFrame(focContinuation), "")
        except Exception:  # noqa: BLE001 - whatever the user's code raises ends this connection only
            _log.exception("%s: a callback refused the connection", self)
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
            self.protocol.process_incoming_frame(self, WebSocketFrame(focConnectionClose, payload), "")
        except Exception:  # noqa: BLE001 - the connection has ended: there is nobody left to tell but the log
            _log.exception("%s: the callback for the end of the connection failed", self)
        try:
            if self.settings.on_client_disconnected is not None:
                self.settings.on_client_disconnected(self)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("%s: on_client_disconnected failed", self)

    def _run(self) -> None:
        """Read and dispatch until the connection ends."""
        received = self.process_loop_received
        outgoing = self.outgoing
        in_frame = self.in_frame
        try:
            while not self._close_received:
                if outgoing:
                    self.process_loop_step_send()
                frames = self.process_loop_step_receive()
                if frames is None:
                    return
                for frame in frames:
                    received(frame)
                if in_frame.error is not None:
                    raise in_frame.error
            if outgoing:
                self.process_loop_step_send()
        except WebSocketsProtocolError as exc:
            self._fault(exc)

    def process_loop_step_receive(self) -> list[WebSocketFrame] | None:
        """Wait for bytes and return the frames that they complete; None when there is nothing more to read."""
        in_frame = self.in_frame
        with self.safe_in:
            data = self._unread
            if data:
                self._unread = b""
            else:
                try:
                    data = self.receive_bytes(_RECV_SMALL if in_frame.missing_bytes < _RECV_SMALL else _RECV_LARGE)
                except OSError as exc:
                    self._lost(f"{type(exc).__name__}: {exc}")
                    return None
            if not data:
                self._lost("the peer ended the TCP connection without a close frame")
                return None
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
            self.send_frame(WebSocketFrame(focPong, frame.payload))
            if self.settings.notify_all_frames:
                self._dispatch(frame)
        elif opcode is focPong:
            if self._ping_sent:
                self.last_ping_delay = (monotonic() - self._ping_sent) * 1000
                self._ping_sent = 0.0
            if self.settings.notify_all_frames:
                self._dispatch(frame)
        elif opcode is focConnectionClose:
            self._close_received = True
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
            raise  # what the peer sent cannot be used (a frame that does not decrypt): the loop closes
        except Exception:  # noqa: BLE001 - a bug in the user's code must not end the connection; the log has it
            _log.exception("%s: a callback failed on %r", self, frame)

    def process_loop_step_send(self) -> None:
        """Send what callbacks have queued in this turn of the loop. Mirrors ``ProcessLoopStepSend``."""
        result = self.flush_outgoing()
        if result is FlushResult.done:
            return
        if (
            self.outgoing.bytes * 2 > self.outgoing.max_bytes > 0
            or self.outgoing.count * 2 > self.outgoing.max_frames > 0
        ):
            # the peer sends faster than it reads: stop reading from it until half of the queue is free
            with self.safe_out:
                try:
                    while self._batch_wire is not None or self.outgoing:
                        if self._batch_wire is None:
                            self._next_batch()
                        self._finish_batch()
                except OSError as exc:
                    self._write_failed(exc)
        else:
            self._want_flush()

    # ----------------------------------------------------------------------------------------------- queued frames

    def _want_flush(self) -> None:
        """Let the keeper flush the queue: at once when the last write is ``send_delay`` ms old, else when it is."""
        self._flush_wanted = True
        due = self._last_flush + self.settings.send_delay / 1000
        if due <= monotonic():
            self._keeper.wake(self)
        else:
            self._keeper.call_at(due, self._flush_due)

    def _flush_due(self) -> None:
        self._keeper.wake(self)

    def flush_outgoing(self) -> FlushResult:
        """Send queued frames without waiting. Called by the keeper, and by the loop after its callbacks."""
        if not self.safe_out.acquire(blocking=False):
            return FlushResult.busy
        try:
            self._flush_wanted = False
            if self._state is not wpsRun:
                return FlushResult.done
            while True:
                if self._batch_wire is None:
                    if not self.outgoing:
                        self._last_flush = monotonic()
                        if self.unsent_bytes():
                            self.write_now(memoryview(b""))
                            if self.unsent_bytes():
                                return FlushResult.blocked
                        return FlushResult.done
                    self._next_batch()
                wire = self._batch_wire
                assert wire is not None
                sent = self.write_now(wire)
                if sent < len(wire):
                    self._batch_wire = wire[sent:]
                    self._flush_wanted = True
                    return FlushResult.blocked
                self._batch_sent()
        except OSError as exc:
            self._write_failed(exc)
            return FlushResult.done
        finally:
            self.safe_out.release()

    def _next_batch(self) -> None:
        """Take frames from the queue and encode them into one buffer."""
        assert self.safe_out.locked()
        frames = self.outgoing.take(_BATCH_BYTES)
        if self._masks is None and self._before_send is None:
            parts = [encode_unmasked(opcode, payload) if wire is None else wire for opcode, payload, _, wire in frames]
        else:
            parts = [self._encode_queued(queued) for queued in frames]
        self._batch = frames
        self._batch_wire = memoryview(b"".join(parts))

    def _encode_queued(self, queued: QueuedFrame) -> bytes:
        payload = queued.payload
        if self._before_send is not None:
            frame = queued.frame()
            self._before_send(frame)
            payload = frame.payload
        return encode_frame(queued.opcode, payload, None if self._masks is None else self._masks.next_key())

    def _finish_batch(self) -> None:
        """Write what is left of the batch, waiting for the kernel."""
        assert self.safe_out.locked()
        wire = self._batch_wire
        if wire is not None:
            self.write_bytes(wire.tobytes())
            self._batch_sent()

    def _batch_sent(self) -> None:
        assert self.safe_out.locked()
        protocol = self.protocol
        protocol.frames_out_count += len(self._batch)
        protocol.frames_out_bytes += sum([len(queued[1]) for queued in self._batch])
        self._batch = []
        self._batch_wire = None

    def _requeue_batch(self) -> None:
        """After the end of a connection: frames that the kernel did not take whole go to the head of the queue again."""
        with self.safe_out:
            if self._batch_wire is None:
                return
            left = len(self._batch_wire)
            lost: list[QueuedFrame] = []
            # the sizes are known from the end: walk back over the frames until the unsent bytes are covered
            while self._batch and left > 0:
                queued = self._batch.pop()
                lost.append(queued)
                left -= self._wire_size(queued)
            lost.reverse()
            self._batch_sent()
            self.outgoing.put_back(lost)

    def _wire_size(self, queued: QueuedFrame) -> int:
        if queued.wire is not None:
            return len(queued.wire)
        size = len(queued.payload)
        return size + len(encode_header(0x80, size)) + (0 if self._masks is None else 4)

    # ---------------------------------------------------------------------------------------------- closing, faults

    def _send_close(self, code: int, reason: str, payload: bytes, wait_ms: int | None = None) -> bool:
        """Send a close frame, once per connection, and leave ``wpsRun``; tell whether it was sent by this call.

        A writer may hold the lock while the peer does not read: the close frame waits up to *wait_ms* (None: ``close_timeout``).
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
            self._set_state(wpsClose)
            if self._batch_wire is not None:  # a frame that was half sent comes first
                self._batch_wire = self._write_within(self._batch_wire, deadline)
                if self._batch_wire is not None:
                    return False
                self._batch_sent()
            key = None if self._masks is None else self._masks.next_key()
            if self._write_within(memoryview(encode_frame(focConnectionClose, payload, key)), deadline) is not None:
                _log.debug("%s: no room for the close frame", self)
                return False
        except OSError as exc:
            _log.debug("%s: close frame not sent: %s", self, exc)
            return False
        finally:
            self.safe_out.release()
        _log.debug("%s: close frame sent, %d %s", self, code, reason)
        if not self._close_received:
            timeout = self.settings.close_timeout / 1000
            self._close_timer = self._keeper.call_at(monotonic() + timeout, self._close_overdue)
        return True

    def _write_within(self, wire: memoryview, deadline: Deadline) -> memoryview | None:
        """Write *wire* until the *deadline*; return what is left of it, None when it was written whole."""
        assert self.safe_out.locked()
        while True:
            wire = wire[self.write_now(wire) :]
            if not wire and not self.unsent_bytes():
                return None
            if not self.wait_writable(deadline):
                return wire

    def _close_overdue(self) -> None:
        """In the keeper's thread: the peer did not answer our close frame in time."""
        if not self._reading_ended.is_set():
            self.abort("no answer to our close frame")

    def _note_close(self, code: int, reason: str) -> None:
        if not self.close_code:
            self.close_code = code
            self.close_reason = reason

    def _fault(self, error: WebSocketsProtocolError) -> None:
        """The peer broke a rule: close with the code that this deserves."""
        _log.info("%s: closing with %d: %s", self, error.code, error.reason)
        self.last_error = str(error)
        self._send_close(error.code, error.reason, close_payload(error.code, error.reason))

    def _lost(self, why: str) -> None:
        """Nothing more can be read."""
        if not self._close_sent and not self.last_error:
            self.last_error = why
        _log.debug("%s: reading ended: %s", self, why)

    def _write_failed(self, exc: OSError) -> None:
        """A write failed, or waited too long: the stream may be cut inside a frame, so it can only be given up."""
        why = "the peer does not read" if isinstance(exc, BlockingIOError) else f"{type(exc).__name__}: {exc}"
        self.abort(f"write failed: {why}")

    def _ended_state(self) -> None:
        self._set_state(wpsDestroy)

    def _set_state(self, state: WebSocketProcessState) -> None:
        """The one place where the state changes."""
        if state is not self._state:
            _log.debug("%s: %s -> %s", self, self._state.name, state.name)
            self._state = state

    # ---------------------------------------------------------------------------------------------------- heartbeats

    def _check_heartbeat(self) -> None:
        """In the keeper's thread: ping a peer that was silent for ``heartbeat_delay``; give up on one that stays silent."""
        if self._state is not wpsRun:
            return
        delay = self.settings.heartbeat_delay / 1000
        now = monotonic()
        if self._pinged_at and self._last_in >= self._pinged_at:
            self._pinged_at = 0.0
            self.invalid_ping_count = 0
        due = max(self._last_in, self._pinged_at) + delay
        if due <= now:
            if self._pinged_at and not self._may_be_unread():
                self.invalid_ping_count += 1
                if self.invalid_ping_count >= self.settings.disconnect_after_invalid_heartbeat_count > 0:
                    _log.info("%s: %d heartbeats without an answer", self, self.invalid_ping_count)
                    self.abort(f"no answer to {self.invalid_ping_count} heartbeats")
                    return
            self._pinged_at = now
            self._ping()
            due = now + delay
        self._heartbeat = self._keeper.call_at(due, self._check_heartbeat)

    def _may_be_unread(self) -> bool:
        """Tell whether the peer may have answered without our having read it yet (a callback takes its time)."""
        return False

    def _ping(self) -> None:
        """Send a ping without waiting; one that cannot leave stays unanswered, and counts as that."""
        if not self.safe_out.acquire(blocking=False):
            return
        try:
            if self._batch_wire is None and self._state is wpsRun:
                key = None if self._masks is None else self._masks.next_key()
                wire = memoryview(encode_frame(focPing, b"", key))
                sent = self.write_now(wire)
                self._ping_sent = monotonic()
                if 0 < sent < len(wire):
                    self._batch_wire = wire[sent:]  # the rest leaves before anything else
        except OSError as exc:
            self._write_failed(exc)
        finally:
            self.safe_out.release()

    # -------------------------------------------------------------------------------------------------------- helpers

    def _check_sendable(self, frame: WebSocketFrame) -> None:
        """Raise for what the caller must not send."""
        if not isinstance(frame, WebSocketFrame):
            raise TypeError(f"a WebSocketFrame is sent, not {type(frame).__name__}")
        opcode, payload = frame.opcode, frame.payload
        if not isinstance(payload, bytes):
            raise TypeError(f"a frame's payload is bytes, not {type(payload).__name__}")
        if opcode is focText:
            try:
                payload.decode("utf-8")
            except UnicodeDecodeError as exc:
                raise ValueError(f"a text frame's payload is UTF-8: {exc}") from None
        elif opcode is focContinuation:
            raise ValueError("frames are sent whole: focContinuation cannot be sent")
        elif opcode is not focBinary:
            if len(payload) > 125:
                raise ValueError(f"a control frame has at most 125 bytes, not {len(payload)}")
            if opcode is focConnectionClose:
                try:
                    parse_close_payload(payload)
                except WebSocketsProtocolError as exc:
                    raise ValueError(exc.reason) from None

    def _log_frame(self, what: str, frame: WebSocketFrame) -> None:
        details: WebSocketProcessSettingsLogDetails = self.settings.log_details
        opcode: WebSocketFrameOpCode = frame.opcode
        if opcode is focText or opcode is focBinary:
            content = logTextFrameContent if opcode is focText else logBinaryFrameContent
            if content in details:
                _log.debug("%s: %s %s %r", self, what, opcode.name, frame.payload)
            else:
                _log.debug("%s: %s %s of %d bytes", self, what, opcode.name, len(frame.payload))
        elif logHeartbeat in details:
            _log.debug("%s: %s %s", self, what, opcode.name)

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        return (
            f"<{type(self).__name__} {name}#{self.connection_id} {self.protocol.name!r} {self._state.name}"
            f"{' ' + self.remote_ip if self.remote_ip else ''}>"
        )


class WebCrtSocketProcess(WebSocketProcess):
    """The loop on a blocking socket. Mirrors ``TWebCrtSocketProcess``.

    :meth:`attach` gives it a connected transport before :meth:`process_loop` runs; it owns the transport from then on.
    """

    transport: Transport | None = None

    def attach(self, transport: Transport, unread: bytes = b"") -> None:
        """Take over *transport*, and the bytes that the handshake has read beyond its end."""
        self.transport = transport
        self._unread = unread
        # straight to the transport (in its plain form, to the socket): these three are the hot path
        self.receive_bytes = transport.recv  # type: ignore[method-assign, assignment]
        self.write_bytes = transport.sendall  # type: ignore[method-assign, assignment]
        self.write_parts = transport.send_parts  # type: ignore[method-assign]

    def receive_bytes(self, size: int) -> bytes:
        raise OSError("no socket")  # replaced by attach()

    def write_bytes(self, data: bytes) -> None:
        raise OSError("no socket")  # replaced by attach()

    def write_now(self, data: memoryview) -> int:
        if self.transport is None:
            raise OSError("no socket")
        return self.transport.send_now(data)

    def interrupt(self) -> None:
        transport = self.transport
        if transport is not None:
            transport.shutdown()

    def fileno(self) -> int:
        return -1 if self.transport is None else self.transport.fileno()

    def unsent_bytes(self) -> int:
        return 0 if self.transport is None else self.transport.unsent_bytes

    def wait_writable(self, deadline: Deadline) -> bool:
        return self.transport is not None and wait_socket(self.transport.sock, True, deadline)

    def finish(self) -> None:
        transport = self.transport
        if transport is None:
            return
        if self._close_sent and (self._close_received or self.in_frame.error is not None):
            transport.finish(Deadline(self.settings.close_timeout))
        else:
            transport.shutdown()  # wakes a writer, so that the lock below is free soon
        with self.safe_out:  # nobody is inside a write when the descriptor goes
            transport.close()
