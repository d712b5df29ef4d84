"""The command line: ``python -m tests.chaos [--seconds 60] [--clients 50] [--seed N] [--cap MS]
[--tls] [--signals] [--keep] [--trace] [--verbose]``.

Exits with 1 when an invariant was violated; the logs then stay in the folder that it names.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from typing import Any

from tests.support.children import ChildError
from tests.support.kinds import add_option
from tests.support.waiting import poll_until

from .arena import Arena
from .check import Checker, Findings
from .faults import Schedule
from .messages import SIGNALS, TRACE
from .outcome import Measured, say, verdict

#: from here on it is a long run, with the library's own cap
_LONG = 600.0
#: seconds of faults in a round, short and long; behind them everybody comes back
_ROUND = 10.0
_ROUND_LONG = 30.0
#: seconds beyond the cap within which everybody has to be back
_MARGIN = 2.0 * float(os.environ.get("MORMOT_WS_TEST_TIMEOUT_FACTOR", "1"))
#: what the client process may grow by: its memory in kB, in parts of the first figure and beyond;
#: its objects and their blocks
_GROWTH = 0.05
_GROWTH_KB = 4096
#: further rounds, while its memory has grown by more: the C library keeps the holes that a moment
#: with long queues has left, and fills them later. What leaks does not come back
_ROUNDS_MORE = 3
_OBJECTS_GROWTH = 0.01
_OBJECTS_GROWTH_NUMBER = 200
#: seconds that a client's ``free()`` may take
_FREE_BOUND = 3.0


def run(seconds: float, arena: Arena, schedule: Schedule) -> dict[str, Any]:
    """Let faults happen for about *seconds*; return what the check needs to know besides the
    logs.
    """
    give_up = time.monotonic() + seconds
    arena.warm_up()
    before = arena.footprint_at_rest()
    length = _ROUND_LONG if seconds >= _LONG else _ROUND
    rounds = 0
    memory: list[int] = []
    while rounds == 0 or give_up - time.monotonic() > 3.0:
        arena.run_round(schedule.round(min(length, max(3.0, give_up - time.monotonic() - 2.0))))
        rounds += 1
        memory.append(arena.footprint()["memory"])
    for _ in range(_ROUNDS_MORE):
        if not _has_grown(before["memory"], memory[-1]):
            break
        arena.run_round(schedule.round(length))
        rounds += 1
        memory.append(arena.footprint()["memory"])
    clients = arena.drain()
    after = arena.footprint()
    if not _same(before, after):
        # a connection that is just being replaced has a descriptor more or less
        poll_until(lambda: _same(before, arena.footprint()), 10.0)
        after = arena.footprint()
    end = arena.finish()
    return {
        "rounds": rounds,
        "memory": memory,
        "before": before,
        "after": after,
        "clients": clients,
        "end": end,
    }


def _has_grown(before: int, now: int) -> bool:
    """Tell whether there is more memory in use than may be, in kB."""
    # all the records of --trace leave holes in the memory
    return TRACE not in os.environ and now > before * (1 + _GROWTH) + _GROWTH_KB


def _same(before: dict[str, int], after: dict[str, int]) -> bool:
    return before["threads"] == after["threads"] and before["descriptors"] == after["descriptors"]


def _look_at_footprints(found: dict[str, Any], arena: Arena) -> None:
    """Nothing is left or grows."""
    violations = arena.violations
    before, after, end = found["before"], found["after"], found["end"]
    for what in ("threads", "descriptors"):
        if before[what] != after[what]:
            violations.append(
                f"clients: {before[what]} {what} at the beginning, {after[what]} at the end"
            )
        if end["after"][what] > end["before"][what]:
            violations.append(
                f"clients: {end['before'][what]} {what} before, {end['after'][what]} after free()"
            )
    if _has_grown(before["memory"], after["memory"]):
        text = f"clients: {before['memory']} kB at the beginning, {after['memory']} kB at the end"
        violations.append(Measured(text))
    for what in ("objects", "blocks"):
        if after[what] > before[what] * (1 + _OBJECTS_GROWTH) + _OBJECTS_GROWTH_NUMBER:
            violations.append(
                f"clients: {before[what]} Python {what} at the beginning, {after[what]} at the end"
            )
    if end["took"] > _FREE_BOUND:
        violations.append(f"clients: a free() took {end['took']:.2f} s")


def check(arena: Arena) -> Findings:
    """Read the logs."""
    checker = Checker()
    for incarnation in range(1, arena.incarnation + 1):
        with open(arena.server_log(incarnation), encoding="utf-8") as lines:
            checker.read_server(incarnation, lines)
    with open(arena.clients_log, encoding="utf-8") as lines:
        checker.read_clients(lines)
    return checker.findings


def _print_figures(found: dict[str, Any], arena: Arena, findings: Findings) -> None:
    clients = found["clients"].values()
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(arena.faults.items()))
    say(f"faults         {sum(arena.faults.values())}: {faults}")
    say(f"servers        {arena.incarnation}; graceful stops took up to {max(arena.stops):.2f} s")
    for stream, what in (
        ("a", "send_frame_async, up"),
        ("s", "send_frame, up"),
        ("p", "send_frame_async, down"),
    ):
        say(_stream_line(stream, what, findings))
    say(_stream_line("r", "send_frame, down", findings))
    total = sum(findings.arrived.values()) + sum(findings.promised.values())
    say(f"checked        {total} log records")
    reconnects = sum(client["reconnects"] for client in clients)
    codes = ", ".join(f"{code} {count}" for code, count in sorted(findings.close_codes.items()))
    goodbyes = sum(client["goodbyes"] for client in clients)
    say(
        f"connections    {findings.connections}, of them reconnects {reconnects}; ended with "
        f"{codes}"
    )
    say(f"               closed by the client, and answered by the server: {goodbyes}")
    returns = ", ".join(f"{took:.2f}" for took in arena.returns)
    say(f"all back       after {returns} s (rounds: {found['rounds']})")
    silence = max(client["silence"] for client in clients)
    say(
        f"longest outage {findings.longest_outage:.2f} s; longest time without a message "
        f"{silence:.2f} s"
    )
    for what in ("threads", "descriptors", "memory", "objects", "blocks"):
        say(
            f"{what:14s} {found['before'][what]} -> "
            f"{found['after'][what]}{' kB' if what == 'memory' else ''}"
        )
    say(f"               memory after each round: {', '.join(map(str, found['memory']))} kB")
    end = found["end"]
    say(
        f"free()         {end['took']:.2f} s at most; threads {end['before']['threads']} -> "
        f"{end['after']['threads']}"
    )


def _stream_line(stream: str, what: str, findings: Findings) -> str:
    lost = f", lost with a connection {findings.lost[stream]}" if stream in "as" else ""
    return (
        f"stream {stream} ({what}): promised {findings.promised[stream]}, arrived "
        f"{findings.arrived[stream]}{lost}"
    )


def main() -> int:
    """Run, check, print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="The chaos test.")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long, 15 to 7200 (default: 60)"
    )
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument(
        "--seed",
        type=int,
        help="of the faults and the messages, but not of their moments (default: a random one)",
    )
    parser.add_argument(
        "--cap",
        type=int,
        help="ms, of the clients' backoff (default: 2000, in runs of 600 s on 15000)",
    )
    add_option(parser)
    parser.add_argument("--tls", action="store_true", help="encrypt the connections; needs trustme")
    parser.add_argument(
        "--signals",
        action="store_true",
        help="let signal handlers raise in the main threads of both sides, twice a second",
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="write all log records of the library beside the logs; memory is not judged then",
    )
    parser.add_argument("--verbose", action="store_true", help="print each fault")
    arguments = parser.parse_args()
    if not 10 <= arguments.seconds <= 7200 or not 1 <= arguments.clients <= 500:
        parser.error("--seconds is from 10 to 7200, --clients from 1 to 500")
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    cap = (
        (15_000 if arguments.seconds >= _LONG else 2_000)
        if arguments.cap is None
        else arguments.cap
    )
    for name, wanted in ((SIGNALS, arguments.signals), (TRACE, arguments.trace)):
        if wanted:
            os.environ[name] = "1"
    tls = ", TLS" if arguments.tls else ""
    say(
        f"{arguments.seconds:g} s, {arguments.clients} clients, backoff from 100 ms to {cap} "
        f"ms, seed {seed}{tls}"
    )
    tell = say if arguments.verbose else lambda _: None
    with Arena(arguments.clients, cap / 1000, _MARGIN, seed, arguments.tls, tell) as arena:
        try:
            arena.start()
            found = run(arguments.seconds, arena, Schedule(seed))
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
