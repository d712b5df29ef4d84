"""MemoryTopic: one topic of a :class:`MemoryHub`. Uses no locks, threads or clocks."""

from __future__ import annotations

import contextlib
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
        "delivered_to",
        "delivering",
        "epoch",
        "history",
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
        #: publications that are not delivered yet. They stay here while they are being delivered: a
        #: signal handler may raise in the middle, and the next delivery then goes on from here
        self.waiting: deque[Publication] = deque()
        #: all subscriptions were called with the publications up to this offset
        self.delivered_to = 0
        #: represents the call of publish() that is delivering; None: there is none
        self.delivering: object = None
        #: represent the calls of publish() that wait for that one
        self.publishers_waiting: set[object] = set()
        #: whether one of them waited too long
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
        """Forget expired data; the ages are in seconds.

        Each by itself: a signal handler that publishes forgets some too.
        """
        history, seen = self.history, self.seen
        # raised if a signal handler has published meanwhile, and has forgotten them
        with contextlib.suppress(IndexError, ValueError):
            while history:
                entry = history[0]
                if entry[0] >= now - history_age:
                    break
                history.remove(entry)
        with contextlib.suppress(RuntimeError, StopIteration):
            while seen:
                name, (_, at) = next(iter(seen.items()))
                if at >= now - window_age:
                    break
                seen.pop(name, None)

    def since(self, since: Position | None, limit: int) -> History:
        """Return what is kept after *since*."""
        position = Position(self.epoch, self.offset)
        # a copy made in one step: a signal handler may publish anywhere
        publications = [publication for _, publication in self.history.copy()]
        while publications and publications[-1].offset > position.offset:
            # it has no number yet, or was published since
            publications.pop()
        reason = ""
        if since is None:
            return History(publications[-limit:] if limit else publications, position)
        missed = position.offset - since.offset
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

    def begin_waiting(self, mine: object) -> None:
        """Note that the call represented by *mine* waits while it is crowded."""
        self.publishers_waiting.add(mine)

    def end_waiting(self, mine: object, in_time: bool) -> None:
        """End :meth:`begin_waiting`; the call now delivers, if no other call does.

        If it was not *in_time*, the callbacks are stuck, and publishers do not wait for them until
        they continue.
        """
        self.publishers_waiting.discard(mine)
        self.stands_still = not in_time
        if self.delivering is None and self.waiting:
            self.delivering = mine

    def next_delivery(
        self, mine: object, delivered: int, delivered_to: int
    ) -> tuple[list[Heard], tuple[Subscription, ...]] | None:
        """Return what the call represented by *mine* delivers next, and to which subscriptions.

        Those that have already heard it, from a call that a signal handler ended, are among them.

        None: everything is delivered, or this call has *delivered* enough and another one takes
        over.

        :param delivered_to: the offset up to which this call has delivered; 0: nothing yet.
        """
        if self.numbering:
            self.forget_interrupted()
        waiting = self.waiting
        if delivered_to:
            self.delivered_to = delivered_to
        while waiting and waiting[0].offset <= self.delivered_to:
            waiting.popleft()
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
        # a copy made in one step: a signal handler may publish anywhere
        heard: list[Heard] = [*waiting.copy()]
        del heard[_MOST_AT_ONCE:]
        subscriptions = self.subscriptions
        # there is a gap if some were dropped, or if there were no subscriptions
        start = heard[0].position.offset - 1
        if start > self.delivered_to and any(each.after < start for each in subscriptions):
            heard.insert(0, Lost(self.name, Position(self.epoch, start), TRIMMED))
        return heard, subscriptions

    def end_delivery(self, mine: object) -> bool:
        """Let other calls deliver, even if a signal handler raised in the middle of a delivery.

        Return whether it did, so that publishers that wait have to be woken.
        """
        if self.publishers_waiting:
            self.publishers_waiting.discard(mine)
        if self.delivering is not mine:
            return False
        self.delivering = None
        return True

    def subscribe(self, callback: OnPublication, since: Position | None) -> History:
        """Add a subscription; return what was missed. Raises ``ValueError`` for a second one."""
        if any(each.is_of(callback) for each in self.subscriptions):
            raise ValueError(f"the callback is already subscribed to {self.name!r}")
        while True:
            position = Position(self.epoch, self.offset)
            history = History([], position) if since is None else self.since(since, 0)
            after = history.position.offset
            subscription = Subscription(self.name, callback, after, self.epoch)
            added = (*self.subscriptions, subscription)
            # looked and changed in one step. Otherwise a signal handler has published meanwhile:
            # that would neither be in the history nor be heard
            self.subscriptions = added if self.offset == after else self.subscriptions
            if subscription in self.subscriptions:
                return history

    def unsubscribe(self, callback: OnPublication | None) -> list[Subscription]:
        """Remove the subscription of *callback*, or all; return those to be ended."""
        ended = [each for each in self.subscriptions if callback is None or each.is_of(callback)]
        self.subscriptions = tuple(each for each in self.subscriptions if each not in ended)
        if not self.subscriptions:
            self.waiting.clear()
        return ended

    def die_in_child(self) -> None:
        """In a forked child: leave everything to the parent."""
        for subscription in self.subscriptions:
            subscription.die_in_child()
