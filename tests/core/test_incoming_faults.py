"""WebProcessInFrame: every fault of RFC 6455 §5 as early as it shows, the limits, garbage, and
compressed messages.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import incoming
from support.incoming import (
    FUZZ,
    KEY,
    MAX_HEADER,
    Role,
    code_of,
    cut,
    cut_points,
    feed_all,
    garbage,
    held,
    octets,
    wire,
)

from mormot_ws.core.frames import (
    WebSocketFrame,
    WebSocketFrameOpCode,
    focBinary,
    focPing,
    focText,
)
from mormot_ws.core.incoming import WebProcessInFrame, WebProcessInFrameState
from mormot_ws.errors import WebSocketsProtocolError

role = incoming.role


# ------------------------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Fault:
    """A frame's bytes up to the one that shows its fault, and the close code that it deserves."""

    name: str
    code: int
    #: the first byte, and what comes after it: the 7-bit length (the mask bit is added), then raw
    #: bytes
    first: int
    length: int | None = None
    rest: bytes = b""
    #: True when the fault needs a fragmented text message before it
    inside: bool = False

    def stream(self, role: Role) -> bytes:
        head = (
            bytes([self.first])
            + (b"" if self.length is None else bytes([role.bit | self.length]))
            + self.rest
        )
        return (role.wire(0x01, b"begun") if self.inside else b"") + head


FAULTS = [
    *[
        Fault(f"reserved opcode {opcode}", 1002, 0x80 | opcode)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ],
    *[Fault(f"reserved opcode {opcode} without FIN", 1002, opcode) for opcode in (3, 7, 11, 15)],
    *[
        Fault(f"reserved opcode {opcode} inside a message", 1002, 0x80 | opcode, inside=True)
        for opcode in (3, 11)
    ],
    *[Fault(f"RSV{bit} on text", 1002, 0x81 | 0x80 >> bit) for bit in (1, 2, 3)],
    *[Fault(f"RSV{bit} on binary", 1002, 0x82 | 0x80 >> bit) for bit in (1, 2, 3)],
    *[Fault(f"RSV{bit} on a ping", 1002, 0x89 | 0x80 >> bit) for bit in (1, 2, 3)],
    *[
        Fault(f"RSV{bit} on a continuation", 1002, 0x80 | 0x80 >> bit, inside=True)
        for bit in (1, 2, 3)
    ],
    Fault("all RSV bits", 1002, 0xF1),
    Fault("fragmented close", 1002, 0x08),
    Fault("fragmented ping", 1002, 0x09),
    Fault("fragmented pong", 1002, 0x0A),
    Fault("fragmented ping inside a message", 1002, 0x09, inside=True),
    Fault("last continuation without a message", 1002, 0x80),
    Fault("continuation without a message", 1002, 0x00),
    Fault("text inside a message", 1002, 0x81, inside=True),
    Fault("binary inside a message", 1002, 0x82, inside=True),
    Fault("first text fragment inside a message", 1002, 0x01, inside=True),
    Fault("first binary fragment inside a message", 1002, 0x02, inside=True),
    *[
        Fault(f"{name} of more than 125 bytes, {length}", 1002, first, length)
        for name, first in (("close", 0x88), ("ping", 0x89), ("pong", 0x8A))
        for length in (126, 127)
    ],
    Fault("ping of more than 125 bytes inside a message", 1002, 0x89, 126, inside=True),
    Fault("125 in 16 bits", 1002, 0x82, 126, b"\x00\x7d"),
    Fault("0 in 16 bits", 1002, 0x82, 126, b"\x00\x00"),
    Fault("125 in 16 bits, in a fragment", 1002, 0x02, 126, b"\x00\x7d"),
    Fault("125 in 16 bits, in a continuation", 1002, 0x80, 126, b"\x00\x7d", inside=True),
    Fault("5 in 64 bits", 1002, 0x81, 127, (5).to_bytes(8, "big")),
    Fault("65535 in 64 bits", 1002, 0x82, 127, (65535).to_bytes(8, "big")),
    Fault(
        "65535 in 64 bits, in a continuation",
        1002,
        0x00,
        127,
        (65535).to_bytes(8, "big"),
        inside=True,
    ),
    Fault("length 2^63", 1002, 0x82, 127, (1 << 63).to_bytes(8, "big")),
    Fault("length 2^64-1", 1002, 0x81, 127, b"\xff" * 8),
    Fault(
        "length 2^63 in a continuation", 1002, 0x80, 127, (1 << 63).to_bytes(8, "big"), inside=True
    ),
    Fault("length 2^63-1", 1009, 0x82, 127, ((1 << 63) - 1).to_bytes(8, "big")),
    Fault("one byte above the frame limit", 1009, 0x82, 127, ((256 << 20) + 1).to_bytes(8, "big")),
    Fault(
        "one byte above the frame limit, in a fragment",
        1009,
        0x01,
        127,
        ((256 << 20) + 1).to_bytes(8, "big"),
    ),
]


