"""Server: a WebSocket server with a Pythonic interface.

``WebSocketAsyncServer`` does the work, or ``WebSocketServer`` on systems that cannot run it. What
happens on a connection is in ``peer.py``; this module has what an application registers, and starts
and stops the server.
"""

from __future__ import annotations

import socket as sockets
import ssl
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, TypeVar, overload

from ..attributes import IS_BOOL, IS_TEXT
from ..errors import WebSocketsError
from ..logs import get_logger
from ..process.freeing import ClosedByWith
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest
from ..server.accepting import ListeningServer
from ..server.choice import server_class
from ..server.http import answer_visitor
from ..settings import WebSocketProcessSettings
from ..status import ServerStatus
from ..topics.hub import Hub
from ..topics.limits import TopicLimits
from .attributes import SERVER_ELSEWHERE, explains_keywords
from .callbacks import Ignored, check_callback, only_kind
from .defaults import front_settings
from .http import HttpAnswer, HttpRoute, HttpRoutes
from .messages import Message, read_call
from .methods import RemoteMethod, RemoteMethods, Sendable
from .peer import Handlers, OfPeer, Peer, PeerProtocol, peers_of
from .request import Request
from .sending import Sending
from .signals import SignalQueue, StopSignals
from .topics import TOPICS, DoorTopics, TopicPeerProtocol
from .where import Where, tls_context

_log = get_logger("mormot_ws.front")

OnOpen = Callable[[Peer], Ignored]
OnMessage = (
    Callable[[Peer, Message], Ignored]
    | Callable[[Peer, str], Ignored]
    | Callable[[Peer, bytes], Ignored]
)
OnClose = Callable[[Peer, int, str], Ignored]
#: returns a user, or the HTTP status of a refusal
Authenticate = Callable[[Request], Any]
OnHttp = Callable[[Request], HttpAnswer] | Callable[[], HttpAnswer]

_OnOpen = TypeVar("_OnOpen", bound=OnOpen)
_OnMessage = TypeVar("_OnMessage", bound=OnMessage)
_OnClose = TypeVar("_OnClose", bound=OnClose)
_OnHttp = TypeVar("_OnHttp", bound=OnHttp)
_Method = TypeVar("_Method", bound=Callable[..., Sendable])
_Server = TypeVar("_Server", bound="Server")


