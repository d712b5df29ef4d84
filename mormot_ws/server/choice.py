"""The default server class, for the front door and the command."""

from __future__ import annotations

from ..sockets.readiness import HAS_READINESS
from .event_driven import WebSocketAsyncServer
from .threaded import WebSocketServer


def server_class() -> type[WebSocketAsyncServer | WebSocketServer]:
    """Return the event-driven server class if it can run here, otherwise the threaded one."""
    return WebSocketAsyncServer if HAS_READINESS else WebSocketServer
