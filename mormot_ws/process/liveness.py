"""Liveness: pings and pongs of one connection. When is a peer alive, and when is it given up?

Heartbeats are sent by the keeper's thread, which also answers the peer's pings while the loop is
inside a long callback. No callback runs in here, and nothing waits for the network.
"""

from __future__ import annotations

from collections import deque
from functools import partial
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

#: the longest time between two looks at a connection, in seconds: a ping waits no longer for its
#: pong during a long callback
_LOOK_SECONDS = 1.0
#: pings whose pongs have not come that are remembered
_MAX_PINGS = 16
#: seconds after which a silent peer is looked at again, where no kernel counts what arrives: the
#: loop may have bytes in hand that it has not noted yet
_SECOND_LOOK = 0.05
#: marks a ping that was answered, a pong that was counted
_ANSWERED = -1


class LiveProcess(Protocol):
    """What the liveness needs of its connection."""

    settings: WebSocketProcessSettings
    reader: Reader
    sender: Sender

    @property
    def state(self) -> WebSocketProcessState:
        """Where the connection is in its life."""

    def abort(self, why: str) -> None:
        """Cut the connection at once."""

    def fault(self, error: WebSocketsProtocolError, wait_ms: int | None = None) -> bool:
        """Close because the peer broke a rule; tell whether the close frame was sent."""

    def output_state(self) -> tuple[int, int] | None:
        """Return how many bytes the peer has acknowledged, and how many are under way."""

    def received_bytes(self) -> int | None:
        """Return how many bytes the kernel has received from the peer, read or not."""

    def log_fields(self) -> dict[str, object]:
        """Return what log records of this connection carry as ``extra``."""


