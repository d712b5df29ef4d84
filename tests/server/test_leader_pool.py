"""Leaders and followers: no callback that blocks holds up the members of others."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from support import BOUND, wait_for

from mormot_ws.server import leader_pool
from mormot_ws.server.leader_pool import LeaderPool
from mormot_ws.server.pool_term import Term
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
        #: how many bytes it has read
        self.received = 0

    def handle(self) -> bool:
        # one that is called back may have no input
        with contextlib.suppress(BlockingIOError):
            self.received += len(self.sock.recv(100))
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
    *works: Callable[[], object],
    most: int = 10,
    prepare: Callable[[LeaderPool], object] = lambda pool: None,
) -> Iterator[tuple[list[Member], Ready]]:
    """A pool with a member for each of *works*; the members, and a function that makes the member
    of a number ready. It has *most* threads; *prepare* is called before the start.
    """
    pool = LeaderPool("pool", 2, lambda: most, lambda: None, lambda: None)
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


def test_a_leader_that_leaves_its_member_in_time_goes_on() -> None:
    """It may not have seen that it was deposed: it would wait for members beside its successor,
    and be missing among the followers.
    """

    class Leaves(LeaderPool):
        @property
        def _term(self) -> Term | None:
            return self.__dict__.get("term")

        @_term.setter
        def _term(  # pyright: ignore[reportIncompatibleVariableOverride]
            self, value: Term | None
        ) -> None:
            if value is None and self._term is not None:
                self._term.member = None
            self.__dict__["term"] = value

    ends = socket.socketpair()
    member = Member(ends[0], lambda: None)
    pool = Leaves("pool", 2, lambda: 10, lambda: None, lambda: None)
    try:
        pool._wanted, pool._idle = False, 1
        term = pool._term = Term()
        term.member, term.turn = member, 1
        assert not pool._depose(term, member, 1, True)
        assert pool._term is term
        assert not pool._wanted
        assert not member.blocks
    finally:
        pool._close()
        for end in ends:
            end.close()


class Pauses:
    """Lets threads that are started meanwhile pause at random lines of the pool."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename == leader_pool.__file__ else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and self._random.random() < 0.02:
            # no event can be waited for: that another thread runs meanwhile is the point
            time.sleep(self._random.choice((0, 0, 0.0001, 0.001, 0.004, 0.008)))
        return self._line


@pytest.mark.parametrize("seed", range(4))
def test_each_input_is_handled_in_whatever_order_the_threads_run(seed: int) -> None:
    """With callbacks that block for some time, compute for some time, or are short."""
    chance = random.Random(seed)
    most = 2 + seed
    count = 1 + 3 * (seed % 2)
    given = [0] * count

    def work() -> None:
        kind = chance.random()
        if kind < 0.3:
            # what the application waits for
            threading.Event().wait(chance.choice((0.001, 0.003, 0.01)))
        elif kind < 0.35:
            begin = time.perf_counter()
            while time.perf_counter() < begin + 0.008:
                pass

    threading.settrace(Pauses(seed))
    with pool_of(*[work] * count, most=most) as (members, ready):
        threading.settrace(None)  # type: ignore[arg-type]
        for _ in range(60):
            for number in range(count):
                given[number] += 1
                ready(number)
            wait_for(lambda: [each.received for each in members] == given, what="the last input")
