"""Peer: a connected client of a ``Server``, and the protocol object behind it.

The server's functions handle messages; this module passes messages on to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ..attributes import Check, of_kind
from ..core.frames import WebSocketFrame, focBinary, focConnectionClose, focContinuation, focText
from ..logs import get_logger
from ..process.process import WebSocketProcess
from ..protocols.base import WebSocketProtocol
from ..server.connection import WebSocketProcessServer
from ..states import wpsRun
from .attributes import FixedAttributes
from .messages import Message, frame_of, json_frame
from .request import Request

if TYPE_CHECKING:
    from ..server.accepting import ListeningServer
    from .server import Server

_log = get_logger("mormot_ws.front")


class Peer(FixedAttributes):
    """A connected client of a :class:`Server`.

    All methods are thread-safe. The object remains usable after the connection has ended:
    :meth:`send` then returns False.
    """

    __slots__ = ("__weakref__", "_process", "request", "server", "session", "user")

    _CHECKS: ClassVar[dict[str, Check]] = {
        "request": of_kind(Request),
        "session": of_kind(dict, meant="a dict, for data of the application"),
    }

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "disconnect": "close()",
        "emit": "use send(message) or send_json(value)",
        "join_room": "join(group)",
        "leave_room": "leave(group)",
        "sid": "its number is id",
    }
    _OWN_DATA = "keep your own data in peer.session"

    def __init__(
        self, server: Server, process: WebSocketProcessServer, request: Request, user: Any
    ) -> None:
        #: the server that it is connected to
        self.server: Server = server
        #: the HTTP request of the upgrade: ``uri``, ``path``, ``query``, ``headers``, ``bearer``
        self.request: Request = request
        #: the user that ``authenticate`` returned; None without ``authenticate``
        self.user: Any = user
        #: a dict for data of the application
        self.session: dict[str, Any] = {}
        self._process = process

    @property
    def id(self) -> int:
        """The server's number for the connection; unique while the server runs."""
        return self._process.connection_id

    @property
    def remote_ip(self) -> str:
        """The IP address, ``'unix:'`` on a Unix socket; behind a trusted proxy, the address that
        the proxy reports.
        """
        return self._process.remote_ip

    @property
    def protocol(self) -> str:
        """The sub-protocol; ``''`` if the client requested none."""
        return self._process.protocol.name

    @property
    def connected(self) -> bool:
        """True while messages can be sent."""
        return self._process.state is wpsRun and not self._process.given_up

    @property
    def process(self) -> WebSocketProcessServer:
        """The underlying connection, with everything that :class:`Peer` does not expose."""
        return self._process

    @property
    def groups(self) -> frozenset[str]:
        """The groups that it belongs to; in ``on_close``, those that it belonged to."""
        return self._process.groups

    def join(self, group: str) -> bool:
        """Add it to *group*; return False if it is no longer connected.

        A group exists as long as it has members; a peer leaves all groups when its connection ends.
        """
        return self._process.join(group)

    def leave(self, group: str) -> bool:
        """Remove it from *group*; return False if it was not a member."""
        return self._process.leave(group)

    def send(self, message: Message) -> bool:
        """Send a ``str`` as text or ``bytes`` as a binary message; return True if it was sent.

        True means that the operating system has accepted the message. If the peer does not read,
        this waits for up to ``settings.send_timeout``; :meth:`Server.send` never waits. While
        messages from that method are queued for this peer, this one is queued behind them, to keep
        the order. Returns False if the connection has ended. Raises ``TypeError`` if *message* has
        another type.
        """
        process = self._process
        # frame_of(), without its call for the usual message
        frame = (
            WebSocketFrame(focText, message.encode()) if type(message) is str else frame_of(message)
        )
        if process.outgoing.frames:
            return process.send_frame_async(frame)
        return process.send_frame(frame)

    def send_json(self, value: Any) -> bool:
        """Send *value* as JSON in a text message; otherwise like :meth:`send`.

        Raises ``TypeError``/``ValueError`` for values that JSON cannot represent. Dataclasses,
        dates and enums can be sent; ``bytes`` are sent as base64.
        """
        return self._send(json_frame(value))

    def _send(self, frame: WebSocketFrame) -> bool:
        process = self._process
        if process.outgoing.frames:
            return process.send_frame_async(frame)
        return process.send_frame(frame)

    def close(self, code: int = 1000, reason: str = "") -> bool:
        """Close the connection with a close frame; return True if the peer answered it.

        Waits for the answer for up to ``settings.close_timeout``, but not in a callback of this
        peer. Raises ``ValueError`` for a *code* that must not be sent (1000 and 3000 to 4999 are
        allowed), and for a *reason* of more than 123 bytes.
        """
        return self._process.shutdown(code, reason)

    def __repr__(self) -> str:
        state = "" if self.connected else " closed"
        return f"<Peer #{self.id} {self.remote_ip}{state}>"


