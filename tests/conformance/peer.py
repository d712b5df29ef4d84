"""The raw peer of the suite: one for each role, with the same methods, so that every case runs
against the server and the client.

:func:`open_peer` starts the library in one role on a loopback socket, with an application that
echoes messages, and gives the other end to the case. Everything that waits is bounded by
``support.BOUND``.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

from support import (
    BOUND,
    HOST,
    MS,
    HttpHead,
    RawClient,
    RawPeer,
    RawServerPeer,
    Recorder,
    echo,
    echo_server,
    ms,
    new_client,
    process_of,
    upgrade,
)

from mormot_ws import WebSocketFrame, WebSocketProcess

from .wire import (
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    Frame,
    FrameReader,
    close,
    cut,
    encode,
    ping,
    pong,
)

ROLES = ("server", "client")
#: scaled milliseconds: the library's ``close_timeout``, so long that what ends before it has ended
#: by itself
CLOSE_TIMEOUT = 5_000


class Peer:
    """The raw end of a connection whose other end is the library, as *role* (``server`` or
    ``client``).
    """

    def __init__(
        self, raw: RawPeer, role: str, extension: str, recorder: Recorder, process: WebSocketProcess
    ) -> None:
        # so that chops leave one by one
        raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw = raw
        self.role = role
        #: the ``Sec-WebSocket-Extensions`` that were agreed on; '' for none
        self.extension = extension
        #: the callbacks of the library's side
        self.recorder = recorder
        #: the library's side
        self.process = process
        #: what this side masks with; None: it does not mask
        self.mask = MASK if role == "server" else None
        #: True: heartbeats of the library (empty pings) are passed over
        self.skip_heartbeats = False
        #: what reads the library's frames
        self.reader = FrameReader(masked=role == "client", rsv1=bool(extension))

    # -------------------------------------------------------------------------------------- sending

    def wire(self, *frames: Frame) -> bytes:
        """Return the bytes of *frames* as this side has to send them."""
        return b"".join([encode(frame, self.mask) for frame in frames])

    def send(self, *frames: Frame, chop: int = 0) -> None:
        """Send *frames* together, or in pieces of *chop* bytes."""
        self.send_bytes(self.wire(*frames), chop)

    def send_bytes(self, data: bytes, chop: int = 0) -> None:
        """Send bytes as they are, or in pieces of *chop* bytes."""
        for part in cut(data, chop) if chop else [data]:
            self.raw.sock.sendall(part)

    # ------------------------------------------------------------------------------------ receiving

    def receive(self) -> Frame:
        """Return the next frame, of any kind."""
        while (frame := self.reader.next()) is None or (self.skip_heartbeats and frame == ping()):
            if frame is not None:
                continue
            data = self.raw.receive()
            if not data:
                raise EOFError(f"the library ended the connection, after {self.reader.unread!r}")
            self.reader.feed(data)
        return frame

    def expect(self, *frames: Frame) -> None:
        """Receive exactly these *frames* next."""
        for wanted in frames:
            frame = self.receive()
            assert frame == wanted, f"{_short(frame)} instead of {_short(wanted)}"

    def exchange(self, *messages: Frame, chop: int = 0) -> None:
        """Send whole, uncompressed *messages* and receive their echoes."""
        self.send(*messages, chop=chop)
        self.expect(*messages)

    def expect_pong(self, payload: bytes | str = "still there") -> None:
        """Send a ping and receive its pong next: proves that all that was sent before is dealt
        with, and was not answered.
        """
        self.send(ping(payload))
        self.expect(pong(payload))

    # ----------------------------------------------------------------------------- ends and closing

    def expect_close(self, code: int | None, reason: bytes | str | None = None) -> Frame:
        """Receive a close frame of that *code* (None: an empty one) next, and with that *reason*
        if one is given.
        """
        frame = self.receive()
        assert frame.opcode == CLOSE, f"{_short(frame)} instead of a close frame"
        wanted = close(code).payload
        assert frame.payload[:2] == wanted, f"{_short(frame)} instead of close code {code}"
        frame.payload[2:].decode("utf-8")
        if reason is not None:
            assert frame == close(code, reason), _short(frame)
        return frame

    def expect_end(self) -> None:
        """Receive the end of the TCP connection, with nothing before it, and in the order of RFC
        6455 §7.1.1: the server ends first.

        A reset, which can destroy what the library sent last, is a ``ConnectionResetError`` here.
        """
        if self.role == "client":
            self.end_output()
        self.raw.sock.settimeout(0.8 * CLOSE_TIMEOUT * MS)
        data = self.raw.receive()
        assert not data, f"{data[:60]!r} came after the close frame"
        assert not self.reader.unread
        if self.role == "server":
            self.end_output()

    def expect_silence(self, milliseconds: float = 30) -> None:
        """Fail when anything, even the end of the stream, comes within that time."""
        assert self.reader.next() is None
        assert not select.select([self.raw.sock], [], [], milliseconds * MS)[0], (
            f"{self.raw.receive()[:60]!r} came"
        )

    def end_output(self) -> None:
        """End this side's half of the TCP connection."""
        self.raw.sock.shutdown(socket.SHUT_WR)

    def expect_failure(self, code: int) -> None:
        """See the library fail the connection: a close frame of that *code*, a clean end, and the
        code told to its application.
        """
        self.expect_close(code)
        self.expect_end()
        told = self.told()
        assert told[:2] == code.to_bytes(2, "big"), told
        assert self.process.close_code == code

    def close(self, code: int | None = 1000, reason: bytes | str = b"") -> None:
        """Close in the orderly way: the library has to answer with the same code, and the
        connection has to end cleanly.
        """
        self.send(close(code, reason))
        self.expect_close(code)
        self.expect_end()

    def told(self) -> bytes:
        """Wait for the last callback of the library's application, and return its payload: how the
        connection ended.
        """
        payload = self.recorder.wait("focConnectionClose").value.payload
        assert isinstance(payload, bytes)
        return payload

    def messages(self) -> list[Frame]:
        """Return the messages that the library's application was given, in order."""
        names = {"focText": 1, "focBinary": 2}
        return [
            Frame(names[event.name], event.value.payload)
            for event in list(self.recorder.events)
            if event.name in names
        ]


