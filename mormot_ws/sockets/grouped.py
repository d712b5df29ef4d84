"""A selector for any number of sockets on systems that have only ``select``, which is limited."""

from __future__ import annotations

import select
import selectors
import sys
from time import monotonic

#: the most sockets of one ``select``: 512 on Windows
_MOST = 500
#: seconds between two checks of all sockets, if there are more
_LOOK = 0.02

_Ready = list[tuple[selectors.SelectorKey, int]]


class GroupedSelector(selectors.SelectSelector):
    """Like ``selectors.SelectSelector``, but for any number of sockets.

    With more sockets than one ``select`` accepts, those to be read are noticed immediately, others
    within 20 ms. Raises ``OSError`` or ``ValueError`` if one of them was closed.
    """

    def select(self, timeout: float | None = None) -> _Ready:
        """Return the keys that are ready, with their events, after at most *timeout* seconds."""
        keys = list(self.get_map().values())
        if len(keys) <= _MOST:
            return super().select(timeout)
        keys.sort(key=lambda key: key.events != selectors.EVENT_READ)
        end = None if timeout is None else monotonic() + timeout
        while True:
            ready: _Ready = []
            for start in range(0, len(keys), _MOST):
                ready += _ready(keys[start : start + _MOST], 0)
            left = _LOOK if end is None else min(end - monotonic(), _LOOK)
            if ready or left <= 0:
                return ready
            _ready(keys[:_MOST], left)


def _ready(keys: list[selectors.SelectorKey], seconds: float) -> _Ready:
    readers = [key.fd for key in keys if key.events & selectors.EVENT_READ]
    writers = [key.fd for key in keys if key.events & selectors.EVENT_WRITE]
    # Windows reports a failed attempt to connect here
    others = writers if sys.platform == "win32" else []
    can_read, can_write, failed = map(set, select.select(readers, writers, others, seconds))
    found: _Ready = []
    for key in keys:
        events = (selectors.EVENT_READ if key.fd in can_read else 0) | (
            selectors.EVENT_WRITE if key.fd in can_write or key.fd in failed else 0
        )
        if events & key.events:
            found.append((key, events & key.events))
    return found
