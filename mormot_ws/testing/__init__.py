"""mormot_ws.testing: tools for the tests of your own application.

They are servers that stop and restart, and a network that misbehaves.

For pytest they are available as fixtures as soon as the package is installed:
``mormot_ws_echo_server``, ``mormot_ws_echo_process`` and ``mormot_ws_proxy`` (module
``pytest_mormot_ws``). The classes below work without pytest.
"""

from __future__ import annotations

from .echoprocess import EchoServerProcess
from .echoserver import EchoServer
from .faultproxy import FaultProxy
from .relay import Direction, Ending

__all__ = ["Direction", "EchoServer", "EchoServerProcess", "Ending", "FaultProxy"]
