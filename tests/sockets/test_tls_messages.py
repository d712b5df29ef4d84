"""Messages over TLS in both versions that are in use: both ways at once, the close, foreign peers,
reading that writes.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket
from support import (
    BOUND,
    MS,
    RawServer,
    RawServerPeer,
    Recorder,
    active,
    echo,
    in_threads,
    ms,
    polite,
    process_of,
    text,
    tls,
    upgrade,
    wait_for,
)
from support.programs import Script, run_module
from support.tls import (
    Authority,
    TlsRawClient,
    behind_tls,
    echoes,
    tls_client,
    tls_server,
    tls_upgraded,
)

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketServer,
    WebSocketServerSocket,
    focBinary,
    focConnectionClose,
    focText,
)
from mormot_ws.sockets.deadline import Deadline
from mormot_ws.sockets.tls_transport import TlsTransport

authority, stranger, context, server = (
    tls.authority,
    tls.stranger,
    tls.context,
    tls.server,
)


class OtherEnd:
    """The end of a TLS connection that works on memory, so that a test can hold back its records.
    For one thread.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_side: bool = False
    ) -> None:
        sock.settimeout(BOUND)
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self._in, self._out, server_side, name)

    def handshake(self) -> None:
        """Shake hands."""
        self._repeat(self.tls.do_handshake)
        self.sock.sendall(self.output())

    def read(self) -> bytes:
        """Return decrypted bytes; what has to be answered is left in :meth:`output`."""
        data: bytes = self._repeat(lambda: self.tls.read(65536))
        return data

    def output(self) -> bytes:
        """Return what waits to be sent."""
        return self._out.read()

    def _repeat(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                self.sock.sendall(self.output())
                self._in.write(self.sock.recv(65536))


class TestMessages:
    def test_a_big_message_goes_both_ways(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """Eight megabytes come back as they were."""
        payload = bytes(range(251)) * 33_422  # no power of two in it: misplaced pieces would show
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""
            assert process_of(client).send_frame(WebSocketFrame(focBinary, payload))
            assert recorder.wait("focBinary", bound=2 * BOUND).value.payload == payload

    def test_messages_of_all_sizes_around_the_records_come_back(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """Payloads around the 16 kB of a TLS record and the size below which header and payload
        are joined.
        """
        with tls_upgraded(server.port, context) as client:
            for size in (0, 1, 125, 126, 16_370, 16_384, 16_390, 65_535, 65_536, 65_537, 300_000):
                payload = bytes(number & 0xFF for number in range(size))
                client.send_frame(focBinary, payload)
                assert client.receive_opcode(focBinary).payload == payload

    def test_a_stream_that_arrives_byte_by_byte_is_read(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """Records of one byte each, several in one segment, lose nothing and stall nothing."""
        with tls_upgraded(server.port, context) as client:
            for byte in client.encoded(focText, "drop by drop") + client.encoded(
                focText, "and again"
            ):
                client.send(bytes([byte]))
            assert client.receive_opcode(focText).text == "drop by drop"
            assert client.receive_opcode(focText).text == "and again"

    def test_frames_in_the_record_of_the_request_are_not_lost(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """A client in a hurry may send its first frame together with its upgrade request."""
        with TlsRawClient(server.port, context) as client:
            client.upgrade(behind=client.encoded(focText, "early"))
            assert client.receive_opcode(focText).text == "early"

    def test_a_broadcast_reaches_all_in_order(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """``websocket_broadcast`` encodes once and encrypts for each connection; nobody misses
        anything.
        """
        payloads = [f"number {number} " + "x" * (number * 97) for number in range(100)]
        with (
            tls_server(authority.server_context(), echo) as server,
            contextlib.ExitStack() as stack,
        ):
            clients = [stack.enter_context(tls_upgraded(server.port, context)) for _ in range(4)]
            wait_for(lambda: server.websocket_connections == 4)
            for payload in payloads:
                assert server.websocket_broadcast(text(payload)) == 4
            for client in clients:
                assert [client.receive_opcode(focText).text for _ in payloads] == payloads

    def test_a_slow_reader_gets_everything_in_order_and_delays_nobody(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """Queued frames wait for a peer that does not read, while others are served; then all of
        them arrive.
        """
        with (
            tls_server(authority.server_context(), echo) as server,
            tls_upgraded(server.port, context, receive_buffer=4096) as slow,
            tls_upgraded(server.port, context) as other,
        ):
            process = active(server, slow.connection_id)
            for number in range(500):
                payload = number.to_bytes(2, "big") * (5 + number * 30)
                assert process.send_frame_async(WebSocketFrame(focBinary, payload))
            other.send_frame(focText, "quick")
            assert other.receive_opcode(focText).text == "quick"
            assert process.outgoing.count > 0  # the slow one is still being waited for
            for number in range(500):
                assert slow.receive_opcode(focBinary).payload == number.to_bytes(2, "big") * (
                    5 + number * 30
                )
            slow.send_frame(focText, "done")
            assert slow.receive_opcode(focText).text == "done"

    def test_many_threads_send_while_the_loop_reads(
        self, server: WebSocketServer, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """Frames of several threads never mix with each other, nor with what comes in at the same
        time.
        """
        with tls_client(server.port, context) as client:
            assert upgrade(client, recorder.frame) == ""

            def send(name: int) -> None:
                for number in range(50):
                    payload = f"{name}:{number}:" + str(name) * 3000
                    if number % 2:
                        assert process_of(client).send_frame(text(payload))
                    else:
                        assert process_of(client).send_frame_async(text(payload))

            in_threads(4, send)
            recorder.wait("focText", 200)
        fields = [payload.split(":") for payload in recorder.texts()]
        assert all(filler == name * 3000 for name, _, filler in fields)
        for name in "0123":
            numbers = [int(number) for owner, number, _ in fields if owner == name]
            # the queue may overtake, but each way keeps its order
            assert [number for number in numbers if number % 2] == list(range(1, 50, 2))
            assert [number for number in numbers if not number % 2] == list(range(0, 50, 2))


class TestClose:
    def test_the_server_answers_a_close_and_ends_tls_in_order(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """After the close frames the server sends the close_notify of TLS, so that nobody takes
        the end for a cut.
        """
        with tls_upgraded(server.port, context) as client:
            client.send_frame(focConnectionClose, (1000).to_bytes(2, "big") + b"bye")
            assert client.receive_opcode(focConnectionClose).payload[:2] == (1000).to_bytes(
                2, "big"
            )
            assert client.read_to_close_notify() == b""

    def test_a_server_that_stops_says_goodbye_and_ends_tls_in_order(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """``free()`` of the server sends 1001 inside TLS, and close_notify once the client has
        answered.
        """
        with (
            tls_server(authority.server_context(), echo) as server,
            tls_upgraded(server.port, context) as client,
        ):
            active(server, client.connection_id)
            freeing = threading.Thread(target=server.free)
            freeing.start()
            goodbye = client.receive_opcode(focConnectionClose)
            assert goodbye.payload[:2] == (1001).to_bytes(2, "big")
            client.send_frame(focConnectionClose, goodbye.payload)
            assert client.read_to_close_notify() == b""
            freeing.join(BOUND)

    def test_a_refused_upgrade_ends_tls_in_order(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """The answer to a bad request is followed by close_notify: the client knows that it has
        all of it.
        """
        with TlsRawClient(server.port, context) as client:
            client.send(client.request(protocol="unknown"))
            assert client.read_head().status == 400
            assert client.read_to_close_notify() == b""

    def closed_by_client(
        self, authority: Authority, context: ssl.SSLContext, act: Callable[[Any], Any]
    ) -> list[str]:
        """Let a client close by *act*; return what a foreign server saw of it, in order."""
        seen: list[str] = []

        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            peer.receive_opcode(focConnectionClose)
            seen.append("close frame")
            peer.send_frame(focConnectionClose, (1000).to_bytes(2, "big"))
            try:
                # sends close_notify and waits for that of the peer
                peer.sock.unwrap()  # type: ignore[attr-defined]
                seen.append("close_notify")
            except OSError as exc:
                seen.append(f"{type(exc).__name__}: {exc}")

        with RawServer(behind_tls(authority.server_context(), behaviour)) as server:
            client = tls_client(server.port, context)
            assert upgrade(client) == ""
            act(client)
            wait_for(lambda: len(seen) == 2)
            client.free()
        return seen

    def test_a_client_that_closes_ends_tls_in_order(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """``shutdown()`` of the client: close frames, then the server ends TLS, and the client
        answers its close_notify.
        """

        def act(client: HttpClientWebSockets) -> None:
            assert process_of(client).shutdown(1000)

        assert self.closed_by_client(authority, context, act) == ["close frame", "close_notify"]

    def test_a_client_that_is_freed_ends_tls_in_order(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """``free()`` of the client closes like ``shutdown()``: RFC 8446 §6.1 wants a close_notify
        from both sides.
        """
        seen = self.closed_by_client(authority, context, lambda client: client.free())
        assert seen == ["close frame", "close_notify"]

    def test_an_end_without_a_close_frame_is_abnormal(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """close_notify alone does not end a WebSocket: without a close frame it is 1006."""
        with tls_server(authority.server_context(), recorder.frame) as server:
            with tls_upgraded(server.port, context) as client:
                process = active(server, client.connection_id)
                with contextlib.suppress(OSError):
                    client.sock.unwrap()  # type: ignore[attr-defined]
            assert recorder.wait("focConnectionClose").value.payload == b""
        assert process.close_code == 1006

    def test_a_cut_inside_tls_is_abnormal(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """A TCP connection that just ends, without close_notify, is 1006 too, and no exception."""
        with tls_server(authority.server_context(), recorder.frame) as server:
            with tls_upgraded(server.port, context) as client:
                process = active(server, client.connection_id)
            recorder.wait("focConnectionClose")
        assert process.close_code == 1006


#: websockets' sync client and server read in one thread and write in another without a lock, which
#: TLS 1.3 session tickets turn into crashes: they live in a process of their own here, and get no
#: tickets
_FOREIGN_CLIENT = """
import ssl, sys
from websockets.sync.client import connect

context = ssl.create_default_context(cafile=sys.argv[2])
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[3]]
uri = "wss://localhost:" + sys.argv[1]
with connect(uri, ssl=context, subprotocols=["echo"], proxy=None) as connection:
    connection.send("hello")
    assert connection.recv(20) == "hello"
    connection.send(bytes(200_000))
    assert connection.recv(20) == bytes(200_000)
    version = connection.socket.version()
print("done", version)
"""

_FOREIGN_SERVER = """
import ssl, sys, threading
from websockets.sync.server import serve

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.num_tickets = 0

def echo(connection):
    for message in connection:
        connection.send(message)
    print("closed", connection.close_code, flush=True)

with serve(echo, "127.0.0.1", 0, ssl=context, subprotocols=["echo"]) as server:
    print("port", server.socket.getsockname()[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.readline()
    server.shutdown()
"""


class TestForeignPeers:
    def test_the_sync_client_of_websockets_talks_to_our_server(
        self, authority: Authority, context: ssl.SSLContext
    ) -> None:
        """Text, a message of several records, and the close, over TLS from another library."""
        closes: list[int] = []

        def ended(connection: WebSocketServerSocket) -> None:
            assert connection.websocket_process is not None
            closes.append(connection.websocket_process.close_code)

        server_context = authority.server_context()
        server_context.num_tickets = 0
        with tls_server(server_context, echo) as server:
            server.on_websocket_disconnect = ended
            version = context.maximum_version.name
            with Script(_FOREIGN_CLIENT, str(server.port), authority.file, version) as script:
                assert script.wait() == 0, script.text
                assert script.text.split() == ["done", version.replace("_", ".")]
            wait_for(lambda: closes)
        # our side of the close is what counts: on Python 3.10 theirs misses one in twenty close
        # frames, of its own server's too
        assert closes == [1000]

    def test_our_client_talks_to_the_sync_server_of_websockets(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """The same with the roles exchanged."""
        with Script(
            _FOREIGN_SERVER, authority.certificate_file, authority.private_key_file
        ) as script:
            with tls_client(int(script.wait_line("port ")), context) as client:
                assert upgrade(client, recorder.frame) == ""
                assert echoes(client, recorder)
                assert process_of(client).send_frame(WebSocketFrame(focBinary, bytes(200_000)))
                assert recorder.wait("focBinary").value.payload == bytes(200_000)
                assert process_of(client).shutdown(1000)
            script.wait_line("closed 1000")
            script.enter("")
            assert script.wait() == 0, script.text

    def test_websocket_client_talks_to_our_server(
        self, server: WebSocketServer, context: ssl.SSLContext
    ) -> None:
        """websocket-client in one thread, with a time-out set."""
        connection = websocket.create_connection(
            f"wss://localhost:{server.port}/",
            BOUND,
            sslopt={"context": context},
            subprotocols=["echo"],
        )
        try:
            connection.send("hello")
            assert connection.recv() == "hello"
            connection.send_binary(bytes(200_000))
            assert connection.recv() == bytes(200_000)
            connection.send_close(1000)
            opcode, payload = connection.recv_data(control_frame=True)
            assert (opcode, payload[:2]) == (websocket.ABNF.OPCODE_CLOSE, (1000).to_bytes(2, "big"))
        finally:
            connection.shutdown()  # type: ignore[no-untyped-call]

    def test_our_client_talks_to_a_server_on_plain_ssl_sockets(
        self, authority: Authority, context: ssl.SSLContext, recorder: Recorder
    ) -> None:
        """The other end is an ``ssl.SSLSocket`` of the standard library, and nothing else."""
        with (
            RawServer(behind_tls(authority.server_context(), polite)) as server,
            tls_client(server.port, context) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            assert echoes(client, recorder)
            assert process_of(client).shutdown(1000)


class TestReadingThatWrites:
    """Post-handshake authentication (TLS 1.3): what the server asks in the midst of a connection,
    the client answers while it reads.
    """

    @pytest.fixture
    def contexts(self, authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Of a server that may ask a client who it is at any time, and of a client that answers."""
        server_context = authority.server_context()
        server_context.load_verify_locations(authority.file)
        server_context.verify_mode = ssl.CERT_OPTIONAL
        client_context = authority.client_context(ssl.TLSVersion.TLSv1_3)
        client_context.load_cert_chain(*authority.issue("alice@example.org"))
        server_context.post_handshake_auth = client_context.post_handshake_auth = True
        return server_context, client_context

    @pytest.fixture
    def sockets(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """The two ends of a connection."""
        left, right = socket.socketpair()
        with left, right:
            yield left, right

    @staticmethod
    def shake_hands(transport: TlsTransport, other: OtherEnd) -> None:
        """Shake hands, each end in a thread."""
        shaking = threading.Thread(target=transport.handshake, args=(Deadline(ms(5_000)),))
        shaking.start()
        other.handshake()
        shaking.join(BOUND)

    @pytest.fixture
    def ends(
        self,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        sockets: tuple[socket.socket, socket.socket],
    ) -> Iterator[tuple[TlsTransport, OtherEnd]]:
        """A transport on the server's side, and the other end of its connection."""
        transport = TlsTransport(sockets[0], contexts[0], ms(5_000), server_side=True)
        other = OtherEnd(sockets[1], contexts[1])
        self.shake_hands(transport, other)
        yield transport, other
        transport.close()

    def half_answered(self, transport: TlsTransport, other: OtherEnd) -> bytes:
        """Let the server ask and read the first record of the answer; return the other records."""
        transport.ssl_object.verify_client_post_handshake()
        transport.sendall(b"who are you?")
        assert other.read() == b"who are you?"
        answer = other.output()
        first = 5 + int.from_bytes(answer[3:5], "big")
        assert first < len(answer)
        other.sock.sendall(answer[:first])
        assert transport.recv_now(100) is None
        return answer[first:]

    def test_a_write_while_half_an_answer_is_read_waits_for_the_rest(
        self, ends: tuple[TlsTransport, OtherEnd]
    ) -> None:
        """OpenSSL does not write between two records of the answer: the write waits for the
        reader, it does not fail.
        """
        transport, other = ends
        rest = self.half_answered(transport, other)
        failed: list[Exception] = []

        def write() -> None:
            try:
                transport.sendall(b"welcome")
            except OSError as exc:
                failed.append(exc)

        writer = threading.Thread(target=write)
        writer.start()
        # gives it the time to fail in
        writer.join(50 * MS)
        other.sock.sendall(rest)
        assert transport.recv_now(100) is None
        writer.join(BOUND)
        assert failed == []
        assert other.read() == b"welcome"
        assert transport.ssl_object.getpeercert()

    def test_a_write_that_does_not_wait_is_put_off_then(
        self, ends: tuple[TlsTransport, OtherEnd]
    ) -> None:
        """The keeper's way of writing takes nothing meanwhile (or takes it and sends it later),
        and does not fail either.
        """
        transport, other = ends
        rest = self.half_answered(transport, other)
        taken = transport.send_now(b"welcome")
        assert taken in (0, len(b"welcome"))
        other.sock.sendall(rest)
        assert transport.recv_now(100) is None
        transport.send_now(b"welcome"[taken:])
        assert other.read() == b"welcome"

    def test_an_answer_that_meets_a_blocked_write_leaves_behind_it(
        self,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        sockets: tuple[socket.socket, socket.socket],
    ) -> None:
        """What reading gave rise to while a write was blocked must not wait for some later write,
        which may never come.
        """
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport = TlsTransport(sockets[0], contexts[1], ms(5_000), server_hostname="localhost")
        other = OtherEnd(sockets[1], contexts[0], server_side=True)
        self.shake_hands(transport, other)
        other.tls.verify_client_post_handshake()
        other.tls.write(b"who are you?")
        other.sock.sendall(other.output())
        payload = bytes(200_000)
        writer = threading.Thread(target=transport.sendall, args=(payload,))
        writer.start()
        # it is writing, more than the kernel takes
        wait_for(lambda: select.select([other.sock], [], [], 0)[0])
        assert transport.recv_now(100) == b"who are you?"
        received = 0
        while received < len(payload):
            received += len(other.read())
        writer.join(BOUND)
        other.sock.settimeout(500 * MS)
        with contextlib.suppress(TimeoutError):
            other.read()  # there is no more to read, but records of the handshake to work on
        assert other.tls.getpeercert(), "the answer did not leave"

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("mine")])
    def test_nothing_follows_a_write_that_was_cut_short(
        self,
        ends: tuple[TlsTransport, OtherEnd],
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
    ) -> None:
        """What was encrypted and did not leave is missing in the stream: the exception is raised,
        and neither writing nor reading sends anything behind the gap.
        """
        transport, other = ends
        transport.sendall(b"first")
        assert other.read() == b"first"

        def fail(data: object) -> int:
            raise error

        send = transport._send
        monkeypatch.setattr(transport, "_send", fail)
        with pytest.raises(type(error)):
            transport.sendall(b"lost")
        monkeypatch.setattr(transport, "_send", send)
        for write in (transport.sendall, transport.send_now):
            with pytest.raises(ConnectionAbortedError):
                write(b"behind it")
        other.tls.write(b"hello")
        other.sock.sendall(other.output())
        assert transport.recv_now(100) == b"hello"
        assert not select.select([other.sock], [], [], 0)[0], "bytes behind a gap"

    def test_a_client_answers_while_it_only_reads(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], recorder: Recorder
    ) -> None:
        """Our client sends the answer by itself, although its application sends nothing."""
        server_context, context = contexts
        seen: list[Any] = []

        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            assert isinstance(peer.sock, ssl.SSLSocket)
            seen.append(peer.sock.getpeercert())
            peer.sock.verify_client_post_handshake()
            peer.send_frame(focText, "who are you?")
            peer.sock.settimeout(100 * MS)
            with contextlib.suppress(TimeoutError):
                peer.receive()  # nothing but the answer comes, which is no application data
            seen.append(peer.sock.getpeercert())
            peer.sock.settimeout(BOUND)
            peer.send_frame(focText, "thank you")
            peer.receive_opcode(focConnectionClose)

        with (
            RawServer(behind_tls(server_context, behaviour)) as server,
            tls_client(server.port, context) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            recorder.wait("focText", 2)
        assert seen[0] is None
        assert ("email", "alice@example.org") in seen[1]["subjectAltName"]


@pytest.mark.soak
def test_reading_while_others_write_is_safe() -> None:
    """The short form of ``python -m tests.tls_duplex``: TLS 1.3 under load in both directions
    loses and garbles nothing.
    """
    done = run_module("tests.tls_duplex", "--connections", "40", "--peer", "mormot_ws", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)["mormot_ws"]
    assert figures["connections"] == 40
    assert figures["failures"] == 0
    assert figures["crashes"] == 0
    assert figures["server"] == {"": 40}
    assert figures["asked"] > 40  # reading had to write, in the midst of the load
