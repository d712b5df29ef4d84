"""The text form of REST messages (``synopsejson``): a JSON object with one array.

It reproduces the peculiarities of the native codec: an empty body arrives as ``""``, JSON content
is inserted unchecked, and content that is not UTF-8 is sent as base64. All functions are pure.

Large messages are processed in pieces, because a single call of Python's C code would block all
other threads.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from itertools import accumulate

from .json_structure import end_of_brackets
from .messages import (
    ANSWER_HEAD,
    REQUEST_HEAD,
    RestAnswer,
    RestMessageError,
    RestRequest,
    check_field,
    is_json_type,
    parse_status,
    received_content_type,
    sent_content_type,
    to_bytes,
    to_text,
)

#: U+FFF0 in UTF-8: base64 follows
_MAGIC = b"\xef\xbf\xb0"
_MIN_SIZE = 10
#: bytes processed at once: at most one or two milliseconds; divisible by 3 and by 4
_PIECE = 3 << 14
#: contents of at least this many bytes are sent as text only if they are strict UTF-8
_STRICT_FROM = 128

# ----------------------------------------------------------------------------------------- encoding

#: one after the other, the backslash first
_ESCAPES = [
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\n", b"\\n"),
    (b"\r", b"\\r"),
    (b"\t", b"\\t"),
    (b"\b", b"\\b"),
    (b"\f", b"\\f"),
]
_TO_ESCAPE = re.compile(rb'[\x00-\x1f"\\]')
_CONTROL = re.compile(rb"[\x00-\x1f]")
#: the structure of a short text: overlong forms, surrogates and a truncated last sequence are
#: allowed
_LOOSE_UTF8 = re.compile(
    rb"[\x01-\x7f]*(?:(?:[\xc0-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf7][\x80-\xbf]{3})[\x01-\x7f]*)*"
    rb"(?:[\xc0-\xf7]|[\xe0-\xf7][\x80-\xbf]|[\xf0-\xf7][\x80-\xbf]{2})?"
)


def encode_json(message: RestRequest | RestAnswer, head: str = "") -> bytes:
    """Return the payload of the text frame that carries *message*.

    *head* is the peer's own head, if its request had one. Content whose type is JSON is not
    checked. Like native code, short content that is almost UTF-8 results in a payload that is not
    UTF-8.
    """
    content = message.content
    content_type = sent_content_type(message.content_type, content)
    if not content:
        body = b'""'
    elif not content_type:
        body = content
    elif _is_text(content):
        body = _quoted(content)
    else:
        body = b"".join((b'"', _MAGIC, *map(base64.b64encode, _pieces(content)), b'"'))
    if isinstance(message, RestRequest):
        method = "" if message.method == "POST" else message.method
        parts = [
            b'{"%s":[' % (head or REQUEST_HEAD).encode("latin-1"),
            _quoted(to_bytes(method)),
            b",",
            _quoted(to_bytes(message.url)),
            b",",
            _quoted(to_bytes(message.headers)),
            b",1," if message.no_answer else b",0,",
        ]
    else:
        parts = [
            b'{"%s":[%d,' % ((head or ANSWER_HEAD).encode("latin-1"), message.status),
            _quoted(to_bytes(message.headers)),
            b",",
        ]
    parts += (_quoted(to_bytes(content_type)), b",", body, b"]}")
    return b"".join(parts)


def _is_text(content: bytes) -> bool:
    """Return whether *content* is sent as a string, not as base64."""
    if content.startswith(_MAGIC) and _from_base64(content[3:]) is not None:
        return False  # it would be read as base64 (native code sends it anyway)
    if len(content) < _STRICT_FROM:
        # native code accepts one NUL at the end, but its writer then loses it: base64 keeps it
        return _LOOSE_UTF8.fullmatch(content) is not None
    if b"\0" in content:
        return False
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _quoted(data: bytes) -> bytes:
    """Return *data* as a JSON string."""
    if len(data) > _PIECE:
        return b'"%s"' % b"".join(map(_escaped, _pieces(data)))
    return b'"%s"' % _escaped(data)


def _escaped(data: bytes) -> bytes:
    if _TO_ESCAPE.search(data):
        for char, escape in _ESCAPES:
            data = data.replace(char, escape)
        data = _CONTROL.sub(lambda match: b"\\u%04X" % match[0][0], data)
    return data


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))


# ----------------------------------------------------------------------------------------- decoding

_BLANKS = bytes(range(1, 33))
#: everything between the bracket and the first quote is skipped, as in native code
_START = re.compile(rb'[\x01-\x20]{0,1000}\{[^"\x00]{0,1000}"([^"\\\x00]{1,64})"')
_SPACE = re.compile(rb"[\x01-\x20]*")
_BARE = re.compile(rb'[^\x00-\x20,\[\]{}"]*')
_ESCAPE = re.compile(
    rb"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))",
    re.DOTALL,
)
#: a part of a string that ends neither at a quote nor within an escape
_PART = re.compile(
    rb'(?:[^"\\]{1,65536}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\.){1,16384}',
    re.DOTALL,
)
_UNESCAPED = {b"b": b"\b", b"t": b"\t", b"n": b"\n", b"f": b"\f", b"r": b"\r"}
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*")
_BASE64_END = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_STEP = [1 if byte in b"{[" else -1 for byte in range(256)]


def json_head(payload: bytes) -> str:
    """Return the head of the message in *payload*, mostly ``'request'`` or ``'answer'``, or ''.

    Only the beginning is read.
    """
    start = _START.match(payload) if len(payload) >= _MIN_SIZE else None
    return start[1].decode("latin-1") if start else ""


def decode_json(payload: bytes) -> tuple[str, RestRequest | RestAnswer]:
    """Return (head, message) of a text frame's *payload*.

    It is a request if its head begins with ``r``, an answer if it begins with ``a``. Raises
    :class:`RestMessageError` for anything else.
    """
    start = _START.match(payload) if len(payload) >= _MIN_SIZE else None
    if start is None:
        raise RestMessageError("not a message in JSON")
    head = start[1].decode("latin-1")
    if head[0] not in "ra":
        raise RestMessageError("neither a request nor an answer")
    at = _behind(payload, start.end(), b":")
    at = _behind(payload, at, b"[")
    fields = []
    for _ in range(5 if head[0] == "r" else 3):
        field, at = _value(payload, at)
        fields.append(check_field(field))
        at = _behind(payload, at, b",")
    content_type = to_text(fields[-1])
    if not content_type or is_json_type(content_type):
        content = _raw_item(payload, at)
    else:
        content = _value(payload, at)[0]
        if content.startswith(_MAGIC):
            binary = _from_base64(content[3:])
            content = content if binary is None else binary
    content_type = received_content_type(content_type, content)
    if head[0] == "r":
        method, url, headers = map(to_text, fields[:3])
        return head, RestRequest(
            method or "POST", url, headers, fields[3] == b"1", content_type, content
        )
    return head, RestAnswer(parse_status(fields[0]), to_text(fields[1]), content_type, content)


def _behind(payload: bytes, at: int, char: bytes) -> int:
    """Return the offset after *char*, which is at offset *at* or after blanks."""
    at = _end_of(_SPACE, payload, at)
    if not payload.startswith(char, at):
        raise RestMessageError("an item is missing")
    return at + 1


def _value(payload: bytes, at: int) -> tuple[bytes, int]:
    """Return (the simple value at offset *at*, unescaped; the offset after it)."""
    at = _end_of(_SPACE, payload, at)
    if payload.startswith(b'"', at):
        end = _end_of_string(payload, at)
        text = payload[at + 1 : end - 1]
        return (_unescaped(text) if b"\\" in text else text), end
    end = _end_of(_BARE, payload, at)
    if end == at:
        raise RestMessageError("a simple value was expected")
    bare = payload[at:end]
    return (b"" if bare == b"null" else bare), end


def _raw_item(payload: bytes, at: int) -> bytes:
    """Return the JSON text of the item at offset *at*; only brackets and quotes are checked."""
    at = _end_of(_SPACE, payload, at)
    if payload.startswith(b'"', at):
        return payload[at : _end_of_string(payload, at)]
    if not payload.startswith((b"{", b"["), at):
        end = _end_of(_BARE, payload, at)
        if end == at:
            raise RestMessageError("the content is missing")
        return payload[at:end]
    if len(payload) - at <= _PIECE:
        # a short item nearly always extends to the final ]}
        rest = payload[at:].rstrip(_BLANKS)
        if rest.endswith(b"}"):
            rest = rest[:-1].rstrip(_BLANKS)
            if rest.endswith(b"]"):
                rest = rest[:-1].rstrip(_BLANKS)
                if _is_one_item(rest):
                    return rest
    end = end_of_brackets(payload, at)
    if end < 0:
        raise RestMessageError("a bracket is not closed")
    return payload[at:end]


def _is_one_item(text: bytes) -> bool:
    """Return whether the last character of the short *text* closes its first bracket.

    A quick form of :func:`end_of_brackets`.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    pieces = text.split(b'"')
    if len(pieces) % 2 == 0 or pieces[-1][-1:] not in (b"}", b"]"):
        return False
    brackets = b"".join(pieces[::2]).translate(None, _NO_BRACKETS)
    depths = list(accumulate(map(_STEP.__getitem__, brackets)))
    return depths.index(0) == len(depths) - 1 if 0 in depths else False