class TestFaultsShowAtOnce:
    @pytest.mark.parametrize("slicing", ["whole", "octets"])
    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
    def test_a_wrong_header_is_refused_at_the_byte_that_shows_it(
        self, role: Role, fault: Fault, slicing: str
    ) -> None:
        """No further byte of the frame, not even its mask, is needed to know the fault and its
        close code.
        """
        stream = fault.stream(role)
        machine = role.machine()
        assert feed_all(machine, [stream] if slicing == "whole" else octets(stream)) == []
        assert code_of(machine) == fault.code
        assert machine.state is WebProcessInFrameState.pfsError

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
    def test_it_is_not_refused_before_its_frame_begins(self, role: Role, fault: Fault) -> None:
        """The fault is in the frame that the table says, not in what comes before it."""
        stream = fault.stream(role)
        tail = 1 + (fault.length is not None) + len(fault.rest)
        machine = role.machine()
        machine.feed(stream[:-tail])
        assert machine.error is None

    @pytest.mark.parametrize("first", [0x81, 0x82, 0x01, 0x89, 0x88])
    def test_a_server_refuses_an_unmasked_frame_after_two_bytes(self, first: int) -> None:
        """RFC 6455 §5.1: a client has to mask everything."""
        machine = WebProcessInFrame(masked=True)
        machine.feed(bytes((first, 2)))
        assert machine.error is not None
        assert (machine.error.code, machine.error.reason) == (1002, "unmasked frame from a client")

    @pytest.mark.parametrize("first", [0x81, 0x82, 0x01, 0x89, 0x88])
    def test_a_client_refuses_a_masked_frame_after_two_bytes(self, first: int) -> None:
        """RFC 6455 §5.1: a server must not mask anything."""
        machine = WebProcessInFrame(masked=False)
        machine.feed(bytes((first, 0x82)))
        assert machine.error is not None
        assert (machine.error.code, machine.error.reason) == (1002, "masked frame from a server")

    def test_a_continuation_with_the_wrong_masking_is_refused(self, role: Role) -> None:
        """The rule holds for every frame of a message, not only for its first."""
        machine = role.machine()
        machine.feed(role.wire(0x01, b"a") + wire(0x80, b"b", None if role.masked else KEY))
        assert code_of(machine) == 1002


class TestCloseFaults:
    @pytest.mark.parametrize(
        ("payload", "code"),
        [
            (b"\x03", 1002),
            *[
                (number.to_bytes(2, "big"), 1002)
                for number in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
            ],
            (b"\x03\xe8\xff", 1007),
            (b"\x03\xe8ok \xe2\x82", 1007),
        ],
        ids=lambda value: value.hex() if isinstance(value, bytes) else None,
    )
    def test_a_bad_close_payload_is_a_fault(self, role: Role, payload: bytes, code: int) -> None:
        """One byte and forbidden codes are 1002, a reason that is no UTF-8 is 1007; the frame is
        not given out.
        """
        machine = role.machine()
        assert machine.feed(role.wire(0x88, payload)) == []
        assert (code_of(machine), machine.closed) == (code, False)


#: sequences that are no UTF-8, up to the byte that proves it
BAD_UTF8 = {
    "lone continuation": b"\x80",
    "continuation after a character": b"\xc3\xa9\xa9",
    "overlong 2": b"\xc0",
    "overlong 2 of DEL": b"\xc1",
    "overlong 3": b"\xe0\x9f",
    "overlong 4": b"\xf0\x8f",
    "surrogate": b"\xed\xa0",
    "low surrogate": b"\xed\xbf",
    "above U+10FFFF": b"\xf4\x90",
    "lead byte F5": b"\xf5",
    "byte FE": b"\xfe",
    "byte FF": b"\xff",
    "ASCII inside a character": b"\xe2\x82a",
    "lead byte inside a character": b"\xe2\xc3",
}
TRUNCATED_UTF8 = {"2 bytes": b"\xc3", "3 bytes": b"\xe2\x82", "4 bytes": b"\xf0\x9f\x98"}


