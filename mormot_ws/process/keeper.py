"""ProcessKeeper: the one thread beside the connections. It watches the clocks and sends what others
have queued.

A server has one, all clients of a Python process share one. It never waits for a single connection:
sockets are written without waiting, and one that takes nothing is left until the kernel reports
room. It never runs a callback of the user.
"""

from __future__ import annotations

import heapq
import itertools
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from time import monotonic
from typing import Protocol

from ..core.forks import call_in_child, dies_in_child
from ..logs import get_logger

_log = get_logger("mormot_ws.keeper")


#: timers below which it is not worth looking for cancelled ones
_FEW_TIMERS = 64
#: seconds between two looks at the connections whose threads may be busy
_SWEEP_SECONDS = 1.0


class FlushResult(Enum):
    """What became of the frames that a connection had queued."""

    done = "done"  # nothing is left
    blocked = "blocked"  # the kernel takes no more now: try again when the socket is writable
    busy = "busy"  # another thread is writing on the connection: try again soon


class Flushable(Protocol):
    """Something with a queue of frames that the keeper sends."""

    def flush_queued(self) -> FlushResult:
        """Send what is queued, without waiting and without raising."""

    def fileno(self) -> int:
        """Return the socket's descriptor, −1 when there is none."""


class Watched(Protocol):
    """Something that the keeper looks at in regular intervals."""

    def stand_in(self, now: float) -> object:
        """Do what cannot wait while the connection's own thread is inside a callback; without
        waiting and without raising.
        """


class Timer:
    """A call that is due at a time; :meth:`cancel` takes it back. Made by
    :meth:`ProcessKeeper.call_at`.
    """

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object] | None) -> None:
        self.action = action

    def cancel(self) -> None:
        """Make sure that the action does not start any more; it may be running just now."""
        self.action = None


