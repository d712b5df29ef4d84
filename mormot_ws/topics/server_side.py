"""TopicServer: what a server's connections share: feeds, sessions, limits and counters.

The messages of each connection are handled in ``visitor.py``.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..core.forks import dies_in_child
from ..errors import HubError
from ..logs import LOG_SECONDS, SeldomLog, get_logger
from . import wire
from .feed import Feed, Member
from .hub import History, Hub, Position, check_name
from .limits import TopicLimits
from .presence import Presence

if TYPE_CHECKING:
    from .visitor import Visitor

_log = get_logger("mormot_ws.topics")

#: the maximum and minimum number of publications requested from the hub at once, for a client that
#: has missed some
_CHUNK = 500
_LEAST_CHUNK = 4


@dataclass(frozen=True)
class TopicsStatus:
    """A snapshot of a server's topics in this OS process."""

    #: topics with subscribers
    topics: int
    #: connections that have sent ``hello``
    sessions: int
    #: subscriptions of all connections
    subscriptions: int
    #: publications of clients: accepted by the hub, …
    published: int
    #: … already known to it, …
    repeated: int
    #: … and refused for good
    refused: int
    #: publications and ``sub`` for which the hub was not available
    unavailable: int
    #: publications queued for subscribers, including those that they had missed
    delivered: int
    #: subscriptions that continued without a loss, and those that did not
    recovered: int
    unrecovered: int
    #: how often a slow client was skipped or closed
    slow: int
    #: connections ended by a newer one of the same session
    taken_over: int

    def as_dict(self) -> dict[str, Any]:
        """Return the values as a dictionary, e.g. for JSON."""
        return asdict(self)


class Counts:
    """Counters shared by several threads."""

    NAMES = (
        "published",
        "repeated",
        "refused",
        "unavailable",
        "delivered",
        "recovered",
        "unrecovered",
        "slow",
        "taken_over",
    )

    def __init__(self) -> None:
        #: guards the counters; nothing is called while it is held. Reentrant for signal handlers
        self._safe = threading.RLock()
        self._numbers: dict[str, int] = dict.fromkeys(self.NAMES, 0)

    def add(self, name: str, count: int = 1) -> None:
        """Add *count* to the counter *name*."""
        with self._safe:
            self._numbers[name] += count

    def all(self) -> dict[str, int]:
        """Return all counters."""
        with self._safe:
            return dict(self._numbers)


class Start:
    """The start of a subscription: the answer and the missed publications."""

    __slots__ = ("after", "missed", "more", "position", "reason", "recovered")

    def __init__(self, history: History, since: Position | None, most: int) -> None:
        #: the position sent to the client: the next publication follows it
        self.position = self.after = history.position
        self.recovered = history.recovered
        self.reason = history.reason
        #: the messages with the missed publications
        self.missed: list[str] = []
        #: True: there is more than fits, and the client has to ask again
        self.more = False
        if since is None or not history.publications:
            return
        first = history.publications[0]
        epoch = since.epoch if history.recovered else first.epoch
        self.position = Position(epoch, first.offset - 1)
        size = 0
        newest = history.position
        for publication in history.publications:
            topic, offset, own, json = publication
            size += len(json)
            if size > most and self.missed:
                break
            # the topic may have continued in another epoch after it
            own = newest.epoch if offset == newest.offset else own
            self.missed.append(wire.publication(topic, offset, json, own if own != epoch else ""))
            epoch = own
            self.after = Position(own, offset)
        self.more = self.after.offset < newest.offset


