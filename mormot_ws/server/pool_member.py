"""Member: what a :class:`~mormot_ws.server.leader_pool.LeaderPool` needs from a socket that it
handles. No thread belongs in here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Member(Protocol):
    """A socket, and what to do when it can be read."""

    #: held by the thread that handles the member
    busy: threading.Lock
    #: True while its socket is not waited for, because a thread was still inside when it was ready
    masked: bool
    #: True if its last callback has blocked: the leader leaves the next one to a follower
    blocks: bool

    @property
    def handle(self) -> Callable[[], bool]:
        """Read the available input, without waiting for more, and run callbacks; return False at
        the end of the member. Called with ``busy`` held.
        """

    def end(self, exc: BaseException | None) -> bool:
        """Do what is left after :attr:`handle` has returned False or raised *exc*; return True if
        the member continues, in another way. Otherwise it has removed itself.
        """

    def fileno(self) -> int:
        """Return the descriptor."""

    def callback_is_long(self) -> None:
        """A callback is long: others have to answer for the member. Neither waits nor logs."""

    def callback_has_ended(self) -> bool:
        """Undo :meth:`callback_is_long`, and handle what arrived meanwhile; return like
        :attr:`handle`. Called with ``busy`` held, in the thread of the callback.
        """
