"""Large REST messages are gone through in pieces: the result is that of going through them at once,
no other thread waits for long, and memory stays in proportion.
"""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mormot_ws.rest import json_form
from mormot_ws.rest.binary_form import decode_binary, encode_binary, is_readable
from mormot_ws.rest.json_form import decode_json, encode_json
from mormot_ws.rest.messages import RestAnswer, RestMessageError, RestRequest

SIZE = 1 << 20
JSON = "application/json"
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=20),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=5), children),
    max_leaves=30,
)


def in_small_pieces(payload: bytes) -> RestRequest | RestAnswer:
    """Decode *payload* in pieces of twelve bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_form, "_PIECE", 12)
        return decode_json(payload)[1]


@given(values, st.booleans())
@settings(deadline=None, max_examples=200)
def test_json_content_is_the_same_in_pieces(value: object, ascii_only: bool) -> None:
    """Brackets and quotes in strings, escapes, and what stands behind it."""
    content = json.dumps([value, {"a": value}], ensure_ascii=ascii_only).encode(errors="replace")
    message = RestRequest("PUT", "/x", "", False, JSON, content)
    assert in_small_pieces(encode_json(message) + b" \r\n") == message


@given(st.text(max_size=100) | st.text('\\"\n\x01ué😀', max_size=100))
@settings(deadline=None, max_examples=200)
def test_text_is_the_same_in_pieces(text: str) -> None:
    """Escapes of all kinds, escaped by us or by another writer."""
    content = text.encode(errors="replace")
    message = RestAnswer(200, "", "text/plain", content)
    expected = decode_json(encode_json(message))[1]
    assert in_small_pieces(encode_json(message)) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_form, "_PIECE", 12)
        assert encode_json(message) == encode_json(message)
        assert decode_json(encode_json(message))[1] == expected
    written = json.dumps(content.decode())
    other = b'{"answer":[200,"","text/plain",%s]}' % written.encode()
    assert in_small_pieces(other) == decode_json(other)[1]


@given(st.binary(max_size=100))
@settings(deadline=None, max_examples=200)
def test_base64_is_the_same_in_pieces(content: bytes) -> None:
    message = RestAnswer(200, "", "application/octet-stream", content + b"\xff")
    payload = encode_json(message)
    assert in_small_pieces(payload) == message
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_form, "_PIECE", 12)
        assert encode_json(message) == payload


def _request(content: bytes, content_type: bytes = b"") -> bytes:
    return b'{"request":["","/","",1,"%s",%s]}' % (content_type, content)


@pytest.mark.parametrize(
    "payload",
    [
        _request(b"[" * (SIZE // 2) + b"]" * (SIZE // 2)),
        _request(b"[" + b"[]" * (SIZE // 2) + b"]"),
        _request(b"[" + b'"ab"' * (SIZE // 4) + b"]"),
        _request(b"[" + b'""' * (SIZE // 2) + b"]"),
        _request(b'["' + b'\\"' * (SIZE // 2) + b'"]'),
        _request(b'"' + b"\\n" * (SIZE // 2) + b'"', b"text/plain"),
        _request(b'"\xef\xbf\xb0' + b"AAAA" * (SIZE // 4) + b'"', b"text/plain"),
    ],
    ids=["depth", "pairs", "strings", "quotes", "escaped-quotes", "escapes", "base64"],
)
def test_a_large_message_takes_memory_in_proportion(payload: bytes) -> None:
    """A few times its size, whatever is in it."""
    tracemalloc.start()
    try:
        assert decode_json(payload)[1].content
        assert tracemalloc.get_traced_memory()[1] < 8 * len(payload)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "payload", [b'{"' * 3 + b"x" * SIZE, b"{" + b"x" * SIZE, b" " * SIZE + b"{"]
)
def test_a_head_that_does_not_come_is_not_looked_for(payload: bytes) -> None:
    """A message begins where a message begins."""
    with pytest.raises(RestMessageError):
        decode_json(payload)


@pytest.mark.parametrize("field", ["method", "url", "headers"])
def test_a_field_of_more_than_a_megabyte_is_refused(field: str) -> None:
    """In both forms; the content is bounded by max_message_bytes alone."""
    message = RestRequest("GET", "/", "", False, "text/plain", b"x" * (SIZE + 1))
    assert decode_json(encode_json(message))[1] == message
    assert decode_binary(encode_binary("r000001", message))[1] == message
    setattr(message, field, "x" * (SIZE + 1))
    plain = encode_binary("r000001", message)
    with pytest.raises(RestMessageError, match="too long"):
        decode_json(encode_json(message))
    with pytest.raises(RestMessageError, match="too long"):
        decode_binary(plain)
    assert not is_readable(plain)
