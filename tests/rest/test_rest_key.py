"""A server with a key beside peers that have not got it: they learn nothing from how their messages
are received, and get a few of them only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from support import RawClient, wait_for
from support.rest import KEY, mirror, pair, rest_server

from mormot_ws import (
    HttpServerRequest,
    WebProcessInFrame,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocol,
    pboSynLzCompress,
)
from mormot_ws.core.frames import parse_close_payload
from mormot_ws.rest.algosynlz import algo_compress
from mormot_ws.rest.binary_form import encode_binary, encode_jumbo
from mormot_ws.rest.crc32c import crc32c
from mormot_ws.rest.encryption import AesEncryption
from mormot_ws.rest.key_guard import _MOST_ADDRESSES, KeyFaults
from mormot_ws.rest.messages import RestAnswer, RestRequest

AES = AesEncryption(KEY)
REQUEST = encode_binary("r000001", RestRequest("GET", "/x"))
SAME_END = (1008, "a message cannot be read")


def padded_wrongly() -> bytes:
    """Return a message whose padding no end would write, of two blocks."""
    return bytes(16) + AES._apply(bytes(16), b"\x05" * 16 + b"\x02" * 15 + b"\x00")


def corrupt_container() -> bytes:
    """Return a container whose hashes fit, around a stream that refers to nothing."""
    stream = b"\x05\x00\x01\0\0\0\x13\x00"
    return bytes(4) + b"\x01" + crc32c(stream).to_bytes(4, "little") + stream


#: what stands behind the encryption, plain; and whether a container is made of it
PLAIN = {
    "no-head": b"\x01no head",
    "no-separator": b"r" * 70,
    "an-unknown-head": b"x000001\x01" + REQUEST[8:],
    "a-truncated-request": REQUEST[:-3],
    "a-length-of-too-many-bytes": b"r000001\x01\xff\xff\xff\xff\xff\xff",
    "an-answer-whose-status-is-no-number": encode_binary("a000001", RestAnswer()).replace(
        b"200", b"2x0"
    ),
    "a-truncated-answer": encode_binary("a000001", RestAnswer())[:-1],
    "a-jumbo-frame-with-one-unreadable-message": encode_jumbo([REQUEST, REQUEST[:-3]]),
    "a-jumbo-frame-in-a-jumbo-frame": encode_jumbo([REQUEST, encode_jumbo([REQUEST])]),
    "a-truncated-jumbo-frame": encode_jumbo([REQUEST, REQUEST])[:-1],
    "a-jumbo-frame-of-too-many": b"frames\x01\xff\xff\x7f" + b"\0" * 100,
}
#: whole messages, as they are on the wire; a server with compression
WIRES = {
    "not-encrypted": algo_compress(REQUEST),
    "a-part-of-a-block": AES.encrypt(algo_compress(REQUEST))[:-1],
    "the-vector-only": bytes(16),
    "nothing": b"",
    "a-wrong-padding": padded_wrongly(),
    "another-key": AesEncryption("another").encrypt(algo_compress(REQUEST)),
    "a-wrong-checksum": AES.encrypt(b"\xff" + algo_compress(REQUEST)[1:]),
    "too-short-a-container": AES.encrypt(b"short"),
    "a-corrupt-stream": AES.encrypt(corrupt_container()),
    "no-container": AES.encrypt(REQUEST),
    **{name: AES.encrypt(algo_compress(plain)) for name, plain in PLAIN.items()},
}


def fate(port: int, payload: bytes, opcode: int = 2) -> tuple[list[int], tuple[int, str]]:
    """Send *payload*, and a ping and an intact request behind it; return the opcodes that come
    back before the close frame, and what that says.
    """
    with RawClient(port) as client:
        client.upgrade("root", "synopsebin")
        client.send_frame(opcode, payload)
        client.send_frame(9, b"ping")
        frames = WebProcessInFrame(masked=False).feed(client.read_to_end())
    close = frames[-1]
    assert close.opcode == 8
    return [int(frame.opcode) for frame in frames[:-1]], parse_close_payload(close.payload)


class Executed:
    """An application that counts its requests."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, ctxt: HttpServerRequest) -> int:
        self.count += 1
        return mirror(ctxt)


