"""RedisFeeds: how far each topic has been read from Redis, and its subscribers.

The thread that listens to Redis passes messages to :meth:`RedisFeeds.take`, and missed publications
to :meth:`RedisFeeds.take_history`. This module uses no connections and calls no callbacks.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice
from typing import Any, NamedTuple

from .hub import EPOCH, Heard, History, Lost, OnPublication, Position, Publication
from .redis_scripts import Keys, keys_of
from .subscription import Subscription


class RedisFeed:
    """A topic that the hub listens to. The lock of :class:`RedisFeeds` guards all of it."""

    __slots__ = ("behind", "heard", "held", "is_new", "keys", "read_to", "subscriptions", "topic")

    def __init__(self, topic: str, keys: Keys) -> None:
        self.topic = topic
        self.keys = keys
        #: how far its subscribers were called; None: there are none yet
        self.read_to: Position | None = None
        #: replaced, never changed
        self.subscriptions: tuple[Subscription, ...] = ()
        #: represent the calls that find out where a new subscriber begins; until then nothing is
        #: taken, because it could be taken too early
        self.held: set[object] = set()
        #: something was not taken and must be read from the history
        self.behind = False
        #: True until something is taken after its first subscription
        self.is_new = True
        #: something has arrived since this was last set to False
        self.heard = False

    def add(self, subscription: Subscription) -> None:
        """Add *subscription*."""
        self.subscriptions += (subscription,)

    def remove(self, callback: OnPublication | None) -> list[Subscription]:
        """Remove the subscription of *callback*, or all; return them."""
        ended = [each for each in self.subscriptions if callback is None or each.is_of(callback)]
        self.subscriptions = tuple(each for each in self.subscriptions if each not in ended)
        return ended


class Behind(NamedTuple):
    """A topic to be read from the history."""

    feed: RedisFeed
    since: Position
    #: subscriptions that began in another epoch while the hub was not listening; their own
    #: positions have to be read too
    others: tuple[Subscription, ...]


class Call(NamedTuple):
    """The subscriptions to call, and the arguments of the calls."""

    heard: Heard
    subscriptions: tuple[Subscription, ...]


def history_of(topic: str, answer: list[Any]) -> History:
    """Return the parsed answer of the script HISTORY."""
    epoch, offset, reason = answer[0].decode(), int(answer[1]), answer[2].decode()
    publications = [
        Publication(topic, int(number), epoch, json.decode())
        for number, json in zip(answer[3::2], answer[4::2], strict=True)
    ]
    return History(publications, Position(epoch, offset), not reason, reason)


class RedisFeeds:
    """The topics that a hub listens to. Any thread may use it."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        #: guards all feeds. While it is held, nothing is called and no other lock is taken.
        #: Reentrant for signal handlers
        self._safe = threading.RLock()
        self._feeds: dict[bytes, RedisFeed] = {}
        #: channels that may have to be subscribed to or unsubscribed from
        self._changed: deque[bytes] = deque()
        #: channels whose topic is behind and not held
        self._behind: dict[RedisFeed, None] = {}

    def channels(self) -> list[bytes]:
        """Return the channels that are wanted."""
        return list(self._feeds)

    def take_changed(self) -> list[bytes]:
        """Return the channels added or removed since the last call."""
        taken: list[bytes] = []
        while self._changed:
            taken.append(self._changed.popleft())
        return taken

    def is_wanted(self, channel: bytes) -> bool:
        """Return whether *channel* has subscribers."""
        return channel in self._feeds

    def counts(self) -> tuple[int, int]:
        """Return the numbers of topics and subscriptions."""
        feeds = list(self._feeds.values())
        return len(feeds), sum(len(feed.subscriptions) for feed in feeds)

    def hold(self, topic: str, callback: OnPublication, mine: object) -> RedisFeed:
        """Return the feed of *topic*, which takes nothing until :meth:`release`.

        :param mine: represents the call. If a signal handler raises in this one, the feed is held
            or not.

        Raises ``ValueError`` if *callback* is already subscribed.
        """
        keys = keys_of(self._prefix, topic)
        with self._safe:
            feed = self._feeds.get(keys.channel)
            if feed is None:
                feed = self._feeds[keys.channel] = RedisFeed(topic, keys)
            elif any(each.is_of(callback) for each in feed.subscriptions):
                raise ValueError(f"the callback is already subscribed to {topic!r}")
            feed.held.add(mine)
            self._behind.pop(feed, None)
            return feed

    def begin(
        self, feed: RedisFeed, callback: OnPublication, position: Position, again: bool
    ) -> bool:
        """Begin a subscription after *position*, between :meth:`hold` and :meth:`release`.

        Returns False if another subscription has meanwhile begun after a later position: a newer
        position is then needed. *again*: this position is the newer one.

        Raises ``ValueError`` if another thread has meanwhile subscribed *callback*.
        """
        with self._safe:
            if any(each.is_of(callback) for each in feed.subscriptions):
                raise ValueError(f"the callback is already subscribed to {feed.topic!r}")
            if not feed.subscriptions:
                feed.read_to, feed.is_new = position, True
                self._changed.append(feed.keys.channel)
            elif feed.is_new and not again:
                assert feed.read_to is not None
                epoch, offset = feed.read_to
                if position.epoch != epoch or position.offset < offset:
                    return False
            feed.add(Subscription(feed.topic, callback, position.offset, position.epoch))
            return True

    def release(self, topic: str, mine: object) -> None:
        """End :meth:`hold`, if the call represented by *mine* holds the feed of *topic*."""
        with self._safe:
            feed = self._feeds.get(keys_of(self._prefix, topic).channel)
            if feed is None:
                return
            feed.held.discard(mine)
            self._forget_unused(feed)
            if feed.behind and not feed.held and feed.subscriptions:
                self._behind[feed] = None

    def _forget_unused(self, feed: RedisFeed) -> None:
        """Forget *feed* if it is not used. Called with the lock held."""
        if not feed.subscriptions and not feed.held:
            channel = feed.keys.channel
            if self._feeds.get(channel) is feed:
                del self._feeds[channel]
                self._changed.append(channel)
            self._behind.pop(feed, None)

    def remove(self, topic: str, callback: OnPublication) -> list[Subscription]:
        """Remove the subscription of *callback*; return a list with it, to be ended."""
        with self._safe:
            feed = self._feeds.get(keys_of(self._prefix, topic).channel)
            if feed is None:
                return []
            ended = feed.remove(callback)
            self._forget_unused(feed)
            return ended

    def remove_all(self) -> list[Subscription]:
        """Remove all subscriptions; return them, to be ended."""
        with self._safe:
            feeds = list(self._feeds.values())
            ended = [each for feed in feeds for each in feed.remove(None)]
            for feed in feeds:
                self._forget_unused(feed)
            return ended

    def take(self, channel: bytes, message: bytes) -> Call | None:
        """Take a message from Redis; return the calls to make.

        If publications before it have not arrived, its topic is behind. Raises ``ValueError`` for a
        message that was not published by a hub.
        """
        name, number, text = message.split(b" ", 2)
        epoch, offset, json = name.decode(), int(number), text.decode()
        with self._safe:
            feed = self._feeds.get(channel)
            if feed is None or feed.read_to is None:
                return None
            feed.heard = True
            position = feed.read_to
            if feed.held or feed.behind or epoch != position.epoch:
                self._fall_behind(feed)
                return None
            if offset != position.offset + 1:
                # otherwise it has already arrived with the history
                if offset > position.offset:
                    self._fall_behind(feed)
                return None
            feed.read_to, feed.is_new = Position(position.epoch, offset), False
            subscriptions = feed.subscriptions
        publication = Publication(feed.topic, offset, position.epoch, json)
        return Call(publication, _wanting(subscriptions, publication))

    def _fall_behind(self, feed: RedisFeed) -> None:
        feed.behind = True
        if not feed.held and feed.subscriptions:
            self._behind[feed] = None

    def mark_behind(self, channel: bytes) -> None:
        """Mark the topic of *channel* to be read from the history: something may be missing."""
        with self._safe:
            feed = self._feeds.get(channel)
            if feed is not None and feed.read_to is not None:
                self._fall_behind(feed)

    def mark_quiet(self, channel: bytes) -> None:
        """Mark a quiet topic to be read from the history."""
        with self._safe:
            feed = self._feeds.get(channel)
            if feed is not None:
                heard, feed.heard = feed.heard, False
                if not heard and feed.read_to is not None:
                    self._fall_behind(feed)

    def next_behind(self, most: int) -> list[Behind]:
        """Return topics that are behind, at most *most*."""
        with self._safe:
            return [
                Behind(
                    feed,
                    feed.read_to,
                    tuple(each for each in feed.subscriptions if each.epoch != feed.read_to.epoch),
                )
                for feed in islice(self._behind, most)
                if feed.read_to is not None
            ]

    def take_history(
        self, behind: Behind, history: History, of_others: tuple[History, ...]
    ) -> list[Call]:
        """Take the *history* of a topic that is behind; return the calls to make.

        :param of_others: the histories of the other subscriptions, each from its own position.
        """
        feed, since, others = behind
        epoch, newest = history.position
        with self._safe:
            if feed.held or not feed.subscriptions:
                # release() will notice
                self._behind.pop(feed, None)
                return []
            own = dict(zip(others, of_others, strict=True))
            known = all(each.epoch == since.epoch or each in own for each in feed.subscriptions)
            if (
                feed.read_to != since
                or not known
                or any(each.position.epoch != epoch for each in of_others)
            ):
                # the topic has changed meanwhile: try again
                return []
            first = history.publications[0].offset if history.publications else newest + 1
            calls = self._move(feed, Position(epoch, first - 1), history, own)
            calls += [
                Call(publication, _wanting(feed.subscriptions, publication))
                for publication in history.publications
            ]
            last = history.publications[-1].offset if history.publications else newest
            feed.read_to, feed.is_new = Position(epoch, last), False
            if last >= newest:
                feed.behind = False
                self._behind.pop(feed, None)
            return calls

    def _move(
        self, feed: RedisFeed, start: Position, history: History, own: dict[Subscription, History]
    ) -> list[Call]:
        """Move all subscriptions to the epoch of *start*.

        Returns the call for those that have lost publications before it. Called with the lock held.
        """
        told = []
        for subscription in feed.subscriptions:
            if subscription in own:
                is_lost = not own[subscription].recovered
            else:
                is_lost = not history.recovered and (
                    history.reason == EPOCH or subscription.after < start.offset
                )
            if is_lost:
                told.append(subscription)
            subscription.move_to(start.epoch, start.offset if is_lost else subscription.after)
        lost = Lost(feed.topic, start, history.reason or EPOCH)
        return [Call(lost, tuple(told))] if told else []

    def die_in_child(self) -> None:
        """In a forked child: forget everything. The subscriptions belong to the parent."""
        self._safe = threading.RLock()
        feeds, self._feeds = list(self._feeds.values()), {}
        self._changed, self._behind = deque(), {}
        for feed in feeds:
            for subscription in feed.subscriptions:
                subscription.die_in_child()


def _wanting(
    subscriptions: tuple[Subscription, ...], publication: Publication
) -> tuple[Subscription, ...]:
    """Return the *subscriptions* that began before *publication*."""
    return tuple(
        each
        for each in subscriptions
        if each.after < publication.offset and each.epoch == publication.epoch
    )
