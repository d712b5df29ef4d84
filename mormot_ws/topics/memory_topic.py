"""MemoryTopic: one topic of a :class:`MemoryHub`. Uses no locks, threads or clocks."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque

from .hub import (
    EPOCH,
    TRIMMED,
    Heard,
    History,
    Lost,
    OnPublication,
    Position,
    Publication,
    Published,
)
from .subscription import Subscription

#: how many publications may wait for the thread that calls the subscribers of a topic before
#: publishers have to wait for it
_MOST_AHEAD = 500
#: how many publications a thread delivers before a waiting publisher takes over
_MOST_AT_A_STRETCH = 2_000
#: how many it takes at once
_MOST_AT_ONCE = 64


class MemoryTopic:
    """One topic. The hub's lock guards all of it."""

    __slots__ = (
        "delivering",
        "epoch",
        "history",
        "lost",
        "members",
        "name",
        "numbering",
        "offset",
        "publishers_waiting",
        "seen",
        "stands_still",
        "subscriptions",
        "used_at",
        "waiting",
    )

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.epoch = secrets.token_urlsafe(9)
        #: the offset of the newest publication
        self.offset = 0
        #: True while a publication is added; left over if a signal handler has raised meanwhile
        self.numbering = False
        #: when it was published, and what
        self.history: deque[tuple[float, Publication]] = deque()
        #: (session, sequence) -> offset and time
        self.seen: OrderedDict[tuple[str, int], tuple[int, float]] = OrderedDict()
        #: replaced, never changed: the delivering thread reads it without the lock
        self.subscriptions: tuple[Subscription, ...] = ()
        self.members: dict[str, str] = {}
        #: publications that the delivering thread has not taken yet
        self.waiting: deque[Publication] = deque()
        #: some of them were dropped since it last looked
        self.lost = False
        #: represents the call of publish() that is delivering; None: there is none
        self.delivering: object = None
        #: how many calls of publish() wait for that one, and whether one of them waited too long
        self.publishers_waiting = 0
        self.stands_still = False
        #: when the topic was last used
        self.used_at = now

    def use(self, now: float) -> None:
        """Note that the topic is in use."""
        self.used_at = now

    @property
    def is_used(self) -> bool:
        """True while the topic must not be forgotten."""
        return bool(self.subscriptions or self.members or self.delivering)

    def trim(self, now: float, history_age: float, window_age: float) -> None:
        """Forget expired data; the ages are in seconds."""
        history, seen = self.history, self.seen
        while history and history[0][0] < now - history_age:
            history.popleft()
        while seen and next(iter(seen.values()))[1] < now - window_age:
            seen.popitem(last=False)

    def since(self, since: Position | None, limit: int) -> History:
        """Return what is kept after *since*."""
        publications = [publication for _, publication in self.history]
        while publications and publications[-1].offset > self.offset:
            # it has no number yet
            publications.pop()
        position = Position(self.epoch, self.offset)
        reason = ""
        if since is None:
            return History(publications[-limit:] if limit else publications, position)
        missed = self.offset - since.offset
        if since.epoch != self.epoch or missed < 0:
            reason = EPOCH
        elif missed > len(publications):
            reason = TRIMMED
        else:
            publications = publications[len(publications) - missed :]
        if limit:
            publications = publications[:limit]
        return History(publications, position, not reason, reason)

    def add(self, json: str, now: float, most: int, age: float) -> Publication:
        """Keep a publication; keep at most *most*, for *age* seconds.

        It counts only after :meth:`number`: a signal handler may raise anywhere.
        """
        self.numbering = True
        publication = Publication(self.name, self.offset + 1, self.epoch, json)
        history = self.history
        history.append((now, publication))
        oldest = now - age
        while len(history) > most or (history and history[0][0] < oldest):
            history.popleft()
        return publication

    def number(self, publication: Publication) -> None:
        """Let a publication count, in one step."""
        self.offset = publication.offset
        self.numbering = False

    def forget_interrupted(self) -> None:
        """Forget a publication that was added, but does not count."""
        newest, history, seen, waiting = self.offset, self.history, self.seen, self.waiting
        while history and history[-1][1].offset > newest:
            history.pop()
        while seen and next(reversed(seen.values()))[0] > newest:
            seen.popitem()
        while waiting and waiting[-1].offset > newest:
            waiting.pop()
        self.numbering = False

    def recall(self, name: tuple[str, int]) -> Published | None:
        """Return the offset of the publication with this name; None: there was none."""
        found = self.seen.get(name)
        return None if found is None else Published(found[0], self.epoch, True)

    def remember(self, name: tuple[str, int], offset: int, now: float, most: int) -> None:
        """Remember the name of a publication, and at most *most* names."""
        self.seen[name] = offset, now
        while len(self.seen) > most:
            self.seen.popitem(last=False)

    def begin_delivery(self, publication: Publication, mine: object, most: int) -> None:
        """Queue *publication*, among at most *most*.

        The call represented by *mine* delivers it, unless another call is delivering.
        """
        waiting = self.waiting
        waiting.append(publication)
        if len(waiting) > most:
            waiting.popleft()
            self.lost = True
        if self.delivering is None:
            self.delivering = mine

    @property
    def is_crowded(self) -> bool:
        """True while publishers should wait for the delivering call."""
        delivers = self.delivering is not None and not self.stands_still
        return delivers and len(self.waiting) > _MOST_AHEAD

    @property
    def has_room(self) -> bool:
        """True when publishers that wait may continue.

        Not for every free place: waking a thread costs as much as many publications.
        """
        return len(self.waiting) < _MOST_AHEAD // 2

    def begin_waiting(self) -> None:
        """Count a publisher that waits while it is crowded."""
        self.publishers_waiting += 1

    def end_waiting(self, mine: object, in_time: bool) -> None:
        """Stop counting it; the call represented by *mine* now delivers, if no other call does.

        If it was not *in_time*, the callbacks are stuck, and publishers do not wait for them until
        they continue.
        """
        self.publishers_waiting -= 1
        self.stands_still = not in_time
        if self.delivering is None and self.waiting:
            self.delivering = mine

    def next_delivery(
        self, mine: object, delivered: int
    ) -> tuple[list[Heard], tuple[Subscription, ...]] | None:
        """Return what the call represented by *mine* delivers next, and to which subscriptions.

        None: everything is delivered, or this call has *delivered* enough and another one takes
        over.
        """
        if self.numbering:
            self.forget_interrupted()
        waiting = self.waiting
        if delivered > _MOST_AT_A_STRETCH and self.publishers_waiting:
            self.delivering = None
            return None
        if not waiting:
            self.delivering = None
            # a signal handler may have published before that, and left it to this call
            if not waiting:
                return None
            self.delivering = mine
        self.stands_still = False
        heard: list[Heard] = []
        if self.lost:
            self.lost = False
            position = Position(self.epoch, waiting[0].offset - 1)
            heard.append(Lost(self.name, position, TRIMMED))
        # one by one: a signal handler may publish in between
        heard += [waiting.popleft() for _ in range(min(len(waiting), _MOST_AT_ONCE))]
        return heard, self.subscriptions

    def end_delivery(self, mine: object) -> None:
        """Let other calls deliver, even if a signal handler raised in the middle of a delivery."""
        if self.delivering is mine:
            self.delivering = None

    def subscribe(self, callback: OnPublication, since: Position | None) -> History:
        """Add a subscription; return what was missed. Raises ``ValueError`` for a second one."""
        if any(each.is_of(callback) for each in self.subscriptions):
            raise ValueError(f"the callback is already subscribed to {self.name!r}")
        position = Position(self.epoch, self.offset)
        history = History([], position) if since is None else self.since(since, 0)
        self.subscriptions += (Subscription(self.name, callback, self.offset, self.epoch),)
        return history

    def unsubscribe(self, callback: OnPublication | None) -> list[Subscription]:
        """Remove the subscription of *callback*, or all; return those to be ended."""
        ended = [each for each in self.subscriptions if callback is None or each.is_of(callback)]
        self.subscriptions = tuple(each for each in self.subscriptions if each not in ended)
        if not self.subscriptions:
            self.waiting.clear()
            self.lost = False
        return ended

    def die_in_child(self) -> None:
        """In a forked child: leave everything to the parent."""
        for subscription in self.subscriptions:
            subscription.die_in_child()
