"""The exceptions that mormot_ws raises, and what each one carries.

::

    Exception
     └─ WebSocketsError              misuse, or a state in which the call makes no sense   (Pascal: EWebSockets)
         ├─ WebSocketsProtocolError  the peer broke RFC 6455; ``code`` is the close code it deserves
         └─ HttpServerError          the server could not bind its port                    (Pascal: EHttpServer)

Network failures are not exceptions here: the functions that meet them document what they return instead.
Nothing but exception classes belongs in this module.
"""

from __future__ import annotations


class WebSocketsError(Exception):
    """Base of all errors of this library; mirrors ``EWebSockets``."""


class WebSocketsProtocolError(WebSocketsError):
    """The peer sent bytes that RFC 6455 forbids (a *remote* fault).

    It is stored by :class:`~mormot_ws.WebProcessInFrame` and turned into a close frame by the process; it is
    raised only by the pure functions that decode a single value.
    """

    def __init__(self, code: int, reason: str) -> None:
        """Remember the close *code* (1002, 1007, 1009, …) and the *reason* (a short text for the close frame)."""
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class HttpServerError(WebSocketsError):
    """The server could not listen on the address that it was given; mirrors ``EHttpServer``."""
