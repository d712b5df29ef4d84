"""Who holds which of the library's locks, and what runs meanwhile.

:func:`watched_locks` gives the package locks that know their owner. A log record, and each callback
that was wrapped by :meth:`LockWatch.callback`, is noted when its own thread holds one of them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import linecache
import logging
import pkgutil
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any, TypeVar

import mormot_ws

#: locks under which something may run that is not ours, and why
EXCEPTIONS = {
    "mormot_ws.rest.turns.woken": "wakes one thread, and guards nothing",
    "mormot_ws.server.base._freeing": "belongs to the thread that frees a server, and is taken"
    " before all others; reentrant for a signal handler; other threads' free() wait for it, with a"
    " bound",
    "mormot_ws.client.life._safe_freed": "the same for a client",
    "mormot_ws.server.event_connection.busy": "says that a thread is inside the connection, as the"
    " thread of a connection of the threaded server always is; nobody waits for it",
    "mormot_ws.server.event_driven.busy": "the same for a listening socket; only free() waits for"
    " it, with a bound",
}

_F = TypeVar("_F", bound=Callable[..., Any])
_MADE = re.compile(r"(\w+)(?:\s*:[^=]*)?\s*=.*threading\.")


class OwnedLock:
    """A lock that knows which thread has acquired it, and how often.

    It does what the lock *inner* does; *name* is the module and the attribute it was made for.
    """

    def __init__(self, watch: LockWatch, inner: Any, name: str) -> None:
        self._watch = watch
        self._inner = inner
        self.name = name
        self._owners: list[int] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire it, and note the thread."""
        if not self._inner.acquire(blocking, timeout):
            return False
        self._took()
        return True

    def release(self) -> None:
        """Release it, in whichever thread."""
        self._gave()
        self._inner.release()

    def _took(self) -> None:
        owner = get_ident()
        self._owners.append(owner)
        self._watch.held.setdefault(owner, []).append(self)

    def _gave(self) -> None:
        if self._owners:
            self._watch.held[self._owners.pop()].remove(self)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        """Tell whether some thread holds it."""
        return bool(self._owners)

    # what a Condition wants of its lock

    def _is_owned(self) -> bool:
        return get_ident() in self._owners

    def _release_save(self) -> int:
        depth = len(self._owners)
        for _ in range(depth):
            self.release()
        return depth

    def _acquire_restore(self, depth: int) -> None:
        for _ in range(depth):
            self.acquire()


class _Threading:
    """The module ``threading`` as the package sees it, with locks that know their owner."""

    def __init__(self, watch: LockWatch) -> None:
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)

    def Lock(self) -> OwnedLock:
        return OwnedLock(self._watch, threading.Lock(), _name_of_caller())

    def RLock(self) -> OwnedLock:
        return OwnedLock(self._watch, threading.RLock(), _name_of_caller())

    def Condition(self, lock: Any = None) -> threading.Condition:
        if lock is None:
            lock = OwnedLock(self._watch, threading.RLock(), _name_of_caller())
        return threading.Condition(lock)


def _name_of_caller() -> str:
    """Return module and attribute that the calling line assigns a new lock to."""
    frame = sys._getframe(2)
    module = str(frame.f_globals["__name__"])
    match = _MADE.search(linecache.getline(frame.f_code.co_filename, frame.f_lineno))
    return f"{module}.{match[1] if match else frame.f_code.co_name}"


class LockWatch(logging.Handler):
    """Notes each log record and callback whose thread holds a lock of the library."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        #: which locks each thread holds, in the order of their taking
        self.held: dict[int, list[OwnedLock]] = {}
        #: what was found, in words, with the way that led there
        self.found: list[str] = []
        #: how many records and callbacks were looked at
        self.looks = 0
        # the threads in which the garbage collector is at work
        self._collecting: set[int] = set()

    def look(self, what: str) -> None:
        """Note *what*, which is running now, if this thread holds a lock."""
        if get_ident() in self._collecting:
            # the garbage collector runs finalisers at any moment, under anybody's lock
            return
        self.looks += 1
        names = [lock.name for lock in self.held.get(get_ident(), ())]
        names = [name for name in names if name not in EXCEPTIONS]
        if names:
            way = "".join(traceback.format_stack(limit=14)[:-1])
            self.found.append(f"{what}\nunder {', '.join(names)}:\n{way}")

    def collects(self, phase: str, _: object) -> None:
        """For ``gc.callbacks``: the collector begins or ends its work in this thread."""
        if phase == "start":
            self._collecting.add(get_ident())
        else:
            self._collecting.discard(get_ident())

    def handle(self, record: logging.LogRecord) -> bool:
        """Look at a record. Without the handler's own lock: records of all threads come here."""
        self.look(f"the record {record.getMessage()!r}")
        return True

    def callback(self, function: _F, name: str = "") -> _F:
        """Return *function*, which looks each time it is called."""

        def watched(*args: Any, **keywords: Any) -> Any:
            self.look(name or getattr(function, "__name__", repr(function)))
            return function(*args, **keywords)

        return watched  # type: ignore[return-value]

    def holds(self, lock: object) -> bool:
        """Tell whether the calling thread holds *lock*."""
        return any(held is lock for held in self.held.get(get_ident(), ()))

    def check(self) -> None:
        """Fail when anything was found."""
        assert not self.found, "\n\n".join(dict.fromkeys(self.found))


#: the watch of the moment, None when there is none
current: LockWatch | None = None


def look(what: str) -> None:
    """Let the watch of the moment look at *what*, which is running now."""
    if current is not None:
        current.look(what)


def _modules() -> list[Any]:
    """Import and return the modules of the package, but the command line's."""
    names = [
        module.name
        for module in pkgutil.walk_packages(mormot_ws.__path__, "mormot_ws.")
        if not re.search(r"\.cli\b|__main__", module.name)
    ]
    return [importlib.import_module(name) for name in names]


@contextlib.contextmanager
def watched_locks() -> Iterator[LockWatch]:
    """Give a watch over all locks that the package makes inside the ``with`` block, and over those
    of its modules; fail at the end when something was found.
    """
    global current
    watch = LockWatch()
    lock_types = (type(threading.Lock()), type(threading.RLock()))
    replaced: list[tuple[Any, str, Any]] = []
    for module in _modules():
        for name, value in list(vars(module).items()):
            if value is threading:
                replaced.append((module, name, value))
                setattr(module, name, _Threading(watch))
            elif isinstance(value, lock_types):
                replaced.append((module, name, value))
                setattr(module, name, OwnedLock(watch, value, f"{module.__name__}.{name}"))
    logger = logging.getLogger("mormot_ws")
    level, before, current = logger.level, current, watch
    logger.setLevel(logging.DEBUG)
    logger.addHandler(watch)
    gc.callbacks.append(watch.collects)
    try:
        yield watch
    finally:
        gc.callbacks.remove(watch.collects)
        logger.removeHandler(watch)
        logger.setLevel(level)
        current = before
        for module, name, value in replaced:
            setattr(module, name, value)
    watch.check()
