"""Fixtures of the conformance suite: each case runs once for the server and once for the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .peer import ROLES, Peer, open_peer


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    """What the library is in a case: ``server`` or ``client``."""
    value: str = request.param
    return value


@pytest.fixture
def peer(role: str) -> Iterator[Peer]:
    """The raw peer of the library in that role, with default settings."""
    with open_peer(role) as peer:
        yield peer
