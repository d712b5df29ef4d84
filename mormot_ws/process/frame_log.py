"""What a connection logs of its frames, as far as ``settings.log_details`` wants it."""

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


class LoggedProcess(Protocol):
    """What is logged of a connection besides the frame."""

    settings: WebSocketProcessSettings


def log_frame(process: LoggedProcess, what: str, frame: WebSocketFrame) -> None:
    """Log that *process* has sent or received *frame*; its content, or only its size."""
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
