"""ServerOwner: what a connection needs from the server that has accepted it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..callbacks import Ignored
from ..core.frames import WebSocketFrame
from ..logs import SeldomLog
from ..process.keeper import ProcessKeeper
from ..protocols.base import WebSocketProtocol
from ..protocols.protocol_list import WebSocketProtocolList
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from .groups import Groups

if TYPE_CHECKING:
    from .connection import WebSocketProcessServer, WebSocketServerSocket


class ServerOwner(Protocol):
    """What a connection needs from its server. Any thread may call the methods."""

    settings: WebSocketProcessSettings
    process_name: str
    websocket_protocols: WebSocketProtocolList
    tls_context: ssl.SSLContext | None
    on_request: OnHttpServerRequest | None
    process_class: type[WebSocketProcessServer]
    on_websocket_connect: Callable[[WebSocketServerSocket], Ignored] | None
    on_websocket_disconnect: Callable[[WebSocketServerSocket], Ignored] | None
    on_websocket_close: Callable[[WebSocketProtocol], Ignored] | None
    #: sends heartbeats and queued frames
    _keeper: ProcessKeeper
    #: which connections belong to which groups
    _groups: Groups
    #: the handlers for plain requests of certain paths, instead of ``on_request``
    _path_answers: dict[str, OnHttpServerRequest]
    #: limits how often invalid PROXY headers are logged
    _opening_log: SeldomLog

    @property
    def description(self) -> str:
        """A description of the server, for visitors that are not WebSocket clients."""

    @property
    def websocket_connections(self) -> int:
        """The number of current WebSocket connections."""

    def is_active_websocket(self, connection_id: int) -> WebSocketProcessServer | None:
        """Return the process of that connection; None if it is not connected."""

    def websocket_broadcast(
        self,
        frame: WebSocketFrame,
        connection_ids: Iterable[int] | None = None,
        *,
        group: str | None = None,
        exclude: Iterable[int] = (),
    ) -> int:
        """Queue *frame* on all connections, those of *connection_ids*, or those of *group*."""

    def _register(self, process: WebSocketProcessServer) -> None:
        """Add *process* to the table of WebSocket connections."""

    def _unregister(self, process: WebSocketProcessServer) -> None:
        """Undo :meth:`_register`."""

    def _forget(self, connection: WebSocketServerSocket) -> None:
        """Remove *connection*, which has ended."""

    def _identify(self, connection: WebSocketServerSocket, ip: str) -> str:
        """Count *connection* for the client *ip*; return '', or why it cannot be served."""

    def _unready(self) -> str:
        """Return why visitors should go elsewhere; '': they should not. Takes no lock."""

    def _tell_turned_away(self, connection: WebSocketServerSocket, why: str) -> None:
        """Count and log a connection that was turned away because of a limit."""

    def _count_refused(self) -> None:
        """Count a refused upgrade."""

    def _notify(self, callback: Callable[[Any], Any] | None, argument: object) -> None:
        """Call *callback*, and log its exceptions."""
