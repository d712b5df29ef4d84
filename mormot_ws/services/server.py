"""ServerServices: the services of a server, for native clients and for those of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..attributes import IS_INT, IS_NUMBER, IS_TEXT
from ..core.forks import renew_in_child
from ..errors import ServiceConnectionError
from ..logs import get_logger
from ..process.process import WebSocketProcess
from ..request import HttpServerRequest
from ..states import ServiceInstanceImplementation, sicClientDriven, sicShared
from .authentication import SIGNATURE, time_log
from .base import (
    HTTP_BADREQUEST,
    HTTP_FORBIDDEN,
    HTTP_NOTALLOWED,
    HTTP_NOTFOUND,
    HTTP_UNAVAILABLE,
    Function,
    Services,
)
from .callbacks import Callbacks, callback_of
from .contracts import ANY_CONTRACT, contract_of, signature_text
from .errors import CallRefused, answer_error
from .instances import Instances, TooManyInstances
from .interface import ServiceInterface, ServiceMethod, interface_of, proxy_of
from .parameters import JSON_TYPE
from .sessions import AuthSession, Sessions, closes
from .users import RestServerAuthentication
from .values import dump_json, load_native_json

if TYPE_CHECKING:  # a client need not load the server, nor the other way round
    from ..server.base import WebSocketServerBase

_log = get_logger("mormot_ws.services")

_T = TypeVar("_T")

#: what a browser lets any page send by plain HTTP without asking
_ANYBODYS_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
_TEXT_TYPE = "text/plain;charset=utf-8"
#: pseudo-methods that each service has
_CONTRACT, _SIGNATURE, _INSTANCE, _FREE = "_contract_", "_signature_", "_instance_", "_free_"


@dataclass
class _Service:
    """A registered service."""

    interface: ServiceInterface
    instances: Instances
    contract: str
    signature: str
    bypass_authentication: bool


@dataclass
class _Found:
    """What a URI calls."""

    service: _Service
    #: None: a pseudo-method
    method: ServiceMethod | None
    pseudo: str = ""
    #: the method of the one object of a shared service
    function: Function | None = None
    number: int = 0


class ServerServices(Services):
    """The services of a server, and its clients'.

    :param server: which offers a REST protocol, as a :class:`WebSocketServerRest`. Its
        ``on_request`` is taken over; what was there goes on to answer requests that are no calls.
        Services can be called by plain HTTP too.
    :param root: the first part of all URIs; clients need the same.
    :param hide_errors: answer exceptions other than :class:`ServiceError` with ``internal error``
        instead of their text.
    :param authentication: how clients authenticate, a :class:`RestServerAuthenticationDefault`
        with the users, for instance; None: nobody has to, and there are no sessions.
    :param session_timeout_minutes: how long a session is kept without a request.
    :param max_sessions: how many there are at most.
    :param instance_timeout: milliseconds for which an object is kept that nobody calls, of services
        with one for each client, session, user or group.
    :param max_instances: how many each of these services has at most.
    :param publish_signature: tell clients that ask what the interfaces look like.
    """

    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {
        "on_session_create": ("session",),
        "on_session_closed": ("session",),
    }

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
                f"server is a WebSocketServerRest, not {type(server).__name__}; ClientServices"
                " takes a client"
            )
        if authentication is not None and not isinstance(authentication, RestServerAuthentication):
            raise TypeError(
                "authentication is a RestServerAuthenticationDefault or another of these, or None,"
                f" not {type(authentication).__name__}"
            )
        for name, value in (
            ("session_timeout_minutes", session_timeout_minutes),
            ("max_sessions", max_sessions),
            ("instance_timeout", instance_timeout),
            ("max_instances", max_instances),
        ):
            IS_NUMBER(name, value)
            if value <= 0:
                raise ValueError(f"{name} is more than 0, not {value}")
        super().__init__(root, hide_errors, server.on_request)
        self._server = server
        #: ``f(session: AuthSession)``, when a session has begun; in the thread of its connection.
        #: Mirrors ``OnSessionCreate``
        self.on_session_create: Callable[[AuthSession], object] | None = None
        #: ``f(session: AuthSession)``, when one has ended, by its client or for its time. Mirrors
        #: ``OnSessionClosed``
        self.on_session_closed: Callable[[AuthSession], object] | None = None
        self._sessions: Sessions | None = None
        if authentication is not None:
            self._sessions = Sessions(
                authentication, session_timeout_minutes, max_sessions, self._session_ended
            )
        self._instance_limits = instance_timeout / 1000, max_instances
        self._publishes_signature = publish_signature
        #: guards changes of the tables below; calls read them without it
        self._safe_services = Lock()
        renew_in_child(self, "_safe_services", Lock)
        #: by the name in lower case, without the ``I``
        self._services: dict[str, _Service] = {}
        #: by ``Interface.Method`` as on the wire, and with the method's name in Python
        self._exact: dict[str, _Found] = {}
        #: the same in lower case
        self._any_case: dict[str, _Found] = {}
        self._callbacks = Callbacks(server.is_active_websocket, self._call_back, lambda: self.root)
        self._others: dict[str, tuple[str, Callable[..., int]]] = {
            name.lower(): (name, handler)
            for name, handler in (
                ("timestamp", self._timestamp),
                ("auth", self._auth),
                ("stat/soa", self._services_list),
                ("CacheFlush/_callback_", self._release_callback),
                ("CacheFlush/_ping_", self._ping),
                ("CacheFlush/_replaceconn_", self._replace_connection),
            )
        }
        server.on_request = self.on_request

    def __repr__(self) -> str:
        return f"<ServerServices root={self.root!r} of {self._server!r}>"

    # ------------------------------------------------------------------ what the application does

    def register(
        self,
        interface: Callable[..., Any],
        implementation: Any,
        instance_creation: ServiceInstanceImplementation = sicShared,
        *,
        contract: str | None = ANY_CONTRACT,
        bypass_authentication: bool = False,
    ) -> None:
        """Let clients call *implementation* as *interface*, from now on. From any thread.

        :param interface: the class that declares the methods: a ``typing.Protocol``, an abstract
            class, or any class with methods. The types of its parameters and results say what is
            read from JSON. A parameter whose type is a protocol or an abstract class is an object
            of the client, to be called back.
        :param implementation: an object with these methods; when its class derives from the
            interface, a type checker sees what is missing. They are called in the connection's
            thread: those of one connection one after the other, those of different connections at
            the same time. Unless the service is shared, *implementation* is its class, or a
            function without parameters that returns such an object; ``free()`` of the object is
            called at its end, if it has that method.
        :param instance_creation: ``sicShared``: one object for all calls; ``sicSingle``: a new one
            for each; ``sicClientDriven``: one for each that a client has got;
            ``sicPerSession``, ``sicPerUser``, ``sicPerGroup``: with authentication only.
        :param contract: what native clients compare with theirs. ``'*'`` is accepted by all that
            can ask for the list of services; None computes the native one from the annotations.
        :param bypass_authentication: let it be called without a session. Mirrors
            ``ByPassAuthentication``.

        What a method raises is the caller's :class:`ServiceError`. Raises ``TypeError`` for an
        interface that cannot be called over the wire, or an implementation that lacks something of
        it; ``ValueError`` when the interface is registered already. Mirrors ``ServiceDefine``.
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
        if contract is None or self._publishes_signature:
            signature = signature_text(described, kind)
        instances = Instances(implementation, kind, *self._instance_limits)
        service = _Service(
            described,
            instances,
            contract_of(described, kind) if contract is None else contract,
            signature,
            bypass_authentication,
        )
        called = {}
        for method in described.methods:
            # what the application's object does for an attribute, it does without the lock
            function = getattr(implementation, method.name) if kind is sicShared else None
            found = _Found(service, method, function=function)
            called[method.wire_name] = called[f"{described.wire_name}.{method.name}"] = found
        with self._safe_services:
            if described.wire_name.lower() in self._services:
                raise ValueError(
                    f"{described.wire_name} is registered already: an interface has one "
                    "implementation"
                )
            self._services[described.wire_name.lower()] = service
            self._any_case.update({name.lower(): found for name, found in called.items()})
            self._exact.update(called)

    @property
    def session(self) -> AuthSession | None:
        """The session of the call that is being executed, in its thread; None without one."""
        return getattr(self._current, "session", None)

    @property
    def instance_id(self) -> int:
        """The number of the object that is being called, in the thread of the call.

        0 in services that are shared or single. Mirrors ``ServiceInstanceID``.
        """
        return getattr(self._current, "instance_id", 0)

    @property
    def sessions(self) -> list[AuthSession]:
        """The sessions of now. From any thread."""
        return [] if self._sessions is None else list(self._sessions.all())

    def close_session(self, session: AuthSession) -> None:
        """End *session* and free its objects. From any thread; its client's next call gets 403."""
        if self._sessions is not None:
            self._sessions.end(session)

    def get(self, interface: Callable[..., _T], connection_id: int, *, notify: bool = True) -> _T:
        """Return an object whose methods call *interface* on the client of *connection_id*. From
        any thread, and so are its methods.

        :param notify: send calls of methods that return None without waiting for them to be
            executed: their errors are not seen here, only in the client's log. They may be called
            in any thread, and so in a service that the same client has called. The other methods
            wait for their answer, up to ``settings.callback_answer_timeout_ms``.

        Its methods raise :class:`ServiceError`, :class:`ServiceTimeoutError`,
        :class:`ServiceConnectionError`; ``TypeError`` and ``ValueError`` for arguments that cannot
        be sent; :class:`WebSocketsError` where waiting could never end: in the thread that reads
        the answer. A client that has reconnected is another connection.

        It is for clients that have registered the interface. What a client passes as a parameter
        the method gets as such an object.
        """
        IS_INT("connection_id", connection_id)

        def call(method: ServiceMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            process = self._server.is_active_websocket(connection_id)
            if process is None:
                raise ServiceConnectionError(
                    f"there is no WebSocket connection #{connection_id}, or no longer",
                    HTTP_NOTFOUND,
                    maybe_executed=False,
                )
            return self._call_back(process, method, "", args, kwargs, notify)

        proxy: _T = proxy_of(interface_of(interface), call)
        return proxy

    def caller(self, interface: Callable[..., _T], *, notify: bool = True) -> _T:
        """Return :meth:`get` for the client whose call is being executed. In the thread of that
        call; the object may be kept.
        """
        return self.get(interface, self.context.connection_id, notify=notify)

    def release(self, callback: object) -> None:
        """Tell a client that *callback*, which it has passed, is not needed any more.

        From any thread. The same happens when nobody refers to the object any more. Raises
        ``TypeError`` for anything else.
        """
        found = callback_of(callback)
        if found is None:
            raise TypeError(f"{callback!r} is not an object that a client has passed")
        self._callbacks.unreferenced(found)

    # --------------------------------------------------------------------------- calls of clients

    def on_request(self, ctxt: HttpServerRequest) -> int:
        """Answer a call; give any other request to what was there before. It is installed by the
        constructor.

        A call's path is ``root/Interface.Method``. Over a WebSocket its case does not matter, and
        the method's name may be that in Python. By plain HTTP it has to be in one of the two exact
        spellings: what guards paths in front of a server sees the same names.
        """
        path, _, query = ctxt.url.partition("?")
        path = path.removeprefix("/")
        root, _, name = path.partition("/")
        over_websocket = self._server.is_active_websocket(ctxt.connection_id) is not None
        if root != self.root and not (over_websocket and root.lower() == self.root.lower()):
            return self._unknown(ctxt, path, HTTP_NOTFOUND)
        if SIGNATURE in query:
            query = query[: query.rindex(SIGNATURE)].rstrip("&")
        sessions = self._sessions
        session = None if sessions is None else sessions.session_of(ctxt, root)
        found = self._exact.get(name) or self._found(name, over_websocket)
        if found is None:
            return self._other(ctxt, path, query, session, over_websocket)
        if sessions is not None and session is None and not found.service.bypass_authentication:
            return _forbidden(ctxt)
        if found.method is None:
            return self._pseudo(ctxt, found, path, session)
        verb = ctxt.method.upper()
        # a page of any site can make a browser send a GET
        if verb != "POST" and not (verb == "GET" and over_websocket):
            return answer_error(ctxt, HTTP_NOTALLOWED, "a service is called by POST")
        kind = ctxt.in_content_type
        is_json = kind == JSON_TYPE or _is_json(kind, over_websocket)
        if not is_json and not (
            found.method.parameters.is_content
            and (over_websocket or _base_type(kind) not in _ANYBODYS_TYPES)
        ):
            # on plain HTTP a browser lets any page send other types without asking
            return answer_error(ctxt, HTTP_BADREQUEST, f"the arguments have to be {JSON_TYPE}")
        return self._executed(
            ctxt,
            found.method.title,
            lambda: self._execute(ctxt, found, query, session, is_json),
        )

    def _execute(
        self,
        ctxt: HttpServerRequest,
        found: _Found,
        query: str,
        session: AuthSession | None,
        is_json: bool,
    ) -> int:
        """Call the method with the arguments in *ctxt*; put its result there, and return the
        status.
        """
        method, instances = found.method, found.service.instances
        assert method is not None
        arguments = self._arguments(ctxt, method, query, is_json)
        function, shown, called = found.function, 0, None
        if function is None:
            called, shown = self._instance(method, instances, found.number, session)
            function = getattr(called, method.name)
        if method.parameters.callbacks:
            service = getattr(function, "__self__", called)
            self._receive_callbacks(ctxt, method, arguments, service, session)
        current = self._current
        before = getattr(current, "session", None), getattr(current, "instance_id", 0)
        current.session, current.instance_id = session, shown
        try:
            result = function(*arguments)
        finally:
            current.session, current.instance_id = before
            if called is not None:
                instances.call_ended(called)
        return self._answered(ctxt, method, result, shown)

    @staticmethod
    def _instance(
        method: ServiceMethod, instances: Instances, number: int, session: AuthSession | None
    ) -> tuple[Any, int]:
        try:
            found = instances.find(number, session)
        except TooManyInstances:
            text = f"there are too many objects for {method.wire_name}"
            raise CallRefused(HTTP_UNAVAILABLE, text) from None
        if found is not None:
            return found
        kind = instances.kind
        why = "there is no such object, or no longer,"
        if kind is not sicClientDriven:
            why = "an authenticated session is needed"
        raise CallRefused(HTTP_FORBIDDEN, f"{why} for {method.wire_name} ({kind.name})")

    def _receive_callbacks(
        self,
        ctxt: HttpServerRequest,
        method: ServiceMethod,
        arguments: list[Any],
        service: object,
        session: AuthSession | None,
    ) -> None:
        """Put proxies in the places of the numbers of callbacks."""
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
                raise CallRefused(406, f"{method.title}: {exc}") from None
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
        """Call a method of a client; *path* is the number of its object, behind a slash."""
        url = f"{self.root}/{method.wire_name}{path}"
        return self._call(process, method, self._request(url, method, args, kwargs), notify)[0]

    # ---------------------------------------------------------------------------------- the names

    def _found(self, name: str, any_case: bool) -> _Found | None:
        """Return what *name* calls, the part of a path behind the root; None: nothing known."""
        called, number = name, 0
        head, _, tail = name.rpartition("/")
        if head and tail.isascii() and tail.isdecimal() and len(tail) < 12:
            called, number = head, int(tail)
        if any_case:
            called = called.lower().rstrip("/")
            if "." not in called:
                called = called.replace("/", ".", 1)
            found = self._any_case.get(called)
        else:
            found = self._exact.get(called)
        if found is not None:
            return (
                _Found(found.service, found.method, "", found.function, number) if number else found
            )
        interface, _, pseudo = called.partition(".")
        service = self._services.get(interface.lower())
        if service is None or pseudo not in (_CONTRACT, _SIGNATURE, _INSTANCE, _FREE):
            return None
        if not any_case and interface != service.interface.wire_name:
            return None
        return _Found(service, None, pseudo, None, number)

    def _pseudo(
        self, ctxt: HttpServerRequest, found: _Found, path: str, session: AuthSession | None
    ) -> int:
        """Answer what native clients ask each service."""
        service, instances = found.service, found.service.instances
        if found.pseudo == _CONTRACT:
            return _answer(ctxt, dump_json({"result": [service.contract]}))
        if found.pseudo == _SIGNATURE and self._publishes_signature:
            return _answer(ctxt, b'{"result":[%b]}' % service.signature.encode("utf-8"))
        if instances.kind is sicClientDriven:
            if found.pseudo == _INSTANCE:
                return self._executed(
                    ctxt,
                    f"{service.interface.wire_name}.{_INSTANCE}",
                    lambda: self._create(ctxt, instances, session),
                )
            if found.pseudo == _FREE:
                if instances.release(found.number, session):
                    return _answer(ctxt)
                text = f"there is no such object, or no longer ({instances.kind.name})"
                return answer_error(ctxt, HTTP_FORBIDDEN, text)
        return self._unknown(ctxt, path)

    def _create(
        self, ctxt: HttpServerRequest, instances: Instances, session: AuthSession | None
    ) -> int:
        try:
            number = instances.create(session)
        except TooManyInstances:
            raise CallRefused(HTTP_UNAVAILABLE, "there are too many objects") from None
        return _answer(ctxt, b'{"result":%d}' % number)

    # ------------------------------------------------------------------ what native clients ask for

    def _other(
        self,
        ctxt: HttpServerRequest,
        path: str,
        query: str,
        session: AuthSession | None,
        any_case: bool,
    ) -> int:
        """Answer a request that is no call of a method."""
        root, _, name = path.partition("/")
        exact, handler = self._others.get(name.lower(), ("", None))
        if handler is None or (exact != name and not any_case):
            return self._unknown(ctxt, path)
        if self._sessions is None:
            if name.lower() == "auth":
                return self._unknown(ctxt, path)
        elif session is None and name.lower() not in ("timestamp", "auth"):
            return _forbidden(ctxt)
        return self._executed(ctxt, name, lambda: handler(ctxt, root, query, session))

    def _timestamp(self, ctxt: HttpServerRequest, *unused: object) -> int:
        now = time_log(datetime.now(timezone.utc))
        return _answer(ctxt, b"%d" % now, _TEXT_TYPE)

    def _services_list(self, ctxt: HttpServerRequest, *unused: object) -> int:
        if ctxt.method.upper() == "POST":
            # the client's own services
            return _answer(ctxt)
        return _answer(ctxt, dump_json(self._published()))

    def _published(self) -> list[Any]:
        published: list[Any] = []
        for service in list(self._services.values()):
            kind = int(service.instances.kind)
            published += (service.interface.wire_name, service.contract, kind)
        return published

    def _auth(
        self, ctxt: HttpServerRequest, root: str, query: str, session: AuthSession | None
    ) -> int:
        sessions = self._sessions
        assert sessions is not None
        if session is not None and closes(query, session):
            sessions.end(session)
            return _answer(ctxt)
        begun = sessions.begin(ctxt, root, query)
        if begun is None:
            text = "authentication failed: wrong user or password, or no room for a session"
            return answer_error(ctxt, HTTP_FORBIDDEN, text)
        if isinstance(begun, str):
            return _answer(ctxt, dump_json({"result": begun}))
        session, result = begun
        user = session.user
        cookie = sessions.cookie_of(session, root)
        self._tell("on_session_create", self.on_session_create, session)
        answer = {
            "result": session.id if cookie else result,
            "logonid": user.id,
            "logonname": user.logon_name,
            "logondisplay": user.display_name,
            "logongroup": user.group_rights,
            "timeout": sessions.timeout_minutes,
            "server": self._server.process_name or "mormot_ws",
            "soa": self._published(),
        }
        ctxt.out_custom_headers = cookie
        return _answer(ctxt, dump_json(answer))

    def _ping(
        self, ctxt: HttpServerRequest, root: str, query: str, session: AuthSession | None
    ) -> int:
        renewed = 0
        if session is not None:
            for service in list(self._services.values()):
                renewed += service.instances.renew(session)
        return _answer(ctxt, b'{"n":%d}' % renewed)

    def _release_callback(self, ctxt: HttpServerRequest, *unused: object) -> int:
        released: list[bool | None] = []
        try:
            wanted = load_native_json(ctxt.in_content)
        except ValueError:
            wanted = None
        if isinstance(wanted, dict):
            released = [
                self._callbacks.released(ctxt.connection_id, number, name)
                for name, number in wanted.items()
            ]
        if not released or None in released:
            return answer_error(ctxt, HTTP_BADREQUEST, "there is no such callback, or no longer")
        return _answer(ctxt, b'{"result":[]}' if any(released) else b"")

    def _replace_connection(
        self, ctxt: HttpServerRequest, root: str, query: str, session: AuthSession | None
    ) -> int:
        text = ctxt.in_content.strip(b'" \r\n')
        moved = 0
        if session is not None and text.isdigit() and len(text) < 20:
            moved = self._callbacks.replace_connection(int(text), ctxt.connection_id, session.id)
        return _answer(ctxt, b'{"n":%d}' % moved)

    def _session_ended(self, session: AuthSession) -> None:
        for service in list(self._services.values()):
            service.instances.session_ended(session)
        self._tell("on_session_closed", self.on_session_closed, session)

    def _tell(self, name: str, callback: Callable[[Any], object] | None, value: object) -> None:
        if callback is None:
            return
        try:
            callback(value)
        # the session begins or ends all the same
        except Exception:  # noqa: BLE001
            _log.exception("%s failed for %r", name, value)


def _answer(ctxt: HttpServerRequest, content: bytes = b"", kind: str = JSON_TYPE) -> int:
    """Put an answer of this module into *ctxt*; return 200."""
    ctxt.out_content = content
    ctxt.out_content_type = kind if content else ""
    return 200


def _forbidden(ctxt: HttpServerRequest) -> int:
    return answer_error(ctxt, HTTP_FORBIDDEN, "there is no such session, or no longer")


def _base_type(kind: str) -> str:
    return kind.partition(";")[0].strip().lower()


def _is_json(kind: str, over_websocket: bool) -> bool:
    kind = _base_type(kind)
    return kind == JSON_TYPE or (not kind and over_websocket)
