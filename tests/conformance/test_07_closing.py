"""Section 7, closing: the close handshake in both directions, close payloads, and the end of the
TCP connection (RFC 6455 §5.5.1, §7).

``peer.expect_end()`` sees to the last part everywhere: the server ends the TCP connection first,
the client waits for that (§7.1.1), and no reset destroys what was sent last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support import BOUND, ms, wait_for
from support.close_codes import CLOSE_CODES

from mormot_ws import WebSocketFrame, focPing, focText, wpsClose, wpsRun

from .peer import Peer, open_peer
from .wire import CLOSE, Frame, binary, close, fragments, more, ping, pong, text

#: the reserved ones, those that must not be sent, and those outside all ranges
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 9999, 65535]


@contextmanager
def closing(peer: Peer, *arguments: object) -> Iterator[Callable[[], bool]]:
    """Let the library's application call ``shutdown(*arguments)`` in a thread; give a function
    that waits for its result.
    """
    results: list[bool] = []
    shutdown: Callable[..., bool] = peer.process.shutdown
    thread = threading.Thread(
        target=lambda: results.append(shutdown(*arguments)), name="closing", daemon=True
    )
    thread.start()

    def result() -> bool:
        thread.join(BOUND)
        assert results, "shutdown() does not return"
        return results[0]

    yield result
    thread.join(BOUND)


# --------------------------------------------------------------------------- closed by the raw peer


def test_7_1_1_a_message_before_the_close_is_echoed_first(peer: Peer) -> None:
    """What was sent before the close frame is answered before the close frame is."""
    peer.send(text("Hello World!"), close(1000))
    peer.expect(text("Hello World!"))
    peer.expect_close(1000)
    peer.expect_end()


@pytest.mark.parametrize(
    "behind",
    [
        [close(1000)],
        [close(4000, "other")],
        [ping("p")],
        [text("t")],
        [text("a", fin=False), more("b")],
        [Frame(3)],
    ],
    ids=["a close", "another close", "a ping", "a text", "fragments", "nonsense"],
)
@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_7_1_2_what_comes_after_a_close_is_ignored(
    peer: Peer, behind: list[Frame], together: bool
) -> None:
    """Once a close frame was received, nothing is answered or delivered any more, not even faults
    (§1.4).
    """
    if together:
        peer.send(close(1000), *behind)
    else:
        peer.send(close(1000))
        peer.expect_close(1000)
        peer.send(*behind)
    if together:
        peer.expect_close(1000)
    peer.expect_end()
    assert peer.told() == close(1000).payload
    assert peer.messages() == []


def test_7_1_5_a_close_inside_a_fragmented_message_drops_it(peer: Peer) -> None:
    """The part of a message that arrived before the close frame is not delivered, nor is the rest
    waited for.
    """
    peer.send(*fragments(1, "fragment1", "fragment2")[:1], close(1000), more("fragment2"))
    peer.expect_close(1000)
    peer.expect_end()
    assert peer.told() == close(1000).payload
    assert peer.messages() == []


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_7_1_6_a_long_message_a_close_and_a_ping(peer: Peer, together: bool) -> None:
    """The echo of 256 kB arrives whole though more input follows the close frame."""
    message = binary(b"BAsd7&jh23" * 26215)
    if together:
        peer.send(message, close(1000), ping("too late"))
    else:
        for frame in (message, close(1000), ping("too late")):
            peer.send(frame)
    peer.expect(message)
    peer.expect_close(1000)
    peer.expect_end()


@pytest.mark.parametrize("last", ["close", "fault"])
def test_7_1_7_input_that_stays_unread_destroys_nothing(peer: Peer, last: str) -> None:
    """With 400 kB behind its last frame, the peer still gets every answer and a clean end: no
    reset overtakes them (§7.1.1).
    """
    message = binary(b"\xa5" * 100_000)
    peer.send(message, close(1000) if last == "close" else Frame(15))
    peer.send_bytes(b"\x81" * 400_000)
    peer.expect(message)
    peer.expect_close(1000 if last == "close" else 1002)
    peer.expect_end()


def test_7_2_1_the_end_of_the_stream_is_told_as_abnormal(peer: Peer) -> None:
    """Without any close frame the application is told 1006, which is never on the wire, and an
    empty payload.
    """
    peer.exchange(text("last words"))
    peer.end_output()
    assert peer.told() == b""
    assert peer.process.close_code == 1006
    assert peer.raw.read_to_end() == b""


def test_7_2_2_a_peer_that_ends_behind_its_close_frame_is_a_clean_close(peer: Peer) -> None:
    """The end of the stream right behind the close frame changes nothing: the close is answered
    and told.
    """
    peer.send(close(1001, "going away"))
    peer.end_output()
    peer.expect_close(1001, "going away")
    assert peer.raw.read_to_end() == b""
    assert peer.told() == close(1001, "going away").payload


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", ""),
        (b"\x03\xe8", ""),
        (b"\x03\xe8Hello", "Hello"),
        (b"\x03\xe8" + b"*" * 123, "*" * 123),
    ],
    ids=["7.3.1 empty", "7.3.3 code only", "7.3.4 reason", "7.3.5 longest reason"],
)
def test_7_3_1_a_close_payload_is_answered_and_told(
    peer: Peer, payload: bytes, reason: str
) -> None:
    """Code and reason reach the application; a close frame without a code is told as 1005."""
    peer.send(Frame(CLOSE, payload))
    answer = peer.receive()
    assert (answer.opcode, answer.payload[:2]) == (CLOSE, payload[:2])
    peer.expect_end()
    assert peer.told() == payload
    assert peer.process.close_code == (1000 if payload else 1005)
    assert peer.process.close_reason == reason


@pytest.mark.parametrize("octet", [b"\x00", b"\x03", b"a", b"\xff"], ids=bytes.hex)
def test_7_3_2_a_close_payload_of_one_byte_fails(peer: Peer, octet: bytes) -> None:
    """The payload is empty or begins with a code of two bytes."""
    peer.send(Frame(CLOSE, octet))
    peer.expect_failure(1002)


@pytest.mark.parametrize("size", [126, 65536])
def test_7_3_6_a_close_payload_above_125_bytes_fails(peer: Peer, size: int) -> None:
    """A close frame is a control frame: at most 125 bytes."""
    peer.send(Frame(CLOSE, b"\x03\xe8" + b"*" * (size - 2)))
    peer.expect_failure(1002)


@pytest.mark.parametrize("reason", ["", "Grund: ä€😀"])
@pytest.mark.parametrize("code", CLOSE_CODES)
def test_7_7_a_valid_close_code_is_answered_and_told(peer: Peer, code: int, reason: str) -> None:
    """Each code that may be on the wire is echoed, and told to the application with its reason."""
    peer.close(code, reason)
    assert peer.told() == close(code, reason).payload
    assert (peer.process.close_code, peer.process.close_reason) == (code, reason)


@pytest.mark.parametrize("reason", ["", "reason"])
@pytest.mark.parametrize("code", INVALID_CODES)
def test_7_9_an_invalid_close_code_fails(peer: Peer, code: int, reason: str) -> None:
    """A code that must not be on the wire is answered with 1002."""
    peer.send(close(code, reason))
    peer.expect_failure(1002)


def test_7_10_a_close_in_octets_is_answered_once_complete(peer: Peer) -> None:
    """A close frame that arrives byte by byte is answered like any other."""
    peer.send(close(1000, "slowly"), chop=1)
    peer.expect_close(1000, "slowly")
    peer.expect_end()


def test_7_11_a_fault_behind_a_fault_changes_nothing(peer: Peer) -> None:
    """There is one close frame, for the first fault."""
    peer.send(text(b"\xff"), Frame(15), close(1000))
    peer.expect_failure(1007)


@pytest.mark.parametrize(
    "answer", [close(1002), close(1000), close()], ids=["1002", "1000", "empty"]
)
def test_7_12_the_answer_to_a_fault_changes_nothing(peer: Peer, answer: Frame) -> None:
    """A peer may answer the close frame that its fault brought it; the end is the same."""
    peer.send(Frame(15))
    peer.expect_close(1002)
    peer.send(answer)
    peer.expect_end()
    assert peer.told()[:2] == b"\x03\xea"


def test_7_13_a_peer_that_does_not_end_is_left_after_the_close_timeout(role: str) -> None:
    """After the close handshake the library waits for the peer's end of the TCP connection, but
    not for ever.
    """
    with open_peer(role, close_timeout=ms(60)) as peer:
        peer.send(close(1000))
        peer.expect_close(1000)
        if role == "client":
            assert peer.raw.receive() == b""
        assert peer.told() == close(1000).payload


# ---------------------------------------------------------------------------- closed by the library


@pytest.mark.parametrize("code", [1000, 1001, 1008, 3000, 4999])
def test_7_14_1_the_librarys_close_is_answered(peer: Peer, code: int) -> None:
    """``shutdown`` sends its code and reason, returns True for the answer, and the connection ends
    cleanly.
    """
    with closing(peer, code, "Grund: ä") as result:
        peer.expect(close(code, "Grund: ä"))
        peer.send(close(code))
        peer.expect_end()
        assert result() is True
    assert peer.told() == close(code, "Grund: ä").payload


def test_7_14_2_the_librarys_close_may_be_empty(peer: Peer) -> None:
    """``shutdown(None)`` sends a close frame without code, which is told as 1005."""
    with closing(peer, None) as result:
        peer.expect(close())
        peer.send(close())
        peer.expect_end()
        assert result() is True
    assert peer.told() == b""
    assert peer.process.close_code == 1005


@pytest.mark.parametrize(
    "answer", [close(), close(1000), close(1011, "other")], ids=["empty", "1000", "1011"]
)
def test_7_14_3_any_close_frame_is_an_answer(peer: Peer, answer: Frame) -> None:
    """The peer may answer with another code; what closed the connection is still ours."""
    with closing(peer, 3000, "ours") as result:
        peer.expect(close(3000, "ours"))
        peer.send(answer)
        peer.expect_end()
        assert result() is True
    assert peer.told() == close(3000, "ours").payload


def test_7_14_4_messages_between_close_and_answer_are_not_answered(peer: Peer) -> None:
    """After our close frame no data frame is sent any more, whatever the peer still sends
    (§5.5.1).
    """
    with closing(peer, 1000) as result:
        peer.expect(close(1000))
        peer.send(text("late"), binary(b"late"), close(1000))
        peer.expect_end()
        assert result() is True


def test_7_14_5_a_ping_between_close_and_answer_is_answered(peer: Peer) -> None:
    """A ping gets its pong unless a close frame was *received* (§5.5.2): having sent one is no
    excuse.
    """
    with closing(peer, 1000) as result:
        peer.expect(close(1000))
        peer.send(ping("still open"))
        peer.expect(pong("still open"))
        peer.send(close(1000))
        peer.expect_end()
        assert result() is True


@pytest.mark.parametrize(
    "fault", [Frame(15), text(b"\xff"), text("a", rsv=1)], ids=["opcode", "utf-8", "bits"]
)
def test_7_14_6_a_fault_instead_of_the_answer_ends_it(peer: Peer, fault: Frame) -> None:
    """A second close frame is not sent; the connection ends, cleanly on the wire."""
    with closing(peer, 1000) as result:
        peer.expect(close(1000))
        peer.send(fault)
        peer.expect_end()
        assert result() is False
    assert peer.told() == close(1000).payload


def test_7_14_7_a_peer_that_does_not_answer_is_left_after_the_close_timeout(role: str) -> None:
    """``shutdown`` waits for the answer, but not for ever, and says that there was none."""
    with open_peer(role, close_timeout=ms(60)) as peer, closing(peer, 1000) as result:
        peer.expect(close(1000))
        assert peer.raw.receive() == b""
        assert result() is False
        assert peer.told() == close(1000).payload


def test_7_14_8_the_peer_may_end_instead_of_answering(peer: Peer) -> None:
    """The end of the TCP connection without an answer ends the wait for it."""
    with closing(peer, 1000) as result:
        peer.expect(close(1000))
        peer.end_output()
        assert result() is False
        assert peer.raw.read_to_end() == b""


def test_7_14_9_nothing_is_sent_after_the_librarys_close(peer: Peer) -> None:
    """In ``wpsClose`` every way to send says False, and nothing of it is on the wire."""
    with closing(peer, 1000) as result:
        peer.expect(close(1000))
        wait_for(lambda: peer.process.state is wpsClose)
        assert peer.process.send_frame(WebSocketFrame(focText, "late")) is False
        assert peer.process.send_frame(WebSocketFrame(focPing, "late")) is False
        peer.send(close(1000))
        peer.expect_end()
        result()


def test_7_15_1_both_sides_close_at_the_same_time(peer: Peer) -> None:
    """Close frames that cross are the answers to each other: there is one from each side, and a
    clean end (§7.1.4).
    """
    peer.send(close(3001, "theirs"))
    with closing(peer, 3000, "ours"):
        frame = peer.receive()
        peer.expect_end()
    assert frame in (close(3000, "ours"), close(3001, "theirs"))
    assert peer.told() == frame.payload


def test_7_15_2_a_close_that_crosses_ours_is_its_answer(peer: Peer) -> None:
    """The peer's own close frame, sent before it saw ours, completes the handshake: no third close
    frame is sent.
    """
    with closing(peer, 3000, "ours") as result:
        frame = peer.receive()
        peer.send(close(3001, "theirs"))
        assert frame == close(3000, "ours")
        peer.expect_end()
        assert result() is True
    assert peer.told() == close(3000, "ours").payload
    assert peer.process.close_code == 3000


def test_7_15_3_closing_twice_sends_one_close_frame(peer: Peer) -> None:
    """Any number of threads may close: one close frame leaves, and all of them return."""
    with closing(peer, 1000) as one, closing(peer, 1000) as two, closing(peer, 1000) as three:
        peer.expect(close(1000))
        peer.send(close(1000))
        peer.expect_end()
        assert [one(), two(), three()] == [True] * 3


def test_7_16_the_client_does_not_end_before_the_server() -> None:
    """After the close handshake the client waits for the server's end of the TCP connection
    (§7.1.1).
    """
    with open_peer("client", close_timeout=ms(2000)) as peer:
        peer.send(close(1000))
        peer.expect_close(1000)
        peer.expect_silence()
        peer.expect_end()
        assert peer.told() == close(1000).payload


def test_7_17_the_server_ends_at_once() -> None:
    """After the close handshake the server ends the TCP connection without waiting for the client
    (§7.1.1).
    """
    with open_peer("server", close_timeout=ms(60_000)) as peer:
        peer.send(close(1000))
        peer.expect_close(1000)
        peer.expect_end()
        assert peer.told() == close(1000).payload


def test_7_18_an_open_connection_has_no_close_code(peer: Peer) -> None:
    """As long as nobody closes, the code is 0; afterwards it does not change any more."""
    peer.exchange(text("open"))
    assert (peer.process.close_code, peer.process.state) == (0, wpsRun)
    peer.close(4321)
    peer.told()
    assert peer.process.close_code == 4321
