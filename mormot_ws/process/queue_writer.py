"""QueueWriter: writes what waits to be sent on a connection: queued frames, pings and pongs.

The sender calls it under its ``safe_out``, and decides when. The queue itself, and what happens
when it is full, is in ``core/outgoing.py``. No keeper, callback or log record belongs in here; an
exception of a protocol for a queued frame is returned to the sender.
"""

from __future__ import annotations

from ..core.frames import (
    WebSocketFrameOpCode,
    encode_frame,
    encode_unmasked,
    focConnectionClose,
    focPong,
)
from ..core.outgoing import OutgoingFrames, QueuedFrame
from ..sockets.deadline import Deadline
from ..sockets.patience import Patience
from ..states import wpsRun
from .batch import Batch
from .encoder import Encoder
from .owner import SendingProcess

#: the most bytes of one batch of queued frames
_BATCH_BYTES = 1 << 18
#: bytes of answers in the queue above which the loop stops reading (half of the queue, if that is
#: less)
_ANSWERS_BYTES = 1 << 20
#: the most control frames of the keeper that may wait for a writer
_MAX_CONTROLS = 16


class QueueWriter:
    """The frames of *process* that wait, and those that are half sent.

    :param outgoing: the queue, which is kept across reconnections.
    :param encoder: turns frames into bytes.

    All methods except :meth:`add_control` are called under the sender's ``safe_out``.
    """

    __slots__ = ("_encoder", "_outgoing", "_process", "batch", "controls")

    def __init__(self, process: SendingProcess, outgoing: OutgoingFrames, encoder: Encoder) -> None:
        self._process = process
        self._outgoing = outgoing
        self._encoder = encoder

    def begin(self) -> None:
        """Prepare for a new connection."""
        #: the queued frames that are being sent
        self.batch = Batch()
        #: Pings and pongs of the keeper that wait for a writing thread, which sends them too. If
        #: there are too many, the oldest are dropped: one pong may answer several pings (RFC 6455
        #: §5.5.3)
        self.controls: list[tuple[int, bytes]] = []

    def die_in_child(self) -> None:
        """Drop what is half sent, in a forked child."""
        self.batch = Batch()
        self.controls.clear()

    def add_control(self, opcode: WebSocketFrameOpCode, payload: bytes) -> None:
        """Let the next writing thread send a ping or pong. Called without the lock."""
        self.controls.append((opcode, payload))
        del self.controls[:-_MAX_CONTROLS]

    def answers_pile_up(self) -> bool:
        """Return whether so much is waiting that the loop should not read more requests."""
        queue = self._outgoing
        most = min(queue.max_bytes // 2, _ANSWERS_BYTES) if queue.max_bytes else _ANSWERS_BYTES
        return queue.bytes > most or queue.count * 2 > queue.max_frames > 0

    def next_batch(self) -> BaseException | None:
        """Take frames from the queue and encode them into one buffer.

        A frame that the protocol cannot prepare is dropped and counted, and its exception is
        returned; the other frames keep their order.
        """
        frames = self._outgoing.take(_BATCH_BYTES)
        failed = self._fill_batch(frames)
        self._outgoing.settled()
        return failed

    def _fill_batch(self, frames: list[QueuedFrame]) -> BaseException | None:
        """Encode *frames* into the batch; return like :meth:`next_batch`."""
        encoder, protocol = self._encoder, self._process.protocol
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
            self._outgoing.drop(len(frames))
            return exc
        if joined is not None:
            self.batch.fill_joined(frames, *joined)
            return None
        parts = []
        for at, queued in enumerate(frames):
            try:
                parts.append(encoder.encode_queued(protocol, queued))
            except Exception as exc:  # noqa: BLE001
                # raised by before_send_frame: frames before it are sent, later ones wait
                self._outgoing.put_back(frames[at + 1 :])
                self._outgoing.drop(1)
                if parts:
                    self.batch.fill(frames[:at], parts)
                return exc
        self.batch.fill(frames, parts)
        return None

    def finish_batch(self) -> None:
        """Write the rest of the batch, with waits, and count what the kernel has accepted."""
        process, batch = self._process, self.batch
        patience: Patience | None = None
        while batch.wire is not None:
            sent = self.write_batch()
            if not batch.wire and not process.unsent_bytes():
                self.batch_sent()
                return
            if patience is None:
                patience = Patience(process.output_state, process.settings.send_timeout)
            elif sent:
                patience.taken()
            if not sent and not process.wait_writable(patience.step()):
                patience.look()

    def write_answers(self) -> BaseException | None:
        """Write until fewer answers wait; return what a protocol raised for one of them."""
        while self._process.state is wpsRun and self.answers_pile_up():
            if self.batch.wire is None and (failed := self.next_batch()) is not None:
                return failed
            self.finish_batch()
        return None

    def write_pong(self, payload: bytes) -> None:
        """Write a pong, unless another frame is half sent."""
        if self.batch.wire is None:
            self._process.write_bytes(encode_frame(focPong, payload, self._encoder.next_key()))

    @property
    def is_idle(self) -> bool:
        """True when nothing waits and nothing is half sent."""
        return self.batch.wire is None and not self.controls and not self._outgoing.frames

    def write_alone(self, queued: QueuedFrame) -> bool:
        """Write an encoded frame without waiting, while nothing else waits.

        Returns False if some of it is left: then it is in the batch.
        """
        process, wire = self._process, queued.wire
        assert wire is not None
        sent = process.write_now(wire)
        if sent == len(wire) and not process.unsent_bytes():
            process.protocol.counts.sent(1, len(queued.payload))
            return True
        self.batch.fill([queued], [wire])
        self.batch.advance(sent)
        return False

    def write_batch(self) -> int:
        """Write what the kernel accepts of the batch without waiting; return how many bytes.

        If anything but the socket's own error interrupts it, the rest of the batch counts as lost
        in the end: some of it may have been sent, and nothing is sent twice.
        """
        batch = self.batch
        wire = batch.offer()
        try:
            sent = self._process.write_now(wire)
        except OSError as exc:
            if exc.errno is not None:
                batch.advance(0)
            raise
        batch.advance(sent)
        return sent

    def control_wire(self) -> bytes:
        """Take the keeper's control frames and encode them."""
        wire = b""
        while self.controls:
            opcode, payload = self.controls.pop(0)
            wire += encode_frame(opcode, payload, self._encoder.next_key())
        return wire

    def batch_sent(self) -> None:
        """Count the frames of the batch, which the kernel has accepted, and end it."""
        frames, size = self.batch.finish()
        if self._outgoing.taken:
            # a signal handler raised when they were already in the batch
            self._outgoing.settled()
        self._process.protocol.counts.sent(frames, size)

    def write_close(
        self, payload: bytes, deadline: Deadline, failures: list[BaseException]
    ) -> bool:
        """Write a close frame after all queued frames; return False if some of it is left.

        What the peer does not accept by the *deadline* is then in the batch, for the keeper, which
        has ``close_timeout`` ms for it. *failures* gets the protocol's exceptions for queued
        frames, which are dropped.
        """
        close = memoryview(encode_frame(focConnectionClose, payload, self._encoder.next_key()))
        rest: memoryview | None = close
        if self._drain(deadline, failures):
            rest = self._write_within(close, deadline)
        if rest is None:
            return True
        self._put_behind(rest, failures)
        return False

    def _drain(self, deadline: Deadline, failures: list[BaseException]) -> bool:
        """Write half-sent and queued frames; return False if the *deadline* comes first."""
        process, batch = self._process, self.batch
        while batch.wire is not None or (self._outgoing and not process.keeps_queue()):
            if batch.wire is None:
                failed = self.next_batch()
                if failed is not None:
                    failures.append(failed)
                if batch.wire is None:
                    continue
            # step by step, so that we know what the kernel has accepted even if the next step
            # fails: it must not be sent again
            self.write_batch()
            if not batch.wire and not process.unsent_bytes():
                self.batch_sent()
            elif deadline.passed or not process.wait_writable(deadline):
                # with a peer that reads slowly, the socket becomes writable again and again
                return False
        return True

    def _write_within(self, wire: memoryview, deadline: Deadline) -> memoryview | None:
        """Write *wire* until the *deadline*; return the rest, or None."""
        process = self._process
        while True:
            wire = wire[process.write_now(wire) :]
            if not wire and not process.unsent_bytes():
                return None
            if deadline.passed or not process.wait_writable(deadline):
                return wire

    def _put_behind(self, close: memoryview, failures: list[BaseException]) -> None:
        """Put the rest of the queue, and then the *close* frame, after what is half sent."""
        frames: list[QueuedFrame] = []
        parts: list[bytes] = []
        if not self._process.keeps_queue():
            for queued in self._outgoing.take(1 << 62):
                try:
                    wire = queued.wire
                    if wire is None:
                        wire = self._encoder.encode_queued(self._process.protocol, queued)
                except Exception as exc:  # noqa: BLE001
                    failures.append(exc)
                    self._outgoing.drop(1)
                    continue
                parts.append(wire)
                frames.append(queued)
            self._outgoing.settled()
        self.batch.close_behind(frames, parts, close)

    def requeue(self) -> int:
        """Put frames that the kernel did not accept whole back at the head of the queue.

        Called after the end of a connection. Returns how many frames may or may not have been sent:
        they count as lost.
        """
        if not self._process.keeps_queue():
            self.batch.clear()
            # there will be no other connection
            self._outgoing.clear()
            return 0
        if self.batch.wire is None:
            if self._outgoing.taken:
                # a signal handler raised before they were in the batch
                self._outgoing.put_back(self._outgoing.taken)
                self._outgoing.settled()
            return 0
        lost, certain = self.batch.give_up(self._process.unsent_bytes())
        self.batch_sent()
        if certain:
            self._outgoing.put_back(lost)
            return 0
        self._outgoing.drop(len(lost))
        return len(lost)
