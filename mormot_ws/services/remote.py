"""Services: interfaces that either end of a REST connection can call as methods.

A call is a request ``POST root/Interface.Method`` whose body is the JSON array of the arguments,
its answer ``{"result":[…]}``, as in mORMot's interface-based services. No frame and no socket
belongs in here, and no JSON (``interface.py``, ``values.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..attributes import IS_INT, IS_TEXT, Check, KnownAttributes
from ..core.forks import call_in_child, renew_in_child
from ..errors import ServiceConnectionError, ServiceError, ServiceTimeoutError, WebSocketsError
from ..logs import escaped, get_logger
from ..process.process import WebSocketProcess
from ..request import HTTP_CLIENTERROR, HttpServerRequest, OnHttpServerRequest
from ..states import (
    WebSocketProcessNotifyCallback,
    wscBlockWithAnswer,
    wscBlockWithoutAnswer,
    wscNonBlockWithoutAnswer,
)
from .interface import ServiceInterface, ServiceMethod, proxy_of
from .values import dump_json, load_json

if TYPE_CHECKING:  # a client need not load the server, nor the other way round
    from ..client.client import HttpClientWebSockets
    from ..server.threaded import WebSocketServer

_log = get_logger("mormot_ws.services")

_T = TypeVar("_T")
_Function = Callable[..., Any]
_JSON = "application/json"

#: the statuses of what goes wrong before the service is called; those of the original
HTTP_BADREQUEST = 400
HTTP_NOTFOUND = 404
HTTP_NOTALLOWED = 405
HTTP_NOTACCEPTABLE = 406

#: the most characters of a peer's text in answers, errors and log lines
_MOST_TEXT = 2_000
#: characters of a URL in an answer
_MOST_URL = 100

#: how many forks lie between the first OS process and this one
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


call_in_child(_count_fork)


def _is_root(name: str, value: Any) -> None:
    IS_TEXT(name, value)
    if not value or value.strip("/") != value:
        raise ValueError(f"{name} is the first part of all URIs, like 'root', not {value!r}")


class _Services(KnownAttributes):
    """What both sides share: the services of this side, and calls to the other's."""

    _CHECKS: ClassVar[dict[str, Check]] = {"root": _is_root}

    def __init__(self, root: str, hide_errors: bool, previous: OnHttpServerRequest | None) -> None:
        #: the first part of all URIs; the other side needs the same
        self.root = root
        self._hide_errors = hide_errors
        self._previous = previous
        #: guards changes of the two fields below; calls read them without it
        self._safe_services = threading.Lock()
        renew_in_child(self, "_safe_services", threading.Lock)
        #: by ``Interface.Method`` as on the wire, and with the method's name in Python
        self._methods: dict[str, tuple[ServiceMethod, _Function]] = {}
        self._registered: dict[str, Any] = {}
        #: the call that this thread is executing
        self._current = threading.local()

    def register(self, interface: Callable[..., Any], implementation: object) -> None:
        """Let the other side call *implementation* as *interface*, from now on. From any thread.

        :param interface: the class that declares the methods: a ``typing.Protocol``, an abstract
            class, or any class with methods. The types of its parameters and results say what is
            read from JSON.
        :param implementation: an object with these methods; when its class derives from the
            interface, a type checker sees what is missing. They are called in the connection's
            thread: those of one connection one after the other, those of different connections at
            the same time.

        What a method raises is the caller's :class:`ServiceError`. Raises ``TypeError`` for an
        interface that cannot be called over the wire, or an implementation that lacks something of
        it; ``ValueError`` when the interface is registered already.
        """
        described = ServiceInterface(interface)
        described.check_implementation(implementation)
        called = {}
        for method in described.methods:
            # what the application's object does for an attribute, it does without the lock
            entry = method, getattr(implementation, method.name)
            called[method.wire_name] = called[f"{described.wire_name}.{method.name}"] = entry
        with self._safe_services:
            if described.wire_name.lower() in self._registered:
                raise ValueError(
                    f"{described.wire_name} is registered already: an interface has one "
                    "implementation"
                )
            self._registered[described.wire_name.lower()] = implementation
            self._methods.update(called)

    @property
    def context(self) -> HttpServerRequest:
        """The request behind the call that is being executed: ``connection_id``, ``remote_ip``,
        ``auth_bearer``, …

        In the thread of that call only; raises :class:`WebSocketsError` in another.
        """
        context: HttpServerRequest | None = getattr(self._current, "context", None)
        if context is None:
            raise WebSocketsError(
                "there is a context only while a service is being called, and in that thread"
            )
        return context

    # ---------------------------------------------------------------------- calls of the other side

    def on_request(self, ctxt: HttpServerRequest) -> int:
        """Answer a call; give any other request to what was there before. It is installed by the
        constructor.

        A call's path is ``root/Interface.Method``, in exactly this spelling or with the method's
        name in Python: what guards paths in front of a server sees the same names.
        """
        path = ctxt.url.removeprefix("/").partition("?")[0]
        root, _, name = path.partition("/")
        found = self._methods.get(self._without_number(name)) if root == self.root else None
        if found is None:
            if self._previous is not None:
                return self._previous(ctxt)
            text = f"there is no service for {path[:_MOST_URL]!r}"
            return _answer_error(ctxt, HTTP_NOTFOUND, text)
        method, function = found
        kind = ctxt.in_content_type.partition(";")[0].strip().lower()
        if ctxt.method.upper() != "POST":
            return _answer_error(ctxt, HTTP_NOTALLOWED, "a service is called by POST")
        if kind != _JSON and (kind or not self._is_websocket(ctxt)):
            # on plain HTTP a browser lets any page send other types without asking
            return _answer_error(ctxt, HTTP_BADREQUEST, f"the arguments have to be {_JSON}")
        forks = _forks
        self._current.context = ctxt
        try:
            return self._execute(ctxt, method, function)
        # of a call that the service made, not its answer
        except (ServiceTimeoutError, ServiceConnectionError) as exc:
            _log.warning("%s failed: %s", method.title, _shortened(str(exc)))
            return self._answer_failure(ctxt, exc.text)
        except ServiceError as exc:
            _log.info("%s: answered with %s: %s", method.title, exc.status, _shortened(str(exc)))
            return _answer_error(ctxt, exc.status if 400 <= exc.status <= 599 else 500, exc.text)
        # any exception of the application, even of sys.exit(), becomes the caller's error
        except BaseException as exc:
            # a child that the service has forked ends by it, and a program by Ctrl-C
            if forks != _forks or (
                isinstance(exc, KeyboardInterrupt) and current_thread() is main_thread()
            ):
                raise
            _log.exception("%s failed", method.title)
            return self._answer_failure(ctxt, _words(exc))
        finally:
            self._current.context = None

    @staticmethod
    def _execute(ctxt: HttpServerRequest, method: ServiceMethod, function: _Function) -> int:
        """Call *function* with the arguments in *ctxt*; put its result there, and return the
        status.
        """
        try:
            arguments = method.read_arguments(ctxt.in_content)
        except ValueError as exc:
            return _answer_error(
                ctxt, HTTP_NOTACCEPTABLE, f"{method.title}: {_shortened(str(exc))}"
            )
        ctxt.out_content = method.write_result(function(*arguments))
        ctxt.out_content_type = _JSON
        return 200

    def _answer_failure(self, ctxt: HttpServerRequest, text: str) -> int:
        """Answer 500, with *text* unless errors are hidden."""
        return _answer_error(ctxt, 500, "internal error" if self._hide_errors else text)

    def _without_number(self, name: str) -> str:
        """Return *name* as the keys of methods are."""
        return name

    def _is_websocket(self, ctxt: HttpServerRequest) -> bool:
        """Tell whether *ctxt* came over a WebSocket."""
        return True

    # --------------------------------------------------------------------------- calls of this side

    def _proxy(
        self, interface: Callable[..., _T], find: Callable[[], WebSocketProcess], notify: bool
    ) -> _T:
        """Return an object whose methods are calls over the process that *find* returns, or raises
        why there is none.
        """
        described = ServiceInterface(interface)

        def call(method: ServiceMethod, arguments: bytes) -> Any:
            process = find()
            request = HttpServerRequest(
                f"{self.root}/{method.wire_name}", "POST", "", arguments, _JSON
            )
            if notify and not method.results:
                mode = wscNonBlockWithoutAnswer
                if process.runs_loop() or process.owner_thread is current_thread():
                    # inside a call of this very peer: ahead of its answer
                    mode = wscBlockWithoutAnswer
            else:
                mode = wscBlockWithAnswer
            return _ask(process, method, request, mode)

        proxy: _T = proxy_of(described, call)
        return proxy


