"""The first connection of a client that is created and connected in one call, and which client a
protocol belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.addresses import shown_target
from ..logs import get_logger
from ..protocols.base import WebSocketProtocol

if TYPE_CHECKING:
    from .client import HttpClientWebSockets

_log = get_logger("mormot_ws.client")


def begin(
    client: HttpClientWebSockets,
    uri: str,
    protocol: WebSocketProtocol,
    headers: str,
    retry: bool,
) -> bool:
    """Upgrade *client*, or, with *retry*, let it connect in the background. If the upgrade fails,
    log that and return False. A client that cannot be used is freed.
    """
    if retry:
        try:
            client.auto_reconnect(uri, headers, protocol=protocol)
        except BaseException:
            client.free()
            raise
        return True
    error = client.websockets_upgrade(uri, protocol=protocol, headers=headers)
    if error:
        place = shown_target(client.host, client.port)
        _log.warning("%s: %s %s", place, error, client.last_error)
        client.free()
    return not error


def check_owner(client: HttpClientWebSockets, protocol: WebSocketProtocol) -> None:
    """Raise ``ValueError`` if another client is using *protocol*."""
    owner = None if protocol._client is None else protocol._client()
    if owner is not None and owner is not client and owner._life.runs(protocol):
        raise ValueError(
            "the protocol object is being used by another client: create one for each client"
        )
