"""JSON without the quotes of names as a fuzz target, and what services read of it. See
``targets.py``.

The first byte of an input says which type the rest is read as, the lowest bit of the second how
small the pieces are that it is looked at in.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, IntFlag
from typing import Any, TypedDict
from unittest import mock
from uuid import UUID

from mormot_ws.rest import json_structure, loose_json
from mormot_ws.services.readers import item_reader
from mormot_ws.services.values import dump_native_json, load_native_json

MAX_INPUT = 8192


class Colour(IntEnum):
    coRed = 0
    coBlue = 2


class Kinds(IntFlag):
    kSmall = 1
    kLarge = 4


@dataclass
class Place:
    """Holds others of its kind."""

    name: str
    colour: Colour
    inner: list[Place] = field(default_factory=list)


class Spot(TypedDict):
    x: int
    more: dict[str, float]


TYPES: list[Any] = [
    Any,
    Place,
    list[Spot],
    list[Decimal | None],
    list[datetime],
    list[date],
    list[UUID],
    list[Colour],
    list[Kinds],
    list[bytes],
    Place | Spot | None,
]
_READERS = [item_reader(kind, True) for kind in TYPES]


def check(condition: object, what: str) -> None:
    """Raise when something that must hold does not."""
    if not condition:
        raise AssertionError(what)


def _load(content: bytes, piece: int) -> tuple[Any, str]:
    with (
        mock.patch.object(json_structure, "PIECE", piece),
        mock.patch.object(loose_json, "PIECE", piece),
    ):
        try:
            return load_native_json(content), ""
        except ValueError as exc:
            return None, str(exc) or "empty"


def run_loose(data: bytes) -> Hashable:
    """Read an input, as a whole and in pieces; then as one of the types, and write that again."""
    if len(data) < 2:
        return "nothing"
    number, content = data[0] % len(TYPES), data[2:MAX_INPUT]
    value, error = _load(content, 1 << 16)
    again, other = _load(content, 7 if data[1] & 1 else 61)
    check(value == again and bool(error) == bool(other), "in pieces it is something else")
    try:
        strict = json.loads(content, parse_constant=int)
    except (ValueError, RecursionError):
        strict = None
    else:
        if not error and not isinstance(strict, (int, float)):
            check(type(strict) is type(value), "what needs no quotes is read as something else")
    quoted = loose_json.quoted_names(content)
    if quoted is not None:
        check(len(quoted) <= 3 * len(content), "it has become far longer")
    if error:
        return "refused", error[:20]
    try:
        read = _READERS[number](value, "it")
    except ValueError as exc:
        check(len(str(exc)) < 500, "a text is long")
        return number, str(exc)[:20]
    written = dump_native_json(read)
    back = _READERS[number](load_native_json(written, exact=True), "it")
    check(back == read, "what is written is read as something else")
    return number, "read"


def loose_seeds() -> list[bytes]:
    """Return valid inputs of each type, and some hostile ones."""
    texts = [
        (0, b'{"a b":1,1x:2,x.y:3,u:[{},{a:"{b:1,c"}],a-b:6,null:7,$p:8}'),
        (1, b'{name:"p \\"1\\"",COLOUR:2,inner:[{},{name:null,colour:"red",other:1}]}'),
        (2, b"[{x:3,more:{a:1.5,b:null}},{}]"),
        (3, b'[12.3456,"922337203685477.5807",null,7]'),
        (4, b'["2024-02-29T01:02:03.678","T12:00:00",null,45351.5,"20240229"]'),
        (5, b'["2024-02-29",null]'),
        (6, b'["5B1C7E52-0A36-4C2B-9A5E-6A1F0D4E1BFF",null]'),
        (7, b'[0,"blue","coRed",null]'),
        (8, b'[5,["kLarge"],"*",null]'),
        (9, b'["AAEC/v8=",null,""]'),
        (10, b"{x:1,more:{}}"),
        (0, b"[" + b"{a:" * 101 + b"1" + b"}" * 101 + b"]"),
        (0, b"{a:" + b"1" * 200 + b" " * 50 + b":}"),
        (0, b'{a:"\\\\",b:"\\\\\\"",c:"\x01"}'),
    ]
    return [bytes([at, number % 2]) + text for number, (at, text) in enumerate(texts)]


LOOSE_TOKENS = [
    *(
        b"{a:",
        b"a:",
        b":",
        b",",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b'\\"',
        b"null",
        b"{}",
        b"[]",
    ),
    *(b"name:", b"colour:", b"inner:[", b"x:", b"more:{", b"\x01", b"\x02", b"\x02\x03", b" "),
    *(b"1e999", b"1E+010", b'"T12:00:00"', b'"*"', b"\xef\xbf\xb0", b"\xff", b"$-._"),
]
