"""MainThreadQueue: callbacks that run in the main thread of a desktop program.

It does not depend on a toolkit: the program's event loop calls ``run_pending()``, from a timer or
when it is woken. In Delphi these are ``TThread.Queue`` and ``TThread.Synchronize``.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from ..callbacks import check_callback, check_plain
from ..core.forks import dies_in_child
from ..errors import WebSocketsError
from ..logs import OwnText, get_logger
from ..process.freeing import ClosedByWith
from .attributes import FixedAttributes
from .options import seconds

_log = get_logger("mormot_ws.front")

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: seconds between two checks of the main thread while another thread waits for it
_LOOK = 0.1
#: seconds that the main thread may be inside the library before synchronize() reports a deadlock
_PATIENCE = 1.0
#: the most seconds that a thread waits for room in a full queue
_FULL = 10.0


class _Job:
    """A call for the main thread; *done* is set when it has ended or will never start."""

    __slots__ = ("call", "done", "error", "result", "started")

    def __init__(self, call: Callable[[], Any], done: threading.Event | None = None) -> None:
        self.call = call
        self.done = done
        self.started = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call, in the main thread."""
        try:
            self.result = self.call()
        except Exception as exc:  # noqa: BLE001 - logged, or raised in synchronize()
            if self.done is None:
                _log.exception("a callback in the main thread raised %s", type(exc).__name__)
            self.error = exc
        except BaseException as exc:
            self.error = WebSocketsError(f"the main thread was interrupted: {type(exc).__name__}")
            raise
        finally:
            if self.done is not None:
                self.done.set()

    def discard(self, why: str) -> None:
        """Raise an error in the thread that waits for it, if there is one."""
        if self.done is not None:
            self.error = WebSocketsError(why)
            self.done.set()


