"""The command line: ``python -m tests.storm [--clients 1000] [--processes 4] [--down 5] [--only
NAME,...] [--json FILE]``.

Exits with 1 when a client of ours is not upgraded again within the cap of its policy, or its
attempts are not spread.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import signal
import sys
import time
from typing import Any

from tests.support.children import Child, ChildError, fixed_port
from tests.support.kinds import add_option
from tests.support.waiting import poll_until

from .figures import SPREAD_LIMIT, Storm, table
from .fleet import LIBRARIES

#: seconds: the highest cap of our default policy
CAP = 15.0
#: seconds that the clients get to come back
_BOUND = 20.0
#: seconds that a fleet gets to start
_START_BOUND = 120.0


def _fleets(
    stack: contextlib.ExitStack, library: str, port: int, clients: int, processes: int
) -> list[Child]:
    shares = [clients // processes + (at < clients % processes) for at in range(processes)]
    fleets = [
        stack.enter_context(Child("tests.storm.fleet", library, str(port), str(share)))
        for share in shares
        if share
    ]
    for fleet in fleets:
        fleet.hear(_START_BOUND)
    return fleets


def _notes(fleets: list[Child], since: float) -> list[dict[str, Any]]:
    return [fleet.ask(since=since) for fleet in fleets]


def _all_back(note: dict[str, Any]) -> bool:
    """Tell whether every client of a fleet has noted an upgrade."""
    return all(note["upgrades"])


def storm(library: str, clients: int, processes: int, down: float) -> Storm:
    """Let *clients* of a library lose their server for *down* seconds; return what was noted."""
    port = fixed_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Child("tests.storm.server", str(port)))
        standby = stack.enter_context(Child("tests.storm.server", str(port)))
        server.hear()
        standby.hear()
        server.ask(do="listen")
        fleets = _fleets(stack, library, port, clients, processes)
        # each connection has begun on both sides
        poll_until(lambda: server.ask(do="report")["connections"] >= clients, _BOUND)
        server.signal(signal.SIGKILL)
        killed = time.monotonic()
        server.wait()
        # the outage lasts as long as it was asked for
        time.sleep(max(0.0, killed + down - time.monotonic()))
        returned: float = standby.ask(do="listen")["listening"]
        poll_until(
            lambda: standby.ask(do="report")["connections"] >= clients,
            returned + _BOUND - time.monotonic(),
            0.5,
        )
        ended = time.monotonic()
        # a client's own callback may come after the server's
        poll_until(lambda: all(map(_all_back, _notes(fleets, returned))), 1.0, 0.1)
        notes = _notes(fleets, killed)
        served = standby.ask(do="report")
    # an upgrade before the server's return was not there to be had: each client's first one is its
    # return
    first = [
        next((at for at in times if at >= returned), None)
        for note in notes
        for times in note["upgrades"]
    ]
    return Storm(
        library,
        clients,
        len(fleets),
        killed,
        returned,
        ended,
        sorted(at for note in notes for at in note["attempts"]),
        [at for at in first if at is not None],
        served["accepted"],
        served["upgraded"],
        sum(note["threads"] for note in notes),
        [error for note in notes for error in note["errors"]],
    )


def main() -> int:
    """Raise the storms and print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.storm", description=__doc__.splitlines()[0]
    )
    add_option(parser)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument(
        "--processes", type=int, default=4, help="that the clients are divided among"
    )
    parser.add_argument("--down", type=float, default=5.0, help="seconds without a server")
    parser.add_argument("--only", default=",".join(LIBRARIES), help=f"of {', '.join(LIBRARIES)}")
    parser.add_argument("--json", help="write what was noted to this file")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if (
        not set(names) <= LIBRARIES.keys()
        or arguments.clients < 1
        or arguments.processes < 1
        or arguments.down <= 0
    ):
        parser.error(f"--only takes names of {', '.join(LIBRARIES)}; the numbers are above 0")
    print(
        f"Python {platform.python_version()}, {arguments.clients} clients in "
        f"{arguments.processes} processes\n"
    )
    storms: list[Storm] = []
    for name in names:
        try:
            found = storm(name, arguments.clients, arguments.processes, arguments.down)
        except ChildError as exc:
            print(f"{name}: failed: {exc}")
            continue
        storms.append(found)
        print(found.series_text(), flush=True)
        for error in sorted(set(found.errors)):
            print(f"{'':18s} {found.errors.count(error)} threads ended by {error}")
    print(f"\n{table(storms)}\n")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump([dataclasses.asdict(found) for found in storms], file)
    return (
        0
        if _verdict(
            [found for found in storms if found.library == "mormot_ws"], "mormot_ws" in names
        )
        else 1
    )


def _verdict(ours: list[Storm], wanted: bool) -> bool:
    good = bool(ours) or not wanted
    for found in ours:
        back = not found.missing and max(found.times_to_return) <= CAP
        spread = found.spread <= SPREAD_LIMIT
        print(f"all of ours are back within the cap of {CAP:g} s: {'yes' if back else 'NO'}")
        print(
            f"no second of the outage with more than {SPREAD_LIMIT:g} x the mean: "
            f"{'yes' if spread else 'NO'}"
        )
        good = good and back and spread and not found.errors
    return good


if __name__ == "__main__":
    sys.exit(main())
