"""The figures of the storm (``python -m tests.storm``); the storm itself takes its time, and is no
test.
"""

from __future__ import annotations

import math

import pytest
from storm.figures import Storm, peak, per_second, percentile, table


def a_storm(attempts: list[float], back: list[float]) -> Storm:
    """Return the storm of 4 clients that lost their server at 100 for 4 s."""
    return Storm(
        "ours", 4, 2, 100.0, 104.0, 110.0, attempts, back, [104.1, 104.15, 104.4], [104.2], 9, []
    )


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (95, 4), (100, 4), (1, 1)])
def test_percentile(percent: float, value: float) -> None:
    """It is one of the values, whatever their order."""
    assert percentile([4, 1, 3, 2], percent) == value


def test_percentile_of_nothing_is_not_a_number() -> None:
    """A storm that nobody survives has no median."""
    assert math.isnan(percentile([], 50))


def test_times_are_counted_by_whole_seconds() -> None:
    """From the beginning on; what lies outside is not counted, and the last instant belongs to the
    last second.
    """
    assert per_second([9.9, 10.0, 10.5, 11.0, 12.0, 12.1], 10.0, 12.0) == [2, 2]


def test_the_peak_is_that_of_any_window() -> None:
    """Windows do not begin at whole numbers."""
    assert peak([0.0, 0.95, 1.0, 1.04, 2.0], 0.1) == 3
    assert peak([], 0.1) == 0


def test_spread_compares_the_busiest_second_with_the_mean_of_the_outage() -> None:
    """Attempts after the server's return do not count."""
    storm = a_storm([100.1, 100.2, 100.3, 101.5, 102.5, 103.5, 104.5, 104.6], [104.5, 106.0, 105.0])
    assert storm.outage_series == [3, 1, 1, 1]
    assert storm.spread == 2.0
    assert storm.recovery_series == [2, 0]
    assert storm.times_to_return == [0.5, 1.0, 2.0]
    assert storm.missing == 1
    assert storm.arrival_peak == 2
    assert "1.00" in table([storm])


def test_nobody_attempting_is_spread() -> None:
    """Then there is no busiest second."""
    assert a_storm([], []).spread == 0.0
