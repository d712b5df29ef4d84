"""WebSocketServerBase: the common part of all servers: protocols, events, tables, limits,
broadcast.

``threaded.py`` listens for connections itself; ``wsgi.py`` takes them over from a WSGI server. This
module accepts no sockets, and starts no thread except the keeper's.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from threading import current_thread
from time import sleep
from types import NoneType
from typing import Any, ClassVar

from ..attributes import IS_BOOL, IS_INT, IS_TEXT, Check, KnownAttributes, of_kind
from ..callbacks import Ignored
from ..core.frames import WebSocketFrame, check_frame, encode_unmasked, focBinary, focText
from ..core.outgoing import QueuedFrame
from ..core.taking import take
from ..logs import LOG_SECONDS, SeldomLog, get_logger
from ..process.encoder import check_sendable
from ..process.free_in_callback import meet_free_in_callback
from ..process.freeing import FreedByWith, forget_at_exit, joined
from ..process.keeper import ProcessKeeper
from ..process.sharing import Sharing
from ..protocols.base import WebSocketProtocol
from ..protocols.protocol_list import WebSocketProtocolList
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings, check_settings, checked_settings
from ..sockets.deadline import Deadline
from ..states import wpsRun
from ..status import ServerStatus
from .address_limits import AddressLimits
from .checks import is_process_class, numbers_of
from .connection import WebSocketProcessServer, WebSocketServerSocket
from .goodbye import say_goodbye
from .groups import Groups
from .tallies import CloseCodes, totals_of

_log = get_logger("mormot_ws.server")

#: how often status() tries again if a connection ends at the same time
_SNAPSHOT_TRIES = 100


class WebSocketServerBase(KnownAttributes, FreedByWith):
    """Base class of the servers: their protocols, events and connections.

    :param thread_name: the name of the keeper's thread.
    :param process_name: a name for the connections in log lines.
    :param settings: ``WebSocketProcessSettings``; by default a new object, with a heartbeat every
        20 000 ms.

    The callbacks below run in the connection's thread. An exception in one is logged, and does not
    affect other connections.
    """

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "broadcast": "websocket_broadcast(frame)",
        "callback": "only a WebSocketServerRest has it",
        "close": "call free(), or use with",
        "on_connect": "set on_websocket_connect",
        "on_disconnect": "set on_websocket_disconnect",
        "run": "it has been running since it was created: wait for a signal or an event",
        "send": "use websocket_broadcast(frame), or send_frame(frame) of one of connections()",
        "serve_forever": "it has been running since it was created: wait for a signal or an event",
        "start": "it has been running since it was created",
        "stop": "call free(), or use with",
        "on_message": "the protocol handles messages: websocket_protocols.add("
        "WebSocketProtocolChat(name, uri, on_incoming_frame))",
    }

    _CHECKS: ClassVar[dict[str, Check]] = {
        "process_name": IS_TEXT,
        "settings": check_settings,
        "websocket_protocols": of_kind(
            WebSocketProtocolList,
            meant="a WebSocketProtocolList, to which you add() protocols",
        ),
        "tls_context": of_kind(ssl.SSLContext, NoneType, meant="an ssl.SSLContext or None"),
        "process_class": is_process_class,
        "is_ready": IS_BOOL,
    }
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {
        "on_request": ("ctxt",),
        "on_websocket_upgraded": ("protocol",),
        "on_websocket_connect": ("socket",),
        "on_websocket_disconnect": ("socket",),
        "on_websocket_close": ("protocol",),
    }

    #: ``f(ctxt: HttpServerRequest) -> status``, handles requests that are not an upgrade, and those
    #: of the REST protocols; None: 426 or 404
    on_request: OnHttpServerRequest | None = None
    #: True in a forked child …
    _forked = False
    #: … where the listeners belong to the parent, and nothing is left for this object to do
    _inherited = False
    #: the TLS context for connections that we encrypt ourselves; None: no TLS
    tls_context: ssl.SSLContext | None = None
    #: the class of each connection's process, derived from ``WebSocketProcessServer``; set it
    #: before clients connect. Mirrors ``ProcessClass``
    process_class: type[WebSocketProcessServer] = WebSocketProcessServer

    #: set it to False before you stop or update the server: health checks
    #: (``settings.health_path``) then get 503, and everything else continues
    is_ready: bool = True

    def __init__(
        self, thread_name: str, process_name: str, settings: WebSocketProcessSettings | None
    ) -> None:
        self.process_name = process_name
        self.settings: WebSocketProcessSettings = checked_settings(settings)
        #: the offered protocols; empty at first
        self.websocket_protocols: WebSocketProtocolList = self._offered_protocols()
        if callable(type(self).on_websocket_upgraded):
            # a subclass has defined it as a method, as in Pascal
            self.websocket_protocols.on_upgraded = self.on_websocket_upgraded
        #: ``f(socket: WebSocketServerSocket)``, after an upgrade, before the first frame
        self.on_websocket_connect: Callable[[WebSocketServerSocket], Ignored] | None = None
        #: ``f(socket: WebSocketServerSocket)``, after the last callback of a connection
        self.on_websocket_disconnect: Callable[[WebSocketServerSocket], Ignored] | None = None
        #: ``f(protocol)``, last of all, with the connection's protocol object
        self.on_websocket_close: Callable[[WebSocketProtocol], Ignored] | None = None
        self._keeper = ProcessKeeper(f"{thread_name} keeper")
        #: True once no more connections are admitted
        self._stopping = False
        #: True once free() has done its work
        self._freed = False
        #: the handlers for plain requests of certain paths, instead of ``on_request``
        self._path_answers: dict[str, OnHttpServerRequest] = {}
        #: what free() calls behind the last callback of a connection
        self._layers_above: list[Callable[[], object]] = []
        self._turned_away_log = SeldomLog(LOG_SECONDS)
        self._sharing = Sharing()
        self._opening_log = SeldomLog(LOG_SECONDS)
        self._clear()

    def _clear(self) -> None:
        """Start without connections."""
        #: guards changes of the tables and counts below; never held while a callback runs, a record
        #: is logged or a socket blocks. Only the server's own threads take it; methods for other
        #: threads, and for signal handlers, read the tables without it
        self._safe_connections = threading.Lock()
        self._processes: dict[int, WebSocketProcessServer] = {}
        self._groups = Groups(self._processes)
        #: all connections, in the order of their arrival
        self._sockets: dict[WebSocketServerSocket, None] = {}
        self._ended_totals = [0, 0, 0, 0, 0]  # the counts of connections that have ended
        self._close_codes = CloseCodes()
        self._moves = 0  # odd while a connection's totals are being added there
        self._upgraded = 0
        self._refused = 0
        self._turned_away = 0
        # used under the lock of the tables
        self._addresses = AddressLimits()
        self._last_connection_id = 0
        #: held by the thread that frees the server; first in the lock order; reentrant for a signal
        #: handler that interrupts that thread
        self._freeing = threading.RLock()

    def die_in_child(self) -> None:
        """Discard the parent's connections, in a forked child; their processes end themselves."""
        for connection in list(self._sockets):
            connection.die_in_child()
        self._forked = True
        self._clear()

    def _leave_to_parent(self) -> None:
        """Count as freed, in a forked child: the listeners belong to the parent."""
        self._stopping = self._inherited = self._freed = True

    def _begin_afresh(self) -> None:
        """Admit connections again, in a forked child."""
        self._stopping = False

    # ------------------------------------------------------------------------------------- public

    @property
    def description(self) -> str:
        """A description of the server, for visitors that are not WebSocket clients."""
        return f"{self.process_name or 'a'} WebSocket server (mormot_ws)"

    @property
    def on_websocket_upgraded(self) -> Callable[[WebSocketProtocol], int] | None:
        """``f(protocol) -> int``: 200 accepts an upgrade, any other HTTP status refuses it.

        Mirrors ``OnWebSocketUpgraded``.
        """
        return self.websocket_protocols.on_upgraded

    @on_websocket_upgraded.setter
    def on_websocket_upgraded(self, callback: Callable[[WebSocketProtocol], int] | None) -> None:
        self.websocket_protocols.on_upgraded = callback

    @property
    def websocket_connections(self) -> int:
        """The number of current WebSocket connections; mirrors ``WebSocketConnections``."""
        return len(self._processes)

    def is_active_websocket(self, connection_id: int) -> WebSocketProcessServer | None:
        """Return the process of that connection; None if it is not, or no longer, connected.

        Mirrors ``IsActiveWebSocket``.
        """
        if type(connection_id) is not int:
            IS_INT("connection_id", connection_id)
        process = self._processes.get(connection_id)
        if process is None or process.state is not wpsRun or process.given_up:
            return None
        return process

    def connections(self, group: str | None = None) -> list[WebSocketProcessServer]:
        """Return a new list of the current WebSocket connections, or of those in *group*.

        Any thread may call it. Connections may end while you iterate over the list; sending to one
        that has ended returns False.
        """
        found = self._groups.members(group) if group is not None else list(self._processes.values())
        return [process for process in found if process.state is wpsRun and not process.given_up]

    @property
    def groups(self) -> list[str]:
        """The names of the groups that have members.

        See :meth:`~mormot_ws.WebSocketProcessServer.join`.
        """
        return self._groups.names()

    def websocket_broadcast(
        self,
        frame: WebSocketFrame,
        connection_ids: Iterable[int] | None = None,
        *,
        group: str | None = None,
        exclude: Iterable[int] = (),
    ) -> int:
        """Queue *frame* on all connections; mirrors ``WebSocketBroadcast``.

        :param connection_ids: only on the connections with these numbers.
        :param group: only on the connections that have joined that group.
        :param exclude: not on the connections with these numbers.

        Any thread may call it. It never waits: what a receiver does not accept at once is queued
        and sent by the keeper. The frame is encoded only once. Returns how many connections have
        sent or queued it (a full queue refuses). Raises ``TypeError`` or ``ValueError``, before
        anything is queued, if it is not a text or binary frame, or if it is text that is not UTF-8
        and a receiver's protocol requires UTF-8.
        """
        check_frame(frame)
        if frame.opcode not in (focText, focBinary):
            raise ValueError(f"only text or binary frames are broadcast, not {frame.opcode.name}")
        receivers = self._receivers(connection_ids, group, exclude)
        if not receivers or not all(process.protocol.lenient_text for process in receivers):
            check_sendable(frame)
        plain = QueuedFrame(frame.opcode, frame.payload, frame.content)
        encoded = plain._replace(wire=encode_unmasked(0x80 | frame.opcode, frame.payload))
        now = self._sharing.begin(self.settings.send_delay)
        # a list, not a generator, so that all of them are tried
        count = sum([process.sender.send_shared(plain, encoded, now) for process in receivers])
        self._sharing.end()
        return count

    def is_own_thread(self) -> bool:
        """Return whether the calling thread belongs to the server, so that it is in a callback,
        where :meth:`free` would wait for itself.
        """
        return current_thread() in self._own_threads()

    def free(self) -> None:
        """Close all connections with 1001, and end all threads. Mirrors ``Free``.

        Waits for the answers of all clients together, and for the threads of all connections. For a
        client that has not answered after 250 ms, the server also ends its half of the TCP
        connection, because native clients that have reconnected notice nothing else. All this takes
        up to twice ``close_timeout`` ms if clients neither answer nor leave, and up to 2.5 s more
        if callbacks are running, ``on_stop`` included.

        Call it from any thread except the server's own: in a callback of one of its connections,
        ``settings.free_in_callback`` determines what happens. Safe to call twice, even from a
        signal handler; if an exception interrupts a call, the next one finishes the work.
        """
        if self.is_own_thread():
            meet_free_in_callback(self, "server", self.settings)
        self._stopping = True
        held: list[bool] = []
        try:
            # another thread may be freeing the server: wait for as long as that may take
            if not take(self._freeing, held, 10):
                return
            if not self._freed:
                self._end()
                self._freed = True
        finally:
            if held and held[0]:
                self._freeing.release()

    def begin_exit(self) -> None:
        """Send close frames to all clients when the interpreter exits, without waiting."""
        self._stopping = True
        self._say_goodbye(list(self._sockets))

    def end_exit(self, deadline: Deadline) -> None:
        """Wait for the close handshakes when the interpreter exits, then cut the connections."""
        for connection in self._wait_ended(list(self._sockets), deadline):
            connection.interrupt()

    # ------------------------------------------------------------------------------- for subclasses

    def _offered_protocols(self) -> WebSocketProtocolList:
        """Return the list of protocols that the server offers."""
        return WebSocketProtocolList()

    def _receivers(
        self, connection_ids: Iterable[int] | None, group: str | None, exclude: Iterable[int]
    ) -> list[WebSocketProcessServer]:
        """Return the connections that a broadcast is for."""
        # no lock is held: the application's iterators may take their time, or take a lock
        excluded = frozenset(numbers_of("exclude", exclude))
        if connection_ids is None:
            if group is None:
                found = list(self._processes.values())
            else:
                found = self._groups.members(group)
        else:
            known = [
                self._processes.get(number)
                for number in numbers_of("connection_ids", connection_ids)
            ]
            found = [process for process in known if process is not None]
            if group is not None:
                members = frozenset(self._groups.members(group))
                found = [process for process in found if process in members]
        if excluded:
            found = [process for process in found if process.connection_id not in excluded]
        return found

    def _status(self, host: str, port: int) -> ServerStatus:
        for _ in range(_SNAPSHOT_TRIES):
            moves = self._moves
            processes = list(self._processes.values())
            totals = list(self._ended_totals)
            if moves == self._moves and not moves % 2:
                break
            # a connection is just ending: let its thread continue
            sleep(0)
        for process in processes:
            for at, value in enumerate(totals_of(process)):
                totals[at] += value
        return ServerStatus(
            host=host,
            port=port,
            accepted=self._last_connection_id,
            turned_away=self._turned_away,
            upgraded=self._upgraded,
            refused=self._refused,
            connections=len(processes),
            sockets=len(self._sockets),
            frames_in=totals[0],
            frames_out=totals[1],
            bytes_in=totals[2],
            bytes_out=totals[3],
            queue_lost=totals[4],
            close_codes=self._close_codes.as_dict(),
        )

    def _unready(self) -> str:
        """Return why visitors should go elsewhere; '': they should not. Takes no lock."""
        if self._stopping:
            return "stopping"
        if not self.is_ready:
            return "not ready"
        full = 0 < self.settings.max_connections <= len(self._sockets)
        return "too many connections" if full else ""

    def _own_threads(self) -> set[threading.Thread | None]:
        """Return the threads that free() has to wait for, and therefore cannot run in."""
        return {connection.thread for connection in list(self._sockets)}

    def _stop_accepting(self) -> None:
        """Stop accepting connections; wait until none is still being added to the tables."""

    @property
    def _is_closed(self) -> bool:
        """True if accepted visitors are no longer served."""
        return self._stopping

    def _settle(self) -> None:
        """Let visitors finish their opening handshake if others serve those who come next."""

    def _wait_ended(
        self, connections: Iterable[WebSocketServerSocket], deadline: Deadline
    ) -> list[WebSocketServerSocket]:
        """Wait until *connections* have ended; return those that have not by the *deadline*."""
        left = []
        for connection in connections:
            thread = connection.thread
            if thread is not None and not joined(thread, deadline):
                left.append(connection)
        return left

    def _end(self) -> None:
        """Do the work of free(); every step can be repeated after an interruption."""
        self._stop_accepting()
        self._settle()
        connections = list(self._sockets)
        self._say_goodbye(connections)
        self._join(connections)
        for layer_freed in list(self._layers_above):
            layer_freed()
        self._keeper.stop()
        forget_at_exit(self)

    def _join(self, connections: Iterable[WebSocketServerSocket]) -> None:
        """Wait for the close handshakes of *connections*, then cut the rest and wait for them."""
        left = self._wait_ended(connections, Deadline(2 * self.settings.close_timeout))
        for connection in left:
            connection.interrupt()
        for connection in self._wait_ended(left, Deadline(2500)):
            number = connection.connection_id
            _log.error(
                "%r: a callback of #%d does not return; its thread is left behind",
                self,
                number,
                extra={"connection_id": number, "remote_ip": connection.remote_ip},
            )

    def _next_connection_id(self) -> int:
        with self._safe_connections:
            self._last_connection_id += 1
            return self._last_connection_id

    def _admit(self, connection: WebSocketServerSocket) -> str:
        """Add a new connection to the tables; return '', or why it cannot be served."""
        with self._safe_connections:
            if self._is_closed:
                return "stopping"
            if 0 < self.settings.max_connections <= len(self._sockets):
                return "too many connections"
            refused = self._addresses.count(connection, connection.remote_ip, self.settings)
            if not refused:
                self._sockets[connection] = None
        # free() sets this, then reads the tables: either it sees the connection, or we see this
        if self._is_closed and not refused:
            self._forget(connection)
            return "stopping"
        return refused

    def _identify(self, connection: WebSocketServerSocket, ip: str) -> str:
        """Count *connection* for the client *ip* of a trusted proxy; return '', or why not."""
        with self._safe_connections:
            if self._is_closed:
                return "stopping"
            return self._addresses.count(connection, ip, self.settings)

    def _register(self, process: WebSocketProcessServer) -> None:
        """Add *process* to the tables.

        Called under its ``safe_out``, which comes before the lock of the tables.
        """
        with self._safe_connections:
            self._processes[process.connection_id] = process
            self._upgraded += 1

    def _unregister(self, process: WebSocketProcessServer) -> None:
        with self._safe_connections:
            self._moves += 1
            if self._processes.pop(process.connection_id, None) is not None:
                for at, value in enumerate(totals_of(process)):
                    self._ended_totals[at] += value
                self._close_codes.count(process.close_code)
            self._moves += 1
        # after the above: see Groups.join()
        self._groups.drop(process)

    def _tell_turned_away(self, connection: WebSocketServerSocket, why: str) -> None:
        """Count and log a connection that a limit has turned away.

        During a flood of them, one line every ten seconds is logged.
        """
        self._count_turned_away()
        number = connection.connection_id
        fields = {"connection_id": number, "remote_ip": connection.remote_ip}
        # "too many connections from …" is one kind for all addresses
        more = self._turned_away_log.due(why.partition(" from ")[0])
        if more is not None:
            _log.info("%r turns connection #%d away: %s%s", self, number, why, more, extra=fields)

    def _count_turned_away(self) -> None:
        with self._safe_connections:
            self._turned_away += 1

    def _count_refused(self) -> None:
        with self._safe_connections:
            self._refused += 1

    def _forget(self, connection: WebSocketServerSocket) -> None:
        with self._safe_connections:
            if connection in self._sockets:
                del self._sockets[connection]
                self._addresses.forget(connection)

    def _notify(self, callback: Callable[[Any], Any] | None, argument: object) -> None:
        if callback is not None and not self._inherited:
            try:
                callback(argument)
            # a bug or sys.exit() in the user's code is logged, and affects no other connection
            except BaseException:
                # it has to end a child that a callback has forked
                if self._forked:
                    raise
                _log.exception("%r: a server callback failed for %r", self, argument)

    def _say_goodbye(self, sockets: Iterable[WebSocketServerSocket]) -> None:
        """Send 1001 to all, and cut those that accept no data."""
        say_goodbye(sockets, Deadline(self.settings.close_timeout))
