"""The keeper's thread serves all connections: nothing that is raised in it ends it, and it can be
needed anywhere, in a signal handler too.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support import BOUND, MS

from mormot_ws.process.keeper import FlushResult, ProcessKeeper


class Connection:
    """Raises what it is told when the keeper does something for it, and remembers that it did."""

    def __init__(self, exception: BaseException | None = None) -> None:
        self._exception = exception
        self.served = threading.Event()

    def _serve(self) -> None:
        self.served.set()
        if self._exception is not None:
            raise self._exception

    def flush_queued(self) -> FlushResult:
        self._serve()
        return FlushResult.done

    def stand_in(self, now: float) -> None:
        self._serve()

    def fileno(self) -> int:
        return -1


@pytest.fixture
def keeper() -> Iterator[ProcessKeeper]:
    """A keeper whose thread may have been started."""
    keeper = ProcessKeeper("test keeper")
    yield keeper
    keeper.stop()
    assert keeper._thread is None or not keeper._thread.is_alive()


def flush(keeper: ProcessKeeper, connection: Connection) -> None:
    """Let the keeper flush *connection*."""
    keeper.wake(connection)


def stand_in(keeper: ProcessKeeper, connection: Connection) -> None:
    """Let the keeper stand in for *connection*, soon and often."""
    keeper.watch(connection, 5 * MS)


def run_timer(keeper: ProcessKeeper, connection: Connection) -> None:
    """Let the keeper run a timer of *connection*."""
    keeper.call_at(0, lambda: connection.stand_in(0))


NEEDS = [flush, stand_in, run_timer]
Need = Callable[[ProcessKeeper, Connection], None]


class FailingHandler(logging.Handler):
    """A log handler with a bug."""

    def handle(self, record: logging.LogRecord) -> bool:
        raise SystemExit("a bug in a log handler")


@pytest.mark.parametrize("need", NEEDS)
@pytest.mark.parametrize("exception", [ValueError("a bug"), SystemExit(1), KeyboardInterrupt()])
def test_an_exception_of_any_kind_is_logged_and_hurts_no_other_connection(
    need: Need, exception: BaseException, keeper: ProcessKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """What flushing, standing in or a timer raises for one connection is a log record at ERROR; the
    others are served by the same thread.
    """
    broken, sound = Connection(exception), Connection()
    need(keeper, broken)
    assert broken.served.wait(BOUND)
    thread = keeper._thread
    need(keeper, sound)
    assert sound.served.wait(BOUND)
    assert keeper._thread is thread
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert records
    assert "test keeper" in records[0].getMessage()
    assert records[0].exc_info is not None
    assert records[0].exc_info[1] is exception
    keeper.unwatch(broken)


@pytest.mark.parametrize("need", NEEDS)
def test_a_failing_log_handler_does_not_end_the_thread(
    need: Need, keeper: ProcessKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that raises, even ``SystemExit``, while the keeper reports a fault changes
    nothing; the hook for what cannot be raised is told.
    """
    told = threading.Event()
    monkeypatch.setattr("sys.unraisablehook", lambda _: told.set())
    handler = FailingHandler()
    logging.getLogger("mormot_ws").addHandler(handler)
    try:
        broken, sound = Connection(ValueError("a bug")), Connection()
        need(keeper, broken)
        assert broken.served.wait(BOUND)
        need(keeper, sound)
        assert sound.served.wait(BOUND)
        assert told.wait(BOUND)
        keeper.unwatch(broken)
    finally:
        logging.getLogger("mormot_ws").removeHandler(handler)


def test_a_turn_that_fails_is_not_the_last(
    keeper: ProcessKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what is nobody's fault, a lack of memory, does not end the thread."""
    first, second = Connection(), Connection()
    keeper.wake(first)
    assert first.served.wait(BOUND)
    original = keeper._drain_signals

    def fail_once() -> None:
        keeper._drain_signals = original  # type: ignore[method-assign]
        raise MemoryError

    keeper._drain_signals = fail_once  # type: ignore[method-assign]
    keeper.wake(second)
    assert second.served.wait(BOUND)
    assert "an iteration of the keeper's loop failed" in caplog.text


@pytest.mark.parametrize("need", NEEDS)
def test_a_thread_that_cannot_be_started_is_tried_again_with_the_next_need(
    need: Need, keeper: ProcessKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a thread the caller gets the error, no descriptor is left, and the next call starts
    it; what was handed over before is then done too.
    """

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    early, late = Connection(), Connection()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            need(keeper, early)
    assert keeper._wake_read is None
    assert keeper._wake_write is None
    need(keeper, late)
    assert late.served.wait(BOUND)
    assert early.served.wait(BOUND)


def test_a_signal_while_the_thread_is_started_may_need_it(
    keeper: ProcessKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler that interrupts the start of the thread uses the keeper, without a deadlock
    and without a second thread.
    """
    original = threading.Thread.start
    connections = [Connection(), Connection(), Connection()]
    started = []

    def interrupted(thread: threading.Thread) -> None:
        started.append(thread)
        for need, connection in zip(NEEDS, connections, strict=True):
            need(keeper, connection)
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    keeper.call_at(0, lambda: None)
    for connection in connections:
        assert connection.served.wait(BOUND)
    assert len(started) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such signals")
def test_signal_handlers_use_the_keeper_whatever_they_interrupt(keeper: ProcessKeeper) -> None:
    """Thousands of signals in the middle of the keeper's own methods deadlock nothing and lose
    nothing.
    """
    flushed, ran = [], []

    class Counted(Connection):
        def flush_queued(self) -> FlushResult:
            flushed.append(self)
            return FlushResult.done

    expected = []

    def on_signal(*_: object) -> None:
        connection = Counted()
        expected.append(connection)
        keeper.watch(connection, 60)
        keeper.call_at(0, lambda: ran.append(connection))
        keeper.wake(connection)
        keeper.unwatch(connection)

    previous = signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
    try:
        end = time.monotonic() + 300 * MS
        while time.monotonic() < end:
            on_signal()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    last = threading.Event()
    keeper.call_at(time.monotonic(), last.set)
    assert last.wait(BOUND)
    assert set(flushed) == set(expected)
    assert set(ran) == set(expected)


def test_stop_is_bounded_where_a_log_handler_keeps_the_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that does not come back is left behind, with a line in the log."""
    monkeypatch.setattr("mormot_ws.process.keeper._STOP_SECONDS", 50 * MS)
    keeper, over = ProcessKeeper("test keeper"), threading.Event()
    inside = threading.Event()
    keeper.call_at(0, lambda: (inside.set(), over.wait(BOUND)))
    assert inside.wait(BOUND)
    began = time.monotonic()
    keeper.stop()
    assert time.monotonic() - began < BOUND / 2
    assert "does not end" in caplog.text
    over.set()
    monkeypatch.undo()
    keeper.stop()
