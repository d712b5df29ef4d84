"""The reconnection policies: how long the waits are, how they grow, when they give up, and how
they start again. No clock, no sleep.
"""

from __future__ import annotations

import math
import random
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mormot_ws import reconnect_policies as reconnect
from mormot_ws.reconnect_policies import (
    ExponentialBackoff,
    FailureKind,
    LinearBackoff,
    ReconnectFailure,
    ReconnectPolicy,
    StopOn,
    failure_kind,
)

QUICK = settings(deadline=None, max_examples=100)

Policy = ExponentialBackoff | LinearBackoff
both = pytest.mark.parametrize("make", [ExponentialBackoff, LinearBackoff])


def failure(
    attempts: int = 0, elapsed_ms: float = 0, kind: FailureKind = FailureKind.connect
) -> ReconnectFailure:
    return ReconnectFailure(kind, "refused", attempts, elapsed_ms)


def waits(policy: ReconnectPolicy, number: int) -> list[float]:
    """Return the next *number* waits, none of which may be a giving up."""
    delays = []
    for attempts in range(number):
        delay = policy.next_delay(failure(attempts))
        assert delay is not None
        delays.append(delay)
    return delays


@pytest.fixture
def highest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every draw the highest one, so that the bounds become visible."""
    monkeypatch.setattr(reconnect.random, "uniform", lambda low, high: high)


@pytest.fixture
def lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every draw the lowest one."""
    monkeypatch.setattr(reconnect.random, "uniform", lambda low, high: low)


class TestReconnectFailure:
    def test_codes_default_to_none(self) -> None:
        """0 stands for a code that there was not."""
        told = ReconnectFailure(FailureKind.lost, "cut", 0, 0.0)
        assert (told.close_code, told.http_status) == (0, 0)

    def test_it_cannot_be_changed(self) -> None:
        """A policy is told, it does not tell."""
        told: Any = failure()
        with pytest.raises(AttributeError):
            told.attempts = 5

    def test_each_step_of_an_attempt_has_its_kind(self) -> None:
        """A policy can tell a lost connection from a refused port, a refused upgrade and a failing
        callback.
        """
        names = {"lost", "refused", "timeout", "tls", "connect", "upgrade", "callback"}
        assert {kind.value for kind in FailureKind} == {kind.name for kind in FailureKind} == names


class TestFailureKind:
    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (ConnectionRefusedError("refused"), FailureKind.refused),
            (TimeoutError("timed out"), FailureKind.timeout),
            (ssl.SSLCertVerificationError("self-signed"), FailureKind.tls),
            (ssl.SSLError("bad record"), FailureKind.tls),
            (ConnectionResetError("reset"), FailureKind.connect),
            (socket.gaierror(-2, "no such host"), FailureKind.connect),
            (OSError("no route"), FailureKind.connect),
            (ValueError("odd"), FailureKind.connect),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
    )
    def test_it_is_read_from_the_exception(self, error: BaseException, kind: FailureKind) -> None:
        """Refused, too late, TLS, and all the rest."""
        assert failure_kind(error) is kind


