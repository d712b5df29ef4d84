"""The keeper's sleep: whatever is handed to it while it wakes up, it must not sleep over it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any

import pytest
from support import BOUND, MS, Recorder, upgraded, wait_for
from support.keepers import Kept
from support.lines import Line, each_line

from mormot_ws import WebSocketFrame, WebSocketServer, focBinary
from mormot_ws.process import keeper as keeper_module
from mormot_ws.process.keeper import FlushResult, ProcessKeeper


class Meddler:
    """Stands before an end of the keeper's wake-up socket: *act* is called, once, before the next
    use of that end.
    """

    def __init__(self, sock: socket.socket | None) -> None:
        assert sock is not None
        self.sock = sock
        self.act: Callable[[], object] | None = None

    def _meddle(self) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()

    def recv(self, size: int) -> bytes:
        self._meddle()
        return self.sock.recv(size)

    def send(self, data: bytes) -> int:
        self._meddle()
        return self.sock.send(data)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def keeper() -> Iterator[ProcessKeeper]:
    """A keeper whose thread runs and sleeps without an end in sight."""
    keeper = ProcessKeeper("keeper under test")
    try:
        first = Kept()
        keeper.wake(first)
        assert first.flushed.wait(BOUND)
        wait_for(lambda: asleep(keeper))
        yield keeper
    finally:
        keeper.stop()


def asleep(keeper: ProcessKeeper) -> bool:
    """Tell whether the keeper has nothing to do, and sleeps."""
    return not keeper._ready and keeper._sleeping_until == float("inf")


def test_a_wake_up_that_meets_the_reading_of_an_earlier_one_is_not_the_last(
    keeper: ProcessKeeper,
) -> None:
    """A signal that arrives while the keeper takes away the one before must not make it deaf to
    the next.
    """
    one, meanwhile, next_one = Kept(), Kept(), Kept()
    keeper._wake_read = meddler = Meddler(keeper._wake_read)  # type: ignore[assignment]
    meddler.act = lambda: keeper.wake(meanwhile)
    keeper.wake(one)
    assert one.flushed.wait(BOUND)
    assert meanwhile.flushed.wait(BOUND)
    wait_for(lambda: asleep(keeper))
    keeper.wake(next_one)
    assert next_one.flushed.wait(BOUND / 10), "the keeper sleeps on"


def test_a_signal_that_comes_late_does_not_keep_the_keeper_awake(keeper: ProcessKeeper) -> None:
    """A thread may lose the processor between announcing a signal and sending it; the keeper then
    must not turn in circles.
    """
    turns: list[float | None] = []
    original = keeper._timeout

    def counted(retry: bool) -> float | None:
        timeout = original(retry)
        turns.append(timeout)
        return timeout

    keeper._timeout = counted  # type: ignore[method-assign]
    keeper._wake_write = meddler = Meddler(keeper._wake_write)  # type: ignore[assignment]
    elsewhere = threading.Event()
    keeper.call_at(time.monotonic() + 100 * MS, elsewhere.set)  # wakes it meanwhile
    wait_for(lambda: not keeper._signalled)
    meddler.act = lambda: elsewhere.wait(BOUND)
    late = Kept()
    keeper.wake(late)
    assert late.flushed.wait(BOUND)
    turns.clear()
    # a keeper that turns in circles makes thousands of turns meanwhile
    time.sleep(100 * MS)
    assert len(turns) < 20


def test_broadcasts_to_several_connections_never_get_stuck(server: WebSocketServer) -> None:
    """Each broadcast reaches each of two readers before the next: the wake-ups come close
    together, a hundred times.
    """
    with upgraded(server.port) as one, upgraded(server.port) as other:
        wait_for(lambda: server.websocket_connections == 2)
        for peer in (one, other):
            peer.sock.settimeout(BOUND / 5)
        for number in range(100):
            frame = WebSocketFrame(focBinary, number.to_bytes(4, "big") + bytes(100_000))
            assert server.websocket_broadcast(frame) == 2
            for peer in (one, other):
                assert peer.receive_opcode(focBinary).payload[:4] == frame.payload[:4]


def test_cancelled_timers_do_not_pile_up() -> None:
    """Each connection takes its heartbeat back when it ends; what remains of that does not wait
    for the time when it would be due.
    """
    keeper = ProcessKeeper("test")
    try:
        due = Recorder()
        later = [keeper.call_at(time.monotonic() + 3600, lambda: None) for _ in range(10)]
        for number in range(2_000):
            keeper.call_at(time.monotonic() + 3600, lambda: None).cancel()
            if number % 500 == 0:
                keeper.call_at(time.monotonic() + 20 * MS, partial(due.add, "due", number))
        due.wait("due", 4)
        kept = [timer for _, _, timer in [*keeper._timers, *keeper._new_timers]]
        assert len(kept) < 200
        assert all(timer in kept for timer in later)
    finally:
        keeper.stop()


def test_a_connection_that_fails_under_watch_harms_no_other(
    keeper: ProcessKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong while the keeper stands in for one loop, it goes on to look after the
    others.
    """
    looks = Recorder()

    class Failing:
        def stand_in(self, now: float) -> object:
            raise MemoryError("this one only")

    class Healthy:
        def stand_in(self, now: float) -> object:
            looks.add("look")
            return None

    keeper.watch(Failing(), 10 * MS)
    keeper.watch(Healthy(), 10 * MS)
    looks.wait("look", 3)
    assert "this one only" in caplog.text


def test_a_finaliser_at_each_line_of_the_keepers_thread_loses_no_work() -> None:
    """A timer and a flush, which it asks for, and those that others have asked for."""
    for line in each_line(keeper_module):
        done: list[str] = []
        works = InterruptedKeeper(line, done)
        try:
            works.wake(Flushed(done, "flush"))
            works.call_at(monotonic() + 1 * MS, lambda: done.append("timer"))  # noqa: B023
            wait_for(lambda: {"flush", "timer"} <= set(done))  # noqa: B023
            if line.reached:
                wait_for(lambda: {"inner flush", "inner timer"} <= set(done))  # noqa: B023
        finally:
            works.stop()
        assert len(set(done)) == len(done), line.number


class Flushed:
    """A connection whose frames are sent at once."""

    def __init__(self, done: list[str], name: str) -> None:
        self._done = done
        self._name = name

    def flush_queued(self) -> FlushResult:
        self._done.append(self._name)
        return FlushResult.done

    def fileno(self) -> int:
        return -1


class InterruptedKeeper(ProcessKeeper):
    """A keeper, in whose thread a finaliser asks for work at a *line*, and notes it as *done*."""

    def __init__(self, line: Line, done: list[str]) -> None:
        super().__init__("a keeper")
        self._line = line
        self._done = done

    def _turn(self, selector: Any, blocked: Any, retry: Any) -> None:
        with self._line.interrupted_by(self._ask):
            super()._turn(selector, blocked, retry)

    def _ask(self) -> None:
        self.wake(Flushed(self._done, "inner flush"))
        self.call_at(monotonic(), lambda: self._done.append("inner timer"))