class TopicServer:
    """The topics of a server protocol, for all of its connections.

    All methods may be called from any thread.
    """

    def __init__(self, hub: Hub, limits: TopicLimits, presence: bool) -> None:
        self.hub = hub
        self.limits = limits
        #: whether subscribers may ask who else is subscribed
        self.shows_presence = presence
        self.presence = Presence(hub)
        self.counts = Counts()
        self.fault_log = SeldomLog(LOG_SECONDS)
        self._clear()
        dies_in_child(self)

    def _clear(self) -> None:
        #: guards the two tables; while it is held, only a feed's lock may be taken. Reentrant for
        #: signal handlers
        self._safe = threading.RLock()
        self._feeds: dict[str, Feed] = {}
        self._visitors: dict[str, Visitor] = {}

    def die_in_child(self) -> None:
        """In a forked child: forget the parent's connections."""
        self.counts = Counts()
        self.presence = Presence(self.hub)
        self._clear()

    # ------------------------------------------------------------------------------------- sessions

    def welcome(self, visitor: Visitor) -> Visitor | None:
        """Remember the visitor as the owner of its session; return the previous owner."""
        with self._safe:
            before = self._visitors.get(visitor.session)
            self._visitors[visitor.session] = visitor
        return before

    def forget(self, visitor: Visitor) -> None:
        """Forget a visitor whose connection has ended."""
        with self._safe:
            if self._visitors.get(visitor.session) is visitor:
                del self._visitors[visitor.session]

    # -------------------------------------------------------------------------------- subscriptions

    def topic_fault(self, topic: str) -> str:
        """Return why clients cannot use that topic, or ''."""
        if topic[:1] == "$":
            return "topics that begin with $ are reserved for the server"
        if len(topic) > self.limits.max_topic_length:
            return f"a topic must have at most {self.limits.max_topic_length} characters"
        try:
            check_name("a topic", topic)
        except ValueError as exc:
            return str(exc)
        return ""

    def join(self, visitor: Visitor, topic: str) -> tuple[Member, bool] | None:
        """Add a member to the feed of *topic*.

        Return the member, and whether it is the first one, which has to start the feed. None: the
        topic is full.
        """
        member = Member(visitor)
        while True:
            with self._safe:
                feed = self._feeds.get(topic)
                first = feed is None
                if feed is None:
                    feed = self._feeds[topic] = Feed(topic, self, self.limits.max_behind)
                added = feed.add(member, self.limits.max_clients)
                if added == "ended":
                    del self._feeds[topic]
                    continue
            return None if added else (member, first)

    def begin(self, member: Member, first: bool, since: Position | None) -> Start:
        """Find out how the subscription of *member* begins. Raises what the hub raises."""
        feed = member.feed
        assert feed is not None
        most = max(1, self.limits.max_behind // 2)
        if first:
            return Start(feed.start(since), since, most)
        # the hub's own time-out, plus some time for its thread
        feed.wait(self.hub.timeout / 1000 + 1)
        position = feed.position
        if position is not None and (since is None or since == position):
            return Start(History([], position), None, most)
        history = self.hub.history(feed.topic, since, self._chunk(feed, most))
        feed.sizes.note(history.publications)
        return Start(history, since, most)

    @staticmethod
    def _chunk(feed: Feed, most: int) -> int:
        """Return how many publications make up about *most* bytes; what does not fit is dropped."""
        return min(_CHUNK, max(_LEAST_CHUNK, round(1.5 * most / feed.sizes.mean)))

    def leave(self, member: Member) -> bool:
        """Remove *member* from its feed; return False if it had already been removed."""
        feed = member.feed
        assert feed is not None
        was_there, ended = feed.remove(member)
        if ended:
            with self._safe:
                if self._feeds.get(feed.topic) is feed:
                    del self._feeds[feed.topic]
            try:
                feed.stop()
            except HubError as exc:
                _log.debug("cannot unsubscribe from %r at the hub: %s", feed.topic, exc)
            # a bug in an application's hub; the visitor still has to leave its other topics
            except Exception:  # noqa: BLE001
                _log.exception("unsubscribing from %r failed at the hub", feed.topic)
        return was_there

    def drop(self, member: Member) -> None:
        """Undo :meth:`join` after :meth:`begin` raised, even if the feed has ended."""
        feed = member.feed
        assert feed is not None
        self.leave(member)
        with self._safe:
            if self._feeds.get(feed.topic) is feed and not len(feed):
                del self._feeds[feed.topic]

    def delivered(self, count: int) -> None:
        """Count publications that were queued for members."""
        if count:
            self.counts.add("delivered", count)

    def status(self) -> TopicsStatus:
        """Return a snapshot."""
        with self._safe:
            feeds = list(self._feeds.values())
            sessions = len(self._visitors)
        return TopicsStatus(
            topics=len(feeds),
            sessions=sessions,
            subscriptions=sum(len(feed) for feed in feeds),
            **self.counts.all(),
        )
