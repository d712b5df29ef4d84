"""Frames as values: opcodes, the record, encoding, close payloads, the frame list, and the error
that they raise.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.close_codes import CLOSE_CODES

import mormot_ws
from mormot_ws.core.frames import (
    CLOSE_ABNORMAL,
    CLOSE_NO_STATUS,
    WebSocketFrame,
    WebSocketFrameOpCode,
    WebSocketFramePayload,
    close_payload,
    encode_frame,
    encode_header,
    encode_unmasked,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPing,
    focPong,
    focText,
    fopAlreadyCompressed,
    is_wire_close_code,
    parse_close_payload,
)
from mormot_ws.core.incoming import WebProcessInFrame
from mormot_ws.errors import HttpServerError, WebSocketsError, WebSocketsProtocolError

QUICK = settings(deadline=None, max_examples=100)
KEY = bytes.fromhex("37fa213d")

FORBIDDEN_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


class TestOpCodes:
    def test_the_numbers_are_those_of_the_rfc(self) -> None:
        """Opcodes are the numbers of RFC 6455 §5.2, under the Pascal names, and there are no
        others.
        """
        assert {opcode.name: opcode.value for opcode in WebSocketFrameOpCode} == {
            "focContinuation": 0,
            "focText": 1,
            "focBinary": 2,
            "focConnectionClose": 8,
            "focPing": 9,
            "focPong": 10,
        }

    @pytest.mark.parametrize("opcode", list(WebSocketFrameOpCode), ids=lambda opcode: opcode.name)
    def test_each_member_is_also_a_plain_name_of_the_package(
        self, opcode: WebSocketFrameOpCode
    ) -> None:
        """Ported code writes ``focText`` without the enum: every member is importable from the
        package.
        """
        assert getattr(mormot_ws, opcode.name) is opcode

    def test_the_payload_flag_is_a_plain_name_too(self) -> None:
        """``fopAlreadyCompressed`` is the member of its flag."""
        assert mormot_ws.fopAlreadyCompressed is WebSocketFramePayload.fopAlreadyCompressed


class TestWebSocketFrame:
    def test_a_frame_needs_no_more_than_an_opcode(self) -> None:
        """Payload, flags and tick default to nothing."""
        frame = WebSocketFrame(focPing)
        assert (frame.opcode, frame.payload, frame.content, frame.tix) == (
            focPing,
            b"",
            WebSocketFramePayload(0),
            0,
        )

    def test_it_keeps_what_it_is_given(self) -> None:
        """All four fields of the record are kept."""
        frame = WebSocketFrame(focBinary, b"\xff", fopAlreadyCompressed, 12)
        assert (frame.opcode, frame.payload, frame.content, frame.tix) == (
            focBinary,
            b"\xff",
            fopAlreadyCompressed,
            12,
        )

    def test_a_number_becomes_an_opcode(self) -> None:
        """An opcode given as ``int`` is turned into the enum member."""
        assert WebSocketFrame(1).opcode is focText

    @pytest.mark.parametrize("opcode", [3, 7, 11, 15, -1, 256])
    def test_an_unknown_opcode_is_a_value_error(self, opcode: int) -> None:
        """A number that RFC 6455 reserves cannot become a frame."""
        with pytest.raises(ValueError, match=str(opcode)):
            WebSocketFrame(opcode)

    def test_text_is_encoded_as_utf8(self) -> None:
        """A ``str`` payload is kept as its UTF-8 bytes."""
        assert WebSocketFrame(focText, "Grüße €").payload == "Grüße €".encode()

    @pytest.mark.parametrize(
        "payload", [bytearray(b"abc"), memoryview(b"abc")], ids=["bytearray", "memoryview"]
    )
    def test_another_buffer_is_copied_into_bytes(self, payload: bytearray | memoryview) -> None:
        """The payload is ``bytes`` whatever buffer was given."""
        kept = WebSocketFrame(focBinary, payload).payload
        assert type(kept) is bytes
        assert kept == b"abc"

    def test_a_changed_bytearray_does_not_change_the_frame(self) -> None:
        """The frame has a copy: the caller's buffer may be used again."""
        buffer = bytearray(b"abc")
        frame = WebSocketFrame(focBinary, buffer)
        buffer[:] = b"xyz"
        assert frame.payload == b"abc"

    @pytest.mark.parametrize("payload", [None, 5, ["a"]])
    def test_a_payload_that_is_neither_bytes_nor_text_is_a_type_error(self, payload: Any) -> None:
        """The error names the type that was given."""
        with pytest.raises(TypeError, match=type(payload).__name__):
            WebSocketFrame(focText, payload)

    def test_a_payload_that_is_set_later_is_converted_like_the_first_one(self) -> None:
        frame = WebSocketFrame(focText, b"first")
        frame.payload = "héllo"  # type: ignore[assignment]
        assert (frame.payload, frame.text) == ("héllo".encode(), "héllo")
        with pytest.raises(TypeError, match="a frame's payload must be bytes or str, not int"):
            frame.payload = 5  # type: ignore[assignment]
        assert frame.text == "héllo"

    def test_text_decodes_the_payload(self) -> None:
        """``text`` is the payload read as UTF-8."""
        assert WebSocketFrame(focText, "Grüße".encode()).text == "Grüße"

    def test_text_of_a_close_frame_is_its_reason(self) -> None:
        """Without the two bytes of the code; nothing when there is none."""
        assert WebSocketFrame(focConnectionClose, close_payload(1000, "bye €")).text == "bye €"
        assert WebSocketFrame(focConnectionClose, close_payload(1000)).text == ""
        assert WebSocketFrame(focConnectionClose).text == ""

    def test_text_of_arbitrary_bytes_raises(self) -> None:
        """``text`` of a payload that is not UTF-8 raises instead of guessing."""
        with pytest.raises(UnicodeDecodeError):
            _ = WebSocketFrame(focBinary, b"\xff").text

    def test_equality_is_by_opcode_payload_and_flags(self) -> None:
        """Two frames are equal when those three are, whenever they expire."""
        frame = WebSocketFrame(focText, b"a", tix=1)
        assert frame == WebSocketFrame(focText, "a", tix=2)
        assert frame != WebSocketFrame(focBinary, b"a")
        assert frame != WebSocketFrame(focText, b"b")
        assert frame != WebSocketFrame(focText, b"a", fopAlreadyCompressed)

    def test_a_frame_equals_nothing_else(self) -> None:
        """Comparison with another type is left to that type, and ends in False."""
        assert WebSocketFrame(focText, b"a") != b"a"
        assert WebSocketFrame(focText).__eq__(1) is NotImplemented

    def test_a_frame_cannot_be_hashed(self) -> None:
        """It is mutable, so it is no key of a dict."""
        with pytest.raises(TypeError):
            hash(WebSocketFrame(focText))

    def test_a_frame_takes_no_other_attributes(self) -> None:
        """A misspelt field is an error, not a silent addition."""
        with pytest.raises(AttributeError):
            WebSocketFrame(focText).payloud = b""  # type: ignore[attr-defined]

    def test_the_repr_shows_a_short_payload_whole(self) -> None:
        """Opcode and payload are visible."""
        assert repr(WebSocketFrame(focText, b"hi")) == "WebSocketFrame(focText, b'hi')"

    def test_the_repr_of_a_long_payload_is_cut_and_says_how_long_it_is(self) -> None:
        """A megabyte does not end up in a log line."""
        shown = repr(WebSocketFrame(focBinary, b"x" * 1_000_000))
        assert "1000000 bytes" in shown
        assert len(shown) < 120


