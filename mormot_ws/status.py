"""Snapshots of clients, servers and connections, for monitoring.

They are plain values. Any thread can take a snapshot without waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ConnectionStatus:
    """A snapshot of one connection."""

    #: the server's number for this connection
    connection_id: int
    #: the peer's IP address; ``unix:`` on a Unix socket
    remote_ip: str
    #: the sub-protocol's name; if it is longer than 32 characters, and may be a token, only its
    #: beginning
    protocol: str
    #: ``wpsCreate``, ``wpsRun``, ``wpsClose`` or ``wpsDestroy``
    state: str
    #: milliseconds since the state changed
    state_since_ms: float
    #: messages and payload bytes; on a client, the total of all its connections
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    #: frames and payload bytes that wait in ``outgoing``
    queued_frames: int
    queued_bytes: int
    #: frames that were refused or dropped because the queue was full
    queue_lost: int
    #: round-trip time of the last heartbeat in milliseconds; 0: none yet
    ping_ms: float
    #: consecutive heartbeats without an answer
    invalid_pings: int
    #: close code and reason; 0 while the connection is open
    close_code: int
    close_reason: str
    #: a description of the last fault
    last_error: str

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as a dictionary, e.g. for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ClientStatus:
    """A snapshot of one client."""

    host: str
    port: int
    #: True while frames can be sent
    connected: bool
    #: ``sCreate``, ``sRun``, ``sFinished`` or ``sClosed``; '' before the first upgrade
    thread_state: str
    #: attempts to reconnect since the connection was lost
    attempts: int
    #: how often the connection was lost and re-established
    reconnects: int
    #: a description of the last fault
    last_error: str
    #: None before the first upgrade
    connection: ConnectionStatus | None

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as a dictionary, e.g. for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ServerStatus:
    """A snapshot of one server."""

    #: the address on which it listens; ``unix:/path`` for a Unix socket, whose port is 0
    host: str
    port: int
    #: TCP connections accepted since the start
    accepted: int
    #: how many of these were turned away because of a limit
    turned_away: int
    #: connections upgraded since the start
    upgraded: int
    #: upgrades refused since the start
    refused: int
    #: current WebSocket connections
    connections: int
    #: current TCP connections, including those in the opening handshake
    sockets: int
    #: messages and payload bytes of current and ended connections
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    #: frames refused or dropped because of full queues, on current and ended connections
    queue_lost: int = 0
    #: how many connections ended with each close code; 1006: lost, without a close frame; 0: all
    #: codes beyond the first 50 different ones
    close_codes: Mapping[int, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as a dictionary, e.g. for JSON."""
        return asdict(self)
