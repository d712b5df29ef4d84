"""The portable way of reading and writing: a socket that never blocks in the kernel.

Windows has neither ``MSG_DONTWAIT`` nor a ``shutdown()`` that wakes a thread inside ``recv()``.
There, every wait is a ``select`` on the socket and on a socket pair, with which another thread can
end it immediately. ``MORMOT_WS_TRANSPORT=portable`` in the environment requests this elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import threading
from typing import Any

from ..core.masking import Buffer
from ..logs import get_logger
from .deadline import Deadline

_log = get_logger("mormot_ws.transport")

VARIABLE = "MORMOT_WS_TRANSPORT"

#: True if sockets never block in the kernel; checked when a transport is created
NEVER_BLOCKS: bool = os.environ.get(VARIABLE) == "portable" or not hasattr(socket, "MSG_DONTWAIT")

#: the most bytes offered to the kernel at a time: Windows accepts any number, and then nothing
#: shows whether the peer accepts them. On Linux, smaller pieces do not fill the peer's window
_PIECE = 1 << (16 if sys.platform == "win32" else 17)
#: milliseconds between two checks where nothing can end a wait immediately
LOOK_MS = 250
_LOOK = LOOK_MS / 1000
#: how often a write is tried in the time that it may wait
_TRIES = 4
#: the longest wait in seconds: system calls do not accept longer ones
_LONGEST_WAIT = 3600.0
_NEVER = Deadline(None)


class _Wake:
    """A socket pair that ends waits: once :meth:`signal` was called, its end stays readable."""

    # until there is a pair
    _pair: tuple[socket.socket, ...] = ()

    def __init__(self) -> None:
        self._pair = self.end, self._other = socket.socketpair()
        for sock in self._pair:
            sock.setblocking(False)
            if sys.platform == "win32":
                # the pair is a TCP connection there: its ports must not wait after its end
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("HH", 1, 0))

    def signal(self) -> None:
        # closed meanwhile: nobody waits any more
        with contextlib.suppress(OSError):
            self._other.send(b"\0")

    def close(self) -> None:
        for sock in self._pair:
            sock.close()

    def __del__(self) -> None:
        # for a transport whose owner has closed only the socket
        self.close()


class PortableIO:
    """Reads and writes *sock*, which never blocks; the waits are here, and :meth:`cut` ends them.

    :param step: the longest wait of one :meth:`send`, in milliseconds.

    One thread may read while others write in turns.
    """

    __slots__ = (
        "_poller",
        "_recv",
        "_send",
        "_sock",
        "_step",
        "_wakes",
        "cut_off",
        "more",
        "taken",
    )

    def __init__(self, sock: socket.socket, step: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send
        self._step = step
        #: how many bytes the kernel has accepted from us
        self.taken = 0
        #: True once :meth:`cut` was called
        self.cut_off = False
        #: True if the last read was full, so that the next one should not wait first
        self.more = True
        # what ends the waits: the first is used, and there is a second if two threads have created
        # one at the same time; empty: no wait so far, or no descriptor left. Changed by atomic
        # operations, without a lock: a forked child closes it, and a signal handler may cut
        self._wakes: list[_Wake] = []
        # the poller of recv(), once it has waited
        self._poller: Any = None

    def recv(self, size: int) -> bytes:
        """Do what ``recv`` of a blocking socket does; ``b''`` after :meth:`cut`, too."""
        if not self.more:
            # nearly always right: asking in vain costs as much as waiting
            self._wait_for_input()
        while True:
            try:
                data = self._recv(size)
            except (BlockingIOError, InterruptedError):
                if self.cut_off:
                    return b""
            except OSError:
                if self.cut_off:
                    return b""
                raise
            else:
                self.more = len(data) == size
                return data
            self._wait_for_input()

    def _wait_for_input(self) -> None:
        poller = self._poller
        if poller is None:
            wake = self._waker()
            if wake is None or not hasattr(select, "poll"):
                self.wait(False, _NEVER)
                return
            poller = select.poll()
            try:
                poller.register(self._sock, select.POLLIN)
            except ValueError:
                raise _closed() from None
            poller.register(wake.end, select.POLLIN)
            self._poller = poller
        poller.poll()

    def send(self, data: Buffer) -> int:
        """Do what ``send`` of a blocking socket with a time-out does: return how many bytes were
        accepted within :attr:`step`, and raise ``BlockingIOError`` for none.
        """
        if len(data) <= _PIECE:
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            self.taken += sent
            if sent == len(data):
                return sent
        else:
            sent = 0
        view = memoryview(data)
        deadline = Deadline(self._step)
        while sent < len(view):
            try:
                taken = self._send(view[sent : sent + _PIECE])
            except (BlockingIOError, InterruptedError):
                self.check()
                # Again before the kernel reports room: it does so only when a third of its buffer
                # is free, and gradually accepts what the peer's kernel still has room for. If we
                # were late, that would look like a slow peer
                if self.wait(True, deadline.sooner(self._step / _TRIES)) or not deadline.passed:
                    continue
                break
            sent += taken
            self.taken += taken
        if not sent and len(view):
            raise BlockingIOError(errno.EAGAIN, "the peer accepts no data")
        return sent

    def send_now(self, data: Buffer) -> int:
        """Send what the kernel accepts without waiting. Raises ``BlockingIOError`` for nothing."""
        view = memoryview(data)
        sent = 0
        while sent < len(view):
            try:
                taken = self._send(view[sent : sent + _PIECE])
            except BlockingIOError:
                if not sent:
                    self.check()
                    raise
                break
            sent += taken
            self.taken += taken
        return sent

    def wait(self, write: bool, deadline: Deadline) -> bool:
        """Wait until the socket can be read (or written); return False if the *deadline* comes
        first. After :meth:`cut`, and after an error, it counts as ready.
        """
        wake = self._waker()
        if hasattr(select, "poll"):
            return self._poll(write, deadline, wake)
        wanted = [self._sock]
        readers = ([] if write else wanted) + ([] if wake is None else [wake.end])
        while not self.cut_off:
            left = deadline.seconds()
            until = _LONGEST_WAIT if left is None else min(left, _LONGEST_WAIT)
            try:
                if any(select.select(readers, wanted if write else [], [], self._slice(until))):
                    return True
            except ValueError:
                # its number is negative
                raise _closed() from None
            if deadline.passed:
                return False
        return True

    def _poll(self, write: bool, deadline: Deadline, wake: _Wake | None) -> bool:
        poller = select.poll()
        try:
            poller.register(self._sock, select.POLLOUT if write else select.POLLIN)
        except ValueError:
            raise _closed() from None
        if wake is not None:
            poller.register(wake.end, select.POLLIN)
        while not self.cut_off:
            left = deadline.milliseconds()
            if wake is None:
                left = LOOK_MS if left is None else min(left, LOOK_MS)
            if poller.poll(left):
                return True
            if deadline.passed:
                return False
        return True

    def _slice(self, seconds: float) -> float:
        """Return how long one ``select`` may last of a wait for *seconds*."""
        if not self._wakes or (
            # on Windows, Ctrl-C does not end a wait: the handlers run after it
            sys.platform == "win32" and threading.current_thread() is threading.main_thread()
        ):
            return min(seconds, _LOOK)
        return seconds

    def _waker(self) -> _Wake | None:
        wakes = self._wakes
        if not wakes:
            try:
                made = _Wake()
            except OSError as exc:
                _log.debug("this connection cannot be woken, and polls every %s s: %s", _LOOK, exc)
                return None
            wakes.append(made)
            if self.cut_off:
                # cut() may not have seen it
                made.signal()
        return wakes[0]

    def check(self) -> None:
        """Raise ``ConnectionAbortedError`` after :meth:`cut`."""
        if self.cut_off:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was cut")

    def cut(self) -> None:
        """Make all current and later waits end. Any thread and any signal handler may call
        it.
        """
        self.cut_off = True
        for wake in tuple(self._wakes):
            wake.signal()

    def close(self) -> None:
        """Release what the waits needed; the socket itself stays open. No thread may be
        waiting.
        """
        self._poller = None
        while self._wakes:
            self._wakes.pop().close()


def _closed() -> OSError:
    return OSError(errno.EBADF, "the socket was closed meanwhile")
