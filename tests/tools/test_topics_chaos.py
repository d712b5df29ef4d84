"""The chaos test of topics in a short form (``python -m tests.topics_chaos`` is the whole one), and
proofs that its check sees what it has to see.
"""

from __future__ import annotations

import itertools
import shutil
import sys

import pytest
from support.programs import run_module
from topics_chaos.check import Checker, Findings
from topics_chaos.faults import TopicSchedule

#: two eras: the second begins with an earlier copy of the first
_ERAS = [
    {"t0": {1: ("c1", 0), 2: ("c2", 0), 3: ("s0-1", 0), 4: ("c1", 1)}},
    {"t0": {1: ("c1", 0), 2: ("c2", 0), 3: ("c1", 3), 4: ("c2", 1)}},
]
_SERVER = [
    "A c1 0 t0",
    "A c2 0 t0",
    "B t0 1",
    "P t0 2 c2 0",
    "T s0-1 0 t0",
    "K s0-1 0 t0 3",
    "P t0 3 s0-1 0",
    "A c1 1 t0",
    "R t0 2 epoch",
    "P t0 3 c1 3",
    "A c1 3 t0",
    "A c2 1 t0",
    "T s0-1 1 t0",
    "F s0-1 1 t0 0",
]
_CLIENTS = [
    "T c1 0 t0",
    "D c1 0 t0 acknowledged 1 0 -",
    "T c1 1 t0",
    "P c1 t0 1 c1 0",
    "P c1 t0 2 c2 0",
    "D c1 1 t0 acknowledged 4 1 -",
    "R c1 t0 1 2 -",
    "P c1 t0 3 s0-1 0",
    "P c1 t0 4 c1 1",
    "R c1 t0 0 2 epoch",
    "P c1 t0 3 c1 3",
    "P c1 t0 4 c2 1",
    "T c1 2 t0",
    "D c1 2 t0 refused 0 0 refused",
    "T c1 3 t0",
    "D c1 3 t0 acknowledged 3 0 -",
    "P c2 t0 1 c1 0",
    "P c2 t0 2 c2 0",
    "R c2 t0 1 2 -",
    "P c2 t0 3 c1 3",
]


def check(*changes: tuple[str, str]) -> Findings:
    """Check the logs above after each *change*: a line, and what stands in its place (several
    lines, or none).
    """
    logs = [list(_SERVER), list(_CLIENTS)]
    for old, new in changes:
        log = next(log for log in logs if old in log)
        at = log.index(old)
        log[at : at + 1] = new.split(",") if new else []
    checker = Checker(_ERAS)
    checker.read_server("s0-1", logs[0])
    checker.read_clients(logs[1])
    return checker.findings


def test_the_check_accepts_what_is_allowed() -> None:
    """Who has read no further than the earlier copy goes on without an announcement."""
    findings = check()
    assert findings.violations == []
    assert findings.heard == {"clients": 9, "server code": 3}
    assert findings.states == {"acknowledged": 3, "refused": 1, "repeated": 1}
    assert (findings.recovered, findings.announced) == (2, 2)