def _end_of_string(payload: bytes, at: int) -> int:
    """Return the offset after the string whose opening quote is at *at*."""
    end = payload.find(b'"', at + 1)
    if end >= 0 and payload[end - 1] != 0x5C:
        return end + 1
    at += 1
    while (part := _PART.match(payload, at)) is not None:
        at = part.end()
    if not payload.startswith(b'"', at):
        raise RestMessageError("a string is not closed")
    return at + 1


def _end_of(pattern: re.Pattern[bytes], payload: bytes, at: int) -> int:
    """Return the offset after the match of *pattern*, a repetition of single bytes, at *at*."""
    while True:
        match = pattern.match(payload, at, at + _PIECE)
        if match is None or match.end() == at:
            return at
        if match.end() - at < _PIECE:
            return match.end()
        at = match.end()


def _unescaped(text: bytes) -> bytes:
    if len(text) <= _PIECE:
        return _ESCAPE.sub(_unescape, text)
    parts = []
    at = 0
    while (part := _PART.match(text, at)) is not None:
        parts.append(_ESCAPE.sub(_unescape, part[0]))
        at = part.end()
    return b"".join(parts)


def _unescape(escape: re.Match[bytes]) -> bytes:
    high, low, code, char = escape.groups()
    if char is not None:
        return _UNESCAPED.get(char, char)
    if code is not None:
        return chr(int(code, 16)).encode("utf-8", "surrogatepass")
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00).encode()


def _from_base64(text: bytes) -> bytes | None:
    """Return the decoded *text*, or None if it is not padded base64 without blanks."""
    if not text or len(text) % 4:
        return None
    *parts, last = _pieces(text)
    if not all(map(_BASE64.fullmatch, parts)) or not _BASE64_END.fullmatch(last):
        return None
    return b"".join(map(base64.b64decode, (*parts, last)))
