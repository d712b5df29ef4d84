"""A client's subscriptions: how far each has read its topic. No connection belongs in here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ..callbacks import Ignored
from .hub import Position, Publication

SubscriptionState = Literal["waiting", "subscribed", "refused", "ended"]


class ReceivedPublication(Publication):
    """A publication that a client has received: it is decoded already."""

    data: Any = None

    @classmethod
    def made(cls, topic: str, offset: int, epoch: str, json: str, data: Any) -> ReceivedPublication:
        """Return one with its *data*."""
        received = cls(topic, offset, epoch, json)
        received.data = data
        return received


class Recovery(NamedTuple):
    """How a client's subscription goes on after a loss of the connection."""

    topic: str
    #: True: everything that was missed comes now, in order, before what is new
    recovered: bool
    #: when not: ``'epoch'``: the server has lost its history; ``'trimmed'``: it does not reach back
    #: so far
    reason: str
    #: how many publications come now. When it was not recovered: what is still there
    missed: int
    #: the next publication comes behind it
    position: Position


OnPublication = Callable[[Publication], Ignored]
OnRecovered = Callable[[Recovery], Ignored]
OnRefused = Callable[["TopicSubscription"], Ignored]


class TopicSubscription:
    """A client's subscription to one topic, over all reconnections.

    :meth:`WebSocketProtocolTopics.subscribe` returns it. Any thread may read it.
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
        #: ``'waiting'`` for the server's answer, on the first connection or on a new one;
        #: ``'subscribed'``; ``'refused'`` by the server; ``'ended'`` by ``unsubscribe()``
        self.state: SubscriptionState = "waiting"
        #: why it was refused, in words
        self.reason = ""
        #: how far it has read the topic, with the publication whose callback is running; None:
        #: the server has not answered yet
        self.position: Position | None = since
        self.on_publication = on_publication
        self.on_recovered = on_recovered
        self.on_refused = on_refused
        #: the server was asked to begin at a position
        self.asked_since = False
        #: … and nothing but its own pause was between
        self.goes_on = False
        self._answered = threading.Event()

    def wait(self, timeout_ms: float | None = None) -> bool:
        """Wait until the server has answered for the first time; return True when it is subscribed.

        :param timeout_ms: the most milliseconds; None: as long as it takes.
        """
        self._answered.wait(None if timeout_ms is None else timeout_ms / 1000)
        return self.state == "subscribed"

    def asks(self, goes_on: bool) -> Position | None:
        """Wait for the server's answer from now on; return where it is asked to begin.

        *goes_on*: nothing but the server's own pause was between. For the package.
        """
        self.asked_since = self.position is not None
        self.goes_on = goes_on
        self.state = "waiting"
        return self.position

    def moved(self, position: Position) -> None:
        """Go on behind *position*, as the server says. For the package."""
        self.position = position

    def settle(self, state: SubscriptionState, reason: str = "") -> None:
        """Record the server's answer. For the package."""
        self.reason = reason
        self.state = state
        self._answered.set()

    def hears(self, epoch: str, offset: int) -> bool | None:
        """Tell whether a publication is the next one, and remember it; None: some are missing."""
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
