"""Percentiles, a text histogram, and short forms of times and sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ROWS = 10
_WIDTH = 40


@dataclass(frozen=True)
class Distribution:
    """The distribution of the round-trip times, in seconds."""

    count: int
    least: float
    median: float
    p95: float
    p99: float
    most: float
    mean: float

    def as_milliseconds(self) -> dict[str, Any]:
        """Return the distribution as a dictionary for JSON, with times in milliseconds."""
        return {
            "count": self.count,
            "min_ms": round(self.least * 1000, 4),
            "median_ms": round(self.median * 1000, 4),
            "p95_ms": round(self.p95 * 1000, 4),
            "p99_ms": round(self.p99 * 1000, 4),
            "max_ms": round(self.most * 1000, 4),
            "mean_ms": round(self.mean * 1000, 4),
        }


def distribution(seconds: Sequence[float]) -> Distribution | None:
    """Return the distribution of these times; None when there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Distribution(
        len(ordered),
        ordered[0],
        percentile(ordered, 50),
        percentile(ordered, 95),
        percentile(ordered, 99),
        ordered[-1],
        math.fsum(ordered) / len(ordered),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of the sorted values, by the nearest-rank method."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def histogram(seconds: Sequence[float], unicode: bool) -> list[str]:
    """Return a histogram of *seconds*: a line with a bar for each range.

    The ranges grow by a constant factor.
    """
    if not seconds:
        return []
    ordered = sorted(seconds)
    # outliers share the last row, so that they do not squeeze all other times into one row
    least, most = max(ordered[0], 1e-9), percentile(ordered, 99)
    factor = (most / least) ** (1 / (_ROWS - 1)) if most > least else 1.0
    counts = [0] * _ROWS
    for value in ordered:
        row = (
            int(math.log(value / least) / math.log(factor)) if factor > 1.0 and value > least else 0
        )
        counts[min(row, _ROWS - 1)] += 1
    rows = _ROWS if factor > 1.0 else 1
    highest = max(counts)
    lines = []
    for row in range(rows):
        bar = ("█" if unicode else "#") * math.ceil(counts[row] * _WIDTH / highest)
        lines.append(
            f"  {duration(least * factor**row):>8}  {bar:<{_WIDTH}}  {counts[row]}".rstrip()
        )
    return lines


def duration(seconds: float) -> str:
    """Return a short form of a time: ``3 µs``, ``0.25 ms``, ``42 ms``, ``1.5 s``."""
    if seconds < 0.0000995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s"


def size(count: float) -> str:
    """Return a short form of a number of bytes: ``512 B``, ``1.5 kB``, ``16.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
