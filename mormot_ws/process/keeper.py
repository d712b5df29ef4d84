"""ProcessKeeper: the one thread beside the connections, for clocks and queued frames.

Each server has one; all clients of an OS process share one. The thread never waits for a single
connection: it writes without waiting, and leaves a full socket until the kernel reports room. It
never runs the application's callbacks. Its work for a connection is in ``liveness.py`` (pings,
pongs, time-outs) and ``sender.py`` (the queue).
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from time import monotonic, sleep
from typing import Protocol

from ..core.forks import call_in_child, dies_in_child
from ..logs import get_logger
from ..sockets.deadline import Deadline
from ..sockets.grouped import GroupedSelector
from .freeing import joined

_log = get_logger("mormot_ws.keeper")


#: with fewer timers, looking for cancelled ones is not worthwhile
_FEW_TIMERS = 64
#: the longest time in seconds between two checks of connections whose threads may be busy
_SWEEP_SECONDS = 1.0
#: seconds that the thread waits at most: operating systems take 24 days, in milliseconds
_LONGEST_WAIT = 3_600.0
#: seconds that the thread pauses after a fault that no connection has caused
_AFTER_FAULT = 0.1
#: seconds that stop() waits for the thread
_STOP_SECONDS = 5.0


class FlushResult(Enum):
    """The result of flushing a connection's queue."""

    done = "done"  # the queue is empty
    blocked = "blocked"  # the kernel's buffer is full: try again when the socket is writable
    busy = "busy"  # another thread is writing on the connection: try again soon


class Flushable(Protocol):
    """An object with a queue of frames that the keeper sends."""

    def flush_queued(self) -> FlushResult:
        """Send the queued frames; neither wait nor raise."""

    def fileno(self) -> int:
        """Return the socket's descriptor; −1 if there is none."""


class Watched(Protocol):
    """An object that the keeper checks at regular intervals."""

    def stand_in(self, now: float) -> object:
        """Do what cannot wait while the connection's own thread is inside a callback.

        It must neither wait nor raise.
        """


