"""Feed: a topic in one OS process, with one hub subscription for any number of connections.

A publication is encoded once, and the same bytes are queued for all members. A new member catches
up first: publications made in the meantime wait, so that it gets what it has missed before anything
new.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ..core.frames import WebSocketFramePayload, encode_unmasked, focText
from ..core.outgoing import QueuedFrame
from ..process.sharing import Sharing
from . import wire
from .hub import Heard, History, Hub, Lost, Position, Publication

if TYPE_CHECKING:
    from .visitor import Visitor

#: publications that wait for a member that catches up; if there are more, it has to ask again
_MOST_PENDING = 1_000
#: with at most this many members, publications are not collected before sending
_FEW = 8
_TEXT = 0x80 | focText.value
_NO_FLAGS = WebSocketFramePayload(0)


def text_frame(text: str) -> QueuedFrame:
    """Return the frame of a message."""
    return QueuedFrame(focText, text.encode(), _NO_FLAGS)


class FeedOwner(Protocol):
    """What a feed needs from the server side."""

    hub: Hub

    def delivered(self, count: int) -> None:
        """Count publications that were queued for members."""


class Member:
    """One subscription of one connection."""

    __slots__ = ("after", "answered", "feed", "pending", "process", "stale", "visitor")

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.process = visitor.process
        self.feed: Feed | None = None
        #: what was published while it catches up; None: too much, or it has caught up
        self.pending: list[tuple[Position, QueuedFrame]] | None = []
        #: the position up to which it has been sent publications
        self.after = Position("", 0)
        #: the epoch of the stream when it joined, if its history is from another one
        self.stale = ""
        #: its ``sub`` is answered, and only the stream has to reach the epoch of *after*
        self.answered = False

    def begins_behind(self, position: Position) -> None:
        """Record what it had been sent when its ``sub`` was answered."""
        self.after = position

    def wants(self, position: Position) -> bool:
        """Return whether *position* is new to it, and remember that it gets that publication."""
        after = self.after
        if position.epoch == after.epoch:
            if position.offset <= after.offset:
                return False
        elif position.epoch == self.stale:
            return False
        self.after = position
        return True

    def queue(self, frame: QueuedFrame, most: int) -> bool:
        """Queue *frame*; return False when more than *most* bytes wait or the queue is full."""
        sender = self.process.sender
        return sender.outgoing.bytes <= most and sender.queue(frame)


class Sizes:
    """The moving average of the size of a topic's publications, in characters."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean = 1_000.0

    def note(self, publications: list[Publication]) -> None:
        """Take further publications into account."""
        if publications:
            mean = sum(len(each.json) for each in publications) / len(publications)
            self.mean = (self.mean + max(1.0, mean)) / 2


