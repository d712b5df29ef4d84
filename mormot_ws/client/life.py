"""ClientLife: a client's process, its thread and its use of the keeper, from start to end.

The client owns it. The handshakes and requests are in ``client.py``.
"""

from __future__ import annotations

import threading
import weakref
from threading import current_thread
from typing import Protocol

from ..core.taking import take
from ..logs import get_logger
from ..process.free_in_callback import meet_free_in_callback
from ..process.freeing import close_at_exit, forget_at_exit, joined, stay_at_exit
from ..process.keeper import KeeperUse
from ..protocols.base import OnBeforeIncomingFrame, WebSocketProtocol
from ..reconnect_policies import ReconnectPolicy
from ..sockets.deadline import Deadline
from ..sockets.transport import Transport
from ..states import wpsCreate, wpsDestroy, wpsRun
from ..status import ClientStatus
from .arguments import already_upgraded
from .connection import OnReconnect, WebSocketProcessClient
from .delays import AttemptFailure
from .owner import ClientOwner
from .socket_use import CONNECTING
from .thread import WebSocketProcessClientThread
from .upgrade import UpgradeResult

_log = get_logger("mormot_ws.client")

#: milliseconds that free() allows for the close handshake, and then for the end of the TCP
#: connection
_CLOSE_MS = 1_000
#: milliseconds that free() waits in all
_FREE_MS = 2_800
#: milliseconds that an upgrade waits for its thread to enter the loop
_ENTER_LOOP_MS = 5_000
FREED = "The client is being freed"
_NOT_ENDED = (
    "The last connection has not ended yet: upgrade again in on_reconnect or on_websockets_closed"
)


class NoThreadError(Exception):
    """Raised if there is no thread for a connection, or no descriptor for the keeper."""


class LivingClient(ClientOwner, Protocol):
    """What :class:`ClientLife` needs from its client."""

    on_before_incoming_frame: OnBeforeIncomingFrame | None

    def interrupt(self) -> None:
        """Make all waits on the socket fail now, permanently."""

    def notify_ended(self) -> None:
        """Report to the application that the thread ends."""

    def use_policy(self, policy: ReconnectPolicy) -> object:
        """Use *policy* from now on; return an object to keep alive until no lock is held."""

    def begin_exit(self) -> None:
        """Start closing when the interpreter exits, without waiting."""

    def end_exit(self, deadline: Deadline) -> None:
        """Wait until the *deadline* for the end of the connection, then cut it."""


