"""Which object answers a call: one for all, one per call, or one per client or session.

The number of instances is limited, and they end after a time without calls. If an instance has a
method ``free()``, it is called at its end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..core.forks import renew_in_child
from ..logs import get_logger
from ..states import (
    ServiceInstanceImplementation,
    sicClientDriven,
    sicPerGroup,
    sicPerSession,
    sicPerUser,
    sicShared,
    sicSingle,
)
from .sessions import AuthSession

_log = get_logger("mormot_ws.services")

#: seconds between two searches for expired instances
_SWEEP_SECONDS = 5


class TooManyInstances(Exception):
    """Raised if there is no room for another instance."""


class _Instance:
    __slots__ = ("object", "session_id", "used_at")

    def __init__(self, made: Any, session_id: int) -> None:
        self.object = made
        self.session_id = session_id
        self.used_at = time.monotonic()

    def is_used(self) -> None:
        """Record a call."""
        self.used_at = time.monotonic()


class Instances:
    """The instances of a service.

    :param source: the object of ``sicShared``; otherwise a function that returns a new object.
    :param seconds: how long an instance is kept without a call.
    :param most: the maximum number of instances.
    """

    def __init__(
        self, source: Any, kind: ServiceInstanceImplementation, seconds: float, most: int
    ) -> None:
        self._source = source
        self.kind = kind
        self._seconds = seconds
        self._most = most
        #: guards changes of the table; no code of the application runs while it is held
        self._safe = threading.Lock()
        renew_in_child(self, "_safe", threading.Lock)
        self._instances: dict[Any, _Instance] = {}
        self._last_number = 0
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._instances)

    def find(self, number: int, session: AuthSession | None) -> tuple[Any, int] | None:
        """Return the object for a call, and the number for its answer (0: none).

        Returns None for an unknown *number* and without a session. Raises
        :class:`TooManyInstances`, and what creating an instance raises.
        """
        kind = self.kind
        if kind is sicShared:
            return self._source, 0
        if kind is sicSingle:
            return self._source(), 0
        self.sweep()
        if kind is sicClientDriven:
            if not number:
                number = self.create(session)
            found = self._instances.get(number)
            if found is None or found.session_id != _id_of(session):
                return None
            found.is_used()
            return found.object, number
        if session is None:
            return None
        key, shown = _key_of(kind, session)
        found = self._instances.get(key)
        if found is None:
            found = self._add(key, session if kind is sicPerSession else None)
        found.is_used()
        return found.object, shown

    def create(self, session: AuthSession | None) -> int:
        """Create an instance for a client; return its number."""
        with self._safe:
            self._last_number += 1
            number = self._last_number
        self._add(number, session)
        return number

    def _add(self, key: Any, session: AuthSession | None) -> _Instance:
        self.sweep()
        if len(self._instances) >= self._most:
            raise TooManyInstances
        made = _Instance(self._source(), _id_of(session))
        with self._safe:
            kept = self._instances.setdefault(key, made)
        if kept is not made:
            # another thread was faster
            free_instance(made.object)
        return kept

    def release(self, number: int, session: AuthSession | None) -> bool:
        """Free the instance *number* of a client; return whether there was one."""
        with self._safe:
            found = self._instances.get(number)
            if found is None or found.session_id != _id_of(session):
                return False
            del self._instances[number]
        free_instance(found.object)
        return True

    def call_ended(self, made: Any) -> None:
        """Free the object of a finished call, if it was created for that call."""
        if self.kind is sicSingle:
            free_instance(made)

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
            self._free_those(lambda instance: now - instance.used_at > self._seconds)

    def _free_those(self, has_ended: Callable[[_Instance], bool]) -> None:
        with self._safe:
            ended = [key for key, instance in self._instances.items() if has_ended(instance)]
            objects = [self._instances.pop(key).object for key in ended]
        for made in objects:
            free_instance(made)


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
    try:
        free()
    # the instance is gone, whatever its free() does
    except Exception:  # noqa: BLE001
        _log.exception("free() of a %s failed", type(made).__name__)
