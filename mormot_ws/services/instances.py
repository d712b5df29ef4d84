"""Which object answers a call: one for all, one per call, or one per client or session.

The number of instances is limited, and they end after a time without calls. If an instance has a
method ``free()``, it is called at its end, never during a call.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from threading import current_thread, get_ident
from typing import Any

from ..core.forks import renew_in_child
from ..states import (
    ServiceInstanceImplementation,
    sicClientDriven,
    sicPerGroup,
    sicPerSession,
    sicPerThread,
    sicPerUser,
    sicSingle,
)
from .guarded import guarded
from .sessions import AuthSession

#: seconds between two searches for expired instances
_SWEEP_SECONDS = 5


class TooManyInstances(Exception):
    """Raised if there is no room for another instance."""


class Instance:
    """An object that answers calls, and the number of running calls."""

    __slots__ = ("calls", "has_ended", "object", "session_id", "thread", "used_at")

    def __init__(self, made: Any, session_id: int) -> None:
        self.object = made
        self.session_id = session_id
        self.used_at = time.monotonic()
        #: the number of running calls
        self.calls = 0
        #: True when it gets no more calls: it is freed after the last one
        self.has_ended = False
        #: with ``sicPerThread``, returns the thread to which it belongs, or None
        self.thread: Callable[[], threading.Thread | None] | None = None

    def is_used(self) -> None:
        """Record a call."""
        self.used_at = time.monotonic()

    def belongs_to(self, thread: threading.Thread) -> None:
        """Record the thread whose calls it answers."""
        self.thread = weakref.ref(thread)

    def begin_call(self) -> bool:
        """Count a call that begins; return False if it gets no more calls. Called with the lock of
        its table held.
        """
        # no call between these two: a finaliser may end it at any other moment
        if self.has_ended:
            return False
        self.calls += 1
        self.is_used()
        return True

    def end_call(self) -> bool:
        """Count a finished call; return whether to free the object. Called with that lock held."""
        self.calls -= 1
        self.is_used()
        return self.has_ended and not self.calls

    def end(self) -> bool:
        """End it; return whether to free the object now. Called with that lock held."""
        if self.has_ended:
            # a signal handler has done it meanwhile
            return False
        self.has_ended = True
        return not self.calls

    def has_expired(self, now: float, seconds: float) -> bool:
        """Return whether it was not called for *seconds*, or its thread has ended."""
        if self.calls:
            return False
        if self.thread is not None:
            thread = self.thread()
            if thread is None or not thread.is_alive():
                return True
        return now - self.used_at > seconds


class Instances:
    """The instances of a service.

    :param source: the object of ``sicShared``; otherwise a function that returns a new object.
    :param seconds: how long an instance is kept without a call.
    :param most: the maximum number of instances.
    :param made: called when there is a new instance, which will expire.
    """

    def __init__(
        self,
        source: Any,
        kind: ServiceInstanceImplementation,
        seconds: float,
        most: int,
        made: Callable[[], object] = lambda: None,
    ) -> None:
        self._source = source
        self.kind = kind
        self._seconds = seconds
        self._most = most
        self._made = made
        #: guards changes of the table, and the calls of each instance; no code of the application
        #: runs while it is held, except for signal handlers and finalisers, for which it is
        #: reentrant: they may free the server
        self._safe = threading.RLock()
        renew_in_child(self, "_safe", threading.RLock)
        self._instances: dict[Any, Instance] = {}
        # the objects of the parent's clients end there, and only once
        renew_in_child(self, "_instances", dict)
        #: ended instances whose objects are about to be freed; changed by single operations
        self._unfreed: deque[Instance] = deque()
        renew_in_child(self, "_unfreed", deque)
        self._last_number = 0
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._instances)

    def find(self, number: int, session: AuthSession | None) -> tuple[Instance, int] | None:
        """Return the instance for a call, and the number for its answer (0: none).

        Returns None for an unknown *number* and without a session; otherwise, :meth:`call_ended`
        must follow. Not for ``sicShared``. Raises :class:`TooManyInstances`, and what creating an
        instance raises.
        """
        kind = self.kind
        if kind is sicSingle:
            single = Instance(self._source(), 0)
            single.begin_call()
            single.end()
            return single, 0
        self.sweep()
        if kind is sicClientDriven:
            if not number:
                number = self.create(session)
            found = self._begin_call(number, _id_of(session))
            return None if found is None else (found, number)
        if kind is sicPerThread:
            return self._of_thread(), 0
        if session is None:
            return None
        key, shown = _key_of(kind, session)
        owner = session.id if kind is sicPerSession else 0
        found = self._begin_call(key, owner)
        while found is None:
            self._add(key, owner)
            found = self._begin_call(key, owner)
        return found, shown

    def _begin_call(self, key: Any, session_id: int) -> Instance | None:
        """Begin a call in the instance with that *key* and return it; None: there is none."""
        with self._safe:
            found = self._instances.get(key)
            if found is None or found.session_id != session_id or not found.begin_call():
                return None
        return found

    def _of_thread(self) -> Instance:
        """Begin a call in the instance of this thread, and return it."""
        thread, key = current_thread(), get_ident()
        while True:
            found = self._begin_call(key, 0)
            if found is None:
                self._add(key, 0, thread)
            elif found.thread is not None and found.thread() is thread:
                return found
            else:
                # it belongs to a thread that has ended, whose number this thread now has
                self.call_ended(found)
                self._free_those(lambda instance, old=found: instance is old)  # type: ignore[misc]

    def create(self, session: AuthSession | None) -> int:
        """Create an instance for a client; return its number."""
        with self._safe:
            self._last_number += 1
            number = self._last_number
        self._add(number, _id_of(session))
        return number

    def _add(self, key: Any, session_id: int, thread: threading.Thread | None = None) -> None:
        self.sweep()
        if len(self._instances) >= self._most:
            raise TooManyInstances
        made = Instance(self._source(), session_id)
        if thread is not None:
            made.belongs_to(thread)
        with self._safe:
            kept = self._instances.setdefault(key, made)
        if kept is not made:
            # another thread was faster
            free_instance(made.object)
        self._made()

    def release(self, number: int, session: AuthSession | None) -> bool:
        """Free the instance *number* of a client; return whether there was one."""
        with self._safe:
            found = self._instances.get(number)
            if found is None or found.session_id != _id_of(session):
                return False
            del self._instances[number]
            is_idle = found.end()
        if is_idle:
            free_instance(found.object)
        return True

    def call_ended(self, made: Instance) -> None:
        """Record that a call has ended; free its object if it has ended in the meantime."""
        with self._safe:
            ends = made.end_call()
        if ends:
            free_instance(made.object)

    def renew(self, session: AuthSession) -> int:
        """Keep the instances of *session* alive; return how many there are."""
        mine = [one for one in list(self._instances.values()) if one.session_id == session.id]
        for instance in mine:
            instance.is_used()
        return len(mine)

    def session_ended(self, session: AuthSession) -> None:
        """Free the instances of *session*."""
        self._free_those(lambda instance: instance.session_id == session.id)

    def sweep(self) -> None:
        """Free expired instances, every few seconds."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            self.free_expired()

    # --------------------------------------------------------------------------------------- expiry

    def next_due(self) -> float | None:
        """Return when the next instance may have expired (monotonic clock), or None."""
        if not self._instances:
            return None
        if self.kind is sicPerThread:
            # the end of a thread is not reported
            return time.monotonic()
        used = min((one.used_at for one in list(self._instances.values())), default=0.0)
        return used + self._seconds

    def has_expired(self) -> bool:
        """Return whether an instance has expired."""
        now = time.monotonic()
        return any(one.has_expired(now, self._seconds) for one in list(self._instances.values()))

    def free_expired(self) -> None:
        """Free the expired instances."""
        now = time.monotonic()
        self._free_those(lambda instance: instance.has_expired(now, self._seconds))

    def free_all(self) -> None:
        """Free all instances, because the server is being freed."""
        self._free_those(lambda instance: True)

    def _free_those(self, has_ended: Callable[[Instance], bool]) -> None:
        with self._safe:
            for key in list(self._instances):
                instance = self._instances.get(key)
                if instance is None or not has_ended(instance):
                    continue
                # those left by a Ctrl-C in the middle are freed by the next call
                if instance.end():
                    self._unfreed.append(instance)
                self._instances.pop(key, None)
        while self._unfreed:
            try:
                instance = self._unfreed.popleft()
            except IndexError:
                # another thread was faster
                return
            free_instance(instance.object)


def _id_of(session: AuthSession | None) -> int:
    return 0 if session is None else session.id


def _key_of(kind: ServiceInstanceImplementation, session: AuthSession) -> tuple[Any, int]:
    """Return the key of the instance of *session*, and its number for answers."""
    if kind is sicPerUser:
        return session.user_name, session.user.id
    if kind is sicPerGroup:
        return session.user.group_rights, session.user.group_rights
    return session.id, session.id


def free_instance(made: Any) -> None:
    """Call ``free()`` of an instance, if it has that method."""
    free = getattr(made, "free", None)
    if not callable(free):
        return
    # the instance is gone, whatever its free() does
    guarded(f"free() of a {type(made).__name__}", free)
