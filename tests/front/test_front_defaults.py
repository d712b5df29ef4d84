"""The settings of both doors where none are given."""

from __future__ import annotations

import pytest
from support import HOST, refused_port

from mormot_ws import Server, WebSocketProcessSettings, connect

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
