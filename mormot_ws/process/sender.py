"""Sender: the sending half of a connection. Frames in, from any thread; bytes out, whole frames.

Two ways out: :meth:`Sender.send` writes at once, :meth:`Sender.queue` leaves the frame to the
keeper, which writes batches without ever waiting. Nothing here reads, and no callback but the
protocol's own ``before_send_frame`` runs here.

After the first byte of a frame has left, or a compressor has moved on, whatever is raised gives the
connection up: the peer could not make sense of what comes next.
"""

from __future__ import annotations

import threading
from collections import deque
from threading import get_ident
from time import monotonic
from typing import Protocol

from ..core.frames import (
    WebSocketFrame,
    WebSocketFrameOpCode,
    encode_frame,
    encode_unmasked,
    focBinary,
    focConnectionClose,
    focPong,
    focText,
)
from ..core.outgoing import OutgoingFrames, QueuedFrame
from ..protocols.base import WebSocketProtocol
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..sockets.patience import Patience
from ..sockets.transport import JOIN_BELOW
from ..states import WebSocketProcessState, wpsClose, wpsRun
from .batch import Batch
from .encoder import Encoder, PreparedFrame, check_sendable
from .keeper import FlushResult, ProcessKeeper

_new_queued = tuple.__new__

#: bytes that one batch of queued frames may have
_BATCH_BYTES = 1 << 18
#: bytes of answers in the queue above which the loop stops reading (half of the queue, if that is
#: less)
_ANSWERS_BYTES = 1 << 20
#: control frames of the keeper that may wait for a writer
_MAX_CONTROLS = 16


class SendingProcess(Protocol):
    """What the sender needs of its connection: the bytes' way out, and what failures mean."""

    settings: WebSocketProcessSettings
    protocol: WebSocketProtocol
    state: WebSocketProcessState

    def write_bytes(self, data: bytes) -> None:
        """Write *data* whole."""

    def write_parts(self, header: bytes, payload: bytes) -> None:
        """Write a large frame."""

    def write_now(self, data: memoryview) -> int:
        """Write what can be written without waiting; return its size."""

    def wait_writable(self, deadline: Deadline) -> bool:
        """Wait until :meth:`write_now` may get on."""

    def waits_for_input(self) -> bool:
        """Tell whether :meth:`write_now` waits for something else than room."""

    def unsent_bytes(self) -> int:
        """Return how many accepted bytes have not left."""

    def output_state(self) -> tuple[int, int] | None:
        """Return how many bytes the peer has acknowledged, and how many are under way; None where
        nobody tells.
        """

    def fileno(self) -> int:
        """Return the descriptor."""

    def cut(self, exc: BaseException) -> None:
        """A write failed: break the connection. Called under ``safe_out``; logs nothing."""

    def write_failed(self, exc: BaseException) -> None:
        """Log that a write failed, and that the connection is given up. Called without any lock."""

    def queue_failed(self, exc: BaseException) -> None:
        """A queued frame could not be prepared, and is dropped. Called without any lock."""

    def overflowed(self) -> None:
        """The queue is full, and the settings say that the connection then is to be closed."""

    def keeps_queue(self) -> bool:
        """Tell whether frames may be queued while the connection is not running."""

    def runs_loop(self) -> bool:
        """Tell whether this thread runs the connection's loop."""


