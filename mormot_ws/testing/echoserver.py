"""EchoServer: a WebSocket server for tests, which can stop, die and restart on the same port.

It runs in this OS process; the server of ``echoprocess.py`` runs in its own.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterable
from types import NoneType
from typing import ClassVar

from ..attributes import IS_INT, IS_MILLISECONDS, IS_TEXT, Check, KnownAttributes, of_kind
from ..core.frames import WebSocketFrame, focBinary, focText
from ..process.freeing import FreedByWith
from ..process.process import WebSocketProcess
from ..protocols.any_name import AnyNameList
from ..protocols.base import WebSocketProtocol
from ..protocols.chat import WebSocketProtocolChat
from ..protocols.protocol_list import WebSocketProtocolList
from ..server.connection import WebSocketProcessServer, WebSocketServerSocket
from ..server.threaded import WebSocketServer
from ..settings import WebSocketProcessSettings, check_settings
from ..sockets.deadline import Deadline
from ..sockets.systems import own_port


def hold_port(host: str, port: int = 0) -> tuple[int, socket.socket | None]:
    """Return a free *port* (0: any) and a socket that reserves it until it is closed.

    Only Linux lets a server listen on a port that is reserved in this way. On other systems the
    socket is None. Raises ``OSError`` if the port is taken.
    """
    holder = socket.socket()
    try:
        own_port(holder)
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
    """A server that reports when connections begin and end, and that can die."""

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
        super().__init__(port, process_name="echo server", settings=settings)

    def _offered_protocols(self) -> WebSocketProtocolList:
        # before the first connection, so that a fast client finds them
        return self._offered

    def _register(self, process: WebSocketProcessServer) -> None:
        super()._register(process)
        self._changed(True)

    def _unregister(self, process: WebSocketProcessServer) -> None:
        super()._unregister(process)
        self._changed(False)

    def die(self) -> None:
        """Free the server without sending close frames."""
        self._dies = True
        self.free()

    def _say_goodbye(self, sockets: Iterable[WebSocketServerSocket]) -> None:
        if not self._dies:
            super()._say_goodbye(sockets)
            return
        for socket_ in sockets:
            socket_.interrupt()


class EchoServer(KnownAttributes, FreedByWith):
    """A WebSocket server for tests. It keeps its port while it is stopped.

    :param protocols: the protocols to offer. If none are given, the server echoes every message, on
        any URI, with any sub-protocol that a client asks for, and keeps it in :attr:`messages`.
    :param host: an IPv4 address to listen on.
    :param port: the port; 0: any free one (see :attr:`port`).
    :param settings: the server's settings; by default new ones.

    It listens when the constructor returns. The constructor raises ``OSError`` when the port is
    taken. As a context manager it calls :meth:`free`. The methods may be called by one thread at a
    time, but not by the threads of the connections.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "host": IS_TEXT,
        "port": IS_INT,
        "settings": check_settings,
        "server": of_kind(WebSocketServer, NoneType),
    }

    def __init__(
        self,
        *protocols: WebSocketProtocol,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: WebSocketProcessSettings | None = None,
    ) -> None:
        self.host = host
        IS_INT("port", port)
        self.settings: WebSocketProcessSettings = (
            WebSocketProcessSettings() if settings is None else settings
        )
        #: the running server, e.g. for ``server.websocket_broadcast(frame)``; None while it is
        #: stopped
        self.server: WebSocketServer | None = None
        #: guards the two fields below; notified for each message, and when a connection begins or
        #: ends; last in the lock order
        self._changed = threading.Condition()
        self._upgrades = 0
        self._messages: list[WebSocketFrame] = []
        if protocols:
            self._protocols = WebSocketProtocolList()
            for protocol in protocols:
                if not self._protocols.add(protocol):
                    raise ValueError(
                        f"the protocol {protocol.name!r} was passed twice for {protocol.uri!r}"
                    )
        else:
            self._protocols = AnyNameList(WebSocketProtocolChat("echo", "", self._echo))
        #: the port, which stays reserved while the server is stopped
        self.port: int
        self.port, self._holder = hold_port(host, port)
        try:
            self.start()
        except BaseException:
            self.free()
            raise

    @property
    def uri(self) -> str:
        """The ``ws://`` URI of the server."""
        return f"ws://{self.host}:{self.port}/"

    @property
    def running(self) -> bool:
        """True while the server listens."""
        return self.server is not None

    @property
    def connections(self) -> int:
        """The number of current WebSocket connections."""
        server = self.server
        return 0 if server is None else server.websocket_connections

    @property
    def upgrades(self) -> int:
        """The number of connections upgraded so far, including those before a restart."""
        return self._upgrades

    @property
    def messages(self) -> list[WebSocketFrame]:
        """All messages echoed so far, in order of arrival."""
        with self._changed:
            return list(self._messages)

    def start(self) -> None:
        """Listen again on the same port. Does nothing while the server is running."""
        if self.server is None:
            self.server = _Server(
                f"{self.host}:{self.port}", self._protocols, self.settings, self._notify
            )

    def stop(self) -> None:
        """Stop gracefully: clients get a close frame (1001), and new ones are refused.

        Does nothing while the server is stopped.
        """
        server, self.server = self.server, None
        if server is not None:
            server.free()

    def kill(self) -> None:
        """Die: clients get no close frame, and new ones are refused.

        Does nothing while the server is stopped.

        To clients this looks like the death of an OS process: the TCP stream ends (FIN), and is
        reset if they send more. But the server's callbacks for the end of a connection still run.
        In an OS process that is killed they do not: use :class:`EchoServerProcess` to test that.
        For an immediate reset use :meth:`FaultProxy.cut`.
        """
        server, self.server = self.server, None
        if isinstance(server, _Server):
            server.die()

    def wait_connections(self, count: int, timeout: int = 10_000) -> None:
        """Wait until the server has exactly *count* connections.

        Raises ``TimeoutError`` after *timeout* milliseconds.

        A lost connection counts until the server notices the loss. To wait for a client that
        reconnects, use :meth:`wait_upgrades`.
        """
        IS_INT("count", count)
        self._wait(
            lambda: self.connections == count,
            timeout,
            lambda: f"{count} connections, but {self.connections}",
        )

    def wait_upgrades(self, count: int, timeout: int = 10_000) -> None:
        """Wait until the server has upgraded *count* connections in all.

        Raises ``TimeoutError`` after *timeout* milliseconds.
        """
        IS_INT("count", count)
        self._wait(
            lambda: self._upgrades >= count,
            timeout,
            lambda: f"{count} upgrades, but {self._upgrades}",
        )

    def wait_messages(self, count: int, timeout: int = 10_000) -> list[WebSocketFrame]:
        """Wait until the server has echoed *count* messages in all, and return them.

        Raises ``TimeoutError`` after *timeout* milliseconds.
        """
        IS_INT("count", count)
        self._wait(
            lambda: len(self._messages) >= count,
            timeout,
            lambda: f"{count} messages, but {len(self._messages)}",
        )
        return self.messages[:count]

    def free(self) -> None:
        """Stop the server and release the port. Safe to call twice."""
        self.stop()
        if self._holder is not None:
            self._holder.close()

    def _echo(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Echo a message; called in the connection's thread."""
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
        IS_MILLISECONDS("timeout", timeout)
        with self._changed:
            if not self._changed.wait_for(condition, Deadline(timeout).seconds()):
                raise TimeoutError(f"not {what()} after {timeout} ms")

    def __repr__(self) -> str:
        state = f"running connections={self.connections}" if self.running else "stopped"
        return f"<EchoServer {self.host}:{self.port} {state}>"
