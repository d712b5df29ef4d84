"""WebSocketFrameList: a thread-safe list of frames, and the number of answers to ignore."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..attributes import IS_INT
from ..core.frames import WebSocketFrame, WebSocketFrameOpCode, check_frame

if TYPE_CHECKING:
    from ..protocols.base import WebSocketProtocol


class WebSocketFrameList:
    """A thread-safe list of frames. Mirrors ``TWebSocketFrameList``.

    *timeout_sec* is the time in seconds after which a frame expires (0: never). The list has no
    clock: the caller passes the current tick in seconds as *tix* (0: unknown; nothing expires in
    this call). Any thread may call the methods.
    """

    # refuses misspelt names, at no cost for frames
    __slots__ = ("_answer_to_ignore", "_frames", "_safe", "_timeout_sec")

    def __init__(self, timeout_sec: int = 0) -> None:
        self.timeout_sec = timeout_sec
        #: guards the two fields below; last in the lock order; nothing is called while it is held.
        #: Reentrant, because a signal handler may end the connection at any moment
        self._safe = threading.RLock()
        self._frames: list[WebSocketFrame] = []
        self._answer_to_ignore = 0

    @property
    def timeout_sec(self) -> int:
        """The time in seconds after which a frame expires; 0: never."""
        return self._timeout_sec

    @timeout_sec.setter
    def timeout_sec(self, value: int) -> None:
        IS_INT("timeout_sec", value)
        if value < 0:
            raise ValueError(f"timeout_sec must be a number of seconds, at least 0, not {value}")
        self._timeout_sec = value

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def count(self) -> int:
        """The number of frames in the list; mirrors ``Count``."""
        return len(self._frames)

    def __repr__(self) -> str:
        return f"<WebSocketFrameList count={self.count} timeout_sec={self.timeout_sec}>"

    def push(self, frame: WebSocketFrame, tix: int = 0) -> None:
        """Append *frame*, which expires ``timeout_sec`` seconds after *tix*. Mirrors ``Push``."""
        check_frame(frame)
        if self._timeout_sec and tix:
            frame.tix = tix + self._timeout_sec
        with self._safe:
            self._frames.append(frame)

    def push_void_frame(self, opcode: WebSocketFrameOpCode, tix: int = 0) -> None:
        """Append a frame of *opcode* with an empty payload. Mirrors ``PushVoidFrame``."""
        self.push(WebSocketFrame(opcode), tix)

    def pop(self, protocol: WebSocketProtocol, head: str, tix: int = 0) -> WebSocketFrame | None:
        """Remove and return the newest frame whose head is *head*, or None. Mirrors ``Pop``.

        *protocol* reads the heads. Expired frames are dropped.
        """
        while True:
            with self._safe:
                frames = list(self._frames)
            # without the lock: the protocol may be the application's
            found = next(
                (frame for frame in reversed(frames) if protocol.frame_is(frame, head)), None
            )
            with self._safe:
                if found is not None and all(frame is not found for frame in self._frames):
                    # another thread was faster
                    continue
                self._frames = [
                    frame
                    for frame in self._frames
                    if frame is not found and not (tix and frame.tix and frame.tix < tix)
                ]
            return found

    def pop_all(self) -> list[WebSocketFrame]:
        """Remove and return all frames, oldest first."""
        with self._safe:
            frames, self._frames = self._frames, []
        return frames

    def clear(self) -> None:
        """Remove all frames and forget the answers to ignore."""
        with self._safe:
            self._frames = []
            self._answer_to_ignore = 0

    def answer_to_ignore(self, incr: int = 0) -> int:
        """Add *incr* (−1, 0 or 1) to the number of late answers to drop; return that number.

        Mirrors ``AnswerToIgnore``.
        """
        if incr not in (-1, 0, 1):
            raise ValueError(f"incr must be -1, 0 or 1, not {incr}")
        with self._safe:
            self._answer_to_ignore = max(0, self._answer_to_ignore + incr)
            return self._answer_to_ignore
