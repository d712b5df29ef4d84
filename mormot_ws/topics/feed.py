"""Feed: one topic in one OS process: one subscription at the hub, for any number of connections.

A publication is encoded once, and the same bytes are queued for all of its members. A member that
has just come catches up first: what is published meanwhile waits for it, so that it gets what it
has missed before what is new.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ..core.frames import WebSocketFramePayload, encode_unmasked, focText
from ..core.outgoing import QueuedFrame
from ..process.sender import sharing_time
from . import wire
from .hub import Heard, History, Hub, Lost, Position, Publication

if TYPE_CHECKING:
    from .visitor import Visitor

#: publications that wait for a member that catches up; one with more has to ask again
_MOST_PENDING = 1_000
#: with at most so many members, publications are not gathered before they are sent
_FEW = 8
_TEXT = 0x80 | focText.value
_NO_FLAGS = WebSocketFramePayload(0)


def text_frame(text: str) -> QueuedFrame:
    """Return the frame of a message."""
    return QueuedFrame(focText, text.encode(), _NO_FLAGS)


class FeedOwner(Protocol):
    """What a feed needs of the server's side."""

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
        #: what was published while it catches up; None: too much, or it does not any more
        self.pending: list[tuple[Position, QueuedFrame]] | None = []
        #: what it has been sent
        self.after = Position("", 0)
        #: the epoch that the stream was in when it came, if its history is of another one
        self.stale = ""
        #: its ``sub`` is answered, and it only waits for the stream to reach the epoch of *after*
        self.answered = False

    def begins_behind(self, position: Position) -> None:
        """Record what it has been sent when its ``sub`` was answered."""
        self.after = position

    def wants(self, position: Position) -> bool:
        """Tell whether what is at *position* is new to it, and remember that it gets it."""
        after = self.after
        if position.epoch == after.epoch:
            if position.offset <= after.offset:
                return False
        elif position.epoch == self.stale:
            return False
        self.after = position
        return True

    def queue(self, frame: QueuedFrame, most: int) -> bool:
        """Queue *frame*; return False when more than *most* bytes wait, or there is no room."""
        sender = self.process.sender
        return sender.outgoing.bytes <= most and sender.queue(frame)


class Sizes:
    """How large the publications of a topic are: a moving mean, in characters."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean = 1_000.0

    def note(self, publications: list[Publication]) -> None:
        """Take some more into account."""
        if publications:
            mean = sum(len(each.json) for each in publications) / len(publications)
            self.mean = (self.mean + max(1.0, mean)) / 2


class Feed:
    """The topic *topic*, as the connections of this OS process hear it.

    :param most: bytes that may wait for one connection.

    The hub calls :meth:`heard`, one call at a time. All other methods may be called from any
    thread.
    """

    def __init__(self, topic: str, owner: FeedOwner, most: int) -> None:
        self.topic = topic
        self._owner = owner
        self._most = most
        #: of what was asked of the history; any thread may change it
        self.sizes = Sizes()
        #: guards all fields below, and *pending* and *answered* of the members; nothing else is
        #: called or taken while it is held. Reentrant for signal handlers, which may publish
        self._safe = threading.RLock()
        #: those that get each publication at once
        self._live: dict[Member, None] = {}
        #: the same for the hub's thread; None: they have changed
        self._receivers: tuple[Member, ...] | None = ()
        self._catching_up: dict[Member, None] = {}
        #: that of the last publication heard; None: nothing is known yet
        self.position: Position | None = None
        self._ended = False
        #: set when the subscription at the hub is there, or has failed
        self._ready = threading.Event()
        self._failure: Exception | None = None

    # ------------------------------------------------------------------------------------ members

    def __len__(self) -> int:
        return len(self._live) + len(self._catching_up)

    def add(self, member: Member, most: int) -> str:
        """Let *member* catch up from now on; return '', ``'ended'``, or ``'full'`` when there are
        *most* members.
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
        """Remove *member*; return whether it was there, and whether the feed has ended by that."""
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
        """Subscribe at the hub, for the first member; return what it has missed. Raises what the
        hub raises: then the feed has ended.
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
        """Wait until another thread has subscribed at the hub. Raises what the hub has raised
        there, and ``TimeoutError``.
        """
        if not self._ready.wait(seconds):
            raise TimeoutError(f"the hub has not answered within {seconds:g} s")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the subscription at the hub, after the last member."""
        self._owner.hub.unsubscribe(self.topic, self.heard)

    def heard(self, heard: Heard) -> None:
        """Hand what the hub tells to all members. Called by the hub."""
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
                if member.pending is not None:
                    member.pending.append((position, plain))
                    if len(member.pending) > _MOST_PENDING:
                        member.pending = None
                if member.answered:
                    answered.append(member)
        slow: list[Member] = []
        most = self._most
        now = sharing_time()
        for member in receivers:
            sender = member.process.sender
            if sender.outgoing.bytes > most or not sender.send_shared(plain, encoded, now):
                slow.append(member)
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
        """Queue for *member*, whose ``sub`` is answered, what was published meanwhile; from then on
        it gets each publication at once.
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
                    if position is None or position.epoch == member.after.epoch:
                        del self._catching_up[member]
                        member.pending = None
                        self._live[member] = None
                        self._receivers = None
                    else:
                        # heard() goes on, when the stream has reached that epoch
                        member.answered = True
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
