"""WebProcessInFrame: whole messages out of any slicing, its state, and what becomes of a close
frame.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import incoming
from support.incoming import (
    FUZZ,
    MAX_HEADER,
    Role,
    code_of,
    cut,
    cut_points,
    feed_all,
    garbage,
    held,
    octets,
    streams,
    wire,
)

from mormot_ws.core.frames import (
    WebSocketFrame,
    WebSocketFrameOpCode,
    focBinary,
    focConnectionClose,
    focPing,
    focPong,
    focText,
)
from mormot_ws.core.incoming import WebProcessInFrame, WebProcessInFrameState

role = incoming.role


# ----------------------------------------------------------------------------------------- messages


class TestAnySlicing:
    @pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
    @FUZZ
    @given(data=st.data(), points=cut_points)
    def test_any_frames_in_any_slicing_give_the_same_messages(
        self, masked: bool, data: st.DataObject, points: list[int]
    ) -> None:
        """Fragments and interleaved control frames, whole, sliced anywhere and byte by byte:
        always the messages that were sent.
        """
        stream, expected = data.draw(streams(masked))
        for parts in ([stream], cut(stream, points), octets(stream)):
            machine = WebProcessInFrame(masked)
            assert feed_all(machine, parts) == expected
            assert machine.error is None
            assert machine.closed is bool(expected and expected[-1].opcode is focConnectionClose)
            assert not machine.in_message

    @pytest.mark.parametrize("masked", [True, False], ids=["server", "client"])
    @FUZZ
    @given(data=st.data(), bad=garbage, points=cut_points)
    def test_a_fault_is_the_same_in_any_slicing(
        self, masked: bool, data: st.DataObject, bad: bytes, points: list[int]
    ) -> None:
        """What follows valid frames may be anything: the frames before the fault, and the fault,
        do not depend on the slicing.
        """
        stream = data.draw(streams(masked))[0] + bad
        results = []
        for parts in ([stream], cut(stream, points), octets(stream)):
            machine = WebProcessInFrame(
                masked, max_message_bytes=1000, max_frame_bytes=1 << 20, max_fragments=6
            )
            results.append((feed_all(machine, parts), str(machine.error), machine.closed))
        assert results[0] == results[1] == results[2]

    @pytest.mark.parametrize("size", [65535, 65536, 65537, 200_003])
    def test_a_long_payload_arrives_in_pieces(self, role: Role, size: int) -> None:
        """Pieces of an odd size turn the mask, and the payload is right all the same."""
        payload = bytes(i % 251 for i in range(size))
        stream = role.wire(0x82, payload)
        machine = role.machine()
        assert feed_all(machine, cut(stream, list(range(0, size, 4099)))) == [
            WebSocketFrame(focBinary, payload)
        ]

    @pytest.mark.parametrize(
        "fragments",
        [[1] * 70_000, [5000] * 30, [2047, 2048, 1, 5000, 0, 70_000, 3]],
        ids=["tiny", "large", "mixed"],
    )
    def test_fragments_of_any_sizes_are_joined_in_order(
        self, role: Role, fragments: list[int]
    ) -> None:
        """However the parts of a message are kept while it grows, it comes out as it was sent."""
        stream, payload = [], []
        for i, size in enumerate(fragments):
            part = bytes([i & 0xFF]) * size
            stream.append(
                role.wire((0x80 if i == len(fragments) - 1 else 0) | (0 if i else 2), part)
            )
            payload.append(part)
        machine = role.machine()
        assert feed_all(machine, stream) == [WebSocketFrame(focBinary, b"".join(payload))]
        assert held(machine) <= MAX_HEADER

    def test_a_bytearray_can_be_fed_and_used_again(self, role: Role) -> None:
        """Nothing that the machine keeps or gives out is the caller's buffer."""
        machine = role.machine()
        stream = role.wire(0x82, b"one") + role.wire(0x02, b"tw") + role.wire(0x80, b"o")
        frames = []
        for start in range(0, len(stream), 7):
            buffer = bytearray(stream[start : start + 7])
            frames += machine.feed(buffer)  # type: ignore[arg-type]
            buffer[:] = b"?" * len(buffer)
        assert frames == [WebSocketFrame(focBinary, b"one"), WebSocketFrame(focBinary, b"two")]

    def test_bytes_of_the_next_frame_are_kept(self, role: Role) -> None:
        """One read brings the end of a frame and the start of the next: nothing is lost between
        them.
        """
        one, two = role.wire(0x81, b"one"), role.wire(0x81, b"two")
        machine = role.machine()
        assert machine.feed(one + two[:3]) == [WebSocketFrame(focText, b"one")]
        assert machine.feed(two[3:]) == [WebSocketFrame(focText, b"two")]

    def test_no_bytes_give_no_frames(self, role: Role) -> None:
        """An empty read changes nothing, in the middle of a header or of a payload."""
        stream = role.wire(0x81, b"abc")
        machine = role.machine()
        parts = [part for octet in octets(stream) for part in (b"", octet)]
        assert feed_all(machine, [*parts, b""]) == [WebSocketFrame(focText, b"abc")]


