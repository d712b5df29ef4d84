"""EchoServer: a WebSocket server for tests, which stops, dies and starts on the same port.

It runs in this OS process; the one in a process of its own is in ``echoprocess.py``. No test and no
pytest in here.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterable

from ..core.frames import WebSocketFrame, focBinary, focText
from ..process.freeing import FreedByWith
from ..process.process import WebSocketProcess
from ..protocols.any_name import AnyNameList
from ..protocols.base import WebSocketProtocol
from ..protocols.chat import WebSocketProtocolChat
from ..protocols.offered import WebSocketProtocolList
from ..server.connection import WebSocketProcessServer, WebSocketServerSocket
from ..server.threaded import WebSocketServer
from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline


def hold_port(host: str, port: int = 0) -> tuple[int, socket.socket | None]:
    """Return a free *port* (0: any) and a socket that reserves it, to be closed at the end.

    Only Linux lets a server listen on a port that is held in this way; elsewhere there is nothing
    to close. Raises ``OSError``.
    """
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, port))
        port = holder.getsockname()[1]
        if sys.platform == "linux":
            return port, holder
    except OSError:
        holder.close()
        raise
    holder.close()
    return port, None


class _Server(WebSocketServer):
    """A server that tells when its connections come and go, and that can die."""

    def __init__(
        self,
        port: str,
        protocols: WebSocketProtocolList,
        settings: WebSocketProcessSettings,
        changed: Callable[[bool], object],
    ) -> None:
        self._offered = protocols
        self._changed = changed
        self._dies = False
        super().__init__(
            port, on_start=self._prepare, process_name="echo server", settings=settings
        )

    def _prepare(self, thread: threading.Thread) -> None:
        # before the first connection: a client in a hurry must not find an empty list
        if thread is self._acceptor:
            self.websocket_protocols = self._offered

    def _register(self, process: WebSocketProcessServer) -> None:
        super()._register(process)
        self._changed(True)

    def _unregister(self, process: WebSocketProcessServer) -> None:
        super()._unregister(process)
        self._changed(False)

    def die(self) -> None:
        """Free it without a close frame to anybody."""
        self._dies = True
        self.free()

    def _say_goodbye(self, sockets: Iterable[WebSocketServerSocket]) -> None:
        if not self._dies:
            super()._say_goodbye(sockets)
            return
        for socket_ in sockets:
            socket_.interrupt()


class EchoServer(FreedByWith):
    """A WebSocket server for tests, on a port that stays its own while it is stopped.

    :param protocols: what it offers. None at all: it echoes every message, on any URI, under
        whatever sub-protocol a client asks for, and keeps them in :attr:`messages`.
    :param host: an IPv4 address to listen on.
    :param port: 0: any free one (see :attr:`port`).
    :param settings: of the server; by default new ones.

    It runs when the constructor returns; that raises ``OSError`` when the port is taken. It is a
    context manager that calls :meth:`free`. Its methods may be called from any thread but those of
    its connections, and by one at a time.
    """

    def __init__(
        self,
        *protocols: WebSocketProtocol,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: WebSocketProcessSettings | None = None,
    ) -> None:
        self.host = host
        self.settings: WebSocketProcessSettings = (
            WebSocketProcessSettings() if settings is None else settings
        )
        #: the running server, e.g. for ``server.websocket_broadcast(frame)``; None while it is
        #: stopped
        self.server: WebSocketServer | None = None
        #: guards the two below; notified for each message, and when a connection comes or goes.
        #: Innermost
        self._changed = threading.Condition()
        self._upgrades = 0
        self._messages: list[WebSocketFrame] = []
        if protocols:
            self._protocols = WebSocketProtocolList()
            for protocol in protocols:
                if not self._protocols.add(protocol):
                    raise ValueError(
                        f"the protocol {protocol.name!r} is given twice for {protocol.uri!r}"
                    )
        else:
            self._protocols = AnyNameList(WebSocketProtocolChat("echo", "", self._echo))
        #: the port, which stays its own while it is stopped
        self.port: int
        self.port, self._holder = hold_port(host, port)
        try:
            self.start()
        except BaseException:
            self.free()
            raise

    @property
    def uri(self) -> str:
        """Its ``ws://`` address."""
        return f"ws://{self.host}:{self.port}/"

    @property
    def running(self) -> bool:
        """True while it listens."""
        return self.server is not None

    @property
    def connections(self) -> int:
        """How many WebSocket connections it has now."""
        server = self.server
        return 0 if server is None else server.websocket_connections

    @property
    def upgrades(self) -> int:
        """How many connections have become WebSockets up to now, over all its lives."""
        return self._upgrades

    @property
    def messages(self) -> list[WebSocketFrame]:
        """The messages that it has echoed since it was made, in the order of their arrival."""
        with self._changed:
            return list(self._messages)

    def start(self) -> None:
        """Listen again, on the same port. Does nothing while it runs."""
        if self.server is None:
            self.server = _Server(
                f"{self.host}:{self.port}", self._protocols, self.settings, self._notify
            )

    def stop(self) -> None:
        """Stop gracefully: each client gets a close frame (1001), new ones are refused.

        Does nothing while it is stopped.
        """
        server, self.server = self.server, None
        if server is not None:
            server.free()

    def kill(self) -> None:
        """Die: no client gets a close frame, new ones are refused.

        Does nothing while it is stopped.

        The clients see what the death of a process looks like: the end of the TCP stream (FIN), and
        a reset when they send on. The server's own callbacks for the end of a connection still run,
        which those of a killed process do not: :class:`EchoServerProcess` is the real thing. For a
        reset at once there is :meth:`FaultProxy.cut`.
        """
        server, self.server = self.server, None
        if isinstance(server, _Server):
            server.die()

    def wait_connections(self, count: int, timeout: int = 10_000) -> None:
        """Wait until it has exactly *count* connections.

        Raises ``TimeoutError`` after *timeout* milliseconds.

        It counts those that it has not lost yet as far as it knows: to wait for a client that comes
        back, use :meth:`wait_upgrades`.
        """
        self._wait(
            lambda: self.connections == count,
            timeout,
            lambda: f"{count} connections, but {self.connections}",
        )

    def wait_upgrades(self, count: int, timeout: int = 10_000) -> None:
        """Wait until it has upgraded *count* connections in all.

        Raises ``TimeoutError`` after *timeout* milliseconds.
        """
        self._wait(
            lambda: self._upgrades >= count,
            timeout,
            lambda: f"{count} upgrades, but {self._upgrades}",
        )

    def wait_messages(self, count: int, timeout: int = 10_000) -> list[WebSocketFrame]:
        """Wait until it has echoed *count* messages in all, and return them.

        Raises ``TimeoutError`` after *timeout* milliseconds.
        """
        self._wait(
            lambda: len(self._messages) >= count,
            timeout,
            lambda: f"{count} messages, but {len(self._messages)}",
        )
        return self.messages[:count]

    def free(self) -> None:
        """Stop, and give the port back. Safe to call twice."""
        self.stop()
        if self._holder is not None:
            self._holder.close()

    def _echo(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """In a connection's thread."""
        if frame.opcode in (focText, focBinary):
            with self._changed:
                self._messages.append(WebSocketFrame(frame.opcode, frame.payload))
                self._changed.notify_all()
            process.send_frame(frame)

    def _notify(self, came: bool) -> None:
        with self._changed:
            self._upgrades += came
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], timeout: int, what: Callable[[], str]) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, Deadline(timeout).seconds()):
                raise TimeoutError(f"not {what()} after {timeout} ms")

    def __repr__(self) -> str:
        state = f"running connections={self.connections}" if self.running else "stopped"
        return f"<EchoServer {self.host}:{self.port} {state}>"