class ServerServices(_Services):
    """The services of a server, and its clients'.

    :param server: which offers a REST protocol, as a :class:`WebSocketServerRest`. Its
        ``on_request`` is taken over; what was there goes on to answer requests that are no calls.
        Services can be called by plain HTTP too.
    :param root: the first part of all URIs.
    :param hide_errors: answer exceptions other than :class:`ServiceError` with ``internal error``
        instead of their text.
    """

    def __init__(
        self, server: WebSocketServer, *, root: str = "root", hide_errors: bool = False
    ) -> None:
        if not hasattr(server, "is_active_websocket"):
            raise TypeError(
                f"server is a WebSocketServerRest, not {type(server).__name__}; ClientServices"
                " takes a client"
            )
        super().__init__(root, hide_errors, server.on_request)
        self._server = server
        server.on_request = self.on_request

    def __repr__(self) -> str:
        return f"<ServerServices root={self.root!r} of {self._server!r}>"

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
        """

        IS_INT("connection_id", connection_id)

        def find() -> WebSocketProcess:
            process = self._server.is_active_websocket(connection_id)
            if process is None:
                raise ServiceConnectionError(
                    f"there is no WebSocket connection #{connection_id}, or no longer",
                    HTTP_NOTFOUND,
                    maybe_executed=False,
                )
            return process

        return self._proxy(interface, find, notify)

    def caller(self, interface: Callable[..., _T], *, notify: bool = True) -> _T:
        """Return :meth:`get` for the client whose call is being executed. In the thread of that
        call; the object may be kept.
        """
        return self.get(interface, self.context.connection_id, notify=notify)

    def _is_websocket(self, ctxt: HttpServerRequest) -> bool:
        return self._server.is_active_websocket(ctxt.connection_id) is not None


class ClientServices(_Services):
    """The services of a server, called by a client, and those that the client offers to it.

    :param client: which speaks a REST protocol, or will. Its ``on_callback_request_process`` is
        taken over; what was there goes on to answer requests that are no calls.
    :param root: the server's.
    :param hide_errors: answer exceptions other than :class:`ServiceError` with ``internal error``
        instead of their text.

    It goes on to work after a reconnection. What the server knew of the lost connection, it has to
    be told again: in the client's ``settings.on_client_connected``, by methods with *notify*,
    because nothing can wait for an answer there.
    """

    def __init__(
        self, client: HttpClientWebSockets, *, root: str = "root", hide_errors: bool = False
    ) -> None:
        if not hasattr(client, "websockets_upgrade"):
            raise TypeError(
                f"client is an HttpClientWebSockets, not {type(client).__name__}; ServerServices"
                " takes a server"
            )
        super().__init__(root, hide_errors, client.on_callback_request_process)
        self._client = client
        client.on_callback_request_process = self.on_request

    def __repr__(self) -> str:
        return f"<ClientServices root={self.root!r} of {self._client!r}>"

    def _without_number(self, name: str) -> str:
        # native servers put the callback's number behind the name
        name, _, number = name.partition("/")
        return name if not number or (number.isascii() and number.isdecimal()) else ""

    def get(self, interface: Callable[..., _T], *, notify: bool = False) -> _T:
        """Return an object whose methods call *interface* on the server. From any thread, and so
        are its methods.

        :param notify: as for :meth:`ServerServices.get`, but False by default: all methods wait for
            their answer, up to ``client.timeout``, and inside a callback of the client they raise
            :class:`WebSocketsError`, because nobody could read it.

        Its methods raise what those of :meth:`ServerServices.get` do. Calls while the client is
        reconnecting raise :class:`ServiceConnectionError`; after it they work again.
        """

        def find() -> WebSocketProcess:
            process = self._client.websockets
            if process is None:
                raise ServiceConnectionError(
                    "the client is not connected: websockets_upgrade() first",
                    HTTP_CLIENTERROR,
                    maybe_executed=False,
                )
            return process

        return self._proxy(interface, find, notify)


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def _words(exc: BaseException) -> str:
    """Return what the caller is told of *exc*."""
    try:
        return _shortened(f"{type(exc).__name__}: {exc}")
    # its __str__ is the application's too
    except Exception:  # noqa: BLE001
        return type(exc).__name__


def _answer_error(ctxt: HttpServerRequest, status: int, text: str) -> int:
    """Make *ctxt* an error in the original's form."""
    ctxt.out_content, ctxt.out_content_type = (
        dump_json({"errorCode": status, "errorText": text}),
        _JSON,
    )
    return status


