"""The checks of a client's attributes, the parameters of its callbacks, and hints for attributes
that it does not have.
"""

from __future__ import annotations

from types import NoneType

from ..attributes import IS_BOOL, IS_TEXT, Check, of_kind
from ..reconnect_policies import ReconnectFailure, check_policy
from ..settings import AS_KEYWORDS, check_settings
from .upgrade import UpgradeError


def _is_policy(name: str, value: object) -> None:
    if value is not None:
        check_policy(name, value)


CLIENT_CHECKS: dict[str, Check] = {
    "settings": check_settings,
    "process_name": IS_TEXT,
    "policy": _is_policy,
    "gave_up": of_kind(ReconnectFailure, NoneType),
    "upgrade_failure": of_kind(UpgradeError, NoneType),
    "subprotocol_chosen": IS_BOOL,
}
CLIENT_CALLBACKS: dict[str, tuple[str, ...]] = {
    "on_websockets_closed": ("client",),
    "on_before_incoming_frame": ("process", "frame"),
    "on_gave_up": ("client", "failure"),
    "on_ended": ("client",),
    "on_callback_request_process": ("ctxt",),
}

#: the hint for a client that is given a callback for messages
_OF_PROTOCOL = (
    "the protocol handles messages: WebSocketProtocolChat(name, uri, on_incoming_frame), which is"
    " called with focContinuation first and focConnectionClose last"
)
#: names that users look for on a client but that are elsewhere
ELSEWHERE: dict[str, str] = {
    "on_reconnect": "it belongs to the connection: client.websockets.on_reconnect = …",
    "on_incoming_frame": _OF_PROTOCOL,
    "on_message": _OF_PROTOCOL,
    "on_open": _OF_PROTOCOL,
    "on_close": "set on_websockets_closed",
    "send": "call client.websockets.send_frame(WebSocketFrame(focText, text))",
    "connect": "call websockets_upgrade(uri, protocol=…), or auto_reconnect(protocol=…)",
    "disconnect": "call free(), or client.websockets.shutdown()",
    "recv": _OF_PROTOCOL,
    "on_error": "set on_gave_up; other failures are returned or raised by the methods",
}

#: hints for keywords that the constructor does not have
KEYWORDS: dict[str, str] = {
    **AS_KEYWORDS,
    **{name: f"set it before the upgrade: client.{name} = …" for name in CLIENT_CALLBACKS},
    "on_reconnect": "call auto_reconnect(), or set client.websockets.on_reconnect",
    "protocol": "pass it to websockets_upgrade(uri, protocol=…)",
}


def flag(name: str, value: bool) -> bool:
    IS_BOOL(name, value)
    return value
