"""FaultProxy: a TCP proxy that produces, on command, the faults of real networks. No test and no WebSocket in here.

::

    with FaultProxy("127.0.0.1", server.port) as proxy:
        client = connect(proxy.port)
        proxy.blackhole()           # nothing passes any more, and nobody is told
        proxy.restore()

or, as a process of its own that takes the same commands as lines on its standard input and answers each with a line::

    python -m tests.fault_proxy --target 127.0.0.1:8999 [--port 0]

A *link* is one accepted connection and the one that was opened to the target for it. ``up`` is the direction from client to
target, ``down`` the other one; a method with the parameter *direction* means both when it is None. Whatever a method does has been
done when it returns, to all links of that moment, and for the states (blackhole, delay, throttle, refuse) to later links too.
Every method may be called from any thread.

=======================================  ==============================================================================
``cut(links=None)``                      RST to both ends: of all links, or of so many, picked at random
``close(links=None)``                    FIN to both ends, nothing more is forwarded; what they still send is thrown away
``blackhole(direction=None)``            stop forwarding: bytes, FIN and RST stay where they are, every link stays open; new
                                         connections are accepted, and reach the target when ``up`` is open again
``restore(direction=None)``              go on where the blackhole began: no byte is missing
``delay(ms, direction=None)``            let what is read from now on wait so long; 0: no more
``throttle(bytes_per_second, direction=None)``  bound the pace of each link, with back-pressure on its sender; 0: no more
``truncate(size, direction, then="cut")``  let *size* more bytes pass on each link; the first one that has had them is ended by
                                         ``cut`` or ``close``, and the others go on as before; None: no more
``refuse()`` / ``accept()``              new connections are refused (RST) / served again, on the same port
``heal()``                               end everything above that lasts
``stop()``                               end all links (RST) and the thread; also the end of the ``with`` block
=======================================  ==============================================================================

``port``, ``target`` (may be set: for later links), ``accepted`` (connections since the start), ``links`` (open now), ``carried``
(bytes since the start: ``{"up": …, "down": …}``) tell how things are.

A link whose target refuses is reset. A proxy that keeps the link with nobody behind it is ``blackhole()``, then the server's death.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal

Direction = Literal["up", "down"]
Ending = Literal["cut", "close"]

#: bytes of one direction of a link that the proxy holds before it stops reading; besides them there are the kernel's buffers
_HELD_BYTES = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds


class _Gate:
    """The state of one direction, for all links."""

    def __init__(self) -> None:
        self.open = True
        self.delay = 0.0  # seconds
        self.rate = 0.0  # bytes per second; 0: any
        self.carried = 0


class _End:
    """One socket of a link. ``sock`` is None before it is opened, and after it has broken or was closed."""

    def __init__(self, link: _Link, sock: socket.socket | None) -> None:
        self.link = link
        self.sock = sock
        self.connecting = False
        self.mask = 0  # what the selector waits for; 0: not registered


class _Flow:
    """One direction of one link."""

    def __init__(self, gate: _Gate, source: _End, sink: _End) -> None:
        self.gate = gate
        self.source = source
        self.sink = sink
        self.chunks: deque[tuple[float, bytes]] = deque()  # (when it may leave, data); empty data: FIN
        self.held = 0
        self.next_at = 0.0  # when the throttle lets the next bytes pass
        self.left: int | None = None  # bytes until the truncation
        self.ended = False  # the source has sent FIN
        self.finished = False  # and the sink was told
        self.reset = False  # the source has broken

    def may_read(self) -> bool:
        return self.gate.open and not self.ended and not self.source.connecting and self.held < _HELD_BYTES

    def due(self) -> float | None:
        """Return when something may leave; None when nothing may."""
        if not self.chunks or not self.gate.open or self.sink.sock is None or self.sink.connecting:
            return None
        return max(self.chunks[0][0], self.next_at)


class _Link:
    """One client and its connection to the target."""

    def __init__(self, client: socket.socket, up: _Gate, down: _Gate) -> None:
        self.client = _End(self, client)
        self.target = _End(self, None)
        self.up = _Flow(up, self.client, self.target)
        self.down = _Flow(down, self.target, self.client)
        self.flows = (self.up, self.down)
        self.ends = (self.client, self.target)
        self.opened = False  # the connection to the target was begun
        self.closing = False  # close() was called: read to the ends of both streams


class FaultProxy:
    """Forwards connections to *target_host*:*target_port*, with the faults of the module's docstring.

    :param port: where it listens; 0: any free port (see :attr:`port`).
    :param buffer_bytes: the size of the kernel's buffers of every socket; 0: the system's. Small ones make back-pressure felt soon.
    """

    def __init__(
        self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0, buffer_bytes: int = 0
    ) -> None:
        self.target = (target_host, target_port)
        self.host = host
        #: connections accepted since the start
        self.accepted = 0
        self._buffer_bytes = buffer_bytes
        self._gates = {"up": _Gate(), "down": _Gate()}
        self._truncation: tuple[Direction, int, Ending] | None = None
        self._links: dict[_Link, None] = {}
        self._timed: dict[
            _Link, float
        ] = {}  # links with bytes that may leave at that time, because of a delay or throttle
        # bound and never listening: keeps the port ours while connections are refused
        self._holder = self._bound(port)
        self.port: int = self._holder.getsockname()[1]
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        #: guards the two fields below; the commands are run by the thread
        self._safe = threading.Lock()
        self._commands: deque[tuple[Callable[[], object], threading.Event]] = deque()
        self._stopped = False
        self._error: BaseException | None = None
        self._listen()
        # daemon: must not keep a failed test run from ending
        self._thread = threading.Thread(target=self._run, name=f"fault proxy :{self.port}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------------- for anybody

    @property
    def links(self) -> int:
        """How many links are open now."""
        return len(self._links)

    @property
    def carried(self) -> dict[str, int]:
        """Bytes forwarded since the start, by direction."""
        return {name: gate.carried for name, gate in self._gates.items()}

    def cut(self, links: int | None = None) -> None:
        """Send RST to both ends of all links, or of so many."""
        self._do(lambda: self._each(self._drop, links))

    def close(self, links: int | None = None) -> None:
        """Send FIN to both ends of all links, or of so many; forward nothing more."""
        self._do(lambda: self._each(self._finish, links))

    def blackhole(self, direction: Direction | None = None) -> None:
        """Stop forwarding, and tell nobody."""
        self._set(direction, "open", False)

    def restore(self, direction: Direction | None = None) -> None:
        """Undo :meth:`blackhole`."""
        self._set(direction, "open", True)

    def delay(self, ms: float, direction: Direction | None = None) -> None:
        """Let bytes wait *ms* milliseconds; 0: no more."""
        self._set(direction, "delay", ms / 1000)

    def throttle(self, bytes_per_second: float, direction: Direction | None = None) -> None:
        """Let so many bytes per second pass on each link; 0: as many as come."""
        self._set(direction, "rate", float(bytes_per_second))

    def truncate(self, size: int | None, direction: Direction = "up", then: Ending = "cut") -> None:
        """End the first link that has carried *size* more bytes in *direction*; None: no more."""
        self._do(lambda: self._arm(None if size is None else (direction, size, then)))

    def refuse(self) -> None:
        """Refuse new connections; open links stay."""
        self._do(self._stop_listening)

    def accept(self) -> None:
        """Undo :meth:`refuse`."""
        self._do(self._listen)

    def heal(self) -> None:
        """Let everything pass again at once: the opposite of every command that lasts."""
        self.truncate(None)
        self.delay(0)
        self.throttle(0)
        self.restore()
        self.accept()

    def stop(self) -> None:
        """Cut all links and end the thread. Safe to call twice. Raises what the thread has met, if anything."""
        with self._safe:
            self._stopped = True
        self._wake()
        self._thread.join(10)
        assert not self._thread.is_alive(), "the fault proxy does not end"
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---------------------------------------------------------------------------------------------------- commands

    def _do(self, command: Callable[[], object]) -> None:
        """Let the thread run *command*, and wait until it has."""
        done = threading.Event()
        with self._safe:
            if self._stopped:
                return
            self._commands.append((command, done))
        self._wake()
        assert done.wait(10) or self._stopped, "the fault proxy does not answer"

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def _set(self, direction: Direction | None, name: str, value: object) -> None:
        def change() -> None:
            for key, gate in self._gates.items():
                if direction in (None, key):
                    setattr(gate, name, value)
            for link in list(self._links):
                self._advance(link)

        self._do(change)

    def _each(self, action: Callable[[_Link], None], links: int | None) -> None:
        found = list(self._links)
        for link in found if links is None else random.sample(found, min(links, len(found))):
            action(link)

    def _arm(self, truncation: tuple[Direction, int, Ending] | None) -> None:
        self._truncation = truncation
        for link in self._links:
            self._arm_link(link)

    def _arm_link(self, link: _Link) -> None:
        link.up.left = link.down.left = None
        if self._truncation is not None:
            direction, size, _ = self._truncation
            (link.up if direction == "up" else link.down).left = size

    # -------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._stopped:
                timeout = max(0.0, min(self._timed.values()) - time.monotonic()) if self._timed else None
                for key, mask in self._selector.select(timeout):
                    self._ready(key.data, mask)
                now = time.monotonic()
                for link in [link for link, at in self._timed.items() if at <= now]:
                    self._advance(link)
                self._run_commands()
        except BaseException as exc:  # noqa: BLE001 - handed on to stop()
            self._error = exc
        finally:
            with self._safe:
                self._stopped = True
                waiting = list(self._commands)
                self._commands.clear()
            for _, done in waiting:
                done.set()
            for link in list(self._links):
                self._drop(link)
            self._stop_listening()
            self._selector.close()
            for sock in (self._holder, self._wake_read, self._wake_write):
                sock.close()

    def _run_commands(self) -> None:
        while True:
            with self._safe:
                if not self._commands:
                    return
                command, done = self._commands.popleft()
            try:
                command()
            finally:
                done.set()

    def _ready(self, end: _End | None, mask: int) -> None:
        if end is not None:
            self._serve(end, mask)
            return
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        self._accept_waiting()

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket()
        try:
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

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._bound(self.port)
            self._listener.listen(1024)
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ, None)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _accept_waiting(self) -> None:
        while self._listener is not None:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # nobody is there any more
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            link = _Link(sock, self._gates["up"], self._gates["down"])
            self._links[link] = None
            self._arm_link(link)
            self._advance(link)

    # ---------------------------------------------------------------------------------------------------- one link

    def _open_target(self, link: _Link) -> None:
        link.opened = True
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_buffers(sock)
        sock.connect_ex(self.target)  # what becomes of it shows when it is writable
        link.target.sock = sock
        link.target.connecting = True

    def _serve(self, end: _End, mask: int) -> None:
        """The selector says that something can be done with this socket."""
        link = end.link
        if end.sock is None:
            return  # closed by an earlier event of the same turn
        if end.connecting:
            if end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._broke(end)
            end.connecting = False
        elif mask & selectors.EVENT_READ:
            self._read(link.up if end is link.client else link.down)
        self._advance(link)

    def _read(self, flow: _Flow) -> None:
        sock = flow.source.sock
        if sock is None or not (flow.may_read() or flow.source.link.closing):
            return
        try:
            data = sock.recv(_HELD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._broke(flow.source)
            return
        flow.ended = not data
        if not flow.source.link.closing:
            flow.chunks.append((time.monotonic() + flow.gate.delay, data))
            flow.held += len(data)

    def _advance(self, link: _Link) -> None:
        """Do all that can be done for *link* now, and let the selector or the clock wait for the rest."""
        self._timed.pop(link, None)
        if link not in self._links:
            return
        if not link.opened and link.up.gate.open:
            self._open_target(link)
        for flow in link.flows:
            self._write(flow)
        if link not in self._links:
            return
        if any(flow.reset and (flow.gate.open or link.closing) for flow in link.flows):
            self._drop(link)
            return
        done = [flow.ended or flow.source.sock is None for flow in link.flows]
        if all(done) and (link.closing or all(flow.finished for flow in link.flows)):
            self._forget(link)
            return
        now = time.monotonic()
        for end, inward, outward in ((link.client, link.down, link.up), (link.target, link.up, link.down)):
            self._wait_for(end, inward, outward, now)

    def _write(self, flow: _Flow) -> None:
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

    def _send(self, flow: _Flow, data: bytes) -> int:
        sock = flow.sink.sock
        assert sock is not None
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

    def _truncated(self, link: _Link) -> None:
        assert self._truncation is not None
        then = self._truncation[2]
        self._arm(None)
        if then == "cut":
            self._drop(link)
        else:
            self._finish(link)

    def _wait_for(self, end: _End, inward: _Flow, outward: _Flow, now: float) -> None:
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
                self._timed[end.link] = min(due, self._timed.get(end.link, due))
        if mask != end.mask:
            if not end.mask:
                self._selector.register(end.sock, mask, end)
            elif mask:
                self._selector.modify(end.sock, mask, end)
            else:
                self._selector.unregister(end.sock)  # not with an empty mask: errors would be reported again and again
            end.mask = mask

    def _broke(self, end: _End) -> None:
        """This socket was reset. The other end is told as soon as its direction is open."""
        link = end.link
        inward, outward = (link.down, link.up) if end is link.client else (link.up, link.down)
        self._close_end(end, reset=True)
        inward.chunks.clear()
        inward.finished = outward.ended = outward.reset = True

    def _finish(self, link: _Link) -> None:
        link.closing = True
        for flow in link.flows:
            flow.chunks.clear()
        for end in link.ends:
            if end.sock is not None:
                try:
                    end.sock.shutdown(socket.SHUT_WR)
                except OSError:  # not connected any more, or not yet
                    self._close_end(end, reset=True)
        self._advance(link)

    def _drop(self, link: _Link) -> None:
        for end in link.ends:
            self._close_end(end, reset=True)
        self._links.pop(link, None)
        self._timed.pop(link, None)

    def _forget(self, link: _Link) -> None:
        for end in link.ends:
            self._close_end(end, reset=False)
        self._links.pop(link, None)
        self._timed.pop(link, None)

    def _close_end(self, end: _End, reset: bool) -> None:
        if end.sock is not None:
            if end.mask:
                self._selector.unregister(end.sock)
                end.mask = 0
            if reset:
                end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.sock.close()
            end.sock = None


# ------------------------------------------------------------------------------------------------------ as a program


def obey(proxy: FaultProxy, line: str) -> str:
    """Run one command line: a method's name and its arguments, e.g. ``delay 200 up``; return what to answer."""
    name, *words = line.split()
    if name == "status":
        return f"links {proxy.links} accepted {proxy.accepted} up {proxy.carried['up']} down {proxy.carried['down']}"
    takes: dict[str, tuple[type[int] | type[float] | type[str], ...]] = {
        "cut": (int,),
        "close": (int,),
        "blackhole": (str,),
        "restore": (str,),
        "delay": (float, str),
        "throttle": (float, str),
        "truncate": (int, str, str),
        "refuse": (),
        "accept": (),
        "heal": (),
    }
    if (
        name not in takes
        or len(words) > len(takes[name])
        or not {"up", "down", "cut", "close"}.issuperset(
            word for word, kind in zip(words, takes[name], strict=False) if kind is str
        )
    ):
        return f"error: {line!r} is no command; there are status, stop, {', '.join(takes)}"
    try:
        getattr(proxy, name)(*(kind(word) for word, kind in zip(words, takes[name], strict=False)))
    except (TypeError, ValueError) as exc:
        return f"error: {exc}"
    return "ok"


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip() == "stop":
            return
        if line.strip():
            yield line.strip()


def main() -> None:
    """Read the command line, then commands from the standard input until ``stop`` or its end."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_proxy", description="A proxy that produces faults.")
    parser.add_argument("--target", required=True, help="host:port to forward to")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    arguments = parser.parse_args()
    host, _, port = arguments.target.rpartition(":")
    with FaultProxy(host or "127.0.0.1", int(port), port=arguments.port) as proxy:
        print("port", proxy.port, flush=True)
        for line in _lines():
            print(obey(proxy, line), flush=True)


if __name__ == "__main__":
    main()
