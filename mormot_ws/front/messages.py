"""Messages, shared by both doors: from ``str`` and ``bytes`` to frames and back, and calls.

A call is a text message in the format of JSON-RPC 2.0 (docs/reference/calls.md). Values only: no
socket, thread or connection belongs in here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.frames import WebSocketFrame, focBinary, focText
from ..services.values import dump_json, load_json

#: what is sent and received: text is ``str``, everything else ``bytes``
Message = str | bytes

#: the error code of an answer if there is no such method
CALL_NOT_FOUND = -32601
#: … if the arguments do not fit
CALL_BAD_ARGUMENTS = -32602
#: … if the message is not a valid call
CALL_INVALID = -32600
#: … if the method raised an exception
CALL_FAILED = -32000

#: the most characters of an error's text
_MOST_TEXT = 2_000
#: precedes base64 in a JSON string that represents bytes
_BYTES_MARK = "\ufff0"


def frame_of(message: Message) -> WebSocketFrame:
    """Return the frame for *message*: text for ``str``, binary for bytes-like objects.

    Raises ``TypeError`` for anything else, and ``ValueError`` if UTF-8 cannot encode the ``str``.
    """
    if type(message) is str:
        # UnicodeEncodeError is a ValueError
        return WebSocketFrame(focText, message.encode("utf-8"))
    if isinstance(message, str):
        return WebSocketFrame(focText, str(message).encode("utf-8"))
    if isinstance(message, (bytes, bytearray, memoryview)):
        return WebSocketFrame(focBinary, bytes(message))
    raise TypeError(
        f"a message must be str or bytes, not {type(message).__name__};"
        " send_json() sends dicts, lists and numbers"
    )


def message_of(frame: WebSocketFrame) -> Message:
    """Return the content of a text or binary *frame*."""
    if frame.opcode is focText:
        # checked when it was received; only REST peers may send text that is not UTF-8
        return frame.payload.decode("utf-8", "replace")
    return frame.payload


def json_frame(value: Any) -> WebSocketFrame:
    """Return the text frame with *value* as JSON.

    Raises ``TypeError`` or ``ValueError`` for values that JSON cannot represent. Dataclasses, dates
    and enums can be sent; ``bytes`` are sent as base64.
    """
    return WebSocketFrame(focText, dump_json(value))


# -------------------------------------------------------------------------------------------- calls


@dataclass(frozen=True)
class Call:
    """One call of a method of the other side."""

    #: returned in the answer; None: no answer is wanted
    number: int | str | None
    name: str
    #: by position or by name
    arguments: list[Any] | dict[str, Any]
    #: what is wrong with it; '' for a valid call
    fault: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer to a call: its result, or the text and code of an error."""

    number: int | str
    result: Any = None
    #: None if the call has succeeded
    error: str | None = None
    #: the code of the error
    code: int = 0


def call_frame(
    number: int | str | None, name: str, arguments: Sequence[Any] | Mapping[str, Any]
) -> WebSocketFrame:
    """Return the frame of a call; if *number* is None, of one that wants no answer.

    Raises ``TypeError`` or ``ValueError`` for a name or arguments that cannot be sent.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a method must be a str, and not empty, not {name!r}")
    parameters = dict(arguments) if isinstance(arguments, Mapping) else list(arguments)
    call: dict[str, Any] = {"jsonrpc": "2.0", "method": name, "params": parameters}
    if number is not None:
        call["id"] = number
    return json_frame(call)


def answer_frame(number: int | str | None, result: Any) -> WebSocketFrame:
    """Return the frame that answers a call with its *result*.

    Raises ``TypeError`` or ``ValueError`` for a result that JSON cannot represent.
    """
    return json_frame({"jsonrpc": "2.0", "result": result, "id": number})


def error_frame(number: int | str | None, code: int, text: str) -> WebSocketFrame:
    """Return the frame that answers a call with an error; a long *text* is truncated."""
    # the caller has to get the text of any exception, even with lone surrogates
    message = str(text)[:_MOST_TEXT].encode("utf-8", "replace").decode("utf-8")
    error = {"code": code, "message": message}
    return json_frame({"jsonrpc": "2.0", "error": error, "id": number})


def read_call(text: str) -> Call | None:
    """Return the call in a text message; None if it is an ordinary message."""
    fields = _rpc_object(text)
    if fields is None or "method" not in fields:
        return None
    number = fields.get("id")
    name, arguments = fields["method"], fields.get("params", [])
    if not _is_number(number) and number is not None:
        return Call("", "", [], "the id of a call must be a number or a string")
    if not isinstance(name, str) or not isinstance(arguments, (list, dict)):
        return Call(number, "", [], "method must be a string, and params an array or an object")
    return Call(number, name, arguments)


def read_answer(text: str) -> Answer | None:
    """Return the answer in a text message; None if it is an ordinary message.

    It may answer another party's call: check its number.
    """
    fields = _rpc_object(text)
    if fields is None or not _is_number(fields.get("id")):
        return None
    number = fields["id"]
    if "result" in fields:
        result = fields["result"]
        return Answer(number, _with_bytes(result) if _may_have_bytes(text) else result)
    error = fields.get("error")
    if not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    return Answer(
        number,
        error=message if isinstance(message, str) else "no reason given",
        code=code if isinstance(code, int) else CALL_FAILED,
    )


def _rpc_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object of a JSON-RPC 2.0 message; None for another message."""
    # most messages are not, and are not parsed
    if text[:1] != "{" or '"jsonrpc"' not in text:
        return None
    try:
        fields = load_json(text.encode("utf-8"))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and fields.get("jsonrpc") == "2.0" else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _may_have_bytes(text: str) -> bool:
    return _BYTES_MARK in text or "\\ufff0" in text.lower()


def _with_bytes(value: Any) -> Any:
    """Return *value* with ``bytes`` in place of the strings that represent them."""
    if isinstance(value, str) and value.startswith(_BYTES_MARK):
        try:
            return base64.b64decode(value[1:], validate=True)
        except binascii.Error:
            return value
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_bytes(item) for key, item in value.items()}
    return value
