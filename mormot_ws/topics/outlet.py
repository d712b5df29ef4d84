"""Outlet: decides which messages a topics client sends, in which order and on which connection.

Messages are sent through the connection's queue, so no caller waits for the server. What is queued
when a connection breaks is dropped, because everything that matters is sent again on the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from time import monotonic

from ..core.frames import WebSocketFrame, focText
from ..logs import get_logger
from ..process.process import WebSocketProcess
from . import wire
from .publishing import Publishing, Unacknowledged

_log = get_logger("mormot_ws.topics")

#: the maximum number of publications in flight, until the server has sent its limit
_WINDOW = 64
#: the maximum bytes of publications in flight
_WINDOW_BYTES = 1 << 20
#: with at most this many publications in flight, messages are not collected before sending
_FEW = 4
#: seconds after which a full queue is tried again
_QUEUE_RETRY = 0.05
#: seconds that a new connection waits for a thread that is queueing for the previous one
_IDLE_SECONDS = 5.0


class Outlet:
    """Sends the messages of one client, across all of its connections.

    :param safe: the client's lock, which guards all fields here too.
    :param most: the maximum number of unanswered publications; 0: no limit.
    :param most_bytes: the maximum bytes of their data; 0: no limit.
    :param drop_oldest: when a limit is reached, drop the oldest instead of refusing the new one.

    Methods that say so are called with the lock held.
    """

    def __init__(
        self, safe: threading.RLock, most: int, most_bytes: int, drop_oldest: bool
    ) -> None:
        self._safe = safe
        #: notified when no thread is queueing
        self._idle = threading.Condition(safe)
        self._most = most
        self._most_bytes = most_bytes
        self._drop_oldest = drop_oldest
        #: the connection; None while there is none
        self.process: WebSocketProcess | None = None
        #: counts the connections, so that timers of earlier connections do nothing
        self.number = 0
        #: there will be no further connection
        self.over = False
        #: the unanswered publications
        self.kept = Unacknowledged()
        #: how many of them may be in flight
        self._window = _WINDOW
        #: the maximum bytes of a publication's data on the server; 0: unlimited or unknown
        self._payload = 0
        #: messages other than publications to be sent on this connection
        self._controls: deque[str] = deque()
        #: the thread that is queueing messages, which takes new ones too; 0: none
        self._queueing = 0
        #: the server wants a pause before further publications
        self._held = False

    def die_in_child(self, safe: threading.RLock) -> None:
        """In a forked child: do nothing more. The connection belongs to the parent."""
        self._safe, self._idle = safe, threading.Condition(safe)
        self.process, self.over, self._queueing = None, True, 0
        self.kept = Unacknowledged()

    # ---------------------------------------------------------------------------- the connections

    def begin(
        self, process: WebSocketProcess, controls: Callable[[], list[str]]
    ) -> list[Publishing]:
        """Send *controls*, then the unanswered publications, on a new connection.

        *controls* is called with the lock held. Returns the publications that the server does not
        accept: they would end one connection after another.
        """
        with self._safe:
            # what another thread took for the previous connection must not precede the hello
            self._idle.wait_for(lambda: not self._queueing, _IDLE_SECONDS)
            self._queueing = 0
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
        """Send nothing until the next connection. Called with the lock held."""
        self.process = None
        self._controls.clear()

    def end_all(self) -> list[Publishing]:
        """Stop sending; return the unanswered publications."""
        with self._safe:
            self.over = True
            self.end()
            return self.kept.clear()

    # ------------------------------------------------------------------------------------- sending

    def allow(self, window: int, payload: int) -> None:
        """Limit the publications in flight to *window* (0: unchanged), and their data to *payload*.

        *payload* is in bytes; 0: no limit. Called with the lock held.
        """
        if window > 0:
            self._window = window
        self._payload = payload

    def refuses(self, publishing: Publishing) -> str:
        """Return why the server would not accept a publication; '' if it may."""
        most = self._payload
        if not 0 < most < publishing.size:
            return ""
        return f"the data has {publishing.size} bytes; at most {most} are allowed"

    def add(self, text: str) -> None:
        """Send a message on this connection, if there is one.

        Called with the lock held; :meth:`queue` must follow without it.
        """
        if self.process is not None:
            self._controls.append(text)

    def keep(self, publishing: Publishing, dropped: list[Publishing]) -> str:
        """Send a publication now or later; return '', or why not.

        Those that it replaces are moved to *dropped*. Called with the lock held; :meth:`queue` must
        follow without it.
        """
        kept, size = self.kept, publishing.size
        if self._most_bytes and size > self._most_bytes:
            return f"{size} bytes exceed max_unacknowledged_bytes, which is {self._most_bytes}"
        while (self._most and len(kept) >= self._most) or (
            self._most_bytes and kept.bytes + size > self._most_bytes
        ):
            oldest = kept.oldest() if self._drop_oldest else None
            if oldest is None:
                return "too many unanswered publications"
            dropped.append(oldest)
        kept.append(publishing)
        return ""

    def answered(self, sequence: int) -> Publishing | None:
        """Return the answered publication, and send further ones in its place."""
        with self._safe:
            publishing = self.kept.answered(sequence)
        self.queue()
        return publishing

    def pause(self, process: WebSocketProcess, retry_ms: int) -> None:
        """Send no publications for some time, then all unanswered ones again."""
        with self._safe:
            if self._held:
                # there is a timer already
                return
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
        """Queue on the connection what may be sent now. Never waits."""
        process: WebSocketProcess | None = None
        thread = get_ident()
        try:
            with self._safe:
                if self._queueing:
                    # that thread finds the new message
                    return
                self._queueing = thread
            while True:
                taken = self._take()
                if taken is None:
                    break
                process, text, publishing = taken
                if not process.send_frame_async(WebSocketFrame(focText, text)):
                    self._put_back(process, publishing)
                    return
                if publishing is None:
                    self._remove(text)
        except BaseException:
            # a signal handler may raise anywhere
            self._interrupted()
            raise
        finally:
            # otherwise another thread may now be queueing
            if self._queueing == thread:
                with self._safe:
                    self._queueing = 0
                    self._idle.notify_all()
        if process is not None and self.kept.on_way <= _FEW:
            process.sender.flush_at_once()

    def _take(self) -> tuple[WebSocketProcess, str, Publishing | None] | None:
        """Return what to send next; None, and stop queueing, when there is nothing.

        Both happen under one lock: a message added later is queued by the thread that adds it. A
        message that is no publication stays until :meth:`_remove`.
        """
        with self._safe:
            process = self.process
            if process is not None:
                if self._controls:
                    return process, self._controls[0], None
                if not self._held:
                    publishing = self.kept.next(self._window, _WINDOW_BYTES)
                    if publishing is not None:
                        return process, publishing.text(), publishing
            self._queueing = 0
            self._idle.notify_all()
            return None

    def _remove(self, text: str) -> None:
        """Forget a message that is no publication and was queued."""
        with self._safe:
            # unless there is a new connection
            if self._controls and self._controls[0] is text:
                self._controls.popleft()

    def _interrupted(self) -> None:
        """Send again what may have been taken and not queued. The server knows what it has."""
        with self._safe:
            process = self.process
            self.kept.back()
        if process is not None:
            self.later(process, _QUEUE_RETRY, self.queue)

    def _put_back(self, process: WebSocketProcess, publishing: Publishing | None) -> None:
        """Retry later what a connection did not accept."""
        if publishing is not None:
            with self._safe:
                self.kept.back_one(publishing)
        if process.takes_messages:
            self.later(process, _QUEUE_RETRY, self.queue)

    def later(self, process: WebSocketProcess, seconds: float, action: Callable[[], None]) -> None:
        """Call *action* later in the keeper's thread, if the connection is still the same."""
        number = self.number

        def act() -> None:
            if self.number == number:
                action()

        try:
            process._keeper.call_at(monotonic() + seconds, act)
        except (OSError, RuntimeError) as exc:
            _log.error("%s: sending stops until the next connection: %s", process, exc)
