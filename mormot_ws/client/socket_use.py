"""SocketUse: which thread is upgrading and which is connecting a client, at most one of each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident

CONNECTING = "Another thread is connecting this client"
_BUSY = "Another upgrade is in progress"


class SocketUse:
    """Prevents two threads from using one client's socket. Any thread may call the methods."""

    def __init__(self) -> None:
        self.die_in_child()

    def die_in_child(self) -> None:
        """Discard the threads of the parent, in a forked child."""
        #: guards the two lists; nothing is called while it is held. It is reentrant, because a
        #: signal handler may ask at any moment
        self._safe = threading.RLock()
        # the thread that is upgrading, if there is one. A list, because no exception can occur
        # between the first and the last step of its methods
        self._upgrading: list[int] = []
        # the thread that is opening the TCP connection, if there is one
        self._opening: list[int] = []

    @property
    def upgrading(self) -> bool:
        """True while a thread is upgrading."""
        return bool(self._upgrading)

    def upgrade(self, work: Callable[[], str]) -> str:
        """Return the result of *work*, or an error text if another thread is upgrading."""
        me, ours = get_ident(), False
        try:
            # inside the try, because a signal handler may raise right after it
            with self._safe:
                if self._upgrading:
                    return _BUSY
                ours = True
                self._upgrading.append(me)
            return work()
        finally:
            if ours:
                self._upgrading.clear()

    def open(self, work: Callable[[], str], in_upgrade: bool = False) -> str:
        """Return the result of *work*, or an error text if another thread is using the socket.

        *in_upgrade*: it is part of this thread's upgrade; otherwise it is called by a signal
        handler that has interrupted the upgrade.
        """
        me, ours = get_ident(), False
        try:
            with self._safe:
                mine = [me] if in_upgrade else []
                if self._opening or self._upgrading != mine:
                    return CONNECTING
                ours = True
                self._opening.append(me)
            return work()
        finally:
            if ours:
                self._opening.clear()
