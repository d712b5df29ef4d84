"""RedisHub: topics shared by several OS processes and machines through Redis."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..attributes import IS_INT, IS_MILLISECONDS
from ..core.forks import dies_in_child
from ..errors import HubError, HubUnavailable
from ..process.freeing import close_at_exit, forget_at_exit
from ..reconnect_policies import ExponentialBackoff, ReconnectPolicy, check_policy
from ..sockets.checks import SOCKET_CHECKS
from ..sockets.deadline import Deadline
from ..sockets.tls_contexts import TlsContext
from .hub import (
    History,
    Hub,
    HubStatus,
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
from .redis_feed import RedisFeeds, history_of
from .redis_listener import RedisListener
from .redis_pool import RedisPool
from .redis_presence import RedisPresence
from .redis_scripts import HISTORY, PUBLISH, keys_of
from .redis_url import RedisUrl, parse_redis_url

if TYPE_CHECKING:
    from .redis_link import RedisLink

#: the longest wait between two attempts of the default policy, in milliseconds
_LONGEST_PAUSE = 4_000
#: the minimum number of publications kept, and for how many milliseconds, so that subscribers that
#: miss a message can catch up even with a short history; also how many are read at once
_LEAST_KEPT = 200
_LEAST_AGE = 10_000
#: the maximum milliseconds that free() and leave() spend on informing other processes
_GOODBYE = 300


def _check_prefix(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value.isprintable() or "{" in value or "}" in value:
        raise ValueError(f"{name} must not have braces or control characters: {value!r}")


def _link_maker(url: RedisUrl, tls_context: TlsContext | None) -> Callable[[], RedisLink]:
    """Return the class of connections. Raises ``ImportError`` if redis-py is missing."""
    try:
        # optional and large
        from .redis_link import RedisLink
    except ImportError as exc:
        raise ImportError("RedisHub requires redis-py: pip install 'mormot_ws[redis]'") from exc
    return partial(RedisLink, url, tls_context)


class RedisHub(Hub):
    """A hub whose topics are shared by all OS processes and machines with the same Redis.

    It requires Redis 6 or newer, or Valkey, and redis-py (``pip install 'mormot_ws[redis]'``). The
    first subscription or member starts its single thread, which calls all subscribers, including
    those of the publishing process.

    While Redis is not available, publishing fails and subscribers get nothing. The hub reconnects
    by itself and delivers what they missed. If Redis has lost data that subscribers have seen or
    could request, a new epoch begins, and they get :class:`Lost`. After a restart with all of its
    data, Redis begins a new epoch too, but positions of the earlier epoch remain valid.

    If the connection is lost before Redis has answered, a publication with a session is repeated,
    and published only once. Without a session, ``maybe_published`` of the error is True.

    :param url: ``redis://[[user]:password@]host[:port][/database]``; ``rediss://`` with TLS;
        ``unix:///path[?db=database]``. The password is never shown.
    :param prefix: the prefix of the names of all keys and channels.
    :param presence_age: the time after which the members of a crashed process are gone, in
        milliseconds.
    :param max_connections: the maximum number of threads that publish at the same time; others
        wait.
    :param tls_context: for ``rediss://``; None: trust the system's authorities.
    :param policy: decides the waits between attempts to reconnect; None: an
        ``ExponentialBackoff`` up to 4 s. After it gives up, the hub tries again as soon as another
        call has reached Redis.

    The other parameters are those of :class:`Hub`.
    """

    _CHECKS: ClassVar = {
        "presence_age": is_from(100, IS_MILLISECONDS),
        "policy": check_policy,
    }

    def __init__(
        self,
        url: str,
        history_count: int = 1_000,
        history_age: float = 300_000,
        window_count: int = 10_000,
        window_age: float = 300_000,
        topic_age: float = 86_400_000,
        timeout: float = 4_000,
        prefix: str = "mormot_ws:",
        presence_age: float = 30_000,
        max_connections: int = 16,
        tls_context: TlsContext | None = None,
        policy: ReconnectPolicy | None = None,
    ) -> None:
        super().__init__(history_count, history_age, window_count, window_age, topic_age, timeout)
        self._url = parse_redis_url(url)
        _check_prefix("prefix", prefix)
        is_from(1, IS_INT)("max_connections", max_connections)
        SOCKET_CHECKS["tls_context"]("tls_context", tls_context)
        self._prefix = prefix
        self.presence_age = presence_age
        self.policy: ReconnectPolicy = (
            ExponentialBackoff(cap_ms=_LONGEST_PAUSE) if policy is None else policy
        )
        self._pool = RedisPool(
            self._url.shown, _link_maker(self._url, tls_context), max_connections, self._revive
        )
        self._feeds = RedisFeeds(prefix)
        self._presence = RedisPresence(self._pool, prefix)
        self._listener = RedisListener(self, self._pool, self._feeds, self._presence)
        self._freed = False
        #: the prefix of the names of epochs that this hub begins, and their numbers
        self._epochs = secrets.token_urlsafe(9)
        self._numbers = itertools.count(1)
        #: counters for the status
        self._counts = {"published": 0, "repeated": 0}
        dies_in_child(self)

    @property
    def prefix(self) -> str:
        """The prefix of the names of all keys and channels."""
        return self._prefix

    def publish(
        self, topic: str, data: object, *, session: str = "", sequence: int = 0
    ) -> Published:
        return self.publish_json(topic, encode_json(data), session=session, sequence=sequence)

    def publish_json(
        self, topic: str, json: str, *, session: str = "", sequence: int = 0
    ) -> Published:
        check_name("topic", topic)
        check_json(json)
        name = ""
        if session != "" or sequence != 0:
            check_repeat(session, sequence)
            name = f"{sequence} {session}"
        keys = keys_of(self._prefix, topic)
        try:
            offset, epoch, repeated = self._pool.run_script(
                self._begin(),
                PUBLISH,
                (keys.meta, keys.past, keys.seen, keys.order),
                (
                    self._fresh_epoch(),
                    int(self.topic_age),
                    keys.channel,
                    json.encode(),
                    max(self.history_count, _LEAST_KEPT),
                    int(max(self.history_age, _LEAST_AGE)),
                    name.encode(),
                    self.window_count,
                    int(self.window_age),
                ),
                repeat=bool(name),
            )
        except HubError as exc:
            if not exc.maybe_published:
                raise
            raise type(exc)(f"{exc.text}; it may have been published", True) from exc
        if repeated:
            self._counts["repeated"] += 1
        else:
            self._counts["published"] += 1
        return Published(offset, epoch.decode(), bool(repeated))

    def _fresh_epoch(self) -> str:
        """Return a unique name for an epoch that may begin with the next script."""
        return f"{self._epochs}{next(self._numbers):x}"

    def _begin(self) -> Deadline:
        """Return the deadline of a call; raise ``HubUnavailable`` after :meth:`free`."""
        if self._freed:
            raise HubUnavailable("the hub was freed")
        return Deadline(self.timeout)

    def _start(self) -> None:
        """Start the thread."""
        if not self._listener.is_running:
            close_at_exit(self)
            self._listener.start()

    def _revive(self) -> None:
        self._listener.revive()

    def read_missed(self, deadline: Deadline, missed: list[tuple[str, Position]]) -> list[History]:
        """Return the next publications of several topics, each from a position.

        Called in the hub's thread.
        """
        asked = [
            self._question(topic, since, _LEAST_KEPT, _LEAST_KEPT, _LEAST_AGE)
            for topic, since in missed
        ]
        answers = self._pool.run_scripts(deadline, HISTORY, asked)
        return [
            history_of(topic, answer) for (topic, _), answer in zip(missed, answers, strict=True)
        ]

    def _question(
        self,
        topic: str,
        since: Position | None,
        limit: int,
        least_count: int = 0,
        least_age: int = 0,
    ) -> tuple[tuple[bytes, ...], tuple[Any, ...]]:
        """Return keys and arguments of the script that reads the history."""
        keys = keys_of(self._prefix, topic)
        return (keys.meta, keys.past), (
            self._fresh_epoch(),
            int(self.topic_age),
            max(self.history_count, least_count),
            int(max(self.history_age, least_age)),
            b"" if since is None else since.epoch.encode("utf-8", "surrogatepass"),
            "" if since is None else since.offset,
            limit,
        )

    def _read(self, topic: str, deadline: Deadline, since: Position | None, limit: int) -> History:
        """Return past publications."""
        keys, arguments = self._question(topic, since, limit)
        return history_of(topic, self._pool.run_script(deadline, HISTORY, keys, arguments))

    def history(self, topic: str, since: Position | None = None, limit: int = 0) -> History:
        check_name("topic", topic)
        check_since(since, limit)
        return self._read(topic, self._begin(), since, limit)

    def subscribe(
        self, topic: str, callback: OnPublication, since: Position | None = None
    ) -> History:
        check_name("topic", topic)
        check_subscriber(callback)
        check_since(since)
        deadline = self._begin()
        self._start()
        # represents this call while it holds the topic
        mine = object()
        try:
            feed = self._feeds.hold(topic, callback, mine)
            for again in (False, True):
                history = self._read(topic, deadline, since, 1 if since is None else 0)
                if since is None:
                    history = History([], history.position)
                if self._feeds.begin(feed, callback, history.position, again):
                    break
        finally:
            # twice: a signal handler may raise in the first one
            try:
                self._feeds.release(topic, mine)
            finally:
                self._feeds.release(topic, mine)
                self._listener.wake()
        if self._freed:
            self.unsubscribe(topic, callback)
            raise HubUnavailable("the hub was freed")
        return history

    def unsubscribe(self, topic: str, callback: OnPublication) -> bool:
        check_name("topic", topic)
        ended = self._feeds.remove(topic, callback)
        self._listener.wake()
        for subscription in ended:
            subscription.end(self.timeout / 1000)
        return bool(ended)

    def join(self, topic: str, member: str, info: object = None) -> None:
        check_name("topic", topic)
        check_name("member", member)
        json = encode_json(info)
        deadline = self._begin()
        self._presence.join(topic, member, json)
        self._start()
        self._presence.announce(deadline, topic, member, self.presence_age, self.topic_age)
        self._listener.wake()

    def leave(self, topic: str, member: str) -> bool:
        check_name("topic", topic)
        check_name("member", member)
        if self._freed or not self._presence.leave(topic, member):
            return False
        # all connections of a server may end at once while Redis is away: do not wait then
        if not self._pool.is_failing:
            try:
                self._presence.tell_left_one(Deadline(self.timeout).sooner(_GOODBYE), topic, member)
                return True
            except HubError:
                # it has been logged
                pass
        # the thread tells Redis when it is available again
        self._listener.wake()
        return True

    def members(self, topic: str) -> dict[str, Any]:
        check_name("topic", topic)
        return self._presence.members(self._begin(), topic)

    def count(self, topic: str) -> int:
        check_name("topic", topic)
        return self._presence.count(self._begin(), topic)

    def status(self) -> HubStatus:
        topics, subscribers = self._feeds.counts()
        listener, pool = self._listener, self._pool
        return HubStatus(
            connected=not self._freed
            and not pool.is_failing
            and (listener.connected.is_set() or not listener.is_running),
            topics=topics,
            subscribers=subscribers,
            members=len(self._presence),
            published=self._counts["published"],
            repeated=self._counts["repeated"],
            delivered=listener.delivered,
            lost=listener.lost,
            reconnects=listener.reconnects,
            kept=0,
            last_error=pool.last_error,
        )

    def wait_connected(self, timeout_ms: float | None = None) -> bool:
        if self._freed:
            return False
        self._start()
        seconds = (self.timeout if timeout_ms is None else timeout_ms) / 1000
        return self._listener.connected.wait(seconds) and not self._freed

    def free(self) -> None:
        deadline = Deadline(self.timeout)
        if not self._freed and len(self._presence) and self._listener.connected.is_set():
            try:
                self._presence.end(deadline.sooner(_GOODBYE))
            except HubError:
                # it has been logged; the members are gone after presence_age
                pass
        self.begin_exit()
        for subscription in self._feeds.remove_all():
            subscription.end(deadline.seconds() or 0)
        self.end_exit(deadline)
        forget_at_exit(self)

    def begin_exit(self) -> None:
        """Begin to stop, without waiting. Called at the end of the interpreter."""
        self._freed = True
        self._listener.stop()
        self._pool.stop()

    def end_exit(self, deadline: Deadline) -> None:
        """Wait for the thread. Called at the end of the interpreter."""
        self._listener.join(deadline)

    def die_in_child(self) -> None:
        """In a forked child: start afresh. Connections and subscriptions belong to the parent."""
        self._epochs = secrets.token_urlsafe(9)
        self._pool.die_in_child()
        self._feeds.die_in_child()
        self._presence.die_in_child()
        self._listener.die_in_child()

    def __repr__(self) -> str:
        state = "freed" if self._freed else "connected" if self.status().connected else "away"
        return f"RedisHub(<{self._url.shown}, {state}>)"
