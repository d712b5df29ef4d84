"""The chaos test in a short form (``python -m tests.chaos`` is the whole one), and proofs that its
check sees what it has to see.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from chaos.check import Checker, Findings
from chaos.faults import Schedule
from chaos.outcome import ONLY_MEASURES, Measured, verdict
from support.programs import run_module

#: a client's two connections to two servers, and what arrives on them
_SERVERS = (
    ["O 7", "P 7 0", "A 7 3 0", "A 7 3 1", "S 7 3 0", "R 7 0"],
    ["O 2", "A 2 3 4", "A 2 3 5", "S 2 3 1", "R 2 0", "P 2 0"],
)
_CLIENTS = [
    "O 3 1 10.0",
    "A 3 0",
    "A 3 1",
    "S 3 0",
    "P 3 1 1 7 0",
    "R 3 1 1 7 0",
    "A 3 2",
    "A 3 3",
    "E 3 1 11.0 1006",
    "A 3 4",
    "O 3 2 13.5",
    "A 3 5",
    "S 3 1",
    "R 3 2 2 2 0",
    "P 3 2 2 2 0",
    "E 3 2 14.0 1000",
]


def check(*changes: tuple[str, str]) -> Findings:
    """Check the logs above after each *change*: a line, and what stands in its place (several
    lines, or none).
    """
    logs = [list(log) for log in (*_SERVERS, _CLIENTS)]
    for old, new in changes:
        log = next(log for log in logs if old in log)
        at = log.index(old)
        log[at : at + 1] = new.split(",") if new else []
    checker = Checker()
    for incarnation, log in enumerate(logs[:-1], 1):
        checker.read_server(incarnation, log)
    checker.read_clients(logs[-1])
    return checker.findings


def test_the_check_accepts_what_is_allowed() -> None:
    """Messages lost with a connection are no violation, and are counted."""
    findings = check()
    assert findings.violations == []
    assert findings.lost == {"a": 2, "s": 0}
    assert findings.promised == {"a": 6, "s": 2, "p": 2, "r": 2}
    assert findings.arrived == {"a": 4, "s": 2, "p": 2, "r": 2}
    assert findings.connections == 2
    assert findings.close_codes == {1006: 1, 1000: 1}
    assert findings.longest_outage == 2.5


@pytest.mark.parametrize(
    ("line", "instead", "violation"),
    [
        ("A 7 3 1", "A 7 3 2", "stream a of client 3 on connection (1, 7): 2 instead of 1"),
        ("A 7 3 1", "A 7 3 0", "stream a of client 3 on connection (1, 7): 0 instead of 1"),
        (
            "A 2 3 4",
            "A 2 3 1,A 2 3 2,A 2 3 3,A 2 3 4",
            "stream a of client 3: 1 on (2, 2), when all below 2 were over",
        ),
        ("S 2 3 1", "S 2 3 0", "stream s of client 3: 0 on (2, 2), when all below 1 were over"),
        ("A 2 3 5", "A 2 3 5,A 2 3 6", "stream a of client 3: 6 has arrived, of 6 promised ones"),
        ("A 2 3 5", "A 2 3 5,A 2 4 6", "messages of clients 4 and 3 on (2, 2)"),
        ("P 3 1 1 7 0", "P 3 1 1 7 1", "stream p to client 3 on (1, 7): 1 instead of 0"),
        (
            "P 3 2 2 2 0",
            "P 3 2 2 2 0,P 3 2 2 2 0",
            "stream p to client 3 on (2, 2): 0 instead of 1",
        ),
        (
            "P 3 2 2 2 0",
            "P 3 2 2 2 0,P 3 2 2 2 1,P 3 2 2 2 2",
            "stream p on (2, 2): 2 has arrived, but was never promised",
        ),
        ("P 3 2 2 2 0", "P 3 2 2 9 0", "client 3 on (2, 2): a message for (2, 9)"),
        ("R 3 2 2 2 0", "R 3 2 1 7 0", "client 3: connection (1, 7) after (1, 7)"),
        ("P 3 1 1 7 0", "P 3 1 1 7 0,P 4 1 1 7 0", "clients 4 and 3 were both served as (1, 7)"),
        ("E 3 1 11.0 1006", "E 3 1 11.0 1002", "a connection of client 3 has ended with 1002"),
        ("E 3 2 14.0 1000", "X thread x: ValueError", "clients: thread x: ValueError"),
        ("O 2", "O 2,X log: oh", "server #2: log: oh"),
        ("O 2", "O 2,E 1 1007", "server #2: connection 1 has ended with 1007"),
        ("A 3 5", "A 3 6", "the log of stream a of client 3 is out of order: 6"),
        ("R 2 0", "R 2 1", "the server's own log of stream r on (2, 2) is out of order: 1"),
    ],
)
def test_the_check_sees_violations(line: str, instead: str, violation: str) -> None:
    """Each gap, repetition, change of order or stranger in the logs is found."""
    assert violation in check((line, instead)).violations


def test_a_slow_network_may_bring_messages_of_an_old_connection_late() -> None:
    """Runs are compared in the order of the connections, not of the arrivals."""
    both = Checker()
    both.read_server(1, ["A 1 3 0", "A 2 3 2", "A 1 3 1", "A 2 3 3"])
    both.read_clients(["A 3 0", "A 3 1", "A 3 2", "A 3 3"])
    assert both.findings.violations == []


def test_a_seed_gives_the_same_faults_again() -> None:
    """All kinds occur, those of one target one after another, and all are over at the end of the
    round.
    """
    faults = Schedule(5).round(120)
    assert faults == Schedule(5).round(120)
    assert {fault.kind for fault in faults} >= {
        "kill",
        "stop",
        "freeze",
        "blackhole",
        "delay",
        "cut all",
        "truncate up",
    }
    for target in ("server", "network", "links"):
        mine = [fault for fault in faults if fault.target == target]
        assert all(
            before.at + before.seconds < after.at for before, after in itertools.pairwise(mine)
        )
    assert all(fault.at >= 0 and fault.at + fault.seconds <= 120 for fault in faults)


@pytest.mark.parametrize(
    ("violations", "count", "code"),
    [
        ([], 0, 0),
        ([Measured("late")], 1, ONLY_MEASURES),
        ([Measured("late"), "a gap"], 2, 1),
        # more than are kept in words
        ([Measured("late")], 2, 1),
    ],
    ids=str,
)
def test_only_measures_are_worth_another_run(
    tmp_path: Path, violations: list[str], count: int, code: int
) -> None:
    """A gap among them is a fault at once."""
    folder = tmp_path / "run"
    folder.mkdir()
    assert verdict(folder, violations, count, keep=False) == code


@pytest.mark.soak
@pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="counts on /proc and on one clock for all processes",
)
def test_nothing_promised_is_lost_and_everybody_comes_back() -> None:
    """Under 10 s of faults no invariant of ``tests/chaos`` is violated."""
    done = run_module("tests.chaos", "--seconds", "10", "--clients", "25", "--signals", bound=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no violations" in done.stdout
