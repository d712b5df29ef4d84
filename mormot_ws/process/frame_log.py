"""Logs frames, if ``log_details`` asks for it, and frames that could not be sent.

Called without any lock.
"""

from __future__ import annotations

from typing import Protocol

from ..core.frames import WebSocketFrame, focBinary, focText
from ..logs import get_logger
from ..settings import (
    WebSocketProcessSettings,
    logBinaryFrameContent,
    logHeartbeat,
    logTextFrameContent,
)

_log = get_logger("mormot_ws.process")


class LoggingProcess(Protocol):
    """What is needed from the connection."""

    settings: WebSocketProcessSettings

    def log_fields(self) -> dict[str, object]:
        """Return the ``extra`` of this connection's log records."""


def log_frame(process: LoggingProcess, what: str, frame: WebSocketFrame) -> None:
    """Log that *frame* was *what* ("sent" or "received") on *process*."""
    details = process.settings.log_details
    opcode = frame.opcode
    if opcode is focText or opcode is focBinary:
        content = logTextFrameContent if opcode is focText else logBinaryFrameContent
        if content in details:
            _log.debug("%s: %s %s %r", process, what, opcode.name, frame.payload)
        else:
            size = len(frame.payload)
            _log.debug("%s: %s %s of %d bytes", process, what, opcode.name, size)
    elif logHeartbeat in details:
        _log.debug("%s: %s %s", process, what, opcode.name)


def write_fault(exc: BaseException) -> str:
    """Describe why a write failed."""
    if isinstance(exc, BlockingIOError):
        return "write failed: the peer does not read"
    return f"write failed: {type(exc).__name__}: {exc}"


def log_write_failed(process: LoggingProcess, exc: BaseException) -> None:
    """Log that *process* was cut because a write failed."""
    _log.debug("%s: cut: %s", process, write_fault(exc))


def log_queue_failed(process: LoggingProcess, exc: BaseException) -> None:
    """Log that a queued frame was dropped, because the protocol could not prepare it."""
    text = "%s: a queued frame could not be prepared, and is dropped"
    _log.error(text, process, extra=process.log_fields(), exc_info=exc)


def log_lost_in_doubt(process: LoggingProcess, frames: int) -> None:
    """Log that a write was interrupted: its *frames* may or may not have been sent."""
    text = "%s: a signal handler has interrupted a write: %d queued frames count as lost"
    _log.warning(text, process, frames, extra=process.log_fields())
