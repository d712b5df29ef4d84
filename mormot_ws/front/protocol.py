"""FrontProtocol: passes events of a connection to its ``Connection``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.frames import WebSocketFrame, focBinary, focConnectionClose, focContinuation, focText
from ..process.process import WebSocketProcess
from ..protocols.any_of import AnyOf
from ..reconnect_policies import FailureKind, ReconnectFailure, ReconnectPolicy
from .messages import Message

if TYPE_CHECKING:
    from .connection import Connection


class FrontProtocol(AnyOf):
    """Passes events of a connection to *door*."""

    def __init__(self, names: tuple[str, ...], door: Connection) -> None:
        super().__init__(names)
        self._door = door

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        door = self._door
        opcode = frame.opcode
        message: Message
        if opcode is focText:
            message = frame.payload.decode("utf-8", "replace")
            if door._calls.waiting and door._calls.answered(message):
                return
        elif opcode is focBinary:
            message = frame.payload
        elif opcode is focContinuation:
            door._opened(process)
            return
        elif opcode is focConnectionClose:
            door._lost(process)
            return
        else:
            return
        callback = door._on_message
        if callback is None:
            door._deliver(message)
            return
        try:
            callback(door, message)
        except BaseException as exc:
            if process.inherited:
                raise
            door._callback_failed("on_message", exc)


class ToldPolicy:
    """Another policy; reports each failed attempt to *door* before asking it."""

    def __init__(self, policy: ReconnectPolicy, door: Connection) -> None:
        self._policy = policy
        self._door = door

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Report the failure, and ask the policy."""
        if failure.kind is not FailureKind.lost:
            self._door._attempt_failed(failure)
        return self._policy.next_delay(failure)

    def reset(self) -> None:
        """Pass it on."""
        self._policy.reset()

    def __repr__(self) -> str:
        return repr(self._policy)


def cannot_send(frame: WebSocketFrame) -> bool:
    """Replace sending before the first connection."""
    return False
