"""A client's subscriptions, and how far each has read its topic. Uses no connections."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ..callbacks import Ignored
from .hub import Position, Publication

SubscriptionState = Literal["waiting", "subscribed", "refused", "ended"]


class ReceivedPublication(Publication):
    """A publication that a client has received, already decoded."""

    data: Any = None

    @classmethod
    def made(cls, topic: str, offset: int, epoch: str, json: str, data: Any) -> ReceivedPublication:
        """Return a publication with its *data*."""
        received = cls(topic, offset, epoch, json)
        received.data = data
        return received


class Recovery(NamedTuple):
    """How a client's subscription continues after a lost connection."""

    topic: str
    #: True: everything that was missed follows now, in order, before new publications
    recovered: bool
    #: the reason if not recovered. ``'epoch'``: the server lost its history; ``'trimmed'``: the
    #: history does not reach back far enough
    reason: str
    #: how many publications follow now; if not recovered, those that are still kept
    missed: int
    #: the next publication follows this position
    position: Position


OnPublication = Callable[[Publication], Ignored]
OnRecovered = Callable[[Recovery], Ignored]
OnRefused = Callable[["TopicSubscription"], Ignored]


class TopicSubscription:
    """A client's subscription to a topic, across all reconnections.

    Returned by :meth:`WebSocketProtocolTopics.subscribe`. Any thread may read it.
    """

    __slots__ = (
        "_answered",
        "asked_since",
        "goes_on",
        "on_publication",
        "on_recovered",
        "on_refused",
        "position",
        "reason",
        "state",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        on_publication: OnPublication,
        since: Position | None,
        on_recovered: OnRecovered | None,
        on_refused: OnRefused | None,
    ) -> None:
        self.topic = topic
        #: ``'waiting'`` for the server's answer, on the first or on a new connection;
        #: ``'subscribed'``; ``'refused'`` by the server; ``'ended'`` by ``unsubscribe()``
        self.state: SubscriptionState = "waiting"
        #: why it was refused
        self.reason = ""
        #: how far it has read the topic, including the publication whose callback is running; None:
        #: the server has not answered yet
        self.position: Position | None = since
        self.on_publication = on_publication
        self.on_recovered = on_recovered
        self.on_refused = on_refused
        #: True: the server was asked to begin at a position
        self.asked_since = False
        #: … and there was only the server's own pause in between
        self.goes_on = False
        self._answered = threading.Event()

    def wait(self, timeout_ms: float | None = None) -> bool:
        """Wait for the server's first answer; return True if subscribed.

        :param timeout_ms: the maximum time to wait, in milliseconds; None: no limit.
        """
        self._answered.wait(None if timeout_ms is None else timeout_ms / 1000)
        return self.state == "subscribed"

    def asks(self, goes_on: bool) -> Position | None:
        """Start to wait for the server's answer; return where it is asked to begin.

        *goes_on*: there was only the server's own pause in between. For the package.
        """
        self.asked_since = self.position is not None
        self.goes_on = goes_on
        self.state = "waiting"
        return self.position

    def moved(self, position: Position) -> None:
        """Continue after *position*, as the server says. For the package."""
        self.position = position

    def settle(self, state: SubscriptionState, reason: str = "") -> None:
        """Record the server's answer. For the package."""
        self.reason = reason
        self.state = state
        self._answered.set()

    def hears(self, epoch: str, offset: int) -> bool | None:
        """Return whether a publication is the next one, and remember it; None: some are missing."""
        position = self.position
        if position is None or self.state != "subscribed":
            return False
        if offset == position.offset + 1:
            self.position = Position(epoch or position.epoch, offset)
            return True
        if epoch in ("", position.epoch) and offset <= position.offset:
            return False
        return None

    def __repr__(self) -> str:
        return f"<TopicSubscription {self.topic!r} {self.state} {self.position}>"
