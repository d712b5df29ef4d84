"""What the tests share: waiting with a bound, recording callbacks, raw and misbehaving peers.

Every time-out here and in the tests is a multiple of one unit, ``MS``;
``MORMOT_WS_TEST_TIMEOUT_FACTOR=5`` makes all of them five times longer for a slow machine. No test
sleeps: it waits for a condition, and fails at the bound.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from mormot_ws import (
    ExponentialBackoff,
    HttpClientWebSockets,
    ReconnectFailure,
    WebProcessInFrame,
    WebSocketFrame,
    WebSocketFrameOpCode,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketProcessServer,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
    encode_frame,
    focBinary,
    focText,
    wpsCreate,
)

ROOT = Path(__file__).resolve().parents[1]
#: stretches every time-out of the tests
TIMEOUT_FACTOR = float(os.environ.get("MORMOT_WS_TEST_TIMEOUT_FACTOR", "1"))
#: a millisecond, in scaled seconds
MS = 0.001 * TIMEOUT_FACTOR
#: seconds for something that should happen at once
BOUND = 10_000 * MS
HOST = "127.0.0.1"

_T = TypeVar("_T")
_P = TypeVar("_P", bound="RawPeer")


def ms(number: float) -> int:
    """Return *number* scaled milliseconds, for settings."""
    return max(1, round(number * TIMEOUT_FACTOR))


def wait_for(condition: Callable[[], _T], bound: float = BOUND, what: str = "the condition") -> _T:
    """Return the first true value of *condition*; fail when there is none within *bound* seconds."""
    give_up = time.monotonic() + bound
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"{what} did not come true within {bound:g} s")
        time.sleep(0.002)


def in_threads(count: int, work: Callable[[int], Any], bound: float = BOUND) -> list[Any]:
    """Run ``work(0)`` to ``work(count - 1)`` in threads at once; return their results, raise what
    one of them raised.
    """
    results: list[Any] = [None] * count
    failures: list[BaseException] = []
    ready = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            ready.wait(bound)
            results[number] = work(number)
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failures.append(exc)

    threads = [
        threading.Thread(target=run, args=(n,), name=f"test thread {n}", daemon=True)
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(bound)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if failures:
        raise failures[0]
    return results


# ---------------------------------------------------------------------------------------- recording


class Event(NamedTuple):
    """One callback."""

    name: str
    thread: threading.Thread
    value: Any


class Recorder:
    """Remembers callbacks in their order, with their threads, and lets a test wait for them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        #: guards events; notified by add()
        self._changed = threading.Condition()

    def add(self, name: str, value: Any = None) -> None:
        """Remember a callback of the current thread."""
        with self._changed:
            self.events.append(Event(name, threading.current_thread(), value))
            self._changed.notify_all()

    def frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """An ``on_incoming_frame`` that remembers the frame under the name of its opcode."""
        self.add(frame.opcode.name, frame)

    def call(self, name: str, result: Any = None) -> Callable[[Any], Any]:
        """Return a callback of one parameter that remembers it as *name* and returns *result*."""

        def callback(argument: Any) -> Any:
            self.add(name, argument)
            return result

        return callback

    @property
    def names(self) -> list[str]:
        """The names of all events, in order."""
        with self._changed:
            return [event.name for event in self.events]

    @property
    def threads(self) -> set[threading.Thread]:
        """The threads that the callbacks ran in."""
        with self._changed:
            return {event.thread for event in self.events}

    def all(self, name: str) -> list[Event]:
        """Return the events of that *name*."""
        with self._changed:
            return [event for event in self.events if event.name == name]

    def texts(self) -> list[str]:
        """Return the texts of all text frames."""
        return [event.value.text for event in self.all("focText")]

    def wait(self, name: str, n: int = 1, bound: float = BOUND) -> Event:
        """Wait for the *n*-th event of that *name* and return it; fail when it does not come
        within *bound* seconds.
        """
        with self._changed:
            if not self._changed.wait_for(
                lambda: sum(event.name == name for event in self.events) >= n, bound
            ):
                raise AssertionError(
                    f"no {name} number {n} within {bound:g} s, but {[e.name for e in self.events]}"
                )
        return self.all(name)[n - 1]


