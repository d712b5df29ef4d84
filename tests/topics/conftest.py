"""What a test with the fixture ``kind`` proves, it proves for both servers."""

from __future__ import annotations

from typing import Any

import pytest

from mormot_ws import WebSocketAsyncServer, WebSocketServer


@pytest.fixture(params=[WebSocketServer, WebSocketAsyncServer], ids=["threaded", "event-driven"])
def kind(request: pytest.FixtureRequest) -> Any:
    """The class of the server."""
    return request.param
