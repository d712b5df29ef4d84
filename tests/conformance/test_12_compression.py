"""Section 12, permessage-deflate: messages with every set of parameters, every form that DEFLATE
has, and every way to get it wrong.

RFC 7692 §6, §7.2.
"""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest

from mormot_ws import WebProcessInFrame, WebSocketFrame, focPing, focText
from mormot_ws.core.deflate import Inflater

from .compression import RSV1, Parameters, compressed, open_compressed, story
from .peer import open_peer
from .utf8_tables import INVALID, judge
from .wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    binary,
    cut,
    encode,
    more,
    ping,
    pong,
    text,
)

KB, MB = 1 << 10, 1 << 20
PARAMETERS = {
    "none": Parameters(),
    "server no context": Parameters(server_no_context_takeover=True),
    "client no context": Parameters(client_no_context_takeover=True),
    "no context": Parameters(True, True),
    "server 9 bits": Parameters(server_max_window_bits=9),
    "client 9 bits": Parameters(client_max_window_bits=9),
    "9 bits": Parameters(False, False, 9, 9),
    "12 bits": Parameters(False, False, 12, 12),
    "15 bits": Parameters(False, False, 15, 15),
    "10 and 14 bits": Parameters(False, False, 10, 14),
    "all": Parameters(True, True, 9, 9),
}
with_parameters = pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
NOISE = random.Random(12).randbytes(70_000)


# ------------------------------------------------------------------------------------ good messages


@pytest.mark.parametrize("kind", ["text", "binary"])
@with_parameters
def test_12_1_messages_of_all_sizes_are_echoed(
    role: str, parameters: Parameters, kind: str
) -> None:
    """Messages from 0 bytes to 128 kB come back, one after the other, within the window that was
    agreed on.
    """
    with open_compressed(role, parameters) as z:
        for size in (0, 1, 16, 64, 256, 1024, 4096, 16384, 65535, 65536, 131072, 1024, 16):
            was_compressed, sent = z.exchange(story(kind, size))
            if size >= 1024:
                assert was_compressed
                assert sent < size / 2
        z.peer.close()


@with_parameters
def test_12_2_messages_that_do_not_compress_are_echoed(role: str, parameters: Parameters) -> None:
    """Noise comes back as well, and grows by little."""
    with open_compressed(role, parameters) as z:
        for size in (1, 100, 1000, 70_000):
            _, sent = z.exchange(binary(NOISE[:size]))
            assert sent <= size + size // 10 + 20
        z.peer.close()


@pytest.mark.parametrize("size", [1, 7, 256])
@with_parameters
def test_12_3_fragmented_compressed_messages_are_echoed(
    role: str, parameters: Parameters, size: int
) -> None:
    """Only the first fragment has RSV1; the message is inflated as a whole (§6.1)."""
    with open_compressed(role, parameters) as z:
        for _ in range(3):
            z.exchange(story("text", 3000), size)
            z.exchange(story("binary", 3000), size)
        z.peer.close()


@with_parameters
def test_12_4_many_messages_are_echoed(role: str, parameters: Parameters) -> None:
    """Hundreds of messages on one connection, each a little different, keep both windows in
    step.
    """
    with open_compressed(role, parameters) as z:
        for number in range(150):
            z.exchange(
                text(
                    f'{{"number": {number}, "text": "µ{"abc" * (number % 60)}", "more": '
                    f"[{number * 31}]}}"
                )
            )
        z.peer.close()


@pytest.mark.parametrize("chop", [1, 13])
def test_12_5_compressed_messages_in_chops_are_echoed(role: str, chop: int) -> None:
    """Where TCP cuts makes no difference to compressed messages."""
    with open_compressed(role) as z:
        for message in (story("text", 2000), binary(NOISE[:500]), text("")):
            z.peer.send(*z.frames(message), chop=chop)
            z.expect(message)
        z.peer.close()


def test_12_6_control_frames_between_compressed_fragments(role: str) -> None:
    """Pings between the fragments are answered at once, and are not compressed themselves."""
    with open_compressed(role) as z:
        message = story("text", 5000)
        for frame in z.frames(message, 100)[:-1]:
            z.peer.send(frame, ping("x" * 125), pong("y" * 125))
            z.peer.expect(pong("x" * 125))
        z.peer.send(more(b"", fin=False))
        z.peer.close()


def test_12_7_control_frames_leave_both_windows_alone(role: str) -> None:
    """The message around interleaved control frames is whole, and so is the next."""
    with open_compressed(role) as z:
        message = story("text", 5000)
        for _ in range(2):
            frames = z.frames(message, 100)
            for frame in frames:
                z.peer.send(ping("p"), frame)
            for _ in frames:
                z.peer.expect(pong("p"))
            z.expect(message)
        z.peer.close()


