"""mormot_ws.testing: for the tests of your own application.

A server that goes away and comes back, and a network that misbehaves.

With pytest they are fixtures, found by themselves once the package is installed:
``mormot_ws_echo_server``, ``mormot_ws_echo_process`` and ``mormot_ws_proxy`` (module
``pytest_mormot_ws``). The classes below need no pytest.
"""

from __future__ import annotations

from .echoprocess import EchoServerProcess
from .echoserver import EchoServer
from .faultproxy import FaultProxy
from .relay import Direction, Ending

__all__ = ["Direction", "EchoServer", "EchoServerProcess", "Ending", "FaultProxy"]
