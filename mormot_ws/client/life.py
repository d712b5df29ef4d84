"""ClientLife: what runs behind a client, the process, its thread and the use of the keeper, from
their making to their end.

Upgrades and requests are in ``client.py``.
"""

from __future__ import annotations

import threading
import weakref
from threading import current_thread

from ..logs import get_logger
from ..process.free_in_callback import meet_free_in_callback
from ..process.freeing import FreedByWith, close_at_exit, forget_at_exit, stay_at_exit
from ..process.keeper import ProcessKeeper, acquire_shared_keeper, release_shared_keeper
from ..protocols.base import WebSocketProtocol
from ..reconnect_policies import ReconnectFailure, ReconnectPolicy
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.crtsocket import CrtSocket
from ..sockets.deadline import Deadline
from ..sockets.tls_contexts import TlsContext
from ..states import wpsRun
from .again import AutoReconnect
from .arguments import HeaderValue
from .connection import WebSocketProcessClient
from .thread import WebSocketProcessClientThread
from .upgrade import UpgradeError
from .waits import AttemptFailure

_log = get_logger("mormot_ws.client")

#: milliseconds that free() gives to the close handshake, and to the end of the TCP connection after
#: it
_CLOSE_MS = 1_000
#: milliseconds that free() waits in all
_FREE_MS = 2_800
FREED = "The client is being freed"


class NoThreadError(Exception):
    """There is no thread to be had for a connection, or no descriptor for the keeper."""