def test_12_8_uncompressed_messages_mix_with_compressed_ones(role: str) -> None:
    """Any message may be left uncompressed, fragmented or not; the windows go on from the last
    compressed one (§6.1).
    """
    with open_compressed(role) as z:
        for number in range(5):
            z.exchange(story("text", 1000 + number))
            plain = story("text", 2000 + number)
            z.peer.send(plain)
            z.expect(plain)
            z.peer.send(Frame(BINARY, b"one ", fin=False), more(b"two"))
            z.expect(binary(b"one two"))
        z.peer.close()


@pytest.mark.parametrize("data", [b"\x00", b"\x02\x00"], ids=["stored block", "fixed block"])
def test_12_9_an_empty_message_has_several_forms(role: str, data: bytes) -> None:
    """An empty message is one octet 0x00 (§7.2.3.6), or any other DEFLATE data that inflate to
    nothing.
    """
    with open_compressed(role) as z:
        z.peer.send(*compressed(TEXT, data))
        z.expect(text(""))
        z.exchange(story("text", 100))
        z.peer.close()


def test_12_10_empty_fragments_of_a_compressed_message(role: str) -> None:
    """The frame with RSV1 may be empty, and so may the last."""
    with open_compressed(role) as z:
        message = story("text", 1000)
        data = z.deflated(message.payload)
        frames = [
            Frame(TEXT, b"", False, RSV1),
            more(data, fin=False),
            more(b"", fin=False),
            more(b""),
        ]
        z.peer.send(*frames)
        z.expect(message)
        z.peer.close()


# --------------------------------------------------------------------------------- forms of DEFLATE


@pytest.mark.parametrize(
    ("level", "strategy"),
    [
        (0, zlib.Z_DEFAULT_STRATEGY),
        (1, zlib.Z_DEFAULT_STRATEGY),
        (9, zlib.Z_DEFAULT_STRATEGY),
        (6, zlib.Z_FIXED),
        (6, zlib.Z_HUFFMAN_ONLY),
        (6, zlib.Z_RLE),
    ],
    ids=["stored", "fast", "best", "fixed codes", "huffman only", "run lengths"],
)
def test_12_11_every_kind_of_block_is_inflated(role: str, level: int, strategy: int) -> None:
    """Stored blocks, fixed and dynamic codes: whatever an encoder may choose (§7.2.3)."""
    with open_compressed(role) as z:
        deflate = z.new_deflate(level, strategy)
        for size in (10, 1000, 40_000):
            message = story("text", size)
            data = deflate.compress(message.payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
            z.peer.send(*compressed(TEXT, data[:-4], 500))
            z.expect(message)
        z.peer.close()


@pytest.mark.parametrize("flush", [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH], ids=["sync", "full"])
def test_12_12_a_message_may_be_flushed_in_between(role: str, flush: int) -> None:
    """Several DEFLATE blocks in one message are one message (§7.2.3.1)."""
    with open_compressed(role) as z:
        deflate = z.new_deflate()
        data = b""
        for part in ("Hel", "lo, ", "world" * 100):
            data += deflate.compress(part.encode()) + deflate.flush(flush)
        z.peer.send(*compressed(TEXT, data[:-4]))
        z.expect(text("Hello, " + "world" * 100))
        z.peer.close()


def test_12_13_the_examples_of_the_rfc_are_read(role: str) -> None:
    """The octets of §7.2.3: one block, sharing the window, no compression, BFINAL, two blocks,
    fragments.
    """
    with open_compressed(role) as z:
        hello = bytes.fromhex("f248cdc9c90700")
        for data in (
            hello,
            bytes.fromhex("f200110000"),  # the same again, from the window
            bytes.fromhex("000500faff48656c6c6f00"),
            bytes.fromhex("f348cdc9c9070000"),  # BFINAL
            bytes.fromhex("f248050000 00ffffcac9c90700"),
        ):
            z.peer.send(*compressed(TEXT, data))
            z.expect(text("Hello"))
        z.peer.send(*compressed(TEXT, hello, 3))
        z.expect(text("Hello"))
        z.peer.close()


def test_12_14_messages_that_end_with_bfinal_are_inflated(role: str) -> None:
    """An encoder without a flush may end each message with a final block (§7.2.3.5): octet 0x00 is
    behind it.
    """
    with open_compressed(role) as z:
        for size in (10, 1000, 40_000):
            message = story("text", size)
            deflate = z.new_deflate()
            data = deflate.compress(message.payload) + deflate.flush(zlib.Z_FINISH) + b"\x00"
            z.peer.send(*compressed(TEXT, data))
            z.expect(message)
            z.peer.send(*compressed(TEXT, data, 100))
            z.expect(message)
        z.peer.close()


def test_12_15_the_window_is_carried_over_only_with_takeover(role: str) -> None:
    """The same message again is tiny with context takeover, and as large as before without it."""
    message = binary(NOISE[:2000])
    with open_compressed(role) as z:
        first, second = z.exchange(message)[1], z.exchange(message)[1]
        assert first >= 2000
        assert second < 100
    with open_compressed(role, Parameters(True, True)) as z:
        first, second = z.exchange(message)[1], z.exchange(message)[1]
        assert first == second >= 2000


def test_12_16_a_window_of_the_librarys_reaches_no_further_than_agreed(role: str) -> None:
    """A repetition 3000 bytes back is found with 15 bits, and must not be used with 9 (§7.1.2)."""
    message = binary(NOISE[:3000])
    with open_compressed(role) as z:
        z.exchange(message)
        assert z.exchange(message)[1] < 200
    with open_compressed(role, Parameters(False, False, 9, 9)) as z:
        z.exchange(message)
        assert z.exchange(message)[1] >= 3000
        z.peer.close()


def test_12_17_the_librarys_control_frames_are_not_compressed(role: str) -> None:
    """A ping of 125 bytes that would compress leaves as it is (§6)."""
    with open_compressed(role) as z:
        assert z.peer.process.send_frame(WebSocketFrame(focPing, b"a" * 125)) is True
        z.peer.expect(ping(b"a" * 125))
        assert z.peer.process.send_frame(WebSocketFrame(focText, b"a" * 125)) is True
        assert z.expect(text(b"a" * 125))[0]
        z.peer.close()


# ------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_12_20_rsv1_without_agreement_fails(role: str, opcode: int) -> None:
    """On a connection without the extension a compressed message is a fault, even where the
    library would have agreed.
    """
    with open_peer(role, permessage_deflate=True) as peer:
        assert not peer.extension
        peer.send(Frame(opcode, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=RSV1))
        peer.expect_failure(1002)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_12_21_rsv1_on_a_control_frame_fails(role: str, opcode: int) -> None:
    """Control frames are never compressed (§6)."""
    with open_compressed(role) as z:
        z.peer.send(Frame(opcode, b"", rsv=RSV1))
        z.peer.expect_failure(1002)


@pytest.mark.parametrize("first", [0, RSV1], ids=["uncompressed", "compressed"])
def test_12_22_rsv1_on_a_continuation_fails(role: str, first: int) -> None:
    """Only the first frame of a message has RSV1 (§6.1), whether that message is compressed or
    not.
    """
    with open_compressed(role) as z:
        z.peer.send(
            Frame(TEXT, b"\x00", fin=False, rsv=first), Frame(CONTINUATION, b"\x00", rsv=RSV1)
        )
        z.peer.expect_failure(1002)


@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7], ids="rsv{:03b}".format)
def test_12_23_the_other_reserved_bits_fail(role: str, rsv: int) -> None:
    """RSV2 and RSV3 stay reserved, alone and beside RSV1."""
    with open_compressed(role) as z:
        z.peer.send(Frame(TEXT, b"\x00", rsv=rsv))
        z.peer.expect_failure(1002)


