"""Expiry: ends sessions, objects and callbacks in time, also when no more requests come.

The server's keeper looks whether something has expired. What is to be done then is the
application's code, so a short-lived thread does it.
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

_log = get_logger("mormot_ws.services")

#: the most and the fewest seconds by which something is ended too late
_MOST_LATE, _LEAST_LATE = 5.0, 0.01
#: milliseconds that stop() waits for the thread
_STOP_MS = 2_500


class Expiring(Protocol):
    """A table of what expires. Any thread may call its methods."""

    def next_due(self) -> float | None:
        """Return when the next one may have expired (monotonic clock); None: there is none. Neither
        waits nor raises.
        """

    def has_expired(self) -> bool:
        """Return whether one has expired. Neither waits nor raises."""

    def free_expired(self) -> None:
        """End those that have expired."""


class Expiry:
    """Looks after some tables.

    :param keeper: the server's; None: nothing is done in time.
    :param tables: gives the tables of now.
    :param seconds: the shortest time that something is kept.
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
        #: guards the fields below; nothing of the application runs under it
        self._safe = threading.Lock()
        self._timer: Timer | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        renew_in_child(self, "_safe", threading.Lock)
        # the timer and the thread are the parent's
        renew_in_child(self, "_timer", lambda: None)
        renew_in_child(self, "_thread", lambda: None)

    def watch(self) -> None:
        """Look after what was just added to a table. From any thread."""
        with self._safe:
            if self._timer is None and self._thread is None:
                failure = self._plan()
            else:
                failure = None
        _tell(failure)

    def stop(self) -> None:
        """Do nothing more, and wait for what is being done."""
        with self._safe:
            self._stopped = True
            timer, thread = self._timer, self._thread
        if timer is not None:
            timer.cancel()
        if thread is None or thread is current_thread():
            return
        if not joined(thread, Deadline(_STOP_MS)):
            _log.error("a service's free() does not return; its thread is left")

    def _plan(self) -> Exception | None:
        """Plan the next look, if there is anything to look after; return why that failed."""
        self._timer = None
        dues = [due for due in (table.next_due() for table in self._tables()) if due is not None]
        if not dues or self._keeper is None or self._stopped:
            return None
        try:
            self._timer = self._keeper.call_at(max(min(dues), monotonic()) + self._late, self._look)
        except (RuntimeError, OSError) as exc:
            # the next one that is added tries again
            return exc
        return None

    def _look(self) -> None:
        """End what has expired, in a thread. Called in the keeper's."""
        has_expired = any(table.has_expired() for table in self._tables())
        failure: Exception | None = None
        with self._safe:
            if has_expired and not self._stopped:
                self._timer = None
                thread = threading.Thread(
                    target=self._end_expired, name="mormot_ws services' expiry", daemon=True
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
                table.free_expired()
        finally:
            with self._safe:
                self._thread = None
                failure = self._plan()
            _tell(failure)


def _tell(failure: Exception | None) -> None:
    if failure is not None:
        _log.warning("what has expired is ended by the next calls only: %s", failure)
