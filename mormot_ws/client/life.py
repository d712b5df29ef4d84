"""ClientLife: a client's process, its thread and its use of the keeper, from start to end.

Upgrades and requests are in ``client.py``.
"""

from __future__ import annotations

import threading
import weakref
from abc import abstractmethod
from threading import current_thread

from ..core.names import wire_host
from ..core.taking import take
from ..logs import get_logger
from ..process.free_in_callback import meet_free_in_callback
from ..process.freeing import FreedByWith, close_at_exit, forget_at_exit, joined, stay_at_exit
from ..process.keeper import ProcessKeeper, acquire_shared_keeper, release_shared_keeper
from ..protocols.base import WebSocketProtocol
from ..reconnect_policies import ReconnectFailure, ReconnectPolicy
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings, checked_settings
from ..sockets.crtsocket import CrtSocket
from ..sockets.deadline import Deadline
from ..sockets.tls_contexts import TlsContext
from ..states import wpsCreate, wpsDestroy, wpsRun
from .arguments import HeaderValue
from .auto_reconnect import AutoReconnect
from .connection import WebSocketProcessClient
from .delays import AttemptFailure
from .thread import WebSocketProcessClientThread
from .upgrade import UpgradeError

_log = get_logger("mormot_ws.client")

#: milliseconds that free() allows for the close handshake, and then for the end of the TCP
#: connection
_CLOSE_MS = 1_000
#: milliseconds that free() waits in all
_FREE_MS = 2_800
FREED = "The client is being freed"


class NoThreadError(Exception):
    """Raised when there is no thread for a connection, or no descriptor for the keeper."""