class TestExponentialBackoff:
    def test_the_bounds_double_up_to_the_cap(self, highest: None) -> None:
        """100, 200, 400 … and the cap from then on."""
        assert waits(ExponentialBackoff(100, 1000), 6) == [100, 200, 400, 800, 1000, 1000]

    def test_the_first_bound_is_100_ms_by_default(self, highest: None) -> None:
        """A short interruption is over at once."""
        assert waits(ExponentialBackoff(), 3) == [100, 200, 400]

    def test_the_draws_start_at_zero(self, lowest: None) -> None:
        """Full jitter: a fleet of clients spreads over the whole of each wait."""
        assert waits(ExponentialBackoff(100, 1000), 4) == [0, 0, 0, 0]

    @QUICK
    @given(
        base=st.floats(1, 5000),
        factor=st.floats(1, 100),
        seed=st.integers(0, 1000),
        number=st.integers(1, 30),
    )
    def test_every_wait_is_within_its_bound(
        self, base: float, factor: float, seed: int, number: int
    ) -> None:
        """Whatever is drawn, no wait is negative or above min(base·2ⁿ, cap)."""
        state = random.getstate()
        random.seed(seed)
        try:
            policy = ExponentialBackoff(base, base * factor)
            for attempt, delay in enumerate(waits(policy, number)):
                assert 0 <= delay <= min(base * 2**attempt, base * factor)
        finally:
            random.setstate(state)

    def test_the_waits_are_drawn_anew(self) -> None:
        """Two clients that lose the same server do not return in step."""
        assert waits(ExponentialBackoff(), 8) != waits(ExponentialBackoff(), 8)

    def test_the_default_cap_is_drawn_between_10_and_15_seconds(self) -> None:
        """Once per object, as the original does."""
        caps = {ExponentialBackoff().cap_ms for _ in range(50)}
        assert all(10_000 <= cap <= 15_000 for cap in caps)
        assert len(caps) > 1

    def test_the_default_cap_is_never_exceeded(self, highest: None) -> None:
        """However long the server is away."""
        assert max(waits(ExponentialBackoff(), 60)) == 15_000

    def test_a_long_base_does_not_exceed_the_default_cap(self, highest: None) -> None:
        """``cap_ms`` is the highest bound, wherever the first one starts."""
        policy = ExponentialBackoff(base_ms=20_000)
        assert max(waits(policy, 3)) <= policy.cap_ms

    def test_a_good_connection_starts_the_bounds_again(self, highest: None) -> None:
        """After ``reset`` the next wait is a short one."""
        policy = ExponentialBackoff(100, 1000)
        waits(policy, 5)
        policy.reset()
        assert waits(policy, 2) == [100, 200]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"base_ms": 0},
            {"base_ms": -1},
            {"base_ms": math.nan},
            {"base_ms": math.inf},
            {"cap_ms": math.nan},
            {"cap_ms": math.inf},
            {"max_time_ms": math.nan},
            {"cap_ms": 50},
            {"cap_ms": 0},
            {"max_attempts": -1},
            {"max_time_ms": -1},
        ],
        ids=str,
    )
    def test_values_without_a_meaning_are_a_value_error(self, arguments: dict[str, Any]) -> None:
        """A base of nothing, a cap below the base, negative limits."""
        with pytest.raises(ValueError, match="base_ms must be above 0"):
            ExponentialBackoff(**arguments)

    def test_the_cap_may_be_the_base(self, highest: None) -> None:
        """Constant bounds are allowed."""
        assert waits(ExponentialBackoff(100, 100), 3) == [100, 100, 100]

    def test_the_repr_shows_its_numbers(self) -> None:
        """For a log line."""
        assert (
            repr(ExponentialBackoff(100, 12_345.6))
            == "ExponentialBackoff(base_ms=100, cap_ms=12346)"
        )


class TestLinearBackoff:
    def test_each_wait_is_a_step_longer_up_to_the_cap(self, highest: None) -> None:
        """200, 400, 600 … and the cap from then on."""
        assert waits(LinearBackoff(200, 700), 5) == [200, 400, 600, 700, 700]

    def test_a_step_may_be_nothing(self, lowest: None) -> None:
        """The original draws from 0 to 199 ms, for the first wait too."""
        assert waits(LinearBackoff(), 3) == [0, 0, 0]

    @QUICK
    @given(step=st.floats(1, 1000), cap=st.floats(1, 20_000), number=st.integers(1, 30))
    def test_waits_never_shrink_and_never_grow_by_more_than_a_step(
        self, step: float, cap: float, number: int
    ) -> None:
        """Whatever is drawn, and never above the cap."""
        before = 0.0
        for delay in waits(LinearBackoff(step, cap), number):
            assert before <= delay <= min(before + step, cap)
            before = delay

    def test_the_default_step_is_that_of_the_native_client(self, highest: None) -> None:
        """Up to 200 ms more for each attempt."""
        assert waits(LinearBackoff(), 3) == [200, 400, 600]

    def test_the_default_cap_is_drawn_as_by_the_native_client(self) -> None:
        """Once per object, from 10 000 to 14 999 ms."""
        caps = {LinearBackoff().cap_ms for _ in range(50)}
        assert all(10_000 <= cap <= 14_999 for cap in caps)
        assert len(caps) > 1

    def test_the_default_cap_ends_at_14_999(self, highest: None) -> None:
        """The highest draw."""
        assert LinearBackoff().cap_ms == 14_999

    def test_a_good_connection_starts_again_from_no_wait(self, highest: None) -> None:
        """After ``reset`` the next wait is one step."""
        policy = LinearBackoff(200, 1000)
        waits(policy, 4)
        policy.reset()
        assert waits(policy, 2) == [200, 400]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"step_ms": 0},
            {"step_ms": -1},
            {"step_ms": math.nan},
            {"step_ms": math.inf},
            {"cap_ms": math.nan},
            {"cap_ms": math.inf},
            {"max_time_ms": math.nan},
            {"cap_ms": 0},
            {"cap_ms": -5},
            {"max_attempts": -1},
            {"max_time_ms": -1},
        ],
        ids=str,
    )
    def test_values_without_a_meaning_are_a_value_error(self, arguments: dict[str, Any]) -> None:
        """A step or cap of nothing, negative limits."""
        with pytest.raises(ValueError, match="step_ms and cap_ms must be above 0"):
            LinearBackoff(**arguments)

    def test_the_repr_shows_its_numbers(self) -> None:
        """For a log line."""
        assert repr(LinearBackoff(200, 12_345.6)) == "LinearBackoff(step_ms=200, cap_ms=12346)"


