"""Liveness: pings and pongs of one connection, and when its peer counts as dead.

The keeper's thread sends heartbeats. It also answers the peer's pings while the loop is inside a
long callback. This module runs no callbacks, and never waits for the network.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from time import monotonic
from typing import Protocol

from ..core.frames import WebSocketFrame, focPing, focPong
from ..errors import WebSocketsProtocolError
from ..logs import get_logger
from ..settings import WebSocketProcessSettings
from ..states import WebSocketProcessState, wpsRun
from .keeper import ProcessKeeper, Timer
from .reader import Reader
from .sender import Sender

_log = get_logger("mormot_ws.process")

#: the longest time between two checks of a connection, in seconds, and therefore the longest time
#: that a ping waits for its pong during a long callback
_LOOK_SECONDS = 1.0
#: the most unanswered pings that are remembered
_MAX_PINGS = 16
#: seconds after which a silent peer is checked again, on systems whose kernel does not count the
#: received bytes: the loop may have read bytes that it has not recorded yet
_SECOND_LOOK = 0.05
#: the longest time, in seconds, that a heartbeat waits for those of other connections; less with a
#: short delay
_TOGETHER = 0.25
#: marks a ping that was answered or a pong that was counted
_ANSWERED = -1


class LiveProcess(Protocol):
    """What :class:`Liveness` needs from its connection."""

    settings: WebSocketProcessSettings
    reader: Reader
    sender: Sender

    @property
    def state(self) -> WebSocketProcessState:
        """The state of the connection."""

    def abort(self, why: str) -> None:
        """Cut the connection immediately."""

    def fault(self, error: WebSocketsProtocolError, wait_ms: int | None = None) -> bool:
        """Close because the peer broke a rule; return whether the close frame was sent."""

    def output_state(self) -> tuple[int, int] | None:
        """Return how many bytes the peer has acknowledged, and how many are in flight."""

    def received_bytes(self) -> int | None:
        """Return how many bytes the kernel has received from the peer, read or not."""

    def log_fields(self) -> dict[str, object]:
        """Return the ``extra`` of this connection's log records."""


