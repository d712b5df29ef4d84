"""ClientServices: lets a client call the services of a server, native or of this package."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..attributes import IS_TEXT
from ..core.forks import renew_in_child
from ..errors import ServiceConnectionError, ServiceError, WebSocketsError
from ..logs import get_logger
from ..process.keeper import Timer
from ..process.process import WebSocketProcess
from ..request import HTTP_CLIENTERROR, HttpServerRequest
from ..rest.exchange import RestExchange
from ..states import ServiceInstanceImplementation, sicClientDriven, sicShared, wpsRun
from .base import Function, Services, parted
from .client_instance import ClientInstance
from .client_session import SCHEMES, ClientSession, Scheme, begin_session
from .errors import HTTP_BADREQUEST, HTTP_NOTALLOWED, answer_error, check_answered, error_of
from .guarded import guarded
from .interface import ServiceMethod, call_of, interface_of, proxy_of
from .parameters import JSON_TYPE
from .passing import PassedCallback, PassedCallbacks, Passing, connection_of, send_without_waiting
from .values import load_native_json

if TYPE_CHECKING:  # a client does not load the server, and vice versa
    from ..client.client import HttpClientWebSockets

_log = get_logger("mormot_ws.services")

_T = TypeVar("_T")

#: native servers write standard JSON for clients that do not identify as mORMot
_USER_AGENT = "User-Agent: Python"
#: the header line of native requests that are queued
_NOT_BLOCKING = "Sec-WebSocket-REST: NonBlocking"
#: the method that a server calls when it no longer needs an object
_FREED = "_free_"

#: an object that could not be passed again, and the error
NotRenewed = tuple[Any, ServiceError]


class ClientServices(Services):
    """Calls the services of a server, and offers the client's own services to it.

    :param client: a client that uses a REST protocol, now or later. Its
        ``on_callback_request_process`` is replaced; the previous callback still answers requests
        that are not calls.
    :param root: the root of the URIs, the same as on the server.
    :param hide_errors: answer exceptions other than :class:`ServiceError` with ``internal error``
        instead of their text.
    :param renew_callbacks: after a reconnection, repeat the calls that passed objects which the
        server still needs, in a separate thread.

    It continues to work after a reconnection, with its session. Anything else that the server knew
    about the lost connection must be sent again: do that in the client's
    ``settings.on_client_connected``, with *notify*, because nothing can wait for an answer there.
    """

    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {
        "on_callbacks_renewed": ("services", "failed")
    }

    def __init__(
        self,
        client: HttpClientWebSockets,
        *,
        root: str = "root",
        hide_errors: bool = False,
        renew_callbacks: bool = True,
    ) -> None:
        if not hasattr(client, "websockets_upgrade"):
            raise TypeError(
                f"client must be an HttpClientWebSockets, not {type(client).__name__}; "
                "ServerServices takes a server"
            )
        super().__init__(root, hide_errors, client.on_callback_request_process)
        self._client = client
        self._renews = renew_callbacks
        #: ``f(services, failed)``, called after a reconnection when the server's objects have been
        #: passed again; *failed* is a list of (object, :class:`ServiceError`). Called in a separate
        #: thread
        self.on_callbacks_renewed: Callable[[ClientServices, list[NotRenewed]], object] | None = (
            None
        )
        #: guards changes of the tables below; calls read them without it; reentrant for finalisers
        self._safe_services = threading.RLock()
        renew_in_child(self, "_safe_services", threading.RLock)
        #: by ``interface.method`` in lower case
        self._methods: dict[str, tuple[ServiceMethod, Function]] = {}
        self._registered: set[str] = set()
        self._session: ClientSession | None = None
        self._ping: Timer | None = None
        self._passed = PassedCallbacks(self._send_later)
        self._watched: RestExchange | None = None
        #: True while a thread passes callbacks again, and if it has to do so once more; guarded by
        #: _safe_services
        self._renewing = self._renews_again = False
        client.on_callback_request_process = self.on_request

    def __repr__(self) -> str:
        return f"<ClientServices root={self.root!r} of {self._client!r}>"

    # --------------------------------------------------------------------- its own services

    def register(self, interface: Callable[..., Any], implementation: object) -> None:
        """Let the server call *implementation* as *interface*. May be called from any thread.

        :param interface: the class that declares the methods: a ``typing.Protocol``, an abstract
            class, or any class with methods. Its annotations decide how values are read from JSON.
        :param implementation: an object with these methods. If its class derives from the
            interface, a type checker finds missing methods. They are called in the client's thread,
            one at a time.

        An exception in a method becomes a :class:`ServiceError` in the caller. Raises ``TypeError``
        for an interface that cannot be called remotely and for an incomplete implementation;
        ``ValueError`` if the interface is already registered.

        This is for servers of this package. Native servers call the objects passed to them.
        """
        described = interface_of(interface)
        described.check_implementation(implementation)
        called = {}
        for method in described.methods:
            # the application's object may run code for an attribute: do this without the lock
            entry = method, getattr(implementation, method.name)
            called[method.wire_name.lower()] = entry
            called[f"{described.wire_name}.{method.name}".lower()] = entry
        with self._safe_services:
            if described.wire_name.lower() in self._registered:
                raise ValueError(
                    f"{described.wire_name} is already registered: an interface has one "
                    "implementation"
                )
            self._registered.add(described.wire_name.lower())
            self._methods.update(called)

    def on_request(self, ctxt: HttpServerRequest) -> int:
        """Answer a call by the server; pass any other request to the previous callback.

        The constructor installs it.
        """
        path, query = parted(ctxt.url)
        behind = self._behind_root(path, True)
        if behind is None:
            return self._unknown(ctxt, path)
        name, _, text = behind[1].partition("/")
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
        if text and not number:
            return self._unknown(ctxt, path)
        if name.lower() == _FREED:
            if self._passed.freed(number):
                return 200
            return self._unknown(ctxt, path)
        found = self._found(name.lower(), number)
        if found is None:
            return self._unknown(ctxt, path)
        method, function = found
        if ctxt.method.upper() not in ("POST", "GET"):
            return answer_error(ctxt, HTTP_NOTALLOWED, "services must be called with POST")
        kind = ctxt.in_content_type.partition(";")[0].strip().lower()
        is_json = kind in ("", JSON_TYPE)
        if not is_json and not method.parameters.is_content:
            return answer_error(ctxt, HTTP_BADREQUEST, f"the arguments must be {JSON_TYPE}")
        is_callback = self._passed.find(number) is not None if number else False

        def execute() -> int:
            arguments = self._arguments(ctxt, method, query, is_json)
            return self._answered(ctxt, method, function(*arguments))

        return self._executed(ctxt, method.title, execute, is_callback)

    def _found(self, name: str, number: int) -> tuple[ServiceMethod, Function] | None:
        """Return the method that the server calls, of an object or of a registered service."""
        passed = self._passed.find(number) if number else None
        if passed is not None:
            interface, target = passed
            service, _, called = name.partition(".")
            if service == interface.wire_name.lower():
                for method in interface.methods:
                    wire_name = method.wire_name.partition(".")[2]
                    if called in (wire_name.lower(), method.name.lower()):
                        return method, getattr(target, method.name)
            return None
        return self._methods.get(name)

    # ------------------------------------------------------------------------- calls to the server

    def get(
        self,
        interface: Callable[..., _T],
        *,
        notify: bool = False,
        instance_creation: ServiceInstanceImplementation = sicShared,
    ) -> _T:
        """Return an object whose methods call *interface* on the server.

        This method and the object's methods may be called from any thread.

        :param notify: as for :meth:`ServerServices.get`, but False by default: all methods wait for
            their answer, for up to ``client.timeout``. In a callback of the client they raise
            :class:`WebSocketsError`, because no thread could read the answer.
        :param instance_creation: use ``sicClientDriven`` if the server has registered the service
            that way. The object then has its own instance on the server, which the first call
            creates and which ends when the object is no longer referenced, or with
            :meth:`release`.

        Its methods raise the same exceptions as those of :meth:`ServerServices.get`. Calls while
        the client is reconnecting raise :class:`ServiceConnectionError`; afterwards they work
        again.

        If the type of a parameter is a protocol or an abstract class, its argument is an object
        that the server may call, in the client's thread, as long as your program holds a reference
        to it. Keep that reference: the server is notified when the object is gone.
        """
        kind = ServiceInstanceImplementation(instance_creation)
        instance = ClientInstance() if kind is sicClientDriven else None
        described = interface_of(interface)
        call = partial(self._call_server, notify, instance)
        proxy: _T = proxy_of(described, call)
        if instance is not None:
            name = described.wire_name
            weakref.finalize(proxy, self._free_instance, name, instance).atexit = False
        return proxy

    def _call_server(
        self,
        notify: bool,
        instance: ClientInstance | None,
        method: ServiceMethod,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call *method* of the server's object, or of *instance*."""
        process = self._process()
        if self._watched is not None and process.exchange is not self._watched:
            self._watch(process)
        if instance is not None and not instance.number:
            self._make_instance(process, method.wire_name.partition(".")[0], instance)
        path = f"{self.root}/{method.wire_name}"
        known = 0 if instance is None else instance.number
        if known:
            path = f"{path}/{known}"
        if not method.parameters.callbacks:
            request = self._signed(path, method, args, kwargs, [])
            result, number = self._call(process, method, request, notify)
        else:
            self._watch(process)
            passed: list[PassedCallback] = []
            request = self._signed(path, method, args, kwargs, passed)
            connection = connection_of(process)
            result, number = self._call(process, method, request, notify)
            if passed:
                passing = Passing(method, method.parameters.bound(args, kwargs), passed, path)
                # what is only queued may wait for the next connection
                self._remember(passing, process, connection, method.waits or not notify)
        if instance is not None and number and not known:
            self._keep_number(method.wire_name.partition(".")[0], instance, number)
        return result

    def _signed(
        self,
        path: str,
        method: ServiceMethod,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        passed: list[PassedCallback],
    ) -> HttpServerRequest:
        """Return the request of a call; *passed* collects the objects among its arguments."""
        session = self._session
        url, headers = path, ""
        if session is not None:
            url, headers = session.signed(path), session.headers
        if method.has_names or method.parameters.callbacks:
            headers = f"{headers}\r\n{_USER_AGENT}" if headers else _USER_AGENT

        def number_of(target: Any, interface: type) -> int:
            passed.append(self._passed.give(target, interface))
            return passed[-1].number

        return self._request(url, method, args, kwargs, number_of, headers)

    def _remember(
        self, passing: Passing, process: WebSocketProcess, connection: object, answered: bool
    ) -> None:
        """Keep a call that passed objects, to repeat it after a reconnection.

        *connection* is the one before the call.
        """
        certain = answered and connection_of(process) is connection
        passing.made_on(connection if certain else None)
        self._passed.remember(passing)
        if connection_of(process) is not connection and process.state is wpsRun:
            # the renewal on the new connection may be over
            self._connection_changed(process, True)

    def _process(self) -> WebSocketProcess:
        process = self._client.websockets
        if process is None:
            text = "the client is not connected: websockets_upgrade() first"
            raise ServiceConnectionError(text, HTTP_CLIENTERROR, maybe_executed=False)
        return process

    def _ask(
        self, method: str, url: str, headers: str = "", content: bytes = b""
    ) -> HttpServerRequest:
        """Send a request that is not a call; return it with its answer.

        Raises :class:`ServiceError` if the answer is an error.
        """
        request = HttpServerRequest(url, method, headers, content, JSON_TYPE if content else "")
        status = self._process().notify_callback(request)
        check_answered(request, status, url.partition("?")[0])
        if not 200 <= status < 300:
            answered = request.out_content
            assert isinstance(answered, bytes)
            raise error_of(answered, status)
        return request

    def _send_later(self, path: str, content: bytes) -> None:
        """Queue a request that needs no answer. May be called from any thread and finaliser."""
        process, session = self._client.websockets, self._session
        if process is None or process.state is not wpsRun:
            return
        url, headers = f"{self.root}/{path}", _NOT_BLOCKING
        if session is not None:
            url = session.signed(url)
            headers = f"{headers}\r\n{session.headers}" if session.headers else headers
        kind = JSON_TYPE if content else ""
        send_without_waiting(process, HttpServerRequest(url, "POST", headers, content, kind))

    # ----------------------------------------------------------------------- objects of the server

    def _make_instance(
        self, process: WebSocketProcess, name: str, instance: ClientInstance
    ) -> None:
        """Request an instance from the server, once."""
        if process.runs_loop():
            # it would deadlock: the first call raises for that
            return
        with instance.asking:
            if instance.number:
                return
            url = f"{self.root}/{name}._instance_"
            session = self._session
            headers = "" if session is None else session.headers
            try:
                answer = self._ask(
                    "POST", url if session is None else session.signed(url), headers, b"[]"
                )
            except ServiceConnectionError:
                raise
            except ServiceError as exc:
                # the first call may create the instance too
                _log.info("%s: could not get an instance (%s)", name, exc)
                return
            content = answer.out_content
            assert isinstance(content, bytes)
            try:
                found = load_native_json(content)
            except ValueError:
                found = None
            number = found.get("result") if isinstance(found, dict) else None
            if type(number) is int and number > 0:
                self._keep_number(name, instance, number)

    def _keep_number(self, name: str, instance: ClientInstance, number: int) -> None:
        """Keep the *number* of a new object, or free it if an interrupting call was faster."""
        if not instance.is_numbered(number):
            self._send_later(f"{name}._free_/{number}", b"[]")

    def _free_instance(self, name: str, instance: ClientInstance) -> None:
        number = instance.is_freed()
        if number:
            self._send_later(f"{name}._free_/{number}", b"[]")

    def release(self, released: object) -> None:
        """Release an object of :meth:`get` with ``sicClientDriven``, or one passed to the server.

        Does not wait, and may be called from any thread. The same happens when the object is no
        longer referenced. Raises ``TypeError`` for any other object. Mirrors
        ``CallBackUnRegister`` for passed objects.
        """
        call = call_of(released)
        instance = call.args[1] if isinstance(call, partial) else None
        if isinstance(instance, ClientInstance):
            name = type(released).__mro__[1]
            self._free_instance(interface_of(name).wire_name, instance)
        elif not self._passed.release(released):
            raise TypeError(f"the server does not have this {type(released).__name__}")

    # --------------------------------------------------------------------------------- the session

    def set_user(self, user_name: str, password: str = "", scheme: Scheme = "default") -> None:
        """Authenticate, and make all further calls in the session of that user. Blocks.

        :param scheme: the server's scheme: ``'default'``, ``'none'`` or ``'basic'`` (HttpBasic,
            which sends the password with each request).

        The session continues after reconnections and is kept as long as the client is connected. An
        earlier session ends when the new one has begun. Raises :class:`ServiceError` if the server
        refuses (403) or has no authentication (400), and what calls raise without a connection.
        Mirrors ``SetUser``.
        """
        IS_TEXT("user_name", user_name)
        IS_TEXT("password", password)
        if scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}")
        if not user_name:
            raise ValueError("user_name must not be empty")
        session = begin_session(self._ask, self.root, user_name, password, scheme)
        self._process()
        before, self._session = self._session, session
        self._watch(self._process())
        self._ping_later(session)
        self._end_session(before)

    @property
    def user_name(self) -> str:
        """The name of the session's user; '' without a session."""
        session = self._session
        return "" if session is None else session.user_name

    @property
    def session_id(self) -> int:
        """The number of the session; 0 without a session. Mirrors ``SessionID``."""
        session = self._session
        return 0 if session is None else session.id

    def close_session(self) -> None:
        """End the session on the server, if there is one; further calls are made without one.

        Blocks. An error from the server is logged, not raised, because the session is no longer
        used. Mirrors ``SessionClose``.
        """
        session, self._session = self._session, None
        self._end_ping()
        self._end_session(session)

    def _end_session(self, session: ClientSession | None) -> None:
        """Notify the server that *session* has ended, unless it is None. An error is logged."""
        if session is None:
            return
        try:
            self._ask("GET", session.goodbye(self.root), session.headers)
        except ServiceError as exc:
            _log.info("%r: the server did not end the session: %s", self, exc)

    def _ping_later(self, session: ClientSession) -> None:
        """Ask the server regularly to keep the session."""
        self._end_ping()
        reference = weakref.ref(self)

        def ping() -> None:
            services = reference()
            if services is not None and services._session is session:
                services._send_later("CacheFlush/_ping_", b"")
                services._ping_later(session)

        process = self._client.websockets
        if process is None or self._client._life.freeing:
            return
        self._ping = process._keeper.call_at(time.monotonic() + session.ping_seconds, ping)

    def _end_ping(self) -> None:
        timer, self._ping = self._ping, None
        if timer is not None:
            timer.cancel()

    # ------------------------------------------------------------------------ after a reconnection

    def _watch(self, process: WebSocketProcess) -> None:
        """Register for notifications of new connections."""
        exchange = process.exchange
        if isinstance(exchange, RestExchange) and exchange is not self._watched:
            is_another, self._watched = self._watched is not None, exchange
            exchange.watchers.append(self._connection_changed)
            exchange.leavers.append(self._leave)
            if is_another:
                # the connection has a different protocol than the previous one
                self._connection_changed(process, True)

    def _leave(self) -> None:
        """Say goodbye, because the client is being freed. Does not wait."""
        session, self._session = self._session, None
        self._end_ping()
        if session is not None:
            url = session.goodbye(self.root)
            process = self._client.websockets
            if process is not None and process.state is wpsRun:
                request = HttpServerRequest(url, "GET", session.headers)
                send_without_waiting(process, request)

    def _connection_changed(self, process: WebSocketProcess, begins: bool) -> None:
        if not (begins and self._renews and len(self._passed)):
            return
        with self._safe_services:
            starts, self._renews_again = not self._renewing, self._renewing
            self._renewing = True
        if starts:
            # nothing can wait for an answer in this thread
            threading.Thread(target=self._renew, name="callbacks renewed", daemon=True).start()

    def _renew(self) -> None:
        """Pass objects again, until there has been no further reconnection."""
        again = True
        while again:
            passings = self._passed.take_passings(connection_of(self._client.websockets))
            failed = [one for passing in passings for one in self._call_again(passing)]
            if passings and self.on_callbacks_renewed is not None:
                # the callbacks have been passed in any case
                guarded(f"{self!r}: on_callbacks_renewed", self.on_callbacks_renewed, self, failed)
            with self._safe_services:
                again, self._renews_again = self._renews_again, False
                self._renewing = again

    def _call_again(self, passing: Passing) -> list[NotRenewed]:
        """Repeat a call that passed objects; return the objects that the server did not get."""
        objects = [callback.object() for callback in passing.callbacks]
        if any(target is None for target in objects):
            # gone in the meantime: the server does not need it, and must not get None instead
            self._passed.forget(passing.callbacks)
            return []
        passed: list[PassedCallback] = []
        try:
            request = self._signed(passing.path, passing.method, passing.arguments(), {}, passed)
            process = self._process()
            connection = connection_of(process)
            self._call(process, passing.method, request, False)
        except (ServiceError, WebSocketsError) as exc:
            error = exc if isinstance(exc, ServiceError) else ServiceError(str(exc))
            _log.warning("%s could not be called again: %s", passing.method.title, error)
            if isinstance(error, ServiceConnectionError):
                # lost again: this is repeated on the next connection
                self._passed.forget(passed)
                self._passed.remember(passing)
            else:
                self._passed.forget(passing.callbacks)
            return [(target, error) for target in objects]
        before = passing.callbacks
        passing.made_again(passed)
        self._remember(passing, process, connection, True)
        self._passed.renewed(before, passed)
        return []
