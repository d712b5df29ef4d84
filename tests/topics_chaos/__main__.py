"""The command line: ``python -m tests.topics_chaos [--seconds 30] [--server async] [--clients 40]
[--seed N] [--cap MS] [--keep] [--trace] [--verbose]``.

Exits with 1 when an invariant was violated; the logs then stay in the folder that it names.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from typing import Any

from tests.chaos.messages import TRACE
from tests.chaos.outcome import say, verdict
from tests.support.children import ChildError
from tests.support.kinds import add_option, server_class
from tests.support.waiting import poll_until

from .arena import Arena
from .check import Checker, Findings
from .faults import TopicSchedule

#: seconds of faults in a round, in short and long runs; behind them everybody comes back
_ROUND, _ROUND_LONG = 12.0, 30.0
#: from here on it is a long run
_LONG = 300.0
#: seconds that a client's ``free()`` may take
_FREE_BOUND = 3.0


def run(seconds: float, arena: Arena, schedule: TopicSchedule) -> dict[str, Any]:
    """Let faults happen for about *seconds*; return what the report needs to know."""
    arena.start()
    give_up = time.monotonic() + seconds
    before = arena.footprint()
    length = _ROUND_LONG if seconds >= _LONG else _ROUND
    rounds = 0
    while rounds == 0 or give_up - time.monotonic() > 5.0:
        arena.run_round(schedule.round(min(length, max(5.0, give_up - time.monotonic() - 3.0))))
        rounds += 1
    clients = arena.drain()

    def same() -> bool:
        now = arena.footprint()
        return all(now[what] == before[what] for what in ("threads", "descriptors"))

    # a connection that is just being replaced has a descriptor more or less
    poll_until(same, 10.0, every=0.1)
    after = arena.footprint()
    return {"before": before, "after": after, "clients": clients, "end": arena.finish()}


def _look_at_footprints(found: dict[str, Any], arena: Arena) -> None:
    before, after, end = found["before"], found["after"], found["end"]
    for what in ("threads", "descriptors"):
        if before[what] != after[what]:
            arena.violations.append(
                f"clients: {before[what]} {what} at the beginning, {after[what]} at the end"
            )
        if end["after"][what] > end["before"][what]:
            arena.violations.append(
                f"clients: {end['before'][what]} {what} before, {end['after'][what]} after free()"
            )
    if end["took"] > _FREE_BOUND:
        arena.violations.append(f"clients: a free() took {end['took']:.2f} s")


def check(arena: Arena) -> Findings:
    """Read the logs."""
    checker = Checker(arena.storage.eras)
    for name in arena.incarnations:
        with open(arena.server_log(name), encoding="utf-8") as lines:
            checker.read_server(name, lines)
    with open(arena.clients_log, encoding="utf-8") as lines:
        checker.read_clients(lines)
    return checker.findings


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _print_figures(found: dict[str, Any], arena: Arena, findings: Findings) -> None:
    counts: Counter[str] = Counter()
    for client in found["clients"].values():
        counts.update(client["counts"])
    eras = arena.storage.eras
    kept = sum(len(history) for era in eras for history in era.values())
    say(f"faults         {sum(arena.faults.values())}: {_listed(arena.faults)}")
    say(
        f"servers        {len(arena.incarnations)}; graceful stops took up to "
        f"{max(arena.stops):.2f} s; {_listed(arena.topics_counts)}"
    )
    say(f"eras           {len(eras)}, with {kept} publications in their histories")
    say(f"publications   of clients {counts['published']}: {_listed(findings.states)}")
    say(f"               of server code: {_listed(findings.spoken)}")
    say(f"               also in a later era: {findings.in_two_eras}")
    say(f"heard          {_listed(findings.heard)}, of them after a recovery {counts['missed']}")
    say(
        f"subscriptions  went on {findings.recovered} times without a loss; announced losses "
        f"{findings.announced}; subscribed again {counts['subscribed again']}; programs that died "
        f"{counts['programs']}"
    )
    say(f"all back       after {', '.join(f'{took:.2f}' for took in arena.returns)} s")
    for what in ("threads", "descriptors", "memory"):
        say(
            f"{what:14s} {found['before'][what]} -> {found['after'][what]}"
            f"{' kB' if what == 'memory' else ''}"
        )


def main() -> int:
    """Run, check, print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.topics_chaos", description="The chaos test of topics."
    )
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long, 10 to 7200 (default: 30)"
    )
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument(
        "--seed",
        type=int,
        help="of the faults and the publications, but not of their moments (default: a random one)",
    )
    parser.add_argument(
        "--cap", type=int, default=2_000, help="ms, of the clients' backoff (default: 2000)"
    )
    add_option(parser)
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    parser.add_argument(
        "--trace", action="store_true", help="write all log records of the library beside the logs"
    )
    parser.add_argument("--verbose", action="store_true", help="print each fault")
    arguments = parser.parse_args()
    if not 10 <= arguments.seconds <= 7200 or not 1 <= arguments.clients <= 200:
        parser.error("--seconds is from 10 to 7200, --clients from 1 to 200")
    if shutil.which("redis-server") is None:
        parser.error("redis-server is not installed")
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    if arguments.trace:
        os.environ[TRACE] = "1"
    say(
        f"{arguments.seconds:g} s, {arguments.clients} clients, two {server_class().__name__}, "
        f"seed {seed}"
    )
    tell = say if arguments.verbose else lambda _: None
    with Arena(arguments.clients, arguments.cap / 1000, seed, tell) as arena:
        try:
            found = run(arguments.seconds, arena, TopicSchedule(seed))
        except ChildError as exc:
            say(f"{exc}; the logs are in {arena.folder}\n{arena.stderr()}\n1 violations")
            return 1
    findings = check(arena)
    _look_at_footprints(found, arena)
    if errors := arena.stderr():
        arena.violations.append(f"on standard error:\n{errors}")
    _print_figures(found, arena, findings)
    count = len(arena.violations) + findings.violations_count
    return verdict(arena.folder, arena.violations + findings.violations, count, arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
