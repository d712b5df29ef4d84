"""Ends that do not agree, and damaged frames: nothing hangs, nothing is executed twice. The
tables: ``python -m tests.support.rest_faults``.
"""

from __future__ import annotations

import pytest
from support import ms, rest_faults
from support.rest_faults import ANSWERS, PAIRS, REQUESTS, UNENCRYPTED, Captured, Ends

import mormot_ws
from mormot_ws.rest.algosynlz import algo_compress
from mormot_ws.rest.key_guard import ASK_FOR_KEY


@pytest.fixture(autouse=True)
def short_answer_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up an answer after 200 ms, where two seconds are the least."""
    monkeypatch.setattr("mormot_ws.rest.exchange.LEAST_ANSWER_TIMEOUT_MS", ms(200))
    monkeypatch.setattr(rest_faults, "ANSWER_TIMEOUT", 200)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the ends time on a busy machine, where no time-out is waited for."""
    monkeypatch.setattr(rest_faults, "ANSWER_TIMEOUT", 10_000)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name.replace(" ", "-") for pair in PAIRS])
def test_ends_that_do_not_agree_get_an_error_and_execute_nothing(pair: Ends) -> None:
    """A refusal, a closed connection or no answer, each with its words; only ends that agree get
    through.
    """
    outcome = rest_faults.request_between(pair)
    assert rest_faults.is_as_expected(pair, outcome)
    assert pair.expected == "answered" or outcome.upgrade or outcome.error


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "pair",
    [pair for pair in PAIRS if pair.expected == "closed" and pair.server in UNENCRYPTED],
    ids=lambda pair: pair.name.replace(" ", "-"),
)
def test_ends_that_do_not_agree_are_told_at_the_first_message_without_a_key_too(
    pair: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = rest_faults.request_between(pair)
    assert outcome.error.endswith(f"closed with 1008 {ASK_FOR_KEY}")
    assert ASK_FOR_KEY in "".join(
        record.getMessage() for record in caplog.records if record.levelname == "WARNING"
    )


def test_each_connection_is_checked_for_its_options() -> None:
    """A protocol that has been used is, too: on a client it is the same one for all connections."""
    protocol = mormot_ws.WebSocketProtocolBinary("", "", ())
    guard = protocol._options_guard
    for _ in range(2):
        guard.begin()
        guard.check(protocol, b"no container", False)
        assert guard.agreed
        guard.begin()
        with pytest.raises(
            mormot_ws.WebSocketsProtocolError, match="are the key and the options the same"
        ):
            guard.check(protocol, algo_compress(b"a container"), False)


@pytest.mark.parametrize("captured", REQUESTS, ids=[captured.name for captured in REQUESTS])
def test_a_damaged_request_is_executed_once_or_not_at_all(captured: Captured) -> None:
    """Cut behind each byte, and with one bit inverted in each; what the container guards is never
    taken changed.
    """
    counts = rest_faults.matrix_of_requests(captured, quick=True)
    assert counts.total() == 2 * len(captured.wire)
    assert not [word for word in counts if word.startswith("FAULT")]
    assert not captured.guarded or not counts["taken changed"]


@pytest.mark.parametrize("captured", ANSWERS, ids=[captured.name for captured in ANSWERS])
def test_a_damaged_answer_is_an_error(captured: Captured) -> None:
    """404 with its reason, or the answer as it was meant; without the container it can come
    changed.
    """
    counts = rest_faults.matrix_of_answers(captured, quick=True)
    assert counts.total() == 2 * len(captured.wire)
    assert not [word for word in counts if word.startswith("FAULT")]
    lost = "404: the connection was lost before the answer came: "
    assert not captured.guarded or all(word.startswith(lost) for word in counts)
