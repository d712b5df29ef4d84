"""Ends that do not agree, and damaged frames: nothing hangs, nothing is executed twice. The
tables: ``python -m tests.support.rest_faults``.
"""

from __future__ import annotations

import pytest
from support import ms, rest_faults
from support.rest_faults import ANSWERS, PAIRS, REQUESTS, Captured, Pair


@pytest.fixture(autouse=True)
def short_answer_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up an answer after 200 ms, where two seconds are the least."""
    monkeypatch.setattr("mormot_ws.rest.exchange.LEAST_ANSWER_TIMEOUT_MS", ms(200))
    monkeypatch.setattr(rest_faults, "ANSWER_TIMEOUT", 200)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name.replace(" ", "-") for pair in PAIRS])
def test_ends_that_do_not_agree_get_an_error_and_execute_nothing(pair: Pair) -> None:
    """A refusal, a closed connection or no answer, each with its words; only ends that agree get
    through.
    """
    outcome = rest_faults.request_between(pair)
    assert rest_faults.is_as_expected(pair, outcome)
    assert pair.expected == "answered" or outcome.upgrade or outcome.error


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
