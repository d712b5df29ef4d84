"""The short form of ``python -m tests.under_attack``: what becomes of attackers, and how much
memory they cost.

How little the others feel of it is a matter of time, which means something on a machine that does
nothing else: CI runs the command for that, alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.programs import run_module

#: what has to have become of the attackers
OUTCOMES = {
    "bomb": {"1009"},
    "fragments": {"echoed whole"},
    "length": {"1002"},
    "loris": {"still waited for"},
    "readers": {"megabytes asked for"},
    "readers-async": {"megabytes asked for"},
}


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("name", OUTCOMES)
def test_an_attack_gets_its_due_and_costs_little_memory(name: str) -> None:
    """Memory stays below 100 MB above idle, an honest client is served all the while, and the
    attack gets its due.
    """
    done = run_module("tests.under_attack", "--short", "--json", "--only", name)
    assert done.stdout, done.stderr
    (row,) = json.loads(done.stdout)
    assert set(row["outcome"]) == OUTCOMES[name], row
    assert row["memory"] < 100_000_000, row
    assert row["ratio"] > 0, row
