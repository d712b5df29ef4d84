"""From the notes of a storm to its figures, and the table. Pure: numbers in, numbers and text
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

#: "spread" means that no second has more than so many times the mean
SPREAD_LIMIT = 3.0


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of *values* do not exceed; NaN without
    values.
    """
    if not values:
        return float("nan")
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def per_second(times: Sequence[float], begin: float, end: float) -> list[int]:
    """Return how many of *times* fall into each whole second from *begin* on, to the one that
    *end* is in.
    """
    counts = [0] * max(1, ceil(end - begin))
    for at in times:
        if begin <= at <= end:
            counts[min(floor(at - begin), len(counts) - 1)] += 1
    return counts


def peak(times: Sequence[float], width: float) -> int:
    """Return the greatest number of *times* within any window of *width* seconds."""
    times = sorted(times)
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > width:
            first += 1
        most = max(most, last - first + 1)
    return most


@dataclass(frozen=True)
class Storm:
    """One storm, as it was noted. All times are of the one monotonic clock, in seconds."""

    library: str
    clients: int
    processes: int
    #: when the server was killed
    killed: float
    #: when the next one listened
    returned: float
    #: when we looked last
    ended: float
    #: of all clients, from the kill on
    attempts: Sequence[float]
    #: the first upgrade of each client after the server's return; those that did not come back are
    #: missing
    back: Sequence[float]
    #: when the new server accepted TCP connections, and when it had upgraded them
    accepted: Sequence[float]
    upgraded: Sequence[float]
    #: threads in the fleet's processes
    threads: int
    #: what ended threads of the fleets
    errors: Sequence[str]

    @property
    def outage(self) -> float:
        """Seconds without a server."""
        return self.returned - self.killed

    @property
    def times_to_return(self) -> list[float]:
        """Seconds from the server's return to each client's upgrade."""
        return sorted(at - self.returned for at in self.back)

    @property
    def last_back(self) -> float:
        """When the last of them was back."""
        return max(self.back, default=self.ended)

    @property
    def missing(self) -> int:
        """How many clients did not come back."""
        return self.clients - len(self.back)

    @property
    def outage_series(self) -> list[int]:
        """Attempts in each second of the outage."""
        return per_second(
            [at for at in self.attempts if at < self.returned], self.killed, self.returned
        )

    @property
    def recovery_series(self) -> list[int]:
        """Attempts in each second from the server's return to the last upgrade."""
        return per_second(self.attempts, self.returned, self.last_back)

    @property
    def spread(self) -> float:
        """The busiest second of the outage, in multiples of the mean per second of the outage."""
        series = self.outage_series
        return max(series) / (sum(series) / self.outage) if any(series) else 0.0

    @property
    def arrival_peak(self) -> int:
        """The greatest number of TCP connections that the new server accepted within 100 ms."""
        return peak(self.accepted, 0.1)

    def series_text(self) -> str:
        """Return both series in a line."""
        return (
            f"{self.library:18s} outage {' '.join(map(str, self.outage_series))}"
            f" | back {' '.join(map(str, self.recovery_series))}"
        )


_HEAD = (
    "library",
    "clients",
    "threads",
    "outage s",
    "attempts",
    "busiest s",
    "x mean",
    "median s",
    "95 % s",
    "last s",
    "missing",
    "accepts/s",
    "peak/100 ms",
)


def table(storms: Sequence[Storm]) -> str:
    """Return the table, one line per storm."""
    rows = [_HEAD, *map(_row, storms)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in rows
    ]
    return "\n".join("  ".join(line) for line in lines)


def _row(storm: Storm) -> tuple[str, ...]:
    times = storm.times_to_return
    accepting = max(storm.accepted, default=0.0) - min(storm.accepted, default=0.0)
    rate = f"{len(storm.accepted) / accepting:.0f}" if accepting > 0 else "-"
    return (
        storm.library,
        str(storm.clients),
        str(storm.threads),
        f"{storm.outage:.2f}",
        str(sum(storm.outage_series)),
        str(max(storm.outage_series)),
        f"{storm.spread:.2f}",
        f"{percentile(times, 50):.2f}",
        f"{percentile(times, 95):.2f}",
        f"{percentile(times, 100):.2f}",
        str(storm.missing),
        rate,
        str(storm.arrival_peak),
    )