class Server(Sending, ClosedByWith):
    """A WebSocket server, with peers, groups and callbacks for each sub-protocol.

    :param port: the port to listen on, ``0`` for any free port; or an address with a port, as for
        :class:`WebSocketServer` (``'127.0.0.1:8999'``).
    :param address: the address to listen on; ``''`` for all addresses, IPv4 and IPv6. Without a
        *port*: ``'unix:/path'``, or another form from :doc:`/how-to/listen`.
    :param tls: an ``ssl.SSLContext``, or a tuple (certificate file, key file); None: ``ws://``.
    :param authenticate: ``f(request)``, called for each client that wants to connect. It returns a
        user, any object, which becomes ``peer.user``; or the HTTP status of the refusal, e.g. 403.
        None and False mean 401. Without this function, every client may connect.
    :param settings: :class:`WebSocketProcessSettings`, in milliseconds: limits, origins, time-outs;
        None: the defaults, except that a connection ends after two unanswered heartbeats instead of
        five.
    :param name: a name for the threads and the log lines.
    :param socket: instead of *port* and *address*: one or several sockets that are already
        listening. The server closes them when it ends.
    :param reuse_port: let several servers share a port.
    :param unix_mode: the permissions of a Unix socket's file, e.g. ``0o660``.
    :param hub: the hub for topics, a :class:`MemoryHub` or one that several servers share. Clients
        can then connect for topics (``connect(topics=True)``), and messages to all peers, or to a
        group, reach the peers of all servers with the same hub.
    :param topic_limits: limits for these clients; None: :class:`TopicLimits`.
    :param presence: whether these clients may ask who else is subscribed.
    :param hide_errors: if a method raises an exception other than :class:`CallError`, answer with
        ``internal error`` instead of its text.

    It starts to listen in :meth:`run`, in :meth:`start` or at the beginning of a ``with`` block.
    You can register functions before and after that. They run in the server's threads, one at a
    time for each peer, and exceptions in them are logged. Raises ``TypeError``/``ValueError`` for
    invalid arguments. All methods are thread-safe.
    """

    _ELSEWHERE: ClassVar[dict[str, str]] = SERVER_ELSEWHERE

    __slots__ = (
        "__weakref__",
        "_authenticate",
        "_handlers",
        "_methods",
        "_name",
        "_routes",
        "_runs",
        "_safe",
        "_server",
        "_settings",
        "_tls",
        "_topics",
        "_where",
    )

    @explains_keywords(
        host="give address=…",
        on_close="use the decorator @server.on_close",
        on_message="use the decorator @server.on_message",
        on_open="use the decorator @server.on_open",
    )
    def __init__(
        self,
        port: int | str | None = None,
        *,
        address: str = "",
        tls: ssl.SSLContext | tuple[str, str] | None = None,
        authenticate: Authenticate | None = None,
        settings: WebSocketProcessSettings | None = None,
        name: str = "",
        hide_errors: bool = False,
        socket: sockets.socket | Iterable[sockets.socket] | None = None,
        reuse_port: bool = False,
        unix_mode: int | None = None,
        hub: Hub | None = None,
        topic_limits: TopicLimits | None = None,
        presence: bool = False,
    ) -> None:
        self._where = Where(port, address, socket, reuse_port, unix_mode)
        if authenticate is not None:
            check_callback(authenticate, "authenticate", "request")
        IS_TEXT("name", name)
        IS_BOOL("hide_errors", hide_errors)
        self._tls = tls_context(tls)
        self._topics = None if hub is None else DoorTopics(self, hub, topic_limits, presence)
        self._authenticate = authenticate
        self._settings = front_settings(settings)
        self._name = name
        #: guards what is registered, and the start and end of the server; while it is held, no
        #: function of the application is called, and nothing waits
        self._safe = threading.RLock()
        self._handlers: dict[str, Handlers] = {}
        self._methods = RemoteMethods(hide_errors)
        self._routes = HttpRoutes()
        self._server: ListeningServer | None = None
        # where each run() waits
        self._runs: list[SignalQueue[None]] = []

    # ------------------------------------------------------------------------------ to register

    @overload
    def on_message(self, protocol: str = "", /) -> Callable[[_OnMessage], _OnMessage]: ...
    @overload
    def on_message(self, callback: _OnMessage, /) -> _OnMessage: ...
    def on_message(self, protocol: Any = "", /) -> Any:
        """Register ``f(peer, message)`` for messages from peers that use a sub-protocol.

        ``@server.on_message("chat")`` offers the sub-protocol ``chat``; ``@server.on_message`` is
        for clients that request none. A message is ``str`` or ``bytes``. If the parameter is
        annotated as ``str`` or ``bytes``, peers that send the other type are disconnected with
        1003. Raises ``TypeError`` for a function that cannot be called like this (``async def``,
        for example), and ``ValueError`` if one is already registered.
        """
        return self._register("on_message", protocol, "peer", "message")

    @overload
    def on_open(self, protocol: str = "", /) -> Callable[[_OnOpen], _OnOpen]: ...
    @overload
    def on_open(self, callback: _OnOpen, /) -> _OnOpen: ...
    def on_open(self, protocol: Any = "", /) -> Any:
        """Register ``f(peer)``, called when a peer of a sub-protocol has connected; otherwise like
        :meth:`on_message`.
        """
        return self._register("on_open", protocol, "peer")

    @overload
    def on_close(self, protocol: str = "", /) -> Callable[[_OnClose], _OnClose]: ...
    @overload
    def on_close(self, callback: _OnClose, /) -> _OnClose: ...
    def on_close(self, protocol: Any = "", /) -> Any:
        """Register ``f(peer, code, reason)``, called last, when the connection of a peer has ended;
        otherwise like :meth:`on_message`. *code* is the close code; 1006 means that the connection
        was lost.
        """
        return self._register("on_close", protocol, "peer", "code", "reason")

    @overload
    def method(self, name: str, /) -> Callable[[_Method], _Method]: ...
    @overload
    def method(self, function: _Method, /) -> _Method: ...
    def method(self, name: Any, /) -> Any:
        """Let peers call a function: ``@server.method``, or ``@server.method("name")``.

        Arguments are checked against the annotations of its parameters before it is called. If the
        first parameter is annotated as :class:`Peer`, it receives the calling peer. The return
        value is sent back; an exception becomes the caller's :class:`CallError`. Peers of all
        sub-protocols can call it, with ``call()`` or in the format of :doc:`/reference/calls`. If
        only methods are registered, clients that request no sub-protocol are served.

        Raises ``TypeError`` for a function that cannot be called remotely, ``ValueError`` if the
        name is already in use.
        """
        if isinstance(name, str):
            return lambda function: self._add_method(name, function)
        return self._add_method(str(getattr(name, "__name__", "")), name)

    def http(
        self, path: str, /, *, methods: Iterable[str] = ("GET",)
    ) -> Callable[[_OnHttp], _OnHttp]:
        """Register ``f(request)``, or ``f()``, for plain HTTP requests of *path*.

        It returns the content: ``str`` (``text/plain``), ``bytes``, a ``dict`` or ``list`` (JSON),
        None (204), an ``int`` (a status without content), or ``(status, content)``, or ``(status,
        content, headers)``. ``authenticate`` is not called: check ``request.bearer``. Requests with
        a method that is not in *methods* are answered with 405.
        """
        if not isinstance(path, str) or not path.startswith("/") or "?" in path:
            if callable(path):
                raise TypeError("http needs a path first: write @server.http('/path')")
            raise ValueError(f"the path must begin with '/' and must not contain '?': {path!r}")
        wanted = [methods] if isinstance(methods, str) else methods
        if not isinstance(wanted, Iterable) or not all(isinstance(name, str) for name in wanted):
            raise TypeError(f"methods must be names like ['GET', 'POST'], not {methods!r}")
        wanted = list(wanted)

        def register(function: _OnHttp) -> _OnHttp:
            with self._safe:
                self._routes.add(path, HttpRoute(function, wanted))
                if self._server is not None:
                    self._server.on_request = partial(self._answer_http, self._server)
            return function

        return register

    def _register(self, name: str, protocol: Any, *parameters: str) -> Any:
        if not isinstance(protocol, str):
            check_callback(protocol, name, *parameters)
            return self._set_handler(name, "", protocol)
        # raises for an invalid name
        WebSocketProtocol(protocol)

        def register(function: Any) -> Any:
            check_callback(function, name, *parameters)
            return self._set_handler(name, protocol, function)

        return register

    def _set_handler(self, name: str, protocol: str, function: Any) -> Any:
        with self._safe:
            handlers = self._offer(protocol)
            if getattr(handlers, name) is not None:
                whom = f"the sub-protocol {protocol!r}" if protocol else "clients that request none"
                raise ValueError(f"there is already an {name} for {whom}")
            if name == "on_message":
                handlers.kind = only_kind(function, 1)
            setattr(handlers, name, function)
        return function

    def _offer(self, protocol: str) -> Handlers:
        """Return the handlers of the sub-protocol, and offer it from now on. Under the lock."""
        handlers = self._handlers.get(protocol.lower())
        if handlers is None:
            if self._topics is not None and protocol.lower() == TOPICS:
                raise ValueError(f"the sub-protocol {TOPICS!r} is reserved for the hub's topics")
            handlers = self._handlers[protocol.lower()] = Handlers(protocol)
            if self._server is not None:
                self._server.websocket_protocols.add(PeerProtocol(protocol, handlers, self))
        return handlers

    def _offer_something(self) -> None:
        """Offer the empty sub-protocol if only methods are registered. Under the
        lock.
        """
        if self._methods and not self._handlers:
            self._offer("")

    def _add_method(self, name: str, function: Any) -> Any:
        method = RemoteMethod(name, function, Peer)
        with self._safe:
            self._methods.add(method)
            if self._server is not None:
                self._offer_something()
        return function

    # ----------------------------------------------------------------------------------- its life

    def start(self) -> None:
        """Start to listen, and return. Raises :class:`HttpServerError` if the port is not
        available, :class:`WebSocketsError` if the server is already running.
        """
        with self._safe:
            if self._server is not None:
                raise WebSocketsError(f"{self!r} is already running")
            self._server = server_class()(
                **self._where.arguments(),
                process_name=self._name,
                settings=self._settings,
                tls_context=self._tls,
                prepare=self._prepare,
            )
        if self._topics is not None:
            # it may wait for the hub, and log: not under the lock
            self._topics.start()
        _log.info("%r listens", self)

    def _prepare(self, server: ListeningServer) -> None:
        """Set up the *server* before the first client connects. Under the lock."""
        self._offer_something()
        for handlers in self._handlers.values():
            name = handlers.protocol
            server.websocket_protocols.add(PeerProtocol(name, handlers, self))
        if self._topics is not None:
            server.websocket_protocols.add(TopicPeerProtocol(self._topics))
        if self._authenticate is not None:
            server.on_websocket_upgraded = self._admit
        if self._routes:
            server.on_request = partial(self._answer_http, server)

    def close(self) -> None:
        """Close all connections with 1001 and stop listening; :meth:`run` then returns.

        Waits for a limited time for the peers' answers and for running callbacks; in one of its own
        callbacks it returns immediately. Safe to call twice; :meth:`start` starts it again.
        """
        with self._safe:
            server = self._server
            runs = list(self._runs)
        if server is not None:
            if server.is_own_thread():
                # a callback cannot wait for its own end; not a daemon, so that goodbyes are sent
                threading.Thread(target=self._free, args=(server, runs), name="closing").start()
                return
            self._free(server, runs)

    def _free(self, server: ListeningServer, runs: list[SignalQueue[None]]) -> None:
        try:
            # if an exception interrupts it, the next close() finds the server and finishes
            server.free()
            if self._topics is not None:
                self._topics.stop()
            with self._safe:
                if self._server is server:
                    self._server = None
        finally:
            for run in runs:
                run.put(None)

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or :meth:`close`, then close all connections with 1001, and
        return. The program then continues after the call, and ends with exit code 0.

        The previous signal handlers are restored before it returns. Only the main thread gets
        signals; in another thread it serves until :meth:`close`. Raises the same exceptions as
        :meth:`start`.
        """
        stop: SignalQueue[None] = SignalQueue()
        with StopSignals(lambda: stop.put(None)):
            self._runs.append(stop)
            try:
                if not self.running:
                    self.start()
                stop.get()
            finally:
                self.close()
                self._runs.remove(stop)

    def __enter__(self: _Server) -> _Server:
        self.start()
        return self

    # ----------------------------------------------------------------------------------- properties

    @property
    def server(self) -> ListeningServer:
        """The underlying server: a ``WebSocketAsyncServer``, or a ``WebSocketServer`` on systems
        that cannot run it. Raises :class:`WebSocketsError` if it is not running.
        """
        server = self._server
        if server is None:
            raise WebSocketsError("the server is not running: call run() or start(), or use with")
        return server

    @property
    def port(self) -> int:
        """The port that it listens on; before it runs, the requested one."""
        server = self._server
        return self._where.place.port if server is None else server.port

    @property
    def address(self) -> str:
        """Where it listens, e.g. ``'127.0.0.1:8999'`` or ``'unix:/path'``; before it runs, the
        requested address.
        """
        server = self._server
        return str(self._where.place) if server is None else server.address

    @property
    def running(self) -> bool:
        """True while it is listening."""
        return self._server is not None

    @property
    def peers(self) -> list[Peer]:
        """The peers that are connected now, as a new list."""
        server = self._server
        return [] if server is None else peers_of(server, None)

    @property
    def groups(self) -> dict[str, list[Peer]]:
        """The groups that have members now, with their peers, as a new dict."""
        server = self._server
        if server is None:
            return {}
        found = {group: peers_of(server, group) for group in server.groups}
        return {group: peers for group, peers in found.items() if peers}

    def status(self) -> ServerStatus:
        """Return a snapshot for monitoring. Raises :class:`WebSocketsError` if it is not
        running.
        """
        return self.server.status()

    def __repr__(self) -> str:
        server = self._server
        if server is None:
            return f"<Server {self._where.place} not running>"
        return f"<Server {server.address} peers={server.websocket_connections}>"

    # ----------------------------------------------------------------- in the connections' threads

    def _admit(self, protocol: WebSocketProtocol) -> int:
        """Ask ``authenticate`` about an upgrade; return 200, or the status of the refusal."""
        if self._authenticate is None or not isinstance(protocol, OfPeer):
            return 200
        # its exceptions are logged below, and refuse with 500
        user = self._authenticate(protocol.request())
        if user is None or user is False:
            return 401
        if isinstance(user, int) and user is not True:
            if not 300 <= user <= 599:
                raise ValueError(
                    f"authenticate must return a user or an HTTP status from 300 to 599, not {user}"
                )
            return user
        protocol.user = user
        return 200

    def _was_call(self, peer: Peer, text: str, handlers: Handlers) -> bool:
        """Answer *text* if it is a call; otherwise return False."""
        if not self._methods and handlers.on_message is not None:
            return False
        call = read_call(text)
        if call is None:
            return False
        answer = self._methods.answer(peer, call)
        if call.number is not None:
            peer._send(answer)
        return True

    def _answer_http(self, server: ListeningServer, context: HttpServerRequest) -> int:
        status = self._routes.answer(context)
        if status is not None:
            return status
        path = context.url.removeprefix("/").partition("?")[0]
        return answer_visitor(
            context, server.description, server.websocket_protocols.serves_uri(path)
        )
