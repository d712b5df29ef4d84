"""Hub: numbered publications on topics, a bounded history of each topic, and who is there.

A hub knows no connection. Server code publishes and subscribes with it directly; the protocol of
topics subscribes to it once for each topic that its connections want.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from json import JSONEncoder, loads
from typing import Any, ClassVar, NamedTuple

from ..attributes import IS_INT, IS_MILLISECONDS, Check, CheckedAttributes
from ..callbacks import check_callback
from ..process.freeing import FreedByWith

#: the most characters of a topic's name, of a member's, and of a session's
MOST_NAME = 255

#: why a history does not reach back: the position is of another epoch
EPOCH = "epoch"
#: … the publications after the position are no longer kept
TRIMMED = "trimmed"


class Position(NamedTuple):
    """How far somebody has read a topic."""

    #: of which numbering; it changes when publications were lost
    epoch: str
    #: the last publication that was read; 0: none yet
    offset: int


class Publication(NamedTuple):
    """One message of a topic."""

    topic: str
    #: 1, 2, 3, … in the topic, without gaps
    offset: int
    #: of which numbering. It may change from one publication to the next without anything being
    #: lost, when Redis was restarted with all of its data
    epoch: str
    #: what was published, as compact JSON text
    json: str

    @property
    def data(self) -> Any:
        """What was published; decoded at each call."""
        return loads(self.json)

    @property
    def position(self) -> Position:
        """The position of somebody who has read the topic up to this publication."""
        return Position(self.epoch, self.offset)

    def __repr__(self) -> str:
        return (
            f"Publication({self.topic!r}, {self.offset}, {self.epoch!r},"
            f" <{len(self.json)} characters>)"
        )


class Published(NamedTuple):
    """The number that a publication was given."""

    offset: int
    epoch: str
    #: True: the hub had (session, sequence) already, and *offset* is that of the first time
    repeated: bool = False

    @property
    def position(self) -> Position:
        """The position of somebody who has read the topic up to this publication."""
        return Position(self.epoch, self.offset)


class History(NamedTuple):
    """Publications of the past."""

    #: in order. When it was not recovered: what is still kept
    publications: list[Publication]
    #: that of the newest publication there is
    position: Position
    #: True: *publications* begins right after the position that was asked for, without a gap
    recovered: bool = True
    #: when not recovered: ``"epoch"`` or ``"trimmed"``
    reason: str = ""


class Lost(NamedTuple):
    """Given to a callback instead of a publication: some after its position cannot be had."""

    topic: str
    #: where it goes on: the next publication has the next offset
    position: Position
    #: ``"epoch"``: the hub has lost its data; ``"trimmed"``: they are no longer kept
    reason: str


#: what a subscriber's callback is called with
Heard = Publication | Lost
#: a subscriber's callback
OnPublication = Callable[[Heard], Any]


@dataclass(frozen=True)
class HubStatus:
    """A snapshot of one hub, as seen by this OS process."""

    #: True while the hub can publish
    connected: bool
    #: topics that this process knows
    topics: int
    #: callbacks subscribed in this process
    subscribers: int
    #: members that this process has joined to topics
    members: int
    #: publications by this process, without those that were repeated
    published: int
    #: repeated publications that the hub has recognised
    repeated: int
    #: calls of callbacks with a publication
    delivered: int
    #: calls of callbacks with :class:`Lost`
    lost: int
    #: how often the hub was lost and came back
    reconnects: int
    #: publications kept in this process's memory
    kept: int
    #: the last fault, in words; ``''``: none yet
    last_error: str

    def as_dict(self) -> dict[str, Any]:
        """Return the same as a dictionary, e.g. for JSON."""
        return asdict(self)


def is_from(least: int, check: Check) -> Check:
    """Return a check that a setting is a number from *least* on."""

    def check_least(name: str, value: Any) -> None:
        check(name, value)
        # written so that NaN, for which every comparison is False, is refused as well
        if not least <= value < 2**53:
            raise ValueError(f"{name} must be at least {least}, not {value}")

    return check_least


def check_name(what: str, name: object) -> None:
    """Raise ``TypeError``/``ValueError`` when *name* cannot be the name of a topic, a member or a
    session: 1 to 255 characters, none of them a control character.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__}")
    if not name or len(name) > MOST_NAME:
        raise ValueError(f"{what} has 1 to {MOST_NAME} characters, not {len(name)}")
    # as quick as one look at each character, and nearly all names pass it
    if not name.isprintable() and any(
        ord(each) < 32 or 127 <= ord(each) < 160 or 0xD800 <= ord(each) < 0xE000 for each in name
    ):
        raise ValueError(f"{what} has no control characters and no surrogates, unlike {name!r}")


_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_json(data: object) -> str:
    """Return *data* as compact JSON text.

    Raises ``TypeError``/``ValueError`` for what JSON cannot say: other types, NaN, circles, half
    surrogates.
    """
    try:
        text = _encode(data)
    except RecursionError:
        raise ValueError("the data of a publication is nested too deeply for JSON") from None
    check_json(text)
    return text


def check_json(json: object) -> None:
    """Raise ``TypeError``/``ValueError`` when *json* cannot be sent as text. It is not parsed."""
    if not isinstance(json, str):
        raise TypeError(f"JSON text must be a str, not {type(json).__name__}")
    if not json:
        raise ValueError("JSON text is not empty")
    if not json.isascii():
        try:
            json.encode()
        except UnicodeEncodeError as exc:
            half = exc.object[exc.start]
            raise ValueError(f"JSON text has no half surrogates, unlike {half!r}") from None


