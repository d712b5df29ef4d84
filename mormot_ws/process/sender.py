"""FrameSender: the sending half of a process. Frames in, from any thread; bytes out, whole frames,
never mixed.

Two ways out: ``send_frame`` writes at once, ``send_frame_async`` queues for the keeper, which
writes batches without ever waiting. What carries the bytes is a matter of the classes above
(``write_bytes`` and its kin); nothing here reads, and no callback runs here.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from threading import get_ident
from time import monotonic

from ..core.deflate import Deflater
from ..core.frames import (
    WebSocketFrame,
    WebSocketFramePayload,
    encode_frame,
    encode_header,
    encode_unmasked,
    focBinary,
    focConnectionClose,
    focContinuation,
    focText,
    fopAlreadyCompressed,
    parse_close_payload,
)
from ..core.masking import MaskSource, mask_bytes
from ..core.outgoing import OutgoingFrames, QueuedFrame
from ..core.publicdir import PublicDir
from ..errors import WebSocketsProtocolError
from ..protocols.base import WebSocketProtocol
from ..settings import (
    WebSocketProcessSettings,
    logBinaryFrameContent,
    logHeartbeat,
    logTextFrameContent,
)
from ..sockets.deadline import Deadline
from ..sockets.transport import JOIN_BELOW
from ..states import WebSocketProcessState, wpsCreate, wpsRun
from .keeper import FlushResult, ProcessKeeper

_log = logging.getLogger("mormot_ws.process")

#: a protocol, and a frame as it wants it on the wire
PreparedFrame = tuple[WebSocketProtocol, WebSocketFrame]

_new_queued = tuple.__new__
_NO_FLAGS = WebSocketFramePayload(0)

#: bytes that one batch of queued frames may have
_BATCH_BYTES = 1 << 18
#: bytes of answers in the queue above which the loop stops reading (half of the queue, if that is
#: less)
_ANSWERS_BYTES = 1 << 20
_NO_FRAME = "a WebSocketFrame is sent, not {}: make one with WebSocketFrame(focText, text) or WebSocketFrame(focBinary, data)"
#: control frames of the keeper that may wait for a writer
_MAX_CONTROLS = 16


class FrameSender(PublicDir, ABC):
    """Base of :class:`~mormot_ws.WebSocketProcess`; see there for the parameters.

    To be implemented above: :meth:`write_bytes`, :meth:`write_now`, and what a failed write and a
    close frame mean.
    """

    _internal = frozenset(
        {
            "flush_outgoing",
            "flush_queued",
            "prepare_ahead",
            "safe_out",
            "send_queued",
            "sends_plain",
            "unsent_bytes",
            "wait_writable",
            "waits_for_input",
            "write_parts",
        }
    )

    def __init__(
        self,
        protocol: WebSocketProtocol,
        settings: WebSocketProcessSettings,
        keeper: ProcessKeeper,
        mask_sent_frames: bool,
    ) -> None:
        self.protocol = protocol
        self.settings = settings
        #: frames of ``send_frame_async`` that wait to be sent; mirrors ``Outgoing``
        self.outgoing: OutgoingFrames = OutgoingFrames(
            settings.max_outgoing_frames,
            settings.max_outgoing_bytes,
            settings.outgoing_policy == "drop_oldest",
        )
        #: held while a frame, or a batch of them, is written whole; guards the batch,
        #: ``_close_sent`` and the out counters; after ``safe_in`` in the lock order, before the
        #: queue's and the transport's own locks
        self.safe_out: threading.Lock = threading.Lock()
        self._keeper = keeper
        self._masks = MaskSource() if mask_sent_frames else None
        self._state: WebSocketProcessState = wpsCreate
        self._loop_ident = 0  # the thread that runs the loop; 0: none does

    def _begin_sending(self) -> None:
        """(Re)set what belongs to one connection."""
        # frames being sent; requeued if the connection is lost meanwhile
        self._batch: list[QueuedFrame] = []
        self._batch_sizes: list[int] = []  # of each of them on the wire
        self._batch_wire: memoryview | None = None  # what the kernel has not taken of them
        self._batch_tail = 0  # bytes at its end that belong to none of them: a close frame's
        #: pongs and pings of the keeper that met a writer: he sends them along. Of too many the
        #: oldest go, by the deque's own doing: a peer's pings may be answered by the last pong
        #: alone (RFC 6455 §5.5.3)
        self._controls: deque[tuple[int, bytes]] = deque(maxlen=_MAX_CONTROLS)
        self._loop_queued = False  # a callback has queued something in this turn of the loop
        self._flush_wanted = False  # the keeper knows that there is something to flush
        self._last_flush = 0.0
        self._last_batch = False  # a close frame is at the end of the batch
        self._queue_open = (
            # set by the loop: queued frames leave after what the first callbacks of a connection
            # send
            False
        )
        self._log_frames = bool(self.settings.log_details)
        protocol = self.protocol
        self._lenient_text = protocol.lenient_text
        self._joins = type(protocol).join_payloads is not WebSocketProtocol.join_payloads
        compression = protocol.compression
        self._deflater: Deflater | None = None
        if compression is not None:
            self._deflater = compression.deflater(self.client_side, self.settings.deflate_options())
        # False: frames leave as they are; looked at for each frame, so that what is not used costs
        # nothing
        self._prepares = (
            self._deflater is not None
            or type(protocol).before_send_frame is not WebSocketProtocol.before_send_frame
        )
        self._prepares_ahead = self._prepares and protocol.prepares_in_any_order

    # ---------------------------------------------------------------------------------- for anybody

    @property
    def client_side(self) -> bool:
        """True on the side that connected and masks its frames."""
        return self._masks is not None

    @property
    def sends_plain(self) -> bool:
        """True when frames leave as they are: not masked, not changed by the protocol. A broadcast
        then encodes once for all.
        """
        return self._masks is None and not self._prepares

    def send_frame(self, frame: WebSocketFrame, ahead: PreparedFrame | None = None) -> bool:
        """Send *frame* now. Mirrors ``SendFrame``.

        From any thread; frames of several threads never mix. Returns True when the kernel of a
        running connection has taken all its bytes, else False (not in ``wpsRun``, connection lost,
        or the peer took nothing for ``send_timeout`` ms: the connection is then given up). A
        ``focConnectionClose`` frame starts the close handshake. Raises ``TypeError``/``ValueError``
        for what is no frame that may be sent. *ahead* is for the package itself: what
        ``prepare_ahead`` has returned for it, where a lock is held meanwhile.
        """
        try:
            opcode = frame.opcode
            payload = frame.payload
        except AttributeError:
            raise TypeError(_NO_FRAME.format(type(frame).__name__)) from None
        if opcode is focText:
            if not payload.isascii() and not self._lenient_text:
                check_sendable(frame)
        elif opcode is not focBinary:
            check_sendable(frame)
            if opcode is focConnectionClose:
                return self._send_close(*parse_close_payload(payload), payload)
        if ahead is None and self._prepares_ahead:
            ahead = self.prepare_ahead(frame)
        with self.safe_out:
            if self._state is not wpsRun:
                return False
            try:
                if self._batch_wire is not None:
                    self._finish_batch()
                if self._controls:
                    self.write_bytes(self._control_wire())
                first = 0x80 | opcode
                if self._prepares:
                    first, payload = self._prepare(frame, ahead)
                size = len(payload)
                if self._masks is not None:
                    key = self._masks.next_key()
                    header = encode_header(first, size, key)
                    payload = mask_bytes(payload, key)
                    if size < JOIN_BELOW:
                        self.write_bytes(header + payload)
                    else:
                        self.write_parts(header, payload)
                elif size < JOIN_BELOW:
                    self.write_bytes(encode_unmasked(first, payload))
                else:
                    self.write_parts(encode_header(first, size), payload)
            except OSError as exc:
                self._write_failed(exc)
                return False
            if opcode is focBinary or opcode is focText:
                protocol = self.protocol
                protocol.frames_out_count += 1
                protocol.frames_out_bytes += len(frame.payload)
        if self._log_frames:
            self._log_frame("sent", frame)
        return True

    def prepare_ahead(self, frame: WebSocketFrame) -> PreparedFrame | None:
        """Let the protocol prepare a copy of *frame* without any lock; None when it cannot, or the
        frame is not going to be sent.
        """
        if not self._prepares_ahead or self._state is not wpsRun:
            return None
        if frame.opcode is not focText and frame.opcode is not focBinary:
            return None
        protocol = self.protocol
        copy = WebSocketFrame(frame.opcode, frame.payload, frame.content)
        protocol.before_send_frame(copy)
        return protocol, copy

    def send_frame_async(self, frame: WebSocketFrame) -> bool:
        """Queue a copy of *frame* to be sent soon, together with others. Mirrors
        ``SendFrameAsync``.

        From any thread, never waits. Returns False when the queue is full (``max_outgoing_frames``,
        ``max_outgoing_bytes``) or the connection will not come back. Frames leave in the order of
        these calls. Raises as :meth:`send_frame` does.
        """
        if not isinstance(frame, WebSocketFrame):
            raise TypeError(_NO_FRAME.format(type(frame).__name__))
        opcode = frame.opcode
        payload = frame.payload
        if opcode is not focBinary and (
            opcode is not focText or not (payload.isascii() or self._lenient_text)
        ):
            check_sendable(frame)
        # tuple.__new__: the constructor of a named tuple costs as much as all the rest of this
        # method
        return self.send_queued(_new_queued(QueuedFrame, (opcode, payload, frame.content, None)))

    def send_queued(self, queued: QueuedFrame) -> bool:
        """Queue *queued*, which may carry its bytes on the wire already (a broadcast); else like
        :meth:`send_frame_async`.
        """
        if self._state is not wpsRun and not self._keeps_queue():
            return False
        if not self.outgoing.push_queued(queued):
            if self.settings.outgoing_policy == "close":
                self._overflowed()
            return False
        if get_ident() == self._loop_ident:
            self._loop_queued = True  # the loop sends it after the callback
        elif not self._flush_wanted:
            self._want_flush()
        return True

    # ---------------------------------------------------------------------- to be implemented above

    @abstractmethod
    def write_bytes(self, data: bytes) -> None:
        """Write *data* whole; raise ``OSError`` when that fails. Called under ``safe_out``."""

    def write_parts(self, header: bytes, payload: bytes) -> None:
        """Write a large frame; may avoid joining its parts. Called under ``safe_out``."""
        self.write_bytes(header + payload)

    @abstractmethod
    def write_now(self, data: memoryview) -> int:
        """Write what can be written without waiting and return its size; raise ``OSError``. Called
        under ``safe_out``.
        """

    def wait_writable(self, deadline: Deadline) -> bool:
        """Wait until :meth:`write_now` may get on; False when the *deadline* came first. Called
        under ``safe_out``.
        """
        return False

    def waits_for_input(self) -> bool:
        """Tell whether :meth:`write_now` took nothing for another reason than a full socket: then
        readiness says nothing.
        """
        return False

    def unsent_bytes(self) -> int:
        """Return how many of the last bytes that :meth:`write_now` accepted have not left, and
        would be lost with the connection.
        """
        return 0

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor to wait for, −1 when there is none."""

    @abstractmethod
    def log_fields(self) -> dict[str, object]:
        """Return what log records of this connection carry as ``extra``."""

    @abstractmethod
    def _send_close(self, code: int, reason: str, payload: bytes) -> bool:
        """Send a close frame, once per connection; tell whether this call did."""

    @abstractmethod
    def _write_failed(self, exc: Exception) -> None:
        """A write failed, or waited too long: the stream may be cut inside a frame, so it can only
        be given up.
        """

    @abstractmethod
    def _overflowed(self) -> None:
        """The queue is full, and the settings say that the connection then is to be closed. Must
        not wait.
        """

    def _keeps_queue(self) -> bool:
        """Tell whether frames may be queued while the connection is not running."""
        return False

    # -------------------------------------------------------------------------------- queued frames

    def process_loop_step_send(self) -> None:
        """Send what callbacks have queued in this turn of the loop. Mirrors
        ``ProcessLoopStepSend``.

        What the kernel does not take is left to the keeper. But a peer that sends faster than it
        reads the answers is not read from while more than a megabyte of them waits. (Only of them:
        two ends that both have much to send must not wait for each other.)
        """
        if self.flush_outgoing() is FlushResult.done:
            self._loop_queued = False
        elif self._loop_queued and self._answers_pile_up():
            self._loop_queued = False
            with self.safe_out:
                try:
                    while self._state is wpsRun and self._answers_pile_up():
                        if self._batch_wire is None:
                            self._next_batch()
                        self._finish_batch()
                except OSError as exc:
                    self._write_failed(exc)
        else:
            self._want_flush()

    def _answers_pile_up(self) -> bool:
        queue = self.outgoing
        most = min(queue.max_bytes // 2, _ANSWERS_BYTES) if queue.max_bytes else _ANSWERS_BYTES
        return queue.bytes > most or queue.count * 2 > queue.max_frames > 0

    def _want_flush(self) -> None:
        """Let the keeper flush the queue: at once when the last flush is ``send_delay`` ms old,
        else when it is.
        """
        self._flush_wanted = True
        due = self._last_flush + self.settings.send_delay / 1000
        if due <= monotonic():
            self._keeper.wake(self)
        else:
            self._keeper.call_at(due, self._flush_due)

    def _flush_due(self) -> None:
        self._keeper.wake(self)

    def flush_queued(self) -> FlushResult:
        """Called by the keeper: flush, unless the loop has just done so, and what came since has
        to be gathered.
        """
        # pings and pongs do not wait for company
        gathering = self._batch_wire is None and not self._controls
        if gathering and self._last_flush + self.settings.send_delay / 1000 > monotonic():
            # first: whoever queues something from here on asks for a flush again
            self._flush_wanted = False
            if self.outgoing:
                self._want_flush()
            return FlushResult.done
        return self.flush_outgoing()

    def flush_outgoing(self) -> FlushResult:
        """Send queued frames without waiting. Called by the keeper, and by the loop after its
        callbacks.
        """
        if not self.safe_out.acquire(blocking=False):
            return FlushResult.busy
        try:
            self._flush_wanted = False
            while (
                self._state is wpsRun
                and (self._queue_open or self._batch_wire is not None or self._controls)
            ) or (self._last_batch and self._batch_wire is not None):
                if self._batch_wire is None and self._controls:
                    # before the next frames, behind those in hand
                    self._batch_wire = memoryview(self._control_wire())
                if self._batch_wire is None:
                    if not self.outgoing:
                        self._last_flush = monotonic()
                        return FlushResult.done
                    self._next_batch()
                wire = self._batch_wire
                assert wire is not None
                sent = self.write_now(wire)
                if sent < len(wire) or self.unsent_bytes():
                    self._batch_wire = wire[sent:]
                    self._flush_wanted = True
                    return (
                        FlushResult.busy
                        if not sent and self.waits_for_input()
                        else FlushResult.blocked
                    )
                self._batch_sent()
        except OSError as exc:
            self._write_failed(exc)
        # of the protocol's before_send_frame: it may hurt its own connection only
        except Exception as exc:  # noqa: BLE001
            _log.exception(
                "%s: a queued frame could not be prepared", self, extra=self.log_fields()
            )
            self._write_failed(exc)
        finally:
            self.safe_out.release()
        return FlushResult.done

    def _next_batch(self) -> None:
        """Take frames from the queue and encode them into one buffer."""
        assert self.safe_out.locked()
        frames = self.outgoing.take(_BATCH_BYTES)
        if self.sends_plain:
            parts = [
                encode_unmasked(0x80 | opcode, payload) if wire is None else wire
                for opcode, payload, _, wire in frames
            ]
        else:
            joined = self._join(frames) if self._joins and len(frames) > 1 else None
            if joined is not None:
                self._batch = frames
                # as if all of it were the first one's: what is not taken whole is requeued whole
                self._batch_sizes = [len(joined)] + [0] * (len(frames) - 1)
                self._batch_wire = memoryview(joined)
                return
            parts = [self._encode_queued(queued) for queued in frames]
        self._batch = frames
        self._batch_sizes = list(map(len, parts))
        self._batch_wire = memoryview(b"".join(parts))

    def _join(self, frames: list[QueuedFrame]) -> bytes | None:
        """Return *frames* as one on the wire, None when the protocol does not join them."""
        if any(queued.opcode is not focBinary for queued in frames):
            return None
        payload = self.protocol.join_payloads([queued.payload for queued in frames])
        return (
            None
            if payload is None
            else self._encode_queued(QueuedFrame(focBinary, payload, _NO_FLAGS))
        )

    def _encode_queued(self, queued: QueuedFrame) -> bytes:
        first, payload = 0x80 | queued.opcode, queued.payload
        if self._prepares:
            first, payload = self._prepare(queued.frame())
        if self._masks is None:
            return encode_unmasked(first, payload)
        key = self._masks.next_key()
        return encode_header(first, len(payload), key) + mask_bytes(payload, key)

    def _prepare(
        self, frame: WebSocketFrame, ahead: PreparedFrame | None = None
    ) -> tuple[int, bytes]:
        """Return the first byte and the payload as the protocol and the extension want them on the
        wire.

        Under ``safe_out``: both may depend on the order in which frames leave. What was done
        *ahead* counts, unless the protocol is another one since.
        """
        assert self.safe_out.locked()
        opcode, payload = frame.opcode, frame.payload
        if opcode is not focText and opcode is not focBinary:
            return 0x80 | opcode, payload
        if ahead is not None and ahead[0] is self.protocol:
            copy = ahead[1]
        else:
            copy = WebSocketFrame(opcode, payload, frame.content)
            self.protocol.before_send_frame(copy)
        payload = copy.payload
        deflater = self._deflater
        if (
            deflater is None
            or len(payload) < deflater.min_bytes
            or fopAlreadyCompressed in copy.content
        ):
            return 0x80 | opcode, payload
        return 0xC0 | opcode, deflater.compress(payload)

    def _finish_batch(self) -> None:
        """Write what is left of the batch, waiting for the kernel, and keeping count of what it
        has taken.
        """
        assert self.safe_out.locked()
        wire = self._batch_wire
        deadline = Deadline(self.settings.send_timeout)
        while wire is not None:
            sent = self.write_now(wire)
            wire = self._batch_wire = wire[sent:]
            if not wire and not self.unsent_bytes():
                self._batch_sent()
                return
            if sent:
                deadline = Deadline(self.settings.send_timeout)
            elif not self.wait_writable(deadline):
                raise BlockingIOError("timed out")

    def _control_wire(self) -> bytes:
        """Take the keeper's control frames and encode them."""
        assert self.safe_out.locked()
        wire = b""
        while self._controls:
            opcode, payload = self._controls.popleft()
            wire += encode_frame(
                opcode, payload, None if self._masks is None else self._masks.next_key()
            )
        return wire

    def _batch_sent(self) -> None:
        assert self.safe_out.locked()
        protocol = self.protocol
        protocol.frames_out_count += len(self._batch)
        protocol.frames_out_bytes += sum([len(queued[1]) for queued in self._batch])
        self._batch = []
        self._batch_wire = None

    def _requeue_batch(self) -> None:
        """After the end of a connection: frames that the kernel did not take whole go to the head
        of the queue again.
        """
        with self.safe_out:
            if not self._keeps_queue():
                self._batch, self._batch_wire = [], None
                self.outgoing.clear()  # there is no next connection
                return
            if self._batch_wire is None:
                return
            left = len(self._batch_wire) + self.unsent_bytes() - self._batch_tail
            lost: list[QueuedFrame] = []
            # the sizes are known from the end: walk back over the frames until the unsent bytes are
            # covered
            while self._batch and left > 0:
                lost.append(self._batch.pop())
                left -= self._batch_sizes.pop()
            lost.reverse()
            self._batch_sent()
            self.outgoing.put_back(lost)

    def _write_within(self, wire: memoryview, deadline: Deadline) -> memoryview | None:
        """Write *wire* until the *deadline*; return what is left of it, None when it was written
        whole.
        """
        assert self.safe_out.locked()
        while True:
            wire = wire[self.write_now(wire) :]
            if not wire and not self.unsent_bytes():
                return None
            if deadline.passed or not self.wait_writable(deadline):
                return wire

    def _log_frame(self, what: str, frame: WebSocketFrame) -> None:
        details = self.settings.log_details
        opcode = frame.opcode
        if opcode is focText or opcode is focBinary:
            content = logTextFrameContent if opcode is focText else logBinaryFrameContent
            if content in details:
                _log.debug("%s: %s %s %r", self, what, opcode.name, frame.payload)
            else:
                _log.debug("%s: %s %s of %d bytes", self, what, opcode.name, len(frame.payload))
        elif logHeartbeat in details:
            _log.debug("%s: %s %s", self, what, opcode.name)


def check_sendable(frame: WebSocketFrame) -> None:
    """Raise ``TypeError`` or ``ValueError`` for what the caller must not send."""
    if not isinstance(frame, WebSocketFrame):
        raise TypeError(_NO_FRAME.format(type(frame).__name__))
    opcode, payload = frame.opcode, frame.payload
    if not isinstance(payload, bytes):
        raise TypeError(f"a frame's payload is bytes, not {type(payload).__name__}")
    if opcode is focText:
        try:
            payload.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ValueError(
                f"a text frame's payload is UTF-8, other bytes go into a focBinary frame: {exc}"
            ) from None
    elif opcode is focContinuation:
        raise ValueError(
            "frames are sent whole, as focText or focBinary: focContinuation cannot be sent"
        )
    elif opcode is not focBinary:
        if len(payload) > 125:
            raise ValueError(
                f"a ping, pong or close frame has at most 125 bytes, not {len(payload)}: longer ones go into a focBinary frame"
            )
        if opcode is focConnectionClose:
            try:
                parse_close_payload(payload)
            except WebSocketsProtocolError as exc:
                raise ValueError(exc.reason) from None
