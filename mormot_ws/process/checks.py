"""What the attributes of a connection can be."""

from __future__ import annotations

import threading
from types import NoneType

from ..attributes import IS_BOOL, IS_INT, IS_TEXT, Check, of_kind
from ..core.outgoing import OutgoingFrames
from ..protocols.base import WebSocketProtocol
from ..settings import check_settings
from ..states import WebSocketProcessState
from .closer import Closer
from .liveness import Liveness
from .reader import Reader
from .sender import Sender

CONNECTION_CHECKS: dict[str, Check] = {
    "protocol": of_kind(WebSocketProtocol),
    "settings": check_settings,
    "process_name": IS_TEXT,
    "connection_id": IS_INT,
    "remote_ip": IS_TEXT,
    "owner_thread": of_kind(threading.Thread, NoneType),
    "state": of_kind(WebSocketProcessState),
    "dropped_count": IS_INT,
    "inherited": IS_BOOL,
    "reader": of_kind(Reader),
    "sender": of_kind(Sender),
    "liveness": of_kind(Liveness),
    "closer": of_kind(Closer),
    "outgoing": of_kind(OutgoingFrames),
}
