"""The close handshake as a table of states and events, without any socket."""

from __future__ import annotations

import pytest

from mormot_ws.core.closing import TRANSITIONS, CloseEvent, CloseHandshake, CloseState
from mormot_ws.errors import WebSocketsProtocolError

S, E = CloseState, CloseEvent

#: what each pair leads to; those that are not here change nothing
EXPECTED = {
    (S.open, E.sent): S.closing,
    (S.open, E.received): S.answering,
    (S.open, E.fault): S.refusing,
    (S.closing, E.received): S.closed,
    (S.closing, E.fault): S.refused,
    (S.answering, E.sent): S.closed,
    (S.refusing, E.sent): S.refused,
}


@pytest.mark.parametrize("event", E)
@pytest.mark.parametrize("state", S)
def test_each_event_leads_where_the_table_says(state: CloseState, event: CloseEvent) -> None:
    """Every pair of state and event, those that change nothing included."""
    handshake = CloseHandshake()
    handshake.state = state
    handshake.happened(event)
    assert handshake.state is EXPECTED.get((state, event), state)


def test_the_table_has_no_pair_that_is_not_tested() -> None:
    """A new transition needs a line above."""
    assert TRANSITIONS == EXPECTED


def test_a_close_of_ours_is_sent_once() -> None:
    """The second one is refused, and the first code stays."""
    handshake = CloseHandshake()
    assert handshake.send(1000, "bye")
    assert not handshake.send(1001, "again")
    assert (handshake.code, handshake.reason, handshake.sent) == (1000, "bye", True)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4000, "grün")])
def test_a_close_of_the_peer_is_answered_once(code: int, reason: str) -> None:
    """Its code and reason count; reading has ended."""
    handshake = CloseHandshake()
    payload = code.to_bytes(2, "big") + reason.encode()
    assert handshake.receive(payload) == (code, reason)
    assert handshake.ends_reading
    assert handshake.send(code, reason)
    assert handshake.state is CloseState.closed
    assert not handshake.send(code, reason)
    assert handshake.payload() == payload


@pytest.mark.parametrize("ours_first", [True, False])
def test_both_sides_may_close_at_the_same_time(ours_first: bool) -> None:
    """Two handshakes, each with a close frame on its way to the other: neither sends a second."""
    client, server = CloseHandshake(), CloseHandshake()
    assert client.send(1000, "from the client")
    assert server.send(1001, "from the server")
    for one, payload in [
        (client, b"\x03\xe9from the server"),
        (server, b"\x03\xe8from the client"),
    ][:: 1 if ours_first else -1]:
        one.receive(payload)
        assert not one.send(1000, "")
        assert one.state is CloseState.closed
    assert (client.code, server.code) == (1000, 1001)


def test_a_fault_of_the_peer_is_answered_with_its_code() -> None:
    """Nothing more is read, and our close frame is the only one."""
    handshake = CloseHandshake()
    handshake.fault()
    assert handshake.ends_reading
    assert not handshake.sent
    assert handshake.send(1002, "reserved bit")
    assert handshake.state is CloseState.refused
    assert handshake.code == 1002


def test_a_fault_behind_our_close_frame_needs_no_second_one() -> None:
    """The first code stays."""
    handshake = CloseHandshake()
    assert handshake.send(1000, "")
    handshake.fault()
    assert not handshake.send(1002, "late")
    assert (handshake.code, handshake.ends_reading) == (1000, True)


def test_a_stream_that_ends_without_a_close_frame_is_1006() -> None:
    """It is not sent, and has no payload."""
    handshake = CloseHandshake()
    handshake.end()
    assert (handshake.code, handshake.payload(), handshake.ends_reading) == (1006, b"", False)


def test_a_close_payload_that_is_forbidden_raises() -> None:
    """One byte, and codes that must not be sent."""
    for payload in (b"\x03", b"\x03\xed", b"\x03\xe8\xff"):
        handshake = CloseHandshake()
        with pytest.raises(WebSocketsProtocolError):
            handshake.receive(payload)
        assert not handshake.received
