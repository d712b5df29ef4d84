"""Peer: a connected client of a ``Server``, and the protocol object behind it.

What is done with a message is said by the server's functions; how it gets there is said below.
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

    All methods may be called from any thread. It stays usable after the end of its connection:
    :meth:`send` then returns False.
    """

    __slots__ = ("__weakref__", "_process", "request", "server", "session", "user")

    _CHECKS: ClassVar[dict[str, Check]] = {
        "request": of_kind(Request),
        "session": of_kind(dict, meant="a dict, in which an application keeps what it wants"),
    }

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "disconnect": "close()",
        "emit": "send(message) or send_json(value)",
        "join_room": "join(group)",
        "leave_room": "leave(group)",
        "sid": "its number is id",
    }
    _OWN_DATA = "keep data of your own in peer.session"

    def __init__(
        self, server: Server, process: WebSocketProcessServer, request: Request, user: Any
    ) -> None:
        #: the server that it is connected to
        self.server: Server = server
        #: the HTTP request that it came with: ``uri``, ``path``, ``query``, ``headers``, ``bearer``
        self.request: Request = request
        #: what ``authenticate`` has returned; None without it
        self.user: Any = user
        #: a dict for whatever the application wants to know about it
        self.session: dict[str, Any] = {}
        self._process = process

    @property
    def id(self) -> int:
        """The server's number of the connection, which no other one gets while it runs."""
        return self._process.connection_id

    @property
    def remote_ip(self) -> str:
        """Its IP address, ``'unix:'`` on a Unix socket; behind a trusted proxy the one that the
        proxy tells.
        """
        return self._process.remote_ip

    @property
    def protocol(self) -> str:
        """The sub-protocol, ``''`` when it named none."""
        return self._process.protocol.name

    @property
    def connected(self) -> bool:
        """True while messages can be sent."""
        return self._process.state is wpsRun and not self._process.given_up

    @property
    def process(self) -> WebSocketProcessServer:
        """The connection underneath, with all that the front door does not show."""
        return self._process

    @property
    def groups(self) -> frozenset[str]:
        """The groups that it is in; in ``on_close`` those that it was in."""
        return self._process.groups

    def join(self, group: str) -> bool:
        """Put it into *group*; return False when it is not connected any more.

        A group begins with its first member and ends with its last; a peer leaves all groups when
        its connection ends.
        """
        return self._process.join(group)

    def leave(self, group: str) -> bool:
        """Take it out of *group*; return False when it was not in it."""
        return self._process.leave(group)

    def send(self, message: Message) -> bool:
        """Send a ``str`` as text, or ``bytes`` as a binary message; return True when it was sent.

        Sent means: the system has taken it. It waits while the peer reads nothing, up to
        ``settings.send_timeout``; :meth:`Server.send` never waits. Where messages of that method
        are still queued for this peer, this one is queued behind them, so that their order stays.
        Returns False when the connection has ended. Raises ``TypeError`` for what is no message.
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

        Raises ``TypeError``/``ValueError`` for what JSON cannot hold. Dataclasses, dates and enums
        can be sent, ``bytes`` as base64.
        """
        return self._send(json_frame(value))

    def _send(self, frame: WebSocketFrame) -> bool:
        process = self._process
        if process.outgoing.frames:
            return process.send_frame_async(frame)
        return process.send_frame(frame)

    def close(self, code: int = 1000, reason: str = "") -> bool:
        """Close the connection with a close frame; return True when the peer has answered it.

        Waits for the answer, up to ``settings.close_timeout``, but not in a callback of this peer.
        Raises ``ValueError`` for a *code* that may not be sent (1000 and 3000 to 4999 may), and a
        *reason* of more than 123 bytes.
        """
        return self._process.shutdown(code, reason)

    def __repr__(self) -> str:
        state = "" if self.connected else " closed"
        return f"<Peer #{self.id} {self.remote_ip}{state}>"


class Handlers:
    """The functions for the peers of one sub-protocol. They are set before or while it serves."""

    __slots__ = ("kind", "on_close", "on_message", "on_open", "protocol")

    def __init__(self, protocol: str) -> None:
        #: the name of the sub-protocol
        self.protocol = protocol
        self.on_open: Callable[[Peer], Any] | None = None
        self.on_message: Callable[[Peer, Any], Any] | None = None
        self.on_close: Callable[[Peer, int, str], Any] | None = None
        #: what ``on_message`` takes, when its annotation says ``str`` or ``bytes``; else None
        self.kind: type | None = None


class OfPeer(WebSocketProtocol):
    """What the protocols of the front door have in common: a user, a request, and a peer."""

    #: what ``authenticate`` has returned
    user: Any = None
    #: None before the connection runs, and where it is not a server of ours
    peer: Peer | None = None

    def request(self) -> Request:
        """Return the request that the peer has come with."""
        return Request(
            "GET",
            f"/{self.upgrade_uri}",
            self.upgrade_headers,
            self.upgrade_bearer_token,
            self.remote_ip,
        )

    def made_peer(self, process: WebSocketProcess, server: Server, kind: type[Peer]) -> None:
        """Make the peer of a connection of *server*."""
        if isinstance(process, WebSocketProcessServer):
            self.peer = kind(server, process, self.request(), self.user)


class PeerProtocol(OfPeer):
    """The protocol of one peer: hands what happens to the *handlers* of its sub-protocol, and
    calls to *server*.
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
        # each message comes through here: without the property of the payload
        opcode, payload = frame.opcode, frame._payload
        message: Message
        if opcode is focText:
            # that it is UTF-8 was checked where it was received
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
            # its annotation says so: RFC 6455 has a code for it
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
    """Call *callback*, and log what it raises: the connection goes on."""
    try:
        callback(*arguments)
    except BaseException:
        if peer.process.inherited:
            raise
        log_failure(peer, name)


def log_failure(peer: Peer, name: str) -> None:
    """Log the exception that is being handled, which the callback *name* has raised."""
    _log.exception("%r: %s failed", peer, name, extra=peer.process.log_fields())


#: peers, by themselves or by their ids
Peers = Peer | int | Iterable[Peer | int]


def peers_of(server: ListeningServer, group: str | None) -> list[Peer]:
    """Return the peers of *server*, or of a *group*; not the connections of other protocols."""
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
            raise TypeError(f"peers are given as Peer or by their id, not {type(peer).__name__}")
        found.append(peer if isinstance(peer, int) else peer.id)
    return found
