"""The command line: ``python -m tests.comparisons [--only LIBRARY,...] [--times N] [--patient]
[--sizes]``.

Prints the tables of ``docs/explanation/comparison.md``: how long the programs are, and what was
seen of them, each watched N times: the median, and in brackets the longest. Some minutes;
``--patient`` takes some more for networks that die without a word. ``--sizes`` counts only.
Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mormot_ws import __version__

from . import chatting, dividing, echoing
from .counting import CHAT, DIVISION, ECHO, PROGRAMS
from .report import chats, divisions, echoes, sizes
from .running import OURS

_T = TypeVar("_T")


def version(library: str) -> str:
    """Return the version of a library, '' when it is not here."""
    if library == OURS:
        return __version__
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def watched(
    task: str, chosen: list[str], times: int, watch: Callable[[str], _T], together: int = 1
) -> dict[str, list[_T]]:
    """Watch the programs of a *task* several times, up to so many *together*; one library after the
    other.
    """
    found = {}
    for library in PROGRAMS[task]:
        if library in chosen:
            print(f"{task}: {library} …", file=sys.stderr, flush=True)
            with ThreadPoolExecutor(together) as pool:
                found[library] = list(pool.map(watch, [library] * times))
    return found


def main() -> None:
    """Read the command line, watch, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.comparisons", description=__doc__)
    parser.add_argument("--only", default="", metavar="LIBRARY,...")
    parser.add_argument("--times", type=int, default=5, help="that each is watched")
    parser.add_argument("--patient", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    given = parser.parse_args()
    print(sizes())
    if given.sizes:
        return
    rows = dict.fromkeys(name for found in PROGRAMS.values() for name in found)
    only = given.only.split(",") if given.only else rows
    chosen = [
        row
        for row in rows
        if all(map(version, row.split(", "))) and set(row.split(", ")) & set(only)
    ]
    # the echo clients mostly wait
    seen = watched(ECHO, chosen, given.times, echoing.watch, together=given.times)
    noticed: dict[str, float | None] = {}
    if given.patient:
        with ThreadPoolExecutor(len(seen) or 1) as pool:
            noticed = dict(zip(seen, pool.map(echoing.seconds_until_noticed, seen), strict=True))
    print(f"\n{echoes(seen, noticed)}")
    print(f"\n{chats(watched(CHAT, chosen, given.times, chatting.watch))}")

    def divide(row: str) -> dividing.Dividing:
        server, client = (row.split(", ") * 2)[:2]
        return dividing.watch(client, server)

    print(f"\n{divisions(watched(DIVISION, chosen, given.times, divide, together=given.times))}")
    libraries = sorted({name for row in chosen for name in row.split(", ")})
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    print(f"\nPython {platform.python_version()}; {versions}")


if __name__ == "__main__":
    main()
