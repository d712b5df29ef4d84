"""RestExchange: the requests of our side that are under way on one connection, and the threads that
wait for their answers.

A waiting thread is woken by the loop's thread as soon as its answer has arrived or the connection
has ended; nothing polls. What requests and answers look like on the wire is the protocol's affair;
frames only pass through here, and no user's code runs here.

Lock order: ``_turns`` < ``_safe_send`` < the process's ``safe_out`` < ``_safe``.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from threading import current_thread
from typing import TYPE_CHECKING

from ..core.frames import WebSocketFrame
from ..errors import WebSocketsError
from ..logs import get_logger
from ..process.frame_log import log_frame
from ..request import HTTP_CLIENTERROR
from ..settings import DEFAULT_ANSWER_TIMEOUT_MS, LEAST_ANSWER_TIMEOUT_MS
from ..states import (
    WebSocketProcessNotifyCallback,
    wpsRun,
    wscBlockWithAnswer,
    wscNonBlockWithoutAnswer,
)
from .frame_list import WebSocketFrameList
from .turns import Turns

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess
    from ..request import HttpServerRequest
    from .protocols import WebSocketProtocolRest

_log = get_logger("mormot_ws.rest")

HTTP_SUCCESS = 200
#: there is no answer, though the request was sent: too late, or the connection was lost meanwhile
HTTP_NOTFOUND = 404

#: milliseconds that a request waits for the late answer to an earlier one, in protocols without
#: numbers
LATE_ANSWER_TIMEOUT_MS = 30_000
#: seconds after which an answer nobody waited for is dropped from ``incoming``
_INCOMING_EXPIRY = 30 * 60


class RestExchange:
    """Sends requests over *process*, whose protocol is *protocol*, and gives each waiting thread
    its answer.

    For any thread: :meth:`notify`. For the loop's thread: :meth:`answer_arrived`. For whoever
    changes the process's state: :meth:`closed`, :meth:`begin` and :meth:`end`.
    """

    def __init__(self, process: WebSocketProcess, protocol: WebSocketProtocolRest) -> None:
        self._process = process
        self._protocol = protocol
        #: how many late answers have to be dropped where answers carry no number; mirrors
        #: ``Incoming`` of the original's process
        self.incoming = WebSocketFrameList(_INCOMING_EXPIRY)
        #: belongs to the one request that waits for its answer, where answers carry no number;
        #: taken before all other locks
        self._turns = Turns()
        #: held from the entry in _waiting to the end of its sending, so that :meth:`begin` knows
        #: all entries to be of the old connection
        self._safe_send = threading.Lock()
        #: guards the fields below, what is put into the queues, and the number of answers to
        #: ignore; held for moments only
        self._safe = threading.Lock()
        #: notified when an answer to ignore has come, or the connection has ended
        self._late = threading.Condition(self._safe)
        self._waiting: dict[str, SimpleQueue[WebSocketFrame | None]] = {}

    # ------------------------------------------------------------------------------ for the process

    def begin(self, protocol: WebSocketProtocolRest) -> None:
        """A new connection is about to run: nothing that was made for the old one may be sent on
        it.
        """
        with self._safe_send:  # whoever has met the old connection is through with sending, in vain
            # kept until the lock is free: its finaliser is the application's
            before, self._protocol = self._protocol, protocol
        del before

    def end(self) -> None:
        """Another protocol takes over: whoever comes from here on gets 666, and nothing of ours is
        sent on its connection.
        """
        with self._safe_send:
            self._process.detach_exchange()

    def closed(self) -> None:
        """The connection does not run any more: all that wait get 404 at once. Never blocks."""
        with self._safe:
            self.incoming.clear()
            self._late.notify_all()
            for answer in self._waiting.values():
                answer.put(None)
            self._waiting.clear()

    def answer_arrived(self, head: str, frame: WebSocketFrame) -> None:
        """Give the answer in *frame* to the thread that waits for *head*. In the loop's thread;
        never blocks.
        """
        with self._safe:
            incoming = self.incoming
            if head == "answer" and incoming.answer_to_ignore():
                incoming.answer_to_ignore(-1)
                self._late.notify_all()
            elif (answer := self._waiting.pop(head, None)) is not None:
                answer.put(frame)
                return
        if self._protocol.tells_first("late answer"):
            text = "%s: an answer that nobody waits for (any more) is dropped: %r"
            _log.debug(text, self._process, head[:40])

    # ------------------------------------------------------------------------------- for any thread

    @property
    def waiting(self) -> int:
        """How many threads wait for an answer."""
        return len(self._waiting)

    def notify(self, request: HttpServerRequest, mode: WebSocketProcessNotifyCallback) -> int:
        """Do what :meth:`WebSocketProcess.notify_callback` says."""
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
            return self._ask(request) if self._protocol.sequencing else self._ask_in_turn(request)
        return (
            HTTP_SUCCESS
            if sent
            else _no_answer(request, HTTP_CLIENTERROR, "not connected, or the queue is full")
        )

    def _check_thread(self) -> None:
        process = self._process
        if process.runs_loop() or current_thread() is process.owner_thread:
            raise WebSocketsError(
                "a request that waits for its answer inside a callback of the same "
                "connection would wait for ever: this thread, "
                f"{current_thread().name!r}, is the one that reads the answer. Send it from "
                "another thread, or without waiting "
                f"(Sec-WebSocket-REST: NonBlocking, non_blocking=True); see docs/how-to/rest.md"
            )

    def _ask_in_turn(self, request: HttpServerRequest) -> int:
        """Send and wait where answers carry no number: one request at a time, so that each gets its
        own.

        Answers do come in the order of the requests, but some never come: a peer may answer with
        ``!NORESPONSE``, or drop what it cannot read. If several requests were on their way, each
        later one would then get its neighbour's answer. Sending them one by one costs the time on
        the wire only: the peer's one thread works on them one by one anyway.
        """
        timeout = self._timeout_ms()
        if not self._turns.acquire(timeout / 1000):
            why = f"other requests kept the connection busy for {timeout} ms"
            return _no_answer(request, HTTP_CLIENTERROR, why, timed_out=True)
        try:
            if self.incoming.answer_to_ignore() and not self._late_answers_came():
                why = "the answer to an earlier request is still missing"
                return _no_answer(request, HTTP_CLIENTERROR, why, timed_out=True)
            return self._ask(request)
        finally:
            self._turns.release()

    def _late_answers_came(self) -> bool:
        """Wait until nothing is left that the next answer could be mistaken for."""
        process = self._process
        with self._late:
            return self._late.wait_for(
                lambda: not self.incoming.answer_to_ignore() or process.state is not wpsRun,
                LATE_ANSWER_TIMEOUT_MS / 1000,
            )

    def _ask(self, request: HttpServerRequest) -> int:
        """Send *request*, wait for its answer, and return its status."""
        process = self._process
        frame, head = self._protocol.input_to_frame(request, False)
        answer: SimpleQueue[WebSocketFrame | None] = SimpleQueue()
        timeout = self._timeout_ms()
        # compression takes its time: others may send meanwhile
        ahead = process.prepare_ahead(frame)
        received: WebSocketFrame | None = None
        sent = False
        failures: list[BaseException] = []
        expected = True  # until we know better: a send may be interrupted by Ctrl-C, too
        try:
            with self._safe_send:
                if process.exchange is not self:  # another protocol took over, on a new connection
                    return _no_answer(
                        request, HTTP_CLIENTERROR, "the connection has another protocol now"
                    )
                with self._safe:
                    self._waiting[head] = answer
                expected = sent = process.sender.send(frame, ahead, failures=failures)
            if sent:
                received = answer.get(timeout=timeout / 1000)
        except Empty:
            pass  # looked at below, under the lock
        finally:
            # only now, without a lock
            for failure in failures:
                process.write_failed(failure)
            if sent and process.settings.log_details:
                log_frame(process, "sent", frame)
            with self._safe:
                missing = self._waiting.get(head) is answer
                if missing:
                    del self._waiting[head]
                    if expected and not self._protocol.sequencing:
                        self.incoming.answer_to_ignore(1)
        if not sent:
            return _no_answer(request, HTTP_CLIENTERROR, "not connected")
        if missing:
            return _no_answer(
                request, HTTP_NOTFOUND, f"no answer within {timeout} ms", timed_out=True
            )
        if received is None and not answer.empty():
            received = answer.get_nowait()  # it came in the very moment of giving up
        if received is None:
            return _no_answer(
                request,
                HTTP_NOTFOUND,
                f"the connection was lost before the answer came{self._why()}",
            )
        return self._protocol.frame_to_output(received, request)

    def _why(self) -> str:
        """Return what is known of the end of the connection, behind a colon; '' when it is
        nothing. A wrong key shows here.
        """
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
