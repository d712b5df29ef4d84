"""Log lines about faults that last."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
from support import BOUND

from mormot_ws.logs import SeldomLog, get_logger


class Broken(logging.Handler):
    """A handler that raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


@pytest.fixture
def broken() -> Iterator[Broken]:
    """A handler of the logger ``test.safe`` that raises."""
    handler = Broken(BufferError("the queue is full"))
    logger = logging.getLogger("test.safe")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What ``sys.unraisablehook`` was given."""
    given: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: given.append(args.exc_value))
    return given


def test_what_a_handler_raises_goes_to_the_hook_for_what_cannot_be_raised(
    broken: Broken, unraisable: list[BaseException]
) -> None:
    """The thread that logs goes on."""
    get_logger("test.safe").error("%s failed", "it")
    assert unraisable == [broken.error]


def test_sys_exit_of_a_handler_ends_no_thread(
    broken: Broken, unraisable: list[BaseException]
) -> None:
    """A thread of the server goes on behind it."""
    broken.error = SystemExit("bye")
    went_on = threading.Event()

    def run() -> None:
        get_logger("test.safe").error("lost")
        went_on.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert went_on.wait(BOUND)
    thread.join(BOUND)
    assert unraisable == [broken.error]


def test_ctrl_c_reaches_the_main_thread(broken: Broken) -> None:
    """What interrupts the main thread while it logs is raised there."""
    broken.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        get_logger("test.safe").error("interrupted")


def test_records_name_the_caller_and_keep_their_extras(caplog: pytest.LogCaptureFixture) -> None:
    """A record says which module logged it, and carries the connection's number."""
    with caplog.at_level(logging.INFO, "test.safe"):
        get_logger("test.safe").info("hello %d", 7, extra={"connection_id": 7})
    [record] = caplog.records
    assert record.getMessage() == "hello 7"
    assert record.filename == "test_logs.py"
    assert vars(record)["connection_id"] == 7


def test_a_fault_that_lasts_is_told_now_and_then() -> None:
    """At once, then once in ten seconds with the number of those between; another kind at once."""
    now = [100.0]
    seldom = SeldomLog(10.0, lambda: now[0])
    assert seldom.due("a") == ""
    assert [seldom.due("a") for _ in range(3)] == [None] * 3
    now[0] += 10
    assert seldom.due("a") == " (3 more since the last such line)"
    assert seldom.due("b") == ""
    now[0] += 10
    assert seldom.due("b") == ""


def test_what_a_peer_says_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """Control characters of an argument are escaped; the text itself is ours."""
    with caplog.at_level(logging.INFO, "test.safe"):
        get_logger("test.safe").info("closed: %s, %s", "a\r\nERROR b\x1b[2J", OSError("x\ny"))
    assert caplog.messages == ["closed: a\\r\\nERROR b\\x1b[2J, x\\ny"]
