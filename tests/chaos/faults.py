"""The schedule of faults, drawn from a seed. Pure: no clock, no socket, no process in here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

#: by what they happen to: kinds of faults. Each is drawn once before any is drawn again
_DECKS: dict[str, tuple[str, ...]] = {
    "server": ("kill", "stop", "freeze", "kill at once", "freeze long", "stop at once"),
    "network": (
        "blackhole",
        "throttle",
        "blackhole up",
        "delay",
        "throttle",
        "blackhole down",
        "throttle",
        "refuse",
    ),
    "links": (
        "cut some",
        "close some",
        "cut all",
        "truncate up",
        "close all",
        "truncate down",
        "cut some",
    ),
}
#: seconds from the end of a fault to the next one, shortest and longest
_PAUSES = {"server": (0.3, 1.5), "network": (0.1, 0.8), "links": (0.2, 1.2)}


@dataclass(frozen=True)
class Fault:
    """One fault."""

    kind: str
    #: seconds from the beginning of the round
    at: float
    #: how long it lasts; 0: it is done at once
    seconds: float = 0.0
    #: what the proxy's command takes
    arguments: dict[str, Any] = field(default_factory=dict)
    #: what it happens to: the server, the network (for a time), or links of the proxy
    target: str = "network"


class Schedule:
    """Draws faults. Those of one target come one after another, those of different targets at the
    same time.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds = {target: self._deal(kinds) for target, kinds in _DECKS.items()}

    def _deal(self, kinds: tuple[str, ...]) -> Iterator[str]:
        while True:
            yield from self._random.sample(kinds, len(kinds))

    def round(self, seconds: float) -> list[Fault]:
        """Return the faults of one round of about *seconds*, in the order of their beginnings. All
        are over by then.
        """
        faults = [fault for target in _DECKS for fault in self._draw(target, seconds)]
        return sorted(faults, key=lambda fault: fault.at)

    def _draw(self, target: str, seconds: float) -> Iterator[Fault]:
        at = self._random.uniform(0, _PAUSES[target][1])
        while True:
            kind = next(self._kinds[target])
            lasts, arguments = self._details(kind)
            if at + lasts > seconds:
                return
            yield Fault(kind, at, lasts, arguments, target)
            at += lasts + self._random.uniform(*_PAUSES[target])

    def _details(self, kind: str) -> tuple[float, dict[str, Any]]:
        """Return how long a fault lasts, and its arguments."""
        uniform, choice = self._random.uniform, self._random.choice
        if kind in ("kill", "stop"):
            return uniform(0.2, 1.5), {}
        if kind == "freeze":
            return uniform(0.1, 0.8), {}  # shorter than a heartbeat takes to notice
        if kind == "freeze long":
            return uniform(1.5, 3.0), {}
        if kind in ("cut some", "close some"):
            return 0.0, {"links": choice((1, 3, 10))}
        if kind.startswith("blackhole"):
            return uniform(0.3, 2.5), {"direction": kind.partition(" ")[2] or None}
        if kind == "delay":
            return uniform(0.5, 1.5), {
                "ms": uniform(10, 400),
                "direction": choice((None, "up", "down")),
            }
        if kind == "throttle":
            # below what the large messages want: their batches leave piece by piece, and are cut in
            # the middle
            return uniform(1.0, 3.0), {"bytes_per_second": uniform(5_000, 200_000)}
        if kind.startswith("truncate"):
            size = choice((0, 1, 3, self._random.randrange(200), self._random.randrange(30_000)))
            return 0.0, {
                "size": size,
                "direction": kind.partition(" ")[2],
                "then": choice(("cut", "close")),
            }
        if kind == "refuse":
            return uniform(0.2, 1.0), {}
        return 0.0, {}  # "… at once", "cut all", "close all"
