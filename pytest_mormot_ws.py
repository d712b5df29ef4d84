"""The pytest plugin of mormot_ws: fixtures for the tests of applications that use it.

They are described in docs/how-to/testing.md.

This module is outside the package because pytest imports it at every start: without a request for
a fixture, mormot_ws itself is not imported. It must not contain options, hooks or ``autouse``
fixtures.
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
    """The list of protocols of ``mormot_ws_echo_server``; override it.

    If it is empty, the server echoes with any sub-protocol.
    """
    return []


@pytest.fixture
def mormot_ws_settings() -> WebSocketProcessSettings:
    """The settings of ``mormot_ws_echo_server``; override them."""
    from mormot_ws import WebSocketProcessSettings

    return WebSocketProcessSettings()


@pytest.fixture
def mormot_ws_echo_server(
    mormot_ws_protocols: list[WebSocketProtocol], mormot_ws_settings: WebSocketProcessSettings
) -> Iterator[EchoServer]:
    """A WebSocket server on a free port, in this OS process.

    It has ``uri``, ``stop()``, ``kill()``, ``start()`` and ``messages``.
    """
    from mormot_ws.testing import EchoServer

    if not isinstance(mormot_ws_protocols, (list, tuple)):
        kind = type(mormot_ws_protocols).__name__
        raise TypeError(f"the fixture mormot_ws_protocols must return a list, not {kind}")
    with EchoServer(*mormot_ws_protocols, settings=mormot_ws_settings) as server:
        yield server


@pytest.fixture
def mormot_ws_echo_process() -> Iterator[EchoServerProcess]:
    """An echo server on a free port, in an OS process of its own.

    It also has ``kill()`` with SIGKILL, ``freeze()`` and ``thaw()``.
    """
    from mormot_ws.testing import EchoServerProcess

    with EchoServerProcess() as server:
        yield server


@pytest.fixture
def mormot_ws_proxy_to() -> Iterator[Callable[..., FaultProxy]]:
    """``mormot_ws_proxy_to(host, port)``: a fault-injecting proxy in front of your own server.

    Call it as often as you need.
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

    It has ``uri``, ``cut()``, ``blackhole()``, ``delay(ms)``, …
    """
    return mormot_ws_proxy_to(mormot_ws_echo_server.host, mormot_ws_echo_server.port)
