"""WebSocketProcessSettings: everything that can be tuned, with units and defaults.

A server or client shares one settings object with all its connections. A connection reads most
values when it starts, so change settings before connecting. The object is plain data: it only
checks and resets values.
"""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from enum import Flag
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .callbacks import Ignored, check_callback
from .core.addresses import UNIX_PEER
from .core.deflate import PermessageDeflate
from .core.handshake import is_token

if TYPE_CHECKING:
    from .process.process import WebSocketProcess
    from .reconnect_policies import ReconnectPolicy

#: a path as it stands in a request, without a query
_PATH = re.compile(r"/[!-\"$->@-~]*")
#: the default time in milliseconds that a request of a REST protocol waits for its answer
DEFAULT_ANSWER_TIMEOUT_MS = 30_000
#: the shortest time in milliseconds that a request of a REST protocol waits for its answer
LEAST_ANSWER_TIMEOUT_MS = 2_000
#: the longest time in milliseconds that a setting allows: a year
LONGEST_MS = 366 * 24 * 3_600_000
#: a time-out below this many milliseconds was probably meant in seconds
_SUSPICIOUS_MS = 100


class WebSocketProcessSettingsLogDetails(Flag):
    """What is logged frame by frame, at DEBUG; mirrors ``TWebSocketProcessSettings.LogDetails``."""

    logHeartbeat = 1  # ping and pong frames
    logTextFrameContent = 2  # the content of text frames
    logBinaryFrameContent = 4  # the content of binary frames


logHeartbeat = WebSocketProcessSettingsLogDetails.logHeartbeat
logTextFrameContent = WebSocketProcessSettingsLogDetails.logTextFrameContent
logBinaryFrameContent = WebSocketProcessSettingsLogDetails.logBinaryFrameContent


class MillisecondsWarning(UserWarning):
    """A time-out is so short that seconds were probably meant; all times are in milliseconds."""


def warn_if_seconds(name: str, value: float) -> None:
    """Warn the caller when *value*, for the time-out *name*, looks like seconds."""
    if not 0 < value < _SUSPICIOUS_MS:
        return
    level = 1
    frame = sys._getframe()
    while frame.f_globals.get("__name__", "").startswith("mormot_ws"):
        if frame.f_back is None:
            return  # called only by our own command line
        frame = frame.f_back
        level += 1
    warnings.warn(
        f"{name}={value!r} means {value!r} milliseconds; for {value!r} seconds write "
        f"{name}={round(value * 1000)}",
        MillisecondsWarning,
        stacklevel=level,
    )


