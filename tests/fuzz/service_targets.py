"""The arguments of services as a fuzz target: what a peer sends is read as each of several types.
See ``targets.py``.

The first byte of an input says which of the methods reads the rest, the lowest bit of the second
how small the parts are that it is parsed in.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum, Flag
from typing import Any, Literal, Protocol
from unittest import mock

from mormot_ws.rest import json_structure
from mormot_ws.services import json_parts
from mormot_ws.services.interface import ServiceInterface
from mormot_ws.services.values import MOST_DEPTH, load_native_json

MAX_INPUT = 8192


class Colour(Enum):
    RED = "red"
    ONE = 1


class Rights(Flag):
    READ = 1
    WRITE = 4


@dataclass(frozen=True)
class Spot:
    """Can be in a set."""

    x: int
    y: float | None = None


@dataclass
class Leaf:
    """One side of a union of types that hold each other."""

    value: Branch | Leaf | list[Branch | Leaf] | int


@dataclass
class Branch:
    """Cannot be told from a leaf by its names."""

    value: Branch | Leaf | list[Leaf | Branch] | str
    more: dict[str, Branch | Leaf] = field(default_factory=dict)


class Everything(Protocol):
    def scalars(self, a: int, b: float, c: str, d: bool = True, e: bytes = b"") -> None: ...
    def times(self, a: datetime, b: date | None = None) -> None: ...
    def names(self, a: Colour, b: Rights, c: Literal["x", 1, None] = 1) -> None: ...
    def tree(self, a: Branch | Leaf) -> None: ...
    def sets(self, a: set[Spot], b: frozenset[str] | set[int], c: set[Any]) -> None: ...
    def tuples(
        self, a: tuple[int, str], b: tuple[Spot, ...], c: tuple[Spot | int, ...]
    ) -> None: ...
    def maps(self, a: dict[str, list[int]] | Mapping[str, Spot] | list[str | None]) -> None: ...
    def anything(self, a: Any, b: list[Any] | dict[str, Any] | None = None) -> None: ...


METHODS = ServiceInterface(Everything).methods


def check(condition: object, what: str) -> None:
    """Raise when something that must hold does not."""
    if not condition:
        raise AssertionError(what)


def _read(content: bytes, whole: bool, method: int) -> tuple[Any, str]:
    """Return (arguments, error text) of a call; without *whole* in the smallest parts."""
    piece, few = (1 << 16, 10_000) if whole else (7, 1)
    with (
        mock.patch.object(json_structure, "PIECE", piece),
        mock.patch.object(json_parts, "_FEW", few),
        mock.patch("mormot_ws.services.values._MANY_VALUES", 20_000 if whole else 0),
        mock.patch("mormot_ws.services.values.PIECE", 1 << 16 if whole else 0),
    ):
        try:
            return METHODS[method].read_arguments(content), ""
        except ValueError as exc:
            return None, str(exc)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def run_service(data: bytes) -> Hashable:
    """Read an input as the method's arguments, as a whole and in parts."""
    if len(data) < 2:
        return "nothing"
    method, content = data[0] % len(METHODS), data[2:MAX_INPUT]
    found, error = _read(content, True, method)
    again, other = _read(content, False, method)
    # no number is NaN, so that equal ones are equal
    check(found == again, "in parts it is something else")
    check(bool(error) == bool(other), f"in parts it is {other or 'read'}, else {error or 'read'}")
    check(len(error) < 600 and len(other) < 600, "a text is long")
    check(error.isprintable() or "\n" not in error, "a text has several lines")
    if error:
        return METHODS[method].name, error[:24]
    if content:
        value = load_native_json(content)
        check(_depth(value) <= MOST_DEPTH, "it is nested too deeply")
        # finite numbers and whole characters
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return METHODS[method].name, "read", len(found)


def service_seeds() -> list[bytes]:
    """Return valid arguments of each method, and some hostile ones."""
    branch = {"value": {"value": [{"value": "x", "more": {}}]}, "more": {"a": {"value": 5}}}
    arguments: list[Any] = [
        [1, 2.5, 'te"xt\\é', False, "\ufff0AAE="],
        ["2026-11-28T12:00:00.5+01:00", "2026-11-28"],
        ["red", 5, "x"],
        [branch],
        [[{"x": 1}, {"x": 2, "y": 0.5}], ["a", "b"], [1, "x", None]],
        [[1, "a"], [{"x": 1}], [{"x": 1}, 5]],
        [{"a": [1, 2], "b": []}],
        [{"a": [None, True, 1e300]}, [[[]], {}]],
    ]
    seeds = [bytes([at, 0]) + json.dumps(value).encode() for at, value in enumerate(arguments)]
    deep: Any = 1
    for _ in range(60):
        deep = {"value": deep}
    seeds.append(bytes([3, 0]) + json.dumps([deep]).encode())
    seeds += [
        bytes([7, 0]) + content
        for content in (b"[1e999]", b'["\\ud83d\\ude00\\ud800"]', b"[" * 110, b"[[],[[],[]],{}]")
    ]
    return [*seeds, bytes([0, 0]) + b"[" + b"9" * 400 + b",1e308]"]


SERVICE_TOKENS = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b'\\"', b"null", b"true", b"false"),
    *(b"[]", b"{}", b'{"value":', b'"more":{', b'"x":', b'"red"', b"\\u", b"\\ud800", b"\\udc00"),
    *(b"1e999", b"-1e308", b"9" * 30, b"18446744073709551616", b"-9223372036854775809", b"0.1"),
    *(b"\xef\xbf\xb0AAE=", b'"2026-11-28"', b"T12:00:00", b"NaN", b"Infinity", b"\xed\xa0\x80"),
]
