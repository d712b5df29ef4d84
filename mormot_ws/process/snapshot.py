"""connection_status(): a snapshot of one connection, for monitoring. It waits for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..logs import shown_name
from ..status import ConnectionStatus

if TYPE_CHECKING:
    from .process import WebSocketProcess


def connection_status(process: WebSocketProcess) -> ConnectionStatus:
    """Return the snapshot of *process*. Any thread may call it."""
    protocol, outgoing = process.protocol, process.outgoing
    return ConnectionStatus(
        connection_id=process.connection_id,
        remote_ip=process.remote_ip,
        protocol=shown_name(protocol.name),
        state=process.state.name,
        state_since_ms=process.state_since,
        frames_in=protocol.frames_in_count,
        frames_out=protocol.frames_out_count,
        bytes_in=protocol.frames_in_bytes,
        bytes_out=protocol.frames_out_bytes,
        queued_frames=outgoing.count,
        queued_bytes=outgoing.bytes,
        queue_lost=outgoing.lost,
        ping_ms=process.last_ping_delay,
        invalid_pings=process.invalid_ping_count,
        close_code=process.close_code,
        close_reason=process.close_reason,
        last_error=process.last_error,
    )