class TestEncoding:
    @pytest.mark.parametrize(
        ("size", "length_bytes"),
        [
            (0, "00"),
            (1, "01"),
            (125, "7d"),
            (126, "7e007e"),
            (127, "7e007f"),
            (65535, "7effff"),
            (65536, "7f0000000000010000"),
            (1 << 32, "7f0000000100000000"),
        ],
    )
    def test_a_length_is_written_in_its_shortest_form(self, size: int, length_bytes: str) -> None:
        """7, 16 or 64 bits, at the limits of each."""
        assert encode_header(0x82, size) == bytes.fromhex("82" + length_bytes)

    @pytest.mark.parametrize(("size", "length_byte"), [(5, 0x85), (126, 0xFE), (65536, 0xFF)])
    def test_a_mask_sets_its_bit_and_ends_the_header(self, size: int, length_byte: int) -> None:
        """With a mask the highest bit of the second byte is set, and the key is the last part of
        the header.
        """
        header = encode_header(0x81, size, KEY)
        assert header[1] == length_byte
        assert header.endswith(KEY)
        assert len(header) == len(encode_header(0x81, size)) + 4

    def test_the_unmasked_example_of_the_rfc(self) -> None:
        """The "Hello" of §5.7, from a server."""
        assert encode_frame(focText, b"Hello") == bytes.fromhex("810548656c6c6f")

    def test_the_masked_example_of_the_rfc(self) -> None:
        """The "Hello" of §5.7, from a client."""
        assert encode_frame(focText, b"Hello", KEY) == bytes.fromhex("818537fa213d7f9f4d5158")

    def test_the_fragmented_example_of_the_rfc(self) -> None:
        """The "Hel" and "lo" of §5.7: no FIN on the first, continuation opcode on the last."""
        assert encode_frame(focText, b"Hel", fin=False) == bytes.fromhex("010348656c")
        assert encode_frame(focContinuation, b"lo") == bytes.fromhex("80026c6f")

    def test_a_frame_may_be_encoded_without_payload(self) -> None:
        """The heartbeat of a native peer is these two bytes."""
        assert encode_frame(focPing) == b"\x89\x00"

    def test_rsv1_is_the_second_bit(self) -> None:
        """A compressed message has 0x40 in its first byte."""
        assert encode_frame(focText, b"", rsv1=True) == b"\xc1\x00"

    @pytest.mark.parametrize("mask", [None, KEY], ids=["unmasked", "masked"])
    def test_any_buffer_can_be_encoded(self, mask: bytes | None) -> None:
        """``bytearray`` and ``memoryview`` payloads give the same bytes as ``bytes``."""
        expected = encode_frame(focBinary, b"abcdef", mask)
        assert encode_frame(focBinary, bytearray(b"abcdef"), mask) == expected
        assert encode_frame(focBinary, memoryview(b"abcdef"), mask) == expected

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
    @pytest.mark.parametrize("opcode", [focText, focBinary, focConnectionClose, focPing, focPong])
    def test_the_short_form_gives_the_same_bytes(
        self, opcode: WebSocketFrameOpCode, size: int
    ) -> None:
        """``encode_unmasked`` is nothing but a faster ``encode_frame``."""
        payload = b"p" * size
        assert encode_unmasked(0x80 | opcode, payload) == encode_frame(opcode, payload)

    def test_the_short_form_takes_any_first_byte(self) -> None:
        """A compressed message, and a fragment, keep their bits."""
        assert encode_unmasked(0xC1, b"p") == encode_frame(focText, b"p", rsv1=True)
        assert encode_unmasked(0x02, b"p") == encode_frame(focBinary, b"p", fin=False)

    @QUICK
    @given(
        opcode=st.sampled_from([focText, focBinary, focPing, focPong]),
        payload=st.one_of(st.binary(max_size=125), st.text(max_size=30).map(str.encode)),
        mask=st.none() | st.binary(min_size=4, max_size=4),
    )
    def test_what_is_encoded_decodes_to_itself(
        self, opcode: WebSocketFrameOpCode, payload: bytes, mask: bytes | None
    ) -> None:
        """Any frame comes out of the decoder as it went into the encoder, for both roles and any
        key.
        """
        if opcode is focText:
            payload = payload.decode("utf-8", "ignore").encode()
        machine = WebProcessInFrame(masked=mask is not None)
        assert machine.feed(encode_frame(opcode, payload, mask)) == [
            WebSocketFrame(opcode, payload)
        ]
        assert machine.error is None

    @pytest.mark.parametrize("mask", [None, KEY], ids=["unmasked", "masked"])
    @pytest.mark.parametrize("size", [125, 126, 127, 639, 640, 641, 65535, 65536, 65537])
    def test_every_form_of_length_decodes_to_itself(self, size: int, mask: bytes | None) -> None:
        """Payloads around each limit of the length coding and of the masking survive the round
        trip.
        """
        payload = bytes(i % 251 for i in range(size))
        machine = WebProcessInFrame(masked=mask is not None)
        assert machine.feed(encode_frame(focBinary, payload, mask)) == [
            WebSocketFrame(focBinary, payload)
        ]


