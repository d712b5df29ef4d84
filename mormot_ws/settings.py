"""WebSocketProcessSettings: every setting of clients and servers, with units and defaults.

A server or client shares one settings object with all its connections. A connection reads most
values when it starts, so change settings before you connect. The object is plain data: it only
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

#: a path as it appears in a request, without a query
_PATH = re.compile(r"/[!-\"$->@-~]*")
#: the default time in milliseconds that a request of a REST protocol waits for its answer
DEFAULT_ANSWER_TIMEOUT_MS = 30_000
#: the shortest time in milliseconds that a request of a REST protocol waits for its answer
LEAST_ANSWER_TIMEOUT_MS = 2_000
#: the longest time in milliseconds that a setting allows: a year
LONGEST_MS = 366 * 24 * 3_600_000
#: a time-out below this many milliseconds was probably meant as seconds
_SUSPICIOUS_MS = 100
#: the options of permessage-deflate if the setting is only True
_DEFLATE = PermessageDeflate()


class WebSocketProcessSettingsLogDetails(Flag):
    """What is logged for each frame, at DEBUG; mirrors ``TWebSocketProcessSettings.LogDetails``."""

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

#: takes the name of a setting and a value; raises ``ValueError`` if the value is invalid
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
        raise ValueError(f"{name} must be a callable that returns a policy, not {value!r}")
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
# the same, for times that are below a tenth of a second only by mistake
_LONG_MS = _whole(most=LONGEST_MS, warn=True)
_LONG_MS_FROM_1 = _whole(1, LONGEST_MS, warn=True)
_NUMBER = _whole()
_NUMBER_FROM_1 = _whole(1)
# up to a terabyte: a larger number was meant as bytes
_MEGABYTES = _whole(1, 1 << 20)
_FLAG: dict[str, _Check] = {"check": _is_flag}
_EVENT: dict[str, _Check] = {"check": _is_event}


def _default_policy() -> ReconnectPolicy:
    from .reconnect_policies import ExponentialBackoff

    return ExponentialBackoff()


@dataclass(kw_only=True, eq=False, repr=False)
class WebSocketProcessSettings:
    """The settings of all connections of a server or client; mirrors ``TWebSocketProcessSettings``.

    Pass attributes to the constructor by keyword. An unknown name raises ``TypeError``, an invalid
    value ``ValueError``. Assigning to an unknown name raises ``AttributeError``. A time-out that
    looks like seconds issues a :class:`MillisecondsWarning`.
    """

    # --- settings of the original, with its names and units

    #: milliseconds without any received data before a ping is sent, up to 2 % (at most 250 ms)
    #: later, together with those of other connections; 0: never. The original's default is 20 000
    #: on a server and 0 on a client
    heartbeat_delay: int = field(default=20_000, metadata=_LONG_MS)
    #: milliseconds; kept for ported code, but not used: the original's loop polls, ours is woken
    #: immediately
    loop_delay: int = field(default=500, metadata=_MS)
    #: milliseconds after a write during which frames from ``send_frame_async`` are collected and
    #: then sent together
    send_delay: int = field(default=10, metadata=_MS)
    #: consecutive heartbeats that may stay unsent or unanswered before the connection is closed;
    #: 0: no limit
    disconnect_after_invalid_heartbeat_count: int = field(default=5, metadata=_NUMBER)
    #: milliseconds; kept for ported code, but not used, as in the original: a request waits for
    #: its turn as long as for its answer
    callback_acquire_timeout_ms: int = field(default=5_000, metadata=_MS)
    #: milliseconds to wait for the answer to a request (REST protocols). 0 means 30 000; other
    #: values below 2 000 mean 2 000. If a client's setting is 30 000, the ``timeout`` of its
    #: constructor applies instead, as in the original
    callback_answer_timeout_ms: int = field(default=DEFAULT_ANSWER_TIMEOUT_MS, metadata=_MS)
    #: ``f(process)``, called in the connection's thread before the first frame; an exception
    #: aborts the connection
    on_client_connected: Callable[[WebSocketProcess], Ignored] | None = field(
        default=None, metadata=_EVENT
    )
    #: ``f(process)``, called in the connection's thread after the last frame
    on_client_disconnected: Callable[[WebSocketProcess], Ignored] | None = field(
        default=None, metadata=_EVENT
    )
    #: False: the client thread does not reconnect, even if ``on_reconnect`` is set
    client_auto_upgrade: bool = field(default=True, metadata=_FLAG)
    #: kept for ported code: ask a REST server to move callbacks to the new connection
    client_restore_callbacks: bool = field(default=False, metadata=_FLAG)
    #: how the AES key is derived from the key of a binary REST protocol: salt, rounds, and key
    #: size in bits (128, 192 or 256); both ends need the same values
    aes_salt: str = field(
        default="E750ACCA-2C6F-4B0E-999B-D31C9A14EFAB", metadata={"check": _is_text}
    )
    aes_rounds: int = field(default=1_024, metadata=_NUMBER)
    aes_bits: int = field(default=128, metadata=_NUMBER)
    #: what is logged for each frame
    log_details: WebSocketProcessSettingsLogDetails = field(
        default=WebSocketProcessSettingsLogDetails(0), metadata={"check": _is_log_details}
    )
    #: also pass ping and pong frames to the protocol (the original's ``NotifyAllFrames``)
    notify_all_frames: bool = field(default=False, metadata=_FLAG)
    #: megabytes; a frame that announces a larger payload is refused with 1009 (the original's
    #: global ``WebSocketsMaxFrameMB``)
    max_frame_mb: int = field(default=256, metadata=_MEGABYTES)

    # --- settings that the original does not have

    #: what ``free()`` does in a callback of the same connection: ``'freeze'``, like the original,
    #: or ``'raise'``
    free_in_callback: Literal["freeze", "raise"] = field(
        default="freeze", metadata=_is_one_of("freeze", "raise")
    )
    #: bytes; a longer message (after joining and decompression) is refused with 1009
    max_message_bytes: int = field(default=16 << 20, metadata=_NUMBER_FROM_1)
    #: frames; a message with more fragments is refused with 1008
    max_fragments: int = field(default=1 << 20, metadata=_NUMBER_FROM_1)
    #: bytes; a longer HTTP head (of a request or an answer) is refused
    max_header_bytes: int = field(default=16 << 10, metadata=_NUMBER_FROM_1)
    #: bytes; a longer body of a plain HTTP request is refused with 413
    max_body_bytes: int = field(default=16 << 20, metadata=_NUMBER)
    #: bytes; a longer body of an HTTP answer makes the client's request fail
    max_answer_bytes: int = field(default=64 << 20, metadata=_NUMBER_FROM_1)
    #: milliseconds that a new connection may take for its HTTP request and its handshake
    handshake_timeout: int = field(default=10_000, metadata=_LONG_MS_FROM_1)
    #: milliseconds that a keep-alive HTTP connection may be idle between two requests
    keep_alive_timeout: int = field(default=30_000, metadata=_LONG_MS)
    #: milliseconds that a write may wait while the peer accepts no data at all
    send_timeout: int = field(default=10_000, metadata=_LONG_MS_FROM_1)
    #: milliseconds to wait for the peer's close frame, and then for the end of the TCP connection
    close_timeout: int = field(default=1_000, metadata=_LONG_MS_FROM_1)
    #: milliseconds that a client waits for name resolution
    resolve_timeout: int = field(default=5_000, metadata=_LONG_MS_FROM_1)
    #: bytes that may be queued in ``outgoing`` before ``send_frame_async`` refuses a frame
    max_outgoing_bytes: int = field(default=16 << 20, metadata=_NUMBER)
    #: frames that may be queued in ``outgoing`` before ``send_frame_async`` refuses a frame
    max_outgoing_frames: int = field(default=100_000, metadata=_NUMBER)
    #: what to do with a new frame when ``outgoing`` is full: ``'refuse'`` the frame,
    #: ``'drop_oldest'`` frames to make room, or ``'close'`` the connection (1008)
    outgoing_policy: Literal["refuse", "drop_oldest", "close"] = field(
        default="refuse", metadata=_is_one_of("refuse", "drop_oldest", "close")
    )
    #: connections that a server handles at a time; further connections get 503 immediately;
    #: 0: no limit
    max_connections: int = field(default=0, metadata=_NUMBER)
    #: the same for one IP address
    max_connections_per_ip: int = field(default=0, metadata=_NUMBER)
    #: threads of an event-driven server: this many callbacks can block or compute at the same
    #: time; while all of them are busy, the other connections wait
    max_server_threads: int = field(default=256, metadata=_NUMBER_FROM_1)
    #: pings that a peer may send per second; if it sends more, its connection is closed with 1008;
    #: 0: no limit
    max_pings_per_second: int = field(default=1_000, metadata=_NUMBER)
    #: messages per minute from one address that a server of a REST protocol cannot read with its
    #: key; above this, upgrades from the address are refused with 406 for a while; 0: no limit
    max_key_faults_per_minute: int = field(default=10, metadata=_NUMBER)
    #: the origins whose pages may connect, e.g. ``{'https://example.com'}``; others are refused
    #: with 403; None: any. A request without an ``Origin`` does not come from a browser and is
    #: accepted
    allowed_origins: Collection[str] | None = field(default=None, metadata={"check": _are_origins})
    #: the values that a request's ``Host`` may have, e.g. ``{'example.com', 'localhost:8000'}``;
    #: a name without a port allows any port; others are refused with 403; None: any. This
    #: protects against DNS rebinding, where a page of another site has a name that resolves to
    #: this server
    allowed_hosts: Collection[str] | None = field(default=None, metadata={"check": _are_hosts})
    #: the header in which a reverse proxy passes on the client's address, e.g. ``'X-Real-IP'``;
    #: read only on connections from *trusted_proxies*; '': none. The original's ``RemoteIPHeader``
    remote_ip_header: str = field(default="", metadata={"check": _is_header_name})
    #: addresses and networks of the reverse proxies whose *remote_ip_header* is trusted, e.g.
    #: ``{'127.0.0.1', '10.0.0.0/8'}``; ``'unix:'`` stands for clients on a Unix socket
    trusted_proxies: Collection[str] = field(default=(), metadata={"check": _are_networks})
    #: addresses and networks of the load balancers that start each connection with a PROXY
    #: protocol header, version 1 or 2, which contains the client's address. Their connections
    #: are closed if the header is missing or invalid. Other clients must not send one
    proxy_protocol_from: Collection[str] = field(default=(), metadata={"check": _are_networks})
    #: the path of health checks, e.g. ``'/health'``. A plain HTTP request for it gets 200, or 503
    #: when clients should connect elsewhere; also without TLS on a TLS port; '': none
    health_path: str = field(default="", metadata={"check": _is_path})
    #: True or a :class:`PermessageDeflate`: negotiate compression (RFC 7692); False: never
    permessage_deflate: bool | PermessageDeflate = field(
        default=False, metadata={"check": _is_deflate}
    )
    #: milliseconds after which a client's connection counts as stable; after it is lost, the
    #: waits then start from the shortest again
    reconnect_stable_after: int = field(default=5_000, metadata=_MS)
    #: returns a new policy, which determines the waits between a client's attempts; called once
    #: per client thread
    reconnect_policy: Callable[[], ReconnectPolicy] = field(
        default=_default_policy, metadata={"check": _is_factory}
    )

    _DEFAULTS: ClassVar[dict[str, Any]]
    _CHECKS: ClassVar[dict[str, _Check]]

    def set_defaults(self) -> None:
        """Reset every setting to its default value; mirrors ``SetDefaults``."""
        for name, value in self._DEFAULTS.items():
            setattr(self, name, value)

    def set_full_log(self) -> WebSocketProcessSettings:
        """Log all frames with their contents, and return the settings; mirrors ``SetFullLog``."""
        self.log_details = logHeartbeat | logTextFrameContent | logBinaryFrameContent
        return self

    def deflate_options(self) -> PermessageDeflate:
        """Return the permessage-deflate options; the defaults if the setting is True."""
        options = self.permessage_deflate
        return options if isinstance(options, PermessageDeflate) else _DEFLATE

    # if a type checker saw this method, it would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            check = self._CHECKS.get(name)
            if check is None:
                raise AttributeError(_unknown(name))
            check(name, value)
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        changed = ", ".join(
            # keys are derived from the salt, so it is not shown
            f"{name}={'…' if name == 'aes_salt' else repr(getattr(self, name))}"
            for name, default in self._DEFAULTS.items()
            if getattr(self, name) != default
        )
        return f"WebSocketProcessSettings({changed})"


def checked_settings(settings: WebSocketProcessSettings | None) -> WebSocketProcessSettings:
    """Return *settings*, or new settings for None; raise ``TypeError`` for anything else."""
    if settings is None:
        return WebSocketProcessSettings()
    check_settings("settings", settings)
    return settings


def check_settings(name: str, settings: object) -> None:
    """Raise ``TypeError`` if *settings* is not a ``WebSocketProcessSettings``."""
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
    """Return *init* with better errors: for an unknown keyword, suggest the setting meant."""

    @functools.wraps(init)
    def __init__(self: WebSocketProcessSettings, *unnamed: Any, **values: Any) -> None:
        if unnamed:
            raise TypeError(
                "pass settings by name, as in WebSocketProcessSettings(heartbeat_delay=5000)"
            )
        for name in values.keys() - WebSocketProcessSettings._DEFAULTS.keys():
            raise TypeError(_unknown(name))
        init(self, **values)

    return __init__


#: the hint for settings that are passed to a client or server directly
AS_KEYWORDS = {
    name: f"it is a setting: pass settings=WebSocketProcessSettings({name}=…)"
    for name in WebSocketProcessSettings._DEFAULTS
}

if not TYPE_CHECKING:
    WebSocketProcessSettings.__init__ = _with_suggestions(WebSocketProcessSettings.__init__)


def is_origin(text: object) -> bool:
    """Return whether *text* is an ``Origin`` as browsers send it; nothing else would match."""
    if not isinstance(text, str):
        return False
    scheme, mark, host = text.partition("://")
    return text == "null" or bool(scheme and mark and _is_host(host))


def _is_host(text: str) -> bool:
    return bool(text) and not any(c <= " " or c in "/?#@" for c in text)
