"""RedisPresence: the members that this OS process reports, and how others notice when it ends.

Each process has a key in Redis that expires; its members count only while that key exists. A
command that was not answered may be executed much later, e.g. by a Redis that was frozen, and undo
newer changes. After such a command the process therefore takes a new name and reports everything
again.
"""

from __future__ import annotations

import secrets
import threading
from json import loads
from typing import Any

from ..sockets.deadline import Deadline
from .redis_pool import RedisPool
from .redis_scripts import keys_of, process_key

#: former names that are remembered
_MOST_FORMER = 8
#: how many members are reported to Redis at once
_AT_ONCE = 200
#: how many members that have left are remembered while Redis is away. With more, the process takes
#: a new name, and Redis forgets everything under the former one
_MOST_LEFT = 10_000


class RedisPresence:
    """The members of a hub. Any thread may use it."""

    def __init__(self, pool: RedisPool, prefix: str) -> None:
        self._pool = pool
        self._prefix = prefix
        #: guards the tables; while it is held, nothing is called or waited for. Reentrant for
        #: signal handlers
        self._safe = threading.RLock()
        self._process = secrets.token_urlsafe(12)
        #: former names, under which Redis may still have members
        self._former: list[str] = []
        #: the info of present members, by topic and member
        self._members: dict[tuple[str, str], str] = {}
        #: members that left while Redis was away
        self._left: dict[tuple[str, str], None] = {}
        #: True: a command was not answered
        self._doubts = False

    def __len__(self) -> int:
        return len(self._members)

    @property
    def is_used(self) -> bool:
        """True if this process has to report to Redis regularly."""
        return bool(self._members or self._left or self._doubts)

    @property
    def is_behind(self) -> bool:
        """True if something has to be reported now, because Redis did not answer earlier."""
        return bool(self._left) or self._doubts

    @property
    def doubts(self) -> bool:
        """True if :meth:`announce_all` has to restore what Redis knows."""
        return self._doubts

    def _field(self, member: str) -> bytes:
        return f"{self._process}:{member}".encode()

    def _fields(self, member: str) -> list[bytes]:
        """Return the keys, including those under former names."""
        with self._safe:
            names = [self._process, *self._former]
        return [f"{name}:{member}".encode() for name in names]

    def _here(self, topic: str) -> bytes:
        return keys_of(self._prefix, topic).here

    def join(self, topic: str, member: str, json: str) -> None:
        """Make *member* present; :meth:`announce` reports it to Redis."""
        with self._safe:
            self._left.pop((topic, member), None)
            self._members[topic, member] = json

    def announce(
        self, deadline: Deadline, topic: str, member: str, age: float, topic_age: float
    ) -> None:
        """Report *member* to Redis. Raises ``HubError``."""
        self._announce_some(deadline, [(topic, member)], age, topic_age)

    def _announce_some(
        self, deadline: Deadline, members: list[tuple[str, str]], age: float, topic_age: float
    ) -> None:
        """Report *members*, each a topic and a name, to Redis."""
        left = members
        while left:
            sent = {each: self._members.get(each) for each in left}
            commands: list[tuple[Any, ...]] = [
                (b"SET", process_key(self._prefix, self._process), 1, b"PX", int(age))
            ]
            for (topic, member), json in sent.items():
                here = self._here(topic)
                if json is None:
                    commands.append((b"HDEL", here, *self._fields(member)))
                else:
                    commands.append((b"HSET", here, self._field(member), json.encode()))
                    commands.append((b"PEXPIRE", here, int(topic_age)))
            self._request(deadline, *commands)
            # another thread may have changed this meanwhile and reported that too early
            left = [each for each, json in sent.items() if self._members.get(each) is not json]

    def _request(self, deadline: Deadline, *commands: tuple[Any, ...]) -> None:
        """Let Redis execute *commands*. Raises ``HubError``."""
        try:
            self._pool.request(deadline, *commands)
        # also what a signal handler raises
        except BaseException:
            self._doubts = True
            raise

    def leave(self, topic: str, member: str) -> bool:
        """End the presence of *member* here; return False if it was not present."""
        with self._safe:
            if self._members.pop((topic, member), None) is None:
                return False
            if len(self._left) >= _MOST_LEFT:
                self._left.clear()
                self._doubts = True
            else:
                self._left[topic, member] = None
            return True

    def tell_left(self, deadline: Deadline) -> None:
        """Report all members that have left. Raises ``HubError``."""
        with self._safe:
            left = list(self._left)
        for topic, member in left:
            self.tell_left_one(deadline, topic, member)

    def tell_left_one(self, deadline: Deadline, topic: str, member: str) -> None:
        """Report that *member* has left. Raises ``HubError``."""
        self._request(deadline, (b"HDEL", self._here(topic), *self._fields(member)))
        with self._safe:
            # it may have joined again in the meantime
            again = self._members.get((topic, member))
            self._left.pop((topic, member), None)
        if again is not None:
            self._request(
                deadline, (b"HSET", self._here(topic), self._field(member), again.encode())
            )

    def refresh(self, deadline: Deadline, age: float) -> bool:
        """Report that this process is alive. Raises ``HubError``.

        Returns False if its key had expired, so that others may have forgotten its members.
        """
        (was_there,) = self._pool.request(
            deadline, (b"PEXPIRE", process_key(self._prefix, self._process), int(age))
        )
        return bool(was_there)

    def announce_all(self, deadline: Deadline, age: float, topic_age: float) -> None:
        """Report all members, and those that have left. Raises ``HubError``.

        After an unanswered command this is done under a new name of this process.
        """
        with self._safe:
            if self._doubts:
                self._doubts = False
                self._former.append(self._process)
                # older names have expired or are about to
                del self._former[:-_MOST_FORMER]
                self._process = secrets.token_urlsafe(12)
            members = list(self._members)
            former = list(self._former)
        self.tell_left(deadline)
        for start in range(0, len(members), _AT_ONCE):
            self._announce_some(deadline, members[start : start + _AT_ONCE], age, topic_age)
        if former:
            keys = [process_key(self._prefix, process) for process in former]
            self._request(deadline, (b"DEL", *keys))
            with self._safe:
                del self._former[: len(former)]

    def members(self, deadline: Deadline, topic: str) -> dict[str, Any]:
        """Return the members present on *topic* in any process. Raises ``HubError``."""
        return {name: loads(json) for name, json in self._present(deadline, topic).items()}

    def count(self, deadline: Deadline, topic: str) -> int:
        """Return the number of members present on *topic*. Raises ``HubError``."""
        return len(self._present(deadline, topic))

    def _present(self, deadline: Deadline, topic: str) -> dict[str, str | bytes]:
        """Return the members, each with its info as JSON text."""
        here = self._here(topic)
        (answer,) = self._pool.request(deadline, (b"HGETALL", here))
        pairs = list(zip(answer[::2], answer[1::2], strict=True))
        with self._safe:
            own = {name.encode() for name in (self._process, *self._former)}
            # for this process use the current members, whether reported to Redis or not
            members = {
                name: json for (where, name), json in self._members.items() if where == topic
            }
        pairs = [pair for pair in pairs if pair[0].partition(b":")[0] not in own]
        alive = self._alive(deadline, sorted({field.partition(b":")[0] for field, _ in pairs}))
        dead = [field for field, _ in pairs if field.partition(b":")[0] not in alive]
        if dead:
            # no other process would do it
            self._pool.request(deadline, (b"HDEL", here, *dead))
        found: dict[str, str | bytes] = {
            field.partition(b":")[2].decode(): json
            for field, json in pairs
            if field.partition(b":")[0] in alive
        }
        return {**found, **members}

    def _alive(self, deadline: Deadline, processes: list[bytes]) -> set[bytes]:
        """Return the OS processes that still report that they are alive."""
        if not processes:
            return set()
        keys = [process_key(self._prefix, process.decode()) for process in processes]
        answers = self._pool.request(deadline, *((b"EXISTS", key) for key in keys))
        return {process for process, there in zip(processes, answers, strict=True) if there}

    def end(self, deadline: Deadline) -> None:
        """Remove the members of this process. Raises ``HubError``; they then expire later."""
        with self._safe:
            self._members.clear()
            self._left.clear()
            names = [self._process, *self._former]
        keys = [process_key(self._prefix, name) for name in names]
        self._pool.request(deadline, (b"DEL", *keys))

    def die_in_child(self) -> None:
        """In a forked child: start afresh. The members belong to the parent."""
        self._safe = threading.RLock()
        self._process = secrets.token_urlsafe(12)
        self._members, self._left, self._former = {}, {}, []
        self._doubts = False
