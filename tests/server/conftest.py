"""The tests of this folder run with both servers, the threaded one and the event-driven one."""

from __future__ import annotations

import os

import pytest
from support import endpoints

import mormot_ws

KINDS = ["threaded", "event-driven"]
_EVENT_DRIVEN = {
    "WebSocketServer": mormot_ws.WebSocketAsyncServer,
    "WebSocketServerRest": mormot_ws.WebSocketAsyncServerRest,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with both servers if its module knows a server, and it is not about one kind."""
    markers = {mark.name for mark in metafunc.definition.iter_markers()}
    known = vars(metafunc.module)
    if "event_driven" in markers:
        kinds = KINDS[1:]
    elif "threaded" in markers or os.environ.get("MORMOT_WS_TEST_SERVER"):
        kinds = KINDS[:1]
    else:
        kinds = KINDS if "WebSocketServer" in known or "echo_server" in known else KINDS[:1]
    metafunc.parametrize("kind_of_server", kinds, indirect=True)


@pytest.fixture(autouse=True)
def kind_of_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``WebSocketServer`` is in the test, and in its helpers."""
    kind: str = request.param
    if kind == "event-driven":
        for module in (request.module, endpoints):
            for name, server in _EVENT_DRIVEN.items():
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, server)
    return kind
