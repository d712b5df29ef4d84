"""Which server is used where none was asked for by name: the front door, and the command."""

from __future__ import annotations

from ..sockets.readiness import HAS_READINESS
from .event_driven import WebSocketAsyncServer
from .threaded import WebSocketServer


def server_class() -> type[WebSocketAsyncServer | WebSocketServer]:
    """Return the event-driven server where it can run, otherwise the threaded one."""
    return WebSocketAsyncServer if HAS_READINESS else WebSocketServer
