"""Every limit of the settings: what is just allowed, what is refused and how, and that memory
follows the bytes that really came.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    RawClient,
    RawServer,
    RawServerPeer,
    Recorder,
    echo_server,
    ms,
    new_client,
    process_of,
    sending,
    text,
    upgrade,
    upgraded,
    wait_for,
)

from mormot_ws import (
    HttpServerRequest,
    PermessageDeflate,
    WebProcessInFrame,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessServer,
    WebSocketServer,
    encode_frame,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    parse_close_payload,
)
from mormot_ws.process.liveness import Liveness

_MASK = b"\x01\x02\x03\x04"


def header(first: int, size: int, masked: bool = True) -> bytes:
    """Return the header of a frame that announces *size* bytes; the mask leaves zeros as they
    are.
    """
    bit = 0x80 if masked else 0
    if size < 126:
        data = bytes((first, bit | size))
    elif size < 65536:
        data = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        data = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return data + bytes(4) if masked else data


def close_of(peer: RawClient | RawServerPeer) -> tuple[int, str]:
    """Return code and reason of the close frame that comes next."""
    return parse_close_payload(peer.receive_opcode(focConnectionClose).payload)[:2]


def works(server: WebSocketServer) -> bool:
    """Tell whether a new connection gets an echo."""
    with upgraded(server.port) as client:
        client.send_frame(focText, "still there?")
        return client.receive_opcode(focText).text == "still there?"


def process_behind(server: WebSocketServer, client: RawClient) -> WebSocketProcessServer:
    """Return the server's process of a raw client's connection."""
    process = wait_for(lambda: server.is_active_websocket(client.connection_id))
    assert process is not None
    return process


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Give a function that returns the most bytes that Python has had in use at a time, above
    those at the beginning.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class TestMessageSize:
    def test_a_message_of_exactly_the_limit_is_taken(self) -> None:
        """``max_message_bytes`` itself is allowed, in one frame and in several."""
        with echo_server(max_message_bytes=1000) as server, upgraded(server.port) as client:
            client.send_frame(focBinary, bytes(1000))
            assert len(client.receive_opcode(focBinary).payload) == 1000
            client.send_frame(focBinary, bytes(600), fin=False)
            client.send_frame(focContinuation, bytes(400))
            assert len(client.receive_opcode(focBinary).payload) == 1000

    def test_a_frame_that_announces_more_is_refused_before_it_comes(self) -> None:
        """1009 follows the header: nobody has to send, or store, what will be refused."""
        with echo_server(max_message_bytes=1000) as server, upgraded(server.port) as client:
            client.send(header(0x82, 1001))
            assert close_of(client)[0] == 1009
            assert works(server)

    def test_fragments_that_make_more_together_are_refused(self) -> None:
        """The sum counts, as soon as the header of the fragment too many is there."""
        with echo_server(max_message_bytes=1000) as server, upgraded(server.port) as client:
            client.send_frame(focBinary, bytes(600), fin=False)
            client.send(header(0x80, 401))
            assert close_of(client)[0] == 1009

    def test_a_client_refuses_too(self, recorder: Recorder) -> None:
        """The limit holds for what a server sends as well."""
        seen: list[int] = []

        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            peer.send(header(0x82, 1001, masked=False))
            seen.append(close_of(peer)[0])

        with (
            RawServer(behaviour) as server,
            new_client(server.port, max_message_bytes=1000) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            recorder.wait("focConnectionClose")
            wait_for(lambda: seen)
            assert process_of(client).close_code == 1009
        assert seen == [1009]

    def test_what_a_message_inflates_to_counts(self) -> None:
        """A compressed message is measured by what it becomes, and its inflation stops at the
        limit.
        """
        with (
            echo_server(max_message_bytes=1 << 20, permessage_deflate=True) as server,
            RawClient(server.port) as client,
        ):
            client.send(client.request(Sec_WebSocket_Extensions="permessage-deflate"))
            assert client.read_head().status == 101
            with peak_memory() as peak:
                bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
                data = b"".join([bomb.compress(bytes(1 << 20)) for _ in range(64)]) + bomb.flush(
                    zlib.Z_SYNC_FLUSH
                )
                client.send(header(0xC2, len(data)) + data)
                assert close_of(client)[0] == 1009
                assert peak() < 6 << 20
            assert works(server)

    def test_what_was_inflated_of_a_refused_message_is_let_go_at_once(self) -> None:
        """The error that is kept must not keep, by its traceback, what was inflated: bomb after
        bomb would add up until a collection.
        """
        bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = bomb.compress(bytes(80 << 20)) + bomb.flush(zlib.Z_SYNC_FLUSH)
        gc.disable()
        tracemalloc.start()
        try:
            machine = WebProcessInFrame(
                True,
                8 << 20,
                inflater=PermessageDeflate().settle(["permessage-deflate"]).inflater(False),
            )
            before = tracemalloc.get_traced_memory()[0]
            machine.feed(header(0xC2, len(data)) + data)
            assert machine.error is not None
            assert machine.error.code == 1009
            assert tracemalloc.get_traced_memory()[0] - before < 1 << 20
        finally:
            tracemalloc.stop()
            gc.enable()


class TestFrameSize:
    def test_a_frame_above_the_limit_is_refused_although_the_message_would_not_be(self) -> None:
        """``max_frame_mb`` bounds each frame; a larger message may come in several."""
        with echo_server(max_frame_mb=1, max_message_bytes=4 << 20) as server:
            with upgraded(server.port) as client:
                client.send(header(0x82, (1 << 20) + 1))
                assert close_of(client)[0] == 1009
            with upgraded(server.port) as client:
                client.send_frame(focBinary, bytes(1 << 20), fin=False)
                client.send_frame(focContinuation, bytes(1 << 20))
                assert len(client.receive_opcode(focBinary).payload) == 2 << 20

    @pytest.mark.parametrize(
        ("size", "code"), [(1 << 63, 1002), ((1 << 64) - 1, 1002), ((1 << 63) - 1, 1009)]
    )
    def test_absurd_lengths_are_refused_at_once(
        self, server: WebSocketServer, size: int, code: int
    ) -> None:
        """The highest bit is forbidden by RFC 6455 §5.2 (1002), what is below it is just too much
        (1009).
        """
        with upgraded(server.port) as client, peak_memory() as peak:
            client.send(header(0x82, size))
            assert close_of(client)[0] == code
            assert peak() < 1 << 20

    def test_memory_follows_what_has_arrived_on_a_server(self) -> None:
        """200 MB announced and 200 kB sent cost the server a few hundred kilobytes."""
        with (
            echo_server(max_frame_mb=300, max_message_bytes=300 << 20) as server,
            upgraded(server.port) as client,
        ):
            process = process_behind(server, client)
            with peak_memory() as peak:
                client.send(header(0x82, 200 << 20) + bytes(200_000))
                wait_for(lambda: process.in_frame.missing_bytes == (200 << 20) - 200_000)
                assert peak() < 2 << 20

    def test_memory_follows_what_has_arrived_on_a_client(self, recorder: Recorder) -> None:
        """The same for what a server announces."""

        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            peer.send(header(0x82, 200 << 20, masked=False) + bytes(200_000))
            peer.wait_end()

        with RawServer(behaviour) as server, peak_memory() as peak:
            with new_client(server.port, max_frame_mb=300, max_message_bytes=300 << 20) as client:
                assert upgrade(client, recorder.frame) == ""
                in_frame = process_of(client).in_frame
                wait_for(lambda: in_frame.missing_bytes == (200 << 20) - 200_000)
            assert peak() < 2 << 20


class TestFragments:
    def test_as_many_as_the_limit_are_joined(self) -> None:
        """``max_fragments`` frames make one message, control frames between them not counted."""
        with echo_server(max_fragments=10) as server, upgraded(server.port) as client:
            client.send_frame(focText, "0", fin=False)
            for number in range(1, 10):
                client.send_frame(focPing, "between")
                client.send_frame(focContinuation, str(number), fin=number == 9)
            frames = [client.receive_frame() for _ in range(10)]
            assert [frame.text for frame in frames if frame.opcode is focText] == ["0123456789"]

    def test_one_more_is_refused(self) -> None:
        """The fragment too many ends the connection with 1008."""
        with echo_server(max_fragments=10) as server, upgraded(server.port) as client:
            client.send_frame(focText, "x", fin=False)
            for _ in range(10):
                client.send_frame(focContinuation, "x", fin=False)
            assert close_of(client)[0] == 1008
            assert works(server)

    def test_tiny_fragments_cost_little(self, server: WebSocketServer) -> None:
        """With default settings twenty thousand are joined, and take their bytes, not an object
        each.
        """
        with upgraded(server.port) as client:
            first, last = (
                client.encoded(focText, "x", fin=False),
                client.encoded(focContinuation, "x"),
            )
            flood = first + 19_998 * client.encoded(focContinuation, "x", fin=False) + last
            with peak_memory() as peak:
                client.send(flood)
                assert client.receive_opcode(focText).payload == b"x" * 20_000
                assert peak() < 500_000


class TestHttpSizes:
    def test_a_head_above_the_limit_is_refused(self) -> None:
        """A request line or headers of more than ``max_header_bytes`` get 431 and the end, whether
        they are complete or not.
        """
        with echo_server(max_header_bytes=2000) as server:
            for request in (
                b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 5000,
                b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\n",
                b"GET /" + b"x" * 5000,
                b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000,
            ):
                with RawClient(server.port) as client:
                    client.send(request)
                    assert client.read_head().status == 431
                    client.read_to_end()
            assert works(server)

    def test_an_upgrade_below_the_limit_is_served(self) -> None:
        """Long cookies are fine as long as all of the head is below the limit."""
        with echo_server(max_header_bytes=2000) as server, RawClient(server.port) as client:
            client.send(client.request(Cookie="x" * 1500))
            assert client.read_head().status == 101

    def test_a_client_refuses_an_answer_that_does_not_end(self) -> None:
        """``max_header_bytes`` bounds what a client reads of the answer to its upgrade."""
        endless = b"HTTP/1.1 101 Switching Protocols\r\nX-Long: " + b"x" * 50_000
        with (
            RawServer(sending(endless)) as server,
            new_client(server.port, max_header_bytes=2000) as client,
        ):
            assert "more than 2000 bytes" in upgrade(client)

    @pytest.fixture
    def counting(self) -> Iterator[WebSocketServer]:
        """A server that answers plain requests with the size of their body, of which 1 000 bytes
        are allowed.
        """

        def count(request: HttpServerRequest) -> int:
            request.out_content = str(len(request.in_content))
            return 200

        with echo_server(max_body_bytes=1000) as server:
            server.on_request = count
            yield server

    @staticmethod
    def post(body: bytes, chunked: bool = False) -> bytes:
        """Return a request with that *body*."""
        if not chunked:
            return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        pieces = b"".join(
            b"%x\r\n%s\r\n" % (100, body[at : at + 100]) for at in range(0, len(body), 100)
        )
        return (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + pieces
            + b"0\r\n\r\n"
        )

    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_of_the_limit_is_taken_and_one_above_it_is_not(
        self, counting: WebSocketServer, chunked: bool
    ) -> None:
        """413 for a body of more than ``max_body_bytes``, whether its length is announced or
        not.
        """
        with RawClient(counting.port) as client:
            client.send(self.post(bytes(1000), chunked))
            assert client.read_answer()[1] == b"1000"
            client.send(self.post(bytes(1100), chunked))
            assert client.read_head().status == 413

    def test_a_body_that_is_announced_too_large_is_refused_although_it_never_comes(
        self, counting: WebSocketServer
    ) -> None:
        """The announcement alone is enough for the refusal: no waiting, no memory."""
        with RawClient(counting.port) as client:
            client.sock.settimeout(2_000 * MS)
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000\r\n\r\n")
            assert client.read_head().status == 413


class TestHandshakeTime:
    @pytest.mark.parametrize(
        "start", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half a request"]
    )
    def test_a_request_that_does_not_come_is_not_waited_for(self, start: bytes) -> None:
        """After ``handshake_timeout`` ms the connection is closed."""
        with echo_server(handshake_timeout=ms(300)) as server, RawClient(server.port) as client:
            begin = time.monotonic()
            client.send(start)
            client.read_to_end()
            assert 250 * MS < time.monotonic() - begin < 2_000 * MS

    def test_a_slow_loris_is_cut_although_it_goes_on_sending(self) -> None:
        """The time is for the whole request: a byte now and then does not prolong it, and others
        are served meanwhile.
        """
        with echo_server(handshake_timeout=ms(500)) as server, contextlib.ExitStack() as stack:
            begin = time.monotonic()
            lorises = [stack.enter_context(RawClient(server.port)) for _ in range(20)]
            cut = 0
            request = iter(RawClient.request(Cookie="x" * 2000))
            while cut < len(lorises):
                assert time.monotonic() - begin < 5_000 * MS
                byte = bytes([next(request)])
                cut = 0
                for loris in lorises:
                    try:
                        loris.send(byte)
                    except OSError:
                        cut += 1
                if not cut:
                    assert works(server)
                # the pace of the attack
                time.sleep(20 * MS)
            assert time.monotonic() - begin > 450 * MS
            wait_for(lambda: not server._sockets)

    def test_an_established_connection_has_no_such_limit(self) -> None:
        """``handshake_timeout`` ends with the upgrade."""
        with echo_server(handshake_timeout=ms(200)) as server, upgraded(server.port) as client:
            begin = time.monotonic()
            wait_for(lambda: time.monotonic() - begin > 300 * MS)
            client.send_frame(focText, "late")
            assert client.receive_opcode(focText).text == "late"

    def test_an_idle_keep_alive_connection_is_ended(self) -> None:
        """Between two plain requests a connection may be idle for ``keep_alive_timeout`` ms."""
        with echo_server(keep_alive_timeout=ms(300)) as server, RawClient(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.read_answer()[0].status == 426
            begin = time.monotonic()
            assert client.read_to_end() == b""
            assert 250 * MS < time.monotonic() - begin < 2_000 * MS


class TestConnections:
    def refused(self, server: WebSocketServer, source: str = "") -> bool:
        """Tell whether a new connection, from the address *source*, is turned away with 503."""
        with socket.socket() as sock:
            if source:
                sock.bind((source, 0))
            sock.settimeout(BOUND)
            sock.connect((HOST, server.port))
            with contextlib.suppress(OSError):  # it may be closed by now
                sock.sendall(RawClient.request())
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while more := sock.recv(65536):
                    answer += more
                    if b"\r\n\r\n" in answer:
                        break
        assert answer.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 101 ")), answer
        return answer.startswith(b"HTTP/1.1 503 ")

    def test_connections_above_the_limit_get_503(self) -> None:
        """``max_connections`` are served, the next one is turned away at once, and let in when one
        has left.
        """
        with echo_server(max_connections=2) as server:
            with upgraded(server.port) as first, upgraded(server.port):
                assert self.refused(server)
                first.send_frame(focText, "undisturbed")
                assert first.receive_opcode(focText).text == "undisturbed"
                first.close()
                wait_for(lambda: server.websocket_connections == 1 and len(server._sockets) == 1)
                assert not self.refused(server)
            wait_for(lambda: not server._sockets)
            assert works(server)

    def test_connections_without_an_upgrade_count_too(self) -> None:
        """A connection takes its place from its first moment, so that handshakes cannot be used to
        get around the limit.
        """
        with echo_server(max_connections=1) as server, RawClient(server.port):
            wait_for(lambda: server._sockets)
            assert self.refused(server)

    @pytest.mark.skipif(
        not hasattr(socket, "SO_REUSEPORT"), reason="needs several loopback addresses"
    )
    def test_the_limit_per_address_leaves_room_for_others(self) -> None:
        """``max_connections_per_ip`` turns away one greedy address only."""
        with echo_server(max_connections_per_ip=2) as server:
            with upgraded(server.port), upgraded(server.port):
                assert self.refused(server)
                assert not self.refused(server, "127.0.0.2")
            wait_for(lambda: not server._sockets)
            assert not server._addresses.counts  # nothing is kept about addresses that have left
            assert works(server)

    def test_our_client_is_told_503(self) -> None:
        """The refusal reaches the application as the status line, whatever the timing, and a
        policy as the status.
        """
        with echo_server(max_connections=1) as server, upgraded(server.port):
            for _ in range(20):
                with new_client(server.port) as client:
                    assert upgrade(client).startswith("HTTP/1.1 503 ")
                    assert client.upgrade_failure is not None
                    assert client.upgrade_failure.http_status == 503

    def test_many_refusals_leave_nothing_behind(self) -> None:
        """A thousand refusals later the server is as it was."""
        with echo_server(max_connections=1) as server, upgraded(server.port) as client:
            for _ in range(300):
                with socket.create_connection((HOST, server.port), BOUND):
                    pass
            assert len(server._sockets) == 1
            client.send_frame(focText, "undisturbed")
            assert client.receive_opcode(focText).text == "undisturbed"


class TestOutgoing:
    """What waits for a peer that does not read."""

    @staticmethod
    def number(value: int, size: int = 10_000) -> WebSocketFrame:
        """Return a frame that begins with a number."""
        return WebSocketFrame(focBinary, value.to_bytes(4, "big") + bytes(size - 4))

    @staticmethod
    def numbers(client: RawClient, until: int) -> list[int]:
        """Return the numbers that arrive, to the one that is waited for."""
        found = [-1]
        while found[-1] != until:
            found.append(int.from_bytes(client.receive_opcode(focBinary).payload[:4], "big"))
        return found[1:]

    def fill(self, process: WebSocketProcess) -> int:
        """Queue frames until one is refused; return its number."""
        for value in range(100_000):
            if not process.send_frame_async(self.number(value)):
                return value
        raise AssertionError("the queue takes everything")

    def test_refuse_keeps_what_was_accepted(self) -> None:
        """A full queue refuses new frames; those that were accepted arrive in order when the peer
        reads at last.
        """
        with (
            echo_server(max_outgoing_bytes=500_000) as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            refused = self.fill(process)
            assert process.outgoing.bytes <= 500_000
            assert process.status().queue_lost == 1
            assert self.numbers(client, refused - 1) == list(range(refused))
            wait_for(lambda: process.send_frame_async(self.number(refused)))  # there is room again
            assert self.numbers(client, refused) == [refused]

    def test_the_number_of_frames_is_limited_too(self) -> None:
        """``max_outgoing_frames`` counts frames, however small."""
        with (
            echo_server(max_outgoing_frames=50) as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            refused = self.fill(process)
            assert process.outgoing.count <= 50
            assert self.numbers(client, refused - 1) == list(range(refused))

    def test_drop_oldest_keeps_the_newest(self) -> None:
        """The newest frames always get in, at the cost of the oldest ones that still wait; order
        is kept.
        """
        with (
            echo_server(max_outgoing_bytes=500_000, outgoing_policy="drop_oldest") as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            for value in range(2000):
                assert process.send_frame_async(self.number(value))
                assert process.outgoing.bytes <= 500_000
            arrived = self.numbers(client, 1999)
            assert arrived == sorted(arrived)
            assert len(arrived) < 2000
            assert arrived[-40:] == list(range(1960, 2000))
            assert process.status().queue_lost > 0

    def test_close_ends_the_connection(self, recorder: Recorder) -> None:
        """A peer that lets its queue run full is closed: 1008 if there is room for a close frame,
        else cut.
        """
        with (
            echo_server(
                0, recorder.frame, max_outgoing_bytes=500_000, outgoing_policy="close"
            ) as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            self.fill(process)
            recorder.wait("focConnectionClose")
            assert not process.send_frame_async(self.number(0))
            assert process.close_code == 1008
            assert "outgoing queue is full" in process.last_error + process.close_reason

    def test_close_sends_its_code_when_there_is_room(self, recorder: Recorder) -> None:
        """The queue may be full although the kernel is not: then the close frame comes, behind
        what was queued.
        """
        with (
            echo_server(
                0,
                recorder.frame,
                max_outgoing_frames=5,
                outgoing_policy="close",
                send_delay=ms(60_000),
            ) as server,
            upgraded(server.port) as client,
        ):
            process = process_behind(server, client)
            # the first frame leaves at once, and from then on they are gathered
            assert process.send_frame_async(text("first"))
            assert client.receive_opcode(focText).text == "first"
            wait_for(lambda: not process.safe_out.locked())  # the flush that has sent it is over
            assert [process.send_frame_async(text(str(value))) for value in range(6)] == [
                True
            ] * 5 + [False]
            assert [client.receive_opcode(focText).text for _ in range(5)] == list("01234")
            assert close_of(client)[0] == 1008

    def test_a_frame_larger_than_the_queue_is_taken_by_an_empty_one(self) -> None:
        """The limit never makes a message impossible to send."""
        with echo_server(max_outgoing_bytes=1000) as server, upgraded(server.port) as client:
            assert process_behind(server, client).send_frame_async(self.number(7, 50_000))
            assert self.numbers(client, 7) == [7]

    def test_a_broadcast_counts_who_took_it_and_goes_on(self) -> None:
        """A full queue refuses a broadcast for its connection only."""
        with (
            echo_server(max_outgoing_bytes=500_000) as server,
            upgraded(server.port, receive_buffer=4096) as stuck,
            upgraded(server.port) as reader,
        ):
            process_behind(server, stuck)
            process_behind(server, reader)
            took = []
            for value in range(60):
                took.append(server.websocket_broadcast(self.number(value, 200_000)))
                assert self.numbers(reader, value) == [value]
            # the kernel takes a few megabytes for the one who does not read, then its queue is full
            assert took[0] == 2
            assert took[-10:] == [1] * 10

    def test_a_peer_that_sends_and_does_not_read_costs_its_queue_and_no_more(self) -> None:
        """Echoes by ``send_frame_async`` for a peer that never reads fill its queue to the limit,
        and stop there.
        """

        def echo_async(process: WebSocketProcess, frame: WebSocketFrame) -> None:
            if frame.opcode is focBinary:
                process.send_frame_async(frame)

        with (
            echo_server(0, echo_async, max_outgoing_bytes=500_000) as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            flood = encode_frame(focBinary, bytes(10_000), _MASK) * 20
            client.sock.settimeout(300 * MS)
            with contextlib.suppress(TimeoutError):
                client.send(flood * 100)  # 20 MB, more than the kernel holds for a peer
            # from half of it on, the server may stop reading
            wait_for(lambda: process.outgoing.bytes > 200_000)
            assert process.outgoing.bytes <= 500_000
            with upgraded(server.port) as other:
                other.send_frame(focBinary, b"hello")
                assert other.receive_opcode(focBinary).payload == b"hello"

    def test_a_client_that_waits_for_its_server_has_the_same_limit(
        self, recorder: Recorder
    ) -> None:
        """Frames queued for the reconnection are bounded too."""
        with echo_server() as server:
            client = new_client(server.port, max_outgoing_frames=10)
            assert upgrade(client, recorder.frame) == ""
            client.auto_reconnect()
        with client:
            recorder.wait("focConnectionClose")
            taken = [process_of(client).send_frame_async(text("waiting")) for _ in range(12)]
            assert taken == [True] * 10 + [False] * 2


class TestSendTimeout:
    def test_a_peer_that_never_reads_is_given_up(self, recorder: Recorder) -> None:
        """``send_frame`` returns False ``send_timeout`` ms after the peer took its last byte; the
        connection has ended then.
        """
        with (
            echo_server(0, recorder.frame, send_timeout=ms(300)) as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            big = WebSocketFrame(focBinary, bytes(1 << 20))
            begin = time.monotonic()
            assert any(not process.send_frame(big) for _ in range(64))
            assert time.monotonic() - begin < BOUND
            recorder.wait("focConnectionClose")
            assert process.close_code == 1006
            assert "the peer does not read" in process.last_error

    def test_a_peer_that_reads_slowly_is_not(self) -> None:
        """As long as it takes something, a write may last longer than ``send_timeout``."""
        with (
            echo_server(send_timeout=ms(400)) as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            sent: list[bool] = []
            frame = WebSocketFrame(focBinary, bytes(12 << 20))
            sender = threading.Thread(target=lambda: sent.append(process.send_frame(frame)))
            begin = time.monotonic()
            sender.start()
            size = 0
            while size < 12 << 20:
                size += len(client.receive())
                if time.monotonic() - begin < 700 * MS:
                    # a slow reader, for longer than the time-out
                    time.sleep(20 * MS)
            sender.join(BOUND)
            assert sent == [True]
            assert time.monotonic() - begin > 700 * MS

    def test_others_are_served_while_one_does_not_read(self) -> None:
        """A thread that waits for a stuck peer is only its own."""
        with (
            echo_server(send_timeout=ms(60_000)) as server,
            upgraded(server.port, receive_buffer=4096) as stuck,
        ):
            process_behind(server, stuck)
            flood = encode_frame(focBinary, bytes(100_000), _MASK)
            stuck.sock.settimeout(200 * MS)
            with pytest.raises(TimeoutError):
                stuck.send(flood * 200)
            assert works(server)

    def test_a_close_does_not_wait_for_a_peer_that_never_reads(self) -> None:
        """``shutdown()`` and ``free()`` are bounded by ``close_timeout`` although the close frame
        finds no room.
        """
        with (
            echo_server(send_timeout=ms(60_000), close_timeout=ms(300)) as server,
            upgraded(server.port, receive_buffer=4096) as client,
        ):
            process = process_behind(server, client)
            big = WebSocketFrame(focBinary, bytes(16 << 20))
            blocked = threading.Thread(target=process.send_frame, args=(big,))
            blocked.start()
            wait_for(process.safe_out.locked)
            begin = time.monotonic()
            assert not process.shutdown(1000)
            assert time.monotonic() - begin < 2_000 * MS
            blocked.join(BOUND)
            assert not blocked.is_alive()


class TestPings:
    @pytest.fixture(autouse=True)
    def _only_the_loop_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a slow machine, the keeper helps a loop that has many pings in hand: it answers
        several of them with one pong.
        """
        monkeypatch.setattr(Liveness, "stand_in", lambda self, now: False)

    def test_pings_below_the_limit_are_all_answered(self) -> None:
        """As many as ``max_pings_per_second`` in a second are in order."""
        with echo_server(max_pings_per_second=50) as server, upgraded(server.port) as client:
            client.send(b"".join(client.encoded(focPing, str(number)) for number in range(50)))
            assert [client.receive_opcode(focPong).payload for _ in range(50)] == [
                b"%d" % number for number in range(50)
            ]

    def test_a_flood_is_closed_with_1008(self) -> None:
        """More than that is answered by the end of the connection."""
        with echo_server(max_pings_per_second=50) as server, upgraded(server.port) as client:
            with contextlib.suppress(OSError):  # it may be closed before all of them are written
                client.send(client.encoded(focPing) * 200)
            frame = client.receive_frame()
            while frame.opcode is focPong:
                frame = client.receive_frame()
            assert parse_close_payload(frame.payload)[:2] == (
                1008,
                "more than 50 pings in a second",
            )
            assert works(server)

    def test_0_is_no_limit(self) -> None:
        """A limit of 0 answers everything."""
        with (
            # without a heartbeat only pongs come back
            echo_server(max_pings_per_second=0, heartbeat_delay=0) as server,
            upgraded(server.port) as client,
        ):
            client.send(client.encoded(focPing) * 2000)
            assert all(client.receive_opcode(focPong) for _ in range(2000))

    def test_a_client_has_the_same_limit(self, recorder: Recorder) -> None:
        """A server may not flood its clients either."""
        seen: list[int] = []

        def behaviour(peer: RawServerPeer) -> None:
            peer.accept()
            peer.send(peer.encoded(focPing) * 200)
            frame = peer.receive_frame()
            while frame.opcode is focPong:
                frame = peer.receive_frame()
            seen.append(parse_close_payload(frame.payload)[0])

        with (
            RawServer(behaviour) as server,
            new_client(server.port, max_pings_per_second=50) as client,
        ):
            assert upgrade(client, recorder.frame) == ""
            recorder.wait("focConnectionClose")
            wait_for(lambda: seen)
        assert seen == [1008]


def test_a_broken_limit_of_one_connection_is_nobody_elses(server: WebSocketServer) -> None:
    """While others are being refused for all kinds of reasons, an honest connection goes on."""
    with upgraded(server.port) as honest:
        for attack in (
            header(0x82, 1 << 62),
            header(0x89, 126),
            b"\xff\xff",
            header(0x82, 1 << 40) + bytes(100),
        ):
            with upgraded(server.port) as client:
                client.send(attack)
                client.receive_opcode(focConnectionClose)
            honest.send_frame(focText, "fine")
            assert honest.receive_opcode(focText).text == "fine"
