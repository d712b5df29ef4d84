"""Reader: the receiving half of a connection. Bytes in, frames out, in the order of their arrival.

The loop's thread reads by :meth:`Reader.read`, which may wait. While it is inside a long callback
the keeper's thread reads ahead by :meth:`Reader.read_ahead`, which never waits; what it finds is
handed to the loop first. Nothing is sent here, and no callback runs here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Protocol

from ..core.frames import WebSocketFrame, focPing, focPong
from ..core.incoming import WebProcessInFrame

#: bytes asked of the kernel at a time: first few, because an idle connection holds that buffer;
#: more while reads come back full; many (which costs page faults at every call) only while a large
#: frame is under way
_RECV_IDLE = 4096
_RECV_BUSY = 16384
_RECV_LARGE = 1 << 18
_RECV_FRAGMENTS = 1024
#: fragments of one message from which their size is looked at, and the mean size in bytes below
#: which they are a flood
_MANY_FRAGMENTS = 256
_TINY_FRAGMENT = 256
#: seconds that a flood of tiny fragments pauses after each read
_FAIR_PAUSE = 0.0001
#: seconds without a read after which a callback counts as long, and the keeper reads ahead, up to
#: so many bytes
_LONG_CALLBACK = 0.02
_BACKLOG_BYTES = 1 << 20
#: bytes that it asks for at a time
_AHEAD_READ = 1 << 16


class ReadingProcess(Protocol):
    """What the reader needs of its connection: the bytes."""

    def receive_bytes(self, size: int) -> bytes:
        """Return up to *size* bytes, waiting for the first; ``b''`` at the end."""

    def receive_now(self, size: int) -> bytes | None:
        """The same without waiting; None when nothing is there."""


class Reader:
    """Reads and decodes what the peer of *process* sends.

    Lock order: ``safe_in`` comes before the sender's ``safe_out``.
    """

    def __init__(self, process: ReadingProcess) -> None:
        self._process = process
        #: held by the thread that reads and decodes, so that the keeper cannot slip in between
        self.safe_in: threading.Lock = threading.Lock()

    def begin(self, in_frame: WebProcessInFrame, keep_controls: bool) -> None:
        """Get ready for a new connection. *keep_controls*: the loop is to see pings and pongs that
        were read ahead, too.
        """
        #: the decoder of the connection; used under ``safe_in``
        self.in_frame = in_frame
        #: when the last bytes came, on the monotonic clock
        self.last_in = monotonic()
        self._keep_controls = keep_controls
        # what the handshake has read beyond its end
        self._unread = b""
        # what was read ahead; guarded by safe_in
        self._backlog: list[WebSocketFrame] = []
        self._backlog_bytes = 0
        # the frames of the last read, while the loop handles them one after another
        self._in_hand: Sequence[WebSocketFrame] = ()
        self._recv_size = _RECV_IDLE

    def die_in_child(self) -> None:
        """In a forked child: there is nothing more to read or to handle."""
        self.safe_in = threading.Lock()
        self._backlog, self._backlog_bytes, self._unread = [], 0, b""
        self.in_frame.error = None
        # in place: the loop may be going through it
        if isinstance(self._in_hand, list):
            self._in_hand.clear()

    def push_unread(self, unread: bytes) -> None:
        """Before the loop starts: the bytes that the handshake has read beyond its end."""
        self._unread = unread

    def touch(self) -> None:
        """The connection starts: the peer is alive now."""
        self.last_in = monotonic()

    # ---------------------------------------------------------------------------- the loop's thread

    def read(self) -> list[WebSocketFrame]:
        """Wait for bytes and return the frames that they complete, which may be none.

        Raises ``EOFError`` at the end of the stream, ``OSError`` when the connection is broken.
        """
        in_frame = self.in_frame
        with self.safe_in:
            if self._backlog:
                frames, self._backlog = self._backlog, []
                self._backlog_bytes = 0
                self._in_hand = frames
                return frames
            data = self._unread
            if data:
                self._unread = b""
            else:
                size = self._recv_size
                if in_frame.missing_bytes > _RECV_BUSY:
                    size = _RECV_LARGE
                data = self._process.receive_bytes(size)
            if not data:
                raise EOFError("the peer ended the TCP connection without a close frame")
            self._recv_size = _RECV_IDLE if len(data) < _RECV_IDLE else _RECV_BUSY
            if in_frame.fragments > _MANY_FRAGMENTS:
                self._be_fair(in_frame)
            self.last_in = monotonic()
            frames = self._in_hand = in_frame.feed(data)
            return frames

    def _be_fair(self, in_frame: WebProcessInFrame) -> None:
        """Slow a flood of tiny fragments down: they cost far more than their bytes.

        Between two reads the threads of other connections have to get their turn, and giving up
        Python's global lock for the time of a system call is too short for them to wake up.
        """
        if in_frame.message_bytes < in_frame.fragments * _TINY_FRAGMENT:
            self._recv_size = _RECV_FRAGMENTS
            sleep(_FAIR_PAUSE)

    def handled(self) -> None:
        """The frames of the last :meth:`read` were handled; nothing keeps them any more."""
        self._in_hand = ()

    @property
    def has_backlog(self) -> bool:
        """True when frames that were read ahead wait for the loop."""
        return bool(self._backlog)

    def drop(self) -> None:
        """The connection is over: forget what was read and not handled."""
        with self.safe_in:
            self._backlog, self._backlog_bytes = [], 0
            self._unread = b""
            self._in_hand = ()

    # -------------------------------------------------------------------------- the keeper's thread

    def read_ahead(self, now: float) -> tuple[bool, list[WebSocketFrame], list[WebSocketFrame]]:
        """Read for the loop while it is inside a long callback.

        Returns whether the peer gave a sign of life, and the pings and pongs that came. When a
        megabyte waits for the loop, no more is read, and the peer counts as alive: it is we who owe
        the reading.
        """
        pings: list[WebSocketFrame] = []
        pongs: list[WebSocketFrame] = []
        if not self.safe_in.acquire(blocking=False):
            # the loop is reading by itself
            return False, pings, pongs
        try:
            alive = False
            if now - self.last_in >= _LONG_CALLBACK:
                # those that came in one read with the message whose callback is long
                pings += [frame for frame in self._in_hand if frame.opcode is focPing]
                alive = self._fill_backlog(now, pings, pongs)
            return alive or self._backlog_bytes >= _BACKLOG_BYTES, pings, pongs
        finally:
            self.safe_in.release()

    def _fill_backlog(
        self, now: float, pings: list[WebSocketFrame], pongs: list[WebSocketFrame]
    ) -> bool:
        """Read what is there into the backlog; tell whether anything was."""
        assert self.safe_in.locked()
        in_frame = self.in_frame
        # of a single look, so that one connection's flood does not keep the keeper from the others
        most = _BACKLOG_BYTES
        while (
            most > 0
            and self._backlog_bytes < _BACKLOG_BYTES
            and in_frame.error is None
            and not in_frame.closed
        ):
            data = self._unread or self._process.receive_now(_AHEAD_READ)
            if not data:
                # nothing there, or the end of the stream: that is for the loop to see
                break
            self._unread = b""
            self.last_in = now
            most -= len(data)
            for frame in in_frame.feed(data):
                self._backlog_bytes += len(frame.payload) + 64
                if frame.opcode is focPing:
                    pings.append(frame)
                elif frame.opcode is focPong:
                    pongs.append(frame)
                if self._keep_controls or frame.opcode not in (focPing, focPong):
                    self._backlog.append(frame)
        return most < _BACKLOG_BYTES