def check_timeout(name: str, value: object) -> None:
    """Raise ``ValueError`` unless *value* is a number of milliseconds above 0, up to a year.

    Warns like :func:`warn_if_seconds`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{name} must be a number of milliseconds above 0, not {value!r}")
    if value > LONGEST_MS:
        raise ValueError(f"{name} must be at most {LONGEST_MS} milliseconds, a year, not {value}")
    warn_if_seconds(name, value)


# -------------------------------------------------------------------------------- checks of values

#: takes the name of a setting and a value; raises ``ValueError`` for one that makes no sense
_Check = Callable[[str, Any], None]


def _whole(least: int = 0, most: int | None = None, warn: bool = False) -> dict[str, _Check]:
    def check(name: str, value: Any) -> None:
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be a whole number, at least {least}, not {value!r}")
        if most is not None and value > most:
            raise ValueError(f"{name} must be at most {most}, not {value}")
        if warn:
            warn_if_seconds(name, value)

    return {"check": check}


def _is_one_of(*words: str) -> dict[str, _Check]:
    def check(name: str, value: Any) -> None:
        if value not in words:
            raise ValueError(f"{name} must be {' or '.join(map(repr, words))}, not {value!r}")

    return {"check": check}


def _is_flag(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise ValueError(f"{name} must be True or False, not {value!r}")


def _is_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        # the text may be a secret from which keys are derived: the message does not show it
        raise ValueError(f"{name} must be a str, not {type(value).__name__}")


def _is_event(name: str, value: Any) -> None:
    if value is None:
        return
    if not callable(value):
        raise ValueError(f"{name} must be a callable or None, not {value!r}")
    check_callback(value, name, "process")


def _is_factory(name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{name} must be a callable that makes a policy, not {value!r}")
    check_callback(value, name)


def _is_log_details(name: str, value: Any) -> None:
    if not isinstance(value, WebSocketProcessSettingsLogDetails):
        raise ValueError(f"{name} must be a WebSocketProcessSettingsLogDetails, not {value!r}")


def _is_deflate(name: str, value: Any) -> None:
    if not isinstance(value, (bool, PermessageDeflate)):
        raise ValueError(f"{name} must be True, False or a PermessageDeflate, not {value!r}")


def _is_collection(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes))


def _are_origins(name: str, value: Any) -> None:
    if value is not None and not _is_collection(value):
        raise ValueError(f"{name} must be a set of origins or None, not {value!r}")
    if not all(map(is_origin, value or ())):
        raise ValueError(
            "an origin looks like 'https://example.com' or 'http://localhost:8000', without a path "
            f"or a slash at its end, or is 'null'; not all of these are origins: {value!r}"
        )


def _are_hosts(name: str, value: Any) -> None:
    if value is not None and not _is_collection(value):
        raise ValueError(f"{name} must be a set of host names or None, not {value!r}")
    if not all(isinstance(host, str) and _is_host(host) for host in value or ()):
        raise ValueError(
            "a host looks like 'example.com', 'localhost:8000' or '[::1]', without a scheme or a "
            f"path; not all of these are hosts: {value!r}"
        )


def _are_networks(name: str, value: Any) -> None:
    from ipaddress import ip_network

    if not _is_collection(value):
        raise ValueError(f"{name} must be a set of addresses and networks, not {value!r}")
    for network in value:
        try:
            if not isinstance(network, str):
                raise ValueError
            if network != UNIX_PEER:
                ip_network(network, strict=False)
        except ValueError:
            raise ValueError(
                f"{name} has addresses like '127.0.0.1', networks like '10.0.0.0/8' or "
                f"'fd00::/8', and 'unix:', not {network!r}"
            ) from None


def _is_path(name: str, value: Any) -> None:
    if not isinstance(value, str) or (value and not _PATH.fullmatch(value)):
        raise ValueError(f"{name} must be a path like '/health', or '', not {value!r}")


def _is_header_name(name: str, value: Any) -> None:
    if not isinstance(value, str) or (value and not is_token(value)):
        raise ValueError(
            f"{name} must be the name of a header, like 'X-Real-IP', or '', not {value!r}"
        )


# a time in milliseconds: from 0, or from 1 where 0 would refuse everything
_MS = _whole(most=LONGEST_MS)
# the same for times that nobody would set below a tenth of a second on purpose
_LONG_MS = _whole(most=LONGEST_MS, warn=True)
_LONG_MS_FROM_1 = _whole(1, LONGEST_MS, warn=True)
_NUMBER = _whole()
_NUMBER_FROM_1 = _whole(1)
# up to a terabyte: more was meant in bytes
_MEGABYTES = _whole(1, 1 << 20)
_FLAG: dict[str, _Check] = {"check": _is_flag}
_EVENT: dict[str, _Check] = {"check": _is_event}


def _default_policy() -> ReconnectPolicy:
    from .reconnect_policies import ExponentialBackoff

    return ExponentialBackoff()


@dataclass(kw_only=True, eq=False, repr=False)
class WebSocketProcessSettings:
    """Settings of all connections of one server or client; mirrors ``TWebSocketProcessSettings``.

    The constructor takes any of the attributes by keyword; an unknown name is a ``TypeError``, a
    bad value is a ``ValueError``. Assigning to an unknown name is an ``AttributeError``. A time-out
    that looks like seconds causes a :class:`MillisecondsWarning`.
    """

    # --- settings of the original, with its names and units

    #: milliseconds without a received byte after which a ping is sent; 0: never. The original's
    #: default is 20 000 on a server and 0 on a client
    heartbeat_delay: int = field(default=20_000, metadata=_LONG_MS)
    #: milliseconds; kept for ported code, and not used: the original's loop polls, ours wakes at
    #: once
    loop_delay: int = field(default=500, metadata=_MS)
    #: milliseconds for which frames of ``send_frame_async`` are gathered after a write, to be sent
    #: together
    send_delay: int = field(default=10, metadata=_MS)
    #: heartbeats in a row that may remain unsent or unanswered before the connection is closed; 0:
    #: any number
    disconnect_after_invalid_heartbeat_count: int = field(default=5, metadata=_NUMBER)
    #: milliseconds; kept for ported code, and not used, as in the original: a request waits for its
    #: turn as long as for its answer
    callback_acquire_timeout_ms: int = field(default=5_000, metadata=_MS)
    #: milliseconds that a request waits for its answer (REST protocols). 0 means 30 000; other
    #: values below 2 000 mean 2 000. A client whose setting is 30 000 uses the ``timeout`` of its
    #: constructor instead, as in the original
    callback_answer_timeout_ms: int = field(default=DEFAULT_ANSWER_TIMEOUT_MS, metadata=_MS)
    #: ``f(process)``, called in the connection's thread before its first frame; an exception aborts
    #: the connection
    on_client_connected: Callable[[WebSocketProcess], Ignored] | None = field(
        default=None, metadata=_EVENT
    )
    #: ``f(process)``, called in the connection's thread after its last frame
    on_client_disconnected: Callable[[WebSocketProcess], Ignored] | None = field(
        default=None, metadata=_EVENT
    )
    #: False: the client thread does not reconnect, even when ``on_reconnect`` is set
    client_auto_upgrade: bool = field(default=True, metadata=_FLAG)
    #: kept for ported code: ask a REST server to move callbacks to the new connection
    client_restore_callbacks: bool = field(default=False, metadata=_FLAG)
    #: how an AES key is derived from the key of a binary REST protocol: salt, rounds, and size in
    #: bits (128, 192 or 256); both ends need the same values
    aes_salt: str = field(
        default="E750ACCA-2C6F-4B0E-999B-D31C9A14EFAB", metadata={"check": _is_text}
    )
    aes_rounds: int = field(default=1_024, metadata=_NUMBER)
    aes_bits: int = field(default=128, metadata=_NUMBER)
    #: what is logged frame by frame
    log_details: WebSocketProcessSettingsLogDetails = field(
        default=WebSocketProcessSettingsLogDetails(0), metadata={"check": _is_log_details}
    )
    #: deliver ping and pong frames to the protocol too (the original's ``NotifyAllFrames``)
    notify_all_frames: bool = field(default=False, metadata=_FLAG)
    #: megabytes; a frame that announces more is refused with 1009 (the original's global
    #: ``WebSocketsMaxFrameMB``)
    max_frame_mb: int = field(default=256, metadata=_MEGABYTES)

    # --- settings that the original does not have

    #: what ``free()`` does in a callback of the same connection: ``'freeze'``, like the original,
    #: or ``'raise'``
    free_in_callback: Literal["freeze", "raise"] = field(
        default="freeze", metadata=_is_one_of("freeze", "raise")
    )
    #: bytes; a longer message (joined and inflated) is refused with 1009
    max_message_bytes: int = field(default=16 << 20, metadata=_NUMBER_FROM_1)
    #: frames; a message of more is refused with 1008
    max_fragments: int = field(default=1 << 20, metadata=_NUMBER_FROM_1)
    #: bytes of an HTTP head (request or answer); more is refused
    max_header_bytes: int = field(default=16 << 10, metadata=_NUMBER_FROM_1)
    #: bytes of the body of a plain HTTP request; more is refused with 413
    max_body_bytes: int = field(default=16 << 20, metadata=_NUMBER)
    #: bytes of the body of an HTTP answer that a client accepts; more fails the request
    max_answer_bytes: int = field(default=64 << 20, metadata=_NUMBER_FROM_1)
    #: milliseconds that a new connection may take for its HTTP request and its handshake
    handshake_timeout: int = field(default=10_000, metadata=_LONG_MS_FROM_1)
    #: milliseconds that a keep-alive HTTP connection may stay idle between two requests
    keep_alive_timeout: int = field(default=30_000, metadata=_LONG_MS)
    #: milliseconds that a write may wait for a peer that takes no byte at all
    send_timeout: int = field(default=10_000, metadata=_LONG_MS_FROM_1)
    #: milliseconds to wait for the peer's close frame, and then for the end of the TCP connection
    close_timeout: int = field(default=1_000, metadata=_LONG_MS_FROM_1)
    #: milliseconds that a client waits for a host name to be resolved
    resolve_timeout: int = field(default=5_000, metadata=_LONG_MS_FROM_1)
    #: bytes that may wait in ``outgoing`` of one connection before ``send_frame_async`` refuses
    max_outgoing_bytes: int = field(default=16 << 20, metadata=_NUMBER)
    #: frames that may wait in ``outgoing`` of one connection before ``send_frame_async`` refuses
    max_outgoing_frames: int = field(default=100_000, metadata=_NUMBER)
    #: what happens to a new frame when ``outgoing`` is full: ``'refuse'`` it, ``'drop_oldest'``
    #: frames to make room, or ``'close'`` the connection (1008)
    outgoing_policy: Literal["refuse", "drop_oldest", "close"] = field(
        default="refuse", metadata=_is_one_of("refuse", "drop_oldest", "close")
    )
    #: connections that a server serves at a time; further ones are turned away at once with 503; 0:
    #: any number
    max_connections: int = field(default=0, metadata=_NUMBER)
    #: the same for one IP address
    max_connections_per_ip: int = field(default=0, metadata=_NUMBER)
    #: threads of an event-driven server: so many callbacks can wait or compute at the same time;
    #: then the other connections wait until one returns
    max_server_threads: int = field(default=256, metadata=_NUMBER_FROM_1)
    #: pings that a peer may send in a second; more close its connection with 1008; 0: any number
    max_pings_per_second: int = field(default=1_000, metadata=_NUMBER)
    #: messages per minute that an address may send to a server of a REST protocol although they
    #: cannot be read with its key; after more its upgrades are refused with 406 for a while; 0: any
    #: number
    max_key_faults_per_minute: int = field(default=10, metadata=_NUMBER)
    #: the origins whose pages may connect, e.g. ``{'https://example.com'}``; others are refused
    #: with 403; None: any. A request without an ``Origin`` does not come from a browser, and is
    #: accepted
    allowed_origins: Collection[str] | None = field(default=None, metadata={"check": _are_origins})
    #: the values that the ``Host`` of a request may have, e.g. ``{'example.com',
    #: 'localhost:8000'}``; a name without a port allows any port; others are refused with 403;
    #: None: any. This stops a page of another site whose name resolves to this server (DNS
    #: rebinding)
    allowed_hosts: Collection[str] | None = field(default=None, metadata={"check": _are_hosts})
    #: the header in which a reverse proxy passes on the client's address, e.g. ``'X-Real-IP'``;
    #: read only on connections from *trusted_proxies*; '': none. The original's ``RemoteIPHeader``
    remote_ip_header: str = field(default="", metadata={"check": _is_header_name})
    #: addresses and networks of the reverse proxies whose *remote_ip_header* is believed, e.g.
    #: ``{'127.0.0.1', '10.0.0.0/8'}``; ``'unix:'``: who connects over a Unix socket
    trusted_proxies: Collection[str] = field(default=(), metadata={"check": _are_networks})
    #: addresses and networks of the load balancers whose connections begin with a header of the
    #: PROXY protocol, version 1 or 2, which has the client's address. Without a good header theirs
    #: are closed; who connects from elsewhere sends none
    proxy_protocol_from: Collection[str] = field(default=(), metadata={"check": _are_networks})
    #: the path of health checks, e.g. ``'/health'``: a plain HTTP request for it is answered with
    #: 200, or 503 when visitors should go elsewhere; also without TLS on a port with TLS; '': none
    health_path: str = field(default="", metadata={"check": _is_path})
    #: True, or a :class:`PermessageDeflate`: negotiate compression (RFC 7692); False: never
    permessage_deflate: bool | PermessageDeflate = field(
        default=False, metadata={"check": _is_deflate}
    )
    #: milliseconds after which a client's connection counts as stable: the waits after its loss
    #: start from the shortest again
    reconnect_stable_after: int = field(default=5_000, metadata=_MS)
    #: returns a new policy, which decides the waits between a client's attempts; called once per
    #: client thread
    reconnect_policy: Callable[[], ReconnectPolicy] = field(
        default=_default_policy, metadata={"check": _is_factory}
    )

    _DEFAULTS: ClassVar[dict[str, Any]]
    _CHECKS: ClassVar[dict[str, _Check]]

    def set_defaults(self) -> None:
        """Give every setting its default value; mirrors ``SetDefaults``."""
        for name, value in self._DEFAULTS.items():
            setattr(self, name, value)

    def set_full_log(self) -> WebSocketProcessSettings:
        """Log all frames with their contents; return the settings; mirrors ``SetFullLog``."""
        self.log_details = logHeartbeat | logTextFrameContent | logBinaryFrameContent
        return self

    def deflate_options(self) -> PermessageDeflate:
        """Return the options of permessage-deflate; the defaults when the setting is True."""
        options = self.permessage_deflate
        return options if isinstance(options, PermessageDeflate) else PermessageDeflate()

    # a type checker that saw this method would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            check = self._CHECKS.get(name)
            if check is None:
                raise AttributeError(_unknown(name))
            check(name, value)
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        changed = ", ".join(
            # keys are derived from the salt: it is not logged
            f"{name}={'…' if name == 'aes_salt' else repr(getattr(self, name))}"
            for name, default in self._DEFAULTS.items()
            if getattr(self, name) != default
        )
        return f"WebSocketProcessSettings({changed})"


def checked_settings(settings: WebSocketProcessSettings | None) -> WebSocketProcessSettings:
    """Return *settings*, or new ones for None; raise ``TypeError`` for anything else."""
    if settings is None:
        return WebSocketProcessSettings()
    check_settings("settings", settings)
    return settings


def check_settings(name: str, settings: object) -> None:
    """Raise ``TypeError`` for what is not an object of settings."""
    if not isinstance(settings, WebSocketProcessSettings):
        raise TypeError(
            f"{name} must be WebSocketProcessSettings(name=value, …), not {type(settings).__name__}"
        )


_FIELDS = fields(WebSocketProcessSettings)
WebSocketProcessSettings._DEFAULTS = {item.name: item.default for item in _FIELDS}
WebSocketProcessSettings._CHECKS = {item.name: item.metadata["check"] for item in _FIELDS}


def _unknown(name: str) -> str:
    # imported only after a mistyped name
    from difflib import get_close_matches

    like = get_close_matches(name, WebSocketProcessSettings._DEFAULTS, 1)
    return f"there is no setting {name!r}" + (f"; did you mean {like[0]!r}?" if like else "")


def _with_suggestions(init: Callable[..., None]) -> Callable[..., None]:
    """Return *init* with better errors: an unknown keyword names the setting probably meant."""

    @functools.wraps(init)
    def __init__(self: WebSocketProcessSettings, *unnamed: Any, **values: Any) -> None:
        if unnamed:
            raise TypeError(
                "settings are given by name, as in WebSocketProcessSettings(heartbeat_delay=5000)"
            )
        for name in values.keys() - WebSocketProcessSettings._DEFAULTS.keys():
            raise TypeError(_unknown(name))
        init(self, **values)

    return __init__


#: what is said of settings that are given to a client or a server itself
AS_KEYWORDS = {
    name: f"it is a setting: give settings=WebSocketProcessSettings({name}=…)"
    for name in WebSocketProcessSettings._DEFAULTS
}

if not TYPE_CHECKING:
    WebSocketProcessSettings.__init__ = _with_suggestions(WebSocketProcessSettings.__init__)


def is_origin(text: object) -> bool:
    """Return whether *text* is an ``Origin`` as browsers send it; other texts would never match."""
    if not isinstance(text, str):
        return False
    scheme, mark, host = text.partition("://")
    return text == "null" or bool(scheme and mark and _is_host(host))


def _is_host(text: str) -> bool:
    return bool(text) and not any(c <= " " or c in "/?#@" for c in text)
