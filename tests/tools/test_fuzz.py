"""The fuzz targets for a moment each, and the fuzzer itself: it finds what it is for, and
says how to run it again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable
from pathlib import Path

import pytest
from fuzz.plain import Alarm, Finding, fuzz, mutated, run_one
from fuzz.targets import TARGETS, Target, held_bytes, pieces
from support import TIMEOUT_FACTOR
from support.programs import run_module

from mormot_ws import WebProcessInFrame

ROOT = Path(__file__).resolve().parents[2]
#: for each target: a taste of what CI does for longer. By number, not by time: as much is tried on
#: a busy machine
INPUTS = 800


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_raises_hangs_or_takes_too_much(name: str) -> None:
    """Thousands of mutated inputs raise nothing but what is documented, and stay within the
    limits.
    """
    report = fuzz(TARGETS[name], 100 * TIMEOUT_FACTOR, max_inputs=INPUTS)
    print(report)
    assert report.inputs == INPUTS
    assert report.outcomes > 15


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_reach_what_they_are_for(name: str) -> None:
    """The valid inputs have many different outcomes: what is made of them starts from
    everywhere.
    """
    target = TARGETS[name]
    outcomes = {target.run(seed) for seed in target.seeds}
    assert len(outcomes) > len(target.seeds) / 6
    words = {
        "frames": "True",
        "server": "101",
        "client": "upgraded",
        "rest": "unpacked",
        "key": "fault",
        "services": "read",
        "loose": "read",
        "proxy": "opened",
        "names": "socks5h",
    }
    assert any(words[name] in repr(outcome) for outcome in outcomes)


def _planted(run: object) -> Target:
    return Target("planted", run, [b"\0\0" + b"a" * 20], [b"token"])  # type: ignore[arg-type]


def test_an_undocumented_exception_is_a_finding() -> None:
    """A reader that stumbles over a byte is found out, with the input that did it."""

    def run(data: bytes) -> Hashable:
        return data.decode("ascii")[:1]

    with pytest.raises(Finding, match="UnicodeDecodeError") as caught:
        fuzz(_planted(run), 10)
    assert max(caught.value.data) > 127
    assert caught.value.data.hex() in str(caught.value)


def test_a_long_allocation_is_a_finding() -> None:
    """A reader that believes in a length is found out."""

    def run(data: bytes) -> Hashable:
        return len(bytearray(int.from_bytes(data[2:6], "big") & 0xFFFFFF))

    with pytest.raises(Finding, match="bytes"):
        fuzz(_planted(run), 10)


def test_a_hang_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that computes for too long is found out."""
    monkeypatch.setattr("fuzz.plain.TOO_LONG", 0.05)

    def run(data: bytes) -> Hashable:
        total = 0
        while b"token" in data and total < 1_000_000:
            total += 1
        return 0

    with pytest.raises(Finding, match="took"):
        fuzz(_planted(run), 10)


def test_the_same_seed_makes_the_same_inputs() -> None:
    """A run can be repeated."""
    seen: list[list[bytes]] = []
    for _ in range(2):
        inputs: list[bytes] = []
        fuzz(_planted(inputs.append), 60, seed=5, max_inputs=200)
        seen.append(inputs)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 150


def test_mutations_keep_their_size_and_change_something() -> None:
    """Most mutations of an input differ from it, and none is longer than what is looked at."""
    target, rng = TARGETS["frames"], random.Random(1)
    changed = [mutated(seed, target, target.seeds, rng) != seed for seed in target.seeds * 10]
    assert sum(changed) > len(changed) * 0.8


@pytest.mark.parametrize("control", [0, 1, 7, 0x40, 0x80, 0xFF])
def test_pieces_are_the_whole(control: int) -> None:
    """However an input is cut, it is the same bytes."""
    data = bytes(range(256)) * 5
    parts = list(pieces(data, control))
    assert b"".join(parts) == data
    assert len(parts) > 1


def test_held_bytes_finds_what_a_machine_holds() -> None:
    """The measure of memory sees a message that is not complete."""
    machine = WebProcessInFrame(False)
    machine.feed(b"\x02\x7e\x10\x00" + bytes(3000))
    assert 3000 <= held_bytes(machine) < 3200


def test_one_input_can_be_run_again() -> None:
    """``run_one`` gives the outcome of an input, the one that the fuzzer has seen."""
    target = TARGETS["client"]
    with Alarm() as alarm:
        assert run_one(target, target.seeds[0], alarm)[0] == target.run(target.seeds[0])


@pytest.mark.soak
def test_the_command_tells_the_number_of_inputs() -> None:
    """``python -m tests.fuzz`` runs all targets within its seconds, and says how many inputs each
    has had.
    """
    run = run_module("tests.fuzz", "--plain", "--seconds", "1.2", "--seed", "3", bound=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.findall(r"^(\w+): [1-9]\d* inputs in", run.stdout, re.MULTILINE) == list(TARGETS)
    assert run.stdout.count("no finding") == len(TARGETS)
