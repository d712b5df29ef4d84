"""ClientOwner: what a client's thread needs from the client."""

from __future__ import annotations

from typing import Protocol

from ..reconnect_policies import ReconnectFailure, ReconnectPolicy
from ..request import OnHttpServerRequest
from ..settings import WebSocketProcessSettings
from .upgrade import UpgradeError


class ClientOwner(Protocol):
    """What the thread needs from its client."""

    host: str
    port: int
    tls: bool
    settings: WebSocketProcessSettings
    process_name: str
    #: milliseconds to wait for the server
    timeout: int
    #: handles requests from the server
    on_callback_request_process: OnHttpServerRequest | None
    #: why the last attempt to open the TCP connection failed; None if it did not
    last_exception: OSError | None
    #: decides the waits
    policy: ReconnectPolicy | None
    #: why the last handshake failed; None if it did not, or if there was none
    upgrade_failure: UpgradeError | None

    @property
    def connected(self) -> bool:
        """True while the TCP connection is open."""

    def prepare_attempt(self) -> None:
        """Determine where the next attempt goes."""

    def reopen(self, timeout: int | None = None) -> str:
        """Open the TCP connection again."""

    def close(self) -> None:
        """Close it."""

    def revive(self) -> None:
        """Start a thread that reconnects, if the last one ended without ``on_reconnect``."""

    def notify_closed(self) -> None:
        """Report to the application that a connection has ended."""

    def notify_gave_up(self, failure: ReconnectFailure) -> None:
        """Report to the application that there will be no further attempt."""

    def thread_ends(self) -> None:
        """Called when the thread has nothing more to do for the client."""