class ProcessKeeper:
    """Runs timers and flushes queues in a thread of its own, which starts with the first need of
    it.

    :param name: the thread's name.

    All methods but the loop's may be called from any thread; :meth:`stop` not from the keeper's
    own.
    """

    #: seconds after which a connection that was busy, or a send that is due later, is tried again
    _RETRY = 0.005

    def __init__(self, name: str) -> None:
        self.name = name
        self._stopping = False
        self._wake_read: socket.socket | None = None
        self._wake_write: socket.socket | None = None
        self._clear()
        dies_in_child(self)

    def _clear(self) -> None:
        """Begin without a thread, and without anything to do."""
        #: guards the timers, the thread's start and end; innermost, nothing is called while it is
        #: held
        self._safe = threading.Lock()
        self._timers: list[tuple[float, int, Timer]] = []
        self._purge_at = _FEW_TIMERS  # so many timers: those that were cancelled go
        self._order = itertools.count()
        self._watched: dict[Watched, None] = {}  # in the order of their coming
        self._sweep_interval = _SWEEP_SECONDS
        self._sweeping: Timer | None = None
        self._ready: deque[Flushable] = deque()
        self._signalled = False
        self._sleeping_until = 0.0
        self._thread: threading.Thread | None = None

    def die_in_child(self) -> None:
        """In a forked child: forget the parent's connections. The next need of a keeper starts a
        thread here, unless it was stopped.
        """
        for sock in (self._wake_read, self._wake_write):
            if sock is not None:
                sock.close()
        self._wake_read = self._wake_write = None
        self._clear()

    # ---------------------------------------------------------------------------- for other threads

    def call_at(self, when: float, action: Callable[[], object]) -> Timer:
        """Call *action* in the keeper's thread at *when* on the monotonic clock, in seconds. It
        must not wait or raise.
        """
        timer = Timer(action)
        with self._safe:
            if len(self._timers) >= self._purge_at:
                self._purge()
            heapq.heappush(self._timers, (when, next(self._order), timer))
            self._start()
            wake = when < self._sleeping_until
        if wake:
            self._signal()
        return timer

    def wake(self, process: Flushable) -> None:
        """Flush the queue of *process* soon. Cheap enough to be called for every frame."""
        self._ready.append(process)
        if not self._signalled:
            # without the lock where the thread runs: this may be a signal handler
            if self._thread is None:
                with self._safe:
                    self._start()
            self._signal()

    def watch(self, process: Watched, interval: float) -> None:
        """Call ``process.stand_in(now)`` about every *interval* seconds from now on."""
        with self._safe:
            self._watched[process] = None
            sooner = interval < self._sweep_interval
            if sooner:
                self._sweep_interval = interval
            if self._sweeping is not None and not sooner:
                return
            previous, self._sweeping = self._sweeping, None
        if previous is not None:
            previous.cancel()
        self._sweeping = self.call_at(monotonic() + self._sweep_interval, self._sweep)

    def unwatch(self, process: Watched) -> None:
        """Undo :meth:`watch`."""
        with self._safe:
            self._watched.pop(process, None)

    def stop(self) -> None:
        """End the thread and wait for it. Timers that are not due are dropped. Safe to call twice."""
        with self._safe:
            self._stopping = True
            thread = self._thread
        self._signal()
        if thread is not None:
            thread.join()  # bounded: the loop never waits for a connection

    def _purge(self) -> None:
        """Forget cancelled timers, which would stay until they are due: a connection that ends
        leaves one of 20 s behind.
        """
        assert self._safe.locked()
        self._timers = [entry for entry in self._timers if entry[2].action is not None]
        heapq.heapify(self._timers)
        self._purge_at = max(_FEW_TIMERS, 2 * len(self._timers))

    def _start(self) -> None:
        assert self._safe.locked()
        if self._thread is None and not self._stopping:
            self._wake_read, self._wake_write = socket.socketpair()
            self._wake_read.setblocking(False)
            self._wake_write.setblocking(False)
            # daemon: a forgotten server or client must not keep the interpreter from ending
            thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            thread.start()
            # now: what could not be started is tried again with the next need of it
            self._thread = thread

    def _signal(self) -> None:
        self._signalled = True
        try:
            if self._wake_write is not None:
                self._wake_write.send(b"\0")
        except BlockingIOError:
            pass  # the pipe is full of signals already
        except OSError as exc:  # stop() came first
            _log.debug("keeper not woken: %s", exc)

    # -------------------------------------------------------------------------- the keeper's thread

    def _run(self) -> None:
        assert self._wake_read is not None
        assert self._wake_write is not None
        blocked: dict[int, Flushable] = {}
        retry: list[Flushable] = []
        poller = _Poller(self._wake_read.fileno())
        ready = self._ready
        # another one: this is a child that was forked in this very thread
        while not self._stopping and self._ready is ready:
            for fd in poller.wait(self._timeout(bool(retry))):
                process = blocked.pop(fd, None)
                if process is not None:
                    poller.remove(fd)
                    retry.append(process)
            # in this order: whoever queues something after the flag is down signals again, and
            # whoever did so before is in _ready
            self._drain_signals()
            self._signalled = False
            todo = list(dict.fromkeys(retry))
            retry = []
            while ready:
                todo.append(ready.popleft())
            for process in dict.fromkeys(todo):
                fd = process.fileno()
                if fd in blocked and blocked[fd] is process:
                    continue
                result = process.flush_queued()
                if result is FlushResult.busy:
                    retry.append(process)
                elif result is FlushResult.blocked and fd >= 0:
                    blocked[fd] = process
                    poller.add(fd)
            self._run_timers()
        self._wake_read.close()
        self._wake_write.close()

    def _timeout(self, retry: bool) -> float | None:
        """Return the seconds until something is due, and announce when we shall wake."""
        with self._safe:
            due = self._timers[0][0] if self._timers else None
            timeout = None if due is None else max(0.0, due - monotonic())
            if retry:
                timeout = self._RETRY if timeout is None else min(timeout, self._RETRY)
            if self._ready or self._stopping:
                timeout = 0.0
            self._sleeping_until = float("inf") if timeout is None else monotonic() + timeout
        return timeout

    def _drain_signals(self) -> None:
        assert self._wake_read is not None
        try:
            while len(self._wake_read.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass  # woken by a timer or a connection

    def _sweep(self) -> None:
        now = monotonic()
        with self._safe:
            watched = list(self._watched)
            if not watched:
                self._sweeping = None
                self._sweep_interval = _SWEEP_SECONDS
                return
        for process in watched:
            try:
                process.stand_in(now)
            # one connection's fault must not end the watch over all the others
            except Exception:  # noqa: BLE001
                _log.exception("%s: standing in for %r failed", self.name, process)
        self._sweeping = self.call_at(monotonic() + self._sweep_interval, self._sweep)

    def _run_timers(self) -> None:
        while True:
            with self._safe:
                if not self._timers or self._timers[0][0] > monotonic():
                    return
                timer = heapq.heappop(self._timers)[2]
            action = timer.action
            if action is not None:
                try:
                    action()
                # one connection's fault must not end the thread that serves them all
                except Exception:  # noqa: BLE001
                    _log.exception("a timer of %s failed", self.name)


class _Poller:
    """Readiness of the wake-up socket (to read) and of blocked connections (to write)."""

    def __init__(self, wake_fd: int) -> None:
        self._wake_fd = wake_fd
        self._writers: set[int] = set()
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(wake_fd, select.POLLIN)

    def add(self, fd: int) -> None:
        self._writers.add(fd)
        if self._poll is not None:
            self._poll.register(fd, select.POLLOUT)

    def remove(self, fd: int) -> None:
        self._writers.discard(fd)
        if self._poll is not None:
            self._poll.unregister(fd)

    def wait(self, timeout: float | None) -> list[int]:
        if self._poll is not None:
            return [
                fd
                for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000)
                if fd != self._wake_fd
            ]
        return select.select([self._wake_fd], list(self._writers), [], timeout)[1]


# ------------------------------------------------------------------------ the keeper of all clients

# guards the two names below; held while a keeper is made, never while one stops
_shared_safe = threading.Lock()
_shared: ProcessKeeper | None = None
_shared_users = 0


def acquire_shared_keeper() -> ProcessKeeper:
    """Return the keeper that all clients of this Python process share; give it back with
    :func:`release_shared_keeper`.
    """
    global _shared, _shared_users
    with _shared_safe:
        if _shared is None:
            _shared = ProcessKeeper("mormot_ws clients' keeper")
        _shared_users += 1
        return _shared


def release_shared_keeper() -> None:
    """Give the shared keeper back; its thread ends with its last user."""
    global _shared, _shared_users
    with _shared_safe:
        _shared_users -= 1
        keeper = _shared if _shared_users == 0 else None
        if keeper is not None:
            _shared = None
    if keeper is not None:
        keeper.stop()


def _forget_shared_in_child() -> None:
    """The clients that use it are the parent's."""
    global _shared, _shared_users, _shared_safe
    _shared_safe = threading.Lock()
    _shared = None
    _shared_users = 0


call_in_child(_forget_shared_in_child)
