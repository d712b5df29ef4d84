"""The exceptions that mormot_ws raises, and what each one carries.

::

    Exception
     └─ WebSocketsError                 misuse, or the state does not allow the call
         ├─ WebSocketsProtocolError     the peer violated RFC 6455; ``code`` is the close code
         ├─ HttpServerError             the server could not listen on its address
         ├─ GaveUp                      the policy of a ``connect()`` allows no further attempt
         ├─ ConnectionClosed            ``close()`` was called (also a ``ConnectionError``)
         ├─ CallError                   the method called with ``call()`` raised an error
         ├─ HubError                    a hub of topics could not carry out an operation
         │   ├─ HubUnavailable          … because it is unreachable (also a ``ConnectionError``)
         │   ├─ HubFull                 … because it is full
         │   └─ HubRefused              … because the operation is not permitted or not possible
         └─ ServiceError                the other side answered a call with an error
             ├─ ServiceTimeoutError     … or did not answer in time (also a ``TimeoutError``)
             └─ ServiceConnectionError  … or is not connected (also a ``ConnectionError``)

Network failures do not raise exceptions, except in calls of services and hubs. Each function that
can encounter one documents what it returns instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reconnect_policies import ReconnectFailure


class WebSocketsError(Exception):
    """Base class of all errors of this library; mirrors ``EWebSockets``."""


class WebSocketsProtocolError(WebSocketsError):
    """The peer sent bytes that RFC 6455 forbids.

    :class:`~mormot_ws.WebProcessInFrame` stores it, and the connection answers with a close frame.
    Only the functions that decode a single value raise it.
    """

    def __init__(self, code: int, reason: str) -> None:
        """Store the close *code* (1002, 1007, …) and the *reason*, a short text for the peer."""
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class HttpServerError(WebSocketsError):
    """The server could not listen on its address; mirrors ``EHttpServer``."""


class GaveUp(WebSocketsError):
    """A :class:`~mormot_ws.Connection` will not come back, because its policy gave up.

    By default this happens on the statuses 401, 403 and 404, and when a certificate is rejected.
    ``__cause__`` is the exception of the last attempt.

    :param failure: what was reported to the policy.
    """

    def __init__(self, failure: ReconnectFailure) -> None:
        tried = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
        super().__init__(f"gave up{tried}: {failure.text}")
        #: the last failure
        self.failure = failure
        #: the HTTP status that refused the connection; 0: there was no HTTP answer
        self.status: int = failure.http_status
        self.__cause__ = failure.exception

    def __reduce__(self) -> tuple[type[GaveUp], tuple[ReconnectFailure]]:
        return type(self), (self.failure,)


class ConnectionClosed(WebSocketsError, ConnectionError):
    """The connection is gone, so nothing can be sent or received: ``close()`` was called, or the
    connection was lost while a ``call()`` waited for its answer.
    """


class CallError(WebSocketsError):
    """A method of a :class:`~mormot_ws.Server` answered a call with an error.

    Raise it in a method to choose the error of the answer; the caller gets the same values. Any
    other exception in a method also reaches the caller as a ``CallError``.

    :param text: a message for the caller.
    :param code: any number that identifies the error. The library's own codes are negative: -32601
        no such method, -32602 wrong arguments, -32000 the method raised another exception.
    """

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class HubError(WebSocketsError):
    """A :class:`~mormot_ws.Hub` could not carry out an operation.

    :param text: the reason, without the password of a URL.
    :param maybe_published: True if the publication may have been published nevertheless, because
        the connection to the hub was lost before it answered.
    """

    def __init__(self, text: str, maybe_published: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.maybe_published = maybe_published

    def __reduce__(self) -> tuple[type[HubError], tuple[str, bool]]:
        return type(self), (self.text, self.maybe_published)


class HubUnavailable(HubError, ConnectionError):
    """The hub is unreachable, rejects the login, did not answer in time, or was freed."""


class HubFull(HubError):
    """The hub is full: Redis is out of memory, or there are too many topics."""


class HubRefused(HubError):
    """The hub refused the operation: missing permissions, or a read-only replica."""


class ServiceError(WebSocketsError):
    """A call of a service failed.

    Raise it in a service to choose the error of the answer; the caller gets the same values.

    :param text: a message for the caller. If it came from the other side, ``str()`` shows control
        characters as escape sequences; the attribute ``text`` has the original.
    :param status: 400 to 599, like HTTP statuses; 500 by default.
    """

    #: True if the service may have executed the call; False only if it certainly did not
    maybe_executed = True

    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class ServiceTimeoutError(ServiceError, TimeoutError):
    """The other side did not answer in time.

    ``maybe_executed`` is False if the call was not even sent.
    """

    def __init__(self, text: str, status: int, maybe_executed: bool) -> None:
        super().__init__(text, status)
        self.maybe_executed = maybe_executed


class ServiceConnectionError(ServiceError, ConnectionError):
    """There is no connection, or it was lost before the answer arrived.

    ``maybe_executed`` is False if the call was not sent.
    """

    def __init__(self, text: str, status: int, maybe_executed: bool) -> None:
        super().__init__(text, status)
        self.maybe_executed = maybe_executed
