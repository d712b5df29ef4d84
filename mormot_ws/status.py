"""Snapshots of clients, servers and connections, for monitoring.

They are plain values. Any thread can take one without waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ConnectionStatus:
    """A snapshot of one connection."""

    #: the server's number for it
    connection_id: int
    #: the peer's IP address; ``unix:`` on a Unix socket
    remote_ip: str
    #: the sub-protocol's name; of a name with more than 32 characters, which may be a token, only
    #: the beginning
    protocol: str
    #: ``wpsCreate``, ``wpsRun``, ``wpsClose`` or ``wpsDestroy``
    state: str
    #: milliseconds since the state changed
    state_since_ms: float
    #: messages and bytes of payload; on a client, of all its connections together
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    #: frames and bytes of payload that wait in ``outgoing``
    queued_frames: int
    queued_bytes: int
    #: frames that a full queue has refused or dropped
    queue_lost: int
    #: milliseconds from the last heartbeat to its answer; 0: none yet
    ping_ms: float
    #: heartbeats in a row without an answer
    invalid_pings: int
    #: close code and reason; 0 while it is open
    close_code: int
    close_reason: str
    #: the last fault, in words
    last_error: str

    def as_dict(self) -> dict[str, Any]:
        """Return the same as a dictionary, e.g. for JSON."""
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
    #: how often it was lost and came back
    reconnects: int
    #: the last fault, in words
    last_error: str
    #: None before the first upgrade
    connection: ConnectionStatus | None

    def as_dict(self) -> dict[str, Any]:
        """Return the same as a dictionary, e.g. for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ServerStatus:
    """A snapshot of one server."""

    #: the address on which it listens; ``unix:/path`` for a Unix socket, whose port is 0
    host: str
    port: int
    #: TCP connections accepted since the start
    accepted: int
    #: how many of these a limit has turned away
    turned_away: int
    #: connections upgraded since the start
    upgraded: int
    #: upgrades refused since the start
    refused: int
    #: current WebSocket connections
    connections: int
    #: current TCP connections, including those in the opening handshake
    sockets: int
    #: messages and bytes of payload of all connections, including ended ones
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    #: frames that full queues have refused or dropped, on all connections, including ended ones
    queue_lost: int = 0
    #: how many connections have ended with each close code; 1006: lost, without a close frame; 0:
    #: codes beyond 50 different ones
    close_codes: Mapping[int, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the same as a dictionary, e.g. for JSON."""
        return asdict(self)
