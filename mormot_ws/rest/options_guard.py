"""OptionsGuard: notices by its first message that the other end has other options.

Nothing in the upgrade says which options an end has. With a key, the key guard notices a
difference. Without one, the first message shows whether its sender compresses. One that is neither
a container nor a message is damaged, or encrypted: it is dropped, as in the original.
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
    """Looks at the messages of one connection that are not encrypted, in its thread."""

    __slots__ = ("agreed",)

    def __init__(self) -> None:
        #: False until the first message of a connection has shown that the options are the same;
        #: the other messages need no check
        self.agreed = True

    def begin(self) -> None:
        """Get ready for a new connection."""
        self.agreed = False

    def check(self, protocol: WebSocketProtocolBinary, payload: bytes, compressed: bool) -> None:
        """Raise the error that ends the connection if its first message does not fit.

        *compressed* says whether this end expects containers.
        """
        is_packed = is_container(payload)
        if is_packed if not compressed else not is_packed and is_readable(payload):
            protocol.count_unreadable(ASK_FOR_KEY)
            self._warn(protocol, f"the first message does not fit: {ASK_FOR_KEY}")
            raise WebSocketsProtocolError(1008, ASK_FOR_KEY)
        self.agreed = is_packed is compressed

    def drop(self, protocol: WebSocketProtocolBinary) -> None:
        """Count a damaged message, which is dropped; log the first one of a connection."""
        why = "a message is dropped: its SynLZ container does not verify"
        if not self.agreed:
            why += " (are the key and the options the same on both ends?)"
        protocol.count_unreadable(why)
        if protocol.tells_first("damaged"):
            self._warn(protocol, why)

    @staticmethod
    def _warn(protocol: WebSocketProtocolBinary, why: str) -> None:
        fields = {"connection_id": protocol.connection_id, "remote_ip": protocol.remote_ip}
        _log.warning("%r: %s", protocol, why, extra=fields)
