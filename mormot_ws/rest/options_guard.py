"""OptionsGuard: detects from the first message that the peer uses different options.

The upgrade does not say which options a peer uses. With a key, the key guard detects a difference.
Without one, the first message shows whether its sender compresses. A message that is neither a
container nor readable is damaged, or encrypted: it is dropped, as in the original.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import WebSocketsProtocolError
from ..logs import get_logger
from .algosynlz import is_container
from .binary_form import is_readable
from .key_guard import ASK_FOR_KEY

if TYPE_CHECKING:
    from .protocols import WebSocketProtocolBinary

_log = get_logger("mormot_ws.rest")


class OptionsGuard:
    """Checks the unencrypted messages of a connection, in its thread."""

    __slots__ = ("agreed",)

    def __init__(self) -> None:
        #: False until the first message of a connection has shown that the options are the same;
        #: later messages need no check
        self.agreed = True

    def begin(self) -> None:
        """Prepare for a new connection."""
        self.agreed = False

    def check(self, protocol: WebSocketProtocolBinary, payload: bytes, compressed: bool) -> None:
        """Raise the error that ends the connection if its first message does not fit.

        *compressed*: whether this side expects containers.
        """
        is_packed = is_container(payload)
        if is_packed if not compressed else not is_packed and is_readable(payload):
            protocol.count_unreadable(ASK_FOR_KEY)
            self._warn(protocol, f"the first message does not fit: {ASK_FOR_KEY}")
            raise WebSocketsProtocolError(1008, ASK_FOR_KEY)
        self.agreed = is_packed is compressed

    def drop(self, protocol: WebSocketProtocolBinary) -> None:
        """Count and drop a damaged message; log the first one of a connection."""
        why = "dropped a message with an invalid SynLZ container"
        if not self.agreed:
            why += " (are the key and the options the same on both ends?)"
        protocol.count_unreadable(why)
        if protocol.tells_first("damaged"):
            self._warn(protocol, why)

    @staticmethod
    def _warn(protocol: WebSocketProtocolBinary, why: str) -> None:
        fields = {"connection_id": protocol.connection_id, "remote_ip": protocol.remote_ip}
        _log.warning("%r: %s", protocol, why, extra=fields)
