"""The exceptions that mormot_ws raises, and what each one carries.

::

    Exception
     └─ WebSocketsError                 misuse, or the state does not allow the call
         ├─ WebSocketsProtocolError     the peer broke RFC 6455; ``code`` is the close code
         ├─ HttpServerError             the server could not bind its port
         ├─ GaveUp                      the policy of a ``connect()`` wants no further attempt
         ├─ ConnectionClosed            ``close()`` was called (also a ``ConnectionError``)
         ├─ CallError                   the method called with ``call()`` raised an error
         ├─ HubError                    a hub of topics did not do what it was asked for
         │   ├─ HubUnavailable          … because it is away (also a ``ConnectionError``)
         │   ├─ HubFull                 … because it has no room for it
         │   └─ HubRefused              … because it must not, or cannot
         └─ ServiceError                the other side answered a call with an error
             ├─ ServiceTimeoutError     … or did not answer in time (also a ``TimeoutError``)
             └─ ServiceConnectionError  … or is not connected (also a ``ConnectionError``)

Network failures raise no exception, except in calls of services and of hubs. Each function that can
meet one documents what it returns instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reconnect_policies import ReconnectFailure


class WebSocketsError(Exception):
    """Base class of this library's errors; mirrors ``EWebSockets``."""


class WebSocketsProtocolError(WebSocketsError):
    """The peer sent bytes that RFC 6455 forbids.

    :class:`~mormot_ws.WebProcessInFrame` stores it, and the connection answers it with a close
    frame. Only the functions that decode a single value raise it.
    """

    def __init__(self, code: int, reason: str) -> None:
        """Store the close *code* (1002, 1007, …) and the *reason*, a short text for the peer."""
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class HttpServerError(WebSocketsError):
    """The server could not listen on its address; mirrors ``EHttpServer``."""


class GaveUp(WebSocketsError):
    """A :class:`~mormot_ws.Connection` will not come back: its policy has given up.

    By default at the statuses 401, 403 and 404, and when a certificate is not accepted. Its
    ``__cause__`` is the exception that the last attempt has failed with.

    :param failure: what the policy was told.
    """

    def __init__(self, failure: ReconnectFailure) -> None:
        tried = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
        super().__init__(f"gave up{tried}: {failure.text}")
        #: the last failure
        self.failure = failure
        #: the HTTP status that refused the connection; 0: it did not come to that
        self.status: int = failure.http_status
        self.__cause__ = failure.exception

    def __reduce__(self) -> tuple[type[GaveUp], tuple[ReconnectFailure]]:
        return type(self), (self.failure,)


class ConnectionClosed(WebSocketsError, ConnectionError):
    """There is no connection to send to or to receive from any more: ``close()`` was called, or,
    for a ``call()`` that waits for its answer, the connection was lost.
    """


class CallError(WebSocketsError):
    """A method of a :class:`~mormot_ws.Server` answered a call with an error.

    A method raises it to choose the error of its answer; the caller gets it with the same values.
    Any other exception of a method reaches the caller as a ``CallError`` too.

    :param text: a message for the caller.
    :param code: any number that tells errors apart. The library's own are negative: -32601 no such
        method, -32602 wrong arguments, -32000 the method raised another exception.
    """

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class HubError(WebSocketsError):
    """A :class:`~mormot_ws.Hub` did not do what it was asked for.

    :param text: why, in words, without the password of a URL.
    :param maybe_published: True when a publication may have been published nevertheless, because
        the hub was lost before it has answered.
    """

    def __init__(self, text: str, maybe_published: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.maybe_published = maybe_published

    def __reduce__(self) -> tuple[type[HubError], tuple[str, bool]]:
        return type(self), (self.text, self.maybe_published)


class HubUnavailable(HubError, ConnectionError):
    """The hub cannot be reached, does not let us in, has not answered in time, or was freed."""


class HubFull(HubError):
    """The hub has no room: Redis is out of memory, or there are too many topics."""


class HubRefused(HubError):
    """The hub answered that it must not or cannot do it: a user's rights, a read-only replica."""


class ServiceError(WebSocketsError):
    """A call of a service failed.

    A service raises it to choose the error of its answer; the caller gets it with the same values.

    :param text: a message for the caller. Of one that has come from the other side, ``str()`` shows
        control characters as escape sequences; the attribute ``text`` has it as it came.
    :param status: 400 to 599, like those of HTTP; 500 by default.
    """

    #: True when the service may have run the call; False only when it certainly did not
    maybe_executed = True

    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class ServiceTimeoutError(ServiceError, TimeoutError):
    """The other side did not answer in time.

    ``maybe_executed`` is False when the call was not even sent.
    """

    def __init__(self, text: str, status: int, maybe_executed: bool) -> None:
        super().__init__(text, status)
        self.maybe_executed = maybe_executed


class ServiceConnectionError(ServiceError, ConnectionError):
    """There is no connection, or it was lost before the answer came.

    ``maybe_executed`` is False when the call was not sent.
    """

    def __init__(self, text: str, status: int, maybe_executed: bool) -> None:
        super().__init__(text, status)
        self.maybe_executed = maybe_executed
