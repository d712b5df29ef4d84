"""Converts arguments and results of services to JSON and back.

Pure functions: values in, JSON out, and vice versa. This module uses no sockets or threads and
knows nothing about methods or connections. The readers for annotations are in ``readers.py``.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from importlib import import_module
from typing import Any
from uuid import UUID

from ..rest.json_structure import PIECE, depths, pieces
from ..rest.loose_json import quoted_names
from .json_parts import parse_by_parts

#: the prefix of base64 in a JSON string with which mORMot marks binary data
BASE64_MAGIC = "\ufff0"
#: JSON has no limit, but mORMot, orjson and many others use 64 bits
LEAST_INT, MOST_INT = -(1 << 63), (1 << 64) - 1
#: how deeply values may be nested
MOST_DEPTH = 100
#: the maximum number of values in a peer's JSON: freeing them blocks all other threads
MOST_VALUES = 250_000
#: JSON with more values is not parsed in one call, which would block all other threads too
_MANY_VALUES = 20_000


@lru_cache(maxsize=1)
def _orjson() -> Any:
    """Return the module orjson; None if it is not installed, or speedups are disabled."""
    if os.environ.get("MORMOT_WS_NO_SPEEDUPS"):
        return None
    try:
        return import_module("orjson")
    except ImportError:
        return None


def dump_json(value: Any) -> bytes:
    """Return *value* as JSON; raise ``TypeError``/``ValueError`` if services cannot carry it."""
    return _dumped(_to_plain(value, 0, False))


def dump_native_json(value: Any) -> bytes:
    """Return *value* as JSON in the form that native services write.

    Bytes are base64 without a mark, and the zero time of Delphi is null.
    """
    return _dumped(_to_plain(value, 0, True))


def _dumped(plain: Any) -> bytes:
    orjson = _orjson()
    if orjson is not None:
        return bytes(orjson.dumps(plain))
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def load_json(content: bytes) -> Any:
    """Return the value in *content*. Numbers are finite, with 64 bits or as floats.

    Raises ``ValueError`` if it is not JSON, is nested more than 100 levels deep, or has more than
    250 000 values. The time is proportional to *content*, and other threads can run.
    """
    orjson = _orjson()
    return _loaded(content, _loads if orjson is None else orjson.loads, _needs_parts(content))


def load_native_json(content: bytes, exact: bool = False) -> Any:
    """Return the value in JSON of native services, in which names may lack quotes.

    If *exact*, numbers with a fraction are :class:`ExactFloat`.
    """
    orjson = _orjson()
    if exact:
        loads = _loads_exactly
    else:
        loads = _loads if orjson is None else orjson.loads
    by_parts = _needs_parts(content)
    try:
        return _loaded(content, loads, by_parts)
    except ValueError:
        # do not look for such names first: most JSON has none
        quoted = quoted_names(content)
        if quoted is None:
            raise
    return _loaded(quoted, loads, by_parts)


def _needs_parts(content: bytes) -> bool:
    many = len(content) > PIECE or content.count(b"[") + content.count(b"{") > MOST_DEPTH
    return many and _is_large(content)


def _loaded(content: bytes, loads: Callable[[bytes], Any], by_parts: bool) -> Any:
    try:
        return parse_by_parts(content, loads) if by_parts else loads(content)
    # the caller is already close to the recursion limit
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


class ExactFloat(float):
    """A float that keeps the text of its number, from which a Decimal can be made."""

    __slots__ = ("text",)
    text: str

    @classmethod
    def parse(cls, text: str) -> ExactFloat:
        """Return the number in *text*; raise ``ValueError`` if it is too large for a float."""
        number = cls(text)
        if not math.isfinite(number):
            raise ValueError("a number is too large for a float")
        number.text = text
        return number


def _loads_exactly(content: bytes) -> Any:
    return _without_halves(_exact_decoder().decode(content.decode("utf-8")), content)


def _loads(content: bytes) -> Any:
    """Return *content* parsed by the standard library, with the results of orjson."""
    return _without_halves(_decoder().decode(content.decode("utf-8")), content)


def _without_halves(value: Any, content: bytes) -> Any:
    """Return *value*, which was read from *content*.

    Raises ``ValueError`` if it contains a lone surrogate.
    """
    halves = b"\\ud" in content or b"\\uD" in content
    if halves and any(match[1] for match in _ESCAPE.finditer(content)):
        raise ValueError("the JSON contains a lone surrogate")
    return value


#: an escape sequence; the group matches a lone surrogate
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F])|.)",
    re.DOTALL,
)


def _is_large(content: bytes) -> bool:
    """Return whether *content* takes a parser in C too long.

    Raises ``ValueError`` if it is nested too deeply or has too many values.
    """
    depth = commas = brackets = 0
    for piece in pieces(content):
        structure = piece.structure
        commas += structure.count(b",")
        brackets += structure.count(b"[") + structure.count(b"{")
        if commas + brackets > MOST_VALUES:
            raise ValueError(f"the JSON has more than {MOST_VALUES} values")
        levels = depths(piece, depth)
        if levels and max(levels) > MOST_DEPTH:
            raise ValueError("the JSON is nested too deeply")
        depth = levels[-1] if levels else depth
    return commas + brackets > _MANY_VALUES


def _parse_int(text: str) -> int | float:
    """Return an integer, or a float if 64 bits are not enough, like orjson."""
    if len(text) <= 20:
        number = int(text)
        if LEAST_INT <= number <= MOST_INT:
            return number
    return _parse_float(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large for a float")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=1)
def _decoder() -> json.JSONDecoder:
    """Return the parser of the standard library."""
    return json.JSONDecoder(
        parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant
    )


@lru_cache(maxsize=1)
def _exact_decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_int=_parse_int, parse_float=ExactFloat.parse, parse_constant=_refuse_constant
    )


def _to_plain(value: Any, depth: int, native: bool) -> Any:
    """Return *value* converted to JSON types."""
    if value is None or isinstance(value, bool) or type(value) is str:
        return value
    if depth > MOST_DEPTH:
        raise ValueError(
            f"a value is nested more than {MOST_DEPTH} levels deep (does it contain itself?)"
        )
    if isinstance(value, Enum):
        return _to_plain(value.value, depth + 1, native)
    if isinstance(value, int):
        if not LEAST_INT <= value <= MOST_INT:
            raise ValueError("an integer must fit into 64 bits; send a longer one as str")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be written in JSON: send None or a str instead")
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        text = base64.b64encode(value).decode("ascii")
        return text if native else BASE64_MAGIC + text
    if isinstance(value, date):  # a datetime too
        return _native_time(value) if native else value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {
            name: None
            if empty_is_null and getattr(value, attribute) == b"" and native
            else _to_plain(getattr(value, attribute), depth + 1, native)
            for attribute, name, empty_is_null in written_fields(type(value))
        }
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("the keys of a dict must be str, because JSON has no others")
        return {str(key): _to_plain(item, depth + 1, native) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_to_plain(item, depth + 1, native) for item in value]
    if isinstance(value, UUID):
        return str(value).upper()
    if isinstance(value, Decimal):
        return _number_of(value)
    raise TypeError(f"a {type(value).__name__} cannot be written in JSON; {WHAT_MAY_TRAVEL}")


def _number_of(value: Decimal) -> float | int | str:
    """Return *value* as a number, or as text if the number would lose digits.

    Native code reads both.
    """
    if not value.is_finite():
        raise ValueError(f"{value} cannot be written in JSON: send None or a str instead")
    if value.adjusted() < 19 and value == (whole := int(value)) and abs(whole) <= -LEAST_INT - 1:
        return whole
    number = float(value)
    # the repr of a float is its shortest text
    return number if math.isfinite(number) and Decimal(repr(number)) == value else str(value)


#: 0 in Delphi, whose times are numbers of days
ZERO_TIME = datetime(1899, 12, 30)


def _native_time(value: date) -> str | None:
    """Return *value* as native code reads it: three digits of milliseconds; no time is null."""
    if not isinstance(value, datetime):
        return value.isoformat() if value != ZERO_TIME.date() else None
    if value.tzinfo is None and value.date() == ZERO_TIME.date():
        return f"T{value.time().isoformat('milliseconds')}" if value != ZERO_TIME else None
    return value.isoformat() if value.microsecond % 1000 else _in_milliseconds(value)


def _in_milliseconds(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds")


#: the key of a field's metadata with its name in JSON
WIRE_NAME = "wire_name"


@lru_cache(maxsize=1024)
def written_fields(kind: type[Any]) -> tuple[tuple[str, str, bool], ...]:
    """Return (attribute, name in JSON, whether it can only be bytes) for the fields of *kind*."""
    return tuple(
        (
            field.name,
            field.metadata.get(WIRE_NAME, field.name),
            field.type is bytes or field.type == "bytes",
        )
        for field in fields(kind)
    )


WHAT_MAY_TRAVEL = (
    "supported types: None, bool, int, float, str, bytes, date, datetime, UUID, Decimal, Enum, "
    "dataclasses, TypedDict, and list, tuple, Sequence, set, frozenset, dict, Mapping of these"
)