@pytest.fixture
def executed() -> Executed:
    return Executed()


class TestNothingIsLearnt:
    @pytest.mark.parametrize("name", WIRES)
    def test_what_cannot_be_read_ends_the_connection_in_one_way(
        self, name: str, executed: Executed, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The same code and reason, nothing before it, nothing executed, one line in the log."""
        caplog.set_level(logging.INFO, "mormot_ws")
        with rest_server(executed, KEY, pboSynLzCompress) as server:
            assert fate(server.port, WIRES[name]) == ([], SAME_END)
            assert executed.count == 0
        lines = [record.getMessage() for record in caplog.records]
        assert len([line for line in lines if "cannot be read" in line]) == len(lines) == 1

    @pytest.mark.parametrize("name", ["a-wrong-padding", *PLAIN])
    def test_without_compression_too(self, name: str, executed: Executed) -> None:
        """Where no checksum stands between the padding and the message."""
        wire = AES.encrypt(PLAIN[name]) if name in PLAIN else WIRES[name]
        with rest_server(executed, KEY, ()) as server:
            assert fate(server.port, wire) == ([], SAME_END)
            assert executed.count == 0

    def test_a_text_frame_too(self, executed: Executed) -> None:
        """It is never encrypted, and no message of this protocol."""
        with rest_server(executed, KEY, ()) as server:
            assert fate(server.port, b'{"request":["GET","/x","",0,"",""]}', 1) == ([], SAME_END)

    def test_no_callback_sees_what_cannot_be_read(self) -> None:
        """What it did with it would take its time, and tell the peer."""
        seen: list[int] = []

        def watch(process: WebSocketProcess, frame: WebSocketFrame) -> bool:
            seen.append(int(frame.opcode))
            return False

        def watched(protocol: WebSocketProtocol) -> int:
            protocol.on_before_incoming_frame = watch
            return 200

        with rest_server(mirror, KEY, ()) as server:
            server.on_websocket_upgraded = watched
            fate(server.port, AES.encrypt(PLAIN["an-unknown-head"]))
            wait_for(lambda: 8 in seen)
        assert seen == [0, 8]

    def test_an_answer_that_nobody_waits_for_is_no_fault(self, executed: Executed) -> None:
        """It may have come too late: the connection goes on."""
        answer = AES.encrypt(algo_compress(encode_binary("a0000ff", RestAnswer())))
        with rest_server(executed, KEY, pboSynLzCompress) as server, RawClient(server.port) as peer:
            peer.upgrade("root", "synopsebin")
            peer.send_frame(2, answer)
            peer.send_frame(9, b"ping")
            assert peer.receive_frame().opcode == 10

    def test_without_a_key_messages_are_dropped_as_natively(self, executed: Executed) -> None:
        """There is nothing to be learnt."""
        with rest_server(executed, "", ()) as server, RawClient(server.port) as peer:
            peer.upgrade("root", "synopsebin")
            for plain in PLAIN.values():
                peer.send_frame(2, plain)
            peer.send_frame(2, REQUEST)
            while peer.receive_frame().payload[:1] != b"a":
                pass


def refused(port: int) -> bool:
    """Tell whether an upgrade is refused with 406."""
    with RawClient(port) as client:
        client.send(client.request("root", "synopsebin"))
        status = client.read_head().status
        assert status in (101, 406)
        return status == 406


class TestFewGuesses:
    def test_an_address_with_too_many_faults_is_refused_for_a_while(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Ten a minute; one WARNING says so, by its address, without any key."""
        with rest_server(mirror, KEY, pboSynLzCompress) as server:
            for _ in range(10):
                assert not refused(server.port)
                fate(server.port, WIRES["a-wrong-padding"])
            assert refused(server.port)
            assert refused(server.port)
        [line] = [
            record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
        ]
        assert "127.0.0.1 cannot be read" in line
        assert KEY not in line

    def test_connections_opened_beforehand_are_no_further_guesses(self, executed: Executed) -> None:
        """Of a blocked address the first message of a connection is not looked at; one that has
        proved to have the key goes on.
        """
        request = AES.encrypt(algo_compress(REQUEST))
        with (
            rest_server(executed, KEY, pboSynLzCompress, max_key_faults_per_minute=1) as server,
            RawClient(server.port) as proved,
            RawClient(server.port) as waiting,
        ):
            proved.upgrade("root", "synopsebin")
            waiting.upgrade("root", "synopsebin")
            proved.send_frame(2, request)
            assert proved.receive_frame().opcode == 2
            fate(server.port, WIRES["a-wrong-padding"])
            waiting.send_frame(2, request)
            assert parse_close_payload(waiting.receive_frame().payload) == SAME_END
            proved.send_frame(2, request)
            assert proved.receive_frame().opcode == 2
        assert executed.count == 2

    def test_the_limit_can_be_switched_off(self) -> None:
        with rest_server(mirror, KEY, (), max_key_faults_per_minute=0) as server:
            for _ in range(12):
                fate(server.port, WIRES["a-wrong-padding"])
            assert not refused(server.port)

    def test_a_peer_with_the_key_is_never_limited(self) -> None:
        with pair("synopsebin", key=KEY, max_key_faults_per_minute=1) as ends:
            for _ in range(20):
                assert ends.client.request("/x", "GET") == 200


class TestKeyFaults:
    @pytest.fixture
    def now(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def faults(self, now: list[float]) -> Iterator[KeyFaults]:
        return KeyFaults(lambda: now[0])  # type: ignore[return-value]

    def test_the_allowance_comes_back_evenly(self, faults: KeyFaults, now: list[float]) -> None:
        """Ten at once, then one in six seconds; all of it after a minute, and no more."""
        assert [faults.add("192.0.2.1", 10) for _ in range(10)] == [False] * 9 + [True]
        assert faults.blocks("192.0.2.1")
        assert not faults.blocks("192.0.2.2")
        now[0] += 5.9
        assert faults.blocks("192.0.2.1")
        now[0] += 0.2
        assert not faults.blocks("192.0.2.1")
        assert faults.add("192.0.2.1", 10)
        now[0] += 3600
        assert [faults.add("192.0.2.1", 10) for _ in range(10)] == [False] * 9 + [True]

    def test_a_blocked_address_gains_nothing_by_more_faults(
        self, faults: KeyFaults, now: list[float]
    ) -> None:
        """Nor is it told again that it is blocked."""
        assert [faults.add("192.0.2.1", 1) for _ in range(5)] == [True] + [False] * 4
        now[0] += 59
        assert faults.blocks("192.0.2.1")

    def test_an_ipv6_64_counts_as_one_address(self, faults: KeyFaults) -> None:
        assert faults.add("2001:db8:1:2::1", 1)
        assert faults.blocks("2001:db8:1:2:3:4:5:6")
        assert not faults.blocks("2001:db8:1:3::1")

    def test_nothing_is_counted_without_an_address_or_a_limit(self, faults: KeyFaults) -> None:
        """A client's server is not counted."""
        assert not faults.add("", 1)
        assert not faults.add("192.0.2.1", 0)
        assert not faults.blocks("")
        assert not faults.blocks("192.0.2.1")

    def test_the_table_is_bounded(self, faults: KeyFaults) -> None:
        """The address whose last fault is the oldest is forgotten."""
        for number in range(_MOST_ADDRESSES):
            faults.add(f"10.0.{number >> 8}.{number & 255}", 1)
        faults.add("10.0.0.0", 1)
        faults.add("192.0.2.1", 1)
        assert len(faults._allowances) == _MOST_ADDRESSES
        assert faults.blocks("10.0.0.0")
        assert not faults.blocks("10.0.0.1")
