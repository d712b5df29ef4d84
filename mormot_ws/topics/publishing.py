"""Publishing: the state of a client's publication, and the list of unanswered publications.

This module uses no connections and no sockets.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

from ..callbacks import Ignored
from ..errors import WebSocketsError
from ..logs import get_logger
from . import wire

_log = get_logger("mormot_ws.topics")

PublishingState = Literal["waiting", "acknowledged", "refused", "failed"]
OnDone = Callable[["Publishing"], Ignored]


class Publishing:
    """A publication of a client and its state.

    Returned by :meth:`WebSocketProtocolTopics.publish`. Any thread may use it.
    """

    __slots__ = (
        "_event",
        "_in_own_thread",
        "_on_done",
        "_safe",
        "code",
        "epoch",
        "json",
        "offset",
        "reason",
        "repeated",
        "sequence",
        "size",
        "state",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        sequence: int,
        json: str,
        on_done: OnDone | None,
        in_own_thread: Callable[[], bool],
    ) -> None:
        self.topic = topic
        #: its number in the session of the client
        self.sequence = sequence
        #: the data as JSON text
        self.json = json
        #: its size in bytes, as counted in limits
        self.size = len(json) if json.isascii() else len(json.encode())
        #: ``'waiting'``; ``'acknowledged'``: the hub has it; ``'refused'`` by the server;
        #: ``'failed'``: there will be no answer, and it is unknown whether it was published
        self.state: PublishingState = "waiting"
        #: why it was refused or failed
        self.reason = ""
        #: the code of the refusal, see :doc:`/reference/topics-protocol`
        self.code = ""
        #: the number assigned by the hub, when it is acknowledged
        self.offset = 0
        self.epoch = ""
        #: True: the hub already had it from an earlier attempt
        self.repeated = False
        self._on_done = on_done
        self._in_own_thread = in_own_thread
        #: guards the creation of _event
        self._safe = threading.RLock()
        self._event: threading.Event | None = None

    def text(self) -> str:
        """Return the message that publishes the data."""
        return wire.publish(self.topic, self.sequence, self.json)

    @property
    def done(self) -> bool:
        """True once it is acknowledged, refused or failed."""
        return self.state != "waiting"

    def wait(self, timeout_ms: float | None = None) -> bool:
        """Wait until it is done; return True if it is acknowledged.

        :param timeout_ms: the maximum time to wait, in milliseconds; None: no limit.

        Raises :class:`WebSocketsError` in a callback of the same client, because the same thread
        would have to read the answer.
        """
        if not self.done:
            if self._in_own_thread():
                raise WebSocketsError(
                    "wait() would deadlock in a callback of the same client: pass on_done to"
                    " publish() instead"
                )
            with self._safe:
                if self._event is None:
                    self._event = threading.Event()
            # it may have been done before the event existed
            if not self.done:
                self._event.wait(None if timeout_ms is None else timeout_ms / 1000)
        return self.state == "acknowledged"

    def finish(
        self,
        state: PublishingState,
        reason: str = "",
        code: str = "",
        offset: int = 0,
        epoch: str = "",
        repeated: bool = False,
    ) -> None:
        """Record the result and wake waiting threads. For the package; called without a lock."""
        if self.done:
            return
        self.reason, self.code = reason, code
        self.offset, self.epoch, self.repeated = offset, epoch, repeated
        self.state = state
        with self._safe:
            event = self._event
        if event is not None:
            event.set()
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            try:
                on_done(self)
            except BaseException:
                if threading.current_thread() is threading.main_thread():
                    # Ctrl-C in a publish() that fails at once
                    raise
                _log.exception("on_done failed for a publication on %r", self.topic)

    def __repr__(self) -> str:
        why = f" {self.reason!r}" if self.reason else ""
        return f"<Publishing {self.topic!r} seq={self.sequence} {self.state}{why}>"


class Unacknowledged:
    """A client's unanswered publications in order: those in flight, then those that wait.

    It has no lock; its owner has one.
    """

    __slots__ = ("_on_way", "_on_way_bytes", "_waiting", "bytes")

    def __init__(self) -> None:
        self._on_way: dict[int, Publishing] = {}
        self._on_way_bytes = 0
        self._waiting: deque[Publishing] = deque()
        #: bytes of all publications
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._on_way) + len(self._waiting)

    def __iter__(self) -> Iterator[Publishing]:
        yield from self._on_way.values()
        yield from self._waiting

    @property
    def on_way(self) -> int:
        """How many are in flight."""
        return len(self._on_way)

    def append(self, publishing: Publishing) -> None:
        """Add a publication."""
        self.bytes += publishing.size
        self._waiting.append(publishing)

    def next(self, window: int, most_bytes: int) -> Publishing | None:
        """Return the next publication that may be sent, which is then in flight.

        At most *window* are in flight, with at most *most_bytes*, but always at least one.
        """
        if not self._waiting or len(self._on_way) >= window:
            return None
        publishing = self._waiting[0]
        if self._on_way and self._on_way_bytes + publishing.size > most_bytes:
            return None
        del self._waiting[0]
        self._on_way[publishing.sequence] = publishing
        self._on_way_bytes += publishing.size
        return publishing

    def answered(self, sequence: int) -> Publishing | None:
        """Remove and return the publication in flight with that number."""
        publishing = self._on_way.pop(sequence, None)
        if publishing is not None:
            self._on_way_bytes -= publishing.size
            self.bytes -= publishing.size
        return publishing

    def back(self) -> None:
        """Put all publications in flight back in front, to be sent again."""
        self._waiting.extendleft(reversed(self._on_way.values()))
        self._on_way.clear()
        self._on_way_bytes = 0

    def back_one(self, publishing: Publishing) -> None:
        """Put the last publication that :meth:`next` returned back in front."""
        if self._on_way.pop(publishing.sequence, None) is not None:
            self._on_way_bytes -= publishing.size
            self._waiting.appendleft(publishing)

    def remove(self, refuses: Callable[[Publishing], str]) -> list[Publishing]:
        """Remove and return the waiting publications for which *refuses* returns a reason."""
        found = [publishing for publishing in self._waiting if refuses(publishing)]
        for publishing in found:
            self._waiting.remove(publishing)
            self.bytes -= publishing.size
        return found

    def oldest(self) -> Publishing | None:
        """Remove and return the oldest publication."""
        if self._on_way:
            return self.answered(next(iter(self._on_way)))
        if not self._waiting:
            return None
        publishing = self._waiting.popleft()
        self.bytes -= publishing.size
        return publishing

    def clear(self) -> list[Publishing]:
        """Remove and return all publications."""
        found: list[Any] = list(self)
        self._on_way.clear()
        self._waiting.clear()
        self._on_way_bytes = self.bytes = 0
        return found
