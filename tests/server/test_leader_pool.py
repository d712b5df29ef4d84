"""Leaders and followers: no callback that blocks holds up the members of others."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from support import BOUND

from mormot_ws.server.leader_pool import LeaderPool
from mormot_ws.sockets.deadline import Deadline


class Member:
    """A socket whose input is handled by *work*."""

    def __init__(self, sock: socket.socket, work: Callable[[], object]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.work = work
        self.busy = threading.Lock()
        self.masked = False
        self.blocks = False

    def handle(self) -> bool:
        # one that is called back may have no input
        with contextlib.suppress(BlockingIOError):
            self.sock.recv(100)
            self.work()
        return True

    def end(self, exc: BaseException | None) -> bool:
        return False

    def fileno(self) -> int:
        return self.sock.fileno()

    def callback_is_long(self) -> None:
        pass

    def callback_has_ended(self) -> bool:
        return True


Ready = Callable[[int], None]


@contextlib.contextmanager
def pool_of(
    *works: Callable[[], object], prepare: Callable[[LeaderPool], object] = lambda pool: None
) -> Iterator[tuple[list[Member], Ready]]:
    """A pool with a member for each of *works*; the members, and a function that makes the member
    of a number ready. *prepare* is called before the start.
    """
    pool = LeaderPool("pool", 2, lambda: 10, lambda: None, lambda: None)
    prepare(pool)
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in works]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
        members = [Member(pair[0], work) for pair, work in zip(pairs, works, strict=True)]
        for each in members:
            pool.add(each)
        pool.start()
        try:
            yield members, lambda number: pairs[number][1].send(b"x")
        finally:
            assert pool.stop(Deadline(1000 * BOUND)) == []


def test_a_leader_is_watched_although_an_earlier_one_leaves_its_member() -> None:
    """What the earlier one notes when it leaves must not hide that the next one is inside a
    callback that blocks.
    """
    first_may_return, served = threading.Event(), threading.Event()
    blocked = []

    def first() -> None:
        ready(1)
        first_may_return.wait(BOUND)

    def second() -> None:
        first_may_return.set()
        # when it is free, the first leader has noted that it is outside
        if members[0].busy.acquire(timeout=BOUND):
            members[0].busy.release()
        ready(2)
        blocked.append(not served.wait(BOUND))
        done.set()

    done = threading.Event()
    with pool_of(first, second, served.set) as (members, ready):
        ready(0)
        assert done.wait(3 * BOUND)
    assert blocked == [False]


def test_callbacks_that_block_for_a_moment_run_at_the_same_time() -> None:
    """Those that are too short to be noticed while they last, too: the first of them is, soon."""
    together, most_together = [0], [0]
    counting = threading.Lock()
    over = threading.Event()
    done = threading.Event()

    def blocking(number: int) -> Callable[[], None]:
        def work() -> None:
            with counting:
                together[0] += 1
                most_together[0] = max(most_together[0], together[0])
                if most_together[0] >= 4:
                    done.set()
            # what the application waits for
            over.wait(0.003)
            with counting:
                together[0] -= 1
            if not over.is_set():
                ready(number)

        return work

    with pool_of(*(blocking(number) for number in range(5))) as (_, ready):
        for number in range(5):
            ready(number)
        assert done.wait(BOUND)
        over.set()


def test_a_member_that_no_longer_blocks_is_handled_by_the_leader_again() -> None:
    """A change of threads for each of its turns would cost more than the turn."""
    blocked: list[bool] = []
    leads = threading.Event()

    def work() -> None:
        blocked.append(members[0].blocks)
        if True not in blocked:
            # what the application waits for
            threading.Event().wait(0.02)
        elif not blocked[-1]:
            leads.set()
            return
        ready(0)

    with pool_of(work) as (members, ready):
        ready(0)
        assert leads.wait(BOUND)
    assert True in blocked


def test_a_follower_that_takes_the_lead_does_not_leave_a_member_that_it_was_to_handle() -> None:
    """It was woken for a member that was given away, and before it runs, its leader is held up."""
    deposed, served = threading.Event(), threading.Event()

    class SlowCondition(threading.Condition):
        def _acquire_restore(self, state: object) -> None:
            deposed.wait(BOUND)
            super()._acquire_restore(state)  # type: ignore[misc]

    def slow_follower(pool: LeaderPool) -> None:
        pool._follow = SlowCondition(pool._safe)

    class Holding(Member):
        def callback_is_long(self) -> None:
            deposed.set()

    def hold() -> None:
        held.append(served.wait(BOUND))
        done.set()

    held: list[bool] = []
    done = threading.Event()
    with pool_of(served.set, hold, prepare=slow_follower) as (members, ready):
        members[0].blocks = True
        members[1].__class__ = Holding
        ready(0)
        ready(1)
        assert done.wait(3 * BOUND)
    assert held == [True]
