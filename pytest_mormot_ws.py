"""The pytest plugin of mormot_ws: fixtures for the tests of applications that use it.

They are described in docs/how-to/testing.md.

A module of its own, outside the package, because pytest imports it at every start: who does not ask
for a fixture does not import mormot_ws either. No option, no hook and no ``autouse`` fixture may
come in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mormot_ws import WebSocketProcessSettings, WebSocketProtocol
    from mormot_ws.testing import EchoServer, EchoServerProcess, FaultProxy


@pytest.fixture
def mormot_ws_protocols() -> list[WebSocketProtocol]:
    """What ``mormot_ws_echo_server`` offers, to be overridden: a list of protocols.

    Empty: it echoes under any name.
    """
    return []


@pytest.fixture
def mormot_ws_settings() -> WebSocketProcessSettings:
    """The settings of ``mormot_ws_echo_server``, to be overridden."""
    from mormot_ws import WebSocketProcessSettings

    return WebSocketProcessSettings()


@pytest.fixture
def mormot_ws_echo_server(
    mormot_ws_protocols: list[WebSocketProtocol], mormot_ws_settings: WebSocketProcessSettings
) -> Iterator[EchoServer]:
    """A WebSocket server on a free port, in this OS process.

    ``uri``, ``stop()``, ``kill()``, ``start()``, ``messages``.
    """
    from mormot_ws.testing import EchoServer

    if not isinstance(mormot_ws_protocols, (list, tuple)):
        kind = type(mormot_ws_protocols).__name__
        raise TypeError(f"the fixture mormot_ws_protocols returns a list of protocols, not {kind}")
    with EchoServer(*mormot_ws_protocols, settings=mormot_ws_settings) as server:
        yield server


@pytest.fixture
def mormot_ws_echo_process() -> Iterator[EchoServerProcess]:
    """An echo server on a free port, in an OS process of its own.

    Also ``kill()`` by SIGKILL, ``freeze()`` and ``thaw()``.
    """
    from mormot_ws.testing import EchoServerProcess

    with EchoServerProcess() as server:
        yield server


@pytest.fixture
def mormot_ws_proxy_to() -> Iterator[Callable[..., FaultProxy]]:
    """``mormot_ws_proxy_to(host, port)``: a fault-injecting proxy before a server of your own.

    As many as you want.
    """
    from mormot_ws.testing import FaultProxy

    with ExitStack() as stack:

        def make(host: str, port: int, *, buffer_bytes: int = 0) -> FaultProxy:
            return stack.enter_context(FaultProxy(host, port, buffer_bytes=buffer_bytes))

        yield make


@pytest.fixture
def mormot_ws_proxy(
    mormot_ws_proxy_to: Callable[..., FaultProxy], mormot_ws_echo_server: EchoServer
) -> FaultProxy:
    """A fault-injecting proxy in front of ``mormot_ws_echo_server``.

    ``uri``, ``cut()``, ``blackhole()``, ``delay(ms)``, …
    """
    return mormot_ws_proxy_to(mormot_ws_echo_server.host, mormot_ws_echo_server.port)
