"""Inbox: the messages that a connection has received and nobody has read yet, up to a limit.

One thread puts, any number of threads get. No connection or callback belongs in here.
"""

from __future__ import annotations

import math
import threading
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Literal

from ..core.taking import LONGEST_WAIT
from .messages import Message

#: what to do when the inbox is full
Overflow = Literal["wait", "drop_oldest", "close"]

#: seconds after which a thread that waits for room checks again
_LOOK = 1.0


class Inbox:
    """Keeps up to *most* messages; *overflow* determines what happens to further messages."""

    def __init__(self, most: int, overflow: Overflow) -> None:
        #: how many messages it can keep
        self.most = most
        #: what to do when the inbox is full
        self.overflow: Overflow = overflow
        #: for callers that need no more than its methods. None: there will be no further message;
        #: it stays there for other readers
        self.messages: SimpleQueue[Message | None] = SimpleQueue()
        #: guards _wanted; notified when a message was taken, and at the end. Innermost lock
        self._room = threading.Condition()
        # True while the putting thread waits for room
        self._wanted = False
        self._ended = False
        #: how many messages were dropped
        self.dropped = 0

    def offer(self, message: Message) -> bool:
        """Keep *message*; return False if there is no room for it. Never waits."""
        messages = self.messages
        if messages.qsize() >= self.most:
            if self.overflow != "drop_oldest":
                return False
            self.take()
            self.dropped += 1
        messages.put(message)
        return True

    def wait_for_room(self) -> None:
        """Wait until a message was taken, or until the end; at most a second."""
        with self._room:
            self._wanted = True
            if self.messages.qsize() >= self.most and not self._ended:
                self._room.wait(_LOOK)
            self._wanted = False

    def take(self) -> Message | None:
        """Return the oldest message; None if there is none at the moment. Never waits."""
        try:
            message = self.messages.get_nowait()
        except Empty:
            return None
        if message is None or self._wanted:
            self._taken(message)
        return message

    def get(self, timeout: float | None) -> Message | None:
        """Wait for a message, for up to *timeout* seconds; None: there will be no further message.

        Raises ``TimeoutError``.
        """
        if timeout is not None and timeout <= LONGEST_WAIT:
            try:
                message = self.messages.get(timeout=timeout)
            except Empty:
                raise TimeoutError(f"no message within {timeout:g} s") from None
        else:
            message = self._get_in_slices(math.inf if timeout is None else timeout)
        if message is None or self._wanted:
            self._taken(message)
        return message

    def _get_in_slices(self, timeout: float) -> Message | None:
        end = monotonic() + timeout
        left = timeout
        while True:
            try:
                return self.messages.get(timeout=min(max(left, 0.0), LONGEST_WAIT))
            except Empty:
                left = end - monotonic()
                if left <= 0:
                    raise TimeoutError(f"no message within {timeout:g} s") from None

    def _taken(self, message: Message | None) -> None:
        if message is None:
            self.messages.put(None)
        if self._wanted:
            with self._room:
                self._room.notify_all()

    def end(self) -> None:
        """There will be no further messages; those in the inbox can still be read."""
        self._ended = True
        self.messages.put(None)
        with self._room:
            self._room.notify_all()

    def die_in_child(self) -> None:
        """End, in a forked child."""
        self._room = threading.Condition()
        self.messages = SimpleQueue()
        self.messages.put(None)
        self._ended = True
