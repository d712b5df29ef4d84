"""Loop: reads and handles the frames of a connection, one read per step.

Either the connection's own thread calls ``begin()``, ``step()`` and ``end()`` (:meth:`Loop.run`),
or an owner that knows when bytes are ready to read. The frames go to ``dispatcher.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Protocol

from ..core.frames import WebSocketFrame
from ..errors import WebSocketsProtocolError
from ..logs import get_logger
from ..sockets.deadline import is_foreign_timeout
from ..states import WebSocketProcessState, wpsClose, wpsDestroy
from .closer import Closer
from .liveness import Liveness
from .reader import Reader
from .sender import Sender

_log = get_logger("mormot_ws.process")


class LoopingProcess(Protocol):
    """What :class:`Loop` needs from its connection."""

    #: True in a forked child
    inherited: bool

    def process_start(self) -> bool:
        """Enter ``wpsRun`` and run the first callbacks; return False if one raises."""

    def process_stop(self) -> None:
        """Run the callbacks for the end of the connection."""

    def process_loop_step_send(self) -> None:
        """Send frames queued by callbacks in this turn."""

    def finish(self) -> None:
        """Close the transport after the last read."""

    def set_state(self, state: WebSocketProcessState) -> None:
        """Change the state, and wake threads that wait for answers."""

    def log_fields(self) -> dict[str, object]:
        """Return the ``extra`` of this connection's log records."""


class Loop:
    """The loop of *process*, whose other parts it uses; one thread at a time may be inside."""

    __slots__ = (
        "_closer",
        "_liveness",
        "_process",
        "_reader",
        "_receive",
        "_received",
        "_sender",
        "ident",
    )

    def __init__(
        self,
        process: LoopingProcess,
        reader: Reader,
        sender: Sender,
        liveness: Liveness,
        closer: Closer,
    ) -> None:
        self._process = process
        self._reader = reader
        self._sender = sender
        self._liveness = liveness
        self._closer = closer

    def prepare(
        self,
        receive: Callable[[], list[WebSocketFrame] | None] | None,
        received: Callable[[WebSocketFrame], None],
    ) -> None:
        """Prepare for a new connection: *receive* reads frames (None: the reader does, without a
        call in between), *received* handles each.
        """
        self._receive = self._reader.read if receive is None else receive
        self._received = received
        #: the thread that is inside the loop; 0: none
        self.ident = 0

    def run(self) -> None:
        """Run the connection to its end."""
        step = self.step
        try:
            if self.begin():
                # the thread counts as inside the loop between the steps, too
                self.ident = get_ident()
                while step():
                    pass
        finally:
            if not self._process.inherited:
                self.end()

    def begin(self) -> bool:
        """Start the connection, and run its first callbacks; return whether to read."""
        self.ident = get_ident()
        try:
            if not self._process.process_start():
                return False
            self._sender.open_queue()
            if self._sender.outgoing.frames:
                self._process.process_loop_step_send()
            return True
        finally:
            self.ident = 0

    def step(self) -> bool:
        """Read once, handle the complete frames, and send what callbacks have queued meanwhile;
        return whether to continue.
        """
        stays = self.ident
        if not stays:
            self.ident = get_ident()
        try:
            # a local variable: Python calls it faster than an attribute
            receive = self._receive
            try:
                frames = receive()
            except (EOFError, OSError) as exc:
                frames = self._read_failed(exc)
            if frames is None:
                return False
            received = self._received
            for frame in frames:
                received(frame)
            reader = self._reader
            if reader.large:
                reader.handled()
            else:
                # an idle connection keeps nothing of its last frames
                frames.clear()
            error = reader.in_frame.error
            if error is not None and not reader.has_backlog:
                raise error
            if self._sender.outgoing.frames:
                self._process.process_loop_step_send()
            return not self._closer.handshake.received
        except WebSocketsProtocolError as exc:
            self._closer.fault(exc)
            return False
        finally:
            if not stays:
                self.ident = 0

    def receive(self) -> list[WebSocketFrame] | None:
        """Wait for bytes, and return the frames that they complete; None: nothing more to read."""
        try:
            return self._reader.read()
        except (EOFError, OSError) as exc:
            return self._read_failed(exc)

    def _read_failed(self, exc: EOFError | OSError) -> list[WebSocketFrame] | None:
        """Return the result of a read that has raised *exc*: no frames, or the end."""
        if isinstance(exc, BlockingIOError):
            # the transport reads by events, and there was no input after all
            return []
        if isinstance(exc, OSError):
            if is_foreign_timeout(exc):
                self._lost("interrupted")
                raise exc
            self._lost(f"{type(exc).__name__}: {exc}")
        else:
            self._lost(str(exc))
        return None

    def _lost(self, why: str) -> None:
        """Record that nothing more can be read."""
        if not self._process.inherited:
            self._closer.lost(why)

    def end(self) -> None:
        """Close the connection after the last step, and run its last callbacks."""
        process, closer = self._process, self._closer
        self.ident = get_ident()
        try:
            self._reader.handled()
            closer.end()
            self._liveness.stop()
            process.set_state(wpsClose)
            handshake = closer.handshake
            why = closer.last_error or handshake.reason or "in an orderly way"
            text = "%s: ended with %d: %s"
            _log.debug(text, process, handshake.code, why, extra=process.log_fields())
            process.finish()
            self._sender.requeue()
            self._reader.drop()
            process.process_stop()
        finally:
            self.ident = 0
            process.set_state(wpsDestroy)
