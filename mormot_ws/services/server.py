"""ServerServices: the services of a server, for native clients and clients of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..attributes import IS_INT, IS_NUMBER, IS_TEXT
from ..errors import ServiceConnectionError
from ..logs import get_logger
from ..process.process import WebSocketProcess
from ..request import HttpServerRequest
from ..states import ServiceInstanceImplementation, sicClientDriven, sicShared
from .authentication import SIGNATURE
from .base import Function, Services, parted
from .callbacks import Callbacks, callback_of
from .contracts import ANY_CONTRACT, contract_of, signature_text
from .errors import (
    HTTP_BADREQUEST,
    HTTP_FORBIDDEN,
    HTTP_NOTACCEPTABLE,
    HTTP_NOTALLOWED,
    HTTP_NOTFOUND,
    HTTP_UNAVAILABLE,
    CallRefused,
    answer_content,
    answer_error,
)
from .expiry import Expiring, Expiry
from .guarded import guarded
from .instances import Instance, Instances, TooManyInstances
from .interface import ServiceMethod, interface_of, proxy_of
from .native_requests import NativeRequests
from .parameters import JSON_TYPE
from .registered import (
    CONTRACT,
    FREE,
    INSTANCE,
    Found,
    RegisteredService,
    RegisteredServices,
)
from .registered import (
    SIGNATURE as SIGNATURE_METHOD,
)
from .sessions import AuthSession, Sessions
from .users import RestServerAuthentication
from .values import dump_json

if TYPE_CHECKING:  # a client does not load the server, and vice versa
    from ..server.base import WebSocketServerBase

_log = get_logger("mormot_ws.services")

_T = TypeVar("_T")

#: content types that a browser lets any page send by plain HTTP without a preflight request
_ANYBODYS_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


class ServerServices(Services):
    """Offers the services of a server, and calls those of its clients.

    :param server: a server that offers a REST protocol, like a :class:`WebSocketServerRest`. Its
        ``on_request`` is replaced; the previous callback still answers requests that are not calls.
        Services can be called by plain HTTP too.
    :param root: the first part of all URIs, or several parts like ``api/v1``; clients need the
        same.
    :param hide_errors: answer exceptions other than :class:`ServiceError` with ``internal error``
        instead of their text.
    :param authentication: how clients authenticate, for example a
        :class:`RestServerAuthenticationDefault` with the users; None: no authentication and no
        sessions.
    :param session_timeout_minutes: how long a session is kept without a request; it may last up to
        5 s longer.
    :param max_sessions: the maximum number of sessions.
    :param instance_timeout: how long an object is kept without a call, in milliseconds, for
        services with one object per client, session, user, group or thread; it may last up to 5 s
        longer.
    :param max_instances: the maximum number of objects of each of these services. A single client
        may create all of them.
    :param publish_signature: let clients request the descriptions of the interfaces.
    """

    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {
        "on_session_create": ("session",),
        "on_session_closed": ("session",),
    }

    #: ``f(session: AuthSession)``, called in the thread of the connection when a session has begun.
    #: Mirrors ``OnSessionCreate``
    on_session_create: Callable[[AuthSession], object] | None = None
    #: ``f(session: AuthSession)``, called when a session has ended: in the thread of the connection
    #: or of the call that ended it, or in the thread ``services expiry`` if it expired. Mirrors
    #: ``OnSessionClosed``
    on_session_closed: Callable[[AuthSession], object] | None = None

    def __init__(
        self,
        server: WebSocketServerBase,
        *,
        root: str = "root",
        hide_errors: bool = False,
        authentication: RestServerAuthentication | None = None,
        session_timeout_minutes: float = 60,
        max_sessions: int = 10_000,
        instance_timeout: float = 1_800_000,
        max_instances: int = 10_000,
        publish_signature: bool = False,
    ) -> None:
        if not hasattr(server, "is_active_websocket"):
            raise TypeError(
                f"server must be a WebSocketServerRest, not {type(server).__name__}; ClientServices"
                " takes a client"
            )
        if authentication is not None and not isinstance(authentication, RestServerAuthentication):
            raise TypeError(
                "authentication must be a RestServerAuthenticationDefault or a similar class, or"
                f" None, not {type(authentication).__name__}"
            )
        for name, value in (
            ("session_timeout_minutes", session_timeout_minutes),
            ("max_sessions", max_sessions),
            ("instance_timeout", instance_timeout),
            ("max_instances", max_instances),
        ):
            IS_NUMBER(name, value)
            if value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        super().__init__(root, hide_errors, server.on_request)
        self._server = server
        # an object that only resembles a server has no keeper: later calls free expired objects
        self._expiry = Expiry(
            getattr(server, "_keeper", None),
            self._expiring,
            min(session_timeout_minutes * 60, instance_timeout / 1000),
        )
        self._sessions: Sessions | None = None
        if authentication is not None:
            self._sessions = Sessions(
                authentication,
                session_timeout_minutes,
                max_sessions,
                self._session_ended,
                self._expiry.watch,
            )
        self._instance_limits = instance_timeout / 1000, max_instances
        self._publishes_signature = publish_signature
        self._registered = RegisteredServices()
        self._callbacks = Callbacks(
            server.is_active_websocket, self._call_back, lambda: self.root, self._expiry.watch
        )
        self._others = NativeRequests(
            self._registered,
            self._callbacks,
            self._sessions,
            lambda session: self._tell("on_session_create", self.on_session_create, session),
            lambda: server.process_name or "mormot_ws",
        )
        server.on_request = self.on_request
        getattr(server, "_layers_above", []).append(self._server_freed)

    def __repr__(self) -> str:
        return f"<ServerServices root={self.root!r} of {self._server!r}>"

    # ------------------------------------------------------------------------ for the application

    def register(
        self,
        interface: Callable[..., Any],
        implementation: Any,
        instance_creation: ServiceInstanceImplementation = sicShared,
        *,
        contract: str | None = ANY_CONTRACT,
        bypass_authentication: bool = False,
    ) -> None:
        """Let clients call *implementation* as *interface*. May be called from any thread.

        :param interface: the class that declares the methods: a ``typing.Protocol``, an abstract
            class, or any class with methods. Its annotations decide how values are read from JSON.
            A parameter whose type is a protocol or an abstract class is a callback: an object of
            the client that the service can call.
        :param implementation: an object with these methods. If its class derives from the
            interface, a type checker finds missing methods. They are called in the connection's
            thread: one at a time for each connection, at the same time for different connections.
            Unless the service is shared, pass the class or a function without parameters that
            returns an object. If the object has a method ``free()``, it is called at its end: never
            during a call, in any thread, and at the latest when the server is freed.
        :param instance_creation: ``sicShared``: one object for all calls; ``sicSingle``: a new
            object for each call; ``sicClientDriven``: one for each object that a client gets;
            ``sicPerSession``, ``sicPerUser``, ``sicPerGroup``: only with authentication;
            ``sicPerThread``: one for each thread that executes calls, which means one for each
            connection unless the server is event-driven.
        :param contract: the text that native clients compare with their own. ``'*'`` is accepted by
            all clients that can request the list of services; None computes the native contract
            from the annotations.
        :param bypass_authentication: allow calls without a session. Mirrors
            ``ByPassAuthentication``.

        An exception in a method becomes a :class:`ServiceError` in the caller. Raises ``TypeError``
        for an interface that cannot be called remotely and for an incomplete implementation;
        ``ValueError`` if the interface is already registered. Mirrors ``ServiceDefine``.
        """
        described = interface_of(interface)
        kind = ServiceInstanceImplementation(instance_creation)
        if kind is sicShared:
            described.check_implementation(implementation)
        else:
            described.check_factory(implementation)
        if contract is not None:
            IS_TEXT("contract", contract)
        signature = ""
        if contract is None:
            contract = contract_of(described, kind)
            signature = signature_text(described, kind)
        service = RegisteredService(
            described,
            Instances(implementation, kind, *self._instance_limits, self._expiry.watch),
            contract,
            signature if self._publishes_signature else "",
            bypass_authentication,
        )
        functions: dict[str, Function] = {}
        if kind is sicShared:
            for method in described.methods:
                functions[method.name] = getattr(implementation, method.name)
        self._registered.add(service, functions)

    @property
    def session(self) -> AuthSession | None:
        """The session of the call being executed, in its thread; None without a session."""
        return self._current.session

    @property
    def instance_id(self) -> int:
        """The number of the object being called, in the thread of the call.

        0 for shared and single services. Mirrors ``ServiceInstanceID``.
        """
        return self._current.instance_id

    @property
    def sessions(self) -> list[AuthSession]:
        """The current sessions. May be used from any thread."""
        return [] if self._sessions is None else list(self._sessions.all())

    def close_session(self, session: AuthSession) -> None:
        """End *session* and free its objects; the client's next call gets 403.

        May be called from any thread.
        """
        if self._sessions is not None:
            self._sessions.end(session)

    def get(self, interface: Callable[..., _T], connection_id: int, *, notify: bool = True) -> _T:
        """Return an object whose methods call *interface* on the client of *connection_id*.

        This method and the object's methods may be called from any thread.

        :param notify: do not wait for methods that return None: their errors appear only in the
            client's log. They may be called in any thread, even in a service called by the same
            client. All other methods wait for their answer, for up to
            ``settings.callback_answer_timeout_ms``.

        Its methods raise :class:`ServiceError`, :class:`ServiceTimeoutError` and
        :class:`ServiceConnectionError`; ``TypeError`` and ``ValueError`` for invalid arguments; and
        :class:`WebSocketsError` in the thread that reads the answer, where they would deadlock. A
        client that has reconnected has another *connection_id*.

        This is for clients that have registered the interface. A callback passed by a client is
        already such an object.
        """
        IS_INT("connection_id", connection_id)

        def call(method: ServiceMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            process = self._server.is_active_websocket(connection_id)
            if process is None:
                raise ServiceConnectionError(
                    f"there is no WebSocket connection #{connection_id}",
                    HTTP_NOTFOUND,
                    maybe_executed=False,
                )
            return self._call_back(process, method, "", args, kwargs, notify)

        proxy: _T = proxy_of(interface_of(interface), call)
        return proxy

    def caller(self, interface: Callable[..., _T], *, notify: bool = True) -> _T:
        """Return what :meth:`get` returns for the client that is calling. Only in the thread of the
        call.

        The object may be kept after the call.
        """
        return self.get(interface, self.context.connection_id, notify=notify)

    def release(self, callback: object) -> None:
        """Notify a client that *callback*, which it passed, is no longer needed.

        May be called from any thread. The same happens when the object is no longer referenced.
        Raises ``TypeError`` for any other object.
        """
        found = callback_of(callback)
        if found is None:
            raise TypeError(f"{callback!r} is not a callback passed by a client")
        self._callbacks.unreferenced(found)

    # --------------------------------------------------------------------------- calls by clients

    def on_request(self, ctxt: HttpServerRequest) -> int:
        """Answer a call; pass any other request to the previous callback.

        The constructor installs it. The path of a call is ``root/Interface.Method``. Over a
        WebSocket its case does not matter, and the method's name may be the Python one. Over plain
        HTTP it must be one of the two exact spellings, so that access rules for paths, in front of
        the server, see the same names.
        """
        path, query = parted(ctxt.url)
        over_websocket = self._server.is_active_websocket(ctxt.connection_id) is not None
        behind = self._behind_root(path, over_websocket)
        if behind is None:
            return self._unknown(ctxt, path, HTTP_NOTFOUND)
        root, name = behind
        if SIGNATURE in query:
            query = query[: query.rindex(SIGNATURE)].rstrip("&")
        sessions = self._sessions
        session = None if sessions is None else sessions.session_of(ctxt, root)
        registered = self._registered
        found = registered.exact.get(name) or registered.find(name, over_websocket)
        if found is None:
            return self._other(ctxt, root, name, query, session, over_websocket)
        if sessions is not None and session is None and not found.service.bypass_authentication:
            return _forbidden(ctxt)
        verb = ctxt.method.upper()
        # any page can make a browser send a GET
        if verb != "POST" and not (verb == "GET" and over_websocket):
            return answer_error(ctxt, HTTP_NOTALLOWED, "services must be called with POST")
        kind = ctxt.in_content_type
        is_json = kind == JSON_TYPE or _is_json(kind, over_websocket)
        if not is_json and not (
            found.method is not None
            and found.method.parameters.is_content
            and (over_websocket or _base_type(kind) not in _ANYBODYS_TYPES)
        ):
            # over plain HTTP a browser lets any page send other types without a preflight request
            return answer_error(ctxt, HTTP_BADREQUEST, f"the arguments must be {JSON_TYPE}")
        if found.method is None:
            return self._pseudo(ctxt, found, path, session)
        return self._executed(
            ctxt,
            found.method.title,
            lambda: self._execute(ctxt, found, query, session, is_json),
        )

    def _execute(
        self,
        ctxt: HttpServerRequest,
        found: Found,
        query: str,
        session: AuthSession | None,
        is_json: bool,
    ) -> int:
        """Call the method with the arguments in *ctxt*, put its result there, return the status."""
        method, instances = found.method, found.service.instances
        assert method is not None
        arguments = self._arguments(ctxt, method, query, is_json)
        function, shown = found.function, 0
        called: Instance | None = None
        if function is None:
            called, shown = self._instance(method, instances, found.number, session)
        before = self.session, self.instance_id
        self._current.of_session(session, shown)
        try:
            if function is None:
                assert called is not None
                function = getattr(called.object, method.name)
            if method.parameters.callbacks:
                service = getattr(function, "__self__", called and called.object)
                self._receive_callbacks(ctxt, method, arguments, service, session)
            result = function(*arguments)
        finally:
            self._current.of_session(*before)
            if called is not None:
                instances.call_ended(called)
        return self._answered(ctxt, method, result, shown)

    @staticmethod
    def _instance(
        method: ServiceMethod, instances: Instances, number: int, session: AuthSession | None
    ) -> tuple[Instance, int]:
        try:
            found = instances.find(number, session)
        except TooManyInstances:
            text = f"too many objects for {method.wire_name}"
            raise CallRefused(HTTP_UNAVAILABLE, text) from None
        if found is not None:
            return found
        kind = instances.kind
        why = "unknown or expired object"
        if kind is not sicClientDriven:
            why = "an authenticated session is required"
        raise CallRefused(HTTP_FORBIDDEN, f"{why} for {method.wire_name} ({kind.name})")

    def _receive_callbacks(
        self,
        ctxt: HttpServerRequest,
        method: ServiceMethod,
        arguments: list[Any],
        service: object,
        session: AuthSession | None,
    ) -> None:
        """Replace the numbers of callbacks with proxies."""
        for at, interface in method.parameters.callbacks.items():
            if at >= len(arguments) or type(arguments[at]) is not int:
                continue
            number = arguments[at]
            arguments[at] = None
            if not number:
                continue
            try:
                proxy = self._callbacks.receive(
                    ctxt.connection_id,
                    number,
                    interface_of(interface),
                    0 if session is None else session.id,
                )
            except ValueError as exc:
                raise CallRefused(HTTP_NOTACCEPTABLE, f"{method.title}: {exc}") from None
            arguments[at] = proxy
            callback = callback_of(proxy)
            if callback is not None and service is not None:
                callback.serve(service)

    def _call_back(
        self,
        process: WebSocketProcess,
        method: ServiceMethod,
        path: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        notify: bool = True,
    ) -> Any:
        """Call a method of a client; *path* is a slash and the number of its object."""
        url = f"{self.root}/{method.wire_name}{path}"
        # native clients refuse callbacks whose content is not JSON
        request = self._request(url, method, args, kwargs, only_json=bool(path))
        return self._call(process, method, request, notify)[0]

    # ------------------------------------------------------------------------------- pseudo-methods

    def _pseudo(
        self, ctxt: HttpServerRequest, found: Found, path: str, session: AuthSession | None
    ) -> int:
        """Answer the pseudo-methods with which native clients query a service."""
        service, instances = found.service, found.service.instances
        if found.pseudo == CONTRACT:
            return answer_content(ctxt, dump_json({"result": [service.contract]}))
        if found.pseudo == SIGNATURE_METHOD and service.signature:
            return answer_content(ctxt, b'{"result":[%b]}' % service.signature.encode("utf-8"))
        if instances.kind is sicClientDriven:
            if found.pseudo == INSTANCE:
                return self._executed(
                    ctxt,
                    f"{service.interface.wire_name}.{INSTANCE}",
                    lambda: self._create(ctxt, instances, session),
                )
            if found.pseudo == FREE:
                if instances.release(found.number, session):
                    return answer_content(ctxt)
                text = f"unknown or expired object ({instances.kind.name})"
                return answer_error(ctxt, HTTP_FORBIDDEN, text)
        return self._unknown(ctxt, path)

    def _create(
        self, ctxt: HttpServerRequest, instances: Instances, session: AuthSession | None
    ) -> int:
        try:
            number = instances.create(session)
        except TooManyInstances:
            raise CallRefused(HTTP_UNAVAILABLE, "too many objects") from None
        return answer_content(ctxt, b'{"result":%d}' % number)

    # ------------------------------------------------------------ other requests of native clients

    def _other(
        self,
        ctxt: HttpServerRequest,
        root: str,
        name: str,
        query: str,
        session: AuthSession | None,
        any_case: bool,
    ) -> int:
        """Answer a request that is not a call of a method."""
        handler = self._others.handler(name, any_case)
        if handler is None:
            if session is None and self._sessions is not None and self._previous is None:
                # clients without a session do not learn which names exist
                return _forbidden(ctxt)
            return self._unknown(ctxt, f"{root}/{name}")
        if session is None and self._others.needs_session(name):
            return _forbidden(ctxt)
        return self._executed(ctxt, name, lambda: handler(ctxt, root, query, session))

    def _expiring(self) -> list[Expiring]:
        """Return the tables whose items expire."""
        tables: list[Expiring] = [service.instances for service in self._registered.all()]
        if self._sessions is not None:
            tables.append(self._sessions)
        return [*tables, self._callbacks]

    def _server_freed(self) -> None:
        """Free all objects, because the server has no connections left."""
        self._expiry.stop()
        for service in self._registered.all():
            service.instances.free_all()

    def _session_ended(self, session: AuthSession) -> None:
        for service in self._registered.all():
            service.instances.session_ended(session)
        self._tell("on_session_closed", self.on_session_closed, session)

    def _tell(self, name: str, callback: Callable[[Any], object] | None, value: object) -> None:
        # the session begins or ends in any case
        if callback is not None:
            guarded(f"{name} for {value!r}", callback, value)


def _forbidden(ctxt: HttpServerRequest) -> int:
    return answer_error(ctxt, HTTP_FORBIDDEN, "unknown or expired session")


def _base_type(kind: str) -> str:
    return kind.partition(";")[0].strip().lower()


def _is_json(kind: str, over_websocket: bool) -> bool:
    kind = _base_type(kind)
    return kind == JSON_TYPE or (not kind and over_websocket)
