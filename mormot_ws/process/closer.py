"""Closer: ends a connection. It sends the close frame, waits for the answer, and cuts.

The table of states is in ``core/closing.py``; this module adds the lock, the wait and the clock.
Only this module knows why a connection ended.
"""

from __future__ import annotations

import threading
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Protocol

from ..core.closing import CloseHandshake
from ..core.frames import CLOSE_NO_STATUS, close_payload
from ..core.taking import take
from ..errors import WebSocketsProtocolError
from ..logs import get_logger
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline, is_foreign_timeout
from .frame_log import log_queue_failed, write_fault
from .keeper import ProcessKeeper, Timer
from .sender import Sender

_log = get_logger("mormot_ws.process")

#: milliseconds that a peer has to answer our close frame before a server ends its stream. An idle
#: native client checks its socket up to 230 ms later
_END_OUTPUT_AFTER = 250
#: milliseconds until the next try if the stream could not be ended
_END_OUTPUT_AGAIN = 20


class ClosingProcess(Protocol):
    """What :class:`Closer` needs from its connection."""

    settings: WebSocketProcessSettings
    sender: Sender

    def leave_run(self) -> bool:
        """Leave ``wpsRun`` silently; return False if it was already left.

        Called under ``safe_out``.
        """

    def left_run(self) -> None:
        """Wake the threads that wait for answers. Called without a lock."""

    @property
    def client_side(self) -> bool:
        """True on a client."""

    def end_output(self) -> bool:
        """End our stream, but continue reading; return False to be called again. Neither waits nor
        raises.
        """

    def interrupt(self) -> None:
        """Break the connection."""

    def log_fields(self) -> dict[str, object]:
        """Return the ``extra`` of this connection's log records."""


