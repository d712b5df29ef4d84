"""KeyGuard: reads encrypted messages, and hides from the peer why one cannot be read.

The key authenticates nothing. A peer without it that can distinguish wrong padding from a wrong
checksum can work out, guess by guess, how to forge messages. So all errors look alike, and
KeyFaults limits the guesses of each address over all connections of a server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from ..core.addresses import address_key
from ..core.forks import renew_in_child
from ..errors import WebSocketsProtocolError
from ..logs import get_logger
from .binary_form import is_readable

if TYPE_CHECKING:
    from ..protocols.base import WebSocketProtocol

_log = get_logger("mormot_ws.rest")

#: the text for the peer about any unreadable message, and the text for last_error on this side
_UNREADABLE = "a message cannot be read"
ASK_FOR_KEY = f"{_UNREADABLE} (are the key and the options the same on both ends?)"
#: the minimum number of bytes by which an encrypted message is longer than its content
_BLOCK = 16
#: the maximum number of remembered addresses; beyond it, the one whose last fault is oldest is
#: forgotten
_MOST_ADDRESSES = 4096


class _Allowance(NamedTuple):
    """The number of faults that an address may still make."""

    left: float
    #: the time of that number, on the clock
    at: float
    most: int

    def now(self, at: float) -> _Allowance:
        """Return the allowance at a later time: it grows evenly, to *most* in a minute."""
        left = min(float(self.most), self.left + (at - self.at) * self.most / 60)
        return _Allowance(left, at, self.most)


class KeyFaults:
    """Counts the faults of each address; an IPv6 /64 counts as one. Any thread may use it.

    :param clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        #: guards the table; held only briefly; last in the lock order
        self._safe = threading.Lock()
        renew_in_child(self, "_safe", threading.Lock)
        self._allowances: dict[str, _Allowance] = {}

    def add(self, ip: str, most: int) -> bool:
        """Count a fault of *ip*, which may make *most* a minute; return whether it is now blocked.

        Nothing is counted for ``''``, or if *most* is 0.
        """
        if not ip or not most:
            return False
        key, now = address_key(ip), self._clock()
        with self._safe:
            known = self._allowances.pop(key, None)
            left = float(most) if known is None else min(known.now(now).left, float(most))
            if len(self._allowances) >= _MOST_ADDRESSES:
                del self._allowances[next(iter(self._allowances))]
            self._allowances[key] = _Allowance(max(0.0, left - 1), now, most)
        return left >= 1 > left - 1

    def blocks(self, ip: str) -> bool:
        """Return whether *ip* is blocked for now."""
        # for almost all connections there is nothing to look up
        if not self._allowances or not ip:
            return False
        with self._safe:
            known = self._allowances.get(address_key(ip))
        return known is not None and known.now(self._clock()).left < 1


class KeyGuard:
    """Reads the encrypted messages of one connection, in its thread.

    :param faults: the faults counted by the server, shared by its connections.
    """

    __slots__ = ("_most", "_proved", "faults")

    def __init__(self, faults: KeyFaults) -> None:
        self.faults = faults
        self._most = 0
        #: True once the peer has sent a readable message
        self._proved = False

    def begin(self, most: int) -> None:
        """Prepare for a new connection, whose address may make *most* faults a minute."""
        self._most = most
        self._proved = False

    def read(
        self, protocol: WebSocketProtocol, message: bytes, unpack: Callable[[bytes], bytes]
    ) -> bytes:
        """Return the plain frame in *message*; raise :meth:`fault` if there is none.

        *unpack* takes it out of its container. All steps are done even if one has failed, so that
        all faults take the same time.
        """
        # connections that a peer opened in advance give it no additional guesses
        if not self._proved and self.faults.blocks(protocol.remote_ip):
            raise self.fault(protocol)
        plain: bytes = message[_BLOCK:]
        is_ours = False
        try:
            plain, is_ours = protocol.encryption.decrypt(message), True
        except WebSocketsProtocolError:
            pass  # handled below, like all other faults
        plain = unpack(plain)
        if not (is_readable(plain) and is_ours):
            raise self.fault(protocol)
        self._proved = True
        return plain

    def fault(self, protocol: WebSocketProtocol) -> WebSocketsProtocolError:
        """Count an unreadable message; return the error that ends the connection."""
        ip = protocol.remote_ip
        protocol.note_error(ASK_FOR_KEY)
        if self.faults.add(ip, self._most):
            _log.warning(
                "%r: too many messages from %s cannot be read with the key: its upgrades are "
                "refused for a while",
                protocol,
                ip,
                extra={"connection_id": protocol.connection_id, "remote_ip": ip},
            )
        return WebSocketsProtocolError(1008, _UNREADABLE)
