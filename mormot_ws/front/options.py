"""The arguments of ``connect()``, checked immediately, and converted to what the underlying classes
expect. No connection is made here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ..callbacks import check_callback
from ..client.arguments import check_upgrade_arguments, parse_websocket_uri
from ..core.addresses import is_unix
from ..core.deflate import PermessageDeflate
from ..core.handshake import is_token
from ..core.names import wire_host
from ..logs import shown_uri
from ..reconnect_policies import ExponentialBackoff, ReconnectPolicy, StopOn, check_policy
from ..settings import LONGEST_MS, WebSocketProcessSettings
from .defaults import front_settings
from .inbox import Inbox, Overflow

#: the longest wait between two attempts, in milliseconds, by default: shorter than the time that a
#: ``call()`` waits for the connection, so that it always sees an attempt
_LONGEST_WAIT_MS = 4_000
#: used as the host until a function has returned it
_UNKNOWN_HOST = "uri()"


class Target:
    """The server that *uri*, a text or a function, leads to.

    Raises ``ValueError``/``TypeError`` for invalid arguments.
    """

    def __init__(self, uri: object, tls: object, tls_server_name: object) -> None:
        #: the resource of the upgrade, or a function that returns the whole URI
        self.resource: str | Callable[[], str]
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise TypeError(f"tls must be an ssl.SSLContext or None, not {type(tls).__name__}")
        if callable(uri):
            check_callback(uri, "uri")
            self.resource = partial(_called_uri, uri)
            self.shown = self.host = _UNKNOWN_HOST
            self.port, self.tls = 443, True
            return
        if not isinstance(uri, str):
            raise TypeError(f"uri must be a str or a function, not {type(uri).__name__}")
        #: the URI in a form that is safe to show
        self.shown = shown_uri(uri)
        self.host, self.port, resource, self.tls = parse_websocket_uri(uri)
        if not is_unix(self.host) and not 0 < self.port < 65536:
            raise ValueError(f"port must be a number from 1 to 65535, not {self.port}")
        labels = wire_host(self.host).split(".")
        if ":" not in self.host and not all(0 < len(label) < 64 for label in labels):
            raise ValueError(f"{self.host!r} is not a host name: each part has 1 to 63 characters")
        check_upgrade_arguments(resource, "", None, "")
        self.resource = resource
        for name, value in (("tls", tls), ("tls_server_name", tls_server_name)):
            if value is not None and not self.tls:
                raise ValueError(f"{name} requires wss://, but this URI begins with ws://")


def _called_uri(function: Callable[[], object]) -> str:
    """Return the result of *function*, if it is a whole URI."""
    uri = function()
    if not isinstance(uri, str):
        raise TypeError(f"the function for the URI must return a str, not {type(uri).__name__}")
    parse_websocket_uri(uri)
    return uri


def sub_protocols(protocol: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(protocol, str):
        return (protocol,) if protocol else ()
    if not isinstance(protocol, Sequence) or isinstance(protocol, (bytes, bytearray)):
        raise TypeError(
            f"protocol must be a name or a list of names, not {type(protocol).__name__}: "
            "connect() needs no protocol object"
        )
    for name in protocol:
        if not isinstance(name, str):
            raise TypeError(f"the names of sub-protocols must be str, not {type(name).__name__}")
    return tuple(protocol)


def seconds(name: str, value: object, zero: bool = False) -> float:
    """Return *value* if it is a number of seconds above 0, or 0 where *zero* is allowed."""
    # the usual types first: recv() calls this for each message
    if (type(value) is float or type(value) is int) and 0 < value < 1e6:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (value >= 0 if zero else value > 0) or value > LONGEST_MS / 1000:
        raise ValueError(f"{name} must be a number of seconds above 0, up to a year, not {value!r}")
    return float(value)


def new_inbox(most: object, overflow: Overflow) -> Inbox:
    if type(most) is not int or most < 1:
        raise ValueError(f"inbox must be a number of messages, at least 1, not {most!r}")
    if overflow not in ("wait", "drop_oldest", "close"):
        raise ValueError(f"overflow must be 'wait', 'drop_oldest' or 'close', not {overflow!r}")
    return Inbox(most, overflow)


def settings_of(
    settings: WebSocketProcessSettings | None, compression: bool | PermessageDeflate | None
) -> WebSocketProcessSettings:
    settings = front_settings(settings)
    if not settings.client_auto_upgrade:
        raise ValueError("connect() always reconnects: client_auto_upgrade=False is not allowed")
    if compression is not None:
        settings = replace(settings, permessage_deflate=compression)
    return settings


def policy_of(
    policy: ReconnectPolicy | None, settings: WebSocketProcessSettings
) -> ReconnectPolicy:
    if policy is None:
        if settings.reconnect_policy is not WebSocketProcessSettings().reconnect_policy:
            return settings.reconnect_policy()
        return StopOn(ExponentialBackoff(cap_ms=_LONGEST_WAIT_MS), close_codes=())
    check_policy("policy", policy)
    return policy


def header_lines(
    headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None,
) -> str | Callable[[], str]:
    """Return *headers* as lines, or as a function that returns them. Raise an error if they
    are invalid.
    """
    if headers is None:
        return ""
    if callable(headers):
        check_callback(headers, "headers")
        return partial(_called_lines, headers)
    lines = _lines(headers)
    check_upgrade_arguments("", "", None, lines)
    return lines


def _called_lines(function: Callable[[], object]) -> str:
    return _lines(function())


def _lines(headers: object) -> str:
    if not isinstance(headers, Mapping):
        raise TypeError(
            "headers must be a dictionary, or a function that returns one, not"
            f" {type(headers).__name__}"
        )
    for name, value in headers.items():
        if not isinstance(name, str) or not is_token(name):
            raise ValueError(f"{name!r} is not the name of a header")
        if not isinstance(value, str):
            raise TypeError(f"the header {name!r} must be a str, not {type(value).__name__}")
        if any(c in "\r\n\0" for c in value):
            # without the value, which may be a token
            raise ValueError(f"the value of the header {name!r} contains a line break")
    return "\r\n".join(f"{name}: {value}" for name, value in headers.items())