class _End:
    """The end of one connection, for threads that wait for it.

    Each waiting thread has its own ``Event``, so an idle connection does not pay for one. There is
    no lock, because a signal handler may interrupt any line.
    """

    __slots__ = ("_reached", "_waiting")

    def __init__(self) -> None:
        self._reached = False
        self._waiting: list[threading.Event] = []

    def is_set(self) -> bool:
        """Return whether the connection has ended."""
        return self._reached

    def set(self) -> None:
        """The connection has ended: wake the waiting threads."""
        self._reached = True
        for event in self._waiting:
            event.set()

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds* for the end; return whether it has come."""
        event = threading.Event()
        self._waiting.append(event)
        # set() does the two steps in the opposite order, so one of the two sees the other
        if not self._reached:
            event.wait(seconds)
        return self._reached


class Closer:
    """Ends the connections of *process*, one after another, and records why they ended.

    :param keeper: runs the timer for the peer's answer.
    """

    def __init__(self, process: ClosingProcess, keeper: ProcessKeeper) -> None:
        self._process = process
        self._keeper = keeper
        self.begin()

    def begin(self) -> None:
        """Prepare for a new connection."""
        #: which close frames were sent and received, and their codes
        self.handshake = CloseHandshake()
        #: why the connection ended, or a description of the last fault; '' if there was none
        self.last_error: str = ""
        #: True after abort(), a failed write, or shutdown() in a callback: no more messages of this
        #: connection reach a callback
        self.given_up: bool = False
        # the loop sets it when nothing more will be read
        self._reading_ended = _End()
        self._timer: Timer | None = None

    def die_in_child(self) -> None:
        """Record the end of the connection, in a forked child."""
        self._reading_ended = _End()
        self._reading_ended.set()

    # ---------------------------------------------------------------------------- from any thread

    def close(self, code: int | None, reason: str, wait_ms: int, in_loop: bool) -> bool:
        """Send a close frame and wait up to *wait_ms* for the answer; return whether it came.

        With *in_loop* there is no wait, because the loop cannot wait for itself; return whether the
        frame was sent.
        """
        payload = close_payload(code, reason)
        handshake, ended = self.handshake, self._reading_ended
        sent = self.send(CLOSE_NO_STATUS if code is None else code, reason, payload)
        if in_loop:
            self.given_up = True
            return sent
        return self._await(handshake, ended, wait_ms)

    def close_within(self, code: int, most_ms: int) -> bool:
        """Close for ``free()``: one time limit for sending the frame and for the wait."""
        handshake, ended = self.handshake, self._reading_ended
        self.send(code, "", close_payload(code), most_ms // 2)
        return self._await(handshake, ended, most_ms)

    def _await(self, handshake: CloseHandshake, ended: _End, wait_ms: int) -> bool:
        """Wait for the end of the connection of *handshake* and *ended*; never cut a later one."""
        if not (handshake.sent and ended.wait(wait_ms / 1000)) and handshake is self.handshake:
            self.abort(self.last_error or "no answer to our close frame")
        return handshake.received

    def send(self, code: int, reason: str, payload: bytes, wait_ms: int | None = None) -> bool:
        """Send a close frame and leave ``wpsRun``; return whether this call has sent it.

        It is sent once per connection. A writer may hold the lock while the peer does not read, so
        the close frame waits up to *wait_ms* (None: ``close_timeout``).
        """
        if wait_ms is None:
            wait_ms = self._process.settings.close_timeout
        try:
            sent = self._send(code, reason, payload, wait_ms)
            if sent:
                _log.debug("%s: close frame sent, %d %s", self._process, code, reason)
                if not self.handshake.received:
                    self._limit_answer()
            return sent
        except BaseException:
            # nothing else would end it, if the peer does not
            self._process.interrupt()
            raise

    def _send(self, code: int, reason: str, payload: bytes, wait_ms: int) -> bool:
        process = self._process
        deadline = Deadline(wait_ms)
        safe_out = process.sender.safe_out
        failures: list[BaseException] = []
        left_running = False
        error: OSError | None = None
        held: list[bool] = []
        # a signal handler or finaliser does not wait for its own thread
        seconds = 0 if process.sender.is_held_here() else wait_ms / 1000
        holders, me = process.sender.holders, get_ident()
        holders += (me,)
        try:
            if not take(safe_out, held, seconds):
                self.handshake.note(code, reason)
                return False
            # after leave_run() no thread adds to the queue that close() drains
            if self.handshake.sent or not process.leave_run():
                return False
            left_running = True
            self.handshake.send(code, reason)
            process.sender.close(payload, deadline, failures)
        except OSError as exc:
            error = exc
            if is_foreign_timeout(exc):
                process.interrupt()
                raise
            return False
        except BaseException:
            process.interrupt()
            raise
        finally:
            try:
                if held and held[0]:
                    safe_out.release()
            finally:
                holders.remove(me)
            if left_running:
                process.left_run()
            for failure in failures:
                log_queue_failed(process, failure)
            if error is not None:
                _log.debug("%s: close frame not sent: %s", process, error)
        return True

    def _limit_answer(self) -> None:
        """Cut the connection if the peer does not answer our close frame in time."""
        process, now = self._process, monotonic()
        due = now + process.settings.close_timeout / 1000
        timer, at = partial(self._overdue, self.handshake), due
        # the server has to end TCP first (RFC 6455 §7.1.1)
        if not process.client_side and now + _END_OUTPUT_AFTER / 1000 < due:
            at = now + _END_OUTPUT_AFTER / 1000
            timer = partial(self._unanswered, self.handshake, due)
        self._timer = self._keeper.call_at(at, timer)

    def _unanswered(self, handshake: CloseHandshake, due: float) -> None:
        """End the stream of a server whose close frame has not been answered yet.

        A native client that has reconnected once ignores close frames, and notices only the end of
        TCP. Other peers can still answer: their data is read until *due*. Called in the keeper's
        thread.
        """
        if handshake is not self.handshake or handshake.received or self._reading_ended.is_set():
            return
        at, timer = due, partial(self._overdue, handshake)
        if self._process.end_output():
            _log.debug("%s: no answer to our close frame yet: ending our stream", self._process)
        else:
            again = monotonic() + _END_OUTPUT_AGAIN / 1000
            if again < due:
                at, timer = again, partial(self._unanswered, handshake, due)
        self._timer = self._keeper.call_at(at, timer)

    def _overdue(self, handshake: CloseHandshake) -> None:
        """Cut the connection, because the peer did not answer our close frame in time.

        Called in the keeper's thread.
        """
        if handshake is self.handshake and not self._reading_ended.is_set():
            self.abort("no answer to our close frame")

    def abort(self, why: str) -> None:
        """Cut the connection immediately."""
        self.given_up = True
        if not self._reading_ended.is_set():
            self.last_error = why
            _log.debug("%s: cut: %s", self._process, why)
        self._process.interrupt()

    def cut(self, exc: BaseException) -> None:
        """Give up the connection after a write that failed or waited too long.

        The stream may end inside a frame. Called under ``safe_out``, so that nothing is written
        after it; logs nothing.
        """
        self.given_up = True
        if not self._reading_ended.is_set():
            self.last_error = write_fault(exc)
        self._process.interrupt()

    def fault(self, error: WebSocketsProtocolError, wait_ms: int | None = None) -> bool:
        """Close with the code of *error*, because the peer broke a rule.

        Returns whether the close frame was sent. Waits like :meth:`send`.
        """
        process = self._process
        text = "%s: closing with %d: %s"
        _log.info(text, process, error.code, error.reason, extra=process.log_fields())
        self.last_error = str(error)
        self.handshake.fault()
        payload = close_payload(error.code, error.reason)
        return self.send(error.code, error.reason, payload, wait_ms)

    def note_error(self, why: str) -> None:
        """Keep *why* as the reason why the connection ended, or the next one failed."""
        self.last_error = why

    # --------------------------------------------------------------------------- the loop's thread

    def answer(self, payload: bytes) -> None:
        """Echo the peer's close frame, unless ours was already sent.

        Raises ``WebSocketsProtocolError`` for an invalid *payload*.
        """
        self.send(*self.handshake.receive(payload), payload)

    def lost(self, why: str) -> None:
        """Record that nothing more can be read."""
        if not self.handshake.sent and not self.last_error:
            self.last_error = why
        _log.debug("%s: reading ended: %s", self._process, why)

    def end(self) -> None:
        """Wake the threads that wait for the loop, which has ended."""
        self._reading_ended.set()
        if self._timer is not None:
            self._timer.cancel()
        self.handshake.end()
