"""The front door's default settings, for users who do not know the original."""

from __future__ import annotations

from ..settings import WebSocketProcessSettings, checked_settings


def front_settings(settings: WebSocketProcessSettings | None) -> WebSocketProcessSettings:
    """Return *settings*; for None, the front door's defaults: ``free()`` in a callback does not
    freeze, and a dead connection is given up after two unanswered heartbeats, within a minute, as
    in other libraries.

    Raises ``TypeError`` if *settings* is anything else.
    """
    if settings is None:
        return WebSocketProcessSettings(
            free_in_callback="raise", disconnect_after_invalid_heartbeat_count=2
        )
    return checked_settings(settings)