class Recorded:
    """A policy that always says 7 and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[ReconnectFailure | str] = []

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        self.told.append(failure)
        return 7

    def reset(self) -> None:
        self.told.append("reset")

    def __repr__(self) -> str:
        return "Recorded()"


def refused_upgrade(http_status: int) -> ReconnectFailure:
    return ReconnectFailure(FailureKind.upgrade, "refused", 1, 10.0, http_status=http_status)


def lost(close_code: int) -> ReconnectFailure:
    return ReconnectFailure(FailureKind.lost, "closed", 0, 0.0, close_code=close_code)


class TestStopOn:
    @pytest.mark.parametrize("http_status", [401, 403, 404])
    def test_a_refusal_that_will_not_heal_ends_it(self, http_status: int) -> None:
        """By default 401, 403 and 404; the other policy is not asked."""
        other = Recorded()
        assert StopOn(other).next_delay(refused_upgrade(http_status)) is None
        assert other.told == []

    def test_a_close_code_that_will_not_heal_ends_it(self) -> None:
        """By default 1008, a policy violation."""
        assert StopOn(Recorded()).next_delay(lost(1008)) is None

    @pytest.mark.parametrize(
        "told", [refused_upgrade(503), refused_upgrade(0), lost(1001), lost(1006)], ids=str
    )
    def test_anything_else_is_for_the_other_policy(self, told: ReconnectFailure) -> None:
        """Its answer is the result."""
        other = Recorded()
        assert StopOn(other).next_delay(told) == 7
        assert other.told == [told]

    def test_a_close_code_counts_at_the_loss_only(self) -> None:
        """Later failures carry the code of the lost connection, which was judged then."""
        told = ReconnectFailure(FailureKind.refused, "refused", 1, 10.0, close_code=1008)
        assert StopOn(Recorded()).next_delay(told) == 7

    def test_both_lists_can_be_chosen(self) -> None:
        """They replace the defaults."""
        policy = StopOn(Recorded(), http_statuses=[410], close_codes={4000})
        assert [policy.next_delay(told) for told in (refused_upgrade(410), lost(4000))] == [
            None,
            None,
        ]
        assert [policy.next_delay(told) for told in (refused_upgrade(403), lost(1008))] == [7, 7]

    def test_reset_goes_to_the_other_policy(self) -> None:
        """A good connection is good news for it."""
        other = Recorded()
        StopOn(other).reset()
        assert other.told == ["reset"]

    def test_without_a_policy_it_is_the_default_one(self) -> None:
        """``settings.reconnect_policy = StopOn`` needs no more."""
        assert type(StopOn().policy) is ExponentialBackoff

    def test_the_repr_shows_what_ends_it(self) -> None:
        """For a log line."""
        assert repr(StopOn(Recorded())) == "StopOn(Recorded(), [401, 403, 404], [1008])"


class TestGivingUp:
    @both
    def test_by_default_it_never_gives_up(self, make: Callable[..., Policy]) -> None:
        """A million attempts and a year later there is still a next one."""
        assert make().next_delay(failure(10**6, 365 * 86_400_000.0)) is not None

    @both
    def test_it_gives_up_after_so_many_failed_attempts(self, make: Callable[..., Policy]) -> None:
        """With ``max_attempts=3`` the third failure in a row is the last."""
        policy = make(max_attempts=3)
        assert [policy.next_delay(failure(attempts)) is None for attempts in range(5)] == [
            False
        ] * 3 + [True] * 2

    @both
    def test_it_gives_up_so_long_after_the_loss(self, make: Callable[..., Policy]) -> None:
        """With ``max_time_ms`` no attempt starts from that time on."""
        policy = make(max_time_ms=1000)
        assert policy.next_delay(failure(7, 999.9)) is not None
        assert policy.next_delay(failure(7, 1000)) is None

    @both
    def test_either_limit_is_enough(self, make: Callable[..., Policy]) -> None:
        """Whichever is reached first."""
        policy = make(max_attempts=3, max_time_ms=1000)
        assert policy.next_delay(failure(3, 10)) is None
        assert policy.next_delay(failure(1, 2000)) is None
        assert policy.next_delay(failure(2, 999)) is not None

    @both
    def test_giving_up_is_not_for_ever(self, make: Callable[..., Policy]) -> None:
        """The limits are judged by what is told each time: after the next loss it counts from
        nothing.
        """
        policy = make(max_attempts=1)
        assert policy.next_delay(failure(1)) is None
        policy.reset()
        assert policy.next_delay(failure(0)) is not None