def _ask(
    process: WebSocketProcess,
    method: ServiceMethod,
    request: HttpServerRequest,
    mode: WebSocketProcessNotifyCallback,
) -> Any:
    """Send *request*, and return what the method's answer holds, or raise what it says."""
    try:
        status = process.notify_callback(request, mode)
    except WebSocketsError as exc:
        raise WebSocketsError(
            f"{method.title}(): {exc}. Methods that return None need not wait: get(…, "
            "notify=True) sends them only"
        ) from None
    if request.out_error:
        sent = status != HTTP_CLIENTERROR
        kind = ServiceTimeoutError if request.out_timed_out else ServiceConnectionError
        raise kind(f"{method.title}(): {request.out_error}", status, maybe_executed=sent)
    if status != 200:
        text = _error_text(request)
        error = ServiceError(escaped(text), status)
        error.text = text
        raise error
    if mode is not wscBlockWithAnswer:
        return None
    content = request.out_content
    assert isinstance(content, bytes)
    try:
        return method.read_result(content)
    except ValueError as exc:
        raise ServiceError(f"{method.title}(): the answer cannot be read: {exc}", status) from None


def _error_text(request: HttpServerRequest) -> str:
    """Return what an answer with an error says, in a bounded number of characters."""
    content = request.out_content
    assert isinstance(content, bytes)
    try:
        answer = load_json(content)
        # synopsejson makes "" of an empty body
        text = answer if isinstance(answer, str) else answer["errorText"]
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        # not one of ours: as it is
        text = content[: 4 * _MOST_TEXT].decode("utf-8", "replace").strip()
    return _shortened(text) or "no reason given"
