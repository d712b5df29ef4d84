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


@contextlib.contextmanager
def pool_of(*works: Callable[[Callable[[int], None]], object]) -> Iterator[list[Member]]:
    """A pool with a member for each of *works*, which get a function that makes the member of a
    number ready; the members.
    """
    pool = LeaderPool("pool", 2, lambda: 10, lambda: None, lambda: None)
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in works]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)

        def ready(number: int) -> None:
            pairs[number][1].send(b"x")

        def member(number: int) -> Member:
            return Member(pairs[number][0], lambda: works[number](ready))

        members = [member(number) for number in range(len(works))]
        for each in members:
            pool.add(each)
        pool.start()
        try:
            ready(0)
            yield members
        finally:
            assert pool.stop(Deadline(1000 * BOUND)) == []


def test_a_leader_is_watched_although_an_earlier_one_leaves_its_member() -> None:
    """What the earlier one notes when it leaves must not hide that the next one is inside a
    callback that blocks.
    """
    first_may_return, served = threading.Event(), threading.Event()
    blocked = []

    def first(ready: Callable[[int], None]) -> None:
        ready(1)
        first_may_return.wait(BOUND)

    def second(ready: Callable[[int], None]) -> None:
        first_may_return.set()
        # when it is free, the first leader has noted that it is outside
        if members[0].busy.acquire(timeout=BOUND):
            members[0].busy.release()
        ready(2)
        blocked.append(not served.wait(BOUND))
        done.set()

    def third(ready: Callable[[int], None]) -> None:
        served.set()

    done = threading.Event()
    with pool_of(first, second, third) as members:
        assert done.wait(3 * BOUND)
    assert blocked == [False]


def test_callbacks_that_block_for_a_moment_run_at_the_same_time() -> None:
    """Those that are too short to be noticed while they last, too: the first of them is, soon."""
    together, most_together = [0], [0]
    counting = threading.Lock()
    over = threading.Event()
    done = threading.Event()

    def blocking(number: int) -> Callable[[Callable[[int], None]], None]:
        def work(ready: Callable[[int], None]) -> None:
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

    def first(ready: Callable[[int], None]) -> None:
        for number in range(1, 6):
            ready(number)

    with pool_of(first, *(blocking(number) for number in range(1, 6))):
        assert done.wait(BOUND)
        over.set()


def test_a_member_that_no_longer_blocks_is_handled_by_the_leader_again() -> None:
    """A change of threads for each of its turns would cost more than the turn."""
    blocked: list[bool] = []
    leads = threading.Event()

    def work(ready: Callable[[int], None]) -> None:
        blocked.append(members[0].blocks)
        if True not in blocked:
            # what the application waits for
            threading.Event().wait(0.02)
        elif not blocked[-1]:
            leads.set()
            return
        ready(0)

    with pool_of(work) as members:
        assert leads.wait(BOUND)
    assert True in blocked
