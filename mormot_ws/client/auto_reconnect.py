"""AutoReconnect: a ready-made ``on_reconnect``, which upgrades with the same or fresh values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..callbacks import check_callback
from .arguments import check_upgrade_arguments, is_websocket_uri, parse_websocket_uri

if TYPE_CHECKING:
    from .client import HttpClientWebSockets
    from .connection import WebSocketProcessClient


class AutoReconnect:
    """The ``on_reconnect`` that ``client.auto_reconnect(uri, headers)`` sets on *client*.

    If *uri* or *headers* is a function, it is called for each attempt, in the client's thread.
    Raises ``TypeError`` or ``ValueError`` for invalid values.
    """

    def __init__(
        self,
        client: HttpClientWebSockets,
        uri: str | Callable[[], str] | None,
        headers: str | Callable[[], str] | None,
    ) -> None:
        for name, value in (("uri", uri), ("headers", headers)):
            if callable(value):
                check_callback(value, name)
        self._client = client
        self._uri = uri
        self._headers = headers
        #: the resource of the next upgrade; None: that of the last one
        self._resource: str | None = None
        if uri is not None and not callable(uri):
            self._settle(uri)
        if not callable(headers):
            check_upgrade_arguments("", "", None, "" if headers is None else headers)

    def prepare(self) -> None:
        """Determine where to connect, before the TCP connection is opened."""
        if callable(self._uri):
            self._settle(self._uri())

    def _settle(self, uri: str | None) -> None:
        if isinstance(uri, str) and is_websocket_uri(uri):
            host, port, uri, tls = parse_websocket_uri(uri)
            self._client.lead_to(host, port, tls)
        if uri is not None:
            check_upgrade_arguments(uri, "", None, "")
        self._resource = uri

    def __call__(self, reopened: WebSocketProcessClient | None) -> str:
        """Upgrade the connection that was *reopened*; return '', or a text to try again later."""
        if reopened is None:
            return "Retry"
        protocol = reopened.protocol
        headers = self._headers() if callable(self._headers) else self._headers
        return self._client.websockets_upgrade(
            protocol.upgrade_uri if self._resource is None else self._resource,
            "",
            False,
            frozenset(),
            protocol,
            protocol.upgrade_bearer_token if headers is None else headers,
            True,
        )
