"""Readers: what an annotation makes of the values of JSON.

A reader decides by structure: it looks at the types of values before it makes anything of them, and
it reads no value twice as the same type. So it takes time in proportion to the values, whatever the
annotation. Pure: types and values in, values out.
"""

from __future__ import annotations

import base64
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from enum import Enum, Flag
from functools import lru_cache
from typing import Any, Literal, Union

from ..logs import escaped
from .values import BASE64_MAGIC, LEAST_INT, MOST_INT, WHAT_MAY_TRAVEL

#: what was read so far of arrays and objects that may be read as several types, or why not, by the
#: identity of the reader and of the value
_Seen = dict[tuple[int, int], Any]
_Read = Callable[[Any, _Seen], Any]
#: where a misfit is, from the outermost place inwards, and what it is
_Reason = tuple[tuple[str, ...], str]

#: characters of an error text, and of one name in it
_MOST_TEXT, _MOST_NAME = 400, 60
#: places of a path that an error text has at each end
_MOST_PLACES = 4
#: types of a union that an error text names
_MOST_REASONS = 4
#: items of a set whose hash another one has
_MOST_COLLISIONS = 100
#: characters of a time
_MOST_ISO = 64
#: characters of base64 that are decoded in one call, and that other threads wait for
_BASE64_PIECE = 1 << 20

_NULL = type(None)
_JSON_TYPES = (_NULL, bool, int, float, str, list, dict)
_NAMES = {_NULL: "null", dict: "an object", list: "an array"}


class Reader:
    """Reads values as one type: ``reader(value, where)`` returns what the type makes of *value*.

    It raises ``ValueError`` where *value* does not fit; *where* says what it is, for its text. From
    any thread.
    """

    __slots__ = ("kinds", "read", "wanted")

    def __init__(self, read: _Read, kinds: Iterable[type] | None, wanted: str = "") -> None:
        #: for other readers
        self.read: _Read = read
        #: the types of JSON that a value may have; None: all
        self.kinds = None if kinds is None else frozenset(kinds)
        #: what the value has to be, in words
        self.wanted = wanted

    def __call__(self, value: Any, where: str) -> Any:
        try:
            if self.kinds is not None and type(value) not in self.kinds:
                raise self.wrong(value)
            return self.read(value, {})
        except _Misfit as misfit:
            raise ValueError(misfit.text(where)) from None
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None

    def check_all(self, values: Collection[Any], places: Iterable[object], form: str) -> None:
        """Check all *values*, which have these *places*: ``[1]`` with the *form* ``[{}]``."""
        kinds = self.kinds
        if kinds is not None and not kinds.issuperset(map(type, values)):
            for place, value in zip(places, values, strict=True):
                if type(value) not in kinds:
                    raise self.wrong(value).within(form.format(str(place)[:_MOST_NAME]))

    def wrong(self, value: Any) -> _Misfit:
        """Return what to raise when *value* has another type."""
        kind = _NAMES.get(type(value)) or type(value).__name__
        return _Misfit(((), f"has to be {self.wanted}, not {kind}"))


