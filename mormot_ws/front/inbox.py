"""Inbox: the messages that a connection has received and nobody has read yet, up to a limit.

One thread puts, any number of threads get. No connection or callback belongs in here.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from itertools import starmap
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Literal

from ..core.taking import LONGEST_WAIT
from .messages import Message

#: what to do when the inbox is full
Overflow = Literal["wait", "drop_oldest", "close"]

#: no message was taken
_NOTHING = object()
#: the arguments of one call, for map() and starmap()
_ONCE: tuple[tuple[()]] = ((),)
_NOT_WAITING = (False,)
_WAITING = (True,)
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
        #: messages to read before those, because an exception has interrupted their reader
        self.returned: deque[Message] = deque()
        #: held while something is put
        self.safe = threading.RLock()
        #: guards _wanted. Innermost lock
        self._safe_room = threading.RLock()
        #: notified when a message was taken, and at the end
        self._room = threading.Condition(self._safe_room)
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
        with self._safe_room:
            self._wanted = True
            if self.messages.qsize() >= self.most and not self._ended:
                self._room.wait(_LOOK)
            self._wanted = False

    def take(self) -> Message | None:
        """Return the oldest message; None if there is none at the moment. Never waits."""
        message: Any = _NOTHING
        try:
            # a loop, because signal handlers run after calls, but not between the two steps here:
            # getting a message and keeping it
            if self.returned:
                for message in starmap(self.returned.popleft, _ONCE):  # noqa: B007
                    break
            else:
                for message in map(self.messages.get, _NOT_WAITING):  # noqa: B007
                    break
            if message is None or self._wanted:
                self._taken(message)
            return message  # type: ignore[no-any-return]
        except (Empty, IndexError):
            # IndexError: another reader was faster
            return None
        except BaseException:
            self._give_back(message)
            raise

    def get(self, timeout: float | None) -> Message | None:
        """Wait for a message, for up to *timeout* seconds; None: there will be no further message.

        Raises ``TimeoutError``.
        """
        message: Any = _NOTHING
        end = math.inf if timeout is None else monotonic() + timeout
        wait = LONGEST_WAIT if timeout is None else min(timeout, LONGEST_WAIT)
        try:
            while message is _NOTHING:
                try:
                    # a loop, as in take()
                    for message in map(self.messages.get, _WAITING, (wait,)):  # noqa: B007
                        break
                except Empty:
                    wait = min(end - monotonic(), LONGEST_WAIT)
                    if wait <= 0:
                        raise TimeoutError(f"no message within {timeout:g} s") from None
            if message is None or self._wanted:
                self._taken(message)
            return message  # type: ignore[no-any-return]
        except BaseException:
            self._give_back(message)
            raise

    def _taken(self, message: Message | None) -> None:
        if message is None:
            self.messages.put(None)
        if self._wanted:
            with self._safe_room:
                self._room.notify_all()

    def _give_back(self, message: Any) -> None:
        """Keep *message*, whose reader was interrupted, for the next one."""
        if message is _NOTHING:
            return
        with self.safe:
            if message is None or not self.messages.qsize():
                # this also wakes another reader
                self.messages.put(message)
            else:
                self.returned.appendleft(message)

    def end(self) -> None:
        """There will be no further messages; those in the inbox can still be read."""
        self._ended = True
        self.messages.put(None)
        with self._safe_room:
            self._room.notify_all()

    def die_in_child(self) -> None:
        """End, in a forked child."""
        self.safe, self._safe_room = threading.RLock(), threading.RLock()
        self._room = threading.Condition(self._safe_room)
        self.messages = SimpleQueue()
        self.returned = deque()
        self.messages.put(None)
        self._ended = True
