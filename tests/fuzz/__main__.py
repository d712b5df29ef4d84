"""``python -m tests.fuzz [--seconds 60] [--target
all|frames|server|client|rest|key|services|loose|proxy|names] [--seed N] [--plain]``.

The seconds are shared by the targets. Prints the number of inputs of each; the exit status is 1
when there is a finding, whose input is printed in the form that ``--input`` takes.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from .plain import HANGS, Alarm, Finding, fuzz, run_one
from .targets import MAX_INPUT, TARGETS, Target


def with_atheris(target: Target, seconds: float, seed: int) -> bool:
    """Fuzz *target* in a process of its own, print what libFuzzer says about it, and tell whether
    there was no finding.
    """
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(target.seeds):
            (corpus / f"seed-{number}").write_bytes(data)
        tokens = Path(folder) / "tokens"
        tokens.write_text(
            "".join(
                '"{}"\n'.format("".join(f"\\x{octet:02x}" for octet in t))
                for t in target.tokens
                if len(t) < 64
            )
        )
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                f"{__package__}.coverage_guided",
                target.name,
                f"-max_total_time={max(1, round(seconds))}",
                f"-seed={seed + 1}",
                f"-max_len={MAX_INPUT}",
                f"-timeout={HANGS:g}",
                "-rss_limit_mb=512",
                "-print_final_stats=1",
                f"-dict={tokens}",
                f"-artifact_prefix={folder}/",
                str(corpus),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        found = [
            path
            for path in Path(folder).iterdir()
            if path.name.startswith(("crash-", "timeout-", "oom-"))
        ]
        inputs = re.search(r"number_of_executed_units: (\d+)", run.stdout)
        covered = re.findall(r" cov: (\d+)", run.stdout)
        print(
            f"{target.name}: {inputs[1] if inputs else 'an unknown number of'} inputs in "
            f"{seconds:.1f} s with atheris, "
            f"{covered[-1] if covered else '?'} branches covered, "
            f"{'FINDING' if found or run.returncode else 'no finding'}"
        )
        if found or run.returncode:
            print(
                run.stdout[run.stdout.find("=== Uncaught") :][:4000]
                if "=== Uncaught" in run.stdout
                else run.stdout[-4000:]
            )
        for path in found:
            print(
                f"{path.name}\n  python -m tests.fuzz --target {target.name} --input "
                f"{path.read_bytes().hex()}"
            )
        return not found and run.returncode == 0


def with_plain(target: Target, seconds: float, seed: int) -> bool:
    """Fuzz *target* here, print the report, and tell whether there was no finding."""
    try:
        print(fuzz(target, seconds, seed))
    except Finding as finding:
        print_finding(finding)
        return False
    return True


def print_finding(finding: Finding) -> None:
    """Print the cause, and how to run it again."""
    traceback.print_exception(finding.__cause__ or finding, file=sys.stdout)
    print(f"FINDING {finding}")


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz what reads a peer's bytes."
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="in all, shared by the targets (60)"
    )
    parser.add_argument("--target", choices=["all", *TARGETS], default="all")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed makes the same inputs (0)"
    )
    parser.add_argument(
        "--plain", action="store_true", help="the plain fuzzer, even if atheris can be imported"
    )
    parser.add_argument(
        "--input", metavar="HEX", help="run one input of --target, to reproduce a finding"
    )
    options = parser.parse_args()
    targets = list(TARGETS.values()) if options.target == "all" else [TARGETS[options.target]]
    if options.input is not None:
        if len(targets) > 1:
            parser.error("--input needs a --target")
        try:
            with Alarm() as alarm:
                print(run_one(targets[0], bytes.fromhex(options.input), alarm)[0])
        except Finding as finding:
            print_finding(finding)
            return 1
        return 0
    guided = not options.plain and importlib.util.find_spec("atheris") is not None
    fuzzer = with_atheris if guided else with_plain
    results = [fuzzer(target, options.seconds / len(targets), options.seed) for target in targets]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