class TestMessages:
    @pytest.mark.parametrize(("first", "opcode"), [(0x81, focText), (0x82, focBinary)])
    def test_a_message_has_its_opcode_and_payload(
        self, role: Role, first: int, opcode: WebSocketFrameOpCode
    ) -> None:
        """One frame in, one frame out, with its payload as ``bytes``."""
        (frame,) = role.machine().feed(role.wire(first, b"payload"))
        assert (frame.opcode, frame.payload) == (opcode, b"payload")
        assert type(frame.payload) is bytes

    @pytest.mark.parametrize(
        ("first", "opcode"), [(0x81, focText), (0x82, focBinary), (0x89, focPing), (0x8A, focPong)]
    )
    def test_an_empty_payload_is_a_frame(
        self, role: Role, first: int, opcode: WebSocketFrameOpCode
    ) -> None:
        """A frame may hold nothing."""
        assert role.machine().feed(role.wire(first)) == [WebSocketFrame(opcode)]

    def test_fragments_are_joined(self, role: Role) -> None:
        """A message in three frames is given out once, with the opcode of the first."""
        stream = role.wire(0x01, b"Hel") + role.wire(0x00, b"lo ") + role.wire(0x80, b"you")
        assert role.machine().feed(stream) == [WebSocketFrame(focText, b"Hello you")]

    def test_fragments_may_be_empty(self, role: Role) -> None:
        """Empty first, middle and last fragments add nothing and break nothing."""
        stream = role.wire(0x02) + role.wire(0x00, b"x") + role.wire(0x00) + role.wire(0x80)
        assert role.machine().feed(stream) == [WebSocketFrame(focBinary, b"x")]

    def test_a_message_of_empty_fragments_is_empty(self, role: Role) -> None:
        """It is given out, not swallowed."""
        assert role.machine().feed(role.wire(0x01) + role.wire(0x80)) == [WebSocketFrame(focText)]

    def test_nothing_is_given_out_before_the_last_fragment(self, role: Role) -> None:
        """A message is whole or it is not there."""
        machine = role.machine()
        assert machine.feed(role.wire(0x01, b"Hel") + role.wire(0x00, b"lo")) == []

    def test_a_control_frame_overtakes_the_message_around_it(self, role: Role) -> None:
        """A ping between two fragments is given out at once, and the message stays whole."""
        machine = role.machine()
        assert machine.feed(role.wire(0x01, b"a") + role.wire(0x89, b"p")) == [
            WebSocketFrame(focPing, b"p")
        ]
        assert machine.feed(role.wire(0x80, b"b")) == [WebSocketFrame(focText, b"ab")]

    def test_a_close_frame_may_come_between_fragments(self, role: Role) -> None:
        """It ends the stream there; the message that it cut is never given out."""
        machine = role.machine()
        stream = role.wire(0x01, b"a") + role.wire(0x88, b"\x03\xe8") + role.wire(0x80, b"b")
        assert machine.feed(stream) == [WebSocketFrame(focConnectionClose, b"\x03\xe8")]
        assert (machine.closed, machine.error) == (True, None)

    def test_messages_after_a_fragmented_one_start_afresh(self, role: Role) -> None:
        """Neither opcode nor payload of a finished message leaks into the next."""
        stream = (
            role.wire(0x01, b"a")
            + role.wire(0x80, b"b")
            + role.wire(0x82, b"\xff")
            + role.wire(0x01)
            + role.wire(0x80)
        )
        assert role.machine().feed(stream) == [
            WebSocketFrame(focText, b"ab"),
            WebSocketFrame(focBinary, b"\xff"),
            WebSocketFrame(focText),
        ]

    def test_control_frames_hold_up_to_125_bytes(self, role: Role) -> None:
        """The longest payload of a control frame is accepted."""
        assert role.machine().feed(role.wire(0x89, b"p" * 125)) == [
            WebSocketFrame(focPing, b"p" * 125)
        ]

    def test_a_character_may_be_cut_by_fragments_and_reads(self, role: Role) -> None:
        """UTF-8 is judged over the whole message: four bytes of one character in four frames are
        text.
        """
        character = "😀".encode()
        stream = role.wire(0x01, character[:1]) + b"".join(
            role.wire(0x00, character[i : i + 1]) for i in (1, 2)
        )
        stream += role.wire(0x80, character[3:])
        assert feed_all(role.machine(), octets(stream)) == [WebSocketFrame(focText, character)]

    def test_binary_may_hold_any_bytes(self, role: Role) -> None:
        """Only text has to be UTF-8, in one frame or in fragments."""
        stream = role.wire(0x82, b"\xff\xfe") + role.wire(0x02, b"\xff") + role.wire(0x80, b"\xc0")
        assert role.machine().feed(stream) == [
            WebSocketFrame(focBinary, b"\xff\xfe"),
            WebSocketFrame(focBinary, b"\xff\xc0"),
        ]

    def test_each_frame_has_its_own_mask(self) -> None:
        """Fragments and control frames of one message may come with different keys."""
        stream = (
            wire(0x01, b"abc", b"\1\2\3\4")
            + wire(0x89, b"ping", b"\5\6\7\x08")
            + wire(0x80, b"def", b"\xff\xfe\xfd\xfc")
        )
        assert WebProcessInFrame(True).feed(stream) == [
            WebSocketFrame(focPing, b"ping"),
            WebSocketFrame(focText, b"abcdef"),
        ]

    def test_a_mask_of_zeros_is_a_mask(self) -> None:
        """Unlike native peers we accept it: the RFC does not forbid it."""
        assert WebProcessInFrame(True).feed(wire(0x81, b"plain", b"\0\0\0\0")) == [
            WebSocketFrame(focText, b"plain")
        ]


