"""Hub: numbered publications on topics, with a bounded history and presence for each topic.

A hub does not know about connections. Server code publishes and subscribes directly; the topics
protocol subscribes once for each topic that its connections need.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from json import JSONEncoder, loads
from typing import Any, ClassVar, NamedTuple

from ..attributes import IS_INT, IS_MILLISECONDS, Check, CheckedAttributes
from ..callbacks import check_callback
from ..process.freeing import FreedByWith

#: the maximum length of the names of topics, members and sessions, in characters
MOST_NAME = 255

#: the maximum number of arrays and objects inside each other
_MOST_DEPTH = 200
#: strings, which may contain brackets, and brackets
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]')

#: reasons why a history does not reach back: the position is from another epoch
EPOCH = "epoch"
#: … the publications after the position are no longer kept
TRIMMED = "trimmed"


class Position(NamedTuple):
    """A position in a topic: how far a reader has read."""

    #: identifies the numbering; it changes when publications were lost
    epoch: str
    #: the offset of the last publication read; 0: none yet
    offset: int


class Publication(NamedTuple):
    """A message on a topic."""

    topic: str
    #: the number in the topic: 1, 2, 3, … without gaps
    offset: int
    #: identifies the numbering. It can change between two publications without a loss, when Redis
    #: was restarted with all of its data
    epoch: str
    #: the data as compact JSON text
    json: str

    @property
    def data(self) -> Any:
        """The data that was published, decoded on each access."""
        return loads(self.json)

    @property
    def position(self) -> Position:
        """The position of a reader who has read the topic up to this publication."""
        return Position(self.epoch, self.offset)

    def __repr__(self) -> str:
        return (
            f"Publication({self.topic!r}, {self.offset}, {self.epoch!r},"
            f" <{len(self.json)} characters>)"
        )


class Published(NamedTuple):
    """The offset that a publication was given, returned by :meth:`Hub.publish`."""

    offset: int
    epoch: str
    #: True: the hub already knew (session, sequence), and *offset* is the original one
    repeated: bool = False

    @property
    def position(self) -> Position:
        """The position of a reader who has read the topic up to this publication."""
        return Position(self.epoch, self.offset)


class History(NamedTuple):
    """Past publications of a topic."""

    #: the publications in order; if not :attr:`recovered`, those that are still kept
    publications: list[Publication]
    #: the position of the newest publication
    position: Position
    #: True: *publications* begins right after the requested position, without a gap
    recovered: bool = True
    #: the reason if not recovered: ``"epoch"`` or ``"trimmed"``
    reason: str = ""


class Lost(NamedTuple):
    """Passed to a callback in place of publications that are no longer available."""

    topic: str
    #: where the subscription continues: the next publication has the next offset
    position: Position
    #: ``"epoch"``: the hub lost its data; ``"trimmed"``: the publications are no longer kept
    reason: str


#: the argument of a subscriber's callback
Heard = Publication | Lost
#: a subscriber's callback
OnPublication = Callable[[Heard], Any]


@dataclass(frozen=True)
class HubStatus:
    """A snapshot of a hub as seen by this OS process."""

    #: True while the hub can publish
    connected: bool
    #: topics known to this process
    topics: int
    #: callbacks subscribed in this process
    subscribers: int
    #: members that joined topics in this process
    members: int
    #: publications by this process, not counting repeated ones
    published: int
    #: repeated publications that the hub recognised
    repeated: int
    #: calls of callbacks with a publication
    delivered: int
    #: calls of callbacks with :class:`Lost`
    lost: int
    #: how often the hub was lost and then reconnected
    reconnects: int
    #: publications kept in the memory of this process
    kept: int
    #: the last error message; ``''``: none yet
    last_error: str

    def as_dict(self) -> dict[str, Any]:
        """Return the values as a dictionary, e.g. for JSON."""
        return asdict(self)


def is_from(least: int, check: Check) -> Check:
    """Return a check that a setting is a number and at least *least*."""

    def check_least(name: str, value: Any) -> None:
        check(name, value)
        # written this way to refuse NaN too, for which every comparison is False
        if not least <= value < 2**53:
            raise ValueError(f"{name} must be at least {least}, not {value}")

    return check_least


def check_name(what: str, name: object) -> None:
    """Check the name of a topic, a member or a session: 1 to 255 characters, no control characters.

    Raises ``TypeError``/``ValueError`` for an invalid name.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__}")
    if not name or len(name) > MOST_NAME:
        raise ValueError(f"{what} must have 1 to {MOST_NAME} characters, not {len(name)}")
    # quicker than a look at each character, and nearly all names pass
    if not name.isprintable() and any(
        ord(each) < 32 or 127 <= ord(each) < 160 or 0xD800 <= ord(each) < 0xE000 for each in name
    ):
        raise ValueError(f"{what} must not have control characters or surrogates: {name!r}")


