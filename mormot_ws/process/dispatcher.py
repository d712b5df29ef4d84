"""Dispatcher: passes each frame that was read to its handler.

Messages go to the application's callbacks, through the protocol; pings and pongs to the liveness;
the close frame to the closer. It also runs the callbacks for the start and the end of a connection,
and decides what an exception in a callback does. It runs in the loop's thread.
"""

from __future__ import annotations

import threading
from threading import current_thread
from typing import TYPE_CHECKING, Any

from ..core.frames import (
    WebSocketFrame,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
)
from ..errors import WebSocketsProtocolError
from ..logs import get_logger
from ..protocols.base import WebSocketProtocol
from .closer import Closer
from .frame_log import log_frame
from .liveness import Liveness

if TYPE_CHECKING:
    # the callbacks get the connection itself
    from .process import WebSocketProcess

_log = get_logger("mormot_ws.process")


class Dispatcher:
    """Handles the received frames of *process*."""

    __slots__ = (
        "_after_get",
        "_closer",
        "_counts",
        "_liveness",
        "_log_frames",
        "_process",
        "_protocol",
        "dropped",
    )

    def __init__(self, process: WebSocketProcess, liveness: Liveness, closer: Closer) -> None:
        self._process = process
        self._liveness = liveness
        self._closer = closer
        #: messages that were read after the end of a connection and reached no callback
        self.dropped: int = 0

    def begin(self) -> None:
        """Prepare for a new connection with the protocol that the process has now."""
        process = self._process
        protocol = process.protocol
        self._protocol = protocol
        self._counts = protocol.counts
        self._log_frames = bool(process.settings.log_details)
        self._after_get = (
            None
            if type(protocol).after_get_frame is WebSocketProtocol.after_get_frame
            else protocol.after_get_frame
        )

    def received(self, frame: WebSocketFrame) -> None:
        """Handle one frame."""
        opcode = frame._opcode
        process = self._process
        if self._log_frames:
            log_frame(process, "received", frame)
        if opcode is focText or opcode is focBinary:
            if self._closer.given_up:
                # we have closed or cut the connection: this message is too late
                self.drop()
                return
            counts = self._counts
            counts.frames_in += 1
            # _payload: a property costs as much as the rest of the line
            counts.bytes_in += len(frame._payload)
        elif not self._control_received(frame):
            return
        protocol = self._protocol
        try:
            if self._after_get is not None:
                self._after_get(frame)
            before = protocol.on_before_incoming_frame
            if before is None or not before(process, frame):
                protocol.process_incoming_frame(process, frame, "")
        except WebSocketsProtocolError:
            # the peer's frame cannot be used (e.g. it does not decrypt): the loop closes
            raise
        except BaseException as exc:  # noqa: BLE001
            # neither a bug nor sys.exit() in the user's code may end the connection
            raise_in_main(process, exc)
            _log.exception(
                "%s: a callback failed on %r", process, frame, extra=process.log_fields()
            )

    def _control_received(self, frame: WebSocketFrame) -> bool:
        """Handle a ping, a pong or a close frame; return whether the application gets it, too."""
        opcode = frame.opcode
        if opcode is focPing:
            self._liveness.ping_received(frame)
        elif opcode is focPong:
            self._liveness.pong_received(frame)
        else:
            if opcode is focConnectionClose:
                self._closer.answer(frame.payload)
            return False
        return self._process.settings.notify_all_frames

    def drop(self, messages: int = 1) -> None:
        """Count messages that were read but reached no callback."""
        self.dropped += messages

    def start(self) -> bool:
        """Run the first callbacks; return False if one refuses the connection by raising."""
        process = self._process
        protocol, settings = process.protocol, process.settings
        self._tell("on_client_connected", settings.on_client_connected)
        try:
            frame = WebSocketFrame(focContinuation)
            before = protocol.on_before_incoming_frame
            if process.inherited:
                # on_client_connected has forked
                return False
            if before is None or not before(process, frame):
                protocol.process_incoming_frame(process, frame, "")
        except BaseException as exc:  # noqa: BLE001
            # an exception of the user's code ends only this connection
            raise_in_main(process, exc)
            text = "%s: a callback refused the connection"
            _log.exception(text, process, extra=process.log_fields())
            self._closer.note_error("a callback refused the connection")
            process.start_shutdown(1011, "refused", settings.close_timeout)
            return False
        return True

    def stop(self) -> None:
        """Run the callbacks for the end of the connection."""
        process = self._process
        protocol = process.protocol
        frame = WebSocketFrame(focConnectionClose, self._closer.handshake.payload())
        try:
            before = protocol.on_before_incoming_frame
            if before is None or not before(process, frame):
                protocol.process_incoming_frame(process, frame, "")
        except BaseException as exc:  # noqa: BLE001
            # the connection has ended: the failure can only be logged
            text = "%s: the callback for the end of the connection failed"
            _log.exception(text, process, extra=process.log_fields())
            raise_in_main(process, exc)
        self._tell("on_client_disconnected", process.settings.on_client_disconnected)

    def _tell(self, name: str, callback: Any) -> None:
        """Call an event of the settings; an exception changes nothing, as in the original."""
        if callback is None:
            return
        process = self._process
        try:
            callback(process)
        except BaseException as exc:  # noqa: BLE001
            raise_in_main(process, exc)
            _log.exception("%s: %s failed", process, name, extra=process.log_fields())


def raise_in_main(process: WebSocketProcess, exc: BaseException) -> None:
    """Raise Ctrl-C again in the main thread, and any exception in a child that was forked."""
    in_main = current_thread() is threading.main_thread()
    if process.inherited or (isinstance(exc, KeyboardInterrupt) and in_main):
        raise exc
