"""WebSocketProcessSettings: everything that can be tuned, with units and defaults.

One object is shared by reference by a server or client and all its connections; a connection reads
most values when it starts, so change settings before connecting. Plain data: no behaviour but
checking and resetting belongs in here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Flag
from typing import TYPE_CHECKING, Any

from .core.deflate import PermessageDeflate

if TYPE_CHECKING:
    from .process.process import WebSocketProcess
    from .reconnect_policies import ReconnectPolicy


class WebSocketProcessSettingsLogDetails(Flag):
    """What is logged frame by frame (at DEBUG). Mirrors the set
    ``TWebSocketProcessSettings.LogDetails``.
    """

    logHeartbeat = 1  # ping and pong frames
    logTextFrameContent = 2  # the content of text frames
    logBinaryFrameContent = 4  # the content of binary frames


logHeartbeat = WebSocketProcessSettingsLogDetails.logHeartbeat
logTextFrameContent = WebSocketProcessSettingsLogDetails.logTextFrameContent
logBinaryFrameContent = WebSocketProcessSettingsLogDetails.logBinaryFrameContent


def _default_policy() -> ReconnectPolicy:
    from .reconnect_policies import ExponentialBackoff

    return ExponentialBackoff()


class WebSocketProcessSettings:
    """Settings of all connections of one server or client. Mirrors ``TWebSocketProcessSettings``.

    The constructor takes any of the attributes by keyword; an unknown name is a ``TypeError``, a
    bad value a ``ValueError``.
    """

    # --- the original's, with the original's names and units

    #: idle milliseconds (nothing received) after which a ping is sent; 0: never. The original: 20
    #: 000 on a server, 0 on a client
    heartbeat_delay: int
    #: kept for ported code, in milliseconds; the original's loop polls, ours wakes at once, so
    #: nothing reads it
    loop_delay: int
    #: milliseconds for which frames of ``send_frame_async`` are gathered after a write, so that
    #: they leave together
    send_delay: int
    #: how many heartbeats in a row may fail to leave, or stay without any answer, before the
    #: connection is closed; 0: any number
    disconnect_after_invalid_heartbeat_count: int
    #: kept for ported code, in milliseconds; as in the original nothing reads it: a request waits
    #: for its turn as long as for its answer
    callback_acquire_timeout_ms: int
    #: milliseconds that a request waits for its answer (REST protocols); less than 2 000 count as
    #: that, 0 as 30 000. On a client that leaves it at 30 000 the ``timeout`` given to its
    #: constructor counts instead, as in the original
    callback_answer_timeout_ms: int
    #: ``f(process)``, called in the connection's thread before its first frame; an exception aborts
    #: the connection
    on_client_connected: Callable[[WebSocketProcess], Any] | None
    #: ``f(process)``, called in the connection's thread after its last frame
    on_client_disconnected: Callable[[WebSocketProcess], Any] | None
    #: False: the client thread does not reconnect, even when ``on_reconnect`` is set
    client_auto_upgrade: bool
    #: kept for ported code: asks a REST server to move callbacks to the new connection
    client_restore_callbacks: bool
    #: how the key of a binary REST protocol becomes an AES key: salt, rounds, and the size in bits
    #: (128, 192 or 256); the other end needs the same
    aes_salt: str
    aes_rounds: int
    aes_bits: int
    #: what is logged frame by frame
    log_details: WebSocketProcessSettingsLogDetails
    #: deliver ping and pong frames to the protocol too (the original's ``NotifyAllFrames``)
    notify_all_frames: bool
    #: megabytes; a frame announcing more is refused with 1009 (the original's global
    #: ``WebSocketsMaxFrameMB``)
    max_frame_mb: int

    # --- ours

    #: what ``free()`` does when it is called inside a callback of the same connection: ``'freeze'``
    #: like the original, or ``'raise'``
    free_in_callback: str
    #: bytes; a message longer than this (joined, inflated) is refused with 1009
    max_message_bytes: int
    #: a message of more frames than this is refused with 1008
    max_fragments: int
    #: bytes of an HTTP head (request or answer); more is refused
    max_header_bytes: int
    #: bytes of the body of a plain HTTP request; more is refused with 413
    max_body_bytes: int
    #: milliseconds that a new connection may take for its HTTP request and its handshake
    handshake_timeout: int
    #: milliseconds that a keep-alive HTTP connection may stay idle between two requests
    keep_alive_timeout: int
    #: milliseconds that a write may wait for a peer that takes no byte at all
    send_timeout: int
    #: milliseconds to wait for the peer's close frame, and then for its end of the TCP connection
    close_timeout: int
    #: bytes that may wait in ``outgoing`` of one connection before ``send_frame_async`` refuses
    max_outgoing_bytes: int
    #: frames that may wait in ``outgoing`` of one connection before ``send_frame_async`` refuses
    max_outgoing_frames: int
    #: what a full ``outgoing`` does with a new frame: ``'refuse'`` it, ``'drop_oldest'`` ones for
    #: it, or ``'close'`` the connection (1008)
    outgoing_policy: str
    #: connections that a server serves at a time; more are turned away at once with 503; 0: any
    #: number
    max_connections: int
    #: the same for one IP address
    max_connections_per_ip: int
    #: pings that a peer may send within a second before it is closed with 1008; 0: any number
    max_pings_per_second: int
    #: what the ``Origin`` of a browser's page may be, e.g. ``{'https://example.com'}``; others are
    #: refused with 403; None: anything. A request without ``Origin`` does not come from a browser,
    #: and is let through
    allowed_origins: Collection[str] | None
    allowed_hosts: Collection[str] | None
    trusted_proxies: Collection[str]
    remote_ip_header: str
    #: True, or a :class:`PermessageDeflate`: negotiate compression (RFC 7692); False: never
    permessage_deflate: bool | PermessageDeflate
    #: milliseconds that a client's connection has to live to count as stable: the next loss then
    #: starts from the shortest wait again
    reconnect_stable_after: int
    #: makes the object that decides the client's waits between attempts, one per client thread
    reconnect_policy: Callable[[], ReconnectPolicy]

    _DEFAULTS: dict[str, Any] = {
        "heartbeat_delay": 20_000,
        "loop_delay": 500,
        "send_delay": 10,
        "disconnect_after_invalid_heartbeat_count": 5,
        "callback_acquire_timeout_ms": 5_000,
        "callback_answer_timeout_ms": 30_000,
        "on_client_connected": None,
        "on_client_disconnected": None,
        "client_auto_upgrade": True,
        "client_restore_callbacks": False,
        "aes_salt": "E750ACCA-2C6F-4B0E-999B-D31C9A14EFAB",
        "aes_rounds": 1_024,
        "aes_bits": 128,
        "log_details": WebSocketProcessSettingsLogDetails(0),
        "notify_all_frames": False,
        "max_frame_mb": 256,
        "free_in_callback": "freeze",
        "max_message_bytes": 16 << 20,
        "max_fragments": 1 << 20,
        "max_header_bytes": 16 << 10,
        "max_body_bytes": 16 << 20,
        "handshake_timeout": 10_000,
        "keep_alive_timeout": 30_000,
        "send_timeout": 10_000,
        "close_timeout": 1_000,
        "max_outgoing_bytes": 16 << 20,
        "max_outgoing_frames": 100_000,
        "outgoing_policy": "refuse",
        "max_connections": 0,
        "max_connections_per_ip": 0,
        "max_pings_per_second": 1_000,
        "allowed_origins": None,
        "allowed_hosts": None,
        "trusted_proxies": (),
        "remote_ip_header": "",
        "reconnect_stable_after": 5_000,
        "permessage_deflate": False,
        "reconnect_policy": _default_policy,
    }
    _CHOICES = {
        "free_in_callback": ("freeze", "raise"),
        "outgoing_policy": ("refuse", "drop_oldest", "close"),
    }
    _POSITIVE = frozenset(
        (
            "max_frame_mb",
            "max_message_bytes",
            "max_fragments",
            "max_header_bytes",
            "handshake_timeout",
            "send_timeout",
            "close_timeout",
        )
    )

    def __init__(self, **values: Any) -> None:
        self.set_defaults()
        for name, value in values.items():
            if name not in self._DEFAULTS:
                raise TypeError(self._unknown(name))
            setattr(self, name, value)

    def _unknown(self, name: str) -> str:
        from difflib import get_close_matches  # here: only who mistypes a name pays for it

        like = get_close_matches(name, self._DEFAULTS, 1)
        return f"there is no setting {name!r}" + (f"; did you mean {like[0]!r}?" if like else "")

    def set_defaults(self) -> None:
        """Give every setting its default value. Mirrors ``SetDefaults``."""
        for name, value in self._DEFAULTS.items():
            setattr(self, name, value)

    def set_full_log(self) -> WebSocketProcessSettings:
        """Log everything, heartbeats and contents included; return the settings themselves.
        Mirrors ``SetFullLog``.
        """
        self.log_details = logHeartbeat | logTextFrameContent | logBinaryFrameContent
        return self

    def deflate_options(self) -> PermessageDeflate:
        """Return the options of permessage-deflate; the defaults when it is only switched on."""
        options = self.permessage_deflate
        return options if isinstance(options, PermessageDeflate) else PermessageDeflate()

    def __setattr__(self, name: str, value: Any) -> None:
        default = self._DEFAULTS.get(name, self)
        if default is self:
            raise AttributeError(self._unknown(name))
        if type(default) is int:
            least = 1 if name in self._POSITIVE else 0
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is a whole number from {least}, not {value!r}")
        elif name == "permessage_deflate":
            if not isinstance(value, (bool, PermessageDeflate)):
                raise ValueError(
                    f"permessage_deflate is True, False or a PermessageDeflate, not {value!r}"
                )
        elif type(default) is bool and type(value) is not bool:
            raise ValueError(f"{name} is True or False, not {value!r}")
        elif name == "aes_salt" and not isinstance(value, str):
            raise ValueError(f"aes_salt is a str, not {type(value).__name__}")
        elif name in self._CHOICES and value not in self._CHOICES[name]:
            raise ValueError(
                f"{name} is {' or '.join(map(repr, self._CHOICES[name]))}, not {value!r}"
            )
        elif name == "allowed_origins" and (
            isinstance(value, str) or not isinstance(value, (Collection, type(None)))
        ):
            raise ValueError(f"allowed_origins is a set of origins or None, not {value!r}")
        elif name == "allowed_origins" and not all(map(is_origin, value or ())):
            raise ValueError(
                "an origin is like 'https://example.com' or 'http://localhost:8000', without path or slash at its end, or "
                f"'null'; not all are in {value!r}"
            )
        elif (
            name in ("on_client_connected", "on_client_disconnected")
            and value is not None
            and not callable(value)
        ):
            raise ValueError(f"{name} is a callable or None, not {value!r}")
        elif name == "log_details" and not isinstance(value, WebSocketProcessSettingsLogDetails):
            raise ValueError(f"log_details is a WebSocketProcessSettingsLogDetails, not {value!r}")
        elif name == "reconnect_policy" and not callable(value):
            raise ValueError(f"reconnect_policy is a callable that makes a policy, not {value!r}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        changed = ", ".join(
            # what keys are derived from is for no log
            f"{name}={'…' if name == 'aes_salt' else repr(getattr(self, name))}"
            for name, default in self._DEFAULTS.items()
            if getattr(self, name) != default
        )
        return f"WebSocketProcessSettings({changed})"


def is_origin(text: object) -> bool:
    """Tell whether a browser may send *text* as an ``Origin``; anything else would never match."""
    if not isinstance(text, str):
        return False
    scheme, mark, host = text.partition("://")
    return text == "null" or (
        bool(scheme and mark and host) and not any(c <= " " or c in "/?#@" for c in host)
    )