def check_repeat(session: object, sequence: object) -> None:
    """Raise ``TypeError``/``ValueError`` when they cannot name a publication of a session."""
    if session == "" and sequence == 0:
        return
    check_name("session", session)
    IS_INT("sequence", sequence)
    if not 1 <= sequence < 2**53:  # type: ignore[operator]
        raise ValueError(f"sequence must be at least 1 when there is a session, not {sequence}")


class Hub(FreedByWith, CheckedAttributes):
    """What topics are published on. :class:`MemoryHub` is one OS process's own; with
    :class:`RedisHub` several processes and machines share one.

    All methods may be called from any thread, and in callbacks. No callback is called while a lock
    of the hub is held. In a forked child a hub starts afresh: the subscriptions and the members are
    the parent's.

    A *topic* is any name of 1 to 255 characters without control characters, and is there as soon as
    it is used.

    :param history_count: how many publications of a topic are kept; 0: none.
    :param history_age: how many milliseconds they are kept.
    :param window_count: how many (session, sequence) of a topic are remembered, so that a
        publication that is repeated is recognised.
    :param window_age: how many milliseconds they are remembered.
    :param topic_age: how many milliseconds the numbering of a topic is remembered after its last
        use. After that it begins again, in a new epoch.
    :param timeout: the most milliseconds that a call waits.
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
        timeout: float = 5_000,
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
        """Publish *data*, any value that JSON can say; return its number.

        :param session: with *sequence*, from 1, the name of this publication: when the hub has it
            already, nothing is published, and the number of the first time is returned.

        When it returns, the publication is in the history. Its subscribers in this process may have
        been called already, or are called in another thread.

        Raises ``TypeError``/``ValueError`` for arguments that cannot be, and, within ``timeout``,
        :class:`HubUnavailable`, :class:`HubFull` or :class:`HubRefused`. Then nothing was
        published, unless the error's ``maybe_published`` is True; it may then appear later, also
        behind newer ones.
        """
        return self.publish_json(topic, encode_json(data), session=session, sequence=sequence)

    @abstractmethod
    def publish_json(
        self, topic: str, json: str, *, session: str = "", sequence: int = 0
    ) -> Published:
        """Publish JSON text, which is not checked to be JSON; else like :meth:`publish`."""

    @abstractmethod
    def history(self, topic: str, since: Position | None = None, limit: int = 0) -> History:
        """Return what is kept of *topic*.

        :param since: only what comes after this position; None: all that is kept.
        :param limit: at most so many: the first after *since*, or the last without one; 0: no
            limit.

        Raises like :meth:`publish`.
        """

    @abstractmethod
    def subscribe(
        self, topic: str, callback: OnPublication, since: Position | None = None
    ) -> History:
        """Call *callback* with each :class:`Publication` from now on; return what was missed.

        :param since: the position from which on publications are wanted; None: from now on.

        The callback gets all that comes after the returned position, in order, without gaps and
        repetitions, one call at a time. It may be called before this method returns. When
        publications cannot be had any more, it gets :class:`Lost` in their place. It runs in a
        thread of the hub or of a publisher, and the topics wait for it: it should be quick. What it
        raises is logged.

        Raises ``ValueError`` when *callback* is subscribed to *topic* already, and else like
        :meth:`publish`: then it is not subscribed.
        """

    @abstractmethod
    def unsubscribe(self, topic: str, callback: OnPublication) -> bool:
        """End a subscription; return False when there was none.

        A call that is running is waited for, at most ``timeout``, unless this is called in the
        callback itself. The callback is not called again.
        """

    @abstractmethod
    def join(self, topic: str, member: str, info: object = None) -> None:
        """Make *member* present on *topic*, until :meth:`leave`, :meth:`free` or the end of this OS
        process, even a sudden one.

        :param info: any JSON value that :meth:`members` shows for it. A member that has joined
            already has the new one.

        Raises like :meth:`publish`; a member that the hub could not be told of now is joined when
        it is back.
        """

    @abstractmethod
    def leave(self, topic: str, member: str) -> bool:
        """End what :meth:`join` began in this process; return False when *member* was not there.

        It does not raise when the hub is away: the others are told when it is back.
        """

    @abstractmethod
    def members(self, topic: str) -> dict[str, Any]:
        """Return who is present on *topic*, in any process, with what :meth:`join` was told.

        Raises like :meth:`publish`.
        """

    def count(self, topic: str) -> int:
        """Return how many members are present on *topic*, in any process. Raises like
        :meth:`publish`.
        """
        return len(self.members(topic))

    @abstractmethod
    def status(self) -> HubStatus:
        """Return a snapshot, without waiting."""

    @abstractmethod
    def wait_connected(self, timeout_ms: float | None = None) -> bool:
        """Wait until the hub can publish; return False when it cannot, or was freed.

        :param timeout_ms: the most milliseconds to wait; None: ``timeout``.
        """

    @abstractmethod
    def free(self) -> None:
        """End the subscriptions and the members of this process, and what the hub holds.

        A callback that is running is waited for, at most ``timeout``, unless this is called in it.
        Safe to call twice. After that the hub raises :class:`HubUnavailable`.
        """

    @abstractmethod
    def __repr__(self) -> str:
        """Return what it is, and how it is doing; never a password."""


def check_subscriber(callback: object) -> None:
    """Raise ``TypeError`` when *callback* cannot be called with a publication."""
    check_callback(callback, "callback", "publication")


def check_since(since: object, limit: object = 0) -> None:
    """Raise ``TypeError``/``ValueError`` for what is no position, or no limit."""
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
