# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""Medians, ratios, verdicts, and how they are printed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from .suite import OURS, Benchmark, Target

OK, MISSED, UNKNOWN = "OK", "MISSED", "-"


@dataclass
class Result:
    """The figures of one benchmark, one per contestant and round, in the order of the rounds."""

    benchmark: Benchmark
    samples: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Why a contestant has no figures."""

    def median(self, label: str) -> float | None:
        """Return the median figure of a contestant, or None if it has no figures."""
        return statistics.median(self.samples[label]) if self.samples.get(label) else None

    def ratio(self, label: str, base: str, net_of: str | None = None) -> float | None:
        """Return the median of the ratios within each round.

        Noise comes and goes, and what disturbs one contestant of a round mostly disturbs its
        neighbours too: the ratio of figures taken together is steadier than the ratio of medians.
        If asked for, the figure of a third contestant is taken off both sides first.
        """
        figures, bases = self.samples.get(label), self.samples.get(base)
        if not figures or not bases:
            return None
        floors = self.samples.get(net_of) if net_of else [0.0] * len(figures)
        if not floors or any(other <= floor for other, floor in zip(bases, floors, strict=True)):
            return None
        triples = zip(figures, bases, floors, strict=True)
        return statistics.median(
            (figure - floor) / (other - floor) for figure, other, floor in triples
        )

    def verdict(self, target: Target) -> tuple[float | None, str]:
        """Return what a target is about, a figure or a ratio, and if it is as expected."""
        if target.peer is None:
            value = self.median(target.subject)
        else:
            value = self.ratio(target.subject, target.peer, target.net_of)
        if value is None:
            return None, UNKNOWN
        return value, OK if target.holds(value) else MISSED


def _number(value: float | None) -> str:
    """Print three significant digits or all before the point, thousands apart."""
    if value is None:
        return "-"
    digits = 2 if value < 10 else 1 if value < 1000 else 0
    return f"{value:,.{digits}f}".replace(",", " ")


def _table(rows: list[list[str]], text_columns: tuple[int, ...]) -> list[str]:
    """Align the columns of a table: text to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index in text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _advantage(result: Result, label: str) -> str:
    """Tell how many times better ours is than this peer; below 1 it is worse."""
    if label.startswith(OURS):
        return ""
    ratio = (
        result.ratio(label, OURS) if result.benchmark.lower_is_better else result.ratio(OURS, label)
    )
    return _number(ratio)


def _target_rows(result: Result) -> list[list[str]]:
    """Return a row for each target: whose, what, the figure or ratio measured, and the verdict."""
    rows = []
    for target in result.benchmark.targets:
        value, verdict = result.verdict(target)
        unit = result.benchmark.unit if target.peer is None else f"x {target.peer}"
        measured = "-" if value is None else f"{_number(value)} {unit}"
        rows.append([target.subject, str(target), measured, verdict])
    return rows


def render(result: Result) -> str:
    """Return the table of one benchmark."""
    benchmark = result.benchmark
    order = "lower" if benchmark.lower_is_better else "higher"
    rows = [["", "median", "min", "max", f"/ {benchmark.base}", "ours better by"]]
    for label in result.samples:
        figures = result.samples[label]
        rows.append(
            [
                label,
                _number(result.median(label)),
                _number(min(figures, default=None)),
                _number(max(figures, default=None)),
                _number(result.ratio(label, benchmark.base)),
                _advantage(result, label),
            ]
        )
    lines = [f"{benchmark.title}: {benchmark.unit}, {order} is better", *_table(rows, (0,))]
    lines += [f"  {label}: {problem}" for label, problem in result.problems.items()]
    lines += [f"  target: {' | '.join(row)}" for row in _target_rows(result)]
    return "\n".join(lines)


def summary(results: list[Result]) -> str:
    """Return all targets at a glance."""
    rows = [["benchmark", "contestant", "target", "measured", "verdict"]]
    for result in results:
        rows += [[result.benchmark.name, *row] for row in _target_rows(result)]
    return "\n".join(["Targets", *_table(rows, (0, 1, 2, 3, 4))])


def as_json(result: Result) -> dict[str, Any]:
    """Return everything about one benchmark, as what JSON knows."""
    benchmark = result.benchmark
    return {
        "title": benchmark.title,
        "unit": benchmark.unit,
        "lower_is_better": benchmark.lower_is_better,
        "base": benchmark.base,
        "contestants": {
            label: {
                "samples": figures,
                "median": result.median(label),
                "ratio_to_base": result.ratio(label, benchmark.base),
                "problem": result.problems.get(label),
            }
            for label, figures in result.samples.items()
        },
        "targets": [
            {
                "subject": target.subject,
                "target": str(target),
                "measured": result.verdict(target)[0],
                "verdict": result.verdict(target)[1],
            }
            for target in benchmark.targets
        ],
    }