class Liveness:
    """Sends heartbeats for *process*, counts what comes back, and gives up a peer that is silent.

    :param keeper: runs the clock.
    """

    def __init__(self, process: LiveProcess, keeper: ProcessKeeper) -> None:
        self._process = process
        self._keeper = keeper
        #: heartbeats in a row that could not be sent or were not answered
        self.invalid_ping_count: int = 0
        #: milliseconds from the last heartbeat to its answer; 0: none yet
        self.last_ping_delay: float = 0.0
        self.begin()

    def begin(self) -> None:
        """Get ready for a new connection."""
        self.invalid_ping_count = 0
        # pings received in the second below; two threads seldom share the count, which may then
        # miss one
        self._pings = 0
        self._pings_second = 0
        # when the heartbeat that waits for any sign of life was due; 0: none does
        self._pinged_at = 0.0
        # when the pings left whose pongs have not come
        self._pings_sent: deque[float] = deque(maxlen=_MAX_PINGS)
        self._heartbeat: Timer | None = None
        # what the peer's kernel had taken of our bytes at the last heartbeat, and will have taken
        # when that heartbeat has reached it
        self._acknowledged = 0
        self._ping_position = 0
        # what our kernel had received at the last heartbeat; None: it does not tell
        self._received: int | None = None
        # a heartbeat has found the peer silent, and looks a second time
        self._looking_again = False

    def start(self) -> None:
        """The connection runs: send heartbeats from now on, if the settings want any."""
        delay = self._process.settings.heartbeat_delay
        if delay:
            self._schedule(self._process.reader.last_in + delay / 1000)
        self.watch()

    def watch(self) -> None:
        """Let the keeper look after the connection, also without heartbeats of ours: the peer may
        want answers to its own.
        """
        delay = self._process.settings.heartbeat_delay / 1000
        self._keeper.watch(self, min(_LOOK_SECONDS, delay / 2) if delay else _LOOK_SECONDS)

    def unwatch(self) -> None:
        """Undo :meth:`watch`."""
        self._keeper.unwatch(self)

    def stop(self) -> None:
        """The connection is over."""
        self.unwatch()
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    # ------------------------------------------------------------------------ pings, pongs received

    def ping_received(self, frame: WebSocketFrame) -> None:
        """In the loop's thread: answer, unless the keeper has done so."""
        if frame.tix != _ANSWERED:
            frame.tix = _ANSWERED
            self._count_ping()
            self._process.sender.answer_ping(frame.payload)

    def pong_received(self, frame: WebSocketFrame) -> None:
        """In the thread that read it, or in the loop's: take the time, once."""
        if frame.tix == _ANSWERED:
            return
        frame.tix = _ANSWERED
        try:
            sent = self._pings_sent.popleft()
        except IndexError:
            # nobody asked, or nobody remembers
            return
        self.last_ping_delay = (monotonic() - sent) * 1000

    def _count_ping(self) -> None:
        """Answering pings costs more than sending them: refuse a flood."""
        limit = self._process.settings.max_pings_per_second
        second = int(self._process.reader.last_in)
        if second != self._pings_second:
            self._pings_second = second
            self._pings = 0
        self._pings += 1
        if self._pings > limit > 0:
            raise WebSocketsProtocolError(1008, f"more than {limit} pings in a second")

    # ----------------------------------------------------------------------------- heartbeats, sent

    def _schedule(self, when: float) -> None:
        check = partial(self._check, self._process.reader.in_frame)
        self._heartbeat = self._keeper.call_at(when, check)

    def _check(self, connection: object) -> None:
        """In the keeper's thread: ping a peer that was silent for ``heartbeat_delay``; give up on
        one that stays silent.
        """
        process, reader = self._process, self._process.reader
        if process.state is not wpsRun or connection is not reader.in_frame:
            # closing, or a timer of an earlier connection
            return
        delay = process.settings.heartbeat_delay / 1000
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
                    self._schedule(now + _SECOND_LOOK)
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
                # alive, and then silent for a whole delay: what it has not answered by now it never
                # will (RFC 6455 §5.5.3 lets it), and later pongs must not count as answers to these
                self._pings_sent.clear()
            self._pinged_at = now
            self._mark_ping()
            self._pings_sent.append(now)
            process.sender.send_control(focPing, b"")
            due = now + delay
        self._schedule(due)

    def _gave_sign(self, now: float) -> bool:
        """Tell whether anything came since the last heartbeat, read or not: on a busy machine the
        loop's thread may have no turn for longer than a heartbeat, and that is not the peer's
        silence.
        """
        # the kernel first: bytes that it has not counted yet are not in the loop's hand either
        received = self._process.received_bytes()
        if received is not None and self._received is not None and received > self._received:
            # answers pings meanwhile, if the loop is inside a long callback
            self.stand_in(now)
            return True
        # last_in again: the loop may have read since it was looked at
        return self.stand_in(now) or self._process.reader.last_in >= self._pinged_at

    def _mark_ping(self) -> None:
        """Remember how far input and output are when a heartbeat is sent."""
        self._received = self._process.received_bytes()
        state = self._process.output_state()
        if state is not None:
            self._acknowledged, waiting = state
            self._ping_position = self._acknowledged + waiting

    def _output_moves(self) -> bool:
        """Tell whether the peer takes what we send, though our ping is stuck behind it: a slow link
        is no dead peer.
        """
        state = self._process.output_state()
        if state is None:
            return False
        acknowledged = state[0]
        # a ping that the peer's kernel has acknowledged needs no further patience: a frozen
        # program's kernel takes small sends for long
        stuck = acknowledged < self._ping_position or self._process.sender.controls_wait
        return stuck and acknowledged != self._acknowledged

    # -------------------------------------------------------------------- while a callback is long

    def stand_in(self, now: float) -> bool:
        """In the keeper's thread: read and answer pings for the loop while it is inside a long
        callback; tell whether the peer gave a sign of life.

        Messages wait for the loop in their order.
        """
        process = self._process
        if process.state is not wpsRun:
            return False
        alive, pings, pongs = process.reader.read_ahead(now)
        for pong in pongs:
            # now: the callback's time is not the link's
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
