"""The log asks what is probably wrong when the first attempt to connect has failed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support import echo_server, wait_for
from support.tls import Authority, authority, tls_server

from mormot_ws import connect

__all__ = ["authority"]


def first_warning(caplog: pytest.LogCaptureFixture, uri: str, **options: Any) -> str:
    """Return what a client logs at WARNING when it cannot connect."""
    caplog.set_level(logging.WARNING, "mormot_ws.client")

    def told() -> list[str]:
        records = [each for each in caplog.records if each.name == "mormot_ws.client"]
        return [each.getMessage() for each in records if each.levelno == logging.WARNING]

    with connect(uri, **options):
        wait_for(told)
    return told()[0]


@pytest.mark.parametrize(
    ("options", "question"),
    [
        ({"protocol": "eco"}, "does the server offer the sub-protocol 'eco' on this path?"),
        ({}, "does the server require a sub-protocol?"),
    ],
    ids=["another", "none"],
)
def test_a_sub_protocol_that_is_not_offered(
    options: dict[str, str], question: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The status line alone does not say that."""
    with echo_server() as server:
        text = first_warning(caplog, f"ws://127.0.0.1:{server.port}/", **options)
    assert text.endswith(f"400 WebSocket Upgrade Error ({question}); it keeps trying")


def test_a_server_that_speaks_tls(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """It just closes the connection."""
    with tls_server(authority.server_context(), None) as server:
        text = first_warning(caplog, f"ws://localhost:{server.port}/", protocol="echo")
    assert text.endswith("(does the server expect wss://?); it keeps trying")


def test_nothing_is_asked_without_a_likely_cause(caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection says enough."""
    with echo_server() as server:
        uri = f"ws://127.0.0.1:{server.port}/"
    assert "?" not in first_warning(caplog, uri, protocol="echo")
