"""The command line of the benchmarks whose contestants take turns in rounds."""

from __future__ import annotations

import argparse
import os


def rounds_and_seconds(
    module: str, description: str | None, rounds: int, seconds: float
) -> tuple[int, float]:
    """Read the command line of ``python -m module``; keep the process on one CPU, unless told
    otherwise. Return how many rounds there are, and the seconds of each contestant in each; by
    default *rounds* and *seconds*.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="of each contestant in each round"
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--any-cpu", action="store_true", help="do not keep client and server on one CPU"
    )
    given = parser.parse_args()
    if not given.any_cpu:
        # else a small message measures how long an idle CPU takes to wake up
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return given.rounds, given.seconds