class _Misfit(Exception):
    """A value does not fit; a union has several *reasons*."""

    def __init__(self, *reasons: _Reason) -> None:
        super().__init__()
        self.reasons = reasons

    def within(self, place: str) -> _Misfit:
        """Return the same for the value that has this one at *place*."""
        return _Misfit(*(((place, *path), text) for path, text in self.reasons))

    def text(self, where: str) -> str:
        """Return it in words, in a bounded number of them."""
        text = "; or ".join(f"{where}{_joined(path)} {reason}" for path, reason in self.reasons)
        text = escaped(text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…")
        # a key may have half a character
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _joined(path: tuple[str, ...]) -> str:
    if len(path) > 2 * _MOST_PLACES:
        path = (*path[:_MOST_PLACES], "…", *path[-_MOST_PLACES:])
    return "".join(path)


def _misfit(text: str) -> _Misfit:
    return _Misfit(((), text))


def reader_of(annotation: Any) -> Reader:
    """Return what reads values of *annotation*; raise ``TypeError`` for a type that cannot come
    from JSON.

    An int is taken where a float is wanted, nothing else is converted: ``"1"`` is no int, and
    neither is ``true``.
    """
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation is Any or annotation is object:
        return _ANYTHING
    if origin is typing.Annotated:
        return reader_of(arguments[0])
    if origin is Union or origin is types.UnionType:
        return _union_reader([reader_of(argument) for argument in arguments])
    if origin is Literal:
        return _literal_reader(arguments)
    kind = origin or annotation
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind is tuple:
        return _tuple_reader(arguments)
    if kind in _ARRAYS:
        return _array_reader(
            _ARRAYS[kind], reader_of(arguments[0]) if arguments else reader_of(Any)
        )
    if kind in (dict, Mapping):
        if arguments and arguments[0] is not str:
            raise TypeError(f"{annotation!r}: the keys of a JSON object are str")
        return _dict_reader(reader_of(arguments[1]) if arguments else reader_of(Any))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_reader(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _DataclassReader.of(kind)
    raise TypeError(f"{annotation!r} cannot be read from JSON; {WHAT_MAY_TRAVEL}")


# ------------------------------------------------------------------------------------------ scalars


def _as_it_is(value: Any, seen: _Seen) -> Any:
    return value


def _read_int(value: Any, seen: _Seen) -> int:
    if not LEAST_INT <= value <= MOST_INT:
        raise _misfit("has to fit into 64 bits")
    number: int = value
    return number


class _IntReader(Reader):
    """Tells an integer that is too large from other numbers."""

    __slots__ = ()

    def wrong(self, value: Any) -> _Misfit:
        # load_json() makes floats of such integers
        if type(value) is float and abs(value) >= -LEAST_INT and value.is_integer():
            return _misfit("has to fit into 64 bits")
        return super().wrong(value)


def _read_float(value: Any, seen: _Seen) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _misfit("is too large for a float")
    return number


def _text_reader(name: str, parse: Callable[[str], Any]) -> Reader:
    def read(value: Any, seen: _Seen) -> Any:
        try:
            return parse(value)
        except (ValueError, OverflowError):
            raise _misfit(f"is no {name}") from None

    return Reader(read, (str,), name)


def _parse_time(text: str) -> datetime:
    # the standard library takes any number of digits
    if len(text) > _MOST_ISO:
        raise ValueError
    return datetime.fromisoformat(text)


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


_ANYTHING = Reader(_as_it_is, None)
_NOTHING = Reader(_as_it_is, (_NULL,), "null")
_SCALARS: dict[Any, Reader] = {
    None: _NOTHING,
    _NULL: _NOTHING,
    bool: Reader(_as_it_is, (bool,), "bool"),
    int: _IntReader(_read_int, (int,), "int"),
    float: Reader(_read_float, (int, float), "float"),
    str: Reader(_as_it_is, (str,), "str"),
    bytes: _text_reader("base64", _parse_base64),
    datetime: _text_reader("ISO 8601 time", _parse_time),
    date: _text_reader("ISO 8601 date", date.fromisoformat),
}


def _literal_reader(choices: tuple[Any, ...]) -> Reader:
    wanted = f"one of {', '.join(map(repr, choices))}"[:_MOST_TEXT]

    def read(value: Any, seen: _Seen) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise _misfit(f"has to be {wanted}")

    return Reader(read, (_NULL, bool, int, float, str), wanted)


def _enum_reader(kind: type[Enum]) -> Reader:
    wanted = f"the value of a {kind.__name__}"
    known = 0
    if issubclass(kind, Flag):
        for member in kind.__members__.values():
            known |= member.value

    def read(value: Any, seen: _Seen) -> Any:
        # each new combination of flags is kept by its class: no unknown ones
        if known and (type(value) is not int or (value if value >= 0 else ~value) & ~known):
            raise _misfit(f"has to be {wanted}")
        try:
            return kind(value)
        # whatever the application's _missing_() raises is a no
        except Exception:  # noqa: BLE001
            raise _misfit(f"has to be {wanted}") from None

    return Reader(read, (_NULL, int, float, str), wanted)


# --------------------------------------------------------------------------------------- containers

_ARRAYS: dict[Any, type[Any]] = {list: list, Sequence: list, set: set, frozenset: frozenset}


def _array_reader(make: type[Any], reader: Reader) -> Reader:
    read_item = reader.read

    def read(value: Any, seen: _Seen) -> Any:
        reader.check_all(value, range(len(value)), "[{}]")
        if read_item is _as_it_is:
            return _made(make, value)
        items: list[Any] = []
        try:
            for item in value:
                items.append(read_item(item, seen))
        except _Misfit as misfit:
            raise misfit.within(f"[{len(items)}]") from None
        return _made(make, items)

    return Reader(read, (list,), "an array")


def _made(make: type[Any], items: list[Any]) -> Any:
    """Return *items* as a *make*."""
    if make is list:
        return items
    if make is tuple:
        return tuple(items)
    # hashes of numbers and tuples can be chosen: with equal ones a set takes quadratic time
    found: set[Any] = set()
    hashes: set[int] = set()
    try:
        for item in items:
            found.add(item)
            hashes.add(hash(item))
            if len(found) - len(hashes) > _MOST_COLLISIONS:
                raise _misfit("has too many items with the same hash")
    except TypeError:
        # objects and arrays in a set
        raise _misfit(f"has items that a {make.__name__} cannot hold") from None
    return found if make is set else make(found)


def _tuple_reader(arguments: tuple[Any, ...]) -> Reader:
    if not arguments:
        return _array_reader(tuple, reader_of(Any))
    if len(arguments) == 2 and arguments[1] is ...:
        return _array_reader(tuple, reader_of(arguments[0]))
    readers = [reader_of(argument) for argument in arguments]
    wanted = f"an array of {len(readers)}"

    def read(value: Any, seen: _Seen) -> Any:
        if len(value) != len(readers):
            raise _misfit(f"has to be {wanted}, not an array")
        for at, (reader, item) in enumerate(zip(readers, value, strict=True)):
            if reader.kinds is not None and type(item) not in reader.kinds:
                raise reader.wrong(item).within(f"[{at}]")
        items: list[Any] = []
        try:
            for reader, item in zip(readers, value, strict=True):
                items.append(reader.read(item, seen))
        except _Misfit as misfit:
            raise misfit.within(f"[{len(items)}]") from None
        return tuple(items)

    return Reader(read, (list,), wanted)


def _dict_reader(reader: Reader) -> Reader:
    read_item = reader.read

    def read(value: Any, seen: _Seen) -> Any:
        reader.check_all(value.values(), value, ".{}")
        if read_item is _as_it_is:
            return value
        items: dict[str, Any] = {}
        key = ""
        try:
            for key, item in value.items():
                items[key] = read_item(item, seen)
        except _Misfit as misfit:
            raise misfit.within(f".{key[:_MOST_NAME]}") from None
        return items

    return Reader(read, (dict,), "an object")


def _union_reader(readers: list[Reader]) -> Reader:
    """Return what reads a value as the first of several types that it fits."""
    fitting = {
        kind: [reader for reader in readers if reader.kinds is None or kind in reader.kinds]
        for kind in _JSON_TYPES
    }
    named = [reader.wanted for reader in readers if reader is not _NOTHING]

    def read(value: Any, seen: _Seen) -> Any:
        candidates = fitting.get(type(value), ())
        if len(candidates) == 1:
            return candidates[0].read(value, seen)
        # only these have others in them
        shared = isinstance(value, (list, dict))
        reasons: list[_Reason] = []
        for reader in candidates:
            key = (id(reader), id(value))
            found = seen.get(key, seen) if shared else seen
            if found is seen:
                try:
                    found = reader.read(value, seen)
                except _Misfit as misfit:
                    found = misfit
                if shared:
                    seen[key] = found
            if not isinstance(found, _Misfit):
                return found
            reasons += found.reasons[: _MOST_REASONS - len(reasons)]
        raise _Misfit(*reasons)

    kinds = [kind for kind in _JSON_TYPES if fitting[kind]]
    return _UnionReader(read, kinds, named[:_MOST_REASONS])


class _UnionReader(Reader):
    """Names all its types."""

    __slots__ = ("named",)

    def __init__(self, read: _Read, kinds: Iterable[type], named: list[str]) -> None:
        super().__init__(read, kinds)
        self.named = named

    def wrong(self, value: Any) -> _Misfit:
        kind = _NAMES.get(type(value)) or type(value).__name__
        return _Misfit(*(((), f"has to be {wanted}, not {kind}") for wanted in self.named))


class _DataclassReader(Reader):
    """Reads a JSON object as a dataclass: fields with a default may be missing, unknown ones are
    refused.
    """

    __slots__ = ("_kind", "_needed", "_readers")

    @staticmethod
    @lru_cache(maxsize=256)
    def of(kind: type[Any]) -> _DataclassReader:
        """Return the reader of *kind*, and the same one each time: a dataclass may have fields of
        its own kind.
        """
        return _DataclassReader(kind)

    def __init__(self, kind: type[Any]) -> None:
        super().__init__(self._read_object, (dict,), f"an object ({kind.__name__})")
        self._kind = kind
        self._readers: dict[str, Reader] | None = None
        self._needed = [
            field.name
            for field in fields(kind)
            if field.init and field.default is MISSING and field.default_factory is MISSING
        ]

    def _fields(self) -> dict[str, Reader]:
        # not in __init__: see of()
        hints = typing.get_type_hints(self._kind, include_extras=True)
        readers = {
            field.name: reader_of(hints[field.name]) for field in fields(self._kind) if field.init
        }
        self._readers = readers
        return readers

    def _read_object(self, value: Any, seen: _Seen) -> Any:
        readers = self._fields() if self._readers is None else self._readers
        for name, item in value.items():
            reader = readers.get(name)
            if reader is None:
                shown, owner = name[:_MOST_NAME], self._kind.__name__
                raise _misfit(f"has a field {shown!r} that {owner} does not have")
            if reader.kinds is not None and type(item) not in reader.kinds:
                raise reader.wrong(item).within(f".{name}")
        missing = [name for name in self._needed if name not in value]
        if missing:
            raise _misfit(f"lacks {', '.join(missing)}")
        items: dict[str, Any] = {}
        name = ""
        try:
            for name, item in value.items():
                items[name] = readers[name].read(item, seen)
        except _Misfit as misfit:
            raise misfit.within(f".{name}") from None
        try:
            return self._kind(**items)
        # what its __post_init__ refuses
        except (ValueError, OverflowError) as exc:
            raise _misfit(f"is not a valid {self._kind.__name__}: {exc}") from None
