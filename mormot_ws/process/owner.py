"""SendingProcess: what the sender needs from the connection that owns it."""

from __future__ import annotations

from typing import Protocol

from ..protocols.base import WebSocketProtocol
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from ..states import WebSocketProcessState


class RunningLoop(Protocol):
    """What the sender knows of a connection's loop."""

    #: the thread that is inside the loop; 0: none
    ident: int


class SendingProcess(Protocol):
    """What :class:`Sender` needs from its connection."""

    @property
    def loop(self) -> RunningLoop:
        """The loop: frames that its own thread queues are sent at the end of its turn."""

    settings: WebSocketProcessSettings
    protocol: WebSocketProtocol
    state: WebSocketProcessState

    def write_bytes(self, data: bytes) -> None:
        """Write *data* whole."""

    def write_parts(self, header: bytes, payload: bytes) -> None:
        """Write a large frame."""

    def write_now(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting; return its size."""

    def wait_writable(self, deadline: Deadline) -> bool:
        """Wait until :meth:`write_now` may continue."""

    def waits_for_input(self) -> bool:
        """Return whether :meth:`write_now` accepted nothing although the socket is not full."""

    def unsent_bytes(self) -> int:
        """Return how many accepted bytes are still unsent."""

    def output_state(self) -> tuple[int, int] | None:
        """Return how many bytes the peer has acknowledged, and how many are in flight; None if this
        is unknown.
        """

    def fileno(self) -> int:
        """Return the descriptor."""

    def cut(self, exc: BaseException) -> None:
        """Break the connection after a failed write. Called under ``safe_out``; logs nothing."""

    def overflowed(self) -> None:
        """Close the connection because the queue is full, as the settings demand."""

    def keeps_queue(self) -> bool:
        """Return whether frames may be queued while the connection is not running."""

    def log_fields(self) -> dict[str, object]:
        """Return the ``extra`` of this connection's log records."""