@pytest.mark.parametrize("opcode", [3, 7, 11])
def test_12_24_rsv1_on_a_reserved_opcode_fails(role: str, opcode: int) -> None:
    """The extension gives RSV1 a meaning on data messages only."""
    with open_compressed(role) as z:
        z.peer.send(Frame(opcode, b"\x00", rsv=RSV1))
        z.peer.expect_failure(1002)


CORRUPT = {
    "reserved block type": b"\x06",
    "reserved block type with bfinal": b"\x07",
    "stored length not complemented": b"\x00\x05\x00\x05\x00Hello",
    "distance beyond the start": zlib.compressobj(
        9, zlib.DEFLATED, -15, zdict=b"Hello Hello"
    ).compress(b"")
    + bytes.fromhex("02130000"),
    "too many codes": b"\xfc\xff\xff\xff\xff",
    "text that is not compressed": b"plain text is no DEFLATE stream",
    "noise": NOISE[:200],
}


@pytest.mark.parametrize("size", [0, 1], ids=["whole", "octets"])
@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_12_30_corrupt_data_fails(role: str, opcode: int, data: bytes, size: int) -> None:
    """What cannot be inflated is answered with 1007, and nothing of it is delivered."""
    with open_compressed(role) as z:
        z.exchange(text("good"))
        z.peer.send(*compressed(opcode, data, size))
        z.peer.expect_failure(1007)
        assert z.peer.messages() == [text("good")]


def test_12_31_corrupt_data_fails_before_the_message_is_complete(role: str) -> None:
    """A fault in an early fragment fails with that fragment."""
    with open_compressed(role) as z:
        z.peer.send(Frame(BINARY, b"\x06", fin=False, rsv=RSV1))
        z.peer.expect_failure(1007)


