"""CheckedConnection: the checks of a connection's attributes, and hints for attributes that it does
not have.
"""

from __future__ import annotations

import threading
from types import NoneType
from typing import ClassVar

from ..attributes import IS_BOOL, IS_INT, IS_TEXT, Check, of_kind
from ..core.outgoing import OutgoingFrames
from ..protocols.base import WebSocketProtocol
from ..request import HttpServerRequest
from ..settings import check_settings
from ..states import WebSocketProcessState
from .carrier import ByteCarrier
from .closer import Closer
from .liveness import Liveness
from .loop import Loop
from .reader import Reader
from .sender import Sender

_OF_PROTOCOL = "use the protocol: WebSocketProtocolChat(name, uri, on_incoming_frame)"
_OF_SERVER = "groups belong to servers: use a server's connections"


class CheckedConnection(ByteCarrier):
    """Base class of :class:`WebSocketProcess`, with the checks of its attributes."""

    _CHECKS: ClassVar[dict[str, Check]] = {
        "protocol": of_kind(WebSocketProtocol),
        "settings": check_settings,
        "process_name": IS_TEXT,
        "connection_id": IS_INT,
        "remote_ip": IS_TEXT,
        "owner_thread": of_kind(threading.Thread, NoneType),
        "state": of_kind(WebSocketProcessState),
        "dropped_count": IS_INT,
        "inherited": IS_BOOL,
        "loop": of_kind(Loop),
        "reader": of_kind(Reader),
        "sender": of_kind(Sender),
        "liveness": of_kind(Liveness),
        "closer": of_kind(Closer),
        "outgoing": of_kind(OutgoingFrames),
    }
    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "broadcast": "server.websocket_broadcast(frame)",
        "close": "use shutdown(code, reason), or abort(why) without a close handshake",
        "join": _OF_SERVER,
        "leave": _OF_SERVER,
        "on_close": _OF_PROTOCOL,
        "on_incoming_frame": _OF_PROTOCOL,
        "on_message": _OF_PROTOCOL,
        "on_open": _OF_PROTOCOL,
        "recv": _OF_PROTOCOL,
        "send": "send_frame(WebSocketFrame(focText, text))",
        "send_json": "send_frame(WebSocketFrame(focText, json.dumps(value)))",
        "send_text": "send_frame(WebSocketFrame(focText, text))",
    }


def check_request(request: object) -> None:
    """Raise ``TypeError`` if *request* is not an ``HttpServerRequest``."""
    if not isinstance(request, HttpServerRequest):
        raise TypeError(
            f"only an HttpServerRequest can be sent, not {type(request).__name__}: create one with"
            " HttpServerRequest(url, method)"
        )
