"""KeyFaults: how often an address may send what cannot be read with the key.

The key authenticates nothing, so a peer without it learns something from how its guesses are
received. Here their number is bounded, for all connections of a server together. What a fault is,
the protocol knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from ..core.addresses import address_key
from ..core.forks import renew_in_child

#: addresses that are remembered; beyond them the one whose last fault is the oldest is forgotten
_MOST_ADDRESSES = 4096


class _Allowance(NamedTuple):
    """What an address has left."""

    left: float
    #: when that was so, on the clock
    at: float
    most: int

    def now(self, at: float) -> _Allowance:
        """The same at a later time: it grows evenly, to *most* in a minute."""
        left = min(float(self.most), self.left + (at - self.at) * self.most / 60)
        return _Allowance(left, at, self.most)


class KeyFaults:
    """Counts the faults of each address; an IPv6 /64 is one. For any thread.

    :param clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        #: guards the table; held for moments, innermost in the lock order
        self._safe = threading.Lock()
        renew_in_child(self, "_safe", threading.Lock)
        self._allowances: dict[str, _Allowance] = {}

    def add(self, ip: str, most: int) -> bool:
        """Count a fault of *ip*, which may have *most* in a minute; tell whether it is the one from
        which on the address is blocked. Nothing is counted for ``''`` or when *most* is 0.
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
        """Tell whether *ip* has used up its faults for now."""
        # for nearly all connections there is nothing to look up
        if not self._allowances or not ip:
            return False
        with self._safe:
            known = self._allowances.get(address_key(ip))
        return known is not None and known.now(self._clock()).left < 1
