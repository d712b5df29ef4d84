"""The common part of the services of servers and clients: how calls are executed and made.

A call is a request ``POST root/Interface.Method`` whose body is a JSON array of the arguments. Its
answer is ``{"result":[…]}``, as in mORMot's interface-based services. This module uses no frames
and no sockets. JSON is handled in ``interface.py``, ``parameters.py`` and ``values.py``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from threading import current_thread
from typing import Any, ClassVar

from ..attributes import IS_TEXT, Check, KnownAttributes
from ..errors import ServiceConnectionError, ServiceError, ServiceTimeoutError, WebSocketsError
from ..logs import get_logger
from ..process.process import WebSocketProcess
from ..request import HttpServerRequest, OnHttpServerRequest
from ..states import (
    WebSocketProcessNotifyCallback,
    wscBlockWithAnswer,
    wscBlockWithoutAnswer,
    wscNonBlockWithoutAnswer,
)
from .answers import ServiceCustomAnswer, ServiceCustomStatus
from .errors import (
    HTTP_BADREQUEST,
    HTTP_NOTACCEPTABLE,
    CallRefused,
    answer_callback_failed,
    answer_error,
    answer_failure,
    answer_raised,
    check_answered,
    error_of,
    shortened,
)
from .guarded import ends_program, fork_count
from .interface import ServiceMethod
from .parameters import JSON_TYPE, NO_CONTENT, NumberOf
from .sessions import AuthSession

_log = get_logger("mormot_ws.services")

Function = Callable[..., Any]

#: how Python represents bytes of a URL that are not UTF-8
_HALVES = re.compile("[\ud800-\udfff]")
#: the maximum length of a URL in an answer, in characters
_MOST_URL = 100


def parted(url: str) -> tuple[str, str]:
    """Return the path of *url* without a leading slash, and its query.

    Bytes of the query that are not UTF-8 become U+FFFD, so the application gets no lone surrogates.
    """
    path, _, query = url.partition("?")
    if not query.isascii():
        query = _HALVES.sub("\ufffd", query)
    return path.removeprefix("/"), query


def _is_root(name: str, value: Any) -> None:
    IS_TEXT(name, value)
    if not value or value.strip("/") != value:
        raise ValueError(f"{name} must be the first part of all URIs, like 'root', not {value!r}")


class CurrentCall(threading.local):
    """The call that a thread is executing."""

    #: the request; None: no call is being executed
    context: HttpServerRequest | None = None
    session: AuthSession | None = None
    instance_id = 0

    def of_session(self, session: AuthSession | None, instance_id: int) -> None:
        """Set the session of the call, and the number of the called object."""
        self.session, self.instance_id = session, instance_id

    def of_request(self, context: HttpServerRequest | None) -> HttpServerRequest | None:
        """Set the request and return the previous one."""
        before, self.context = self.context, context
        return before


class Services(KnownAttributes):
    """The base of both sides: executes calls of this side's services and calls the other side's."""

    _CHECKS: ClassVar[dict[str, Check]] = {"root": _is_root}

    def __init__(self, root: str, hide_errors: bool, previous: OnHttpServerRequest | None) -> None:
        #: the first part of all URIs; the other side needs the same
        self.root = root
        self._hide_errors = hide_errors
        self._previous = previous
        #: the call that this thread is executing
        self._current = CurrentCall()

    @property
    def context(self) -> HttpServerRequest:
        """The request of the call being executed: ``connection_id``, ``remote_ip``, …

        Only in the thread of that call; raises :class:`WebSocketsError` in any other thread.
        """
        context = self._current.context
        if context is None:
            raise WebSocketsError(
                "context is only available in the thread that executes a call of a service"
            )
        return context

    def _behind_root(self, path: str, any_case: bool) -> tuple[str, str] | None:
        """Return the root as spelled in *path*, and the rest; None: it has another root."""
        length = len(self.root)
        root, name = path[:length], path[length:]
        if name and name[0] != "/":
            return None
        if root != self.root and not (any_case and root.lower() == self.root.lower()):
            return None
        return root, name[1:]

    # --------------------------------------------------------------------- calls by the other side

    def _executed(
        self,
        ctxt: HttpServerRequest,
        title: str,
        action: Callable[[], int],
        is_callback: bool = False,
    ) -> int:
        """Do the *action* of a call and return its status; exceptions become answers.

        *is_callback*: answer an exception like a callback of a native client.
        """
        forks = fork_count()
        before = self._current.of_request(ctxt)
        try:
            return action()
        except CallRefused as refused:
            if is_callback:
                return answer_callback_failed(ctxt, "ValueError", refused.text)
            return answer_error(ctxt, refused.status, refused.text)
        # of a call that the service made, not its answer
        except (ServiceTimeoutError, ServiceConnectionError) as exc:
            _log.warning("%s failed: %s", title, shortened(str(exc)))
            return answer_failure(ctxt, exc.text, self._hide_errors)
        except ServiceError as exc:
            _log.info("%s: answered with %s: %s", title, exc.status, shortened(str(exc)))
            return answer_error(ctxt, exc.status if 400 <= exc.status <= 599 else 500, exc.text)
        # any exception of the application, even from sys.exit(), becomes an error for the caller
        except BaseException as exc:
            if ends_program(exc, forks):
                raise
            _log.exception("%s failed", title)
            return answer_raised(ctxt, exc, self._hide_errors, is_callback)
        finally:
            self._current.of_request(before)

    @staticmethod
    def _arguments(
        ctxt: HttpServerRequest, method: ServiceMethod, query: str, is_json: bool
    ) -> list[Any]:
        """Return the arguments of a call; raise :class:`CallRefused` if they are invalid."""
        if not is_json:
            return [bytes(ctxt.in_content)]
        try:
            return method.parameters.read(ctxt.in_content, query)
        except ValueError as exc:
            text = f"{method.title}: {shortened(str(exc))}"
            raise CallRefused(HTTP_NOTACCEPTABLE, text) from None

    @staticmethod
    def _answered(
        ctxt: HttpServerRequest, method: ServiceMethod, result: Any, instance_id: int = 0
    ) -> int:
        """Put *result*, the return value of a method, into *ctxt*; return the status."""
        custom = method.custom
        if custom is ServiceCustomAnswer:
            if not isinstance(result, ServiceCustomAnswer):
                raise TypeError(f"{method.title}() did not return a ServiceCustomAnswer")
            ctxt.out_content = result.content
            ctxt.out_content_type = result.content_type or JSON_TYPE
            ctxt.out_custom_headers = result.header
            return result.status
        ctxt.out_content = method.write_result(result, instance_id)
        ctxt.out_content_type = JSON_TYPE
        return int(result) if custom is ServiceCustomStatus else 200

    def _unknown(self, ctxt: HttpServerRequest, path: str, status: int = HTTP_BADREQUEST) -> int:
        """Pass a request that is not a call to the previous callback, or answer with an error."""
        if self._previous is not None:
            return self._previous(ctxt)
        return answer_error(ctxt, status, f"there is no service for {path[:_MOST_URL]!r}")

    # --------------------------------------------------------------------------- calls by this side

    def _call(
        self,
        process: WebSocketProcess,
        method: ServiceMethod,
        request: HttpServerRequest,
        notify: bool,
    ) -> tuple[Any, int]:
        """Send *request*, a call of *method*, over *process*.

        Returns the result, and the number of the object that answered (0: none). Raises the error
        of the answer. With *notify*, methods without a result are not waited for.
        """
        mode = wscBlockWithAnswer
        if notify and not method.waits:
            mode = wscNonBlockWithoutAnswer
            if process.runs_loop() or process.owner_thread is current_thread():
                # in a call of this same peer: before its answer
                mode = wscBlockWithoutAnswer
        return _ask(process, method, request, mode)

    @staticmethod
    def _request(
        url: str,
        method: ServiceMethod,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        number_of: NumberOf | None = None,
        headers: str = "",
        only_json: bool = False,
    ) -> HttpServerRequest:
        """Return the request of a call; raise ``TypeError``/``ValueError`` for its arguments."""
        content, kind = method.parameters.write(args, kwargs, number_of, only_json)
        return HttpServerRequest(url, "POST", headers, content, kind)


def _ask(
    process: WebSocketProcess,
    method: ServiceMethod,
    request: HttpServerRequest,
    mode: WebSocketProcessNotifyCallback,
) -> tuple[Any, int]:
    """Send *request*; return the result in the answer, or raise its error."""
    try:
        status = process.notify_callback(request, mode)
    except WebSocketsError as exc:
        raise WebSocketsError(
            f"{method.title}(): {exc}. For methods that return None, use get(…, notify=True), "
            "which does not wait"
        ) from None
    check_answered(request, status, method.title)
    if mode is not wscBlockWithAnswer and status == 200:
        return None, 0
    content = request.out_content
    assert isinstance(content, bytes)
    if method.custom is ServiceCustomAnswer:
        kind = request.out_content_type
        if content in (b"", NO_CONTENT) and kind == JSON_TYPE:
            content, kind = b"", ""
        return ServiceCustomAnswer(content, kind, status, request.out_custom_headers), 0
    if not 200 <= status < 300 and method.custom is not ServiceCustomStatus:
        raise error_of(content, status)
    try:
        result, number = method.read_answer(content)
    except ValueError as exc:
        if not 200 <= status < 300:
            raise error_of(content, status) from None
        raise ServiceError(f"{method.title}(): the answer cannot be read: {exc}", status) from None
    return (ServiceCustomStatus(result) if method.custom is ServiceCustomStatus else result), number