# ------------------------------------------------------------------------------ servers and clients


def echo(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """An ``on_incoming_frame`` that answers each message with itself."""
    if frame.opcode in (focText, focBinary):
        process.send_frame(frame)


def text(payload: str) -> WebSocketFrame:
    """Return a text frame."""
    return WebSocketFrame(focText, payload)


def fast_settings(**values: Any) -> WebSocketProcessSettings:
    """Return settings with a short close time-out, and waits of at most 20 ms between attempts to
    reconnect.
    """
    settings = WebSocketProcessSettings(
        close_timeout=ms(300),
        reconnect_policy=lambda: ExponentialBackoff(base_ms=ms(5), cap_ms=ms(20)),
    )
    for name, value in values.items():
        setattr(settings, name, value)
    return settings


def echo_server(
    port: int = 0, callback: Callable[..., Any] = echo, **settings: Any
) -> WebSocketServer:
    """Return a running server that offers the protocol ``echo`` on any URI; free it."""
    server = WebSocketServer(f"{HOST}:{port}", settings=fast_settings(**settings))
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
    return server


def new_client(port: int, timeout: float = 5_000, **settings: Any) -> HttpClientWebSockets:
    """Return a client with a TCP connection, not yet upgraded; free it."""
    return HttpClientWebSockets.open(
        HOST, port, timeout=ms(timeout), settings=fast_settings(**settings)
    )


def upgrade(
    client: HttpClientWebSockets,
    callback: Callable[..., Any] | None = None,
    uri: str = "",
    headers: str = "",
) -> str:
    """Upgrade *client* to the chat protocol ``echo``; return what ``websockets_upgrade`` returns."""
    return client.websockets_upgrade(
        uri, "", False, frozenset(), WebSocketProtocolChat("echo", "", callback), headers=headers
    )


def connect(
    port: int, callback: Callable[..., Any] | None = None, **settings: Any
) -> HttpClientWebSockets:
    """Return a client that has upgraded to ``echo`` on *port*; free it."""
    client = new_client(port, **settings)
    error = upgrade(client, callback)
    if error:
        client.free()
        raise AssertionError(f"cannot upgrade: {error} ({client.last_error})")
    return client


def active(server: WebSocketServer, connection_id: int) -> WebSocketProcessServer:
    """Return the process of a connection as soon as it runs."""
    process = wait_for(
        lambda: server.is_active_websocket(connection_id), what=f"connection #{connection_id}"
    )
    assert process is not None
    # it is known a moment before it runs
    wait_for(lambda: process.state is not wpsCreate, what="its start")
    return process


def chat(recorder: Recorder | None = None) -> WebSocketProtocolChat:
    """Return a protocol ``echo`` for a client."""
    return WebSocketProtocolChat("echo", "", None if recorder is None else recorder.frame)


def process_of(client: HttpClientWebSockets) -> WebSocketProcessClient:
    """Return the process of a client that has been upgraded."""
    process = client.websockets
    assert process is not None
    return process


def send_text(client: HttpClientWebSockets, payload: str) -> bool:
    """Send a text message the way the document does, by the protocol."""
    process = process_of(client)
    protocol = process.protocol
    assert isinstance(protocol, WebSocketProtocolChat)
    return protocol.send_frame(process, text(payload))


class ReconnectingClient:
    """The client of the document: it upgrades again in ``on_reconnect``, and records every
    callback.

    *before_upgrade* and *after_upgrade* are called in ``on_reconnect`` with the process. The first
    frame callback is held until everything is in its place, so that no event is missed, however
    soon the server ends the connection.
    """

    def __init__(self, port: int, recorder: Recorder | None = None, **settings: Any) -> None:
        self.recorder = Recorder() if recorder is None else recorder
        self._ready = threading.Event()
        self.before_upgrade: Callable[[WebSocketProcessClient], Any] | None = None
        self.after_upgrade: Callable[[WebSocketProcessClient], Any] | None = None
        self.client = connect(port, self.on_incoming_frame, **settings)
        self.process = process_of(self.client)
        self.client.on_websockets_closed = self.recorder.call("on_websockets_closed")
        self.process.on_reconnect = self.on_reconnect
        self._ready.set()

    def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Record the frame."""
        self._ready.wait(BOUND)
        self.recorder.frame(process, frame)

    def on_reconnect(self, process: WebSocketProcessClient | None) -> str:
        """What the document's ``DoReconnect`` does."""
        if process is None:
            self.recorder.add("on_reconnect(None)")
            return "Retry"
        if self.before_upgrade is not None:
            self.before_upgrade(process)
        error = self.client.websockets_upgrade(
            process.protocol.upgrade_uri,
            "",
            False,
            frozenset(),
            process.protocol,
            "",
            reconnect=True,
        )
        self.recorder.add("on_reconnect(process)", error)
        if not error and self.after_upgrade is not None:
            self.after_upgrade(process)
        return error

    def drop(self) -> None:
        """Ask a server that behaves by :func:`drop_on_request` to end the connection."""
        assert send_text(self.client, "drop me")

    def wait_reconnected(self, n: int = 1) -> None:
        """Wait until the connection has come back for the *n*-th time, and its first callback was
        called.
        """
        self.recorder.wait("focContinuation", n + 1)

    def __enter__(self) -> ReconnectingClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.free()


class FixedDelay:
    """A reconnection policy that always waits the same, gives up after some attempts, and
    remembers what it was told.
    """

    def __init__(self, milliseconds: float, max_attempts: int | None = None) -> None:
        self.milliseconds = milliseconds
        self.max_attempts = max_attempts
        self.failures: list[ReconnectFailure] = []

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        self.failures.append(failure)
        if self.max_attempts is not None and failure.attempts >= self.max_attempts:
            return None
        return self.milliseconds

    def reset(self) -> None:
        """It has nothing to forget."""


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """Give a port on which connections are refused: it is taken, but nobody listens."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]


# ---------------------------------------------------------------------------------------- raw peers


class HttpHead(NamedTuple):
    """The head of a request or an answer."""

    first_line: str
    headers: dict[str, str]  # names in lower case
    raw: bytes

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.first_line.split()[1])


def accept_for(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` for *key*, worked out independently of the library."""
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()


class RawPeer:
    """One end of a connection on a plain socket: sends whatever bytes a test wants, and frames.

    Everything that waits raises ``TimeoutError`` after ``BOUND``; the end of the stream is an
    ``EOFError`` where more was needed.
    """

    def __init__(self, sock: socket.socket, client_side: bool) -> None:
        sock.settimeout(BOUND)
        self.sock = sock
        self.client_side = client_side
        self._mask = b"\x12\x34\x56\x78" if client_side else None
        self._decoder = WebProcessInFrame(masked=not client_side, max_message_bytes=64 << 20)
        self._frames: list[WebSocketFrame] = []
        self._unread = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def encoded(self, opcode: int, payload: bytes | str = b"", fin: bool = True) -> bytes:
        """Return the bytes of a frame as this side sends it."""
        return encode_frame(
            opcode, payload.encode() if isinstance(payload, str) else payload, self._mask, fin=fin
        )

    def send_frame(self, opcode: int, payload: bytes | str = b"", fin: bool = True) -> None:
        """Send one frame."""
        self.send(self.encoded(opcode, payload, fin))

    def receive(self) -> bytes:
        """Return the next bytes, ``b''`` at the end of the stream."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        return self.sock.recv(65536)

    def receive_frame(self) -> WebSocketFrame:
        """Return the next message or control frame."""
        while not self._frames:
            data = self.receive()
            if not data:
                raise EOFError("the peer ended the connection")
            self._frames = self._decoder.feed(data)
            assert self._decoder.error is None, self._decoder.error
        return self._frames.pop(0)

    def receive_opcode(self, opcode: WebSocketFrameOpCode) -> WebSocketFrame:
        """Return the next frame, which has to be of that *opcode*."""
        frame = self.receive_frame()
        assert frame.opcode is opcode, frame
        return frame

    def read_head(self) -> HttpHead:
        """Return the next HTTP head; what came behind it is kept for the next read."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.receive()
            if not more:
                raise EOFError(f"the stream ended inside a head: {data!r}")
            data += more
        raw, _, self._unread = data.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return HttpHead(
            first, {name.lower(): value.strip() for name, _, value in fields}, raw + b"\r\n\r\n"
        )

    def read_answer(self) -> tuple[HttpHead, bytes]:
        """Return the head and the body (by its ``Content-Length``) of an HTTP answer."""
        head = self.read_head()
        size = int(head.headers.get("content-length", "0"))
        body = b""
        while len(body) < size:
            more = self.receive()
            if not more:
                raise EOFError(f"the stream ended inside a body: {body!r}")
            body += more
        self._unread = body[size:]
        return head, body[:size]

    def read_to_end(self) -> bytes:
        """Read until the peer ends the connection, and return all of it. A reset counts as an end."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := self.receive():
                data += more
        return data

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def __enter__(self: _P) -> _P:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RawClient(RawPeer):
    """A WebSocket client on a plain socket, for tests of the server."""

    KEY = "dGhlIHNhbXBsZSBub25jZQ=="

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        """Connect to *port*, with a small *receive_buffer* if its size in bytes is given."""
        sock = socket.socket()
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(BOUND)
            sock.connect((HOST, port))
        except OSError:
            sock.close()
            raise
        super().__init__(sock, client_side=True)
        #: the ``Sec-WebSocket-Connection-ID`` of the upgrade
        self.connection_id = 0

    @classmethod
    def request(cls, uri: str = "", protocol: str = "echo", **headers: str | None) -> bytes:
        """Return an upgrade request. Header names are written with ``_``; None leaves a header
        out.
        """
        fields: dict[str, str | None] = {
            "Host": "localhost",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": cls.KEY,
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": protocol or None,
        }
        known = {name.lower(): name for name in fields}
        for name, value in headers.items():
            dashed = name.replace("_", "-")
            fields[known.get(dashed.lower(), dashed)] = value
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        return "\r\n".join([f"GET /{uri} HTTP/1.1", *lines, "", ""]).encode()

    def upgrade(self, uri: str = "", protocol: str = "echo", behind: bytes = b"") -> HttpHead:
        """Upgrade, and return the head of the answer; *behind* is sent in the same segment as the
        request.
        """
        self.send(self.request(uri, protocol) + behind)
        head = self.read_head()
        assert head.status == 101, head.first_line
        assert head.headers["sec-websocket-accept"] == accept_for(self.KEY)
        self.connection_id = int(head.headers["sec-websocket-connection-id"])
        return head


def upgraded(port: int, receive_buffer: int = 0) -> RawClient:
    """Return a raw client that has upgraded to ``echo``; close it."""
    client = RawClient(port, receive_buffer)
    try:
        client.upgrade()
    except BaseException:
        client.close()
        raise
    return client


class RawServerPeer(RawPeer):
    """The server's end of one connection of a :class:`RawServer`."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, client_side=False)

    def answer(self, head: HttpHead, **headers: str | None) -> bytes:
        """Return a 101 answer to the request *head*; *headers* change or (None) leave out what is
        in it.
        """
        fields: dict[str, str | None] = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Connection-ID": "7",
            "Sec-WebSocket-Protocol": head.headers.get("sec-websocket-protocol"),
            "Sec-WebSocket-Accept": accept_for(head.headers["sec-websocket-key"]),
        }
        known = {name.lower(): name for name in fields}
        for name, value in headers.items():
            dashed = name.replace("_", "-")
            fields[known.get(dashed.lower(), dashed)] = value
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()

    def accept(self) -> HttpHead:
        """Do the server's side of the handshake; return the request."""
        head = self.read_head()
        self.send(self.answer(head))
        return head

    def wait_end(self) -> None:
        """Read and ignore until the client ends the connection, however long that takes."""
        self.sock.settimeout(None)
        self.read_to_end()


