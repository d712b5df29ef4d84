"""Logging in the threads of a server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
from support import BOUND

from mormot_ws.server.logs import SafeLogger, SeldomLog


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


def test_what_a_handler_raises_is_printed_and_not_raised(
    broken: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback goes to stderr, as ``logging`` does it."""
    SafeLogger("test.safe").error("%s failed", "it")
    assert "BufferError: the queue is full" in capsys.readouterr().err


def test_nothing_is_printed_where_logging_is_told_not_to(
    broken: Broken, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``logging.raiseExceptions = False`` counts."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    SafeLogger("test.safe").error("lost")
    assert capsys.readouterr().err == ""


def test_sys_exit_of_a_handler_ends_no_thread(
    broken: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thread of the server goes on behind it."""
    broken.error = SystemExit("bye")
    went_on = threading.Event()

    def run() -> None:
        SafeLogger("test.safe").error("lost")
        went_on.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert went_on.wait(BOUND)
    thread.join(BOUND)
    assert "SystemExit" in capsys.readouterr().err


def test_ctrl_c_reaches_the_main_thread(broken: Broken) -> None:
    """What interrupts the main thread while it logs is raised there."""
    broken.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        SafeLogger("test.safe").error("interrupted")


def test_records_name_the_caller_and_keep_their_extras(caplog: pytest.LogCaptureFixture) -> None:
    """A record says which module logged it, and carries the connection's number."""
    with caplog.at_level(logging.INFO, "test.safe"):
        SafeLogger("test.safe").info("hello %d", 7, extra={"connection_id": 7})
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
