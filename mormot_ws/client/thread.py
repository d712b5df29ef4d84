"""The thread of a client: runs one connection after another, and connects in between.

Every callback of a client runs in this thread. The connection is in ``connection.py``, the waits
are in ``delays.py``; ``client.py`` opens sockets and does the handshakes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import ClassVar

from ..attributes import IS_BOOL, IS_TEXT, Check, KnownAttributes, of_kind
from ..core.addresses import shown_target
from ..core.frames import CLOSE_ABNORMAL
from ..logs import escaped, get_logger
from ..reconnect_policies import FailureKind, ReconnectFailure
from ..states import (
    WebSocketProcessClientThreadState,
    sClosed,
    sCreate,
    sFinished,
    sRun,
    wpsCreate,
    wpsRun,
)
from .connection import WebSocketProcessClient
from .delays import AttemptFailure, ReconnectWaits, reopen_failure
from .hints import hint
from .owner import ClientOwner

_log = get_logger("mormot_ws.client")

#: the longest wait for a signal, in seconds, before the clock is checked again
_LONGEST_WAIT = 3_600.0


class WebSocketProcessClientThread(KnownAttributes, threading.Thread):
    """Runs the loop, and reconnects when it ends; connects first if there is no connection yet.

    Mirrors ``TWebSocketProcessClientThread``. It ends if it must not reconnect: after
    :meth:`terminate`, without ``on_reconnect``, or when the policy gives up. Exceptions in
    callbacks, policies, proxy libraries and log handlers do not end it.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "name": IS_TEXT,
        "process": of_kind(WebSocketProcessClient),
        "thread_state": of_kind(WebSocketProcessClientThreadState),
        "entered": of_kind(threading.Event),
        "in_loop": IS_BOOL,
        "attempting": IS_BOOL,
        "gave_up_without_callback": IS_BOOL,
        "waits": of_kind(ReconnectWaits),
    }

    def __init__(
        self,
        client: ClientOwner,
        process: WebSocketProcessClient,
        lost: bool = False,
        failed: AttemptFailure | None = None,
    ) -> None:
        # a daemon thread: a client that is frozen or was not freed must not prevent the interpreter
        # from exiting
        super().__init__(
            name=f"{client.process_name or 'WebSocketClient'} "
            f"{shown_target(client.host, client.port)}",
            daemon=True,
        )
        #: the process that it runs, one connection after another
        self.process = process
        # True to connect first: there is no connection yet, or it ended in an earlier thread
        self._lost = lost
        # the failure of a first attempt in another thread
        self._failed = failed
        #: the state of this thread; mirrors ``ThreadState``
        self.thread_state: WebSocketProcessClientThreadState = sCreate
        #: set when the thread is running; the first upgrade waits for it
        self.entered: threading.Event = threading.Event()
        #: True while the loop runs, from its first callback to its last
        self.in_loop = False
        #: True while this thread reopens the TCP connection
        self.attempting = False
        self._client = client
        # True in a forked child
        self._inherited = False
        # True once run() has ended
        self._over = False
        #: guards _hurry, _ended and gave_up_without_callback; held only briefly. It is reentrant,
        #: because a signal handler may call terminate() or reconnect_now() at any moment
        self._safe = threading.RLock()
        #: a put() ends the wait between attempts; unlike Event.set(), it may be interrupted by a
        #: signal handler that also calls it
        self._wakes: SimpleQueue[None] = SimpleQueue()
        #: True once the thread has found no on_reconnect; guarded by _safe
        self.gave_up_without_callback: bool = False
        self._ended = False  # this thread runs no more connections; guarded by _safe
        #: the failures since the last stable connection, and the waits after them
        self.waits: ReconnectWaits = ReconnectWaits(client, self.name)
        self._terminated = False
        self._hurry = False  # the next wait is cut short; guarded by _safe

    @property
    def terminated(self) -> bool:
        """True once :meth:`terminate` was called; mirrors ``Terminated``."""
        return self._terminated

    def terminate(self) -> None:
        """Ask the thread not to reconnect any more, and end its wait.

        Any thread, callback or signal handler may call it; it returns immediately. A running
        connection stays open; close it with ``process.shutdown()``. Mirrors ``Terminate``.
        """
        self._terminated = True
        self._wakes.put(None)

    def die_in_child(self) -> None:
        """Do not reconnect, in a forked child. This may be the thread that forked."""
        self._safe = threading.RLock()
        self._wakes = SimpleQueue()
        self._terminated = self._inherited = True
        self._over = threading.current_thread() is not self

    def is_alive(self) -> bool:
        """Return whether the thread is running.

        Unlike ``Thread.is_alive()`` it has no side effect: up to Python 3.12, if a signal handler's
        exception interrupts that method, it reports a running thread as ended, permanently.
        """
        return self.ident is not None and not self._over

    def reconnect_now(self) -> None:
        """Make the next attempt without a wait, unless the connection is running.

        Any thread and any signal handler may call it; it returns immediately.
        """
        with self._safe:
            if self.process.state is wpsRun:
                return
            # a call that an exception has interrupted may not have woken the thread
            if self._hurry and not self._wakes.empty():
                return
            self._hurry = True
        self._wakes.put(None)

    def run(self) -> None:
        """Run and reconnect until the thread ends."""
        process = self.process
        closed = False
        try:
            self.thread_state = sRun
            self.entered.set()
            while True:
                if not self._lost:
                    self._run_process()
                if self._inherited:
                    return
                self._lost = False
                closed = process.lost_code not in (0, CLOSE_ABNORMAL)
                if not (process.upgraded or self._reconnect()) and self._ends():
                    break
                self._reconnected()
        except BaseException as exc:
            if self._inherited:
                raise
            # the application's exceptions do not get here: this is our fault, or out of memory
            process.note_error(_words(exc))
            _log.exception("%s: ended by %s; it will not reconnect", self.name, _words(exc))
            self._end_connection()
            failed = AttemptFailure(FailureKind.callback, _words(exc), exc)
            self._client.notify_gave_up(self.waits.failure(failed, process.lost_code))
        finally:
            with self._safe:
                self._ended = True
            self.thread_state = sClosed if closed else sFinished
            if not self._inherited:
                _log.debug("%s: %s", self.name, self.thread_state.name)
                self._client.thread_ends()
            self._over = True

    def will_run(self) -> bool:
        """Return whether this thread will run a newly upgraded connection, and wake it.

        Any thread may call it.
        """
        with self._safe:
            if self._ended:
                return False
        self._wakes.put(None)
        return self.is_alive()

    def _ends(self) -> bool:
        """Decide to end, unless another thread has upgraded meanwhile."""
        with self._safe:
            self._ended = not self.process.upgraded
            return self._ended

    def _run_process(self) -> None:
        """Run one connection to its end."""
        process = self.process
        with self._safe:
            self._hurry = False  # requested during the attempt that has succeeded
        started = monotonic()
        self.in_loop = True
        try:
            process.process_loop()
        except BaseException as exc:
            if self._inherited:
                # it has to end a child that a callback has forked
                raise
            # after any exception the client continues with the next connection
            process.note_error(_words(exc))
            _log.exception(
                "%s: the connection was ended by %s, which was raised in its loop",
                self.name,
                _words(exc),
                extra=process.log_fields(),
            )
            self._end_connection()
        finally:
            self.in_loop = False
        if self._inherited:
            return
        process.connection_ended((monotonic() - started) * 1000)
        self._client.close()
        self._client.notify_closed()

    def _end_connection(self) -> None:
        """Make sure that the connection no longer counts as running."""
        process = self.process
        process.discard()
        self._client.close()

    def __repr__(self) -> str:
        ending = " terminated" if self._terminated else ""
        return (
            f"<WebSocketProcessClientThread {self.name!r} {self.thread_state.name}"
            f" attempts={self.process.attempts}{ending}>"
        )

    # --------------------------------------------------------------------------------- reconnection

    def _reconnect(self) -> bool:
        """Attempt until a connection is upgraded; return False if there will be none."""
        process = self.process
        failure = self._begin()
        while self._may_reconnect():
            if failure is not None:
                delay = self.waits.delay(failure, self._fields())
                if delay is None:
                    self._give_up(failure)
                    return False
                if failure.attempts == 1:
                    self._tell_first_failure(failure)
                _log.debug("%s: next attempt in %.0f ms (%s)", self.name, delay, failure.text)
                if not self._pause(delay):
                    return False
            if process.upgraded:
                return True
            process.attempt_begins()
            failed = self._try_attempt()
            if failed is None:
                return True
            if self._terminated:
                # the wait ended for this reason
                return False
            failure = self._count(failed)
        return False

    def _begin(self) -> ReconnectFailure | None:
        """Begin to connect or reconnect; return the failure that the policy gets first.

        None: make the first attempt immediately.
        """
        process = self.process
        if not process.upgrades:
            self.waits.begin(False)
            failed, self._failed = self._failed, None
            if failed is None:
                return None
            process.attempt_begins()
            return self._count(failed)
        used = process.exchanged_both_ways()
        lived_long = process.lived_ms >= self._client.settings.reconnect_stable_after
        self.waits.begin(used or lived_long)
        ended = process.last_error or f"closed with {process.lost_code}"
        if self._may_reconnect() and not process.upgraded:
            tell = _log.warning if process.lost_code == CLOSE_ABNORMAL else _log.info
            tell("%s: connection lost: %s; reconnecting", self.name, ended, extra=self._fields())
        return self.waits.failure(AttemptFailure(FailureKind.lost, ended), process.lost_code)

    def _count(self, failed: AttemptFailure) -> ReconnectFailure:
        """Count a failed attempt; return the failure for the policy."""
        process, waits = self.process, self.waits
        process.note_error(failed.text)
        waits.count_failure()
        return waits.failure(failed, process.lost_code)

    def _tell_first_failure(self, failure: ReconnectFailure) -> None:
        """Log that there will be more attempts; they are logged at DEBUG."""
        question = hint(failure, self.process.protocol, self._client.tls)
        _log.warning(
            "%s: the first attempt to %s failed: %s%s; it keeps trying",
            self.name,
            "reconnect" if self.process.upgrades else "connect",
            failure.text,
            f" ({question})" if question else "",
            extra=self._fields(),
        )

    def _give_up(self, failure: ReconnectFailure) -> None:
        """Give up, because the policy allows no more attempts."""
        tried = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
        _log.warning(
            "%s: giving up%s: %s",
            self.name,
            tried,
            failure.text,
            extra=self._fields(),
        )
        self._client.notify_gave_up(failure)

    def _reconnected(self) -> None:
        """Record and log that there is a new connection."""
        process = self.process
        number = f" as #{process.connection_id}" if process.connection_id else ""
        word = "connected" if process.upgrades == 1 else "reconnected"
        _log.info("%s: %s%s", self.name, word, number, extra=self._fields())
        process.reconnected()

    def _fields(self) -> dict[str, object]:
        """Return the ``extra`` of log records."""
        process = self.process
        return {"connection_id": process.connection_id, "attempts": process.attempts}

    def _may_reconnect(self) -> bool:
        with self._safe:
            if self._terminated or not self._client.settings.client_auto_upgrade:
                return False
            # under the lock: a callback that is set after this sees that the thread has ended, and
            # revives the client
            self.gave_up_without_callback = self.process.on_reconnect is None
            return not self.gave_up_without_callback

    def take_over(self, last: WebSocketProcessClientThread) -> None:
        """Continue for *last*, which has ended: its failures count for the policy."""
        self.waits.take_over(last.waits)
        self._failed = last._failed

    def revived(self, done: bool) -> None:
        """Record that another thread replaces this one; *done* False: it could not be started."""
        self.gave_up_without_callback = not done

    def may_be_revived(self) -> bool:
        """Return whether this thread ends, or has ended, only because ``on_reconnect`` was None."""
        with self._safe:
            return self.gave_up_without_callback and not self._terminated

    def _pause(self, milliseconds: float) -> bool:
        """Wait before an attempt; return False if the thread was terminated."""
        # the wait may be infinite: then only reconnect_now() ends it
        end = monotonic() + milliseconds / 1000
        while not (self._terminated or self._hurry or self.process.upgraded):
            left = end - monotonic()
            if left <= 0:
                break
            with contextlib.suppress(Empty):
                self._wakes.get(timeout=min(left, _LONGEST_WAIT))
        with self._safe:
            self._hurry = False
        return not self._terminated or self.process.upgraded

    def _try_attempt(self) -> AttemptFailure | None:
        """Make an attempt; any exception, e.g. in a proxy library or the protocol, is a failure."""
        try:
            return self._attempt()
        except BaseException as exc:
            if self._inherited:
                raise
            text = _words(exc)
            fields = self._fields()
            _log.exception("%s: the attempt failed with %s", self.name, text, extra=fields)
            self._end_connection()
            return AttemptFailure(FailureKind.connect, text, exc)
        finally:
            self.attempting = False

    def _attempt(self) -> AttemptFailure | None:
        """Open the TCP connection, and let the application upgrade; return the failure or None."""
        client, process = self._client, self.process
        self.attempting = True
        if process.upgraded:
            # another thread has just upgraded
            return None
        error, exc = self._call(client.prepare_attempt)
        if exc is not None:
            return AttemptFailure(FailureKind.callback, error, exc)
        # before the first upgrade, the constructor may have opened the connection
        if process.upgrades or not client.connected:
            error = client.reopen()
        if self._terminated:
            return AttemptFailure(FailureKind.callback, error or "terminated")
        if error:
            self.attempting = False
            failed = reopen_failure(client.last_exception, error)
            self._call_on_reconnect(None)
            return failed
        process._renew(process.protocol)
        self.attempting = False
        result, exc = self._call_on_reconnect(process)
        if self._inherited:
            return AttemptFailure(FailureKind.callback, "forked")
        if not result and process.upgraded:
            return None
        if not result:
            _log.error(
                "%s: on_reconnect returned '' without calling websockets_upgrade(…,"
                " reconnect=True): the TCP connection is open again, but it is not a WebSocket,"
                " so nothing can be sent or received; closing it and trying again."
                " See Mistake 3 in docs/porting-guide.md",
                self.name,
                extra=self._fields(),
            )
            result = "on_reconnect did not upgrade"
        if process.upgraded:
            process.start_shutdown(1000, "")
            process.discard(wpsCreate)
        client.close()
        refused = client.upgrade_failure
        if refused is None:
            return AttemptFailure(FailureKind.callback, result, exc)
        return AttemptFailure(refused.kind, str(refused), refused)

    def _call_on_reconnect(
        self, argument: WebSocketProcessClient | None
    ) -> tuple[str, BaseException | None]:
        """Call the application; return its result (None as ''), or its exception."""
        callback = self.process.on_reconnect
        if callback is None:
            return "on_reconnect was removed", None
        return self._call(lambda: callback(argument))

    def _call(self, function: Callable[[], object]) -> tuple[str, BaseException | None]:
        """Call *function*, maybe the application's; an exception counts as a failed attempt."""
        try:
            return str(function() or ""), None
        except BaseException as exc:
            if self._inherited:
                # it has to end a child that the callback has forked
                raise
            # the original's thread would silently end here; SystemExit would end ours
            fields = {"attempts": self.process.attempts}
            _log.exception("%s: on_reconnect failed; trying again later", self.name, extra=fields)
            return _words(exc), exc


def _words(exc: BaseException) -> str:
    """Describe *exc* in one line."""
    return f"{type(exc).__name__}: {escaped(str(exc))}".removesuffix(": ")