class TestUtf8:
    @pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
    def test_a_whole_text_frame_that_is_not_utf8_is_refused(self, role: Role, bad: bytes) -> None:
        """The message is not given out, and the fault is 1007."""
        machine = role.machine()
        assert machine.feed(role.wire(0x81, b"ok " + bad + b"...")) == []
        assert code_of(machine) == 1007

    @pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
    def test_it_is_refused_in_the_part_that_has_arrived(self, role: Role, bad: bytes) -> None:
        """A frame that announces a megabyte is refused at its bad byte, not at its end."""
        machine = role.machine()
        stream = role.wire(0x81, b"ok " + bad, announce=1_000_000)
        machine.feed(stream[:-1])
        assert machine.error is None
        machine.feed(stream[-1:])
        assert code_of(machine) == 1007

    @pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
    def test_it_is_refused_in_an_early_fragment(self, role: Role, bad: bytes) -> None:
        """The first fragment is judged when it comes, though the message has not ended."""
        machine = role.machine()
        machine.feed(role.wire(0x01, b"ok " + bad))
        assert code_of(machine) == 1007

    @pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
    def test_it_is_refused_across_fragments(self, role: Role, bad: bytes) -> None:
        """A sequence that only the next fragment makes wrong is refused there."""
        machine = role.machine()
        machine.feed(role.wire(0x01, "é€".encode() + bad[:-1]) + role.wire(0x89))
        assert machine.error is None
        machine.feed(role.wire(0x00, bad[-1:]))
        assert code_of(machine) == 1007

    @pytest.mark.parametrize("cut_off", TRUNCATED_UTF8.values(), ids=TRUNCATED_UTF8.keys())
    def test_a_message_that_ends_inside_a_character_is_refused(
        self, role: Role, cut_off: bytes
    ) -> None:
        """In one frame."""
        machine = role.machine()
        assert machine.feed(role.wire(0x81, b"ok " + cut_off)) == []
        assert code_of(machine) == 1007

    @pytest.mark.parametrize("cut_off", TRUNCATED_UTF8.values(), ids=TRUNCATED_UTF8.keys())
    def test_a_last_fragment_that_ends_inside_a_character_is_refused(
        self, role: Role, cut_off: bytes
    ) -> None:
        """In fragments, also when the last one is empty."""
        machine = role.machine()
        assert machine.feed(role.wire(0x01, cut_off)) == []
        assert machine.error is None
        assert machine.feed(role.wire(0x80)) == []
        assert code_of(machine) == 1007

    @pytest.mark.parametrize("step", [1, 1000])
    @pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
    def test_lenient_text_lets_anything_through(self, role: Role, bad: bytes, step: int) -> None:
        """In one frame and in fragments, in reads of any size."""
        machine = WebProcessInFrame(role.masked, lenient_text=True)
        stream = role.wire(0x81, bad) + role.wire(0x01, b"a" + bad) + role.wire(0x80, bad)
        frames = [
            frame
            for at in range(0, len(stream), step)
            for frame in machine.feed(stream[at : at + step])
        ]
        assert [frame.payload for frame in frames] == [bad, b"a" + bad + bad]
        assert machine.error is None

    def test_a_refused_message_does_not_poison_the_judgement_of_another_machine(
        self, role: Role
    ) -> None:
        """Decoders are not shared between connections."""
        role.machine().feed(role.wire(0x01, b"\xe2"))
        assert role.machine().feed(role.wire(0x01, b"a") + role.wire(0x80, b"b")) == [
            WebSocketFrame(focText, b"ab")
        ]

    @FUZZ
    @given(text=st.binary(max_size=12), points=cut_points)
    def test_text_is_accepted_exactly_when_python_decodes_it(
        self, text: bytes, points: list[int]
    ) -> None:
        """Whatever the bytes, and however they are fragmented, the verdict is that of a strict
        UTF-8 decoder.
        """
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            expected: tuple[list[WebSocketFrame], int | None] = ([], 1007)
        else:
            expected = ([WebSocketFrame(focText, text)], None)
        fragments = cut(text, points)
        last = len(fragments) - 1
        stream = b"".join(
            wire((0x80 if i == last else 0) | (0 if i else 1), part)
            for i, part in enumerate(fragments)
        )
        machine = WebProcessInFrame(masked=False)
        assert (machine.feed(stream), code_of(machine)) == expected


