"""The exceptions that mormot_ws raises, and what each one carries.

::

    Exception
     └─ WebSocketsError                 misuse, or the state does not allow the call
         ├─ WebSocketsProtocolError     the peer broke RFC 6455; ``code`` is the close code
         ├─ HttpServerError             the server could not bind its port
         ├─ CallError                   the method that ``call()`` has called raised an error
         └─ ServiceError                the other side answered a call with an error
             ├─ ServiceTimeoutError     … or did not answer in time (also a ``TimeoutError``)
             └─ ServiceConnectionError  … or is not connected (also a ``ConnectionError``)

Network failures are not exceptions here, except in the calls of services: the functions that meet
them document what they return instead. Nothing but exception classes belongs in this module.
"""

from __future__ import annotations


class WebSocketsError(Exception):
    """Base of all errors of this library; mirrors ``EWebSockets``."""


class WebSocketsProtocolError(WebSocketsError):
    """The peer sent bytes that RFC 6455 forbids (a *remote* fault).

    It is stored by :class:`~mormot_ws.WebProcessInFrame` and turned into a close frame by the
    process; it is raised only by the pure functions that decode a single value.
    """

    def __init__(self, code: int, reason: str) -> None:
        """Remember the close *code* (1002, 1007, …) and the *reason*, a short text to send."""
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class HttpServerError(WebSocketsError):
    """The server could not listen on the address that it was given; mirrors ``EHttpServer``."""


class CallError(WebSocketsError):
    """A method of a :class:`~mormot_ws.Server` answered a call with an error.

    A method raises it to answer with an error of its own choice; the caller gets it with the same
    values. What else a method raises becomes one too.

    :param text: for the caller.
    :param code: any number that tells one error from another; the library's own are negative:
        -32601 no such method, -32602 wrong arguments, -32000 the method raised something else.
    """

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class ServiceError(WebSocketsError):
    """A call of a service failed.

    A service raises it to answer with an error of its own choice; the caller gets it with the same
    values.

    :param text: for the caller.
    :param status: 400 to 599, like those of HTTP; 500 by default.
    """

    #: whether the service may have done what it was asked to: always, unless the call surely did
    #: not reach it
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
