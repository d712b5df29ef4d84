"""KeptProcess: what the keeper's thread does for a connection, and pings and pongs: heartbeats, and
standing in for a busy loop.

Here is decided when a peer is alive and when it is given up. Reading and decoding belong to the
loop (``process.py``); the keeper does it only while the loop is inside a long callback. No callback
runs in here, and nothing waits for the network.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from functools import partial
from time import monotonic

from ..core.frames import WebSocketFrame, WebSocketFrameOpCode, encode_frame, focPing, focPong
from ..core.incoming import WebProcessInFrame
from ..errors import WebSocketsProtocolError
from ..protocols.base import WebSocketProtocol
from ..settings import WebSocketProcessSettings
from ..states import wpsClose, wpsRun
from .keeper import ProcessKeeper, Timer
from .sender import FrameSender

_log = logging.getLogger("mormot_ws.process")

#: seconds without a read after which a callback counts as long, and the keeper reads in the loop's
#: stead, up to so many bytes
_LONG_CALLBACK = 0.02
_BACKLOG_BYTES = 1 << 20
#: bytes that it asks for at a time
_STAND_IN_READ = 1 << 16
#: the longest time between two looks at a connection, in seconds: a ping waits no longer for its
#: pong during a long callback
_LOOK_SECONDS = 1.0
#: pings whose pongs have not come that are remembered
_MAX_PINGS = 16
#: marks a ping that was answered, a pong that was counted
_ANSWERED = -1


class KeptProcess(FrameSender):
    """Base of :class:`~mormot_ws.WebSocketProcess`; see there for the parameters.

    To be implemented above, beside what :class:`FrameSender` wants: :meth:`receive_now`,
    :meth:`abort`.
    """

    _internal = frozenset({"log_fields", "receive_now", "safe_in", "stand_in"})

    #: the decoder of the connection; used under ``safe_in``
    in_frame: WebProcessInFrame

    def __init__(
        self,
        protocol: WebSocketProtocol,
        settings: WebSocketProcessSettings,
        keeper: ProcessKeeper,
        mask_sent_frames: bool,
    ) -> None:
        super().__init__(protocol, settings, keeper, mask_sent_frames)
        #: heartbeats in a row that could not be sent or were not answered
        self.invalid_ping_count: int = 0
        #: milliseconds from the last heartbeat to its answer; 0: none yet. (The original's is the
        #: age of the last traffic)
        self.last_ping_delay: float = 0.0
        #: held by the thread that reads and decodes; before ``safe_out`` in the lock order
        self.safe_in: threading.Lock = threading.Lock()

    def _begin_keeping(self) -> None:
        """(Re)set what belongs to one connection."""
        self.invalid_ping_count = 0
        self._unread = b""  # what the handshake read beyond its end
        # what the keeper has read in the loop's stead; guarded by safe_in
        self._backlog: list[WebSocketFrame] = []
        self._backlog_bytes = 0
        #: the frames of the last read, while the loop handles them one after another; the keeper
        #: looks for pings among them
        self._in_hand: Sequence[WebSocketFrame] = ()
        self._pings = (
            # received in the second below; a count that two threads seldom share, and that may then
            # miss one
            0
        )
        self._pings_second = 0
        self._last_in = monotonic()
        # when the heartbeat that waits for any sign of life was due; 0: none does
        self._pinged_at = 0.0
        # when the pings left whose pongs have not come
        self._pings_sent: deque[float] = deque(maxlen=_MAX_PINGS)
        self._heartbeat: Timer | None = None

    @property
    def invalid_ping_send_count(self) -> int:
        """The Pascal name of :attr:`invalid_ping_count`; mirrors ``InvalidPingSendCount``."""
        return self.invalid_ping_count

    # ---------------------------------------------------------------------- to be implemented above

    @abstractmethod
    def receive_now(self, size: int) -> bytes | None:
        """Like :meth:`receive_bytes`, but without waiting: None when nothing is there or the
        connection is broken.
        """

    @abstractmethod
    def abort(self, why: str) -> None:
        """Cut the connection at once."""

    @abstractmethod
    def _fault(self, error: WebSocketsProtocolError, wait_ms: int | None = None) -> bool:
        """Close because the peer broke a rule; tell whether the close frame was sent."""

    # -------------------------------------------------------------------- pings and pongs, received

    def _ping_received(self, frame: WebSocketFrame) -> None:
        """In the loop's thread: answer, unless the keeper has done so."""
        if frame.tix != _ANSWERED:
            frame.tix = _ANSWERED
            self._count_ping()
            self._answer_ping(frame.payload)

    def _pong_received(self, frame: WebSocketFrame) -> None:
        """In the thread that read it, or in the loop's: take the time, once."""
        if frame.tix == _ANSWERED:
            return
        frame.tix = _ANSWERED
        try:
            sent = self._pings_sent.popleft()
        except IndexError:
            return  # nobody asked, or nobody remembers
        self.last_ping_delay = (monotonic() - sent) * 1000

    def _answer_ping(self, payload: bytes) -> None:
        """Send the pong: also between our close frame and the peer's, where nothing else is sent
        any more (RFC 6455 §5.5.2).
        """
        if self.send_frame(WebSocketFrame(focPong, payload)) or self._state is not wpsClose:
            return
        with self.safe_out:
            try:
                key = None if self._masks is None else self._masks.next_key()
                if self._batch_wire is None:
                    self.write_bytes(encode_frame(focPong, payload, key))
            except OSError as exc:
                self._write_failed(exc)

    def _count_ping(self) -> None:
        """Answering pings costs more than sending them: refuse a flood."""
        limit = self.settings.max_pings_per_second
        second = int(self._last_in)
        if second != self._pings_second:
            self._pings_second = second
            self._pings = 0
        self._pings += 1
        if self._pings > limit > 0:
            raise WebSocketsProtocolError(1008, f"more than {limit} pings in a second")

    # ----------------------------------------------------------------------------- heartbeats, sent

    def _schedule_heartbeat(self, when: float) -> None:
        self._heartbeat = self._keeper.call_at(when, partial(self._check_heartbeat, self.in_frame))

    def _check_heartbeat(self, connection: object) -> None:
        """In the keeper's thread: ping a peer that was silent for ``heartbeat_delay``; give up on
        one that stays silent.
        """
        if self._state is not wpsRun or connection is not self.in_frame:
            return  # closing, or a timer of an earlier connection
        delay = self.settings.heartbeat_delay / 1000
        now = monotonic()
        if self._pinged_at and self._last_in >= self._pinged_at:
            self._pinged_at = 0.0
            self.invalid_ping_count = 0
        due = max(self._last_in, self._pinged_at) + delay
        if due <= now:
            if self._pinged_at and not self.stand_in(now) and not self._output_moves():
                self.invalid_ping_count += 1
                if (
                    self.invalid_ping_count
                    >= self.settings.disconnect_after_invalid_heartbeat_count
                    > 0
                ):
                    _log.info(
                        "%s: %d heartbeats without an answer",
                        self,
                        self.invalid_ping_count,
                        extra=self.log_fields(),
                    )
                    self.abort(f"no answer to {self.invalid_ping_count} heartbeats")
                    return
            if not self._pinged_at:
                # alive, and then silent for a whole delay: what it has not answered by now it never
                # will (RFC 6455 §5.5.3 lets it), and later pongs must not be taken for answers to
                # these
                self._pings_sent.clear()
            self._pinged_at = now
            self._mark_ping()
            self._send_control_now(focPing, b"")
            due = now + delay
        self._schedule_heartbeat(due)

    def _mark_ping(self) -> None:
        """Remember how far the output was when a heartbeat is sent."""

    def _output_moves(self) -> bool:
        """Tell whether the peer takes what we send, though our ping is stuck behind it: a slow
        link is no dead peer.
        """
        return False

    def _send_control_now(self, opcode: WebSocketFrameOpCode, payload: bytes) -> None:
        """In the keeper's thread: send a ping or pong without waiting; where another thread is
        writing, that one sends it along.
        """
        self._controls.append((opcode, payload))
        if opcode is focPing:
            self._pings_sent.append(monotonic())
        self._keeper.wake(self)

    # ------------------------------------------------------------------ while a callback takes long

    def _watch(self) -> None:
        """Let the keeper look after the connection from now on: also without heartbeats of ours,
        the peer may want answers to its own.
        """
        delay = self.settings.heartbeat_delay / 1000
        self._keeper.watch(self, min(_LOOK_SECONDS, delay / 2) if delay else _LOOK_SECONDS)

    def stand_in(self, now: float) -> bool:
        """In the keeper's thread: read for the loop while it is inside a long callback; tell
        whether the peer gave a sign of life.

        Pings are answered at once, so that the peer does not give us up; messages wait for the loop
        in their order. When a megabyte of them waits, no more is read, and the peer counts as
        alive: it is we who owe the reading.
        """
        if self._state is not wpsRun or not self.safe_in.acquire(blocking=False):
            return False  # the loop is reading by itself
        alive = False
        flood: WebSocketsProtocolError | None = None
        pings: list[WebSocketFrame] = []
        try:
            if now - self._last_in >= _LONG_CALLBACK:
                # those that came in one read with the message whose callback is long
                pings += [
                    frame
                    for frame in self._in_hand
                    if frame.opcode is focPing and frame.tix != _ANSWERED
                ]
                alive = self._read_backlog(now, pings)
            for ping in pings:
                ping.tix = _ANSWERED
                self._count_ping()
            alive = alive or self._backlog_bytes >= _BACKLOG_BYTES
        except WebSocketsProtocolError as exc:
            flood = exc
        finally:
            self.safe_in.release()
        if flood is not None:
            if not self._fault(flood, 0):
                self.abort(flood.reason)
            return False
        for ping in pings:
            self._send_control_now(focPong, ping.payload)
        return alive

    def _read_backlog(self, now: float, pings: list[WebSocketFrame]) -> bool:
        """Read what is there into the backlog, and the pings into *pings* too; tell whether
        anything was.
        """
        assert self.safe_in.locked()
        in_frame = self.in_frame
        most = (
            # of a single look, so that one connection's flood does not keep the keeper from the
            # others
            _BACKLOG_BYTES
        )
        while (
            most > 0
            and self._backlog_bytes < _BACKLOG_BYTES
            and in_frame.error is None
            and not in_frame.closed
        ):
            data = self._unread or self.receive_now(_STAND_IN_READ)
            if not data:
                break  # nothing there, or the end of the stream: that is for the loop to see
            self._unread = b""
            self._last_in = now
            most -= len(data)
            for frame in in_frame.feed(data):
                self._backlog_bytes += len(frame.payload) + 64
                if frame.opcode is focPing:
                    pings.append(frame)
                elif frame.opcode is focPong:
                    self._pong_received(frame)  # now: the callback's time is not the link's
                if frame.opcode not in (focPing, focPong) or self.settings.notify_all_frames:
                    self._backlog.append(frame)
        return most < _BACKLOG_BYTES
