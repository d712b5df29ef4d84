"""SignalQueue: no signal is lost that comes while somebody waits."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from queue import Empty

import pytest
from support import BOUND

from mormot_ws.front.signals import SignalQueue

pytestmark = [
    pytest.mark.signals,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals"),
]


@pytest.fixture
def queue() -> Iterator[SignalQueue[str]]:
    """A queue into which SIGUSR1 puts a word."""
    queue: SignalQueue[str] = SignalQueue()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: queue.put("signalled"))
    try:
        yield queue
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_items_come_in_order_and_waiting_is_bounded(queue: SignalQueue[str]) -> None:
    queue.put("a")
    queue.put("b")
    assert [queue.get(), queue.get(0)] == ["a", "b"]
    for seconds in (0, -1, 0.01):
        with pytest.raises(Empty):
            queue.get(seconds)


def test_another_thread_ends_the_wait(queue: SignalQueue[str]) -> None:
    timer = threading.Timer(0.02, queue.put, ["late"])
    timer.start()
    assert queue.get(BOUND) == "late"
    timer.join()


def test_a_signal_that_another_thread_gets_ends_the_wait(queue: SignalQueue[str]) -> None:
    """The main thread is in the midst of the system call, which the signal does not interrupt."""

    def raise_it() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    timer = threading.Timer(0.05, raise_it)
    try:
        timer.start()
        assert queue.get(BOUND) == "signalled"
    finally:
        timer.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def test_the_descriptor_for_signals_is_put_back(queue: SignalQueue[str]) -> None:
    """An event loop of the application may have one."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        queue.put("x")
        queue.get()
        assert signal.set_wakeup_fd(before) == write
    finally:
        os.close(read)
        os.close(write)


def test_it_works_in_any_thread(queue: SignalQueue[str]) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(queue.get(BOUND)))
    thread.start()
    queue.put("x")
    thread.join(BOUND)
    assert found == ["x"]