# ------------------------------------------------------------------------------------------- limits


class TestLimits:
    @pytest.mark.parametrize("size", [100, 1000, 70_000])
    def test_a_message_as_long_as_the_limit_passes(self, role: Role, size: int) -> None:
        """The limit itself is allowed, in one frame and in fragments."""
        payload = b"x" * size
        machine = role.machine(max_message_bytes=size)
        stream = (
            role.wire(0x82, payload) + role.wire(0x02, payload[:50]) + role.wire(0x80, payload[50:])
        )
        assert machine.feed(stream) == [WebSocketFrame(focBinary, payload)] * 2

    @pytest.mark.parametrize("size", [100, 1000, 70_000])
    def test_a_longer_message_is_refused_at_its_header(self, role: Role, size: int) -> None:
        """1009 as soon as the header has arrived, whole or byte by byte, with no byte of the
        payload.
        """
        head = role.wire(0x81, announce=size + 1)
        for parts in ([head], octets(head)):
            machine = role.machine(max_message_bytes=size)
            feed_all(machine, parts)
            assert code_of(machine) == 1009

    def test_a_longer_message_is_refused_when_it_comes_whole(self, role: Role) -> None:
        """A frame that one read brought completely obeys the limit too."""
        machine = role.machine(max_message_bytes=10)
        assert machine.feed(role.wire(0x82, b"x" * 11)) == []
        assert code_of(machine) == 1009

    def test_fragments_are_refused_at_the_header_that_goes_over(self, role: Role) -> None:
        """The limit is that of the joined message: the announcement of one byte too many is
        enough.
        """
        machine = role.machine(max_message_bytes=10)
        machine.feed(role.wire(0x02, b"x" * 6) + role.wire(0x00, b"x" * 4))
        assert machine.error is None
        machine.feed(role.wire(0x80, announce=1))
        assert code_of(machine) == 1009

    def test_control_frames_do_not_count(self, role: Role) -> None:
        """A ping inside a message that fills the limit is no excess."""
        machine = role.machine(max_message_bytes=10)
        stream = role.wire(0x02, b"x" * 10) + role.wire(0x89, b"p" * 100) + role.wire(0x80)
        assert machine.feed(stream) == [
            WebSocketFrame(focPing, b"p" * 100),
            WebSocketFrame(focBinary, b"x" * 10),
        ]

    def test_the_limit_is_for_each_message(self, role: Role) -> None:
        """Any number of messages of the full length may follow each other."""
        machine = role.machine(max_message_bytes=10)
        stream = (role.wire(0x02, b"x" * 5) + role.wire(0x80, b"x" * 5)) * 3
        assert len(machine.feed(stream)) == 3

    @pytest.mark.parametrize("limit", [1000, 70_000])
    def test_a_frame_as_long_as_the_frame_limit_passes(self, role: Role, limit: int) -> None:
        """``max_frame_bytes`` itself is allowed."""
        machine = role.machine(max_frame_bytes=limit)
        assert machine.feed(role.wire(0x82, b"x" * limit)) == [
            WebSocketFrame(focBinary, b"x" * limit)
        ]

    @pytest.mark.parametrize("limit", [100, 1000, 70_000])
    def test_a_longer_frame_is_refused_at_its_header(self, role: Role, limit: int) -> None:
        """1009 without any payload, though the message limit would allow it."""
        machine = role.machine(max_frame_bytes=limit)
        machine.feed(role.wire(0x82, announce=limit + 1))
        assert code_of(machine) == 1009

    def test_a_longer_frame_is_refused_when_it_comes_whole(self, role: Role) -> None:
        """A frame that one read brought completely obeys the frame limit too, and so does a
        fragment.
        """
        for first in (0x82, 0x02):
            machine = role.machine(max_frame_bytes=10)
            assert machine.feed(role.wire(first, b"x" * 11)) == []
            assert code_of(machine) == 1009

    def test_a_message_of_as_many_fragments_as_allowed_passes(self, role: Role) -> None:
        """``max_fragments`` itself is allowed."""
        machine = role.machine(max_fragments=3)
        stream = role.wire(0x01, b"a") + role.wire(0x00, b"b") + role.wire(0x80, b"c")
        assert machine.feed(stream * 2) == [WebSocketFrame(focText, b"abc")] * 2

    def test_one_fragment_more_is_1008(self, role: Role) -> None:
        """Endless empty fragments are refused by their number, at a header."""
        machine = role.machine(max_fragments=3)
        machine.feed(role.wire(0x01) + role.wire(0x00) + role.wire(0x00))
        assert machine.error is None
        machine.feed(role.wire(0x00))
        assert code_of(machine) == 1008

    def test_control_frames_are_no_fragments(self, role: Role) -> None:
        """Pings between fragments do not use up their number."""
        machine = role.machine(max_fragments=2)
        stream = role.wire(0x01, b"a") + role.wire(0x89) * 5 + role.wire(0x80, b"b")
        assert machine.feed(stream)[-1] == WebSocketFrame(focText, b"ab")

    def test_memory_grows_with_what_arrives_not_with_what_is_announced(self, role: Role) -> None:
        """A header that announces 16 MB costs nothing until the bytes come."""
        machine = role.machine()
        machine.feed(role.wire(0x82, b"x" * 10, announce=16 << 20))
        assert machine.error is None
        assert held(machine) <= 10 + MAX_HEADER


