"""Expiry: ends sessions, objects and callbacks in time, even if no more requests arrive.

The server's keeper checks whether something has expired. Ending it calls the application's code, so
this is done in a short-lived thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from threading import current_thread
from time import monotonic
from typing import Protocol

from ..core.forks import renew_in_child
from ..logs import get_logger
from ..process.freeing import joined
from ..process.keeper import ProcessKeeper, Timer
from ..sockets.deadline import Deadline
from .guarded import guarded

_log = get_logger("mormot_ws.services")

#: the maximum and minimum delay with which something is ended, in seconds
_MOST_LATE, _LEAST_LATE = 5.0, 0.01
#: milliseconds that stop() waits for the thread
_STOP_MS = 2_500


class Expiring(Protocol):
    """A table with items that expire. Any thread may call its methods."""

    def next_due(self) -> float | None:
        """Return when the next item may have expired (monotonic clock), or None.

        Neither waits nor raises.
        """

    def has_expired(self) -> bool:
        """Return whether an item has expired. Neither waits nor raises."""

    def free_expired(self) -> None:
        """End the expired items."""


class Expiry:
    """Ends the expired items of some tables.

    :param keeper: the server's keeper; None: nothing is ended in time.
    :param tables: returns the current tables.
    :param seconds: the shortest time for which an item is kept.
    """

    def __init__(
        self,
        keeper: ProcessKeeper | None,
        tables: Callable[[], Iterable[Expiring]],
        seconds: float,
    ) -> None:
        self._keeper = keeper
        self._tables = tables
        self._late = max(_LEAST_LATE, min(_MOST_LATE, seconds / 4))
        #: guards the fields below; no code of the application runs while it is held, except for
        #: signal handlers, for which it is reentrant: they may free the server
        self._safe = threading.RLock()
        self._timer: Timer | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        renew_in_child(self, "_safe", threading.RLock)
        # the timer and the thread belong to the parent
        renew_in_child(self, "_timer", lambda: None)
        renew_in_child(self, "_thread", lambda: None)

    def watch(self) -> None:
        """Plan the end of an item just added to a table. May be called from any thread."""
        with self._safe:
            if self._timer is None and self._thread is None:
                failure = self._plan()
            else:
                failure = None
        _tell(failure)

    def stop(self) -> None:
        """Stop, and wait for the end of the thread."""
        with self._safe:
            self._stopped = True
            timer, thread = self._timer, self._thread
        if timer is not None:
            timer.cancel()
        if thread is None or thread is current_thread():
            return
        if not joined(thread, Deadline(_STOP_MS)):
            _log.error("a service's free() did not return in time; its thread is left behind")

    def _plan(self) -> Exception | None:
        """Plan the next check, if there are any items; return why that failed."""
        self._timer = None
        dues = [due for due in (table.next_due() for table in self._tables()) if due is not None]
        if not dues or self._keeper is None or self._stopped:
            return None
        try:
            self._timer = self._keeper.call_at(max(min(dues), monotonic()) + self._late, self._look)
        except (RuntimeError, OSError) as exc:
            # the next item that is added tries again
            return exc
        return None

    def _look(self) -> None:
        """End the expired items in a separate thread. Called in the keeper's thread."""
        has_expired = any(table.has_expired() for table in self._tables())
        failure: Exception | None = None
        with self._safe:
            if has_expired and not self._stopped:
                self._timer = None
                thread = threading.Thread(
                    target=self._end_expired, name="services expiry", daemon=True
                )
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError as exc:
                    failure, self._thread = exc, None
            if self._thread is None:
                failure = self._plan() or failure
        _tell(failure)

    def _end_expired(self) -> None:
        try:
            for table in self._tables():
                # a mistake in one must not keep the others
                guarded("freeing expired objects", table.free_expired)
        finally:
            with self._safe:
                self._thread = None
                failure = self._plan()
            _tell(failure)


def _tell(failure: Exception | None) -> None:
    if failure is not None:
        _log.warning("expired objects are freed only by later calls: %s", failure)