def _short(frame: Frame) -> str:
    payload = frame.payload[:40]
    more = f"… {len(frame.payload)} bytes" if len(payload) < len(frame.payload) else ""
    names = {
        CONTINUATION: "continuation",
        1: "text",
        2: "binary",
        CLOSE: "close",
        PING: "ping",
        PONG: "pong",
    }
    return (
        f"<{names.get(frame.opcode, frame.opcode)} fin={frame.fin:d} rsv={frame.rsv:03b} "
        f"{payload!r}{more}>"
    )


# ----------------------------------------------------------------------------- starting the library


def _application(recorder: Recorder) -> Any:
    """Return the callback of the library's side: it remembers the process and all frames, and
    echoes messages.
    """

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.add("process", process)
        recorder.frame(process, frame)
        echo(process, frame)

    return callback


@contextlib.contextmanager
def open_peer(
    role: str,
    offer: str | None = None,
    answer: str | None = None,
    behind: bytes = b"",
    **settings: Any,
) -> Iterator[Peer]:
    """Give the raw end of a connection to the library as *role*, which has *settings*.

    *offer* is the raw client's ``Sec-WebSocket-Extensions``, *answer* the raw server's; each is for
    its own role only. *behind* is sent in the same segment as this side's part of the handshake.
    """
    settings.setdefault("close_timeout", ms(CLOSE_TIMEOUT))
    opened = (
        _to_server(offer, behind, settings)
        if role == "server"
        else _to_client(answer, behind, settings)
    )
    with opened as peer:
        yield peer


@contextlib.contextmanager
def _to_server(offer: str | None, behind: bytes, settings: dict[str, Any]) -> Iterator[Peer]:
    recorder = Recorder()
    with (
        echo_server(callback=_application(recorder), **settings) as server,
        RawClient(server.port) as raw,
    ):
        raw.send(RawClient.request(Sec_WebSocket_Extensions=offer) + behind)
        head = raw.read_head()
        assert head.status == 101, head
        process = recorder.wait("process").value
        yield Peer(
            raw, "server", head.headers.get("sec-websocket-extensions", ""), recorder, process
        )


class ClientUpgrade:
    """The library's client on a raw server: :meth:`start` its upgrade, then answer, then
    :meth:`finish`.
    """

    def __init__(self, recorder: Recorder, **settings: Any) -> None:
        self._recorder = recorder
        #: what ``websockets_upgrade`` returned
        self.error = "it has not returned"
        with socket.create_server((HOST, 0)) as listener:
            self.client = new_client(listener.getsockname()[1], **settings)
            sock, _ = listener.accept()
        self.raw = RawServerPeer(sock)
        self._thread = threading.Thread(target=self._run, name="upgrade", daemon=True)

    def start(self) -> HttpHead:
        """Let the client ask for its upgrade; return the request."""
        self._thread.start()
        return self.raw.read_head()

    def _run(self) -> None:
        self.error = upgrade(self.client, _application(self._recorder))

    def finish(self) -> str:
        """Return what ``websockets_upgrade`` has returned."""
        self._thread.join(BOUND)
        assert not self._thread.is_alive(), "the upgrade does not return"
        return self.error

    def __enter__(self) -> ClientUpgrade:
        return self

    def __exit__(self, *exc: object) -> None:
        self.raw.close()
        if self._thread.ident is not None:
            self._thread.join(BOUND)
        self.client.free()


@contextlib.contextmanager
def _to_client(answer: str | None, behind: bytes, settings: dict[str, Any]) -> Iterator[Peer]:
    recorder = Recorder()
    with ClientUpgrade(recorder, **settings) as upgrading:
        raw = upgrading.raw
        head = upgrading.start()
        raw.send(raw.answer(head, Sec_WebSocket_Extensions=answer) + behind)
        error = upgrading.finish()
        assert not error, f"{error} {upgrading.client.last_error}"
        yield Peer(raw, "client", answer or "", recorder, process_of(upgrading.client))
