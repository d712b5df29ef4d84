"""WebSocketProtocolChat: messages in both directions, for one callback."""

from __future__ import annotations

from collections.abc import Callable
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, ClassVar

from ..callbacks import Ignored
from ..core.frames import WebSocketFrame, check_frame, focBinary, focText
from ..logs import get_logger
from ..states import wpsRun
from .base import WebSocketProtocol

if TYPE_CHECKING:
    from ..process.process import WebSocketProcess

_log = get_logger("mormot_ws.chat")

OnIncomingFrame = Callable[["WebSocketProcess", WebSocketFrame], Ignored]


class WebSocketProtocolChat(WebSocketProtocol):
    """Passes each incoming message to ``on_incoming_frame(process, frame)``.

    Mirrors ``TWebSocketProtocolChat``. The callback runs in the connection's own thread, so for one
    connection it never runs twice at the same time. It is called:

    1. once with an empty ``focContinuation`` frame: the connection is open;
    2. for each ``focText`` and ``focBinary`` message;
    3. once with a ``focConnectionClose`` frame: the connection has ended. Its payload is that of
       the close frame (code and reason), or empty if there was none.

    An exception in the callback, even from ``sys.exit()``, is logged with its traceback; it ends
    neither the connection nor the program. Do not ``free()`` the client or server in it.
    """

    _CLONED = ("on_incoming_frame",)
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {"on_incoming_frame": ("process", "frame")}

    def __init__(
        self, name: str, uri: str = "", on_incoming_frame: OnIncomingFrame | None = None
    ) -> None:
        super().__init__(name, uri)
        #: the callback described above; None: messages are dropped
        self.on_incoming_frame = on_incoming_frame

    def clone(self, client_uri: str) -> WebSocketProtocol | None:
        """Return a protocol of the same class, name, URI and callbacks for one connection."""
        return self._new_clone()

    def process_incoming_frame(
        self, process: WebSocketProcess, frame: WebSocketFrame, info: str
    ) -> None:
        """Call ``on_incoming_frame``; log its exceptions."""
        callback = self.on_incoming_frame
        if callback is not None:
            try:
                callback(process, frame)
            except BaseException as exc:
                # As in the original, the connection stays open. SystemExit is caught, too: it would
                # end only this thread, and nothing would be read any more.
                if isinstance(exc, KeyboardInterrupt) and current_thread() is main_thread():
                    raise
                if process.inherited:
                    # in a child that the callback has forked: let it end
                    raise
                _log.exception(
                    "%s: on_incoming_frame failed on %r", process, frame, extra=process.log_fields()
                )

    def send_frame(self, process: WebSocketProcess | None, frame: WebSocketFrame) -> bool:
        """Send a copy of *frame* through *process*. Mirrors ``SendFrame``.

        Any thread may call it. Returns False, without raising, if there is no process, if it is not
        in ``wpsRun``, if the frame is neither text nor binary, or if the connection is lost. Raises
        ``TypeError`` for anything that is not a connection or not a frame.
        """
        try:
            opcode = frame._opcode
            runs = process.state is wpsRun  # type: ignore[union-attr]
        except AttributeError:
            runs = False
        if process is None or not runs:
            check_frame(frame)
            if process is not None and not hasattr(process, "send_frame"):
                raise TypeError(
                    "the first argument must be the connection that callbacks get, not"
                    f" {type(process).__name__}: of a client it is client.websockets"
                )
            return False
        return (opcode is focText or opcode is focBinary) and process.send_frame(frame)

    def send_frame_json(self, process: WebSocketProcess | None, json: str | bytes) -> bool:
        """Send *json* as a text frame, like :meth:`send_frame`. Mirrors ``SendFrameJson``."""
        return self.send_frame(process, WebSocketFrame(focText, json))