class Timer:
    """A scheduled call, which :meth:`cancel` cancels; created by :meth:`ProcessKeeper.call_at`."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object] | None) -> None:
        self.action = action

    def cancel(self) -> None:
        """Prevent the action from starting; it may already be running."""
        self.action = None


class ProcessKeeper:
    """Runs timers and flushes queues in its own thread, which starts when it is first needed.

    :param name: the thread's name.

    Any thread may call the public methods. All except :meth:`stop` may also be called in a signal
    handler or a finalizer, whatever that has interrupted: work is handed to the thread by atomic
    operations of deques and dicts, without a lock. :meth:`stop` must not be called in the keeper's
    own thread.

    No exception in the work for one connection ends the thread.
    """

    #: seconds after which a busy connection, or a send that is due later, is tried again
    _RETRY = 0.005

    def __init__(self, name: str) -> None:
        self.name = name
        self._stopping = False
        self._wake_read: socket.socket | None = None
        self._wake_write: socket.socket | None = None
        self._clear()
        dies_in_child(self)

    def _clear(self) -> None:
        """Start without a thread and without work."""
        #: held while the thread is started; nothing is called while it is held. It is reentrant,
        #: because a signal handler that needs the keeper may interrupt the start
        self._safe_start = threading.RLock()
        self._starting = False  # guarded by _safe_start
        self._thread: threading.Thread | None = None  # set under _safe_start
        #: timers that the thread has not taken yet
        self._new_timers: deque[tuple[float, int, Timer]] = deque()
        self._ready: deque[Flushable] = deque()
        self._signalled = False
        self._watched: dict[
            Watched, float
        ] = {}  # with their intervals, in the order of registration
        # the fields below belong to the thread; others only read them
        self._timers: list[tuple[float, int, Timer]] = []
        self._purge_at = _FEW_TIMERS  # with this many timers, cancelled ones are removed
        self._order = itertools.count()
        self._sweep_interval = _SWEEP_SECONDS
        self._sweeping: Timer | None = None
        self._sleeping_until = 0.0

    def die_in_child(self) -> None:
        """Discard the parent's connections, in a forked child.

        A new thread starts when the keeper is next needed, unless it was stopped.
        """
        for sock in (self._wake_read, self._wake_write):
            if sock is not None:
                sock.close()
        self._wake_read = self._wake_write = None
        self._clear()

    # ---------------------------------------------------------------------------- for other threads

    def call_at(self, when: float, action: Callable[[], object]) -> Timer:
        """Call *action* in the keeper's thread at *when* (monotonic clock, in seconds).

        *action* must neither wait nor raise. Raises ``RuntimeError`` or ``OSError`` if the thread
        cannot be started; the next call tries again.
        """
        timer = Timer(action)
        new = self._new_timers
        new.append((when, next(self._order), timer))
        if self._thread is None:
            self._start()
        # wake the thread for many timers, too, otherwise cancelled ones would pile up
        if when < self._sleeping_until or len(new) > _FEW_TIMERS:
            self._signal()
        return timer

    def wake(self, process: Flushable) -> None:
        """Flush the queue of *process* soon; cheap enough to be called for every frame.

        Raises like :meth:`call_at`.
        """
        self._ready.append(process)
        if not self._signalled:
            if self._thread is None:
                self._start()
            self._signal()

    def watch(self, process: Watched, interval: float) -> None:
        """Call ``process.stand_in(now)`` about every *interval* seconds from now on.

        Raises like :meth:`call_at`.
        """
        self._watched[process] = interval
        if self._sweeping is None or interval < self._sweep_interval:
            self.call_at(0.0, self._plan_sweep)

    def unwatch(self, process: Watched) -> None:
        """Undo :meth:`watch`."""
        self._watched.pop(process, None)

    def stop(self) -> None:
        """End the thread, and wait for it up to 5 s. Safe to call twice.

        Timers that are not due are dropped.
        """
        self._stopping = True
        with self._safe_start:  # after this no thread is started
            thread = self._thread
        self._signal()
        # it ends immediately, unless a log handler delays it: the loop waits for no connection
        if thread is not None and not joined(thread, Deadline(1000 * _STOP_SECONDS)):
            _log.error("%s does not end; its thread is left behind", self.name)

    def _start(self) -> None:
        """Start the thread, unless it is running."""
        with self._safe_start:
            # _starting: we are in a signal handler that has interrupted the lines below
            if self._thread is not None or self._starting or self._stopping:
                return
            self._starting = True
            ends: tuple[socket.socket, ...] = ()
            try:
                self._wake_read, self._wake_write = ends = socket.socketpair()
                for end in ends:
                    end.setblocking(False)
                # a daemon thread: a server or client that was not freed must not prevent the
                # interpreter from exiting
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
            except BaseException:
                # the next call tries to start it again; if a signal handler has raised after the
                # start, the thread finds that it is not wanted
                self._thread = None
                self._wake_read = self._wake_write = None
                for end in ends:
                    end.close()
                raise
            finally:
                self._starting = False

    def _signal(self) -> None:
        self._signalled = True
        try:
            if self._wake_write is not None:
                self._wake_write.send(b"\0")
        except BlockingIOError:
            pass  # the buffer is full of signals already
        except OSError:
            # stop() was faster: there is no thread to wake. Not logged: the caller may hold a lock
            pass

    # -------------------------------------------------------------------------- the keeper's thread

    def _run(self) -> None:
        with self._safe_start:
            if self._thread is not threading.current_thread():
                return
        assert self._wake_read is not None
        assert self._wake_write is not None
        blocked: dict[int, Flushable] = {}
        retry: list[Flushable] = []
        safe_start = self._safe_start
        selector = _new_selector()
        selector.register(self._wake_read.fileno(), selectors.EVENT_READ)
        # if the lock is another one, this is a child that was forked in this same thread
        while not self._stopping and self._safe_start is safe_start:
            try:
                self._turn(selector, blocked, retry)
            # e.g. out of memory, or the application's log handler: all connections need this thread
            except BaseException:  # noqa: BLE001
                self._report("an iteration of the keeper's loop failed")
                sleep(_AFTER_FAULT)
        if self._safe_start is safe_start:
            self._wake_read.close()
            self._wake_write.close()

    def _turn(
        self,
        selector: selectors.BaseSelector,
        blocked: dict[int, Flushable],
        retry: list[Flushable],
    ) -> None:
        """Wait for work, and do it."""
        for fd in _wait(selector, self._timeout(bool(retry))):
            process = blocked.pop(fd, None)
            if process is not None:
                selector.unregister(fd)
                retry.append(process)
        # the order matters: a thread that queues something after the flag was cleared signals
        # again, and one that did so before is in _ready
        self._drain_signals()
        self._signalled = False
        todo = dict.fromkeys(retry)
        retry.clear()
        ready = self._ready
        while ready:
            todo[ready.popleft()] = None
        for process in todo:
            try:
                self._flush(process, selector, blocked, retry)
            # a fault of one connection must not end the thread that serves all
            except BaseException:  # noqa: BLE001
                self._report("flushing %r failed", process)
        self._run_timers()

    @staticmethod
    def _flush(
        process: Flushable,
        selector: selectors.BaseSelector,
        blocked: dict[int, Flushable],
        retry: list[Flushable],
    ) -> None:
        fd = process.fileno()
        if blocked.get(fd) is process:
            return
        result = process.flush_queued()
        if result is FlushResult.busy:
            retry.append(process)
        elif result is FlushResult.blocked and fd >= 0:
            blocked[fd] = process
            if fd not in selector.get_map():
                # otherwise another connection has had it, and it is blocked, too
                selector.register(fd, selectors.EVENT_WRITE)

    def _timeout(self, retry: bool) -> float | None:
        """Return the seconds until something is due, and announce when the thread will wake."""
        # until that time is known, a thread that adds a timer signals
        self._sleeping_until = float("inf")
        self._take_new_timers()
        due = self._timers[0][0] if self._timers else None
        timeout = None if due is None else max(0.0, due - monotonic())
        if retry:
            timeout = self._RETRY if timeout is None else min(timeout, self._RETRY)
        if timeout is not None:
            self._sleeping_until = monotonic() + timeout
        # checked last: a thread that added something earlier may have seen no reason to signal
        return 0.0 if self._ready or self._new_timers or self._stopping else timeout

    def _take_new_timers(self) -> None:
        """Sort in new timers, and remove cancelled timers if there are many.

        Otherwise they would stay until they are due: each connection leaves one of 20 s behind.
        """
        timers, new = self._timers, self._new_timers
        while new:
            entry = new.popleft()
            if entry[2].action is not None:
                heapq.heappush(timers, entry)
        if len(timers) >= self._purge_at:
            self._timers = timers = [entry for entry in timers if entry[2].action is not None]
            heapq.heapify(timers)
            self._purge_at = max(_FEW_TIMERS, 2 * len(timers))

    def _drain_signals(self) -> None:
        assert self._wake_read is not None
        try:
            while len(self._wake_read.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass  # woken by a timer or a connection

    def _plan_sweep(self) -> None:
        """Plan the next sweep, by the shortest interval of all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        intervals = list(self._watched.values())
        if not intervals:
            self._sweeping = None
            # again: another thread may have registered before that, and seen that a sweep was due
            intervals = list(self._watched.values())
        self._sweep_interval = min([_SWEEP_SECONDS, *intervals])
        if intervals:
            self._sweeping = self.call_at(monotonic() + self._sweep_interval, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        for process in list(self._watched):
            try:
                process.stand_in(now)
            # a fault of one connection must not end the checks of all others
            except BaseException:  # noqa: BLE001
                self._report("checking %r failed", process)
        self._plan_sweep()

    def _run_timers(self) -> None:
        # looked up each time, because a timer's action may replace the list
        while self._timers and self._timers[0][0] <= monotonic():
            action = heapq.heappop(self._timers)[2].action
            if action is not None:
                try:
                    action()
                # a fault of one connection must not end the thread that serves all
                except BaseException:  # noqa: BLE001
                    self._report("a timer failed")

    def _report(self, what: str, *arguments: object) -> None:
        """Log the exception that is being handled, if that is possible."""
        # the log handler itself may have raised: there is no other way to report it
        with contextlib.suppress(BaseException):
            _log.exception(f"%s: {what}", self.name, *arguments)


def _new_selector() -> selectors.BaseSelector:
    """Return the selector for the thread. Not the best one of the system: epoll forgets a
    descriptor that is closed, and with it what was blocked on it.
    """
    return getattr(selectors, "PollSelector", GroupedSelector)()


def _wait(selector: selectors.BaseSelector, timeout: float | None) -> list[int]:
    """Return the descriptors of connections that can be written, waiting up to *timeout*
    seconds for one, or for a signal.
    """
    try:
        if timeout is not None:
            timeout = min(timeout, _LONGEST_WAIT)
        ready = [key for key, _ in selector.select(timeout)]
    except (OSError, ValueError):
        # without poll: one of them was closed meanwhile; trying them will show which
        ready = list(selector.get_map().values())
    return [key.fd for key in ready if key.events == selectors.EVENT_WRITE]


# ------------------------------------------------------------------------ the keeper of all clients

# held while the name below or the users of a keeper change, never while a keeper stops; reentrant,
# because free() may be called in a signal handler that interrupts the change
_shared_safe = threading.RLock()
# the keeper, and its users
_shared: tuple[ProcessKeeper, set[KeeperUse]] | None = None


class KeeperUse:
    """One user's use of the keeper that all clients of this OS process share.

    Both methods can be called again after an exception has interrupted them, and then finish the
    work.
    """

    def __init__(self) -> None:
        #: what is used, until its end is complete
        self._shared: tuple[ProcessKeeper, set[KeeperUse]] | None = None

    def begin(self) -> ProcessKeeper:
        """Return the keeper, which works until :meth:`end`; a second call returns the same."""
        global _shared
        with _shared_safe:
            if self._shared is not None and self in self._shared[1]:
                return self._shared[0]
            while True:
                shared = _shared
                if shared is None:
                    shared = _shared = ProcessKeeper("mormot_ws clients' keeper"), set()
                # first, so that end() finds it whatever interrupts the next line
                self._shared = shared
                keeper, users = shared
                users.add(self)
                if _shared is shared:
                    return keeper
                # a signal handler has just ended the last use
                self._shared = None

    def end(self) -> None:
        """End the use; the keeper's thread ends with the last one."""
        global _shared
        with _shared_safe:
            shared = self._shared
            if shared is None:
                return
            keeper, users = shared
            users.discard(self)
            if not users and _shared is shared:
                _shared = None
            # after that, because a signal handler may have begun to use it before
            last = not users
        if last:
            keeper.stop()
        self._shared = None

    def die_in_child(self) -> None:
        """Forget the parent's keeper, in a forked child."""
        self._shared = None


def _forget_shared_in_child() -> None:
    """Discard the keeper in a forked child: its clients belong to the parent."""
    global _shared, _shared_safe
    _shared_safe = threading.RLock()
    _shared = None


call_in_child(_forget_shared_in_child)
