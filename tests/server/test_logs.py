"""Log lines about faults that last."""

from __future__ import annotations

from mormot_ws.server.logs import SeldomLog


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
