"""Patience: which peers are given up, by the bytes that they take."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mormot_ws.sockets.patience import Patience
from mormot_ws.sockets.transport import Transport
from tests.support.waiting import wait_for


class Clock:
    """The clock of the module under test, which goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("mormot_ws.sockets.patience.monotonic", clock)
    return clock


class Peer:
    """What the kernel tells of a peer."""

    def __init__(self) -> None:
        self.taken: int | None = 0

    def __call__(self) -> tuple[int, int] | None:
        return None if self.taken is None else (self.taken, 1000)


def gives_up_after(patience: Patience, clock: Clock) -> float:
    """Return the seconds until *patience* ends."""
    begin = clock.now
    while clock.now - begin < 1000:
        try:
            patience.look()
        except BlockingIOError:
            return clock.now - begin
        clock.now += 0.125
    raise AssertionError("never")


def test_a_peer_that_takes_nothing_is_given_up_after_the_limit(clock: Clock) -> None:
    assert gives_up_after(Patience(Peer(), 10_000), clock) == pytest.approx(10, abs=0.2)


def test_where_the_kernel_does_not_tell_only_what_it_takes_counts(clock: Clock) -> None:
    peer = Peer()
    peer.taken = None
    patience = Patience(peer, 10_000)
    clock.now += 1
    patience.taken()
    assert gives_up_after(patience, clock) == pytest.approx(10, abs=0.2)


def test_a_fast_peer_that_stops_is_given_up_after_the_limit(clock: Clock) -> None:
    """It has taken bytes all the time, and now nothing: no more than the limit for that."""
    peer = Peer()
    patience = Patience(peer, 10_000)
    for _ in range(100):
        clock.now += 0.5
        peer.taken = (peer.taken or 0) + 1
        patience.look()
    assert gives_up_after(patience, clock) == pytest.approx(10, abs=0.2)


def test_a_slow_peer_has_four_times_as_long(clock: Clock) -> None:
    """Its kernel reports much at once, after long pauses; but it is not waited for for ever."""
    peer = Peer()
    patience = Patience(peer, 10_000)
    for pause in (5, 13, 26, 39):
        clock.now += pause
        peer.taken = (peer.taken or 0) + 1
        patience.look()
    assert gives_up_after(patience, clock) == pytest.approx(40, abs=0.2)


def test_the_next_look_is_not_after_the_end(clock: Clock) -> None:
    patience = Patience(Peer(), 10_000)
    assert patience.step().seconds() == pytest.approx(1, abs=0.2)
    clock.now += 9.5
    assert patience.step().seconds() == pytest.approx(0.5, abs=0.2)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        with socket.create_connection(listener.getsockname()[:2]) as one:
            other, _ = listener.accept()
            with other:
                yield one, other


def test_a_peer_that_reads_less_than_makes_room_is_not_given_up(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """The kernel reports room when a third of its buffer is free. What the peer takes meanwhile
    counts.
    """
    one, other = ends
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    limit = 400
    transport = Transport(one, limit)
    if transport.output_state() is None:
        pytest.skip("this kernel does not tell")
    failed: list[BaseException] = []
    finished = threading.Event()

    def write() -> None:
        try:
            transport.sendall(bytes(64 << 20))
        except BaseException as exc:  # noqa: BLE001
            failed.append(exc)
        finished.set()

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: (transport.output_state() or (0, 0))[1] > 1 << 20)
    begin = time.monotonic()
    read = 0
    # 100 kB a second for four times the limit: far from making room
    while time.monotonic() - begin < 4 * limit / 1000:
        read += len(other.recv(2000))
        finished.wait(0.02)
    assert not failed
    assert read < 1 << 20
    begin = time.monotonic()
    # now it is dead
    assert finished.wait(10)
    writer.join(10)
    assert isinstance(failed[0], BlockingIOError)
    assert time.monotonic() - begin < 4 * limit / 1000 + 1
