"""What is logged of frames, as ``log_details`` wants it."""

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
    """What is needed of the connection."""

    settings: WebSocketProcessSettings


def log_frame(process: LoggingProcess, what: str, frame: WebSocketFrame) -> None:
    """Log that *frame* was *what* ("sent" or "received") on *process*. Without any lock."""
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