class TestGarbage:
    @pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
    @FUZZ
    @given(parts=st.lists(garbage, max_size=6))
    def test_nothing_that_a_peer_sends_raises_or_exceeds_the_limits(
        self, masked: bool, parts: list[bytes]
    ) -> None:
        """Garbage ends in an error at most; what is held and what is given out stays within the
        limits all the way.
        """
        machine = WebProcessInFrame(
            masked, max_message_bytes=300, max_frame_bytes=1000, max_fragments=4
        )
        for part in parts:
            for frame in machine.feed(part):
                assert len(frame.payload) <= (125 if frame.opcode >= 8 else 300)
            assert held(machine) <= 300 + 125 + MAX_HEADER
        assert code_of(machine) in (None, 1002, 1007, 1008, 1009)

    @pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
    @FUZZ
    @given(noise=st.binary(max_size=300))
    def test_pure_noise_never_raises(self, masked: bool, noise: bytes) -> None:
        """Random bytes, whole and one by one, come to the same end."""
        whole, single = WebProcessInFrame(masked), WebProcessInFrame(masked)
        assert whole.feed(noise) == feed_all(single, octets(noise))
        assert (str(whole.error), whole.state, whole.closed) == (
            str(single.error),
            single.state,
            single.closed,
        )


# -------------------------------------------------------------------------------------- compression


class Doubling:
    """An inflater that gives each byte twice, and a last byte at the end of each message. Notes
    the limits that it is given.
    """

    def __init__(self, tail: bytes = b"!") -> None:
        self.tail = tail
        self.limits: list[int] = []

    def decompress(self, data: bytes, limit: int) -> bytes:
        return self._within(bytes(octet for octet in data for _ in (0, 1)), limit)

    def end_message(self, limit: int) -> bytes:
        return self._within(self.tail, limit)

    def _within(self, data: bytes, limit: int) -> bytes:
        self.limits.append(limit)
        if len(data) > limit:
            raise WebSocketsProtocolError(1009, "inflated message is too long")
        return data


