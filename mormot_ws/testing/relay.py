"""Relay: the single thread of the fault proxy, and its sockets.

Everything except the constructor and :meth:`Relay.wake` runs in the thread of :meth:`Relay.run`, so
there are no locks. The thread never waits for a single socket. The methods for other threads are in
``faultproxy.py``.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from ..core.forks import dies_in_child
from ..sockets.deadline import Deadline
from ..sockets.transport import wait_socket
from .links import HELD_BYTES, End, Flow, Gate, Link

Direction = Literal["up", "down"]
Ending = Literal["cut", "close"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds
_BACKLOG = 1024
#: to stall, we fill the listener's queue with our own connections: the maximum number of these, and
#: the time in ms that one may take, if the kernel reports whether the queue is full, and if only a
#: missing answer shows it
_MOST_FILLERS = 16
_FILLER_MS = 2_000
_FILLER_GUESS_MS = 30
#: the longest single wait in seconds: a selector refuses more than some weeks, which a delay or a
#: throttle could require
_LONGEST_WAIT = 3600.0


def queue_is_full(listener: socket.socket) -> bool | None:
    """Return whether the queue of *listener* is full, so that attempts to connect are unanswered.

    Returns None if the system does not report it; Linux does.
    """
    if sys.platform != "linux":
        return None
    # for a listening socket, these two fields of tcp_info are the number of connections waiting to
    # be accepted, and its limit
    waiting, most = struct.unpack_from(
        "II", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24
    )
    return bool(waiting > most)


class Relay:
    """Listens on *host*:*port* and forwards to *target*.

    Commands are called between two turns of its loop. Raises ``OSError`` if it cannot listen.
    """

    def __init__(self, target: tuple[str, int], host: str, port: int, buffer_bytes: int) -> None:
        self.target = target
        self.host = host
        self.accepted: int = 0
        self.gates: dict[str, Gate] = {"up": Gate(), "down": Gate()}
        self.truncation: tuple[Direction, int, Ending] | None = None
        self.links: dict[Link, None] = {}
        #: links that a delay or throttle holds back, and when each may send
        self.timed: dict[Link, float] = {}
        self.stopping = False
        self._buffer_bytes = buffer_bytes
        self._stalled = False
        #: our connections that fill the queue of a stalled listener, by address
        self._fillers: dict[tuple[str, int], socket.socket] = {}
        # bound, but never listening: reserves the port while connections are refused
        self._holder = self._bound(port)
        self.port: int = self._holder.getsockname()[1]
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        try:
            self.accept()
        except OSError:
            self._close_all()
            raise
        dies_in_child(self)

    def die_in_child(self) -> None:
        """In a forked child: close the copies of the descriptors.

        The selector is left alone, because the parent shares it.
        """
        self.stopping = True
        ends = [end.sock for link in self.links for end in link.ends]
        own = [self._holder, self._listener, self._wake_read, self._wake_write]
        for sock in [*ends, *own, *self._fillers.values()]:
            if sock is not None:
                sock.close()
        self._selector.close()
        self.links, self.timed, self._fillers = {}, {}, {}

    def wake(self) -> None:
        """Wake the loop for one turn. Any thread may call it; never raises."""
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def stop(self) -> None:
        """End the loop. Any thread may call it."""
        self.stopping = True
        self.wake()

    def run(self, between: Callable[[], None]) -> None:
        """Forward until :attr:`stopping`; call *between* after each turn.

        Closes all sockets, even when it raises.
        """
        try:
            while not self.stopping:
                timeout = None
                if self.timed:
                    timeout = min(
                        max(0.0, min(self.timed.values()) - time.monotonic()), _LONGEST_WAIT
                    )
                for key, mask in self._selector.select(timeout):
                    self._ready(key.data, mask)
                now = time.monotonic()
                for link in [link for link, at in self.timed.items() if at <= now]:
                    self.advance(link)
                between()
        finally:
            self._close_all()

    def _close_all(self) -> None:
        for link in list(self.links):
            self.drop(link)
        self.refuse()
        self._selector.close()
        for sock in (self._holder, self._wake_read, self._wake_write):
            sock.close()

    def _ready(self, end: End | None, mask: int) -> None:
        if end is not None:
            self._serve(end, mask)
            return
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        if (
            not self._stalled
            # otherwise our own connections would be taken out of the queue, because a command may
            # run before its wake-up byte is read
        ):
            self._accept_waiting()

    # ------------------------------------------------------------------------------------- commands

    def each(self, action: Callable[[Link], None], links: int | None) -> None:
        """Call *action* for all links, or for *links* random ones."""
        found = list(self.links)
        for link in found if links is None else random.sample(found, min(links, len(found))):
            action(link)

    def set_gates(self, direction: Direction | None, name: str, value: object) -> None:
        """Set the attribute *name* of the gate of *direction*, or of both."""
        for key, gate in self.gates.items():
            if direction in (None, key):
                setattr(gate, name, value)
        for link in list(self.links):
            self.advance(link)

    def release(self) -> None:
        """Send at once what a delay or throttle is holding back."""
        for link in list(self.links):
            for flow in link.flows:
                flow.chunks = deque((0.0, data) for _, data in flow.chunks)
                flow.next_at = 0.0
            self.advance(link)

    def arm(self, truncation: tuple[Direction, int, Ending] | None) -> None:
        """Set the truncation, for all current and later links."""
        self.truncation = truncation
        for link in self.links:
            self._arm_link(link)

    def _arm_link(self, link: Link) -> None:
        link.up.left = link.down.left = None
        if self.truncation is not None:
            direction, size, _ = self.truncation
            (link.up if direction == "up" else link.down).left = size

    # ------------------------------------------------------------------------------------ listening

    def accept(self) -> None:
        """Listen and accept connections again, after :meth:`refuse` or :meth:`stall`."""
        if self._listener is None:
            self._listener = self._bound(self.port)
            self._listener.setblocking(False)
        elif not self._stalled:
            return
        self._stalled = False
        self._listener.listen(_BACKLOG)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._accept_waiting()  # including the fillers, while we still know their addresses
        self._end_fillers()

    def refuse(self) -> None:
        """Close the listener; the port stays bound."""
        if self._listener is not None:
            if not self._stalled:
                self._selector.unregister(self._listener)
            self._listener.close()
        self._listener = None
        self._stalled = False
        self._end_fillers()

    def stall(self) -> None:
        """Fill the listener's queue with our own connections, so that others get no answer."""
        self.accept()
        self._accept_waiting()
        if self._listener is None:
            return
        self._stalled = True
        self._selector.unregister(self._listener)
        self._listener.listen(0)
        while len(self._fillers) < _MOST_FILLERS:
            full = queue_is_full(self._listener)
            if full:
                return
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((self.host, self.port))
            if not wait_socket(
                filler, True, Deadline(_FILLER_GUESS_MS if full is None else _FILLER_MS)
            ):
                filler.close()
                return
            self._fillers[filler.getsockname()] = filler

    def _end_fillers(self) -> None:
        for filler in self._fillers.values():
            filler.close()
        self._fillers.clear()

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket()
        try:
            # on every system: another socket of ours holds the same port, see refuse()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._set_buffers(sock)
            sock.bind((self.host, port))
        except OSError:
            sock.close()
            raise
        return sock

    def _set_buffers(self, sock: socket.socket) -> None:
        if self._buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_bytes)

    def _accept_waiting(self) -> None:
        while self._listener is not None:
            try:
                sock, address = self._listener.accept()
            except OSError:
                return  # no more connections are waiting
            filler = self._fillers.pop(address, None)
            if filler is not None:
                filler.close()
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            link = Link(sock, self.gates["up"], self.gates["down"])
            self.links[link] = None
            self._arm_link(link)
            self.advance(link)

    # ---------------------------------------------------------------------------------------- links

    def _open_target(self, link: Link) -> None:
        link.opened = True
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_buffers(sock)
        sock.connect_ex(self.target)  # the result is known when the socket is writable
        link.target.sock = sock
        link.target.connecting = True

    def _serve(self, end: End, mask: int) -> None:
        """Handle a socket that the selector reports as ready."""
        link = end.link
        if end.sock is None:
            return  # closed by an earlier event of the same turn
        if end.connecting:
            if end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._broke(end)
            end.connecting = False
        elif mask & selectors.EVENT_READ:
            self._read(link.up if end is link.client else link.down)
        self.advance(link)

    def _read(self, flow: Flow) -> None:
        sock = flow.source.sock
        if sock is None or not (flow.may_read() or flow.source.link.closing):
            return
        try:
            data = sock.recv(HELD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._broke(flow.source)
            return
        flow.ended = not data
        if not flow.source.link.closing:
            flow.chunks.append((time.monotonic() + flow.gate.delay, data))
            flow.held += len(data)

    def advance(self, link: Link) -> None:
        """Forward what *link* can forward now; schedule the rest with the selector or clock."""
        self.timed.pop(link, None)
        if link not in self.links:
            return
        if not link.opened and link.up.gate.open:
            self._open_target(link)
        for flow in link.flows:
            self._write(flow)
        if link not in self.links:
            return
        if any(flow.reset and (flow.gate.open or link.closing) for flow in link.flows):
            self.drop(link)
            return
        done = [flow.ended or flow.source.sock is None for flow in link.flows]
        if all(done) and (link.closing or all(flow.finished for flow in link.flows)):
            self._forget(link)
            return
        now = time.monotonic()
        for end, inward, outward in (
            (link.client, link.down, link.up),
            (link.target, link.up, link.down),
        ):
            self._wait_for(end, inward, outward, now)

    def _write(self, flow: Flow) -> None:
        link = flow.sink.link
        while (due := flow.due()) is not None and due <= time.monotonic() and not link.closing:
            if flow.left == 0:
                self._truncated(link)
                return
            at, data = flow.chunks.popleft()
            sent = self._send(flow, data)
            if sent < len(data):
                flow.chunks.appendleft((at, data[sent:]))
            flow.held -= sent
            flow.gate.carried += sent
            if flow.left is not None:
                flow.left -= sent
            if flow.gate.rate and sent:
                flow.next_at = time.monotonic() + sent / flow.gate.rate
            if flow.left == 0:
                self._truncated(link)
                return
            if data and not sent:
                return

    def _send(self, flow: Flow, data: bytes) -> int:
        sock = flow.sink.sock
        if sock is None:
            return 0
        size = len(data)
        if flow.gate.rate:
            size = min(size, max(1, int(flow.gate.rate / 20)))
        if flow.left is not None:
            size = min(size, flow.left)
        try:
            if data:
                return sock.send(data[:size])
            sock.shutdown(socket.SHUT_WR)
            flow.finished = True
        except BlockingIOError:
            return 0
        except OSError:
            self._broke(flow.sink)
        return 0

    def _truncated(self, link: Link) -> None:
        then = "cut" if self.truncation is None else self.truncation[2]
        self.arm(None)
        if then == "cut":
            self.drop(link)
        else:
            self.finish(link)

    def _wait_for(self, end: End, inward: Flow, outward: Flow, now: float) -> None:
        if end.sock is None:
            return
        mask = 0
        if end.link.closing:
            mask = 0 if outward.ended else selectors.EVENT_READ
        elif end.connecting:
            mask = selectors.EVENT_WRITE
        else:
            if outward.may_read():
                mask |= selectors.EVENT_READ
            due = inward.due()
            if due is not None and due <= now:
                mask |= selectors.EVENT_WRITE
            elif due is not None:
                self.timed[end.link] = min(due, self.timed.get(end.link, due))
        if mask != end.mask:
            if not end.mask:
                self._selector.register(end.sock, mask, end)
            elif mask:
                self._selector.modify(end.sock, mask, end)
            else:
                # not registered with an empty mask, which would report errors again and again
                self._selector.unregister(end.sock)
            end.mask = mask

    def _broke(self, end: End) -> None:
        """Handle a reset: reset the other end as soon as its direction is open."""
        link = end.link
        inward = link.down if end is link.client else link.up
        outward = link.up if end is link.client else link.down
        self._close_end(end, reset=True)
        inward.chunks.clear()
        inward.finished = outward.ended = outward.reset = True

    def finish(self, link: Link) -> None:
        """Send FIN to both ends of *link*; data that still arrives is read and discarded."""
        link.closing = True
        for flow in link.flows:
            flow.chunks.clear()
        for end in link.ends:
            if end.sock is not None:
                try:
                    end.sock.shutdown(socket.SHUT_WR)
                except OSError:  # no longer connected, or not yet
                    self._close_end(end, reset=True)
        self.advance(link)

    def drop(self, link: Link) -> None:
        """Send RST to both ends of *link*, and forget it."""
        for end in link.ends:
            self._close_end(end, reset=True)
        self.links.pop(link, None)
        self.timed.pop(link, None)

    def _forget(self, link: Link) -> None:
        for end in link.ends:
            self._close_end(end, reset=False)
        self.links.pop(link, None)
        self.timed.pop(link, None)

    def _close_end(self, end: End, reset: bool) -> None:
        if end.sock is not None:
            if end.mask:
                self._selector.unregister(end.sock)
                end.mask = 0
            if reset:
                end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.sock.close()
            end.sock = None
