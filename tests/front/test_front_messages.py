"""Messages as frames, and calls as messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mormot_ws.core.frames import WebSocketFrame, focBinary, focText
from mormot_ws.front.messages import (
    CALL_FAILED,
    CALL_NOT_FOUND,
    answer_frame,
    call_frame,
    error_frame,
    frame_of,
    json_frame,
    message_of,
    read_answer,
    read_call,
)


@pytest.mark.parametrize(
    ("message", "opcode", "payload"),
    [
        ("é", focText, b"\xc3\xa9"),
        (b"\xff", focBinary, b"\xff"),
        (bytearray(b"\x01"), focBinary, b"\x01"),
        (memoryview(b"\x02"), focBinary, b"\x02"),
    ],
)
def test_str_is_text_and_bytes_are_binary(message: Any, opcode: Any, payload: bytes) -> None:
    """And the other end gets the same back."""
    frame = frame_of(message)
    assert (frame.opcode, frame.payload) == (opcode, payload)
    assert message_of(frame) == message


@pytest.mark.parametrize("message", [None, 1, {"a": 1}, ["a"], WebSocketFrame(focText, "a")])
def test_anything_else_is_no_message(message: Any) -> None:
    """And the text says what to do."""
    with pytest.raises(TypeError, match=r"a message must be str or bytes, not \w+; send_json\(\)"):
        frame_of(message)


def test_text_that_utf8_cannot_hold_is_refused() -> None:
    """A lone surrogate would cut the connection."""
    with pytest.raises(ValueError, match="surrogates"):
        frame_of("\ud800")


def test_a_call_travels_as_json_rpc() -> None:
    """The bytes are those that the reference shows."""
    frame = call_frame(1, "add", (1, 2))
    assert frame.payload == b'{"jsonrpc":"2.0","method":"add","params":[1,2],"id":1}'
    call = read_call(frame.text)
    assert call is not None
    assert (call.number, call.name, call.arguments, call.fault) == (1, "add", [1, 2], "")
    assert answer_frame(1, 3).payload == b'{"jsonrpc":"2.0","result":3,"id":1}'


def test_arguments_may_go_by_name() -> None:
    """As JSON-RPC has it."""
    call = read_call(call_frame("x", "add", {"a": 1}).text)
    assert call is not None
    assert call.arguments == {"a": 1}


def test_a_result_comes_back() -> None:
    """Bytes too, at any depth."""

    @dataclass
    class Found:
        name: str
        data: bytes

    answer = read_answer(answer_frame(7, [Found("a", b"\x00\xff")]).text)
    assert answer is not None
    assert (answer.number, answer.error) == (7, None)
    assert answer.result == [{"name": "a", "data": b"\x00\xff"}]


def test_an_error_comes_back() -> None:
    """With its text and code."""
    answer = read_answer(error_frame(7, CALL_NOT_FOUND, "no such method").text)
    assert answer is not None
    assert (answer.error, answer.code) == ("no such method", CALL_NOT_FOUND)
    strange = read_answer('{"jsonrpc":"2.0","error":{"code":"x"},"id":1}')
    assert strange is not None
    assert (strange.error, strange.code) == ("no reason given", CALL_FAILED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hi",
        "{",
        '{"a":1}',
        '{"jsonrpc"',
        '{"jsonrpc":"1.0","method":"a","id":1}',
        '["jsonrpc"]',
    ],
)
def test_other_messages_are_neither_call_nor_answer(text: str) -> None:
    """They go to the application."""
    assert read_call(text) is None
    assert read_answer(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc":"2.0","method":1,"id":1}',
        '{"jsonrpc":"2.0","method":"a","params":"b","id":1}',
        '{"jsonrpc":"2.0","method":"a","id":[]}',
        '{"jsonrpc":"2.0","method":"a","id":true}',
    ],
)
def test_a_broken_call_says_what_is_wrong(text: str) -> None:
    """It is a call that is answered with an error."""
    call = read_call(text)
    assert call is not None
    assert call.fault


def test_what_json_cannot_hold_is_refused() -> None:
    """Where it is sent."""
    with pytest.raises(TypeError, match="cannot be written in JSON"):
        json_frame(object())
    with pytest.raises(TypeError, match="name of a method"):
        call_frame(1, "", ())
