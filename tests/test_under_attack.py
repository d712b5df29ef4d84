"""The short form of ``python -m tests.under_attack``: what attacks cost the server, and its other connections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

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
def test_an_attack_costs_little_and_is_hardly_felt_by_others(name: str) -> None:
    """Memory stays below 100 MB above idle, an honest client's median round trip below 10 times idle, and the attack gets its due."""
    command = [sys.executable, "-W", "error", "-m", "tests.under_attack", "--short", "--json", "--only", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout, done.stderr
    (row,) = json.loads(done.stdout)
    assert set(row["outcome"]) == OUTCOMES[name], row
    assert row["memory"] < 100_000_000, row
    assert row["ratio"] < 10, row
