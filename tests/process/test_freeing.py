"""What is closed at the interpreter's end, and that nothing keeps anything else from it."""

from __future__ import annotations

import gc
import threading

import pytest
from support import BOUND
from support.lines import each_line

from mormot_ws.process import freeing, keeper
from mormot_ws.process.freeing import close_all_now, close_at_exit, forget_at_exit
from mormot_ws.sockets.deadline import Deadline


class Owner:
    """Something with connections; notes in *steps* what it is asked to do, and may fail."""

    def __init__(self, name: str, steps: list[str], fails: bool = False) -> None:
        self._name, self._steps, self._fails = name, steps, fails
        close_at_exit(self)

    def __eq__(self, other: object) -> bool:
        raise AssertionError("an application's comparison was run")

    __hash__ = None  # type: ignore[assignment]

    def begin_exit(self) -> None:
        self._steps.append(f"{self._name} begins")
        if self._fails:
            raise ValueError("a bug")

    def end_exit(self, deadline: Deadline) -> None:
        self._steps.append(f"{self._name} ends")


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test makes is there to be closed."""
    monkeypatch.setattr(freeing, "_alive", {})


def test_all_begin_before_one_is_waited_for() -> None:
    """In the order of their making; what was freed, or is gone, is left out."""
    steps: list[str] = []
    one, two, gone, freed = (Owner(name, steps) for name in ("one", "two", "gone", "freed"))
    forget_at_exit(freed)
    del gone
    gc.collect()
    close_all_now()
    assert steps == ["one begins", "two begins", "one ends", "two ends"]
    assert one is not two


def test_one_that_fails_keeps_no_other_open(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is in the log, all others are closed."""
    steps: list[str] = []
    owners = [Owner("one", steps, fails=True), Owner("two", steps)]
    close_all_now()
    assert steps == ["one begins", "two begins", "one ends", "two ends"]
    assert "closing at exit failed" in caplog.text
    assert len(owners) == 2


def test_others_may_come_and_go_meanwhile() -> None:
    """Owners are made and freed in other threads while all are closed."""
    steps: list[str] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            while not stop.is_set():
                owners = [Owner("x", []) for _ in range(20)]
                forget_at_exit(owners[0])
        except BaseException as exc:  # noqa: BLE001 - looked at below
            failures.append(exc)

    thread = threading.Thread(target=come_and_go, daemon=True)
    thread.start()
    try:
        for _ in range(300):
            owner = Owner("mine", steps)
            close_all_now()
            forget_at_exit(owner)
    finally:
        stop.set()
        thread.join(BOUND)
    assert not failures
    assert steps.count("mine ends") == 300


def works(found: keeper.ProcessKeeper) -> bool:
    """Tell whether the keeper calls what it is given."""
    ran = threading.Event()
    found.call_at(0, ran.set)
    return ran.wait(BOUND)


def test_the_shared_keeper_ends_with_its_last_user() -> None:
    """It is the same for all users; the next one gets a new one."""
    use, other_use = keeper.KeeperUse(), keeper.KeeperUse()
    first = use.begin()
    assert other_use.begin() is first
    assert use.begin() is first
    assert works(first)
    use.end()
    use.end()
    assert works(first)
    other_use.end()
    assert first._thread is not None
    assert not first._thread.is_alive()
    assert use.begin() is not first
    use.end()
    assert keeper._shared is None


@pytest.mark.parametrize("comes", [False, True])
def test_a_user_that_goes_in_the_middle_of_another_coming_ends_no_keeper_in_use(
    comes: bool,
) -> None:
    """A signal handler frees the last client while the main thread is getting the keeper for the
    next, or the other way round: that one gets a keeper that works.
    """
    for line in each_line(keeper):
        going, coming = keeper.KeeperUse(), keeper.KeeperUse()
        going.begin()
        got: list[keeper.ProcessKeeper] = []

        def come(coming: keeper.KeeperUse = coming, got: list[keeper.ProcessKeeper] = got) -> None:
            got.append(coming.begin())

        outer, inner = (going.end, come) if comes else (come, going.end)
        with line.interrupted_by(inner):
            outer()
        if line.reached:
            assert works(got[0]), line.number
            assert coming.begin() is got[0]
        coming.end()
        going.end()
        assert keeper._shared is None
    assert line.number > 5