class ClientLife(CrtSocket, FreedByWith):
    """A client's connection, with the process on it and its thread. The parameters are those of
    :class:`HttpClientWebSockets`, which is the only subclass.
    """

    #: answers requests of the server
    on_callback_request_process: OnHttpServerRequest | None

    #: the ``User-Agent`` of requests and upgrades. Setting it raises ``TypeError``/``ValueError``
    #: for what a header line cannot hold
    user_agent = HeaderValue()

    def __init__(
        self,
        host: str,
        port: int | str,
        tls: bool,
        tls_context: TlsContext | None,
        timeout: int,
        settings: WebSocketProcessSettings | None,
        process_name: str,
        tls_server_name: str | None,
        proxy: str | None,
    ) -> None:
        #: shared by reference with the process; change what you need before the upgrade
        self.settings: WebSocketProcessSettings = (
            WebSocketProcessSettings() if settings is None else settings
        )
        super().__init__(
            host,
            port,
            tls,
            tls_context,
            timeout,
            tls_server_name=tls_server_name,
            proxy=proxy,
            send_timeout=self.settings.send_timeout,
            resolve_timeout=self.settings.resolve_timeout,
        )
        #: names the thread and the log lines
        self.process_name = process_name
        #: decides the waits; made when the thread starts
        self.policy: ReconnectPolicy | None = None
        #: why the policy gave up, None when it did not
        self.gave_up: ReconnectFailure | None = None
        #: why the last upgrade failed: its ``http_status``, ``headers`` and ``body`` are what the
        #: server has answered; None when it did not fail
        self.upgrade_failure: UpgradeError | None = None
        # what auto_reconnect() was told before there was a process
        self._again: AutoReconnect | None = None
        self._own_policy: ReconnectPolicy | None = None
        self._process: WebSocketProcessClient | None = None
        self._thread: WebSocketProcessClientThread | None = None
        self._keeper: ProcessKeeper | None = None
        #: guards _freeing, _upgrading and _opening, and the making of the keeper's use and of the
        #: thread, so that free() misses neither; before the keeper's and the thread's own locks,
        #: nothing blocks while it is held. Taken again by its own thread: a signal handler may
        #: call free() at any moment
        self._safe_free = threading.RLock()
        #: the thread that upgrades just now, 0: none; two must not talk on one socket
        self._upgrading = 0
        #: the thread that opens the TCP connection just now, 0: none
        self._opening = 0
        self._freeing = False
        #: held by the thread that does the work of free(); others wait for it, with a bound. First
        #: in the lock order; taken again by its own thread, for signal handlers
        self._safe_freed = threading.RLock()
        #: True when the work of free() is done: one that was interrupted is done again
        self._freed = False
        # True after free_later(): the thread does it when it ends
        self._free_at_end = False
        close_at_exit(self)

    # ------------------------------------------------------------------------ subclasses implement

    def notify_closed(self) -> None:
        """In the client's thread: tell the application that the connection has ended."""
        raise NotImplementedError

    def notify_gave_up(self, failure: ReconnectFailure) -> None:
        """In the client's thread: tell the application that there will be no further attempt."""
        raise NotImplementedError

    def notify_ended(self) -> None:
        """In the client's thread: tell the application that the thread ends."""
        raise NotImplementedError

    def prepare_attempt(self) -> None:
        """In the client's thread: settle where the next attempt goes."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------- for anybody

    def reconnect_now(self) -> None:
        """Cut short the wait before the next attempt to reconnect. From any thread and from signal
        handlers, returns at once.

        Also when that wait has not begun: in a callback that tells of the loss, or during an
        attempt, which another one follows at once should it fail. On a running connection it does
        nothing.
        """
        thread = self._thread
        if thread is not None:
            thread.reconnect_now()

    def free(self) -> None:
        """Close the connection and end its thread, for good. Mirrors ``Free``.

        From any thread but the client's own: inside one of its callbacks it behaves as
        ``settings.free_in_callback`` says. Also from a signal handler, whatever it has interrupted.
        The close handshake takes up to ``close_timeout`` ms, all of it less than 3 s; a callback
        that runs longer is left behind, with a log line. Safe to call twice; when it was
        interrupted by an exception, the next call finishes the work.
        """
        thread = self._thread
        if thread is not None and thread is current_thread():
            if self.settings.free_in_callback != "raise":
                thread.terminate()
            meet_free_in_callback(self, "client", self.settings)
        with self._safe_free:
            self._freeing = True  # no other thread is made from here on
        lock = self._safe_freed
        if not lock.acquire(timeout=_FREE_MS / 1000):
            # another thread is at it, and takes the time that it has
            return
        try:
            if not self._freed:
                self._free()
                self._freed = True
            elif thread is not None and thread is not current_thread():
                # it has done the work itself, after free_later(), and is at its very end
                thread.join(_CLOSE_MS / 1000)
        finally:
            lock.release()

    def free_later(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, and :meth:`free` the client when its thread has ended: for its
        callbacks, which must not call ``free()``. From any thread; returns at once.
        """
        thread, process = self._thread, self._process
        if thread is None or not thread.is_alive():
            self.free()
            return
        self._free_at_end = True
        thread.terminate()
        if process is None or process.state is not wpsRun:
            return
        if process.runs_loop():
            process.shutdown(code, reason)
        else:
            process.start_shutdown(code, reason, _CLOSE_MS)

    def _free(self) -> None:
        """Do the work of free(), as far as it is not done."""
        deadline = Deadline(_FREE_MS)
        thread, process = self._thread, self._process
        if thread is current_thread():
            # the last thing that it does, after free_later()
            thread = None
        if thread is not None:
            thread.terminate()
        if (
            process is not None
            and process.state is wpsRun
            and process.shutdown_within(1000, _CLOSE_MS)
            and thread is not None
            and thread.is_alive()
        ):
            # the peer's end of the TCP connection, the last callbacks
            thread.join(_CLOSE_MS / 1000)
        self.interrupt()
        if thread is not None and thread.is_alive():
            thread.join(deadline.seconds())
            if thread.is_alive():
                _log.error("%s: a callback does not return; its thread is left behind", thread.name)
        self.close()
        with self._safe_free:
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            release_shared_keeper()
        forget_at_exit(self)

    def _new_process(self, protocol: WebSocketProtocol) -> WebSocketProcessClient | None:
        """Return a process for *protocol*; None when the client is being freed."""
        with self._safe_free:  # a free() that came first would not give the keeper back
            if self._freeing:
                return None
            if self._keeper is None:  # else from an upgrade whose policy, or protocol, raised
                self._keeper = acquire_shared_keeper()
        return WebSocketProcessClient(self, protocol, self._keeper, self._again)

    def _connect_later(
        self, protocol: WebSocketProtocol, uri: str, headers: str, failed: AttemptFailure | None
    ) -> str:
        """Start the thread that makes the first connection, after *failed* if there was an attempt
        already; return '' or why there is no thread.
        """
        process = self._new_process(protocol)
        if process is None:
            return FREED
        protocol.upgrade_uri = uri
        protocol.upgrade_bearer_token = headers
        protocol._client = weakref.ref(self)
        protocol.prepare_process(process)
        try:
            self._new_thread(process, True, waits=True, failed=failed)
        except NoThreadError as exc:
            _log.error("%r: no thread can be started (%s), so nobody connects", self, exc)
            return str(exc)
        return ""

    def _new_thread(
        self,
        process: WebSocketProcessClient,
        first: bool,
        waits: bool = False,
        failed: AttemptFailure | None = None,
    ) -> WebSocketProcessClientThread | None:
        """Start the thread that runs *process*, or that *waits* for a connection; return None when
        the client is being freed.

        When it raises, a fault of the policy's factory included, nobody takes the process for a
        running one.
        """
        started = False
        try:
            policy = self._own_policy
            if policy is None:
                policy = self.settings.reconnect_policy()
            with self._safe_free:
                # free() sees all of it, a started thread included, or comes first
                if self._freeing:
                    return None
                # kept until the lock is free: their finalisers are the application's
                before = self.policy, self.gave_up
                self.policy, self.gave_up = policy, None
                thread = WebSocketProcessClientThread(self, process, waits, failed)
                self._process = process
                self._thread = thread
                process.owned_by(thread)
                try:
                    if first and not waits:
                        process.enter_run()
                    thread.start()
                except (OSError, RuntimeError) as exc:
                    # no descriptor for the keeper, or no further thread
                    if first:
                        # as if never upgraded
                        self._process = self._thread = None
                    raise NoThreadError(f"{type(exc).__name__}: {exc}") from exc
            del before
            started = True
            if first and not waits:
                process.entered_run()
            return thread
        finally:
            if not started:
                process.discard()

    def revive(self) -> None:
        """Start a thread that reconnects, if the last one has ended without ``on_reconnect``."""
        with self._safe_free:
            last, process = self._thread, self._process
            if self._freeing or last is None or process is None or not last.may_be_revived():
                return
            thread = WebSocketProcessClientThread(self, process, lost=True)
            thread.take_over(last)
            self._thread = thread
            process.owned_by(thread)
            last.revived(True)
            try:
                thread.start()
                return
            except RuntimeError as exc:
                # as if it had never been tried: the next time there may be a thread
                self._thread = last
                process.owned_by(last)
                last.revived(False)
                text = f"{type(exc).__name__}: {exc}"
                process.note_error(text)
        _log.error(
            "%s: no thread can be started (%s), so nobody reconnects: set on_reconnect again later",
            last.name,
            text,
        )

    def thread_ends(self) -> None:
        """In the client's thread, at its very end: do what free_later() has asked for."""
        self.notify_ended()
        if not self._free_at_end:
            return
        with self._safe_free:
            self._freeing = True
        # else another thread is at it
        if self._safe_freed.acquire(blocking=False):
            try:
                if not self._freed:
                    self._free()
                    self._freed = True
            finally:
                self._safe_freed.release()

    def die_in_child(self) -> None:
        """In a forked child: a client that has been upgraded, or is connected, is dead; any other
        one is as new.
        """
        super().die_in_child()
        self._safe_free, self._safe_freed = threading.RLock(), threading.RLock()
        self._upgrading = self._opening = 0
        thread, self._thread = self._thread, None
        self._keeper = None
        if thread is not None:
            thread.die_in_child()
        if self._freeing or self._inherited or self._process is not None:
            # there is nothing left to do for a free()
            self._inherited = self._interrupted = self._freeing = True
            self._freed = True
        else:
            stay_at_exit(self)

    def begin_exit(self) -> None:
        """The interpreter ends: say goodbye, without waiting."""
        if self._thread is not None:
            self._thread.terminate()
        if self._process is not None:
            self._process.start_shutdown(1001, "")

    def end_exit(self, deadline: Deadline) -> None:
        """The interpreter ends: wait for the goodbye, then cut."""
        thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join(deadline.seconds())
        self.interrupt()
