"""RedisListener: the single thread of a Redis hub. It listens, fills gaps and reconnects.

Subscribers are called in it. Whenever something may be missing (a gap in the offsets, a new
connection, a new channel, a long silence), it reads the history.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from ..client.delays import AttemptFailure, ReconnectWaits
from ..errors import HubError, HubUnavailable
from ..logs import SeldomLog, get_logger
from ..process.freeing import joined
from ..reconnect_policies import FailureKind, ReconnectPolicy, failure_kind
from ..sockets.deadline import Deadline
from .hub import History, Lost, Position
from .redis_feed import Call, RedisFeeds
from .redis_pool import RedisPool
from .redis_presence import RedisPresence
from .redis_waiting import wait_readable

if TYPE_CHECKING:
    from .redis_link import RedisLink

_log = get_logger("mormot_ws.topics")

#: how many channels one command subscribes to
_CHANNELS_AT_ONCE = 200
#: how many messages are taken before the thread does other work
_MESSAGES_AT_ONCE = 200
#: how many topics are read from the history at once
_TOPICS_AT_ONCE = 20
#: seconds of a round, in which each topic is read once even if nothing has arrived: Redis may lose
#: a message silently, and forgets what is not used
_ROUND_SECONDS = 60.0
#: the maximum seconds without data from Redis before it is pinged
_SILENCE_SECONDS = 5.0
#: seconds between two log records about foreign messages
_FOREIGN_SECONDS = 60.0
#: seconds after which a connection counts as stable
_STABLE_SECONDS = 1.0
#: the maximum seconds between two checks for work
_LONGEST_WAIT = 1.0


class ListeningHub(Protocol):
    """What the thread needs from its hub."""

    @property
    def policy(self) -> ReconnectPolicy | None:
        """The policy that decides the waits; None: the default policy."""

    timeout: float
    topic_age: float
    presence_age: float

    def read_missed(self, deadline: Deadline, missed: list[tuple[str, Position]]) -> list[History]:
        """Return the next publications of several topics, each from a position."""


class RedisListener:
    """Listens for one hub. Any thread may use it. Once stopped, it stays stopped."""

    def __init__(
        self, hub: ListeningHub, pool: RedisPool, feeds: RedisFeeds, presence: RedisPresence
    ) -> None:
        self._hub = hub
        self._pool = pool
        self._feeds = feeds
        self._presence = presence
        #: guards the start of the thread; nothing is called while it is held
        self._safe = threading.RLock()
        #: None too while it only ends, because a signal handler has raised in start()
        self._thread: threading.Thread | None = None
        self._stopping = False
        #: set while the thread listens to Redis
        self.connected = threading.Event()
        #: how often Redis was lost and then reconnected
        self.reconnects = 0
        #: calls of subscribers, with a publication and with Lost
        self.delivered = 0
        self.lost = 0
        #: set when the policy has given up
        self._gave_up = False
        self._wake_read: socket.socket | None = None
        self._wake_write: socket.socket | None = None

    def start(self) -> None:
        """Start the thread if it is not running."""
        with self._safe:
            if self._thread is not None or self._stopping:
                return
            try:
                self._wake_read, self._wake_write = socket.socketpair()
                self._wake_read.setblocking(False)
                self._wake_write.setblocking(False)
                self._thread = threading.Thread(target=self._run, name="redis hub", daemon=True)
                self._thread.start()
            except BaseException:
                # the next call tries it again; if a signal handler has raised after the start, the
                # thread finds that it is not wanted
                self._thread = None
                self._close_wake()
                raise

    @property
    def is_running(self) -> bool:
        """True from :meth:`start` on."""
        return self._thread is not None

    def wake(self) -> None:
        """Make the thread check for work. Any thread may call it."""
        wake = self._wake_write
        if wake is not None:
            # OSError: enough wake-ups are pending, or it has ended
            with contextlib.suppress(OSError):
                wake.send(b"\0")

    def revive(self) -> None:
        """Try again if the policy gave up: Redis has answered another call."""
        if self._gave_up:
            self._gave_up = False
            self.wake()

    def is_current(self) -> bool:
        """Return whether the calling thread is the listening thread."""
        return self._thread is threading.current_thread()

    def stop(self) -> None:
        """Make the thread end soon; the pool has to be stopped too."""
        with self._safe:
            self._stopping = True
        self.wake()

    def join(self, deadline: Deadline) -> None:
        """Wait for the end of the thread, unless called in it."""
        thread = self._thread
        if thread is None or self.is_current():
            return
        if not joined(thread, deadline):
            _log.warning("the thread of a hub is still calling a subscriber after free()")

    def die_in_child(self) -> None:
        """In a forked child: start afresh. The calling thread may be the one that forked."""
        self._safe = threading.RLock()
        self._thread = None
        self.connected = threading.Event()
        self._gave_up = False
        self._close_wake()

    def _close_wake(self) -> None:
        for end in (self._wake_read, self._wake_write):
            if end is not None:
                end.close()
        self._wake_read = self._wake_write = None

    def _run(self) -> None:
        safe = self._safe
        waits = ReconnectWaits(self._hub, "redis hub")
        waits.begin(True)
        listening = _Listening(self, self._hub, self._pool, self._feeds, self._presence)
        try:
            while self._may_go_on(safe):
                began = monotonic()
                try:
                    failed: BaseException = listening.run(lambda: self._may_go_on(safe))
                except BaseException as exc:
                    # it has to end a child that a callback forked
                    if self._safe is not safe:
                        raise
                    failed = exc
                if not self._may_go_on(safe):
                    return
                if not isinstance(failed, HubError):
                    _log.error("the thread of a hub failed", exc_info=failed)
                was_connected = self.connected.is_set()
                self.connected.clear()
                if was_connected:
                    waits.begin(monotonic() - began >= _STABLE_SECONDS)
                else:
                    waits.count_failure()
                self._pause(waits, failed, safe)
        finally:
            # if the lock is another one, this is a child forked in this same thread
            if self._safe is safe:
                with safe:
                    if self.is_current():
                        self.connected.clear()
                        self._close_wake()

    def _may_go_on(self, safe: object) -> bool:
        return not self._stopping and self._safe is safe and self.is_current()

    def _pause(self, waits: ReconnectWaits, failed: BaseException, safe: object) -> None:
        """Wait as long as the policy says."""
        cause = failed.__cause__
        kind = FailureKind.connect
        while cause is not None:
            if isinstance(cause, OSError):
                kind = failure_kind(cause)
            cause = cause.__cause__ or cause.__context__
        text = failed.text if isinstance(failed, HubError) else repr(failed)
        failure = waits.failure(AttemptFailure(kind, text, failed), 0)
        delay = waits.delay(failure, {})
        if delay is None or delay == math.inf:
            delay = None
            self._gave_up = True
            _log.error("a hub gave up reconnecting: %s; it tries again when used", text)
        until = Deadline(delay)
        while self._may_go_on(safe) and not until.passed:
            if delay is None and not self._gave_up:
                return
            left = until.seconds()
            self.wait_for(-1, _LONGEST_WAIT if left is None else min(left, _LONGEST_WAIT))

    def wait_for(self, descriptor: int, seconds: float) -> None:
        """Wait until *descriptor* can be read, or :meth:`wake` is called."""
        wake = self._wake_read
        if wake is None:
            return
        wait_readable([wake.fileno(), descriptor], seconds)
        with contextlib.suppress(OSError):
            while wake.recv(4096):
                pass

    def call(self, calls: list[Call]) -> None:
        """Call subscribers."""
        for heard, subscriptions in calls:
            if isinstance(heard, Lost):
                self.lost += len(subscriptions)
            else:
                self.delivered += len(subscriptions)
            for subscription in subscriptions:
                # Ctrl-C is raised in the main thread only
                subscription.call(heard)

    def note_connected(self) -> None:
        """Wake the threads that wait until the hub listens to Redis."""
        self.connected.set()


class _Listening:
    """Handles one connection after another. Used only in the listening thread."""

    def __init__(
        self,
        listener: RedisListener,
        hub: ListeningHub,
        pool: RedisPool,
        feeds: RedisFeeds,
        presence: RedisPresence,
    ) -> None:
        self._listener = listener
        self._hub = hub
        self._pool = pool
        self._feeds = feeds
        self._presence = presence
        self._connected_before = False
        #: the channels that the connection has subscribed to; True: confirmed by Redis
        self._asked: dict[bytes, bool] = {}
        #: the channels that still have to be read in this round
        self._round: deque[bytes] = deque()
        self._next_look = 0.0
        self._looks_per_second = 0.0
        self._heard_at = 0.0
        #: when Redis was pinged; 0.0: it was not
        self._asked_at = 0.0
        self._next_refresh = 0.0
        self._next_announcement = 0.0
        self._foreign = SeldomLog(_FOREIGN_SECONDS)

    def run(self, may_go_on: Callable[[], bool]) -> HubError:
        """Connect and listen until that fails; return the reason."""
        timeout = self._hub.timeout
        try:
            link = self._pool.new_link(Deadline(timeout))
        except HubError as exc:
            self._pool.note_failure(exc)
            return exc
        try:
            self._begin(link)
            while may_go_on():
                self._turn(link)
            return HubUnavailable("the hub was freed")
        except HubError as exc:
            self._pool.note_failure(exc)
            return exc
        finally:
            self._pool.drop(link)

    def _begin(self, link: RedisLink) -> None:
        self._asked.clear()
        self._feeds.take_changed()
        self._subscribe(link, self._feeds.channels())
        self._heard_at, self._asked_at = monotonic(), 0.0
        self._next_refresh = self._next_announcement = 0.0
        if self._connected_before:
            self._listener.reconnects += 1
        self._connected_before = True
        self._pool.note_success()
        self._listener.note_connected()

    def _turn(self, link: RedisLink) -> None:
        """Read messages, do what is due, and wait for more."""
        busy = self._read(link)
        self._sync(link)
        busy = self._fill_some() or busy
        now = monotonic()
        self._look_around(now)
        self._keep_present(now)
        wait = self._ask_for_a_word(link, now)
        self._listener.wait_for(link.fileno(), 0 if busy else wait)

    def _deadline(self) -> Deadline:
        return Deadline(self._hub.timeout)

    def _read(self, link: RedisLink) -> bool:
        """Take messages; return whether there may be more."""
        for _ in range(_MESSAGES_AT_ONCE):
            message = link.receive(self._deadline())
            if message is None:
                return False
            self._heard_at, self._asked_at = monotonic(), 0.0
            self._handle(message)
        return True

    def _handle(self, message: Any) -> None:
        kind, channel = message[0], message[1]
        if kind == b"message":
            try:
                call = self._feeds.take(channel, message[2])
            except ValueError as exc:
                # another program uses our channels; our publications are in the history
                more = self._foreign.due()
                if more is not None:
                    _log.warning("a message on %r is not a publication: %s%s", channel, exc, more)
                self._feeds.mark_behind(channel)
            else:
                if call is not None:
                    self._listener.call([call])
        elif kind == b"subscribe" and channel in self._asked:
            self._asked[channel] = True
            # for what was published between the start of the subscription and now
            self._feeds.mark_behind(channel)

    def _subscribe(self, link: RedisLink, channels: list[bytes]) -> None:
        for start in range(0, len(channels), _CHANNELS_AT_ONCE):
            some = channels[start : start + _CHANNELS_AT_ONCE]
            self._asked.update(dict.fromkeys(some, False))
            link.send(self._deadline(), b"SUBSCRIBE", *some)

    def _sync(self, link: RedisLink) -> None:
        """Subscribe to new channels and unsubscribe from unused ones."""
        new, old = [], []
        for channel in dict.fromkeys(self._feeds.take_changed()):
            if not self._feeds.is_wanted(channel):
                if self._asked.pop(channel, None) is not None:
                    old.append(channel)
            elif channel not in self._asked:
                new.append(channel)
            elif self._asked[channel]:
                # it was unsubscribed and wanted again at once
                self._feeds.mark_behind(channel)
        if old:
            link.send(self._deadline(), b"UNSUBSCRIBE", *old)
        self._subscribe(link, new)

    def _fill_some(self) -> bool:
        """Read the history of topics that are behind; return whether there were any."""
        behind = self._feeds.next_behind(_TOPICS_AT_ONCE)
        missed = [
            (each.feed.topic, position)
            for each in behind
            for position in (each.since, *(Position(one.epoch, one.after) for one in each.others))
        ]
        if missed:
            histories = iter(self._hub.read_missed(self._deadline(), missed))
            for each in behind:
                history, *of_others = islice(histories, 1 + len(each.others))
                calls = self._feeds.take_history(each, history, tuple(of_others))
                self._listener.call(calls)
        return bool(behind)

    def _look_around(self, now: float) -> None:
        """Check some quiet topics; all of them once per round."""
        if now < self._next_look:
            return
        if not self._round:
            self._round.extend(self._feeds.channels())
            self._looks_per_second = len(self._round) / _ROUND_SECONDS
        for _ in range(min(len(self._round), int(self._looks_per_second) + 1)):
            self._feeds.mark_quiet(self._round.popleft())
        # spread a few topics over the whole round instead of checking them all at once
        self._next_look = now + max(
            _LONGEST_WAIT, 1 / max(self._looks_per_second, 1 / _ROUND_SECONDS)
        )

    def _keep_present(self, now: float) -> None:
        """Report that this OS process is alive, and its members."""
        presence = self._presence
        if not presence.is_used or (now < self._next_refresh and not presence.is_behind):
            return
        age, topic_age = self._hub.presence_age, self._hub.topic_age
        self._next_refresh = now + age / 3000
        deadline = self._deadline()
        if presence.doubts or now >= self._next_announcement or not presence.refresh(deadline, age):
            self._next_announcement = now + topic_age / 3000
            self._presence.announce_all(deadline, age, topic_age)
        else:
            self._presence.tell_left(deadline)

    def _ask_for_a_word(self, link: RedisLink, now: float) -> float:
        """Check that Redis still answers; return the seconds until the next work is due."""
        timeout = self._hub.timeout / 1000
        if self._asked_at:
            if now - self._asked_at > timeout:
                raise HubUnavailable(f"{link.url.shown} did not answer in time")
        elif now - self._heard_at > min(timeout, _SILENCE_SECONDS):
            self._asked_at = now
            # even before the first subscription, when the answer is different
            link.send(self._deadline(), b"PING")
        due = self._next_refresh - now if self._presence.is_used else _LONGEST_WAIT
        return max(0.0, min(due, timeout / 4, _LONGEST_WAIT))
