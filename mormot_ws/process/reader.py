"""Reader: the receiving half of a connection, which turns bytes into frames.

The loop's thread calls :meth:`Reader.read`, which may wait. While the loop is inside a long
callback, the keeper's thread reads ahead with :meth:`Reader.read_ahead`, which never waits. The
loop gets those frames first, so the order is kept. The reader sends nothing, and runs no callbacks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Protocol

from ..core.frames import WebSocketFrame, focPing, focPong
from ..core.incoming import WebProcessInFrame
from ..protocols.base import WebSocketProtocol
from ..settings import WebSocketProcessSettings
from .keeper import ProcessKeeper

#: bytes per read: few at first, because an idle connection holds the buffer; more while reads fill
#: it; many, which cost page faults in every call, only while a large frame arrives
_RECV_IDLE = 4096
_RECV_BUSY = 16384
_RECV_LARGE = 1 << 18
_RECV_FRAGMENTS = 1024
#: a message of at least this many fragments, with a mean size below the next number of bytes, is a
#: flood of tiny fragments
_MANY_FRAGMENTS = 256
_TINY_FRAGMENT = 256
#: seconds to pause after each read of such a flood
_FAIR_PAUSE = 0.0001
#: seconds without a read after which a callback counts as long; the keeper then reads ahead, up to
#: the next number of bytes
_LONG_CALLBACK = 0.02
_BACKLOG_BYTES = 1 << 20
#: bytes per read of the keeper
_AHEAD_READ = 1 << 16
#: the size up to which a large message is kept, and how many seconds after the last read
_KEPT_BYTES = 4 << 20
_KEPT_SECONDS = 0.1


class ReadingProcess(Protocol):
    """What :class:`Reader` needs from its connection."""

    def receive_bytes(self, size: int) -> bytes:
        """Return up to *size* bytes, after waiting for the first; ``b''`` at the end."""

    def receive_now(self, size: int) -> bytes | None:
        """Do the same without waiting; return None if no bytes are there."""


class Reader:
    """Reads and decodes what the peer of *process* sends.

    Lock order: ``safe_in`` comes before the sender's ``safe_out``.
    """

    def __init__(self, process: ReadingProcess, keeper: ProcessKeeper) -> None:
        self._process = process
        self._keeper = keeper
        self._receive: Callable[[int], bytes] = process.receive_bytes
        #: held while reading and decoding, so that the keeper cannot read in between
        self.safe_in: threading.Lock = threading.Lock()

    def begin(
        self, protocol: WebSocketProtocol, settings: WebSocketProcessSettings, client_side: bool
    ) -> None:
        """Prepare for a new connection with *protocol*, whose peer is a server on *client_side*.

        With ``notify_all_frames`` the loop also gets the pings and pongs that were read ahead.
        """
        compression = protocol.compression
        #: the decoder of the connection; used under ``safe_in``
        self.in_frame = WebProcessInFrame(
            masked=not client_side,
            max_message_bytes=settings.max_message_bytes,
            max_frame_bytes=settings.max_frame_mb << 20,
            max_fragments=settings.max_fragments,
            inflater=None if compression is None else compression.inflater(client_side),
            lenient_text=protocol.lenient_text,
        )
        #: when the last bytes arrived, on the monotonic clock
        self.last_in = monotonic()
        self._keep_controls = settings.notify_all_frames
        # bytes that the handshake has read after its own end
        self._unread = b""
        # frames that were read ahead; guarded by safe_in
        self._backlog: list[WebSocketFrame] = []
        self._backlog_bytes = 0
        # the frames of the last read, while the loop handles them one after another
        self._in_hand: Sequence[WebSocketFrame] = ()
        #: True while a large frame is being read, and until :meth:`handled`
        self.large = False
        # the last large message, and whether its release is scheduled
        self._kept: Sequence[WebSocketFrame] = ()
        self._releases = False
        self._recv_size = _RECV_IDLE
        #: True if the keeper may read ahead whenever ``safe_in`` is free: while the loop waits for
        #: input, it holds that lock. Checked, and set to False, under ``safe_in``
        self.reads_ahead = True

    def read_with(self, receive: Callable[[int], bytes]) -> None:
        """Let :meth:`read` call *receive*, which does what ``receive_bytes`` does."""
        self._receive = receive

    def allow_ahead(self, allowed: bool) -> None:
        """Say whether the keeper may read ahead. It must not while no thread is inside the loop, if
        the loop is stepped by events.

        Allowing it never waits. Once it was forbidden, the keeper is no longer reading.
        """
        if allowed:
            # without the lock, which the loop may hold while it inflates megabytes
            self.reads_ahead = True
            return
        with self.safe_in:
            self.reads_ahead = False

    def die_in_child(self) -> None:
        """Drop everything, in a forked child: there is nothing more to read or to handle."""
        self.safe_in = threading.Lock()
        self._backlog, self._backlog_bytes, self._unread = [], 0, b""
        self.in_frame.drop_error()
        # cleared in place, because the loop may be iterating over it
        if isinstance(self._in_hand, list):
            self._in_hand.clear()

    def push_unread(self, unread: bytes) -> None:
        """Store bytes that the handshake has read after its own end, before the loop starts."""
        self._unread = unread

    def touch(self) -> None:
        """Record that the peer is alive now, because the connection starts."""
        self.last_in = monotonic()

    # ---------------------------------------------------------------------------- the loop's thread

    def read(self) -> list[WebSocketFrame]:
        """Wait for bytes, and return the frames that they complete, if any.

        Raises ``EOFError`` at the end of the stream, ``OSError`` if the connection is broken.
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
                    self.large = True
                # a local variable: Python calls it faster than an attribute
                receive = self._receive
                data = receive(size)
            if not data:
                raise EOFError("the peer ended the TCP connection without a close frame")
            self._recv_size = _RECV_IDLE if len(data) < _RECV_IDLE else _RECV_BUSY
            if in_frame.fragments > _MANY_FRAGMENTS:
                self._be_fair(in_frame)
            self.last_in = monotonic()
            frames = self._in_hand = in_frame.feed(data)
            return frames

    def _be_fair(self, in_frame: WebProcessInFrame) -> None:
        """Slow down a flood of tiny fragments, which cost far more than their bytes.

        The threads of other connections must get a turn between two reads. Releasing Python's
        global lock during a system call is too short for them to wake up.
        """
        if in_frame.message_bytes < in_frame.fragments * _TINY_FRAGMENT:
            self._recv_size = _RECV_FRAGMENTS
            # for the other threads, not for anything that could wake this one
            sleep(_FAIR_PAUSE)

    def handled(self) -> None:
        """Release the frames of the last :meth:`read`, which were handled. The loop may empty their
        list instead, unless :attr:`large`.
        """
        if self.large:
            self._keep_memory()
        self._in_hand = ()

    def _keep_memory(self) -> None:
        """Keep a large message a little longer.

        The C library returns the memory of a large object to the system as soon as it is freed, and
        getting it again for the next message would cost more than everything else.
        """
        if not self._in_hand:
            # more of it is still to come
            return
        self.large = False
        if sum(len(frame.payload) for frame in self._in_hand) > _KEPT_BYTES:
            return
        self._kept = self._in_hand
        if not self._releases:
            self._releases = True
            self._keeper.call_at(monotonic() + _KEPT_SECONDS, self._release)

    def _release(self) -> None:
        """In the keeper's thread: an idle connection keeps nothing of its last message."""
        due = self.last_in + _KEPT_SECONDS
        if due > monotonic():
            self._keeper.call_at(due, self._release)
            return
        self._releases = False
        self._kept = ()

    @property
    def has_backlog(self) -> bool:
        """True if frames that were read ahead wait for the loop."""
        return bool(self._backlog)

    @property
    def has_input(self) -> bool:
        """True if the next :meth:`read` does not need the socket."""
        return bool(self._backlog or self._unread)

    def drop(self) -> None:
        """Drop what was read but not handled, because the connection has ended."""
        with self.safe_in:
            self._backlog, self._backlog_bytes = [], 0
            self._unread = b""
            self._in_hand = self._kept = ()

    # -------------------------------------------------------------------------- the keeper's thread

    def read_ahead(self, now: float) -> tuple[bool, list[WebSocketFrame], list[WebSocketFrame]]:
        """Read for the loop while it is inside a long callback.

        Returns whether the peer gave a sign of life, and the pings and pongs that arrived. If a
        megabyte waits for the loop, no more is read, and the peer counts as alive, because we cause
        its silence.
        """
        pings: list[WebSocketFrame] = []
        pongs: list[WebSocketFrame] = []
        if not self.safe_in.acquire(blocking=False):
            # the loop is reading itself
            return False, pings, pongs
        try:
            alive = False
            if self.reads_ahead and now - self.last_in >= _LONG_CALLBACK:
                # pings from the same read as the message whose callback is long
                pings += [frame for frame in self._in_hand if frame.opcode is focPing]
                alive = self._fill_backlog(now, pings, pongs)
            return alive or self._backlog_bytes >= _BACKLOG_BYTES, pings, pongs
        finally:
            self.safe_in.release()

    def _fill_backlog(
        self, now: float, pings: list[WebSocketFrame], pongs: list[WebSocketFrame]
    ) -> bool:
        """Read available bytes into the backlog; return whether there were any."""
        assert self.safe_in.locked()
        in_frame = self.in_frame
        # the limit of one check, so that a flood on one connection does not delay the others
        most = _BACKLOG_BYTES
        while (
            most > 0
            and self._backlog_bytes < _BACKLOG_BYTES
            and in_frame.error is None
            and not in_frame.closed
        ):
            data = self._unread or self._process.receive_now(_AHEAD_READ)
            if not data:
                # nothing is there, or the stream has ended, which the loop will see
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
