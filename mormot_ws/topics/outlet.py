"""Outlet: what a client of topics sends: which messages, in which order, on which connection.

Messages are sent through the connection's queue, so nobody waits for the server. What is queued
when a connection breaks is dropped, because all that matters is sent anew on the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from ..core.frames import WebSocketFrame, focText
from ..logs import get_logger
from ..process.process import WebSocketProcess
from . import wire
from .publishing import Publishing, Unacknowledged

_log = get_logger("mormot_ws.topics")

#: publications on the way, until the server tells how many there may be
_WINDOW = 64
#: bytes of publications on the way
_WINDOW_BYTES = 1 << 20
#: with at most so many publications on the way, messages are not gathered before they are sent
_FEW = 4
#: seconds after which a full queue is tried again
_QUEUE_RETRY = 0.05
#: seconds that a new connection waits for a thread that is queueing for the last one
_IDLE_SECONDS = 5.0


class Outlet:
    """Sends the messages of one client, over all of its connections.

    :param safe: the client's lock, which guards all fields here, too.
    :param most: how many publications may be without an answer; 0: any number.
    :param most_bytes: bytes of their data; 0: any number.
    :param drop_oldest: a full list drops its oldest instead of refusing the new one.

    Methods that say so are called with the lock.
    """

    def __init__(
        self, safe: threading.RLock, most: int, most_bytes: int, drop_oldest: bool
    ) -> None:
        self._safe = safe
        #: notified when no thread is queueing any more
        self._idle = threading.Condition(safe)
        self._most = most
        self._most_bytes = most_bytes
        self._drop_oldest = drop_oldest
        #: the connection; None while there is none
        self.process: WebSocketProcess | None = None
        #: counts the connections, so that timers of earlier ones do nothing
        self.number = 0
        #: there will be no other connection
        self.over = False
        #: the publications without an answer
        self.kept = Unacknowledged()
        #: how many of them may be on the way
        self._window = _WINDOW
        #: the most bytes of a publication's data that the server takes; 0: any, or not known
        self._payload = 0
        #: messages other than publications that are to be sent on this connection
        self._controls: deque[str] = deque()
        #: a thread is queueing messages; it takes the new ones, too
        self._queueing = False
        #: the server wants a pause before further publications
        self._held = False

    def die_in_child(self, safe: threading.RLock) -> None:
        """Do nothing more, in a forked child: the connection is the parent's."""
        self._safe, self._idle = safe, threading.Condition(safe)
        self.process, self.over, self._queueing = None, True, False
        self.kept = Unacknowledged()

    # ---------------------------------------------------------------------------- the connections

    def begin(
        self, process: WebSocketProcess, controls: Callable[[], list[str]]
    ) -> list[Publishing]:
        """Send *controls*, which are asked for under the lock, first on a new connection, then the
        publications without an answer.

        Returns those that the server does not take: they would end one connection after another.
        """
        with self._safe:
            # what another thread has taken for the last connection must not come before the hello
            self._idle.wait_for(lambda: not self._queueing, _IDLE_SECONDS)
            self._queueing = False
            process.outgoing.clear()
            self.number += 1
            self.over = self._held = False
            self._controls.clear()
            self._controls.extend(controls())
            self.kept.back()
            large = self.kept.remove(self.refuses) if self._payload else []
            self.process = process
        self.queue()
        return large

    def end(self) -> None:
        """Send nothing until the next connection. Called with the lock."""
        self.process = None
        self._controls.clear()

    def end_all(self) -> list[Publishing]:
        """Send nothing any more; return the publications that have no answer."""
        with self._safe:
            self.over = True
            self.end()
            return self.kept.clear()

    # -------------------------------------------------------------------------------- what is sent

    def allow(self, window: int, payload: int) -> None:
        """Have at most *window* publications on the way (0: as before), and none with more than
        *payload* bytes of data (0: any). Called with the lock.
        """
        if window > 0:
            self._window = window
        self._payload = payload

    def refuses(self, publishing: Publishing) -> str:
        """Return why the server would not take a publication; '' if it may."""
        most = self._payload
        if not 0 < most < publishing.size:
            return ""
        return f"the data has {publishing.size} bytes, and may have {most}"

    def add(self, text: str) -> None:
        """Send a message on this connection, if there is one. Called with the lock; :meth:`queue`
        follows without it.
        """
        if self.process is not None:
            self._controls.append(text)

    def keep(self, publishing: Publishing, dropped: list[Publishing]) -> str:
        """Send a publication now or later; return '', or why not. Those that it takes the place of
        are moved to *dropped*. Called with the lock; :meth:`queue` follows without it.
        """
        kept, size = self.kept, publishing.size
        if self._most_bytes and size > self._most_bytes:
            return f"a publication may have {self._most_bytes} bytes here, not {size}"
        while (self._most and len(kept) >= self._most) or (
            self._most_bytes and kept.bytes + size > self._most_bytes
        ):
            oldest = kept.oldest() if self._drop_oldest else None
            if oldest is None:
                return "too many publications without an answer"
            dropped.append(oldest)
        kept.append(publishing)
        return ""

    def answered(self, sequence: int) -> Publishing | None:
        """Return the publication that has an answer, and send further ones in its place."""
        with self._safe:
            publishing = self.kept.answered(sequence)
        self.queue()
        return publishing

    def pause(self, process: WebSocketProcess, retry_ms: int) -> None:
        """Send no publications for some time, then all without an answer again."""
        with self._safe:
            self._held = True
            self.kept.back()
        self.later(process, retry_ms / 1000, self._send_again)

    def _send_again(self) -> None:
        with self._safe:
            if not self._held:
                return
            self._held = False
            self.kept.back()
            self.add(wire.AGAIN)
        self.queue()

    def queue(self) -> None:
        """Queue on the connection what may be sent now. It never waits."""
        left = True
        process: WebSocketProcess | None = None
        # a signal handler may raise anywhere
        try:
            with self._safe:
                if self._queueing:
                    # that thread finds it
                    return
                left, self._queueing = False, True
            while True:
                taken = self._take()
                if taken is None:
                    # another thread may be queueing by now
                    left = True
                    break
                process, text, publishing = taken
                if not process.send_frame_async(WebSocketFrame(focText, text)):
                    self._put_back(process, text, publishing)
                    return
        finally:
            if not left:
                with self._safe:
                    self._queueing = False
                    self._idle.notify_all()
        if process is not None and self.kept.on_way <= _FEW:
            process.sender.flush_at_once()

    def _take(self) -> tuple[WebSocketProcess, str, Publishing | None] | None:
        """Return what is sent next; None, and leave the queueing to others, when there is nothing.

        Both under one lock: what is added after that is queued by the thread that adds it.
        """
        with self._safe:
            process = self.process
            if process is not None:
                if self._controls:
                    return process, self._controls.popleft(), None
                if not self._held:
                    publishing = self.kept.next(self._window, _WINDOW_BYTES)
                    if publishing is not None:
                        return process, publishing.text(), publishing
            self._queueing = False
            self._idle.notify_all()
            return None

    def _put_back(
        self, process: WebSocketProcess, text: str, publishing: Publishing | None
    ) -> None:
        """Try again later what a connection has not taken."""
        with self._safe:
            if publishing is not None:
                self.kept.back_one(publishing)
            elif process is self.process:
                self._controls.appendleft(text)
        if process.takes_messages:
            self.later(process, _QUEUE_RETRY, self.queue)

    def later(self, process: WebSocketProcess, seconds: float, action: Callable[[], None]) -> None:
        """Call *action* after some time, in the keeper's thread, if the connection is the same."""
        number = self.number

        def act() -> None:
            if self.number == number:
                action()

        try:
            process._keeper.call_at(monotonic() + seconds, act)
        except (OSError, RuntimeError) as exc:
            _log.error("%s: nothing is sent until the next connection: %s", process, exc)
