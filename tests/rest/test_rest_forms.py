"""REST messages and their two forms on the wire: round trips of anything, native peculiarities,
payloads that are no messages.
"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mormot_ws.rest.binary_form import (
    binary_head,
    decode_binary,
    decode_jumbo,
    decode_varuint,
    encode_binary,
    encode_jumbo,
    encode_varuint,
    is_jumbo,
)
from mormot_ws.rest.json_form import decode_json, encode_json, json_head
from mormot_ws.rest.messages import (
    RestAnswer,
    RestMessageError,
    RestRequest,
    add_header,
    answer_head_of,
    batch_marker,
    is_json_type,
    request_head,
    to_bytes,
    to_text,
)

quick = settings(deadline=None, max_examples=150)
text = st.text(max_size=30)
binary = st.binary(max_size=200)
json_text = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode())
#: (content type, content) as they arrive
contents = st.one_of(
    st.tuples(st.just("application/json"), json_text),
    st.tuples(st.sampled_from(["text/plain", "application/octet-stream"]), binary.filter(bool)),
    st.tuples(st.just("text/html"), text.filter(bool).map(to_bytes)),
)
requests = st.builds(
    lambda method, url, headers, no_answer, content: RestRequest(
        method or "POST", url, headers, no_answer, *content
    ),
    st.sampled_from(["", "GET", "POST", "PUT", "get"]),
    text,
    text,
    st.booleans(),
    contents,
)
answers = st.builds(
    lambda status, headers, content: RestAnswer(status, headers, *content),
    st.integers(100, 999),
    text,
    contents,
)


class TestJson:
    @given(requests | answers)
    @quick
    def test_a_message_comes_back(self, message: RestRequest | RestAnswer) -> None:
        """All fields, and any content: bytes that are not UTF-8, controls, NUL, what looks like
        base64.
        """
        assert decode_json(encode_json(message))[1] == message

    @given(st.binary(max_size=80) | json_text)
    @quick
    def test_garbage_raises_its_one_exception(self, payload: bytes) -> None:
        """Or is a message."""
        json_head(payload)
        try:
            decode_json(payload)
        except RestMessageError:
            pass

    @given(requests | answers, st.data())
    @quick
    def test_a_truncated_message_is_none(
        self, message: RestRequest | RestAnswer, draw: st.DataObject
    ) -> None:
        """Wherever it is cut, but for its last two brackets, which nobody needs."""
        payload = encode_json(message)
        at = draw.draw(st.integers(0, len(payload) - 3))
        try:
            decoded = decode_json(payload[:at])[1]
        except RestMessageError:
            return
        # a number can be cut and still be one
        assert message.content_type == "application/json"
        assert message.content.startswith(decoded.content)

    def test_an_empty_body_arrives_as_two_quotes(self) -> None:
        """With the JSON type: a peculiarity of the native form."""
        payload = encode_json(RestRequest("GET", "/x"))
        assert payload == b'{"request":["GET","/x","",0,"",""]}'
        assert decode_json(payload) == (
            "request",
            RestRequest("GET", "/x", "", False, "application/json", b'""'),
        )

    @pytest.mark.parametrize(
        "payload",
        [
            b' {\t"answer" : [ 200 , "" , "" , {"a": [1, "]}"]} ] } ',
            b'{"answer":["200","","",{"a": [1, "]}"]}]}',
            b"{" + b" \r\n" * 50 + b'"answer":[200,"","",{"a": [1, "]}"]}]}',
            b'{"answer":[200,null,null,{"a": [1, "]}"]}],"more":[1]}',
            b'{"answer":[200,"","",{"a": [1, "]}"]},"more"]}',
        ],
    )
    def test_what_a_receiver_lets_pass(self, payload: bytes) -> None:
        """Blanks anywhere, numbers as strings, null, and whatever follows the last item."""
        assert decode_json(payload)[1] == RestAnswer(
            200, "", "application/json", b'{"a": [1, "]}"]}'
        )

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"{}",
            b'"request":["","","",0,"",""]',
            b'{"x":1,"request":["","","",0,"",""]}',
            b"{'request':['','','',0,'','']}",
            b'{"request":["","","",0,""]}',
            b'{"answer":[200,"",""]}',
            b'{"answer":[200,"","",]}',
            b'{"answer":[ok,"","",{}]}',
            b'{"answer":["","","",{}]}',
            b'{"answer":[200,[],"",{}]}',
            b'{"answer":[200,"","",{"a":"]}]}',
            b'{"answer":[200,"","",[[[[]}',
            b'{"answer":[200,"","text/plain","abc]}',
            b'{"hello":[200,"","",{}]}',
            b'{"answer":{"status":200}}',
            b'{"answer" [200,"","",{}]}',
        ],
    )
    def test_what_is_no_message(self, payload: bytes) -> None:
        """The first member decides, quotes are double, no item may be missing, brackets and quotes
        are closed.
        """
        with pytest.raises(RestMessageError):
            decode_json(payload)

    @pytest.mark.parametrize(
        ("no_answer", "meant"),
        [("1", True), ('"1"', True), ("0", False), ("true", False), ("2", False)],
    )
    def test_only_a_one_means_no_answer(self, no_answer: str, meant: bool) -> None:
        """As natively."""
        message = decode_json(f'{{"request":["","/","",{no_answer},"",""]}}'.encode())[1]
        assert isinstance(message, RestRequest)
        assert message.no_answer is meant

    @pytest.mark.parametrize(
        ("item", "content"),
        [
            (b'"\\u00e9\\ud83d\\ude00\\n\\/\\q\\\\"', "é😀\n/q\\".encode()),
            (b'"\\ud83d!"', b"\xed\xa0\xbd!"),
            (b'"\xff\xfe"', b"\xff\xfe"),
            (b"bare", b"bare"),
            (b'"\xef\xbf\xb0AAEC"', b"\0\1\2"),
            (b'"\\uFFF0AAE="', b"\0\1"),
            (b'"\\ufff0AAE"', b"\xef\xbf\xb0AAE"),
            (b'"\\ufff0AA E"', b"\xef\xbf\xb0AA E"),
            (b'"\\ufff0"', b"\xef\xbf\xb0"),
        ],
    )
    def test_strings_of_another_type(self, item: bytes, content: bytes) -> None:
        """Escapes, bytes that are not UTF-8, and base64 behind U+FFF0, unless it is none."""
        payload = b'{"answer":[200,"","text/plain",' + item + b"]}"
        assert decode_json(payload)[1].content == content

    @pytest.mark.parametrize(
        ("content", "sent"),
        [
            (b'\x00\x1f"\\\b\t\n\f\r/\x7f', None),
            (b'\x1f\x0b"\\\b\t\n\f\r/\x7f', b'"\\u001F\\u000B\\"\\\\\\b\\t\\n\\f\\r/\x7f"'),
            ("é€😀".encode(), '"é€😀"'.encode()),
            (b"\xc0\x80 overlong", b'"\xc0\x80 overlong"'),
            (b"cut \xe2\x82", b'"cut \xe2\x82"'),
            (b"alone \x80", None),
            (b"five \xf8\x80\x80\x80\x80", None),
            (b"\xc0\x80".ljust(128), None),
            (("é" * 64).encode(), ('"' + "é" * 64 + '"').encode()),
            (b"x" * 128 + b"\0", None),
            (b"\xef\xbf\xb0AAEC", None),
            (b"\xef\xbf\xb0no base64", b'"\xef\xbf\xb0no base64"'),
        ],
    )
    def test_which_content_is_text(self, content: bytes, sent: bytes | None) -> None:
        """Below 128 bytes only the structure of UTF-8 counts; None stands for base64."""
        payload = encode_json(RestAnswer(200, "", "text/x", content))
        start, end = b'{"answer":[200,"","text/x",', b"]}"
        if sent is None:
            assert payload.startswith(start + b'"\xef\xbf\xb0')
        else:
            assert payload == start + sent + end
        assert decode_json(payload)[1].content == content

    def test_json_content_is_sent_unchecked(self) -> None:
        """And its type is left out."""
        payload = encode_json(RestAnswer(200, "", "application/json; charset=utf-8", b"{ not json"))
        assert payload == b'{"answer":[200,"","",{ not json]}'

    def test_a_head_of_the_peer_is_answered_with_its_counterpart(self) -> None:
        """Any head that begins with r is a request."""
        head, message = decode_json(b'{"rzz":["","/x","",0,"",1]}')
        assert (head, message.content, json_head(b'{"rzz":["","/')) == ("rzz", b"1", "rzz")
        assert encode_json(RestAnswer(200), answer_head_of(head)) == b'{"azz":[200,"","",""]}'

    @pytest.mark.parametrize("unit", [b'\\"', b"\\\\", b'"",', b"[{", b"\\ud800", b"}"])
    @pytest.mark.parametrize(
        "frame", [(b'{"answer":[200,"","x/y","', b'"]}'), (b'{"answer":[200,"","",{"a":"', b'"}]}')]
    )
    def test_a_large_payload_takes_time_in_proportion(
        self, unit: bytes, frame: tuple[bytes, bytes]
    ) -> None:
        """Whatever it is made of: a megabyte in well under the bound."""
        payload = frame[0] + unit * (1_000_000 // len(unit)) + frame[1]
        began = time.process_time()
        try:
            decode_json(payload)
        except RestMessageError:
            pass
        assert time.process_time() - began < 5


class TestBinary:
    @given(st.sampled_from(["r000001", "request", "rzz"]), requests)
    @quick
    def test_a_request_comes_back(self, head: str, message: RestRequest) -> None:
        """All fields, under any head."""
        plain = encode_binary(head, message)
        assert binary_head(plain) == head
        assert decode_binary(plain) == (head, message)

    @given(answers)
    @quick
    def test_an_answer_comes_back(self, message: RestAnswer) -> None:
        """All fields."""
        assert decode_binary(encode_binary("a000001", message)) == ("a000001", message)

    @given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"r000001\1" + rest))
    @quick
    def test_garbage_raises_its_one_exception(self, plain: bytes) -> None:
        """Or is a message."""
        try:
            decode_binary(plain)
        except RestMessageError:
            pass

    @given(requests)
    @quick
    def test_a_truncated_head_or_field_is_noticed(self, message: RestRequest) -> None:
        """At every position before the content."""
        plain = encode_binary("r000001", message)
        for at in range(len(plain) - len(message.content)):
            with pytest.raises(RestMessageError):
                decode_binary(plain[:at])

    def test_an_answer_without_a_number_is_none(self) -> None:
        """Neither a word nor nothing is a status."""
        for status in (b"\x02ok", b"\x00", b"\x0a1234567890"):
            with pytest.raises(RestMessageError, match="status"):
                decode_binary(b"answer\1" + status + b"\0\0")

    def test_any_bytes_in_a_text_field_come_back(self) -> None:
        """What is not UTF-8 is kept as it came."""
        plain = b"request\1\1G\2/\xff\0\0010\0"
        head, message = decode_binary(plain)
        assert encode_binary(head, message) == plain

    @given(st.lists(binary.filter(bool), min_size=1, max_size=5), st.data())
    @quick
    def test_jumbo_frames_come_apart(self, frames: list[bytes], draw: st.DataObject) -> None:
        """A truncated one does not."""
        jumbo = encode_jumbo(frames)
        assert is_jumbo(jumbo)
        assert decode_jumbo(jumbo) == frames
        with pytest.raises(RestMessageError):
            decode_jumbo(jumbo[: draw.draw(st.integers(0, len(jumbo) - 1))])

    def test_a_jumbo_frame_that_announces_much_is_refused_at_once(self) -> None:
        """Four billion frames of nothing."""
        with pytest.raises(RestMessageError):
            decode_jumbo(b"frames\1\xff\xff\xff\xff\x0f" + bytes(100))
        with pytest.raises(RestMessageError, match="too many"):
            decode_jumbo(b"frames\1\x80\x80\x40" + bytes(1 << 21))

    def test_an_empty_batch_is_the_callers_mistake(self) -> None:
        """ValueError."""
        with pytest.raises(ValueError, match="at least one"):
            encode_jumbo([])

    @given(st.integers(0, (1 << 32) - 1))
    @quick
    def test_varuints_come_back(self, value: int) -> None:
        """In at most five bytes."""
        data = encode_varuint(value)
        assert decode_varuint(data, 0) == (value, len(data))

    @pytest.mark.parametrize(
        "data", [b"", b"\x80", b"\xff\xff\xff\xff\x10", b"\x80\x80\x80\x80\x80\x01"]
    )
    def test_varuints_that_are_none(self, data: bytes) -> None:
        """Truncated, or of more than 32 bits or five bytes."""
        with pytest.raises(RestMessageError):
            decode_varuint(data, 0)

    @pytest.mark.parametrize("value", [-1, 1 << 32])
    def test_numbers_that_are_no_varuint(self, value: int) -> None:
        """ValueError."""
        with pytest.raises(ValueError, match="varuint"):
            encode_varuint(value)


class TestRules:
    @pytest.mark.parametrize(
        ("content_type", "is_json"),
        [
            ("application/json", True),
            ("Application/JSON; charset=UTF-8", True),
            ("application/jsonlines", True),
            ("application/vnd.api+json; v=1", True),
            ("text/json", True),
            ("text/json; charset=utf-8", False),
            ("text/plain", False),
            ("application/xml", False),
            ("", False),
        ],
    )
    def test_which_types_are_json(self, content_type: str, is_json: bool) -> None:
        """Whatever their case; the type is then not sent."""
        assert is_json_type(content_type) is is_json
        if content_type:
            sent = encode_binary("a000001", RestAnswer(200, "", content_type, b"x"))
            assert (content_type.encode() not in sent) is is_json

    def test_a_head_of_any_bytes_is_answered_with_the_same_ones(self) -> None:
        """They are the peer's affair, and no text."""
        head = binary_head(b"r\xe9\xff\1\0\0\0\0010\0")
        assert encode_binary(answer_head_of(head), RestAnswer(200)).startswith(b"a\xe9\xff\1")
        head = json_head(b'{"r\xe9\xff":["","/x","",0,"",1]}')
        assert encode_json(RestAnswer(200), answer_head_of(head)).startswith(b'{"a\xe9\xff":')

    def test_heads(self) -> None:
        """Numbers of 24 bits; the third letter tells the heads without a number."""
        assert [request_head(n) for n in (1, 0xFFFFFF, 1 << 24)] == [
            "r000001",
            "rffffff",
            "r000000",
        ]
        assert [answer_head_of(head) for head in ("r00000a", "request", "rzz", "reQ", "r")] == [
            "a00000a",
            "answer",
            "azz",
            "answer",
            "a",
        ]

    def test_batch_markers(self) -> None:
        """The first and the last request of a jumbo frame are marked."""
        first, last = "Sec-WebSocket-Frame: [0]", "Sec-WebSocket-Frame: [1]"
        assert [batch_marker(i, 3) for i in range(3)] == [first, "", last]
        assert batch_marker(0, 1) == first
        assert add_header("", first) == first
        assert add_header("A: 1\r\n", first) == f"A: 1\r\n{first}"

    @given(st.binary(max_size=40))
    @quick
    def test_text_fields_keep_their_bytes(self, field: bytes) -> None:
        """UTF-8 or not."""
        assert to_bytes(to_text(field)) == field

    def test_a_surrogate_of_the_callers_does_not_raise(self) -> None:
        """It is replaced; there is no byte for it."""
        assert to_bytes("a\ud83d") == b"a?"
