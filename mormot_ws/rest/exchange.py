"""RestExchange: our requests in flight on one connection, and the threads that wait for answers.

The loop's thread wakes a waiting thread as soon as its answer has arrived or the connection has
ended, without polling. The protocol encodes requests and answers. No user code runs here.

The loop's thread takes no lock here for an answer or the end of a connection: a signal handler may
free the client in the middle of a request, and waits for that thread.

Lock order: ``_turns`` < ``_safe_send`` < the process's ``safe_out``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import current_thread, get_ident
from time import monotonic
from typing import TYPE_CHECKING

from ..core.frames import WebSocketFrame
from ..errors import WebSocketsError
from ..logs import get_logger
from ..process.frame_log import log_frame, log_write_failed
from ..request import HTTP_CLIENTERROR
from ..settings import DEFAULT_ANSWER_TIMEOUT_MS, LEAST_ANSWER_TIMEOUT_MS
from ..states import (
    WebSocketProcessNotifyCallback,
    wpsRun,
    wscBlockWithAnswer,
    wscNonBlockWithoutAnswer,
)
from .turns import Turn, Turns

if TYPE_CHECKING:
    from ..process.encoder import PreparedFrame
    from ..process.process import WebSocketProcess
    from ..request import HttpServerRequest
    from .protocols import WebSocketProtocolRest

_log = get_logger("mormot_ws.rest")

HTTP_SUCCESS = 200
#: the request was sent but got no answer: it was late, or the connection was lost
HTTP_NOTFOUND = 404

#: milliseconds that a request waits for a late answer to an earlier one, in protocols whose
#: requests have no numbers
LATE_ANSWER_TIMEOUT_MS = 30_000


class RestExchange:
    """Sends requests over *process* with *protocol*, and passes answers to the waiting threads.

    Any thread may call :meth:`notify`; the loop's thread calls :meth:`answer_arrived`; a thread
    that changes the state of the process calls :meth:`closed`, :meth:`begin` and :meth:`end`.
    """

    def __init__(self, process: WebSocketProcess, protocol: WebSocketProtocolRest) -> None:
        self._process = process
        self._protocol = protocol
        #: held by the one request that waits for its answer, if answers have no numbers; taken
        #: before all other locks
        self._turns = Turns()
        #: held from adding an entry to _waiting to the end of sending, so that all entries that
        #: :meth:`begin` finds belong to the old connection. Reentrant, because a signal handler may
        #: end the connection, or upgrade again, at any moment
        self._safe_send = threading.RLock()
        # by the head of the answer; changed by atomic operations, without a lock. If answers have
        # no numbers, an entry stays until its answer arrives, even if no thread waits for it any
        # more: the answer must not be mistaken for the next one
        self._waiting: dict[str, SimpleQueue[WebSocketFrame | None]] = {}
        # where such a late answer goes: to the last request of which no thread waits any more
        self._late: SimpleQueue[WebSocketFrame | None] | None = None
        # the threads that are in a request; changed by atomic operations, without a lock
        self._asking: set[int] = set()
        #: ``f(process, begins)`` of higher layers, called in the connection's thread after its
        #: start and after its end
        self.watchers: list[Callable[[WebSocketProcess, bool], object]] = []
        #: ``f()`` of higher layers, called before this side closes the connection for good
        self.leavers: list[Callable[[], object]] = []

    # ------------------------------------------------------------------------------ for the process

    def begin(self, protocol: WebSocketProtocolRest) -> None:
        """Prepare for a new connection: requests for the old one must not be sent on it."""
        with self._safe_send:  # wait until all sends on the old connection have failed
            # keep it alive until the lock is free: its finaliser may be the application's code
            before, self._protocol = self._protocol, protocol
            self._waiting.clear()
        del before

    def end(self) -> None:
        """End, because another protocol takes over: later requests get 666 and are not sent."""
        with self._safe_send:
            self._process.detach_exchange()

    def tell(self, begins: bool) -> None:
        """Notify the watchers that a connection has begun or ended."""
        for watcher in list(self.watchers):
            watcher(self._process, begins)

    def leaving(self) -> None:
        """Queue the last requests before this side closes the connection for good."""
        for leaver in list(self.leavers):
            leaver()

    def closed(self) -> None:
        """Let waiting requests fail with 404, because the connection has ended. Never blocks."""
        for head in list(self._waiting):
            answer = self._waiting.get(head)
            if answer is not None:
                answer.put(None)

    def answer_arrived(self, head: str, frame: WebSocketFrame) -> None:
        """Pass the answer in *frame* to the thread that waits for *head*.

        Called in the loop's thread; never blocks.
        """
        answer = self._waiting.pop(head, None)
        if answer is not None:
            answer.put(frame)
            if answer is not self._late:
                return
        if self._protocol.tells_first("late answer"):
            text = "%s: dropped an answer for which no thread waits: %r"
            _log.debug(text, self._process, head[:40])

    # ------------------------------------------------------------------------------- for any thread

    @property
    def waiting(self) -> int:
        """The number of threads that wait for an answer."""
        late = self._late
        return sum(answer is not late for answer in list(self._waiting.values()))

    def notify(self, request: HttpServerRequest, mode: WebSocketProcessNotifyCallback) -> int:
        """Do the work of :meth:`WebSocketProcess.notify_callback`."""
        mode = WebSocketProcessNotifyCallback(mode)
        request.out_error, request.out_timed_out = "", False
        process = self._process
        if mode is wscNonBlockWithoutAnswer and process.settings.send_delay:
            frame, _ = self._protocol.input_to_frame(request, True)
            sent = process.send_frame_async(frame)
        elif mode is not wscBlockWithAnswer:
            frame, _ = self._protocol.input_to_frame(request, True)
            sent = process.send_frame(frame)
        elif process.state is not wpsRun:
            sent = False
        else:
            self._check_thread()
            me = get_ident()
            try:
                self._asking.add(me)
                if self._protocol.sequencing:
                    return self._ask(request)
                return self._ask_in_turn(request)
            finally:
                self._asking.discard(me)
        return (
            HTTP_SUCCESS
            if sent
            else _no_answer(request, HTTP_CLIENTERROR, "not connected, or the queue is full")
        )

    def _check_thread(self) -> None:
        process = self._process
        if get_ident() in self._asking:
            raise WebSocketsError(
                "a waiting request in this thread was interrupted by a signal handler or a "
                "finaliser, which cannot wait for another request on the same connection: send it "
                "without waiting (Sec-WebSocket-REST: NonBlocking, "
                "non_blocking=True)"
            )
        if process.runs_loop() or current_thread() is process.owner_thread:
            raise WebSocketsError(
                "a request that waits for its answer inside a callback of the same connection "
                f"would wait forever: this thread, {current_thread().name!r}, has to read the "
                "answer. Send it from another thread, or without waiting "
                f"(Sec-WebSocket-REST: NonBlocking, non_blocking=True); see docs/how-to/rest.md"
            )

    def _ask_in_turn(self, request: HttpServerRequest) -> int:
        """Send and wait if answers have no numbers, with one request in flight at a time.

        Answers arrive in the order of the requests, but some never arrive: a peer may answer with
        ``!NORESPONSE``, or drop what it cannot read. With several requests in flight, each later
        one would then get the answer to another. Sending them one by one costs only the time on the
        wire, because the peer's single thread handles them one by one anyway.
        """
        timeout = self._timeout_ms()
        turns, turn = self._turns, Turn()
        try:
            if not turns.wait(turn, timeout / 1000):
                why = f"other requests kept the connection busy for {timeout} ms"
                return _no_answer(request, HTTP_CLIENTERROR, why, timed_out=True)
            if self._waiting and not self._late_answer_came():
                why = "the answer to an earlier request is still missing"
                return _no_answer(request, HTTP_CLIENTERROR, why, timed_out=True)
            return self._ask(request)
        finally:
            if turn in turns.queue:
                turns.queue.remove(turn)
            turns.wake()

    def _late_answer_came(self) -> bool:
        """Wait until no late answer is left that could be mistaken for the next one."""
        process, waiting = self._process, self._waiting
        give_up = monotonic() + LATE_ANSWER_TIMEOUT_MS / 1000
        for head in list(waiting):
            late = waiting.get(head)
            # the end of the connection wakes this thread, too
            while late is not None and waiting.get(head) is late and process.state is wpsRun:
                left = give_up - monotonic()
                if left <= 0:
                    return False
                with contextlib.suppress(Empty):
                    late.get(timeout=left)
        return True

    def _ask(self, request: HttpServerRequest) -> int:
        """Send *request*, wait for its answer, and return its status."""
        process = self._process
        frame, head = self._protocol.input_to_frame(request, False)
        answer: SimpleQueue[WebSocketFrame | None] = SimpleQueue()
        timeout = self._timeout_ms()
        # compression takes time: other threads may send meanwhile
        ahead = process.sender.prepare_ahead(frame)
        received: WebSocketFrame | None = None
        sent = gave_up = False
        failures: list[BaseException] = []
        try:
            with self._safe_send:
                if process.exchange is not self:  # a new connection has another protocol
                    return _no_answer(
                        request, HTTP_CLIENTERROR, "the connection has another protocol now"
                    )
                sent = self._send(frame, ahead, (head, answer), failures)
            if sent:
                received = answer.get(timeout=timeout / 1000)
        except Empty:
            gave_up = True
        finally:
            # a single step in each case, because a signal handler can raise after any
            if self._protocol.sequencing:
                self._waiting.pop(head, None)
            else:
                self._late = answer
            # log only now, without a lock
            for failure in failures:
                log_write_failed(process, failure)
            if sent and process.settings.log_details:
                log_frame(process, "sent", frame)
        if not sent:
            return _no_answer(request, HTTP_CLIENTERROR, "not connected")
        if received is None and not answer.empty():
            received = answer.get_nowait()  # it arrived just as we gave up
        if received is None and gave_up:
            return _no_answer(
                request, HTTP_NOTFOUND, f"no answer within {timeout} ms", timed_out=True
            )
        if received is None:
            return _no_answer(
                request,
                HTTP_NOTFOUND,
                f"the connection was lost before the answer came{self._why()}",
            )
        return self._protocol.frame_to_output(received, request)

    def _send(
        self,
        frame: WebSocketFrame,
        ahead: PreparedFrame | None,
        waiting: tuple[str, SimpleQueue[WebSocketFrame | None]],
        failures: list[BaseException],
    ) -> bool:
        """Send *frame*, whose answer goes to *waiting*; return whether it was sent.

        If a signal handler raises in here, no answer is left that could be mistaken for the next
        one: either there is no entry for it, or the connection is dropped. Called under
        ``_safe_send``.
        """
        process = self._process
        head, answer = waiting
        counts = process.protocol.counts
        before = counts.frames_out
        try:
            self._waiting[head] = answer
            sent = process.sender.send(frame, ahead, failures=failures)
        except BaseException as exc:
            if counts.frames_out == before:
                # not sent, or cut in the middle of the write
                self._waiting.pop(head, None)
            elif not self._protocol.sequencing:
                process.cut(exc)
            raise
        if not sent:
            self._waiting.pop(head, None)
        return sent

    def _why(self) -> str:
        """Return why the connection ended, after a colon, or ''. A wrong key shows here."""
        process = self._process
        why = process.last_error
        if not why and process.close_code:
            why = f"closed with {process.close_code} {process.close_reason}".rstrip()
        return f": {why}" if why else ""

    def _timeout_ms(self) -> int:
        timeout = self._process.answer_timeout()
        return max(timeout, LEAST_ANSWER_TIMEOUT_MS) if timeout else DEFAULT_ANSWER_TIMEOUT_MS


def _no_answer(request: HttpServerRequest, status: int, why: str, timed_out: bool = False) -> int:
    request.out_error, request.out_timed_out = why, timed_out
    return status