def test_12_32_a_window_that_is_not_carried_over_cannot_be_used(role: str) -> None:
    """With no_context_takeover for the raw side, a message that refers to the one before is
    corrupt.
    """
    with open_compressed(role, Parameters(True, True)) as z:
        z.peer.send(*compressed(TEXT, bytes.fromhex("f248cdc9c90700")))
        z.expect(text("Hello"))
        z.peer.send(*compressed(TEXT, bytes.fromhex("f200110000")))
        z.peer.expect_failure(1007)


# ---------------------------------------------------------------------------------- text and limits


@pytest.mark.parametrize("bad", list(INVALID.values())[::4], ids=list(INVALID)[::4])
def test_12_40_invalid_utf8_in_compressed_text_fails_fast(role: str, bad: bytes) -> None:
    """It is the inflated text that has to be UTF-8, and the first fragment that breaks it is
    enough.
    """
    at, _ = judge(bad)
    assert at is not None
    with open_compressed(role) as z:
        z.exchange(text("good"))
        deflate = z.new_deflate()
        data = deflate.compress(b"fine " + bad[: at + 1]) + deflate.flush(zlib.Z_SYNC_FLUSH)
        z.peer.send(Frame(TEXT, data, fin=False, rsv=RSV1))
        z.peer.expect_failure(1007)


def test_12_41_compressed_text_may_be_cut_inside_a_character(role: str) -> None:
    """Fragments of the compressed form know nothing of characters."""
    with open_compressed(role) as z:
        z.exchange(text("€😀µ" * 50), 1)
        z.peer.close()


def test_12_42_compressed_text_may_not_end_inside_a_character(role: str) -> None:
    """The end of the message is the end of its text."""
    with open_compressed(role) as z:
        z.peer.send(*z.frames(text("€".encode()[:2])))
        z.peer.expect_failure(1007)


def test_12_43_compressed_binary_needs_no_utf8(role: str) -> None:
    """Octets that are no text are fine in a compressed binary message."""
    with open_compressed(role) as z:
        for bad in INVALID.values():
            z.exchange(binary(bad))
        z.peer.close()


@pytest.mark.parametrize("size", [0, 50], ids=["one frame", "fragments"])
def test_12_44_the_message_limit_counts_inflated_bytes(role: str, size: int) -> None:
    """A message of exactly the limit is echoed; one more byte is refused with 1009, however small
    it was on the wire.
    """
    with open_compressed(role, max_message_bytes=100_000) as z:
        z.exchange(binary(b"\xa5" * 100_000), size)
        z.exchange(text("a" * 100_000), size)
        z.peer.send(*z.frames(binary(b"\xa5" * 100_001), size))
        z.peer.expect_failure(1009)
        assert len(z.peer.messages()) == 2


def test_12_45_a_compressed_frame_above_the_limit_may_not_hide_behind_it(role: str) -> None:
    """Stored blocks make a message larger than it is: what counts is what it inflates to."""
    with open_compressed(role, max_message_bytes=1000) as z:
        deflate = z.new_deflate(0)
        data = b"".join(
            [deflate.compress(b"x" * 10) + deflate.flush(zlib.Z_SYNC_FLUSH) for _ in range(100)]
        )
        assert len(data) > 1000
        z.peer.send(*compressed(TEXT, data[:-4]))
        z.expect(text("x" * 1000))
        z.peer.close()


def _bomb(size: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join([deflate.compress(bytes(MB)) for _ in range(size // MB)]) + deflate.flush(
        zlib.Z_SYNC_FLUSH
    )
    return data[:-4]


@pytest.mark.parametrize("size", [0, 100], ids=["one frame", "fragments"])
def test_12_46_a_deflate_bomb_is_too_big(role: str, size: int) -> None:
    """32 MB in 32 kB are refused with 1009 where 1 MB is the limit."""
    with open_compressed(role, max_message_bytes=MB) as z:
        z.peer.send(*compressed(BINARY, _bomb(32 * MB), size))
        z.peer.expect_failure(1009)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("chop", [0, 64], ids=["whole", "chops"])
@pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
def test_12_47_a_deflate_bomb_is_not_inflated_whole(masked: bool, opcode: int, chop: int) -> None:
    """32 MB in 32 kB cost the codec little more than its limit of 1 MB."""
    stream = encode(Frame(opcode, _bomb(32 * MB), rsv=RSV1), MASK if masked else None)
    decoder = WebProcessInFrame(masked=masked, max_message_bytes=MB, inflater=Inflater(False))
    tracemalloc.start()
    try:
        for part in cut(stream, chop) if chop else [stream]:
            assert decoder.feed(part) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.error is not None
    assert decoder.error.code == 1009
    assert peak < 5 * MB
