"""Deadline: the time that is left, on a clock that the tests set."""

from __future__ import annotations

import pytest

from mormot_ws.sockets import deadline
from mormot_ws.sockets.deadline import Deadline


class Clock:
    """The monotonic clock, in seconds, as far as the module sees it."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadline, "monotonic", clock)
    return clock


def test_the_time_left_shrinks_to_nothing(clock: Clock) -> None:
    """And never below: it may be given to a wait as it is."""
    end = Deadline(1_500)
    assert (end.seconds(), end.milliseconds(), end.passed) == (1.5, 1_500, False)
    clock.now += 1.25
    assert (end.seconds(), end.passed) == (0.25, False)
    clock.now += 0.25
    assert (end.seconds(), end.milliseconds(), end.passed) == (0.0, 0, True)
    clock.now += 9
    assert (end.seconds(), end.milliseconds(), end.passed) == (0.0, 0, True)


def test_milliseconds_are_rounded_up(clock: Clock) -> None:
    """A poll of 0 ms for the last part of a millisecond would turn in circles."""
    end = Deadline(1)
    clock.now += 0.0005
    assert end.milliseconds() == 1


def test_none_never_comes(clock: Clock) -> None:
    """Nor do its parts."""
    end = Deadline(None)
    clock.now += 1e9
    assert (end.seconds(), end.milliseconds(), end.passed) == (None, None, False)
    assert end.share(4).seconds() is None


def test_a_share_is_of_the_time_that_is_left(clock: Clock) -> None:
    """One of four after a second of five."""
    end = Deadline(5_000)
    clock.now += 1
    assert end.share(4).seconds() == 1.0


@pytest.mark.parametrize(
    ("whole", "part", "left"), [(2_000, 500, 0.5), (2_000, 3_000, 2.0), (None, 500, 0.5)]
)
def test_sooner_is_the_earlier_of_two(
    clock: Clock, whole: float | None, part: float, left: float
) -> None:
    """A step has a bound of its own, and that of the operation."""
    assert Deadline(whole).sooner(part).seconds() == left
