"""The settings of both doors where none are given: those of who never heard of the original."""

from __future__ import annotations

from ..settings import WebSocketProcessSettings, checked_settings


def front_settings(settings: WebSocketProcessSettings | None) -> WebSocketProcessSettings:
    """Return *settings*; for None those of the doors: no freeze of ``free()`` in a callback, and a
    connection through which nothing comes any more is given up after two heartbeats without an
    answer, within a minute, as programs of other libraries do, too.

    Raises ``TypeError`` for what are no settings.
    """
    if settings is None:
        return WebSocketProcessSettings(
            free_in_callback="raise", disconnect_after_invalid_heartbeat_count=2
        )
    return checked_settings(settings)