_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_json(data: object) -> str:
    """Return *data* as compact JSON text.

    Raises ``TypeError``/``ValueError`` for what JSON cannot represent: other types, NaN, circular
    references, lone surrogates; and for more than 200 levels.
    """
    try:
        text = _encode(data)
    except RecursionError:
        raise ValueError("the data is nested too deeply for JSON") from None
    check_json(text)
    check_depth(text)
    return text


def check_depth(json: str) -> None:
    """Raise ``ValueError`` if JSON text is nested more than 200 levels deep.

    Not every receiver could read that, and a client that cannot read a publication closes its
    connection.
    """
    # most data has fewer brackets
    if json.count("[") + json.count("{") <= _MOST_DEPTH:
        return
    depth = 0
    for found in _BRACKETS.finditer(json):
        bracket = found[0]
        if bracket in "[{":
            depth += 1
            if depth > _MOST_DEPTH:
                raise ValueError(f"the data is nested too deeply: at most {_MOST_DEPTH} levels")
        elif bracket in "]}":
            depth -= 1


def check_json(json: object) -> None:
    """Raise ``TypeError``/``ValueError`` if *json* cannot be sent as text. It is not parsed."""
    if not isinstance(json, str):
        raise TypeError(f"JSON text must be a str, not {type(json).__name__}")
    if not json:
        raise ValueError("JSON text must not be empty")
    if not json.isascii():
        try:
            json.encode()
        except UnicodeEncodeError as exc:
            half = exc.object[exc.start]
            raise ValueError(f"JSON text must not have lone surrogates: {half!r}") from None


def check_repeat(session: object, sequence: object) -> None:
    """Raise ``TypeError``/``ValueError`` if these cannot name a publication of a session."""
    if session == "" and sequence == 0:
        return
    check_name("session", session)
    IS_INT("sequence", sequence)
    if not 1 <= sequence < 2**53:  # type: ignore[operator]
        raise ValueError(f"sequence must be at least 1 when there is a session, not {sequence}")


