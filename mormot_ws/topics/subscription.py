"""Subscription: one callback on one topic, called by one thread at a time.

It does not use the hub and takes no locks.
"""

from __future__ import annotations

import threading
from threading import get_ident
from types import BuiltinMethodType, MethodType

from ..logs import get_logger
from .hub import Heard, OnPublication

_log = get_logger("mormot_ws.topics")


class Subscription:
    """A callback, and whether it is running.

    The thread that calls it writes ``_running``, then reads ``active``. The thread that ends it
    writes ``active``, then reads ``_running``. So at least one of them notices the other.
    """

    __slots__ = (
        "_ended",
        "_inherited",
        "_running",
        "active",
        "after",
        "callback",
        "epoch",
        "topic",
    )

    def __init__(self, topic: str, callback: OnPublication, after: int, epoch: str) -> None:
        self.topic = topic
        self.callback = callback
        #: publications up to this offset, in this epoch, are not for it, or no longer
        self.after = after
        self.epoch = epoch
        #: it may be called
        self.active = True
        #: True in a forked child: it belongs to the parent
        self._inherited = False
        #: the thread in which it is running; 0: none
        self._running = 0
        #: set when a call has ended; created by the one thread that waits for it
        self._ended: threading.Event | None = None

    def is_of(self, callback: OnPublication) -> bool:
        """Return whether this is the subscription of *callback*.

        A bound method is a new object on each access, so methods are compared with ``==``. Other
        callables may be equal without being the same.
        """
        own = self.callback
        return own is callback or (
            isinstance(own, (MethodType, BuiltinMethodType)) and own == callback
        )

    def move_to(self, epoch: str, after: int) -> None:
        """Continue after this position."""
        self.epoch = epoch
        self.after = after

    def call(self, heard: Heard, after: int | None = None) -> BaseException | None:
        """Call the callback unless it was ended; return what the caller must raise later.

        Exceptions in the callback are logged, except for Ctrl-C in the main thread. What a signal
        handler raises before it is raised at once, and *heard* then still is for it.

        :param after: publications up to this offset are no longer for it when it was called.
        """
        thread = get_ident()
        try:
            self._running = thread
            if self.active:
                self.callback(heard)
        except KeyboardInterrupt as exc:
            if self._inherited:
                raise
            if threading.current_thread() is threading.main_thread():
                return exc
            _log.exception("a subscriber of the topic %r failed", self.topic)
        # a bug or sys.exit() in the user's code is logged, and affects no other subscriber
        except BaseException:
            # it has to end a child that the callback forked
            if self._inherited:
                raise
            _log.exception("a subscriber of the topic %r failed", self.topic)
        finally:
            if after is not None:
                self.after = after
            self._running = 0
            if self._ended is not None:
                self._ended.set()
        return None

    def end(self, seconds: float) -> None:
        """Prevent further calls; wait up to *seconds* for a running call in another thread.

        Called once, by the thread that removed it from its topic.
        """
        self.active = False
        if self._running in (0, get_ident()):
            return
        ended = self._ended = threading.Event()
        # the call may have ended before it could see the event
        if self._running and not ended.wait(seconds):
            _log.warning(
                "a subscriber of the topic %r was ended, but its callback is still running after"
                " %.1f s",
                self.topic,
                seconds,
            )

    def die_in_child(self) -> None:
        """In a forked child: leave everything to the parent."""
        self._inherited = True
        self.active = False
