"""The settings of both doors where none are given."""

from __future__ import annotations

import inspect

import pytest
from support import HOST, refused_port

from mormot_ws import (
    Connection,
    FailureKind,
    ReconnectFailure,
    Server,
    WebSocketProcessSettings,
    connect,
)
from mormot_ws.front.options import policy_of

GIVEN = WebSocketProcessSettings(max_message_bytes=1_000)


@pytest.mark.parametrize(
    ("given", "heartbeats"), [(None, 2), (GIVEN, 5)], ids=["none", "settings of one's own"]
)
def test_two_heartbeats_without_an_answer_end_a_connection(
    given: WebSocketProcessSettings | None, heartbeats: int
) -> None:
    """On both sides, so that a dead network is noticed within a minute; settings that are given
    are taken as they are.
    """
    with refused_port() as port, connect(f"ws://{HOST}:{port}/", settings=given) as ws:
        assert ws.client.settings.disconnect_after_invalid_heartbeat_count == heartbeats
    with Server(0, address=HOST, settings=given) as server:
        assert server.server.settings.disconnect_after_invalid_heartbeat_count == heartbeats


def test_a_call_waits_longer_than_the_client_between_two_attempts() -> None:
    """So a call meets an attempt to connect, however long the server was away."""
    policy = policy_of(None, WebSocketProcessSettings())
    failure = ReconnectFailure(FailureKind.refused, "", 1, 0.0)
    longest = max(policy.next_delay(failure) or 0 for _ in range(1_000))
    call = inspect.signature(Connection.call).parameters["timeout"].default
    assert 2_000 < longest < call * 1_000