class TestClosePayloads:
    @pytest.mark.parametrize("code", CLOSE_CODES)
    def test_codes_for_the_wire(self, code: int) -> None:
        """What RFC 6455 §7.4 and IANA assign, and the two ranges for applications, may be sent."""
        assert is_wire_close_code(code)

    @pytest.mark.parametrize("code", FORBIDDEN_CODES)
    def test_codes_that_never_travel(self, code: int) -> None:
        """Reserved, unassigned and out-of-range codes may not be sent."""
        assert not is_wire_close_code(code)

    @pytest.mark.parametrize("code", [CLOSE_NO_STATUS, CLOSE_ABNORMAL])
    def test_the_two_reported_codes_never_travel(self, code: int) -> None:
        """1005 and 1006 describe a connection; no frame carries them."""
        assert code in (1005, 1006)
        assert not is_wire_close_code(code)

    def test_no_code_is_an_empty_payload(self) -> None:
        """A native peer's close frame is empty."""
        assert close_payload() == b""

    def test_the_code_is_big_endian_and_the_reason_utf8(self) -> None:
        """Two bytes of code, then the reason as UTF-8."""
        assert close_payload(1001, "fé") == b"\x03\xe9f\xc3\xa9"

    def test_a_reason_needs_a_code(self) -> None:
        """There is no way to send a reason alone."""
        with pytest.raises(ValueError, match="needs a close code"):
            close_payload(None, "why")

    @pytest.mark.parametrize("code", FORBIDDEN_CODES)
    def test_a_forbidden_code_cannot_be_sent(self, code: int) -> None:
        """The error names the code."""
        with pytest.raises(ValueError, match=f"{code} is not a close code"):
            close_payload(code)

    def test_a_reason_of_123_bytes_fits(self) -> None:
        """Code and reason fill a control frame's 125 bytes."""
        assert len(close_payload(1000, "é" * 61 + "x")) == 125

    def test_a_reason_of_124_bytes_is_refused(self) -> None:
        """Bytes count, not characters."""
        with pytest.raises(ValueError, match="not 124"):
            close_payload(1000, "é" * 62)

    def test_an_empty_payload_reads_as_1005(self) -> None:
        """No code on the wire is reported as 1005 without reason."""
        assert parse_close_payload(b"") == (1005, "")

    @QUICK
    @given(
        code=st.sampled_from(CLOSE_CODES) | st.integers(3000, 4999),
        reason=st.text(max_size=123).filter(lambda s: len(s.encode()) <= 123),
    )
    def test_what_is_written_is_read_back(self, code: int, reason: str) -> None:
        """Any allowed code and reason survive the round trip."""
        assert parse_close_payload(close_payload(code, reason)) == (code, reason)

    @pytest.mark.parametrize(
        ("payload", "code"),
        [(b"\x03", 1002), (b"\x03\xe8\xff", 1007), (b"\x03\xe8\xe2\x82", 1007)]
        + [(code.to_bytes(2, "big"), 1002) for code in FORBIDDEN_CODES],
        ids=lambda value: value.hex() if isinstance(value, bytes) else None,
    )
    def test_a_bad_payload_raises_with_the_code_that_it_deserves(
        self, payload: bytes, code: int
    ) -> None:
        """One lonely byte and forbidden codes are protocol errors (1002); a reason that is not
        UTF-8 is 1007.
        """
        with pytest.raises(WebSocketsProtocolError) as caught:
            parse_close_payload(payload)
        assert caught.value.code == code


class TestErrors:
    def test_a_protocol_error_carries_code_and_reason(self) -> None:
        """Both are there as data, and both are in the text."""
        error = WebSocketsProtocolError(1009, "too long")
        assert (error.code, error.reason, str(error)) == (1009, "too long", "1009 too long")

    def test_all_errors_have_one_base(self) -> None:
        """``except WebSocketsError`` catches whatever this library raises of its own."""
        assert issubclass(WebSocketsProtocolError, WebSocketsError)
        assert issubclass(HttpServerError, WebSocketsError)