class Sender:
    """Sends what *process* has to send.

    :param keeper: flushes what is queued.
    :param mask: True on the client's side, which masks its frames.

    Lock order: the reader's ``safe_in``, then ``safe_out``, then the queue's and the transport's
    own locks.
    """

    def __init__(
        self,
        process: SendingProcess,
        settings: WebSocketProcessSettings,
        keeper: ProcessKeeper,
        mask: bool,
    ) -> None:
        self._process = process
        self._keeper = keeper
        #: frames that wait to be sent, across connections
        self.outgoing: OutgoingFrames = OutgoingFrames(
            settings.max_outgoing_frames,
            settings.max_outgoing_bytes,
            settings.outgoing_policy == "drop_oldest",
        )
        #: held while a frame, or a batch of them, is written whole; guards the batch, the sending
        #: side of the close handshake and the out counters
        self.safe_out: threading.Lock = threading.Lock()
        # the thread that holds safe_out in send(), and whether the main thread is in send(): a
        # finaliser or signal handler that interrupts it there must not wait for its own thread
        self._writer = 0
        self._main_sends = False
        #: turns frames into bytes
        self.encoder: Encoder = Encoder(mask)

    def begin(self) -> None:
        """Get ready for a new connection with the protocol that the process has now."""
        process = self._process
        self.encoder.begin(process.protocol, process.settings.deflate_options())
        self.batch = Batch()
        # pongs and pings of the keeper that met a writer: he sends them along. Of too many the
        # oldest go, by the deque's own doing: a peer's pings may be answered by the last pong alone
        # (RFC 6455 §5.5.3)
        self._controls: deque[tuple[int, bytes]] = deque(maxlen=_MAX_CONTROLS)
        # a callback has queued something in this turn of the loop
        self._loop_queued = False
        # a timer runs that looks whether that callback is a long one
        self._callback_timer = False
        # the keeper knows that there is something to flush
        self._flush_wanted = False
        self._last_flush = 0.0
        # set by the loop: queued frames leave after what the first callbacks of a connection send
        self._queue_open = False

    def die_in_child(self) -> None:
        """In a forked child: forget what is half sent, and locks that the parent's threads hold."""
        self.safe_out = threading.Lock()
        self._writer, self._main_sends = 0, False
        self.outgoing = OutgoingFrames()
        self.batch = Batch()
        self._controls.clear()

    # ---------------------------------------------------------------------------- from any thread

    def send(
        self,
        frame: WebSocketFrame,
        ahead: PreparedFrame | None = None,
        guarded: bool = False,
        failures: list[BaseException] | None = None,
    ) -> bool:
        """Do what ``send_frame`` of the process says; close frames are not for here. *guarded*:
        the main thread has said that it sends. *failures*: gets what would be logged else.
        """
        me = get_ident()
        if me == _main_ident and not guarded:
            return self._send_in_main(frame, ahead, failures)
        opcode = frame.opcode
        payload = frame.payload
        length = len(payload)
        process = self._process
        encoder = self.encoder
        wire = b""
        if encoder.sends_plain and length < JOIN_BELOW:
            # encoded before the lock is taken: it is the same whatever leaves before it
            wire = encode_unmasked(0x80 | opcode, payload)
        elif ahead is None and encoder.prepares_ahead and process.state is wpsRun:
            ahead = encoder.prepare_ahead(process.protocol, frame)
        safe_out = self.safe_out
        if not safe_out.acquire(False):
            if self._writer == me:
                # in a finaliser that has interrupted a send on this very connection
                return self.queue_frame(frame)
            if not safe_out.acquire(timeout=process.settings.send_timeout / 1000):
                # somebody else's frame does not leave either: the peer does not read
                return False
        failure: BaseException | None = None
        try:
            self._writer = me
            if process.state is not wpsRun:
                return False
            flags = frame.content
            if encoder.prepares and (opcode is focText or opcode is focBinary):
                # may raise whatever it likes: nothing of the frame has left yet
                payload, flags = encoder.prepare(process.protocol, frame, ahead)
            try:
                if self.batch.wire is not None:
                    self._finish_batch()
                if self._controls:
                    process.write_bytes(self._control_wire())
                if wire:
                    process.write_bytes(wire)
                else:
                    header, payload = encoder.encode_parts(opcode, payload, flags)
                    if len(payload) < JOIN_BELOW:
                        process.write_bytes(header + payload)
                    else:
                        process.write_parts(header, payload)
            except BaseException as exc:
                failure = exc
                # under the lock: nobody else may write behind half a frame
                process.cut(exc)
                if not isinstance(exc, OSError) or is_foreign_timeout(exc):
                    raise
                return False
            if opcode is focBinary or opcode is focText:
                counts = process.protocol.counts
                counts.frames_out += 1
                counts.bytes_out += length
        finally:
            self._writer = 0
            safe_out.release()
            if failure is not None:
                if failures is None:
                    process.write_failed(failure)
                else:
                    failures.append(failure)
        return True

    def _send_in_main(
        self,
        frame: WebSocketFrame,
        ahead: PreparedFrame | None,
        failures: list[BaseException] | None,
    ) -> bool:
        """Send in the main thread, which a signal handler may interrupt at any point."""
        if self._main_sends:
            # in a signal handler that has interrupted a send on this very connection
            return self.queue_frame(frame)
        self._main_sends = True
        try:
            return self.send(frame, ahead, True, failures)
        finally:
            self._main_sends = False

    def queue_frame(self, frame: WebSocketFrame) -> bool:
        """Do what ``send_frame_async`` of the process says."""
        opcode, payload = frame.opcode, frame.payload
        self.check_queueable(opcode, payload, frame)
        # tuple.__new__: the constructor of a named tuple costs as much as all the rest of this
        return self.queue(_new_queued(QueuedFrame, (opcode, payload, frame.content, None)))

    def check_queueable(
        self, opcode: WebSocketFrameOpCode, payload: bytes, frame: WebSocketFrame
    ) -> None:
        """Raise ``TypeError`` or ``ValueError`` for what must not be sent."""
        if opcode is focText:
            if type(payload) is bytes and (payload.isascii() or self.encoder.lenient_text):
                return
        elif opcode is focBinary and type(payload) is bytes:
            return
        check_sendable(frame)

    def queue(self, queued: QueuedFrame) -> bool:
        """Queue *queued*, which may carry its bytes on the wire already (a broadcast)."""
        process = self._process
        if process.state is not wpsRun and not process.keeps_queue():
            return False
        if not self.outgoing.push_queued(queued):
            if process.settings.outgoing_policy == "close":
                process.overflowed()
            return False
        if process.runs_loop():
            # the loop sends it after the callback …
            self._loop_queued = True
            if not self._callback_timer and get_ident() != _main_ident:
                # … which may take long: then the keeper does
                self._callback_timer = True
                delay = process.settings.send_delay / 1000
                self._keeper.call_at(monotonic() + delay, self._callback_is_long)
        elif not self._flush_wanted:
            self._want_flush()
        return True

    def _callback_is_long(self) -> None:
        """In the keeper's thread: what a callback has queued does not wait for its end."""
        self._callback_timer = False
        if self.outgoing:
            self._keeper.wake(self)

    def send_control(self, opcode: WebSocketFrameOpCode, payload: bytes) -> None:
        """In the keeper's thread: send a ping or pong without waiting; where another thread is
        writing, that one sends it along.
        """
        self._controls.append((opcode, payload))
        self._keeper.wake(self)

    @property
    def controls_wait(self) -> bool:
        """True while pings or pongs of the keeper wait for a writer."""
        return bool(self._controls)

    def answer_ping(self, payload: bytes) -> None:
        """Send the pong: also between our close frame and the peer's, where nothing else is sent
        any more (RFC 6455 §5.5.2).
        """
        process = self._process
        if self.send(WebSocketFrame(focPong, payload)) or process.state is not wpsClose:
            return
        failure: OSError | None = None
        with self.safe_out:
            try:
                if self.batch.wire is None:
                    process.write_bytes(encode_frame(focPong, payload, self.encoder.next_key()))
            except OSError as exc:
                failure = exc
                process.cut(exc)
        if failure is not None:
            process.write_failed(failure)

    # ------------------------------------------------------------------------------- queued frames

    def open_queue(self) -> None:
        """The first callbacks of a connection are done: what is queued may leave."""
        self._queue_open = True

    def step(self) -> None:
        """In the loop's thread: send what callbacks have queued in this turn.

        What the kernel does not take is left to the keeper. But a peer that sends faster than it
        reads the answers is not read from while more than a megabyte of them waits. (Only of them:
        two ends that both have much to send must not wait for each other.)
        """
        if self.flush_outgoing() is FlushResult.done:
            self._loop_queued = False
            return
        if not (self._loop_queued and self._answers_pile_up()):
            self._want_flush()
            return
        self._loop_queued = False
        failure: BaseException | None = None
        with self.safe_out:
            try:
                while self._process.state is wpsRun and self._answers_pile_up():
                    if self.batch.wire is None and (failed := self._next_batch()) is not None:
                        failure = failed
                        break
                    self._finish_batch()
            except OSError as exc:
                failure = exc
                self._process.cut(exc)
        if isinstance(failure, OSError):
            self._process.write_failed(failure)
        elif failure is not None:
            self._process.queue_failed(failure)

    def _answers_pile_up(self) -> bool:
        queue = self.outgoing
        most = min(queue.max_bytes // 2, _ANSWERS_BYTES) if queue.max_bytes else _ANSWERS_BYTES
        return queue.bytes > most or queue.count * 2 > queue.max_frames > 0

    def _want_flush(self) -> None:
        """Let the keeper flush the queue: at once when the last flush is ``send_delay`` ms old,
        else when it is.
        """
        self._flush_wanted = True
        due = self._last_flush + self._process.settings.send_delay / 1000
        if due <= monotonic() or get_ident() == _main_ident:
            # the main thread may be in a signal handler, where a timer's lock might be its own;
            # the keeper waits for the rest of the time by itself
            self._keeper.wake(self)
        else:
            self._keeper.call_at(due, self._flush_due)

    def _flush_due(self) -> None:
        self._keeper.wake(self)

    def fileno(self) -> int:
        """Return the descriptor that the keeper waits for; −1 when there is none."""
        return self._process.fileno()

    def flush_queued(self) -> FlushResult:
        """Called by the keeper: flush, unless the loop has just done so, and what came since has to
        be gathered.
        """
        # pings and pongs do not wait for company
        gathering = self.batch.wire is None and not self._controls
        due = self._last_flush + self._process.settings.send_delay / 1000
        if gathering and due > monotonic():
            # first: whoever queues something from here on asks for a flush again
            self._flush_wanted = False
            if self.outgoing:
                self._flush_wanted = True
                self._keeper.call_at(due, self._flush_due)
            return FlushResult.done
        return self.flush_outgoing()

    def flush_outgoing(self) -> FlushResult:
        """Send queued frames without waiting. Called by the keeper, and by the loop after its
        callbacks.
        """
        if not self.safe_out.acquire(blocking=False):
            return FlushResult.busy
        failures: list[BaseException] = []
        try:
            return self._flush(failures)
        except OSError as exc:
            failures.append(exc)
            self._process.cut(exc)
            return FlushResult.done
        finally:
            self.safe_out.release()
            for failure in failures:
                if isinstance(failure, OSError):
                    self._process.write_failed(failure)
                else:
                    self._process.queue_failed(failure)

    def _flush(self, failures: list[BaseException]) -> FlushResult:
        assert self.safe_out.locked()
        process, batch = self._process, self.batch
        self._flush_wanted = False
        while (
            process.state is wpsRun
            and (self._queue_open or batch.wire is not None or self._controls)
        ) or (batch.last and batch.wire is not None):
            if batch.wire is None and self._controls:
                # before the next frames, behind those in hand
                batch.fill_control(self._control_wire())
            if batch.wire is None:
                if not self.outgoing:
                    self._last_flush = monotonic()
                    return FlushResult.done
                failed = self._next_batch()
                if failed is not None:
                    failures.append(failed)
                    if isinstance(failed, OSError):
                        process.cut(failed)
                        return FlushResult.done
                    continue
            wire = batch.wire
            assert wire is not None
            sent = process.write_now(wire)
            if sent < len(wire) or process.unsent_bytes():
                batch.advance(sent)
                self._flush_wanted = True
                waits = not sent and process.waits_for_input()
                return FlushResult.busy if waits else FlushResult.blocked
            self._batch_sent()
        return FlushResult.done

    def _next_batch(self) -> BaseException | None:
        """Take frames from the queue and encode them into one buffer.

        A frame that the protocol cannot prepare costs itself only: it is dropped and counted, and
        its exception returned; those around it stay in their order.
        """
        assert self.safe_out.locked()
        frames = self.outgoing.take(_BATCH_BYTES)
        encoder, protocol = self.encoder, self._process.protocol
        if encoder.sends_plain:
            parts = [
                encode_unmasked(0x80 | opcode, payload) if wire is None else wire
                for opcode, payload, _, wire in frames
            ]
            self.batch.fill(frames, parts)
            return None
        try:
            joined = encoder.join(protocol, frames) if encoder.joins and len(frames) > 1 else None
        except Exception as exc:  # noqa: BLE001
            self.outgoing.drop(len(frames))
            return exc
        if joined is not None:
            self.batch.fill_joined(frames, *joined)
            return None
        parts = []
        for at, queued in enumerate(frames):
            try:
                parts.append(encoder.encode_queued(protocol, queued))
            except Exception as exc:  # noqa: BLE001
                # of the protocol's before_send_frame: those before it leave, those behind it wait
                self.outgoing.put_back(frames[at + 1 :])
                self.outgoing.drop(1)
                if parts:
                    self.batch.fill(frames[:at], parts)
                return exc
        self.batch.fill(frames, parts)
        return None

    def _finish_batch(self) -> None:
        """Write what is left of the batch, waiting for the kernel, and keeping count of what it has
        taken.
        """
        assert self.safe_out.locked()
        process, batch = self._process, self.batch
        wire = batch.wire
        patience: Patience | None = None
        while wire is not None:
            sent = process.write_now(wire)
            wire = batch.advance(sent)
            if not wire and not process.unsent_bytes():
                self._batch_sent()
                return
            if patience is None:
                patience = Patience(process.output_state, process.settings.send_timeout)
            elif sent:
                patience.taken()
            if not sent and not process.wait_writable(patience.step()):
                patience.look()

    def _control_wire(self) -> bytes:
        """Take the keeper's control frames and encode them."""
        assert self.safe_out.locked()
        wire = b""
        while self._controls:
            opcode, payload = self._controls.popleft()
            wire += encode_frame(opcode, payload, self.encoder.next_key())
        return wire

    def _batch_sent(self) -> None:
        assert self.safe_out.locked()
        frames, size = self.batch.finish()
        counts = self._process.protocol.counts
        counts.frames_out += frames
        counts.bytes_out += size

    # --------------------------------------------------------------------------- the end of it all

    def close(self, payload: bytes, deadline: Deadline, failures: list[BaseException]) -> None:
        """Write a close frame behind all that was sent or queued before. Under ``safe_out``.

        What the peer does not take until the *deadline* is left to the keeper. *failures* gets what
        the protocol has raised for queued frames, which are dropped.
        """
        assert self.safe_out.locked()
        wire = memoryview(encode_frame(focConnectionClose, payload, self.encoder.next_key()))
        if self._drain(deadline, failures):
            rest = self._write_within(wire, deadline)
            if rest is not None:
                self._send_behind(rest, failures)
        else:
            self._send_behind(wire, failures)

    def _drain(self, deadline: Deadline, failures: list[BaseException]) -> bool:
        """Write what was half sent or is queued, before a close frame; return False when the
        *deadline* came first.
        """
        process, batch = self._process, self.batch
        while batch.wire is not None or (self.outgoing and not process.keeps_queue()):
            if batch.wire is None:
                failed = self._next_batch()
                if failed is not None:
                    failures.append(failed)
                if batch.wire is None:
                    continue
            # step by step, so that what the kernel has taken is known even when the next step
            # fails: it must not be sent again
            left = batch.advance(process.write_now(batch.wire))
            if not left and not process.unsent_bytes():
                self._batch_sent()
            elif deadline.passed or not process.wait_writable(deadline):
                # a peer that reads slowly has the socket writable again and again, and no bound of
                # its own
                return False
        return True

    def _write_within(self, wire: memoryview, deadline: Deadline) -> memoryview | None:
        """Write *wire* until the *deadline*; return what is left, None if nothing is."""
        assert self.safe_out.locked()
        process = self._process
        while True:
            wire = wire[process.write_now(wire) :]
            if not wire and not process.unsent_bytes():
                return None
            if deadline.passed or not process.wait_writable(deadline):
                return wire

    def _send_behind(self, close: memoryview, failures: list[BaseException]) -> None:
        """Leave the rest of what is queued, and the close frame behind it, to the keeper, which has
        ``close_timeout`` ms for that.
        """
        frames: list[QueuedFrame] = []
        parts: list[bytes] = []
        if not self._process.keeps_queue():
            for queued in self.outgoing.take(1 << 62):
                try:
                    wire = queued.wire
                    if wire is None:
                        wire = self.encoder.encode_queued(self._process.protocol, queued)
                except Exception as exc:  # noqa: BLE001
                    failures.append(exc)
                    self.outgoing.drop(1)
                    continue
                parts.append(wire)
                frames.append(queued)
        self.batch.close_behind(frames, parts, close)
        self._keeper.wake(self)

    def requeue(self) -> None:
        """After the end of a connection: frames that the kernel did not take whole go to the head
        of the queue again.
        """
        with self.safe_out:
            if not self._process.keeps_queue():
                self.batch.clear()
                # there is no next connection
                self.outgoing.clear()
                return
            if self.batch.wire is None:
                return
            lost = self.batch.give_up(self._process.unsent_bytes())
            self._batch_sent()
            self.outgoing.put_back(lost)


_main_ident = threading.main_thread().ident


def is_foreign_timeout(exc: BaseException) -> bool:
    """Tell whether a signal handler raised this ``TimeoutError``: the kernel's have a number."""
    return type(exc) is TimeoutError and exc.errno is None
