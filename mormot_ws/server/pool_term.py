"""Term: what the leader of a :class:`~mormot_ws.server.leader_pool.LeaderPool` does at the moment,
for the watcher's thread. No thread belongs in here.
"""

from __future__ import annotations

from collections.abc import Callable

from .cpu_clock import cpu_clock
from .pool_member import Member


class Term:
    """What the leader of one term does now. Only that leader writes it: one whose term has ended
    cannot hide from the watcher what the next one does.

    Made in the leader's thread.
    """

    __slots__ = ("cpu_seconds", "member", "turn", "waits")

    def __init__(self) -> None:
        #: returns the CPU time of the leader's thread; another thread may call it
        self.cpu_seconds: Callable[[], float] = cpu_clock()
        #: the member that the leader is inside; None: it is between two members, or waits
        self.member: Member | None = None
        #: the number of times that it has entered a member
        self.turn = 0
        #: True while it waits for members
        self.waits = False
