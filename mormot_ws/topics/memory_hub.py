"""MemoryHub: a hub in the memory of one OS process, without threads or sockets."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from json import loads
from threading import get_ident
from time import monotonic
from typing import Any, ClassVar

from ..attributes import IS_INT
from ..core.forks import dies_in_child
from ..errors import HubFull, HubUnavailable
from ..sockets.deadline import Deadline
from .hub import (
    History,
    Hub,
    HubStatus,
    Lost,
    OnPublication,
    Position,
    Published,
    check_json,
    check_name,
    check_repeat,
    check_since,
    check_subscriber,
    encode_json,
    is_from,
)
from .memory_topic import MemoryTopic

#: the minimum number of publications kept for slow subscribers of a topic; they lose any others
_LEAST_WAITING = 1_000
#: how many topics are checked for expired data when a new topic is created
_LOOKED_AT = 4
#: … or when a topic had this many publications
_LOOK_EVERY = 8
#: … when the number of topics has reached its limit
_LOOKED_AT_FULL = 100
#: milliseconds after which publishers no longer wait for subscribers that do not return
_LONGEST_STANDSTILL = 1_000


class MemoryHub(Hub):
    """A hub in the memory of one OS process. Its topics end with the process.

    It has no thread. A publication is delivered in the publishing thread. If another thread is
    delivering an earlier publication of the same topic, that thread delivers the new one as well,
    so :meth:`publish` does not wait in a callback.

    When more than 500 publications of a topic wait for delivery, publishers wait too, unless they
    are callbacks of subscribers. After one second they no longer wait for a subscriber that has not
    returned. Up to 1 000 publications, or ``history_count`` if that is more, are kept for it until
    it returns; it loses any further ones and gets :class:`Lost`.

    :param max_topics: the maximum number of topics; creating another one raises :class:`HubFull`.

    The other parameters are those of :class:`Hub`.
    """

    _CHECKS: ClassVar = {"max_topics": is_from(1, IS_INT)}

    def __init__(
        self,
        history_count: int = 1_000,
        history_age: float = 300_000,
        window_count: int = 10_000,
        window_age: float = 300_000,
        topic_age: float = 86_400_000,
        timeout: float = 4_000,
        max_topics: int = 100_000,
    ) -> None:
        super().__init__(history_count, history_age, window_count, window_age, topic_age, timeout)
        self.max_topics = max_topics
        #: guards the tables below and all topics. While it is held, nothing is called and no other
        #: lock is taken. Reentrant for signal handlers
        self._safe = threading.RLock()
        #: notified when a thread has delivered publications and another one waits for that
        self._room = threading.Condition(self._safe)
        #: not empty while a publication is being numbered. Another one in the same thread, made by
        #: what interrupted it, would break the order
        self._inside: list[object] = []
        #: the threads that are calling subscribers now, or wait for that, each with what represents
        #: its first call of publish(): a callback may publish, even on other topics
        self._delivering: dict[int, object] = {}
        #: in the order in which they are checked for expired data
        self._topics: OrderedDict[str, MemoryTopic] = OrderedDict()
        self._freed = False
        #: counters for the status
        self._counts = {"published": 0, "repeated": 0, "delivered": 0, "lost": 0}
        dies_in_child(self)

    def publish(
        self, topic: str, data: object, *, session: str = "", sequence: int = 0
    ) -> Published:
        return self._publish(topic, encode_json(data), session, sequence)

    def publish_json(
        self, topic: str, json: str, *, session: str = "", sequence: int = 0
    ) -> Published:
        check_json(json)
        return self._publish(topic, json, session, sequence)

    def _publish(self, topic: str, json: str, session: str, sequence: int) -> Published:
        """Publish JSON text that has been checked."""
        if session != "" or sequence != 0:
            check_repeat(session, sequence)
        found: MemoryTopic | None = None
        # represents this call while it delivers publications
        mine = object()
        try:
            with self._safe:
                if self._inside:
                    raise HubUnavailable(
                        "publish() was interrupted by a signal handler or finaliser"
                        " that publishes too: publish in a thread instead"
                    )
                try:
                    self._inside.append(mine)
                    now = monotonic()
                    found = self._topic(topic, now)
                    if found.numbering:
                        found.forget_interrupted()
                    if session:
                        found.trim(now, self.history_age / 1000, self.window_age / 1000)
                        again = found.recall((session, sequence))
                        if again is not None:
                            self._counts["repeated"] += 1
                            return again
                    publication = found.add(json, now, self.history_count, self.history_age / 1000)
                    if session:
                        name = session, sequence
                        found.remember(name, publication.offset, now, self.window_count)
                    heard = bool(found.subscriptions)
                    if heard:
                        found.begin_delivery(
                            publication, mine, max(_LEAST_WAITING, self.history_count)
                        )
                        if found.delivering is mine:
                            self._delivering.setdefault(get_ident(), mine)
                    found.number(publication)
                    self._counts["published"] += 1
                    if not publication.offset % _LOOK_EVERY:
                        # in turn, so that unused topics are forgotten too
                        self._look_at_some(now, _LOOKED_AT, False)
                    if not heard:
                        return Published(publication.offset, publication.epoch)
                finally:
                    self._inside.clear()
                if found.delivering is not mine and found.is_crowded:
                    self._wait_for_room(found, mine)
            if found.delivering is mine:
                self._deliver(found, mine)
        finally:
            # left over if a signal handler has raised in the other ``finally``
            if self._inside and self._inside[0] is mine:
                self._inside.clear()
            if self._delivering.get(get_ident()) is mine:
                del self._delivering[get_ident()]
            if found is not None and found.end_delivery(mine):
                # a signal handler has raised: another call takes over, at the latest the next one
                with self._safe:
                    self._room.notify_all()
        return Published(publication.offset, publication.epoch)

    def _topic(self, name: str, now: float) -> MemoryTopic:
        """Return the topic, and create it if necessary. Called with the lock held."""
        if self._freed:
            raise HubUnavailable("the hub was freed")
        topic = self._topics.get(name) if isinstance(name, str) else None
        if topic is not None and now - topic.used_at >= self.topic_age / 1000 and not topic.is_used:
            self._topics.pop(name, None)
            topic = None
        if topic is None:
            check_name("topic", name)
            self._look_for_old(now, name)
            # in one step: a signal handler may publish on it
            topic = self._topics.setdefault(name, MemoryTopic(name, now))
        topic.use(now)
        return topic

    def _look_for_old(self, now: float, name: str) -> None:
        """Check some topics for expired data; raise ``HubFull`` if there are too many topics."""
        is_full = len(self._topics) >= self.max_topics
        self._look_at_some(now, _LOOKED_AT_FULL if is_full else _LOOKED_AT, is_full)
        if len(self._topics) >= self.max_topics:
            raise HubFull(f"no room for {name!r}: there are {len(self._topics)} topics")

    def _look_at_some(self, now: float, count: int, is_full: bool) -> None:
        """Forget expired data of the topics whose turn it is, and expired topics."""
        for _ in range(min(count, len(self._topics))):
            # it stays in the table: a signal handler may raise anywhere
            try:
                name, topic = next(iter(self._topics.items()))
            except (RuntimeError, StopIteration):
                # one has published on a new topic, and has looked at some
                return
            topic.trim(now, self.history_age / 1000, self.window_age / 1000)
            # when there is no room, a topic without kept data can be forgotten
            is_old = now - topic.used_at >= self.topic_age / 1000 or (
                is_full and not topic.history and not topic.seen
            )
            if topic.is_used or not is_old:
                with contextlib.suppress(KeyError):
                    self._topics.move_to_end(name)
            else:
                self._topics.pop(name, None)

    def _wait_for_room(self, topic: MemoryTopic, mine: object) -> None:
        """Wait until fewer publications of *topic* wait, or it is this call's turn to deliver them.

        Called with the lock held, which is released while waiting.
        """
        if get_ident() in self._delivering:
            # this is a callback, for which others wait
            return
        # nor do others for what a signal handler publishes in this thread from now on
        self._delivering[get_ident()] = mine
        deadline = Deadline(min(self.timeout, _LONGEST_STANDSTILL))
        in_time = True
        try:
            topic.begin_waiting(mine)
            while topic.is_crowded and in_time:
                in_time = self._room.wait(deadline.seconds())
        finally:
            topic.end_waiting(mine, in_time)

    def _deliver(self, topic: MemoryTopic, mine: object) -> None:
        """Call the subscriptions of *topic* until no publication waits."""
        raised: BaseException | None = None
        counts, safe = self._counts, self._safe
        delivered = delivered_to = 0
        try:
            while True:
                with safe:
                    found = topic.next_delivery(mine, delivered, delivered_to)
                    if topic.publishers_waiting and topic.has_room:
                        self._room.notify_all()
                    if found is None:
                        break
                    heard, subscriptions = found
                    lost = isinstance(heard[0], Lost)
                    counts["lost"] += lost * len(subscriptions)
                    counts["delivered"] += (len(heard) - lost) * len(subscriptions)
                delivered += len(heard)
                for each in heard:
                    offset = each.position.offset
                    for subscription in subscriptions:
                        if subscription.after < offset:
                            raised = subscription.call(each, offset) or raised
                delivered_to = heard[-1].position.offset
        finally:
            if self._delivering.get(get_ident()) is mine:
                del self._delivering[get_ident()]
        if raised is not None:
            raise raised

    def history(self, topic: str, since: Position | None = None, limit: int = 0) -> History:
        check_since(since, limit)
        now = monotonic()
        with self._safe:
            found = self._topic(topic, now)
            found.trim(now, self.history_age / 1000, self.window_age / 1000)
            return found.since(since, limit)

    def subscribe(
        self, topic: str, callback: OnPublication, since: Position | None = None
    ) -> History:
        check_subscriber(callback)
        check_since(since)
        now = monotonic()
        with self._safe:
            found = self._topic(topic, now)
            found.trim(now, self.history_age / 1000, self.window_age / 1000)
            return found.subscribe(callback, since)

    def unsubscribe(self, topic: str, callback: OnPublication) -> bool:
        check_name("topic", topic)
        with self._safe:
            found = self._topics.get(topic)
            if found is None:
                return False
            ended = found.unsubscribe(callback)
        for subscription in ended:
            subscription.end(self.timeout / 1000)
        return bool(ended)

    def join(self, topic: str, member: str, info: object = None) -> None:
        check_name("member", member)
        json = encode_json(info)
        with self._safe:
            self._topic(topic, monotonic()).members[member] = json

    def leave(self, topic: str, member: str) -> bool:
        check_name("topic", topic)
        check_name("member", member)
        with self._safe:
            found = self._topics.get(topic)
            return found is not None and found.members.pop(member, None) is not None

    def members(self, topic: str) -> dict[str, Any]:
        check_name("topic", topic)
        with self._safe:
            if self._freed:
                raise HubUnavailable("the hub was freed")
            found = self._topics.get(topic)
            members = {} if found is None else dict(found.members)
        return {member: loads(json) for member, json in members.items()}

    def count(self, topic: str) -> int:
        check_name("topic", topic)
        with self._safe:
            if self._freed:
                raise HubUnavailable("the hub was freed")
            found = self._topics.get(topic)
            return 0 if found is None else len(found.members)

    def status(self) -> HubStatus:
        with self._safe:
            topics = list(self._topics.values())
        return HubStatus(
            connected=not self._freed,
            topics=len(topics),
            subscribers=sum(len(topic.subscriptions) for topic in topics),
            members=sum(len(topic.members) for topic in topics),
            published=self._counts["published"],
            repeated=self._counts["repeated"],
            delivered=self._counts["delivered"],
            lost=self._counts["lost"],
            reconnects=0,
            kept=sum(len(topic.history) for topic in topics),
            last_error="",
        )

    def wait_connected(self, timeout_ms: float | None = None) -> bool:
        return not self._freed

    def free(self) -> None:
        with self._safe:
            self._freed = True
            topics = list(self._topics.values())
            self._topics.clear()
            ended = [each for topic in topics for each in topic.unsubscribe(None)]
        deadline = Deadline(self.timeout)
        for subscription in ended:
            subscription.end(deadline.seconds() or 0)

    def die_in_child(self) -> None:
        """In a forked child: start afresh. The numbering continues in the parent."""
        self._safe = threading.RLock()
        self._room = threading.Condition(self._safe)
        self._delivering = {}
        self._inside = []
        topics, self._topics = self._topics, OrderedDict()
        # a copy made in one step: another thread of the parent may have been changing them
        for topic in list(topics.values()):
            topic.die_in_child()

    def __repr__(self) -> str:
        ended = ", freed" if self._freed else ""
        return f"MemoryHub(<{len(self._topics)} topics{ended}>)"