#: what a raw server does with a connection; the connection is closed when it returns
Behaviour = Callable[[RawServerPeer], Any]


class RawServer:
    """A server on plain sockets that treats its n-th connection by its n-th *behaviour*, and all
    later ones by the last.

    Connections are served one after another, in one thread. An exception in a behaviour is raised
    by :meth:`stop`, unless the connection broke.
    """

    def __init__(self, *behaviours: Behaviour, port: int = 0) -> None:
        self._behaviours = behaviours
        self._listener = socket.create_server((HOST, port))
        self.port: int = self._listener.getsockname()[1]
        #: how many connections were accepted
        self.accepted = 0
        self._stopping = False
        self._error: BaseException | None = None
        self._peer: RawServerPeer | None = None
        self._thread = threading.Thread(target=self._run, name="raw server", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with RawServerPeer(sock) as peer:
                self._peer = peer
                behaviour = self._behaviours[min(self.accepted, len(self._behaviours) - 1)]
                self.accepted += 1
                try:
                    if not self._stopping:
                        behaviour(peer)
                except (OSError, EOFError):
                    pass  # the client has gone, or stop() was called
                except BaseException as exc:  # noqa: BLE001 - handed on to the test
                    self._error = exc
                self._peer = None

    def stop(self) -> None:
        """End the connection of the moment and the thread."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        peer = self._peer
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(BOUND)
        self._listener.close()
        assert not self._thread.is_alive(), "the raw server does not end"
        if self._error is not None:
            raise self._error

    def __enter__(self) -> RawServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def accept_and_close(peer: RawServerPeer) -> None:
    """Behaviour: accept the TCP connection, read the request and close."""
    peer.read_head()


def silent(peer: RawServerPeer) -> None:
    """Behaviour: take the request and never answer."""
    peer.wait_end()


def sending(data: bytes) -> Behaviour:
    """Behaviour: answer the request with *data*, whatever it is, and close."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(data)

    return behaviour


def truncated(size: int) -> Behaviour:
    """Behaviour: send the first *size* bytes of a good answer and close."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.send(peer.answer(peer.read_head())[:size])

    return behaviour


def answering(**headers: str | None) -> Behaviour:
    """Behaviour: answer 101 with changed *headers*, then do what a good server does."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.send(peer.answer(peer.read_head(), **headers))
        converse(peer)

    return behaviour


def remembering(heads: list[HttpHead]) -> Behaviour:
    """Behaviour: append the request to *heads*, then do what a good server does."""

    def behaviour(peer: RawServerPeer) -> None:
        heads.append(peer.accept())
        converse(peer)

    return behaviour


def polite(peer: RawServerPeer) -> None:
    """Behaviour: upgrade, and do what a good server does."""
    peer.accept()
    converse(peer)


def upgrade_and_drop(peer: RawServerPeer) -> None:
    """Behaviour: upgrade, and end the TCP connection without a close frame."""
    peer.accept()


def drop_on_request(peer: RawServerPeer) -> None:
    """Behaviour: upgrade, and end the TCP connection, without a close frame, when a message has
    come.
    """
    peer.accept()
    peer.sock.settimeout(None)
    peer.receive_frame()


def converse(peer: RawServerPeer) -> None:
    """On an upgraded connection: echo messages, answer pings, answer a close frame and end."""
    peer.sock.settimeout(None)
    while True:
        frame = peer.receive_frame()
        if frame.opcode in (focText, focBinary):
            peer.send_frame(frame.opcode, frame.payload)
        elif frame.opcode is WebSocketFrameOpCode.focPing:
            peer.send_frame(WebSocketFrameOpCode.focPong, frame.payload)
        elif frame.opcode is WebSocketFrameOpCode.focConnectionClose:
            peer.send_frame(frame.opcode, frame.payload)
            return


def exchange(client: RawClient, payloads: Sequence[str]) -> list[str]:
    """Send text messages on an upgraded raw client and return as many answers."""
    for payload in payloads:
        client.send_frame(focText, payload)
    return [client.receive_opcode(focText).text for _ in payloads]


# ------------------------------------------------------------------------------------ foreign peers


@contextlib.contextmanager
def foreign_server(handler: Callable[[Any], Any], **options: Any) -> Iterator[int]:
    """Serve ``handler(connection)`` by the threaded server of ``websockets``; give its port."""
    from websockets.sync.server import serve  # here: few tests need it

    server = serve(handler, HOST, 0, **options)
    thread = threading.Thread(target=server.serve_forever, name="foreign server", daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join(BOUND)
        # versions before 17 leave the ends of a pipe
        for name in ("shutdown_watcher", "shutdown_notifier"):
            end = getattr(server, name, None)
            if isinstance(end, int):
                os.close(end)