class MainThreadQueue(FixedAttributes, ClosedByWith):
    """Runs functions in the thread that creates it, the main thread of a desktop program.

    :param wake: called from any thread when there is something to run. It must make the main thread
        call :meth:`run_pending`, like the ``emit`` of a Qt signal. None: a timer does this, as with
        :meth:`start`.
    :param most: the maximum number of calls that can wait. If the queue is full, the thread that
        queues a call waits: a connection then stops reading, and eventually its peer has to wait.
        It waits up to 10 s, and not at all while the main thread waits inside the library, for
        example in ``close()``. The call is then queued anyway, so none is lost.

    The calls of one thread run in order. As a context manager, it closes at the end of the block.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_changed",
        "_closed",
        "_discarded",
        "_interval",
        "_jobs",
        "_main",
        "_most",
        "_wake",
        "_woken",
    )

    def __init__(self, wake: Callable[[], object] | None = None, most: int = 1024) -> None:
        if wake is not None:
            check_callback(wake, "wake")
        if type(most) is not int or most < 1:
            raise ValueError(f"most must be a number of calls, at least 1, not {most!r}")
        self._wake = wake
        self._most = most
        self._main = threading.get_ident()
        #: guards _jobs, _closed, _discarded and the state of each job; notified when there is room,
        #: and by close()
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._discarded = 0
        # True from a wake() until the run_pending() that it causes
        self._woken = False
        self._after: Callable[[int, Callable[[], None]], object] | None = None
        self._interval = 0
        dies_in_child(self)

    @property
    def pending(self) -> int:
        """How many calls are waiting."""
        return len(self._jobs)

    @property
    def discarded(self) -> int:
        """How many calls were discarded by :meth:`close` or queued after it."""
        return self._discarded

    # -------------------------------------------------------------------------- from any thread

    def wrap(self, function: Callable[_P, object]) -> Callable[_P, None]:
        """Return a function that queues a call of *function* and returns immediately; a decorator.

        Use it wherever the library takes a callback whose result is ignored.
        """
        check_plain(function, "function")

        @wraps(function)
        def queued(*args: _P.args, **kwargs: _P.kwargs) -> None:
            self._put(_Job(partial(function, *args, **kwargs)))

        with contextlib.suppress(TypeError, ValueError):  # a C function without a signature
            # the parameters of the wrapper are checked when it is set as a callback
            queued.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return queued

    def queue(self, function: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Queue a call of *function* for the main thread, without waiting (``TThread.Queue``).

        This also works in the main thread: the call then runs in a later :meth:`run_pending`.
        Exceptions in *function* are logged. After :meth:`close`, nothing is called.
        """
        check_plain(function, "function")
        self._put(_Job(partial(function, *args, **kwargs)))

    def synchronize(self, function: Callable[[], _R], timeout: float = 30.0) -> _R:
        """Run *function* in the main thread, wait for it, and return its result
        (``TThread.Synchronize``). Its exceptions are raised here. In the main thread, it is simply
        called.

        Raises ``TimeoutError`` if it has not ended within *timeout* seconds. Raises
        :class:`WebSocketsError` after :meth:`close`, and if the main thread has waited inside the
        library for a second, because it may be waiting for this very thread; the log then shows
        where. A call that has not started by then is not made.
        """
        check_plain(function, "function")
        end = monotonic() + seconds("timeout", timeout)
        if threading.get_ident() == self._main:
            return function()
        done = threading.Event()
        job = _Job(function, done)
        self._put(job, end)
        self._wait(job, done, end)
        if job.error is not None:
            raise job.error
        result: _R = job.result
        return result

    # --------------------------------------------------------------------- from the main thread

    def run_pending(self, time: float = 0.05) -> int:
        """Run the waiting calls, but start none after *time* seconds, so that the window stays
        responsive; return how many were run. The others run the next time.

        Exceptions are logged at ERROR; ``SystemExit`` and ``KeyboardInterrupt`` are raised here.
        Raises :class:`WebSocketsError` in threads other than the main thread.
        """
        self._check_main("run_pending()")
        end = monotonic() + seconds("time", time, zero=True)
        self._woken = False
        count = 0
        # calls that are queued meanwhile run the next time
        waiting = len(self._jobs)
        try:
            while count < waiting and (job := self._take()) is not None:
                count += 1
                job.run()
                if monotonic() >= end:
                    break
        finally:
            if self._jobs and not self._woken:
                self._call_wake()
        return count

    def start(
        self, after: Callable[[int, Callable[[], None]], object], every: float = 0.02
    ) -> None:
        """Call :meth:`run_pending` every *every* seconds, with a timer, until :meth:`close`.

        *after* is called as ``after(milliseconds, function)``, and only in the main thread:
        ``root.after`` of Tkinter, ``QTimer.singleShot`` of Qt.
        """
        self._check_main("start()")
        check_callback(after, "after", "milliseconds", "function")
        if self._after is not None:
            raise WebSocketsError("start() has already been called")
        self._interval = max(1, round(seconds("every", every) * 1000))
        self._after = after
        after(self._interval, self._turn)

    def close(self) -> None:
        """Run nothing from now on. Waiting calls are discarded and counted in :attr:`discarded`.

        Call it from any thread. Close the connections first, so that :meth:`run_pending` can still
        run their last callbacks.
        """
        with self._changed:
            self._closed = True
            jobs = list(self._jobs)
            self._jobs.clear()
            self._discarded += len(jobs)
            self._changed.notify_all()
        for job in jobs:
            job.discard("the queue of the main thread was closed")
        if jobs:
            _log.debug("the main thread's queue was closed: %d calls are discarded", len(jobs))

    # --------------------------------------------------------------------------------- internal

    def _put(self, job: _Job, end: float | None = None) -> None:
        """Queue *job* when there is room; at *end* even without."""
        if end is None:
            end = monotonic() + _FULL
        forced = threading.get_ident() == self._main
        late = False
        while True:
            with self._changed:
                if self._closed:
                    self._discarded += 1
                    if job.done is not None:
                        raise WebSocketsError("the queue of the main thread was closed")
                    return
                if forced or len(self._jobs) < self._most:
                    self._jobs.append(job)
                    break
                self._changed.wait(_LOOK)
            late = monotonic() >= end
            forced = late or self._main_is_in_library()
        if late:
            _log.warning(
                "the main thread's queue is full: %d calls wait. The main thread is here:\n%s",
                len(self._jobs),
                OwnText(self._main_stack()),
            )
        if not self._woken:
            self._call_wake()

    def _wait(self, job: _Job, done: threading.Event, end: float) -> None:
        """Wait until *job* is done; raise if it cannot be waited for."""
        inside_since: float | None = None
        while not done.wait(max(0.0, min(_LOOK, end - monotonic()))):
            now = monotonic()
            if job.started or not self._main_is_in_library():
                inside_since = None
            elif inside_since is None:
                inside_since = now
            if inside_since is not None and now - inside_since >= _PATIENCE:
                stack = self._main_stack()
                if self._withdraw(job):
                    _log.error(
                        "DEADLOCK: thread %r waits in synchronize() for the main thread, which "
                        "waits inside the library, possibly for this thread. The call is not made; "
                        "queue() would not wait. The main thread is here:\n%s",
                        threading.current_thread().name,
                        OwnText(stack),
                    )
                    raise WebSocketsError("deadlock: the main thread is waiting inside the library")
            elif now >= end:
                begun = "" if self._withdraw(job) else "; it has started and continues"
                raise TimeoutError(f"the main thread did not run it in time{begun}")

    def _withdraw(self, job: _Job) -> bool:
        """Take *job* out of the queue; return whether this prevents it from running."""
        with self._changed:
            if job.started or job not in self._jobs:
                return False
            self._jobs.remove(job)
            self._changed.notify_all()
            return True

    def _take(self) -> _Job | None:
        with self._changed:
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            job.started = True
            self._changed.notify()
            return job

    def _turn(self) -> None:
        if not self._closed and self._after is not None:
            # first: a dialog in a callback has its own event loop, and may stay open for long
            self._after(self._interval, self._turn)
            self.run_pending()

    def _call_wake(self) -> None:
        if self._wake is None or self._closed:
            return
        self._woken = True
        try:
            self._wake()
        except Exception:  # noqa: BLE001 - logged
            # the next call tries again
            self._woken = False
            _log.exception("wake() of the main thread's queue failed")

    def _main_is_in_library(self) -> bool:
        """Return whether the main thread waits inside the library, or has ended."""
        frame = sys._current_frames().get(self._main)
        if frame is None:
            return True
        package = __name__.partition(".")[0] + "."
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name == __name__:
                return False
            if isinstance(name, str) and name.startswith(package):
                return True
            frame = frame.f_back
        return False

    def _main_stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "it has ended" if frame is None else "".join(traceback.format_stack(frame))

    def _check_main(self, what: str) -> None:
        if threading.get_ident() != self._main:
            raise WebSocketsError(f"call {what} in the thread that created the MainThreadQueue")

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<MainThreadQueue{state} pending={len(self._jobs)} discarded={self._discarded}>"

    def die_in_child(self) -> None:
        """Become closed and empty, in a forked child."""
        self._changed = threading.Condition()
        self._closed = True
        self._jobs = deque()