@pytest.mark.parametrize(
    ("line", "instead", "violation"),
    [
        ("P c1 t0 2 c2 0", "", "c1 goes on with t0 behind 2, and has heard it up to 1"),
        ("P c1 t0 3 s0-1 0", "", "c1 has heard t0 4 after 2"),
        ("P c1 t0 2 c2 0", "P c1 t0 2 c2 0,P c1 t0 2 c2 0", "c1 has heard t0 2 after 2"),
        ("P c1 t0 2 c2 0", "P c1 t0 2 c2 7", "c1 has heard c2 7 as t0 2: not so in the eras"),
        ("R c1 t0 0 2 epoch", "", "c1 has heard t0 3 after 4"),
        ("R c1 t0 0 2 epoch", "R c1 t0 1 4 -", "c1 has heard t0 3 after 4"),
        ("R c1 t0 0 2 epoch", "R c1 t0 0 2 trimmed", "c1 was told that t0 has lost data: trimmed"),
        (
            "R c1 t0 0 2 epoch",
            "R c1 t0 0 2 epoch,R c1 t0 0 2 epoch",
            "c1 was told 2 times that t0 has lost data, in 2 eras",
        ),
        ("P c2 t0 3 c1 3", "P c2 t0 3 c1 3,P c2 t0 4 c1 1", "c2 has heard c1 1 as t0 4: not so"),
        ("D c1 3 t0 acknowledged 3 0 -", "", "nobody has told what became of c1 3 on t0"),
        (
            "D c1 3 t0 acknowledged 3 0 -",
            "D c1 3 t0 acknowledged 4 0 -",
            "c1 3 was acknowledged as t0 4, and is at [(1, 't0', 3)]",
        ),
        (
            "D c1 3 t0 acknowledged 3 0 -",
            "D c1 3 t0 failed 0 0 many",
            "c1 3 was failed (many), and is in the history",
        ),
        (
            "D c1 2 t0 refused 0 0 refused",
            "D c1 2 t0 acknowledged 9 0 -",
            "c1 2 was acknowledged as t0 9, and is at []",
        ),
        (
            "D c1 0 t0 acknowledged 1 0 -",
            "D c1 0 t0 acknowledged 1 0 -,D c1 0 t0 acknowledged 1 0 -",
            "c1 0 has two ends, or no beginning",
        ),
        ("A c1 3 t0", "", "the application was not asked for c1 3"),
        ("B t0 1", "B t0 0", "s0-1 has heard t0 2 after 0"),
        ("P t0 3 s0-1 0", "", ""),
        ("P t0 3 c1 3", "P t0 4 c2 1", "s0-1 has heard t0 4 after 2"),
        ("K s0-1 0 t0 3", "K s0-1 0 t0 2", "s0-1 0 was acknowledged as t0 2, and is at"),
        ("K s0-1 0 t0 3", "F s0-1 0 t0 0", "s0-1 0 has failed, and is in the history"),
        ("K s0-1 0 t0 3", "F s0-1 0 t0 1", ""),
        ("F s0-1 1 t0 0", "X log: oh", "server s0-1: log: oh"),
        ("T c1 2 t0", "T c1 2 t0,X thread x", "clients: thread x"),
    ],
)
def test_the_check_sees_violations(line: str, instead: str, violation: str) -> None:
    """Each gap, repetition, change of order, silence or stranger in the logs is found."""
    found = check((line, instead)).violations
    assert found == [] if not violation else any(text.startswith(violation) for text in found)


def test_the_check_sees_wrong_histories() -> None:
    """Gaps, repetitions and another order within an era; not what an earlier era has had."""
    eras = [
        {"t0": {1: ("c1", 5), 2: ("c1", 7), 4: ("c1", 6), 5: ("c1", 7)}},
        {"t0": {1: ("c1", 8), 2: ("c1", 5)}},
    ]
    checker = Checker(eras)
    findings = checker.findings
    checker.read_server("s0-1", [f"A c1 {number} t0" for number in (5, 6, 7, 8)])
    checker.read_clients([])
    assert [text.split(":")[0] for text in findings.violations] == [
        "the history of t0 in era 0 has gaps",
        "c1 7 is twice in era 0",
        "c1 6 comes after 7 on t0 in era 0",
    ]
    assert findings.in_two_eras == 1


def test_what_was_perhaps_published_may_come_late() -> None:
    """Redis has carried it out when its publisher had given up, and published another one."""
    checker = Checker([{"t0": {1: ("s0-1", 1), 2: ("s0-1", 0)}}])
    checker.read_server("s0-1", ["F s0-1 0 t0 1", "K s0-1 1 t0 1"])
    checker.read_clients([])
    assert checker.findings.violations == []


def test_a_seed_gives_the_same_faults_again() -> None:
    """All kinds of what happens to Redis occur, one after another, and all are over at the end."""
    faults = TopicSchedule(5).round(60)
    assert faults == TopicSchedule(5).round(60)
    redis = [fault for fault in faults if fault.target == "redis"]
    assert {fault.kind.partition(" ")[2] for fault in redis} >= {
        "stop",
        "kill",
        "freeze",
        "wipe",
        "earlier",
        "cut",
    }
    assert all(before.at + before.seconds < after.at for before, after in itertools.pairwise(redis))
    assert all(fault.at + fault.seconds <= 60 for fault in faults)


@pytest.mark.soak
@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("redis-server"),
    reason="counts on one clock for all processes, and on redis-server",
)
def test_everybody_hears_everything() -> None:
    """Under 10 s of faults no invariant of ``tests/topics_chaos`` is violated."""
    done = run_module("tests.topics_chaos", "--seconds", "10", bound=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no violations" in done.stdout
