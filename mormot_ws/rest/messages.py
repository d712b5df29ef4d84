"""Requests and answers of the REST protocols as values: their fields, heads and content types.

Their text form (``synopsejson``) is in ``json_form.py``, their binary form (``synopsebin``,
``synopsebinary``) in ``binary_form.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

#: heads of messages without a number
REQUEST_HEAD = "request"
ANSWER_HEAD = "answer"

JSON_CONTENT_TYPE = "application/json"
#: an application that answers with this content type sends no answer at all
NO_RESPONSE = "!NORESPONSE"
#: the name of the header that :func:`batch_marker` adds
FRAME_HEADER = "Sec-WebSocket-Frame"

#: the maximum bytes of a message's field, except the content
MAX_FIELD = 1 << 20


class RestMessageError(ValueError):
    """Raised for a payload that is not a REST message; native code drops such frames silently."""


@dataclass(slots=True)
class RestRequest:
    """A request from either side to the other.

    Text fields are ``str``. A peer's bytes that are not UTF-8 become surrogate escapes, and are
    sent back unchanged.
    """

    #: in the caller's spelling; never empty
    method: str = "GET"
    #: as given by the caller, with its query
    url: str = ""
    #: lines joined by CRLF
    headers: str = ""
    #: True: the sender does not wait for an answer
    no_answer: bool = False
    #: '' only if there is no content
    content_type: str = ""
    content: bytes = b""


@dataclass(slots=True)
class RestAnswer:
    """The answer to a request."""

    #: an HTTP status
    status: int = 200
    #: lines joined by CRLF
    headers: str = ""
    #: '' only if there is no content
    content_type: str = ""
    content: bytes = b""


def request_head(sequence: int) -> str:
    """Return the head of a numbered request of ``synopsebin``, from the low 24 bits."""
    return f"r{sequence & 0xFFFFFF:06x}"


def answer_head_of(head: str) -> str:
    """Return the head of the answer to a request with that *head*."""
    return ANSWER_HEAD if head[2:3] in ("q", "Q") else "a" + head[1:]


def is_json_type(content_type: str) -> bool:
    """Return whether *content_type* counts as JSON; if so, its parameters are not sent."""
    kind = content_type.strip().lower()
    if kind.startswith("application/"):
        return kind.startswith(JSON_CONTENT_TYPE) or "+json" in kind
    return kind.endswith("/json")


def sent_content_type(content_type: str, content: bytes) -> str:
    """Return the content type to send: '' if the receiver can tell it from the content."""
    return "" if not content or is_json_type(content_type) else content_type


def received_content_type(content_type: str, content: bytes) -> str:
    """Return the content type of a received message with that *content*."""
    return JSON_CONTENT_TYPE if content and not content_type else content_type


def content_bytes(content: object) -> bytes:
    """Return the *content* of an answer as bytes.

    Raises ``TypeError`` if it is neither text nor bytes, and ``ValueError`` for text that cannot be
    encoded.
    """
    if isinstance(content, str):
        return content.encode("utf-8")
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError(f"the content must be bytes or str, not {type(content).__name__}")
    return bytes(content)


def check_field(field: bytes) -> bytes:
    """Return *field*, a peer's method, URL, headers, status or content type.

    Raises :class:`RestMessageError` if it has more than a megabyte, which no real peer sends.
    """
    if len(field) > MAX_FIELD:
        raise RestMessageError("a field is too long")
    return field


def to_bytes(text: str) -> bytes:
    """Return a text field's bytes; surrogate escapes become the bytes that were received."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate from the caller that does not represent a byte
        return text.encode("utf-8", "replace")


def to_text(field: bytes) -> str:
    """Return a text field as ``str``; bytes that are not UTF-8 become surrogate escapes."""
    return field.decode("utf-8", "surrogateescape")


def parse_status(field: bytes) -> int:
    """Return the status in an answer's *field*.

    Raises :class:`RestMessageError` if it is not a number of up to nine digits.
    """
    if not field.isdigit() or len(field) > 9:
        raise RestMessageError("the status is not a number")
    return int(field)


def batch_marker(index: int, count: int) -> str:
    """Return the header line that a receiver adds to a request of a jumbo frame.

    *index* is its index (from 0) among the *count* requests. '' for those in the middle.
    """
    if index == 0:
        return f"{FRAME_HEADER}: [0]"
    return f"{FRAME_HEADER}: [1]" if index == count - 1 else ""


def add_header(headers: str, line: str) -> str:
    """Return *headers* with *line* as the last one."""
    headers = headers.rstrip("\r\n")
    return f"{headers}\r\n{line}" if headers else line