class Hub(FreedByWith, CheckedAttributes):
    """The base class of hubs, which publish on topics.

    A :class:`MemoryHub` serves one OS process; a :class:`RedisHub` is shared by several processes
    and machines.

    All methods may be called from any thread, and in callbacks. No callback is called while a lock
    of the hub is held. In a forked child a hub starts afresh: subscriptions and members belong to
    the parent.

    A *topic* is any name of 1 to 255 characters without control characters. It exists as soon as it
    is used.

    :param history_count: how many publications of a topic are kept; 0: none.
    :param history_age: how long they are kept, in milliseconds.
    :param window_count: how many (session, sequence) pairs of a topic are remembered, to recognise
        repeated publications.
    :param window_age: how long they are remembered, in milliseconds.
    :param topic_age: how long the numbering of a topic is remembered after its last use, in
        milliseconds. After that it starts again, in a new epoch.
    :param timeout: the maximum time that a call waits, in milliseconds. Keep it at 4 s or less: a
        server's ``free()`` waits only 4.5 s for callbacks.
    """

    _CHECKS: ClassVar = {
        "history_count": is_from(0, IS_INT),
        "history_age": is_from(1, IS_MILLISECONDS),
        "window_count": is_from(0, IS_INT),
        "window_age": is_from(1, IS_MILLISECONDS),
        "topic_age": is_from(1, IS_MILLISECONDS),
        "timeout": is_from(1, IS_MILLISECONDS),
    }

    def __init__(
        self,
        history_count: int = 1_000,
        history_age: float = 300_000,
        window_count: int = 10_000,
        window_age: float = 300_000,
        topic_age: float = 86_400_000,
        timeout: float = 4_000,
    ) -> None:
        self.history_count = history_count
        self.history_age = history_age
        self.window_count = window_count
        self.window_age = window_age
        self.topic_age = topic_age
        self.timeout = timeout

    def publish(
        self, topic: str, data: object, *, session: str = "", sequence: int = 0
    ) -> Published:
        """Publish *data*, any JSON value of up to 200 levels, and return its offset.

        :param session: identifies this publication, together with *sequence*, which starts at 1. If
            the hub already knows the publication, nothing is published, and the original offset is
            returned.

        When this returns, the publication is in the history. Subscribers in this process may
        already have been called, or will be called in another thread.

        Raises ``TypeError``/``ValueError`` for invalid arguments, and :class:`HubUnavailable`,
        :class:`HubFull` or :class:`HubRefused` within ``timeout``. Nothing was published then,
        unless ``maybe_published`` of the error is True: the publication may then appear later, even
        after newer ones.
        """
        return self.publish_json(topic, encode_json(data), session=session, sequence=sequence)

    @abstractmethod
    def publish_json(
        self, topic: str, json: str, *, session: str = "", sequence: int = 0
    ) -> Published:
        """Publish JSON text, like :meth:`publish`. The text is not checked for valid JSON."""

    @abstractmethod
    def history(self, topic: str, since: Position | None = None, limit: int = 0) -> History:
        """Return the kept publications of *topic*.

        :param since: return only publications after this position; None: all that are kept.
        :param limit: the maximum number of publications: the first ones after *since*, or the last
            ones if *since* is None; 0: no limit.

        Raises the same exceptions as :meth:`publish`.
        """

    @abstractmethod
    def subscribe(
        self, topic: str, callback: OnPublication, since: Position | None = None
    ) -> History:
        """Call *callback* with each new :class:`Publication`; return what was missed.

        :param since: the position to continue from; None: start now.

        The callback gets everything after the returned position in order, without gaps or
        repetitions, one call at a time. It may be called before this method returns. For
        publications that are no longer available it gets :class:`Lost`. It runs in a thread of the
        hub or of a publisher and holds up the delivery of topics, so it should be quick. Exceptions
        in it are logged.

        Raises ``ValueError`` if *callback* is already subscribed to *topic*, and the same
        exceptions as :meth:`publish`; *callback* is then not subscribed.
        """

    @abstractmethod
    def unsubscribe(self, topic: str, callback: OnPublication) -> bool:
        """End a subscription; return False if there was none.

        Waits for a running call of the callback, for at most ``timeout``, unless called in the
        callback itself. The callback is not called again.
        """

    @abstractmethod
    def join(self, topic: str, member: str, info: object = None) -> None:
        """Make *member* present on *topic*.

        It stays present until :meth:`leave`, :meth:`free` or the end of this OS process, even if
        the process crashes.

        :param info: any JSON value, which :meth:`members` returns for this member. Joining again
            replaces it.

        Raises the same exceptions as :meth:`publish`. If the hub is not available, the member joins
        as soon as the hub is available again.
        """

    @abstractmethod
    def leave(self, topic: str, member: str) -> bool:
        """Undo :meth:`join` in this process; return False if *member* was not present.

        Does not raise if the hub is not available: other processes see the change when it is
        available again.
        """

    @abstractmethod
    def members(self, topic: str) -> dict[str, Any]:
        """Return the members present on *topic* in any process, each with its *info*.

        Raises the same exceptions as :meth:`publish`.
        """

    def count(self, topic: str) -> int:
        """Return the number of members present on *topic* in any process.

        Raises the same exceptions as :meth:`publish`.
        """
        return len(self.members(topic))

    @abstractmethod
    def status(self) -> HubStatus:
        """Return a snapshot, without waiting."""

    @abstractmethod
    def wait_connected(self, timeout_ms: float | None = None) -> bool:
        """Wait until the hub can publish; return False on a time-out or after :meth:`free`.

        :param timeout_ms: the maximum time to wait, in milliseconds; None: ``timeout``.
        """

    @abstractmethod
    def free(self) -> None:
        """End the subscriptions and members of this process, and release the hub's resources.

        Waits for a running callback, for at most ``timeout``, unless called in that callback. Safe
        to call twice. Afterwards the hub raises :class:`HubUnavailable`.
        """

    @abstractmethod
    def __repr__(self) -> str:
        """Return the kind of hub and its state, without passwords."""


def check_subscriber(callback: object) -> None:
    """Raise ``TypeError`` if *callback* cannot be called with a publication."""
    check_callback(callback, "callback", "publication")


def check_since(since: object, limit: object = 0) -> None:
    """Raise ``TypeError``/``ValueError`` for an invalid position or limit."""
    if since is not None:
        if not isinstance(since, Position):
            raise TypeError(f"since must be a Position or None, not {type(since).__name__}")
        if not isinstance(since.epoch, str):
            raise TypeError(
                f"the epoch of a position must be a str, not {type(since.epoch).__name__}"
            )
        IS_INT("the offset of a position", since.offset)
        if not 0 <= since.offset < 2**53:
            raise ValueError(f"the offset of a position must be at least 0, not {since.offset}")
    if limit != 0:
        IS_INT("limit", limit)
        if limit < 0:  # type: ignore[operator]
            raise ValueError(f"limit must be at least 0 (0 means no limit), not {limit}")
