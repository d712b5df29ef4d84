"""What the supervisor says of OS processes that do not come to listen."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from support.process_servers import make_server

from mormot_ws.processes import supervisor
from mormot_ws.processes.child import FAILED
from mormot_ws.processes.supervisor import Supervisor


class Child:
    """A child that exists in the test only."""

    def __init__(
        self, make: Any, listening: Any, address: str, number: int, deadline: float
    ) -> None:
        self.number, self.deadline, self.pid = number, monotonic() - 1, 4711
        self.state, self.failure, self.end = "starting", "", "was killed by SIGKILL"
        self.killed = ""

    def fails(self, why: str) -> None:
        self.failure = why

    def kill(self, why: str) -> None:
        self.killed, self.deadline = why, None

    def stop(self, word: str, deadline: float) -> None:
        self.state = "stopping"

    def forget(self) -> None:
        pass


@pytest.fixture
def supervising(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A supervisor whose thread is the test's."""
    monkeypatch.setattr(supervisor, "Worker", Child)
    listening: list[list[socket.socket]] = [[]]
    found = Supervisor(make_server, listening, ("x:1", "x", 1), 8, 3, lambda: None)
    found._start(found._slots[0])
    yield found
    found._awake.close()
    found._wake.close()


def child_of(supervising: Supervisor) -> Any:
    return supervising._slots[0].worker


def test_one_that_has_failed_and_is_slow_to_end_keeps_its_reason(supervising: Supervisor) -> None:
    """On a busy machine the time to listen may be over before it has ended."""
    child = child_of(supervising)
    supervising._told(child, FAILED, ["LookupError: no configuration", "the traceback"])
    supervising._look()
    assert child.killed
    supervising._over(child)
    assert "LookupError: no configuration" in str(supervising.failure)


def test_only_one_that_ends_by_itself_makes_think_of_the_main_module(
    supervising: Supervisor,
) -> None:
    """One that is too slow has another fault."""
    supervising._look()
    supervising._over(child_of(supervising))
    assert str(supervising.failure) == (
        "process 0 (PID 4711) did not listen within 8 s before all processes listened"
    )


def test_a_successor_that_ends_with_all_others_is_no_error(
    supervising: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    slot = supervising._slots[0]
    slot.successor = supervising._new_worker(slot)
    supervising._stopping = True
    supervising._over(slot.successor)  # type: ignore[arg-type]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
