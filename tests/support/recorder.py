"""What remembers callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
)

from . import locks
from .waiting import BOUND


class Event(NamedTuple):
    """One callback."""

    name: str
    thread: threading.Thread
    value: Any


class Recorder:
    """Remembers callbacks in their order, with their threads, and lets a test wait for them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        #: guards events; notified by add()
        self._changed = threading.Condition()

    def add(self, name: str, value: Any = None) -> None:
        """Remember a callback of the current thread."""
        locks.look(f"the callback {name}")
        with self._changed:
            self.events.append(Event(name, threading.current_thread(), value))
            self._changed.notify_all()

    def frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """An ``on_incoming_frame`` that remembers the frame under the name of its opcode."""
        self.add(frame.opcode.name, frame)

    def call(self, name: str, result: Any = None) -> Callable[[Any], Any]:
        """Return a callback of one parameter that remembers it as *name* and returns *result*."""

        def callback(argument: Any) -> Any:
            self.add(name, argument)
            return result

        return callback

    @property
    def names(self) -> list[str]:
        """The names of all events, in order."""
        with self._changed:
            return [event.name for event in self.events]

    @property
    def threads(self) -> set[threading.Thread]:
        """The threads that the callbacks ran in."""
        with self._changed:
            return {event.thread for event in self.events}

    def all(self, name: str) -> list[Event]:
        """Return the events of that *name*."""
        with self._changed:
            return [event for event in self.events if event.name == name]

    def texts(self) -> list[str]:
        """Return the texts of all text frames."""
        return [event.value.text for event in self.all("focText")]

    def wait(self, name: str, n: int = 1, bound: float = BOUND) -> Event:
        """Wait for the *n*-th event of that *name* and return it; fail when it does not come
        within *bound* seconds.
        """
        with self._changed:
            if not self._changed.wait_for(
                lambda: sum(event.name == name for event in self.events) >= n, bound
            ):
                raise AssertionError(
                    f"no {name} number {n} within {bound:g} s, but {[e.name for e in self.events]}"
                )
        return self.all(name)[n - 1]
