"""Readers of scalar types: numbers, text, times, enumerations.

Pure functions: types and values in, values out.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum, Flag
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from .reader import MOST_TEXT, NULL, Misfit, Reader, Seen, as_it_is, misfit_of
from .values import BASE64_MAGIC, LEAST_INT, MOST_INT, ZERO_TIME, ExactFloat

#: the maximum length of a time, a number or an identifier, in characters
_MOST_ISO = 64
#: the maximum digits before or after the point of a Decimal
_MOST_DIGITS = 400
#: the maximum number of combinations of flags that a class keeps
_MOST_COMBINATIONS = 10_000
#: the maximum characters of base64 decoded in one call, during which other threads wait
_BASE64_PIECE = 1 << 20
#: a prefix that native code may write before a time
_TIME_MAGIC = "\ufff1"
_BASIC_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(.*))?", re.ASCII)
_UUID = re.compile(r"\{?[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}\}?")
_PREFIX = re.compile(r"[a-z]+")
#: what native code writes for a float that is not a number, and reads as 0
_NO_NUMBER = re.compile(r" *(?:NaN|[+-]?Inf(?:inity)?) *", re.IGNORECASE)


def _read_int(value: Any, seen: Seen) -> int:
    if not LEAST_INT <= value <= MOST_INT:
        raise misfit_of("must fit into 64 bits")
    number: int = value
    return number


class _IntReader(Reader):
    """Distinguishes an integer that is too large from other numbers."""

    __slots__ = ()

    def wrong(self, value: Any) -> Misfit:
        # load_json() turns such integers into floats
        if isinstance(value, float) and abs(value) >= -LEAST_INT and value.is_integer():
            return misfit_of("must fit into 64 bits")
        return super().wrong(value)


def _read_float(value: Any, seen: Seen) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise misfit_of("is too large for a float")
    return number


def _read_decimal(value: Any, seen: Seen) -> Decimal:
    text = value.text if isinstance(value, ExactFloat) else str(value)
    try:
        number = Decimal(text) if len(text) <= _MOST_ISO else Decimal("nan")
    except InvalidOperation:
        raise misfit_of("is not a number") from None
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise misfit_of("is not a valid Decimal")
    return number


def _text_reader(
    name: str,
    parse: Callable[[str], Any],
    empty: Callable[[], Any] | None = None,
    kinds: Iterable[type] = (str,),
) -> Reader:
    def read(value: Any, seen: Seen) -> Any:
        try:
            return parse(value)
        except (ValueError, OverflowError):
            raise misfit_of(f"cannot be read as {name}") from None

    return Reader(read, kinds, name, empty)


def _parse_time(text: str) -> datetime:
    # the standard library accepts any number of digits
    if len(text) > _MOST_ISO:
        raise ValueError
    return datetime.fromisoformat(text)


def _parse_native_time(value: str | float) -> datetime:
    """Return the time in *value*, in any form that native code writes or reads."""
    if not isinstance(value, str):
        # the fraction is the time of day, even before 1899-12-30
        days = int(value)
        return ZERO_TIME + timedelta(days=days) + timedelta(days=abs(value - days))
    text = value.removeprefix(_TIME_MAGIC)
    if not text:
        return ZERO_TIME
    if len(text) > _MOST_ISO:
        raise ValueError
    if text.startswith("T"):
        return datetime.fromisoformat(f"{ZERO_TIME.date().isoformat()}{text}")
    basic = _BASIC_TIME.fullmatch(text)
    if basic is not None:
        year, month, day, hour, minute, second, rest = basic.groups(default="00")
        rest = "" if basic[4] is None else rest
        text = f"{year}-{month}-{day}T{hour}:{minute}:{second}{rest}"
    return datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)


def _parse_native_date(value: str | float) -> date:
    time = _parse_native_time(value)
    if time != datetime(time.year, time.month, time.day, tzinfo=time.tzinfo):
        raise ValueError
    return time.date()


def _parse_base64(text: str) -> bytes:
    text = text.removeprefix(BASE64_MAGIC)
    if len(text) <= _BASE64_PIECE:
        return base64.b64decode(text, validate=True)
    if "=" in text[:-2]:
        raise ValueError
    return b"".join(
        base64.b64decode(text[at : at + _BASE64_PIECE], validate=True)
        for at in range(0, len(text), _BASE64_PIECE)
    )


def _parse_uuid(text: str) -> UUID:
    if len(text) > _MOST_ISO or _UUID.fullmatch(text) is None:
        raise ValueError
    return UUID(text)


ANYTHING = Reader(as_it_is, None, empty=lambda: None)
NOTHING = Reader(as_it_is, (NULL,), "null", lambda: None)
_NUMBERS = (int, float, ExactFloat)
SCALARS: dict[Any, Reader] = {
    None: NOTHING,
    NULL: NOTHING,
    bool: Reader(as_it_is, (bool,), "bool", bool),
    int: _IntReader(_read_int, (int,), "int", int),
    float: Reader(_read_float, _NUMBERS, "float", float),
    str: Reader(as_it_is, (str,), "str", str),
    bytes: _text_reader("base64", _parse_base64, bytes),
    datetime: _text_reader("ISO 8601 time", _parse_time),
    date: _text_reader("ISO 8601 date", date.fromisoformat),
    UUID: _text_reader("UUID", _parse_uuid, lambda: UUID(int=0)),
    Decimal: Reader(_read_decimal, (*_NUMBERS, str), "a decimal number", Decimal),
}
#: the same for native services, which write times in several forms
NATIVE_SCALARS: dict[Any, Reader] = {
    **SCALARS,
    datetime: _text_reader(
        "ISO 8601 time", _parse_native_time, lambda: ZERO_TIME, (str, *_NUMBERS)
    ),
    date: _text_reader("ISO 8601 date", _parse_native_date, ZERO_TIME.date, (str, *_NUMBERS)),
}


def _parse_native_bytes(text: str) -> bytes:
    """Return the bytes in *text*: decoded if it is base64, otherwise its own."""
    try:
        return _parse_base64(text)
    except ValueError:
        if text.startswith(BASE64_MAGIC):
            raise
        return text.encode("utf-8")


def _read_native_float(value: Any, seen: Seen) -> float:
    if isinstance(value, str):
        if _NO_NUMBER.fullmatch(value) is None:
            raise misfit_of("must be float, not str")
        return 0.0
    return _read_float(value, seen)


#: the readers of native services if no other type is possible
SOLE_NATIVE_SCALARS: dict[Any, Reader] = {
    bytes: _text_reader("base64", _parse_native_bytes, bytes),
    float: Reader(_read_native_float, (*_NUMBERS, str), "float", float),
}


def literal_reader(choices: tuple[Any, ...]) -> Reader:
    """Return the reader for one of the *choices* of a ``Literal``."""
    wanted = f"one of {', '.join(map(repr, choices))}"[:MOST_TEXT]

    def read(value: Any, seen: Seen) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise misfit_of(f"must be {wanted}")

    return Reader(read, (NULL, bool, int, float, str), wanted)


def enum_reader(kind: type[Enum], native: bool) -> Reader:
    """Return the reader for the value of a *kind*.

    If *native*, it also reads the name of a member, and an array of the names of flags.
    """
    wanted = f"the value of a {kind.__name__}"
    is_flag = issubclass(kind, Flag)
    known = 0
    if is_flag:
        for member in kind.__members__.values():
            known |= member.value

    def read(value: Any, seen: Seen) -> Any:
        # the class keeps each new combination of flags: refuse unknown flags and limit the number
        if known and (type(value) is not int or (value if value >= 0 else ~value) & ~known):
            raise misfit_of(f"must be {wanted}")
        if known and value < 0:
            # the complement of flags, which contains no others
            value &= known
        try:
            return _combination(kind, value) if known else kind(value)
        except Misfit:
            raise
        # whatever the application's _missing_() raises means that the value is invalid
        except Exception:  # noqa: BLE001
            raise misfit_of(f"must be {wanted}") from None

    kinds: set[type] = {int, float, ExactFloat, str}
    if not native:
        return Reader(read, {*kinds, NULL}, wanted)
    names = _names_of(kind)

    def read_native(value: Any, seen: Seen) -> Any:
        if is_flag and isinstance(value, list):
            if not all(isinstance(name, str) and name.lower() in names for name in value):
                raise misfit_of(f"must be {wanted}, or an array of their names")
            value = reduce(or_, (names[name.lower()].value for name in value), 0)
        elif is_flag and value == "*":
            value = known
        elif type(value) is str and value.lower() in names and value not in values:
            return names[value.lower()]
        return read(value, seen)

    values = {member.value for member in kind.__members__.values() if type(member.value) is str}
    if any(member.value is None for member in kind.__members__.values()):
        kinds.add(NULL)
    if is_flag:
        kinds.add(list)
    zero = kind(0) if is_flag else _zero_of(kind)
    return Reader(read_native, kinds, wanted, None if zero is None else lambda: zero)


def _combination(kind: type[Enum], value: int) -> Enum:
    """Return a combination of flags.

    The class keeps only a limited number, because a peer could send all combinations.
    """
    kept = kind._value2member_map_
    is_one_too_many = value not in kept and len(kept) >= _MOST_COMBINATIONS
    if is_one_too_many and not issubclass(kind, int):
        # two objects with the same value would not be equal
        raise misfit_of("exceeds the number of combinations of flags")
    made = kind(value)
    if is_one_too_many:
        kept.pop(value, None)
    return made


def _zero_of(kind: type[Enum]) -> Enum | None:
    """Return the first member of an enumeration, in the order of Pascal."""
    for member in kind:
        if member.value == 0 and type(member.value) is not bool:
            return member
    return None


def _names_of(kind: type[Enum]) -> dict[str, Any]:
    """Return the members by lower-case name, with and without a prefix like ``col``."""
    names: dict[str, Any] = {}
    for name, member in kind.__members__.items():
        prefix = _PREFIX.match(name)
        if prefix is not None and prefix.end() < len(name):
            names.setdefault(name[prefix.end() :].lower(), member)
    names.update({name.lower(): member for name, member in kind.__members__.items()})
    return names