class ClientLife(CrtSocket, FreedByWith):
    """A client's connection, its process and its thread.

    The parameters are those of :class:`HttpClientWebSockets`, the only subclass.
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
        #: shared by reference with the process; change values before the upgrade
        self.settings: WebSocketProcessSettings = checked_settings(settings)
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
        #: a name for the thread and in log lines
        self.process_name = process_name
        #: decides the waits; made when the thread starts
        self.policy: ReconnectPolicy | None = None
        #: why the policy gave up; None if it did not
        self.gave_up: ReconnectFailure | None = None
        #: why the last upgrade failed, with the server's answer as ``http_status``, ``headers`` and
        #: ``body``; None if it did not fail
        self.upgrade_failure: UpgradeError | None = None
        # the arguments of auto_reconnect() before there was a process
        self._again: AutoReconnect | None = None
        self._own_policy: ReconnectPolicy | None = None
        self._process: WebSocketProcessClient | None = None
        self._thread: WebSocketProcessClientThread | None = None
        self._keeper: ProcessKeeper | None = None
        #: guards _freeing, _upgrading and _opening, and the start of the keeper's use and of the
        #: thread, so that free() misses neither. It comes before the locks of the keeper and the
        #: thread, and nothing blocks while it is held. It is reentrant, because a signal handler
        #: may call free() at any moment
        self._safe_free = threading.RLock()
        #: the thread that is upgrading, if one is: two threads must not use one socket. A list,
        #: because nothing can be raised between the first and the last step of its methods
        self._upgrading: list[int] = []
        #: the thread that is opening the TCP connection, if one is
        self._opening: list[int] = []
        self._freeing = False
        #: held by the thread that does the work of free(); others wait for it, with a time-out.
        #: First in the lock order; reentrant for signal handlers
        self._safe_freed = threading.RLock()
        #: True when the work of free() is complete; interrupted work is done again
        self._freed = False
        # True after free_later(): the thread frees the client when it ends
        self._free_at_end = False
        close_at_exit(self)

    # ------------------------------------------------------------------------ subclasses implement

    @abstractmethod
    def notify_closed(self) -> None:
        """Tell the application that the connection has ended. Runs in the client's thread."""

    @abstractmethod
    def notify_gave_up(self, failure: ReconnectFailure) -> None:
        """Tell the application that there will be no more attempts. Runs in the client's thread."""

    @abstractmethod
    def notify_ended(self) -> None:
        """Tell the application that the thread ends. Runs in the client's thread."""

    @abstractmethod
    def prepare_attempt(self) -> None:
        """Find out where the next attempt goes. Runs in the client's thread."""

    # ---------------------------------------------------------------------------------- for anybody

    def reconnect_now(self) -> None:
        """End the wait before the next attempt to connect.

        Any thread and any signal handler may call it; it returns at once. It also works before the
        wait begins: in a callback that reports the loss, or during an attempt, after whose failure
        the next one follows at once. On a running connection it does nothing.
        """
        thread = self._thread
        if thread is not None:
            thread.reconnect_now()

    def free(self) -> None:
        """Close the connection and end its thread, for good. Mirrors ``Free``.

        Call it from any thread except the client's own: in one of its callbacks it behaves as
        ``settings.free_in_callback`` says. A signal handler may call it, whatever it has
        interrupted. The close handshake takes up to ``close_timeout`` ms, and all of it less than 3
        s; a callback that runs longer is left behind, with a log line. Safe to call twice; if an
        exception interrupts a call, the next one finishes the work.
        """
        thread = self._thread
        if thread is not None and thread is current_thread():
            if self.settings.free_in_callback != "raise":
                thread.terminate()
            meet_free_in_callback(self, "client", self.settings)
        with self._safe_free:
            self._freeing = True  # after this no other thread is made
        lock = self._safe_freed
        held: list[bool] = []
        try:
            if not take(lock, held, _FREE_MS / 1000):
                # another thread is doing it, within its own time limit
                return
            if not self._freed:
                self._free()
                self._freed = True
            elif thread is not None and thread is not current_thread():
                # it has done the work itself, after free_later(), and is about to end
                joined(thread, Deadline(_CLOSE_MS))
        finally:
            if held and held[0]:
                lock.release()

    def lead_to(self, host: str, port: int, tls: bool) -> None:
        """Let the next connection go to *host* and *port*. In the client's thread, or before there
        is one; for the package. Raises ``ValueError`` for an address that can never work.
        """
        wire_host(host)
        if not 0 < port < 65536:
            raise ValueError(f"port is a number from 1 to 65535, not {port}")
        self.host, self.port, self.tls = host, port, tls

    def free_later(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, and :meth:`free` the client when its thread ends.

        For its callbacks, which must not call ``free()``. Any thread may call it; it returns at
        once.
        """
        thread, process = self._thread, self._process
        if thread is None or not thread.is_alive():
            self.free()
            return
        self._free_at_end = True
        thread.terminate()
        if process is None or process.state in (wpsCreate, wpsDestroy):
            # an attempt to connect may last long
            self.interrupt()
            return
        if process.runs_loop():
            process.shutdown(code, reason)
        else:
            process.start_shutdown(code, reason, _CLOSE_MS)

    def _free(self) -> None:
        """Do the work of free() that is not done yet."""
        deadline = Deadline(_FREE_MS)
        thread, process = self._thread, self._process
        if thread is current_thread():
            # this is the thread itself, at its end after free_later()
            thread = None
        if thread is not None:
            thread.terminate()
        if (
            process is not None
            and process.state is wpsRun
            and process.shutdown_within(1000, _CLOSE_MS)
            and thread is not None
        ):
            # wait for the peer's end of the TCP connection, and for the last callbacks
            joined(thread, Deadline(_CLOSE_MS))
        self.interrupt()
        if thread is not None and not joined(thread, deadline):
            _log.error("%s: a callback does not return; its thread is left behind", thread.name)
        self.close()
        with self._safe_free:
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            release_shared_keeper()
        forget_at_exit(self)

    def _new_process(self, protocol: WebSocketProtocol) -> WebSocketProcessClient | None:
        """Return a process for *protocol*; None if the client is being freed."""
        with self._safe_free:  # an earlier free() would not release the keeper
            if self._freeing:
                return None
            if self._keeper is None:  # otherwise an upgrade whose policy or protocol raised has it
                self._keeper = acquire_shared_keeper()
        return WebSocketProcessClient(self, protocol, self._keeper, self._again)

    def _connect_later(
        self, protocol: WebSocketProtocol, uri: str, headers: str, failed: AttemptFailure | None
    ) -> str:
        """Start the thread that makes the first connection; return '' or why there is no thread.

        *failed* is the failure of an attempt before that.
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
            _log.error("%r: no thread can be started (%s), so it does not connect", self, exc)
            return str(exc)
        return ""

    def _new_thread(
        self,
        process: WebSocketProcessClient,
        first: bool,
        waits: bool = False,
        failed: AttemptFailure | None = None,
    ) -> WebSocketProcessClientThread | None:
        """Start the thread that runs *process*, or that *waits* for a connection.

        Returns None if the client is being freed. If it raises, even because of the policy's
        factory, the process does not count as running.
        """
        started = False
        try:
            policy = self._own_policy
            if policy is None:
                policy = self.settings.reconnect_policy()
            with self._safe_free:
                # either free() sees all of it, with the started thread, or it comes first
                if self._freeing:
                    return None
                # kept alive until the lock is free: their finalisers are the application's code
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
                    # there is no descriptor for the keeper, or no more threads
                    if first:
                        # back to the state before the upgrade
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
                # back to the state before: the next try may get a thread
                self._thread = last
                process.owned_by(last)
                last.revived(False)
                text = f"{type(exc).__name__}: {exc}"
                process.note_error(text)
        _log.error(
            "%s: no thread can be started (%s): set on_reconnect again later to reconnect",
            last.name,
            text,
        )

    def thread_ends(self) -> None:
        """Free the client if free_later() was called. Runs at the end of the client's thread."""
        self.notify_ended()
        if not self._free_at_end:
            return
        with self._safe_free:
            self._freeing = True
        # otherwise another thread is doing it
        if self._safe_freed.acquire(blocking=False):
            try:
                if not self._freed:
                    self._free()
                    self._freed = True
            finally:
                self._safe_freed.release()

    def die_in_child(self) -> None:
        """Become dead in a forked child if connected or ever upgraded; start afresh otherwise."""
        super().die_in_child()
        self._safe_free, self._safe_freed = threading.RLock(), threading.RLock()
        self._upgrading, self._opening = [], []
        thread, self._thread = self._thread, None
        self._keeper = None
        if thread is not None:
            thread.die_in_child()
        if self._freeing or self._inherited or self._process is not None:
            # free() has nothing left to do
            self._inherited = self._interrupted = self._freeing = True
            self._freed = True
        else:
            stay_at_exit(self)

    def begin_exit(self) -> None:
        """Send a close frame at the interpreter's end, without waiting."""
        if self._thread is not None:
            self._thread.terminate()
        if self._process is not None:
            self._process.start_shutdown(1001, "")

    def end_exit(self, deadline: Deadline) -> None:
        """Wait for the close handshake at the interpreter's end, then cut the connection."""
        thread = self._thread
        if thread is not None and thread is not current_thread():
            joined(thread, deadline)
        self.interrupt()
