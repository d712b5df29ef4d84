"""The schedule of faults, drawn from a seed, and the loop that lets them happen.

No socket and no process in here.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

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
#: seconds between the end of a fault and one that should have begun before
_LATE_PAUSE = 0.3

Action = Callable[[], None]


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

    DECKS: ClassVar[Mapping[str, tuple[str, ...]]] = _DECKS
    PAUSES: ClassVar[Mapping[str, tuple[float, float]]] = _PAUSES

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds = {target: self._deal(kinds) for target, kinds in self.DECKS.items()}

    def _deal(self, kinds: tuple[str, ...]) -> Iterator[str]:
        while True:
            yield from self._random.sample(kinds, len(kinds))

    def round(self, seconds: float) -> list[Fault]:
        """Return the faults of one round of about *seconds*, in the order of their beginnings. All
        are over by then.
        """
        faults = [fault for target in self.DECKS for fault in self._draw(target, seconds)]
        return sorted(faults, key=lambda fault: fault.at)

    def _draw(self, target: str, seconds: float) -> Iterator[Fault]:
        at = self._random.uniform(0, self.PAUSES[target][1])
        while True:
            kind = next(self._kinds[target])
            lasts, arguments = self._details(kind)
            if at + lasts > seconds:
                return
            yield Fault(kind, at, lasts, arguments, target)
            at += lasts + self._random.uniform(*self.PAUSES[target])

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


def play(
    faults: list[Fault],
    begin: Callable[[Fault], Action | None],
    counts: Counter[str],
    tell: Callable[[str], None],
) -> None:
    """Let the *faults* happen, each at its time; return when all of them are over.

    :param begin: begins a fault, and returns what ends it, if anything.
    :param counts: counts them by kind.
    :param tell: is called with a line for each.
    """
    beginning = time.monotonic()
    order = itertools.count()
    todo: list[tuple[float, int, Action]] = []
    under_way: dict[str, float] = {}  # when the fault of a target ends, as long as it has not

    def begin_fault(fault: Fault) -> Action:
        def action() -> None:
            # a busy machine has made us late: faults of one target never overlap
            if fault.target in under_way:
                heapq.heappush(todo, (under_way[fault.target] + _LATE_PAUSE, next(order), action))
                return
            tell(f"{time.monotonic():.2f} {fault.kind} {fault.seconds:.2f} s {fault.arguments}")
            counts[fault.kind] += 1
            end = begin(fault)
            if end is not None:
                under_way[fault.target] = time.monotonic() + fault.seconds
                heapq.heappush(todo, (under_way[fault.target], next(order), end_fault(fault, end)))

        return action

    def end_fault(fault: Fault, end: Action) -> Action:
        def action() -> None:
            end()
            del under_way[fault.target]

        return action

    for fault in faults:
        heapq.heappush(todo, (beginning + fault.at, next(order), begin_fault(fault)))
    while todo:
        at, _, action = heapq.heappop(todo)
        # the schedule says when: there is nothing else to wait for
        time.sleep(max(0.0, at - time.monotonic()))
        action()