class TestInflater:
    @pytest.mark.parametrize(("first", "opcode"), [(0xC1, focText), (0xC2, focBinary)])
    def test_a_message_with_rsv1_is_inflated(
        self, role: Role, first: int, opcode: WebSocketFrameOpCode
    ) -> None:
        """With an inflater RSV1 is no fault: the message is what the inflater makes of it, in any
        slicing.
        """
        stream = role.wire(first, b"abc")
        for parts in ([stream], octets(stream)):
            machine = WebProcessInFrame(role.masked, inflater=Doubling())
            assert feed_all(machine, parts) == [WebSocketFrame(opcode, b"aabbcc!")]

    def test_fragments_are_inflated_as_one_message(self, role: Role) -> None:
        """RSV1 on the first fragment counts for all; a ping between them is left alone."""
        machine = WebProcessInFrame(role.masked, inflater=Doubling())
        stream = (
            role.wire(0x41, b"a") + role.wire(0x89, b"p") + role.wire(0x00, b"b") + role.wire(0x80)
        )
        assert machine.feed(stream) == [
            WebSocketFrame(focPing, b"p"),
            WebSocketFrame(focText, b"aabb!"),
        ]

    def test_a_message_without_rsv1_is_left_alone(self, role: Role) -> None:
        """A peer may send some messages as they are, before and after compressed ones."""
        machine = WebProcessInFrame(role.masked, inflater=Doubling())
        stream = (
            role.wire(0x81, b"x") + role.wire(0xC1, b"y") + role.wire(0x01, b"z") + role.wire(0x80)
        )
        assert [frame.payload for frame in machine.feed(stream)] == [b"x", b"yy!", b"z"]

    @pytest.mark.parametrize(
        "first",
        [0xA1, 0x91, 0xE1, 0xC8, 0xC9, 0xCA, 0xC3],
        ids=["RSV2", "RSV3", "RSV1+2", "close", "ping", "pong", "reserved opcode"],
    )
    def test_other_reserved_bits_stay_faults(self, role: Role, first: int) -> None:
        """An inflater allows RSV1 on data messages and nothing else."""
        machine = WebProcessInFrame(role.masked, inflater=Doubling())
        machine.feed(bytes([first]))
        assert code_of(machine) == 1002

    def test_rsv1_on_a_continuation_is_a_fault(self, role: Role) -> None:
        """It belongs on the first fragment only (RFC 7692 §6.1)."""
        machine = WebProcessInFrame(role.masked, inflater=Doubling())
        machine.feed(role.wire(0x41, b"a") + b"\xc0")
        assert code_of(machine) == 1002

    def test_the_inflater_is_told_how_much_is_left(self, role: Role) -> None:
        """The limit shrinks by what the message has already grown to, and starts afresh for the
        next.
        """
        inflater = Doubling()
        machine = WebProcessInFrame(role.masked, max_message_bytes=100, inflater=inflater)
        machine.feed(
            role.wire(0x42, b"x" * 10) + role.wire(0x80, b"x" * 20) + role.wire(0xC2, b"x")
        )
        assert inflater.limits == [100, 80, 40, 100, 98]

    def test_the_limit_is_not_applied_to_the_compressed_size(self, role: Role) -> None:
        """Only the inflated message counts: the announced size of a frame says nothing about it."""
        machine = WebProcessInFrame(role.masked, max_message_bytes=10, inflater=Doubling())
        machine.feed(role.wire(0xC2, announce=11))
        assert machine.error is None

    def test_what_the_inflater_refuses_is_the_fault(self, role: Role) -> None:
        """A message that inflates beyond the limit is refused with the inflater's code, while it
        arrives.
        """
        machine = WebProcessInFrame(role.masked, max_message_bytes=10, inflater=Doubling())
        assert machine.feed(role.wire(0xC2, b"x" * 6, announce=9)) == []
        assert code_of(machine) == 1009

    def test_what_the_inflater_refuses_at_the_end_is_the_fault_too(self, role: Role) -> None:
        """The rest that comes out at the end of a message is judged like the others."""
        machine = WebProcessInFrame(role.masked, max_message_bytes=10, inflater=Doubling())
        assert machine.feed(role.wire(0xC2, b"x" * 5)) == []
        assert code_of(machine) == 1009

    @pytest.mark.parametrize(
        ("payload", "tail"),
        [(b"\xff", b""), (b"a", b"\xff"), (b"a", b"\xc3")],
        ids=["part", "end", "cut character"],
    )
    def test_inflated_text_has_to_be_utf8(self, role: Role, payload: bytes, tail: bytes) -> None:
        """The text that counts is the inflated one, with what comes at the end of the message."""
        machine = WebProcessInFrame(role.masked, inflater=Doubling(tail))
        assert machine.feed(role.wire(0xC1, payload)) == []
        assert code_of(machine) == 1007

    def test_inflated_text_is_judged_while_it_arrives(self, role: Role) -> None:
        """Fail-fast holds behind compression too."""
        machine = WebProcessInFrame(role.masked, inflater=Doubling())
        machine.feed(role.wire(0xC1, b"\xff", announce=1000))
        assert code_of(machine) == 1007
