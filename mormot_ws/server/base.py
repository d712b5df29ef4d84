"""WebSocketHost: what a server of connections is, wherever these come from: its protocols, events,
tables, limits and broadcast.

``server.py`` listens for them itself; ``wsgi.py`` takes them over from somebody else's HTTP server.
No socket is accepted, and no thread but the keeper's is started in here.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..core.frames import WebSocketFrame, encode_unmasked, focBinary, focText
from ..core.outgoing import QueuedFrame
from ..core.publicdir import PublicDir
from ..process.freeing import FreedByWith
from ..process.keeper import ProcessKeeper
from ..process.process import WebSocketProcess
from ..protocols.base import WebSocketProtocol, WebSocketProtocolList
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..states import wpsRun
from ..status import ServerStatus

if TYPE_CHECKING:
    from .threaded import WebSocketProcessServer, WebSocketServerSocket

_log = logging.getLogger("mormot_ws.server")


class WebSocketHost(PublicDir, FreedByWith):
    """Keeps the connections of a server, and what is common to them.

    :param thread_name: names the keeper's thread.
    :param process_name: names the connections in log lines.
    :param settings: ``WebSocketProcessSettings``; by default new ones with a heartbeat every 20 000
        ms.

    The callbacks below run in the connection's thread; an exception in one is logged and hurts
    nobody else.
    """

    _internal = frozenset({"begin_exit", "die_in_child", "end_exit"})

    #: ``f(ctxt: HttpServerRequest) -> status``, answers requests that are no upgrade, and those of
    #: the REST protocols; None: 426 or 404
    on_request: OnHttpServerRequest | None = None
    #: True in a forked child: the listener and the connections are the parent's
    _inherited = False
    #: for connections that are to be encrypted by us; None: none is
    tls_context: ssl.SSLContext | None = None
    #: makes the process of each connection: a descendant of ``WebSocketProcessServer``; set it
    #: before clients come. Mirrors ``ProcessClass``
    process_class: type[WebSocketProcessServer]

    def __init__(
        self, thread_name: str, process_name: str, settings: WebSocketProcessSettings | None
    ) -> None:
        self.process_name = process_name
        self.settings: WebSocketProcessSettings = (
            WebSocketProcessSettings() if settings is None else settings
        )
        #: the protocols offered; empty at first
        self.websocket_protocols: WebSocketProtocolList = WebSocketProtocolList()
        #: ``f(socket: WebSocketServerSocket)``, after an upgrade, before the first frame
        self.on_websocket_connect: Callable[[WebSocketServerSocket], Any] | None = None
        #: ``f(socket: WebSocketServerSocket)``, after the last callback of a connection
        self.on_websocket_disconnect: Callable[[WebSocketServerSocket], Any] | None = None
        #: ``f(protocol)``, last of all, with the connection's protocol object
        self.on_websocket_close: Callable[[WebSocketProtocol], Any] | None = None
        self._keeper = ProcessKeeper(f"{thread_name} keeper")
        self._stopping = False
        self._clear()

    def _clear(self) -> None:
        """Begin without connections."""
        #: guards the tables and the flag below; never held while a callback runs or a socket blocks
        self._safe_connections = threading.Lock()
        self._processes: dict[int, WebSocketProcessServer] = {}
        self._sockets: dict[WebSocketServerSocket, threading.Thread] = {}
        self._ended_totals = [0, 0, 0, 0]  # frames and bytes of connections that have ended
        self._upgraded = 0
        self._refused = 0
        self._turned_away = 0
        self._per_ip: Counter[str] = Counter()
        self._last_connection_id = 0

    def die_in_child(self) -> None:
        """In a forked child: forget the parent's connections; their processes die by themselves."""
        for connection in list(self._sockets):
            connection.die_in_child()
        self._clear()

    # ---------------------------------------------------------------------------------- for anybody

    @property
    def description(self) -> str:
        """What this server says it is, to a visitor who is no WebSocket client."""
        return f"{self.process_name or 'a'} WebSocket server (mormot_ws)"

    @property
    def on_websocket_upgraded(self) -> Callable[[WebSocketProtocol], int] | None:
        """``f(protocol) -> int``: 200 lets an upgrade go on, any other HTTP status refuses it.
        Mirrors ``OnWebSocketUpgraded``.
        """
        return self.websocket_protocols.on_upgraded

    @on_websocket_upgraded.setter
    def on_websocket_upgraded(self, callback: Callable[[WebSocketProtocol], int] | None) -> None:
        self.websocket_protocols.on_upgraded = callback

    @property
    def websocket_connections(self) -> int:
        """How many WebSocket connections there are now; mirrors ``WebSocketConnections``."""
        return len(self._processes)

    def is_active_websocket(self, connection_id: int) -> WebSocketProcessServer | None:
        """Return the process of that connection, None when it is not (or no longer) connected.
        Mirrors ``IsActiveWebSocket``.
        """
        process = self._processes.get(connection_id)
        return process if process is not None and process.state is wpsRun else None

    def websocket_broadcast(
        self, frame: WebSocketFrame, connection_ids: Iterable[int] | None = None
    ) -> int:
        """Queue *frame* on all connections, or on those of *connection_ids*. Mirrors
        ``WebSocketBroadcast``.

        From any thread, never waits: the keeper sends, and one receiver that does not read delays
        no other. Returns how many connections have queued it (a full queue refuses). Raises
        ``ValueError`` for a frame that is neither text nor binary.
        """
        if frame.opcode not in (focText, focBinary):
            raise ValueError(f"a text or binary frame is broadcast, not {frame.opcode.name}")
        with self._safe_connections:
            if connection_ids is None:
                receivers: list[WebSocketProcessServer] = list(self._processes.values())
            else:
                receivers = [self._processes[id] for id in connection_ids if id in self._processes]
        plain = QueuedFrame(frame.opcode, frame.payload, frame.content)
        encoded = plain._replace(wire=encode_unmasked(0x80 | frame.opcode, frame.payload))
        # a list, not a generator: all of them have to be tried
        return sum(
            [
                process.send_queued(encoded if process.sends_plain else plain)
                for process in receivers
            ]
        )

    def begin_exit(self) -> None:
        """The interpreter ends: say goodbye to all clients, without waiting."""
        with self._safe_connections:
            self._stopping = True
            sockets = list(self._sockets)
        self._say_goodbye(sockets)

    # ------------------------------------------------------------------------------ for those below

    def _status(self, host: str, port: int) -> ServerStatus:
        with self._safe_connections:
            protocols = [process.protocol for process in self._processes.values()]
            totals = list(self._ended_totals)
            sockets = len(self._sockets)
        for protocol in protocols:
            for at, value in enumerate(_totals(protocol)):
                totals[at] += value
        return ServerStatus(
            host=host,
            port=port,
            accepted=self._last_connection_id,
            turned_away=self._turned_away,
            upgraded=self._upgraded,
            refused=self._refused,
            connections=len(protocols),
            sockets=sockets,
            frames_in=totals[0],
            frames_out=totals[1],
            bytes_in=totals[2],
            bytes_out=totals[3],
        )

    def _admit(self, socket_: WebSocketServerSocket, thread: threading.Thread) -> str:
        """Remember a new connection; return '', or why it cannot be served."""
        with self._safe_connections:
            refused = self._refusal(socket_.remote_ip)
            if not refused:
                self._sockets[socket_] = thread
                self._per_ip[socket_.remote_ip] += 1
        return refused

    def _register(self, process: WebSocketProcessServer) -> None:
        """Know *process* from now on; called under its ``safe_out``, which comes before the lock
        of the tables.
        """
        with self._safe_connections:
            self._processes[process.connection_id] = process
            self._upgraded += 1

    def _unregister(self, process: WebSocketProcess) -> None:
        with self._safe_connections:
            if self._processes.pop(process.connection_id, None) is not None:
                for at, value in enumerate(_totals(process.protocol)):
                    self._ended_totals[at] += value

    def _count_turned_away(self) -> None:
        with self._safe_connections:
            self._turned_away += 1

    def _count_refused(self) -> None:
        with self._safe_connections:
            self._refused += 1

    def _forget(self, socket_: WebSocketServerSocket) -> None:
        with self._safe_connections:
            if self._sockets.pop(socket_, None) is not None:
                self._per_ip[socket_.remote_ip] -= 1
                if not self._per_ip[socket_.remote_ip]:
                    del self._per_ip[socket_.remote_ip]

    def _notify(self, callback: Callable[[Any], Any] | None, argument: object) -> None:
        if callback is not None and not self._inherited:
            try:
                callback(argument)
            # a bug in the user's code hurts nobody else; the log has it
            except Exception:  # noqa: BLE001
                _log.exception("%r: a server callback failed for %r", self, argument)

    def _refusal(self, ip: str) -> str:
        """Return why no connection from *ip* can be served now, '' when one can."""
        assert self._safe_connections.locked()
        if self._stopping:
            return "stopping"
        if 0 < self.settings.max_connections <= len(self._sockets):
            return "too many connections"
        if 0 < self.settings.max_connections_per_ip <= self._per_ip[ip]:
            return f"too many connections from {ip}"
        return ""

    def _say_goodbye(self, sockets: Iterable[WebSocketServerSocket]) -> None:
        """Send 1001 to all: at once where nobody is writing, then to the others; cut where even
        that fails.
        """
        left = [socket_ for socket_ in sockets if not socket_.say_goodbye(0)]
        deadline = Deadline(self.settings.close_timeout)
        for socket_ in left:
            if not socket_.say_goodbye(deadline.sooner(200).milliseconds() or 0):
                socket_.interrupt()


def _totals(protocol: WebSocketProtocol) -> tuple[int, int, int, int]:
    return (
        protocol.frames_in_count,
        protocol.frames_out_count,
        protocol.frames_in_bytes,
        protocol.frames_out_bytes,
    )