class Liveness:
    """Sends heartbeats for *process*, counts the answers, and gives up a silent peer.

    :param keeper: runs the clock.
    """

    def __init__(self, process: LiveProcess, keeper: ProcessKeeper) -> None:
        self._process = process
        self._keeper = keeper
        #: consecutive heartbeats that could not be sent or were not answered
        self.invalid_ping_count: int = 0
        #: milliseconds from the last heartbeat to its answer; 0: none yet
        self.last_ping_delay: float = 0.0
        self.begin()

    def begin(self) -> None:
        """Prepare for a new connection."""
        self.invalid_ping_count = 0
        # pings received in the second below; if two threads change it at once, one may be lost
        self._pings = 0
        self._pings_second = 0
        # when the current heartbeat, which waits for a sign of life, was due; 0: there is none
        self._pinged_at = 0.0
        # when the unanswered pings were sent
        self._pings_sent: list[float] = []
        self._heartbeat: Timer | None = None
        # how many of our bytes the peer's kernel had acknowledged at the last heartbeat, and how
        # many it will have acknowledged when that heartbeat has arrived
        self._acknowledged = 0
        self._ping_position = 0
        # how many bytes our kernel had received at the last heartbeat; None: it does not report it
        self._received: int | None = None
        # True if a heartbeat has found the peer silent, and will check a second time
        self._looking_again = False
        self._stopped = False

    def start(self) -> None:
        """Send heartbeats from now on, if the settings ask for them."""
        delay = self._process.settings.heartbeat_delay
        if delay:
            self._schedule(self._process.reader.last_in + delay / 1000, delay / 1000)
        if self._process.reader.reads_ahead:
            self.watch()

    def watch(self) -> None:
        """Let the keeper check the connection, even if we send no heartbeats.

        The peer's pings still have to be answered.
        """
        delay = self._process.settings.heartbeat_delay / 1000
        self._keeper.watch(self, min(_LOOK_SECONDS, delay / 2) if delay else _LOOK_SECONDS)
        # the last callback is long, and the connection has ended: stop() does the two steps in the
        # opposite order, so one of the two sees the other
        if self._stopped:
            self.unwatch()

    def callback_is_long(self) -> None:
        """Let the keeper read ahead and answer pings while a callback is long.

        For an owner that steps the loop by events, and calls :meth:`callback_has_ended` in the end.
        In a loop that waits for input itself, the keeper detects this.
        """
        self._process.reader.allow_ahead(True)
        self.watch()

    def callback_has_ended(self) -> bool:
        """Undo :meth:`callback_is_long`; return False if frames were read ahead, which the next
        step of the loop handles.
        """
        self.unwatch()
        reader = self._process.reader
        reader.allow_ahead(False)
        return not reader.has_backlog

    def unwatch(self) -> None:
        """Undo :meth:`watch`."""
        self._keeper.unwatch(self)

    def stop(self) -> None:
        """Stop, because the connection has ended."""
        self._stopped = True
        self.unwatch()
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    # ------------------------------------------------------------------------ pings, pongs received

    def ping_received(self, frame: WebSocketFrame) -> None:
        """Answer a ping, unless the keeper has done so. Called in the loop's thread."""
        if frame.tix != _ANSWERED:
            frame.tix = _ANSWERED
            self._count_ping()
            self._process.sender.answer_ping(frame.payload)

    def pong_received(self, frame: WebSocketFrame) -> None:
        """Measure the round trip, once. Called in the thread that read the pong, or the loop's."""
        if frame.tix == _ANSWERED:
            return
        frame.tix = _ANSWERED
        try:
            sent = self._pings_sent.pop(0)
        except IndexError:
            # the pong is unsolicited, or its ping is no longer remembered
            return
        self.last_ping_delay = (monotonic() - sent) * 1000

    def _count_ping(self) -> None:
        """Count a ping and refuse a flood: answering costs more than sending."""
        limit = self._process.settings.max_pings_per_second
        second = int(self._process.reader.last_in)
        if second != self._pings_second:
            self._pings_second = second
            self._pings = 0
        self._pings += 1
        if self._pings > limit > 0:
            raise WebSocketsProtocolError(1008, f"more than {limit} pings in a second")

    # ----------------------------------------------------------------------------- heartbeats, sent

    def _schedule(self, when: float, delay: float) -> None:
        check = partial(self._check, self._process.reader.in_frame)
        # a little later, together with others: waking a thread for each of ten thousand
        # connections costs more than its work then
        together = min(_TOGETHER, delay / 50)
        self._heartbeat = self._keeper.call_at(ceil(when / together) * together, check)

    def _check(self, connection: object) -> None:
        """Ping a peer that was silent for ``heartbeat_delay``, and give up one that stays silent.

        Called in the keeper's thread.
        """
        process, reader = self._process, self._process.reader
        if process.state is not wpsRun or connection is not reader.in_frame:
            # closing, or a timer of an earlier connection
            return
        delay = process.settings.heartbeat_delay / 1000
        if not delay:
            # set to 0 meanwhile
            return
        now = monotonic()
        if self._pinged_at and reader.last_in >= self._pinged_at:
            self._pinged_at = 0.0
            self._looking_again = False
            self.invalid_ping_count = 0
        due = max(reader.last_in, self._pinged_at) + delay
        if due <= now:
            if self._pinged_at and not self._gave_sign(now) and not self._output_moves():
                if self._received is None and not self._looking_again:
                    self._looking_again = True
                    self._schedule(now + _SECOND_LOOK, delay)
                    return
                self.invalid_ping_count += 1
                most = process.settings.disconnect_after_invalid_heartbeat_count
                if self.invalid_ping_count >= most > 0:
                    text = "%s: %d heartbeats without an answer"
                    _log.info(text, process, self.invalid_ping_count, extra=process.log_fields())
                    process.abort(f"no answer to {self.invalid_ping_count} heartbeats")
                    return
            self._looking_again = False
            if not self._pinged_at:
                # The peer was alive, then silent for a whole delay. It will not answer the older
                # pings any more (RFC 6455 §5.5.3 allows that), and later pongs must not count as
                # answers to them.
                self._pings_sent.clear()
            self._pinged_at = now
            self._mark_ping()
            self._pings_sent.append(now)
            del self._pings_sent[:-_MAX_PINGS]
            process.sender.send_control(focPing, b"")
            due = now + delay
        self._schedule(due, delay)

    def _gave_sign(self, now: float) -> bool:
        """Return whether bytes have arrived since the last heartbeat, read or not.

        On a busy machine, the loop's thread may not run for longer than a heartbeat, although the
        peer is not silent.
        """
        # the kernel first: the loop cannot have bytes that the kernel has not counted
        received = self._process.received_bytes()
        if received is not None and self._received is not None and received > self._received:
            # answers pings if the loop is inside a long callback
            self.stand_in(now)
            return True
        # last_in again: the loop may have read since the last check
        return self.stand_in(now) or self._process.reader.last_in >= self._pinged_at

    def _mark_ping(self) -> None:
        """Record how far input and output are when a heartbeat is sent."""
        self._received = self._process.received_bytes()
        state = self._process.output_state()
        if state is not None:
            self._acknowledged, waiting = state
            self._ping_position = self._acknowledged + waiting

    def _output_moves(self) -> bool:
        """Return whether the peer still accepts our bytes while our ping is stuck behind them.

        Then the link is slow, but the peer is not dead.
        """
        state = self._process.output_state()
        if state is None:
            return False
        acknowledged = state[0]
        # do not wait longer for a ping that the peer's kernel has acknowledged: the kernel of a
        # frozen program still accepts small writes
        stuck = acknowledged < self._ping_position or self._process.sender.controls_wait
        return stuck and acknowledged != self._acknowledged

    # -------------------------------------------------------------------- while a callback is long

    def stand_in(self, now: float) -> bool:
        """Read and answer pings while the loop is inside a long callback.

        Returns whether the peer gave a sign of life. Messages wait for the loop in order. Called in
        the keeper's thread.
        """
        process = self._process
        if process.state is not wpsRun:
            return False
        alive, pings, pongs = process.reader.read_ahead(now)
        for pong in pongs:
            # measured now, because the callback's time does not belong to the round trip
            self.pong_received(pong)
        try:
            for ping in pings:
                if ping.tix != _ANSWERED:
                    ping.tix = _ANSWERED
                    self._count_ping()
                    process.sender.send_control(focPong, ping.payload)
        except WebSocketsProtocolError as flood:
            if not process.fault(flood, 0):
                process.abort(flood.reason)
            return False
        return alive