class TestState:
    def test_it_starts_at_a_header(self, role: Role) -> None:
        """Between frames the machine waits for a header, misses no byte and is inside no
        message.
        """
        machine = role.machine()
        assert (machine.state, machine.missing_bytes, machine.in_message) == (
            WebProcessInFrameState.pfsHeader,
            0,
            False,
        )

    def test_half_a_header_is_inside_a_message(self, role: Role) -> None:
        """An end of stream after one byte of a header would cut a frame."""
        machine = role.machine()
        machine.feed(b"\x81")
        assert (machine.state, machine.missing_bytes, machine.in_message) == (
            WebProcessInFrameState.pfsHeader,
            0,
            True,
        )

    def test_inside_a_payload_it_knows_what_is_missing(self, role: Role) -> None:
        """``missing_bytes`` counts down to the end of the frame."""
        machine = role.machine()
        stream = role.wire(0x82, b"x" * 1000)
        machine.feed(stream[:-600])
        assert (machine.state, machine.missing_bytes, machine.in_message) == (
            WebProcessInFrameState.pfsData,
            600,
            True,
        )
        machine.feed(stream[-600:-1])
        assert machine.missing_bytes == 1
        machine.feed(stream[-1:])
        assert (machine.state, machine.missing_bytes, machine.in_message) == (
            WebProcessInFrameState.pfsHeader,
            0,
            False,
        )

    def test_between_fragments_it_is_inside_a_message(self, role: Role) -> None:
        """No frame is in progress there, but a message is."""
        machine = role.machine()
        machine.feed(role.wire(0x01, b"a") + role.wire(0x89))
        assert (machine.state, machine.missing_bytes, machine.in_message) == (
            WebProcessInFrameState.pfsHeader,
            0,
            True,
        )

    def test_a_fault_is_for_good(self, role: Role) -> None:
        """After the first fault nothing is read any more, and the fault stays the first one."""
        machine = role.machine()
        assert machine.feed(b"\x83") == []
        fault = machine.error
        assert machine.feed(role.wire(0x81, b"valid")) == []
        assert machine.feed(b"\xf1") == []
        assert (machine.state, machine.error is fault) == (WebProcessInFrameState.pfsError, True)

    def test_a_fault_releases_the_message_in_progress(self, role: Role) -> None:
        """A connection that waits for its close does not keep megabytes that nobody will read."""
        machine = role.machine()
        machine.feed(role.wire(0x02, b"x" * 100_000))
        machine.feed(b"\x83")
        assert held(machine) <= MAX_HEADER

    def test_frames_before_a_fault_are_given_out(self, role: Role) -> None:
        """The fault of one read does not swallow the messages that came with it."""
        machine = role.machine()
        stream = role.wire(0x81, b"one") + role.wire(0x89, b"two") + role.wire(0x81, b"\xff")
        assert machine.feed(stream) == [
            WebSocketFrame(focText, b"one"),
            WebSocketFrame(focPing, b"two"),
        ]
        assert code_of(machine) == 1007

    def test_what_a_signal_handler_raises_does_not_hide_a_message_in_progress(
        self, role: Role, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the main thread it can come in any line, also in the last one of a read."""
        machine = role.machine()
        parse = WebProcessInFrame._parse

        def interrupted(self: WebProcessInFrame, *arguments: Any) -> None:
            parse(self, *arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(WebProcessInFrame, "_parse", interrupted)
            with pytest.raises(KeyboardInterrupt):
                machine.feed(role.wire(0x01, b"half"))
        assert machine.in_message
        assert machine.feed(role.wire(0x81, b"another")) == []
        assert code_of(machine) == 1002


class TestClose:
    @pytest.mark.parametrize(
        "payload",
        [b"", b"\x03\xe8", b"\x03\xe8" + b"r" * 123, b"\x0b\xb8", b"\x13\x87\xe2\x82\xac"],
        ids=["empty", "1000", "longest reason", "3000", "4999 with reason"],
    )
    def test_a_valid_close_frame_closes(self, role: Role, payload: bytes) -> None:
        """It is given out with its payload, and the machine is closed, not in error."""
        machine = role.machine()
        assert machine.feed(role.wire(0x88, payload)) == [
            WebSocketFrame(focConnectionClose, payload)
        ]
        assert (machine.closed, machine.error) == (True, None)

    @pytest.mark.parametrize(
        "rest", [b"\x81\x02hi", b"\xff" * 50, b"\x88\x00"], ids=["frame", "garbage", "second close"]
    )
    def test_what_follows_in_the_same_read_is_ignored(self, role: Role, rest: bytes) -> None:
        """Data behind a close frame is neither given out nor a fault (RFC 6455 §1.4)."""
        machine = role.machine()
        assert machine.feed(role.wire(0x88) + rest) == [WebSocketFrame(focConnectionClose)]
        assert machine.error is None

    def test_what_follows_in_later_reads_is_ignored(self, role: Role) -> None:
        """Neither messages nor garbage count after the close frame."""
        machine = role.machine()
        machine.feed(role.wire(0x88))
        assert feed_all(machine, [role.wire(0x81, b"late"), b"\xff" * 100, role.wire(0x88)]) == []
        assert (machine.error, machine.closed) == (None, True)

    @pytest.mark.parametrize("slicing", ["whole", "octets"])
    def test_what_follows_is_not_kept(self, role: Role, slicing: str) -> None:
        """Ignored data takes no memory, and an end of stream after the close frame cuts nothing."""
        machine = role.machine()
        stream = role.wire(0x88, b"\x03\xe8") + b"z" * 100_000
        feed_all(machine, [stream] if slicing == "whole" else octets(stream[:100]) + [stream[100:]])
        assert held(machine) <= MAX_HEADER
        assert not machine.in_message