class ClientLife:
    """The process and the thread of *client*, and how they end."""

    def __init__(self, client: LivingClient) -> None:
        # weak, so that a client that is no longer used is not kept alive by its own part
        self._owner = weakref.ref(client)
        # the arguments of auto_reconnect(), until there is a process
        self._again: OnReconnect | None = None
        self._own_policy: ReconnectPolicy | None = None
        #: the process; None before the first upgrade, or auto_reconnect()
        self.process: WebSocketProcessClient | None = None
        #: the thread that runs it, or the last one if it has ended
        self.thread: WebSocketProcessClientThread | None = None
        self._keeper_use = KeeperUse()
        #: guards ``freeing``, and the start of the keeper's use and of the thread, so that free()
        #: misses neither. It comes before the locks of the keeper and the thread, and nothing
        #: blocks while it is held. It is reentrant, because a signal handler may call free() at any
        #: moment
        self._safe_free = threading.RLock()
        #: True once the client is being freed
        self.freeing: bool = False
        #: held by the thread that does the work of free(); others wait for it, with a time-out.
        #: First in the lock order; reentrant for signal handlers
        self._safe_freed = threading.RLock()
        #: True when the work of free() is complete; interrupted work is repeated
        self._freed = False
        # True after free_later(): the thread frees the client when it ends
        self._free_at_end = False
        # the thread that has ended, and does not look at that any more
        self._left_by: threading.Thread | None = None
        close_at_exit(client)

    @property
    def _client(self) -> LivingClient:
        client = self._owner()
        # the client owns this object; only it, or its thread, which keeps it alive, calls methods
        assert client is not None
        return client

    # ---------------------------------------------------------------------------------- the end

    def free(self) -> None:
        """Do the work of the client's ``free()``."""
        thread = self.thread
        if thread is not None and thread is current_thread():
            if self._client.settings.free_in_callback != "raise":
                thread.terminate()
            meet_free_in_callback(self._client, "client", self._client.settings)
        with self._safe_free:
            self.freeing = True  # after this no other thread is created
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

    def free_later(self, code: int = 1000, reason: str = "") -> None:
        """Do the work of the client's ``free_later()``."""
        thread, process = self.thread, self.process
        self._free_at_end = True
        # in the opposite order of the thread, so that one of the two sees the other
        if thread is None or self._left_by is thread or not thread.is_alive():
            if thread is current_thread():
                # a finaliser in its last lines
                self._free_in_own_thread()
            else:
                self.free()
            return
        self._leave(process)
        thread.terminate()
        if process is None or process.state in (wpsCreate, wpsDestroy):
            # an attempt to connect may take long
            self._client.interrupt()
            return
        if process.runs_loop():
            process.shutdown(code, reason)
        elif (
            not process.start_shutdown(code, reason, _CLOSE_MS)
            and process.state is wpsRun
            and not process.connection_close_was_sent
        ):
            # a finaliser or signal handler has interrupted a send, or a writer is stuck
            process.abort("freed while a frame was being sent")

    @staticmethod
    def _leave(process: WebSocketProcessClient | None) -> None:
        """Let the layers above say goodbye to the server."""
        if process is not None and process.exchange is not None and process.state is wpsRun:
            process.exchange.leaving()

    def _free(self) -> None:
        """Do the part of free()'s work that is not done yet."""
        deadline = Deadline(_FREE_MS)
        thread, process = self.thread, self.process
        if thread is current_thread():
            # this is the thread itself, at its end after free_later()
            thread = None
        self._leave(process)
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
        self._client.interrupt()
        if thread is not None and not joined(thread, deadline):
            _log.error("%s: a callback does not return; its thread is left behind", thread.name)
        self._client.close()
        self._keeper_use.end()
        forget_at_exit(self._client)

    # ------------------------------------------------------------------------------------ upgrades

    @property
    def has_thread(self) -> bool:
        """True while a thread other than this one runs the process, or connects."""
        thread = self.thread
        return thread is not None and thread.is_alive() and thread is not current_thread()

    @property
    def reconnects(self) -> bool:
        """True if a failed first upgrade is to be retried in the background."""
        return self._again is not None and self.process is None and not self.freeing

    def runs(self, protocol: WebSocketProtocol) -> bool:
        """Return whether the client's connections use *protocol*, while there is a thread."""
        process, thread = self.process, self.thread
        return (
            thread is not None
            and thread.is_alive()
            and process is not None
            and process.protocol is protocol
        )

    def status(self, last_error: str) -> ClientStatus:
        """Return a snapshot for monitoring; *last_error* is that of the client's socket."""
        client, process, thread = self._client, self.process, self.thread
        runs = process is not None and process.state is wpsRun
        return ClientStatus(
            host=client.host,
            port=client.port,
            connected=runs and thread is not None and thread.is_alive(),
            thread_state="" if thread is None else thread.thread_state.name,
            attempts=0 if process is None else process.attempts,
            reconnects=0 if process is None else process.reconnects,
            last_error=last_error if process is None else process.last_error or last_error,
            connection=None if process is None else process.status(),
        )

    def reconnect_by(self, again: OnReconnect, policy: ReconnectPolicy | None) -> None:
        """Keep *again*, the ``on_reconnect`` of the future process, and its *policy*."""
        self._again, self._own_policy = again, policy

    def refusal(self, uri: str, reconnect: bool) -> str:
        """Return why there can be no upgrade now; '' if there can be one.

        *reconnect*: an ``on_reconnect`` requests it.
        """
        process, thread = self.process, self.thread
        if process is not None and (
            (process.upgrades and not reconnect) or process.state is wpsRun
        ):
            if (
                thread is not None
                and thread is current_thread()
                and not thread.in_loop
                and not reconnect
            ):
                _log.error(
                    "%s: on_reconnect called websockets_upgrade() without reconnect=True, which"
                    " can upgrade a client only once: this attempt fails, like all later ones",
                    thread.name,
                )
            return already_upgraded(process.protocol.uri, uri)
        if thread is not None:
            if thread.in_loop:
                return _NOT_ENDED
            if thread.attempting and thread is not current_thread():
                return CONNECTING
        return ""

    def take_over(
        self,
        transport: Transport,
        protocol: WebSocketProtocol,
        uri: str,
        headers: str,
        result: UpgradeResult,
    ) -> str:
        """Run an upgraded connection: start or renew the process; return '' or an error text.

        Raises :class:`NoThreadError`.
        """
        client = self._client
        protocol.used_by(client)
        process = self.process
        first = process is None
        if process is None:
            process = self._new_process(protocol)
            if process is None:
                return FREED
        else:
            process._renew(protocol)
        protocol.on_before_incoming_frame = (
            client.on_before_incoming_frame or protocol.on_before_incoming_frame
        )
        remote_ip = transport.peer_ip()
        process.met(result.connection_id, remote_ip)
        protocol.connection_upgraded(uri, headers, remote_ip, result.connection_id)
        process.attach(transport, result.unread)
        protocol.prepare_process(process)
        protocol.after_upgrade(process)
        return self._start(process, first)

    def _start(self, process: WebSocketProcessClient, first: bool) -> str:
        """Let a thread run the process: a new one, or the one that is reconnecting now."""
        if self.freeing:
            return FREED
        thread = self.thread
        if not first:
            process.run_at_once()
            if thread is not None and thread.will_run():
                return ""
        thread = self._new_thread(process, first)
        if thread is None:
            return FREED
        thread.entered.wait(_ENTER_LOOP_MS / 1000)
        return ""

    def _new_process(self, protocol: WebSocketProtocol) -> WebSocketProcessClient | None:
        """Return a process for *protocol*; None if the client is being freed."""
        with self._safe_free:  # an earlier free() would not release the keeper
            if self.freeing:
                return None
            keeper = self._keeper_use.begin()
        if self.freeing:
            # in a signal handler, which has interrupted the lines above
            self._keeper_use.end()
            return None
        return WebSocketProcessClient(self._client, protocol, keeper, self._again)

    def connect_later(
        self, protocol: WebSocketProtocol, uri: str, headers: str, failed: AttemptFailure | None
    ) -> str:
        """Start the thread that makes the first connection; return '', or why there is no thread.

        *failed* is the failure of an earlier attempt.
        """
        process = self._new_process(protocol)
        if process is None:
            return FREED
        protocol.upgrade_begins(uri, headers)
        protocol.used_by(self._client)
        protocol.prepare_process(process)
        try:
            self._new_thread(process, True, waits=True, failed=failed)
        except NoThreadError as exc:
            text = "%r: no thread can be started (%s), so it does not connect"
            _log.error(text, self._client, exc)
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
                policy = self._client.settings.reconnect_policy()
            with self._safe_free:
                # either free() sees all of it, with the started thread, or it comes first
                if self.freeing:
                    return None
                # kept alive until the lock is free: their finalisers are the application's code
                before = self._client.use_policy(policy)
                thread = WebSocketProcessClientThread(self._client, process, waits, failed)
                self.process = process
                self.thread = thread
                process.owned_by(thread)
                try:
                    if first and not waits:
                        process.enter_run()
                    thread.start()
                except (OSError, RuntimeError) as exc:
                    # there is no descriptor for the keeper, or there are no more threads
                    if first:
                        # back to the state before the upgrade
                        self.process = self.thread = None
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
        """Start a thread that reconnects, if the last one ended without ``on_reconnect``."""
        with self._safe_free:
            last, process = self.thread, self.process
            if self.freeing or last is None or process is None or not last.may_be_revived():
                return
            thread = WebSocketProcessClientThread(self._client, process, lost=True)
            thread.take_over(last)
            self.thread = thread
            process.owned_by(thread)
            last.revived(True)
            try:
                thread.start()
                return
            except RuntimeError as exc:
                # back to the state before: the next try may get a thread
                self.thread = last
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
        self._client.notify_ended()
        self._tell_protocol()
        # first: what calls free_later() after that frees the client itself
        self._left_by = current_thread()
        if self._free_at_end:
            self._free_in_own_thread()

    def _free_in_own_thread(self) -> None:
        """Free the client in its own thread, which ends."""
        with self._safe_free:
            self.freeing = True
        # otherwise another thread is doing it
        if self._safe_freed.acquire(blocking=False):
            try:
                if not self._freed:
                    self._free()
                    self._freed = True
            finally:
                self._safe_freed.release()

    def _tell_protocol(self) -> None:
        """Report to the protocol that there will be no other connection."""
        process = self.process
        if process is not None:
            try:
                process.protocol.client_ended()
            # it may call the application's code
            except BaseException:  # noqa: BLE001
                _log.exception("%s: client_ended() of the protocol failed", process)

    def die_in_child(self, dead: bool) -> None:
        """Discard the parent's thread and keeper, in a forked child.

        *dead*: the client's socket belongs to the parent, and free() has nothing left to do.
        """
        self._safe_free, self._safe_freed = threading.RLock(), threading.RLock()
        thread, self.thread = self.thread, None
        self._keeper_use.die_in_child()
        if thread is not None:
            thread.die_in_child()
        if dead:
            self.freeing = self._freed = True
        else:
            stay_at_exit(self._client)

    def begin_exit(self) -> None:
        """Send a close frame when the interpreter exits, without waiting."""
        if self.thread is not None:
            self.thread.terminate()
        if self.process is not None:
            self.process.start_shutdown(1001, "")

    def end_exit(self, deadline: Deadline) -> None:
        """Wait for the close handshake when the interpreter exits, then cut the connection."""
        thread = self.thread
        if thread is not None and thread is not current_thread():
            joined(thread, deadline)
        self._client.interrupt()