class Feed:
    """Distributes *topic* to the connections of this OS process.

    :param most: the maximum bytes that may wait for one connection.

    The hub calls :meth:`heard`, one call at a time. All other methods may be called from any
    thread.
    """

    def __init__(self, topic: str, owner: FeedOwner, most: int) -> None:
        self.topic = topic
        self._owner = owner
        self._most = most
        self._sharing = Sharing()
        #: of the publications read from the history; any thread may change it
        self.sizes = Sizes()
        #: guards all fields below, and *pending* and *answered* of the members. While it is held,
        #: nothing is called and no other lock is taken. Reentrant for signal handlers, which may
        #: publish
        self._safe = threading.RLock()
        #: the members that get each publication at once
        self._live: dict[Member, None] = {}
        #: a copy for the hub's thread; None: the members have changed
        self._receivers: tuple[Member, ...] | None = ()
        self._catching_up: dict[Member, None] = {}
        #: the position of the last publication heard; None: not known yet
        self.position: Position | None = None
        self._ended = False
        #: set when the subscription at the hub has succeeded or failed
        self._ready = threading.Event()
        self._failure: Exception | None = None

    # ------------------------------------------------------------------------------------ members

    def __len__(self) -> int:
        return len(self._live) + len(self._catching_up)

    def add(self, member: Member, most: int) -> str:
        """Let *member* catch up from now on.

        Return '', ``'ended'``, or ``'full'`` when there are *most* members.
        """
        with self._safe:
            if self._ended:
                return "ended"
            if 0 < most <= len(self):
                return "full"
            self._catching_up[member] = None
            member.feed = self
            if self.position is not None:
                member.stale = self.position.epoch
        return ""

    def remove(self, member: Member) -> tuple[bool, bool]:
        """Remove *member*; return whether it was there, and whether this has ended the feed."""
        with self._safe:
            if member in self._live:
                del self._live[member]
                self._receivers = None
            elif member in self._catching_up:
                del self._catching_up[member]
            else:
                return False, False
            if not self._live and not self._catching_up and not self._ended:
                self._ended = True
                return True, True
            return True, False

    # ------------------------------------------------------------------------------- the hub's side

    def start(self, since: Position | None) -> History:
        """Subscribe at the hub, for the first member; return what it has missed.

        Raises what the hub raises; the feed has then ended.
        """
        try:
            history = self._owner.hub.subscribe(self.topic, self.heard, since)
        except Exception as exc:
            with self._safe:
                self._ended = True
                self._failure = exc
            self._ready.set()
            raise
        with self._safe:
            if self.position is None:
                self.position = history.position
        self._ready.set()
        return history

    def wait(self, seconds: float) -> None:
        """Wait until another thread has subscribed at the hub.

        Raises what the hub raised there, and ``TimeoutError``.
        """
        if not self._ready.wait(seconds):
            raise TimeoutError(f"the hub did not answer within {seconds:g} s")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the subscription at the hub, after the last member."""
        self._owner.hub.unsubscribe(self.topic, self.heard)

    def heard(self, heard: Heard) -> None:
        """Pass what the hub delivers to all members. Called by the hub."""
        before = self.position
        if isinstance(heard, Lost):
            position = heard.position
            text = wire.lost(self.topic, position.epoch, position.offset, heard.reason)
        else:
            position = heard.position
            is_new = before is None or before.epoch != position.epoch
            text = wire.publication(
                self.topic, position.offset, heard.json, position.epoch if is_new else ""
            )
        plain = text_frame(text)
        encoded = plain._replace(wire=encode_unmasked(_TEXT, plain.payload))
        answered: list[Member] = []
        with self._safe:
            self.position = position
            receivers = self._receivers
            if receivers is None:
                receivers = self._receivers = tuple(self._live)
            for member in self._catching_up:
                if member.pending is not None and member not in self._live:
                    member.pending.append((position, plain))
                    if len(member.pending) > _MOST_PENDING:
                        member.pending = None
                if member.answered:
                    answered.append(member)
        slow: list[Member] = []
        most = self._most
        sharing = self._sharing
        now = sharing.begin(receivers[0].process.settings.send_delay) if receivers else 0.0
        for member in receivers:
            sender = member.process.sender
            if sender.outgoing.bytes > most or not sender.send_shared(plain, encoded, now):
                slow.append(member)
        sharing.end()
        if len(receivers) <= _FEW:
            for member in receivers:
                if member.process.sender.outgoing:
                    member.process.sender.flush_at_once()
        self._owner.delivered(len(receivers) - len(slow))
        for member in slow:
            member.visitor.fell_behind(member)
        for member in answered:
            self.catch_up(member)

    def catch_up(self, member: Member) -> None:
        """Queue what was published in the meantime for *member*, whose ``sub`` is answered.

        From then on it gets each publication at once.
        """
        while True:
            with self._safe:
                if member not in self._catching_up:
                    return
                pending = member.pending
                if pending:
                    member.pending = []
                elif pending is not None:
                    position = self.position
                    if position is not None and position.epoch != member.after.epoch:
                        # heard() continues when the stream has reached that epoch
                        member.answered = True
                        return
                    # in one step: what a signal handler or finaliser publishes before it is in
                    # *pending*, and the rest is sent at once
                    self._live[member] = self._receivers = None
                    del self._catching_up[member]
                    member.pending = None
                    if not pending:
                        return
            if pending is None:
                member.visitor.fell_behind(member)
                return
            wanted = [frame for position, frame in pending if member.wants(position)]
            for number, frame in enumerate(wanted):
                if not member.queue(frame, self._most):
                    self._owner.delivered(number)
                    member.visitor.fell_behind(member)
                    return
            self._owner.delivered(len(wanted))
