"""Sender: the sending half of a connection, which writes whole frames for any thread.

:meth:`Sender.send` writes immediately. :meth:`Sender.queue` leaves the frame to the keeper, which
writes batches without waiting (see ``queue_writer.py``). The only callback here is the protocol's
``before_send_frame``.

Any exception after the first byte of a frame was sent, or after a compressor has advanced, gives up
the connection: the peer could not decode the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from time import monotonic

from ..core.forks import call_in_child
from ..core.frames import (
    SHORT_TEXT,
    WebSocketFrame,
    WebSocketFrameOpCode,
    encode_unmasked,
    focBinary,
    focPong,
    focText,
)
from ..core.outgoing import OutgoingFrames, QueuedFrame
from ..core.taking import take
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline, is_foreign_timeout
from ..sockets.transport import JOIN_BELOW
from ..states import wpsClose, wpsRun
from .batch import Batch
from .encoder import Encoder, PreparedFrame
from .frame_log import log_lost_in_doubt, log_queue_failed, log_write_failed
from .keeper import FlushResult, ProcessKeeper
from .own_stack import codes_of, runs_here
from .owner import SendingProcess
from .queue_writer import QueueWriter

# the argument of a lock's acquire() that does not wait
_AT_ONCE = (False,)


class Sender:
    """Sends the frames of *process*.

    :param keeper: sends queued frames.
    :param mask: True on a client, which masks its frames.

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
        self._write: Callable[[bytes], None] = process.write_bytes
        #: frames that wait to be sent; kept across reconnections
        self.outgoing: OutgoingFrames = OutgoingFrames(
            settings.max_outgoing_frames,
            settings.max_outgoing_bytes,
            settings.outgoing_policy == "drop_oldest",
        )
        #: held while a whole frame or a batch is written; guards the batch, the sending side of the
        #: close handshake, and the counts of sent messages
        self.safe_out: threading.Lock = threading.Lock()
        #: the threads that take or hold safe_out, unless they send: each adds itself before that,
        #: and removes itself after it. For signal handlers, ``+=`` and ``remove()`` are one step;
        #: a finaliser may add its thread a second time
        self.holders: list[int] = []
        #: turns frames into bytes
        self.encoder: Encoder = Encoder(mask)
        self._queued = QueueWriter(process, self.outgoing, self.encoder)

    def begin(self) -> None:
        """Prepare for a new connection with the protocol that the process has now."""
        process = self._process
        self._counts = process.protocol.counts
        self.encoder.begin(process.protocol, process.settings.deflate_options())
        self._sends_plain = self.encoder.sends_plain
        self._queued.begin()
        # True when a callback has queued a frame in this turn of the loop
        self._loop_queued = False
        # True while a timer checks whether that callback takes long
        self._callback_timer = False
        # True when the keeper knows that there is something to flush; and when it last did so
        self._flush_wanted, self._last_flush = False, 0.0
        # the loop sets it after the first callbacks, so that their frames are sent before the queue
        self._queue_open = False

    def write_with(self, write: Callable[[bytes], None]) -> None:
        """Let :meth:`send` call *write*, which does what the process's ``write_bytes`` does."""
        self._write = write

    def die_in_child(self) -> None:
        """Drop half-sent frames and the locks of the parent's threads, in a forked child."""
        self.safe_out = threading.Lock()
        self.holders = []
        self.outgoing.die_in_child()
        self._queued.die_in_child()

    # ---------------------------------------------------------------------------- from any thread

    def send(
        self,
        frame: WebSocketFrame,
        ahead: PreparedFrame | None = None,
        held: bool = False,
        failures: list[BaseException] | None = None,
    ) -> bool:
        """Do the work of the process's ``send_frame``, except for close frames.

        *held*: the main thread already holds ``safe_out``, and releases it. *failures* gets
        exceptions that would otherwise be logged.
        """
        me = get_ident()
        if me == _main_ident and not held:
            return self._send_in_main(frame, ahead, failures)
        opcode = frame._opcode
        payload = frame._payload
        length = len(payload)
        process = self._process
        # encoded before the lock is taken, if it does not depend on the frames before it
        wire = None
        if self._sends_plain:
            if length < 126 and opcode is focText:
                wire = SHORT_TEXT[length] + payload
            elif length < JOIN_BELOW:
                wire = encode_unmasked(0x80 | opcode, payload)
        elif ahead is None and not held:
            ahead = self.prepare_ahead(frame)
        # kept: a fork in the protocol's code gives the child another lock
        safe_out = self.safe_out
        # no signal handler runs in this thread, so nothing can be raised before the try below
        if not held and not safe_out.acquire(False):
            if self.is_held_here():
                # we are in a finaliser that has interrupted a send on this same connection
                return self.queue(QueuedFrame.copy_of(frame))
            if not safe_out.acquire(timeout=process.settings.send_timeout / 1000):
                # another thread's frame is stuck, too: the peer does not read
                return False
        failure: BaseException | None = None
        try:
            if process.state is not wpsRun:
                return False
            if wire is None:
                # it may raise: nothing of the frame was sent yet
                payload, flags = self.encoder.prepared(process.protocol, frame, ahead)
            try:
                queued = self._queued
                if queued.batch.wire is not None:
                    queued.finish_batch()
                write = self._write
                if queued.controls:
                    write(queued.control_wire())
                if wire is not None:
                    write(wire)
                else:
                    header, payload = self.encoder.encode_parts(opcode, payload, flags)
                    if len(payload) < JOIN_BELOW:
                        write(header + payload)
                    else:
                        process.write_parts(header, payload)
            except BaseException as exc:
                failure = exc
                # under the lock, so that nothing is written after half a frame
                process.cut(exc)
                if not isinstance(exc, OSError) or is_foreign_timeout(exc):
                    raise
                return False
            if opcode is focText or opcode is focBinary:
                counts = self._counts
                counts.frames_out += 1
                counts.bytes_out += length
        finally:
            if not held:
                safe_out.release()
            if failure is not None:
                if failures is None:
                    log_write_failed(process, failure)
                else:
                    failures.append(failure)
        return True

    def prepare_ahead(self, frame: WebSocketFrame) -> PreparedFrame | None:
        """Let the protocol prepare a copy of *frame* without a lock; for a later :meth:`send`."""
        if self._process.state is not wpsRun:
            return None
        return self.encoder.prepare_ahead(self._process.protocol, frame)

    def _send_in_main(
        self,
        frame: WebSocketFrame,
        ahead: PreparedFrame | None,
        failures: list[BaseException] | None,
    ) -> bool:
        """Send in the main thread, which a signal handler may interrupt at any point."""
        process, safe_out = self._process, self.safe_out
        held: list[bool] = []
        failed: list[BaseException] = []
        try:
            if ahead is None:
                # without the lock, because the protocol's code runs in it
                ahead = self.prepare_ahead(frame)
            # one step for signals, as in take(), which would cost one more call
            held += map(safe_out.acquire, _AT_ONCE)
            if not held[0]:
                if self.is_held_here():
                    # we must not wait for the send that we have interrupted
                    return self.queue(QueuedFrame.copy_of(frame))
                held.clear()
                if not take(safe_out, held, process.settings.send_timeout / 1000):
                    # another thread's frame is stuck, too
                    return False
            return self.send(frame, ahead, True, failed)
        finally:
            if held and held[0]:
                safe_out.release()
            if failed:
                if failures is not None:
                    failures += failed
                else:
                    for failure in failed:
                        log_write_failed(process, failure)

    def is_held_here(self) -> bool:
        """Return whether the calling thread holds ``safe_out``, or what another holder waits for.

        True only in a signal handler or finaliser, which must not wait for its own thread.
        """
        me = get_ident()
        if (me in self.holders and self.safe_out.locked()) or self.outgoing.is_held_here():
            return True
        return runs_here(_SENDING_IN_MAIN if me == _main_ident else _SENDING, self)

    def queue(self, queued: QueuedFrame) -> bool:
        """Queue *queued*, which was checked, and may already be encoded (a broadcast)."""
        process = self._process
        if process.state is not wpsRun and not process.keeps_queue():
            return False
        if not self.outgoing.push_queued(queued):
            if process.settings.outgoing_policy == "close":
                process.overflowed()
            return False
        if get_ident() == process.loop.ident:
            # the loop sends it after the callback
            self._loop_queued = True
            if not self._callback_timer:
                self._watch_callback()
        elif not self._flush_wanted:
            self._want_flush()
        return True

    def send_shared(self, plain: QueuedFrame, encoded: QueuedFrame, now: float) -> bool:
        """Send a frame that goes to several connections, without waiting; return False when it is
        neither sent nor queued.

        *plain* and *encoded* are the same frame, without and with its bytes on the wire; *now* is
        what :meth:`Sharing.begin` has returned.
        """
        if not self.encoder.sends_plain:
            return self.queue(plain)
        return (now > 0 and self._send_if_free(encoded, now)) or self.queue(encoded)

    def _send_if_free(self, queued: QueuedFrame, now: float) -> bool:
        """Write *queued* at once, if nothing else waits and no frames are being gathered; return
        False if it has to be queued. What the kernel does not take is left to the keeper.
        """
        process, waiting = self._process, self._queued
        if self.outgoing.frames or self._last_flush + process.settings.send_delay / 1000 > now:
            return False
        safe_out = self.safe_out
        if not safe_out.acquire(False):
            return False
        failure: BaseException | None = None
        try:
            if not (self._queue_open and process.state is wpsRun and waiting.is_idle):
                return False
            self._flush_wanted = not waiting.write_alone(queued)
            self._last_flush = now
        except BaseException as exc:
            failure = exc
            process.cut(exc)
            if not isinstance(exc, OSError) or is_foreign_timeout(exc):
                raise
        finally:
            safe_out.release()
            if failure is not None:
                log_write_failed(process, failure)
        if self._flush_wanted:
            self._keeper.wake(self)
        return True

    def _watch_callback(self) -> None:
        """If the callback takes long, let the keeper send what it has queued."""
        try:
            self._callback_timer = True
            delay = self._process.settings.send_delay / 1000
            self._keeper.call_at(monotonic() + delay, self._callback_is_long)
        except BaseException:
            self._callback_timer = False
            raise

    def _callback_is_long(self) -> None:
        """Send what a long callback has queued. Called in the keeper's thread."""
        self._callback_timer = False
        if self.outgoing:
            self._keeper.wake(self)

    def send_control(self, opcode: WebSocketFrameOpCode, payload: bytes) -> None:
        """Send a ping or pong without waiting; if another thread is writing, that thread sends it.

        Called in the keeper's thread.
        """
        self._queued.add_control(opcode, payload)
        self._keeper.wake(self)

    @property
    def has_queued(self) -> bool:
        """True while queued frames of a running connection have not been sent whole."""
        waits = bool(self.outgoing.frames) or self.batch.wire is not None
        return waits and self._process.state is wpsRun

    @property
    def batch(self) -> Batch:
        """The queued frames that are being sent."""
        return self._queued.batch

    @property
    def controls_wait(self) -> bool:
        """True while pings or pongs of the keeper wait for a writer."""
        return bool(self._queued.controls)

    def answer_ping(self, payload: bytes) -> None:
        """Send the pong for a ping.

        It is sent even between our close frame and the peer's, when nothing else may be sent
        (RFC 6455 §5.5.2).
        """
        process = self._process
        if self.send(WebSocketFrame(focPong, payload)) or process.state is not wpsClose:
            return
        self._write_held(lambda: self._queued.write_pong(payload))

    # ------------------------------------------------------------------------------- queued frames

    def open_queue(self) -> None:
        """Allow queued frames to be sent, after the first callbacks of a connection."""
        self._queue_open = True

    def step(self) -> None:
        """Send what callbacks have queued in this turn. Called in the loop's thread.

        What the kernel does not accept is left to the keeper. But if a peer sends faster than it
        reads the answers, reading stops while more than a megabyte of answers waits. (Only answers
        count: two ends that both have much to send must not wait for each other.)
        """
        if self.flush_outgoing() is FlushResult.done:
            self._loop_queued = False
            return
        queued = self._queued
        if not (self._loop_queued and queued.answers_pile_up()):
            self._want_flush()
            return
        self._loop_queued = False
        self._write_held(queued.write_answers)

    def _write_held(self, write: Callable[[], BaseException | None]) -> None:
        """Call *write* under the lock; break the connection if that fails; log what it returns."""
        failure: BaseException | None = None
        holders, me = self.holders, get_ident()
        holders += (me,)
        try:
            with self.safe_out:
                try:
                    failure = write()
                except OSError as exc:
                    failure = exc
                    self._process.cut(exc)
                    if is_foreign_timeout(exc):
                        raise
        finally:
            holders.remove(me)
        if isinstance(failure, OSError):
            log_write_failed(self._process, failure)
        elif failure is not None:
            log_queue_failed(self._process, failure)

    def _want_flush(self) -> None:
        """Let the keeper flush the queue, at least ``send_delay`` ms after the last flush."""
        try:
            self._flush_wanted = True
            due = self._last_flush + self._process.settings.send_delay / 1000
            if due <= monotonic():
                self._keeper.wake(self)
            else:
                self._keeper.call_at(due, self._flush_due)
        except BaseException:
            # the keeper may not know: the next frame tells it
            self._flush_wanted = False
            raise

    def _flush_due(self) -> None:
        self._keeper.wake(self)

    def fileno(self) -> int:
        """Return the descriptor that the keeper waits for; −1 if there is none."""
        return self._process.fileno()

    def flush_queued(self) -> FlushResult:
        """Flush, unless the loop has just done so and new frames are being gathered.

        Called by the keeper.
        """
        # pings and pongs are sent without gathering
        gathering = self.batch.wire is None and not self._queued.controls
        due = self._last_flush + self._process.settings.send_delay / 1000
        if gathering and due > monotonic():
            # first: a thread that queues something after this asks for another flush
            self._flush_wanted = False
            if self.outgoing:
                self._flush_wanted = True
                self._keeper.call_at(due, self._flush_due)
            return FlushResult.done
        return self.flush_outgoing()

    def flush_at_once(self) -> None:
        """Send what is queued without waiting, and without gathering more. From any thread."""
        # in a callback of this connection the loop does it
        if get_ident() == self._process.loop.ident:
            return
        if self.flush_outgoing() is not FlushResult.done:
            self._keeper.wake(self)

    def flush_outgoing(self) -> FlushResult:
        """Send queued frames without waiting; called by the keeper, and by the loop."""
        failures: list[BaseException] = []
        held: list[bool] = []
        holders, me = self.holders, get_ident()
        holders += (me,)
        try:
            if not take(self.safe_out, held):
                return FlushResult.busy
            return self._flush(failures)
        except OSError as exc:
            failures.append(exc)
            self._process.cut(exc)
            if is_foreign_timeout(exc):
                raise
            return FlushResult.done
        except BaseException as exc:
            # from a signal handler. The keeper must not go on in the middle: nobody knows what was
            # sent, or compressed
            if held and held[0]:
                self._process.cut(exc)
            raise
        finally:
            try:
                if held and held[0]:
                    self.safe_out.release()
            finally:
                holders.remove(me)
            for failure in failures:
                if isinstance(failure, OSError):
                    log_write_failed(self._process, failure)
                else:
                    log_queue_failed(self._process, failure)

    def _flush(self, failures: list[BaseException]) -> FlushResult:
        assert self.safe_out.locked()
        process, queued = self._process, self._queued
        batch = queued.batch
        self._flush_wanted = False
        while (
            process.state is wpsRun
            and (self._queue_open or batch.wire is not None or queued.controls)
        ) or (batch.last and batch.wire is not None):
            if batch.wire is None and queued.controls:
                # after the current batch, and before the next one
                batch.fill_control(queued.control_wire())
            if batch.wire is None:
                if not self.outgoing:
                    self._last_flush = monotonic()
                    return FlushResult.done
                failed = queued.next_batch()
                if failed is not None:
                    failures.append(failed)
                    if isinstance(failed, OSError):
                        process.cut(failed)
                        return FlushResult.done
                    continue
            sent = queued.write_batch()
            if batch.wire or process.unsent_bytes():
                self._flush_wanted = True
                waits = not sent and process.waits_for_input()
                return FlushResult.busy if waits else FlushResult.blocked
            queued.batch_sent()
        return FlushResult.done

    # ------------------------------------------------------------------------------------ the end

    def close(self, payload: bytes, deadline: Deadline, failures: list[BaseException]) -> None:
        """Write a close frame after all queued frames. Called under ``safe_out``.

        What the peer does not accept by the *deadline* is left to the keeper. *failures* gets the
        protocol's exceptions for queued frames, which are dropped.
        """
        assert self.safe_out.locked()
        if not self._queued.write_close(payload, deadline, failures):
            self._keeper.wake(self)

    def requeue(self) -> None:
        """Put frames that the kernel did not accept whole back at the head of the queue.

        Called after the end of a connection.
        """
        holders, me = self.holders, get_ident()
        holders += (me,)
        try:
            with self.safe_out:
                in_doubt = self._queued.requeue()
        finally:
            holders.remove(me)
        if in_doubt:
            log_lost_in_doubt(self._process, in_doubt)


# what takes safe_out without a note in the holders
_SENDING_IN_MAIN = codes_of(Sender._send_in_main)
_SENDING = codes_of(Sender.send, Sender._send_if_free)

_main_ident = threading.main_thread().ident


def _fork_is_main() -> None:
    # in a child the thread that has forked is the main thread, which runs the signal handlers
    global _main_ident
    _main_ident = get_ident()


call_in_child(_fork_is_main)
