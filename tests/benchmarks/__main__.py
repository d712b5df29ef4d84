# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""The command line: ``python -m tests.benchmarks [--rounds N] [--seconds S] [--only NAME,...]
[--json FILE]``.

``--cpus any`` lets the system choose where the client and the server run, instead of one CPU for
both.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
from collections.abc import Iterator
from typing import Any

from .crowds import BENCHMARKS as CROWDS
from .handshake import HandshakeError
from .processes import HelperError, MissingLibrary
from .raw_client import EchoError
from .report import Result, as_json, render, summary
from .suite import BENCHMARKS as SUITE
from .suite import Benchmark, Session, mask_extra_available

BENCHMARKS = [*SUITE, *CROWDS]
_PACKAGES = (
    "picows",
    "aiofastnet",
    "websockets",
    "simple-websocket",
    "wsproto",
    "websocket-client",
    "wsaccel",
)
_MAX_SECONDS = 10  # heartbeats come after some 20 s, and they would be taken for echoes gone wrong
_MOST_FILES = 20_000
_FAILURES = (OSError, EchoError, HandshakeError, HelperError)


def _progress(text: str) -> None:
    """Show what is going on, if somebody is there to see it, on a line that is used again."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _explain(error: Exception) -> str:
    """Tell in one line what became of a contestant."""
    if isinstance(error, MissingLibrary):
        return f"not available ({error})"
    if isinstance(error, BlockingIOError):
        return "failed (no answer in time)"
    return f"failed ({type(error).__name__}: {error})"


@contextlib.contextmanager
def _on_one_cpu(wanted: bool) -> Iterator[None]:
    """Keep this process, and those that it starts meanwhile, on one CPU.

    Otherwise a small message mostly measures how long an idle CPU takes to wake up, and a server of
    many threads how these fight for the interpreter from several CPUs: that may be several times
    the work of an echo, above all on a virtual machine, and it depends on what else is running. On
    one CPU a figure is the work of both sides, and steady.

    It is the last of those allowed, since the first is the one that most often has to serve
    interrupts.
    """
    allowed = os.sched_getaffinity(0)
    if wanted:
        os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def run(benchmark: Benchmark, rounds: int, seconds: float, *, one_cpu: bool) -> Result:
    """Measure all contestants round by round, each round in another order, and drop those that
    fail.
    """
    result = Result(benchmark)
    sessions: dict[str, Session] = {}
    with _on_one_cpu(one_cpu), contextlib.ExitStack() as stack:
        for label, start in benchmark.setup(stack).items():
            _progress(f"{benchmark.name}: starting {label}")
            result.samples[label] = []
            try:
                sessions[label] = start()
            except (MissingLibrary, *_FAILURES) as error:
                result.problems[label] = _explain(error)
            else:
                stack.callback(sessions[label].close)
        for number in range(min(rounds, benchmark.max_rounds or rounds)):
            labels = list(sessions)
            shift = number % len(labels) if labels else 0
            for label in labels[shift:] + labels[:shift]:
                _progress(f"{benchmark.name}: round {number + 1}, {label}")
                try:
                    result.samples[label].append(sessions[label].measure(seconds))
                except _FAILURES as error:
                    result.problems[label] = _explain(error)
                    result.samples[label].clear()
                    del sessions[label]
        _progress("")
    return result


def _versions() -> dict[str, str | None]:
    """Return the versions of the peers and of what makes them fast, None for those not
    installed.
    """
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _environment(rounds: int, seconds: float, cpus: str) -> dict[str, Any]:
    """Return what has to be known to compare two runs."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "packages": _versions(),
        "mask_extra": mask_extra_available() and not os.environ.get("MORMOT_WS_NO_SPEEDUPS"),
        "rounds": rounds,
        "seconds": seconds,
        "run_on_cpus": cpus,
    }


def _allow_many_files() -> None:
    """Raise our limit of open files, which the servers inherit, to what is allowed, if that is
    needed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [benchmark.name for benchmark in BENCHMARKS]

    def rounds(text: str) -> int:
        if not 1 <= int(text) <= 1000:
            raise argparse.ArgumentTypeError("expected 1 to 1000")
        return int(text)

    def seconds(text: str) -> float:
        if not 0.01 <= float(text) <= _MAX_SECONDS:
            raise argparse.ArgumentTypeError(f"expected 0.01 to {_MAX_SECONDS}")
        return float(text)

    def only(text: str) -> list[str]:
        chosen: list[str] = []
        for wanted in text.split(","):
            # what stands before the dash names all of its kind: tls is tls-roundtrip, tls-pipelined
            # and tls-big
            found = [name for name in names if wanted.strip() in (name, name.partition("-")[0])]
            if not found:
                raise argparse.ArgumentTypeError(
                    f"no benchmark {wanted.strip()} among {', '.join(names)}"
                )
            chosen += found
        return chosen

    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure mormot_ws beside its peers. It never fails for speed.",
    )
    parser.add_argument(
        "--rounds", type=rounds, default=5, help="measures of each contestant (default: 5)"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=0.5, help="length of each measure (default: 0.5)"
    )
    parser.add_argument(
        "--only", type=only, default=names, metavar="NAME,...", help=f"some of {', '.join(names)}"
    )
    parser.add_argument(
        "--cpus",
        choices=("one", "any"),
        default="one",
        help=(
            "keep client and server together on one CPU, which is steady, or leave them to the "
            "system (default: one)"
        ),
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file, too")
    return parser.parse_args()


def main() -> None:
    """Run the chosen benchmarks and print them one by one."""
    arguments = _arguments()
    _allow_many_files()
    environment = _environment(arguments.rounds, arguments.seconds, arguments.cpus)
    packages = ", ".join(
        f"{name} {version}" for name, version in environment["packages"].items() if version
    )
    print(
        f"Python {environment['python']}, {environment['cpus']} CPUs, load "
        f"{environment['load'][0]:.2f}; {packages}"
    )
    where = "together on one CPU" if arguments.cpus == "one" else "on any CPU"
    print(f"{arguments.rounds} rounds of {arguments.seconds:g} s, client and server {where}")
    print("A ratio is the median of the ratios within each round.")
    if not environment["mask_extra"]:
        print(
            "The mask extra (websockets.speedups) is not available: mormot_ws has to do "
            "without it everywhere."
        )
    results = []
    for benchmark in BENCHMARKS:
        if benchmark.name in arguments.only:
            results.append(
                run(benchmark, arguments.rounds, arguments.seconds, one_cpu=arguments.cpus == "one")
            )
            print(f"\n{render(results[-1])}", flush=True)
    print(f"\n{summary(results)}")
    if arguments.json:
        document = {
            "environment": environment,
            "benchmarks": {item.benchmark.name: as_json(item) for item in results},
        }
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, ensure_ascii=False)
            file.write("\n")


if __name__ == "__main__":
    main()