class Handlers:
    """The functions for peers of one sub-protocol. They may be set while the server is running."""

    __slots__ = ("kind", "on_close", "on_message", "on_open", "protocol")

    def __init__(self, protocol: str) -> None:
        #: the name of the sub-protocol
        self.protocol = protocol
        self.on_open: Callable[[Peer], Any] | None = None
        self.on_message: Callable[[Peer, Any], Any] | None = None
        self.on_close: Callable[[Peer, int, str], Any] | None = None
        #: what ``on_message`` takes, if it is annotated as ``str`` or ``bytes``; otherwise None
        self.kind: type | None = None


class OfPeer(WebSocketProtocol):
    """The common part of the front door's protocols: a user, a request, and a peer."""

    #: the user that ``authenticate`` returned
    user: Any = None
    #: None before the connection runs, and if the server is not a ``Server``
    peer: Peer | None = None

    def request(self) -> Request:
        """Return the request of the peer's upgrade."""
        return Request(
            "GET",
            f"/{self.upgrade_uri}",
            self.upgrade_headers,
            self.upgrade_bearer_token,
            self.remote_ip,
        )

    def made_peer(self, process: WebSocketProcess, server: Server, kind: type[Peer]) -> None:
        """Create the peer for a connection of *server*."""
        if isinstance(process, WebSocketProcessServer):
            self.peer = kind(server, process, self.request(), self.user)


class PeerProtocol(OfPeer):
    """The protocol of one peer. Passes events to the *handlers* of its sub-protocol, and calls to
    *server*.
    """

    def __init__(self, name: str, handlers: Handlers, server: Server) -> None:
        super().__init__(name)
        self._handlers = handlers
        self._server = server

    def clone(self, client_uri: str) -> PeerProtocol:
        return self._new_clone()

    def _clone_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self._handlers, self._server), {}

    def prepare_process(self, process: WebSocketProcess) -> None:
        self.made_peer(process, self._server, Peer)

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        handlers = self._handlers
        # prepare_process() has been called
        peer: Any = self.peer
        # every message comes through here, so the payload property is avoided
        opcode, payload = frame.opcode, frame._payload
        message: Message
        if opcode is focText:
            # UTF-8 was checked when it was received
            message = payload.decode()
            if payload[:1] == b"{" and self._server._was_call(peer, message, handlers):
                return
        elif opcode is focBinary:
            message = payload
        elif opcode is focContinuation:
            if handlers.on_open is not None:
                run_callback(peer, "on_open", handlers.on_open, peer)
            return
        elif opcode is focConnectionClose:
            if handlers.on_close is not None:
                code, reason = process.close_code, process.close_reason
                run_callback(peer, "on_close", handlers.on_close, peer, code, reason)
            return
        else:
            return
        callback = handlers.on_message
        if callback is None:
            return
        if handlers.kind is not None and type(message) is not handlers.kind:
            # its annotation excludes this kind: RFC 6455 has a code for it
            peer.close(1003, "text only" if handlers.kind is str else "binary only")
            return
        try:
            callback(peer, message)
        except BaseException:
            # in a child that the callback has forked, which ends as it likes
            if process.inherited:
                raise
            log_failure(peer, "on_message")


def run_callback(peer: Peer, name: str, callback: Callable[..., Any], *arguments: Any) -> None:
    """Call *callback* and log its exceptions; the connection continues."""
    try:
        callback(*arguments)
    except BaseException:
        if peer.process.inherited:
            raise
        log_failure(peer, name)


def log_failure(peer: Peer, name: str) -> None:
    """Log the exception that is being handled, which the callback *name* raised."""
    _log.exception("%r: %s failed", peer, name, extra=peer.process.log_fields())


#: peers, as objects or ids
Peers = Peer | int | Iterable[Peer | int]


def peers_of(server: ListeningServer, group: str | None) -> list[Peer]:
    """Return the peers of *server*, or of a *group*, without connections of other protocols."""
    protocols = [process.protocol for process in server.connections(group)]
    return [
        protocol.peer
        for protocol in protocols
        if isinstance(protocol, OfPeer) and protocol.peer is not None
    ]


def ids_of(peers: Peers) -> list[int]:
    """Return the ids of *peers*."""
    if isinstance(peers, (Peer, int)):
        peers = [peers]
    found = []
    for peer in peers:
        if not isinstance(peer, (Peer, int)) or isinstance(peer, bool):
            raise TypeError(f"peers must be Peer objects or ids, not {type(peer).__name__}")
        found.append(peer if isinstance(peer, int) else peer.id)
    return found
