"""Values of services as JSON, and back by their annotations: what may be an argument or a result,
and how it looks.

Pure: types and values in, JSON out. No socket, no thread, nothing about methods or connections
belongs in here.
"""

from __future__ import annotations

import base64
import json
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, Union

#: turns a JSON value into what an annotation says; the second parameter says where it stands, for
#: the message of a ``ValueError``
Reader = Callable[[Any, str], Any]

#: what precedes base64 in a JSON string, by which mORMot tells binary data from text
_BASE64_MAGIC = "\ufff0"
#: JSON has no limit, but mORMot, orjson and many others have 64 bits
_LEAST_INT, _MOST_INT = -(1 << 63), (1 << 64) - 1
_MOST_DEPTH = 100


@lru_cache(maxsize=1)
def _orjson() -> Any:
    """Return the module orjson, None when it is not installed (or not wanted, as the other
    speedups).
    """
    if os.environ.get("MORMOT_WS_NO_SPEEDUPS"):
        return None
    try:
        return import_module("orjson")
    except ImportError:
        return None


def dump_json(value: Any) -> bytes:
    """Return *value*, anything that a service may carry, as JSON; raise
    ``TypeError``/``ValueError`` for what it may not.
    """
    plain = _to_plain(value, 0)
    orjson = _orjson()
    if orjson is not None:
        return bytes(orjson.dumps(plain))
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def load_json(content: bytes) -> Any:
    """Return the value in *content*; raise ``ValueError`` when it is no JSON."""
    orjson = _orjson()
    try:
        if orjson is not None:
            return orjson.loads(content)
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _to_plain(value: Any, depth: int) -> Any:
    """Return *value* in the types of JSON."""
    if value is None or isinstance(value, bool) or type(value) is str:
        return value
    if depth > _MOST_DEPTH:
        raise ValueError(
            f"a value is nested more than {_MOST_DEPTH} levels deep (does it contain itself?)"
        )
    if isinstance(value, Enum):
        return _to_plain(value.value, depth + 1)
    if isinstance(value, int):
        if not _LEAST_INT <= value <= _MOST_INT:
            raise ValueError("an integer has to fit into 64 bits; send a longer one as str")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be written in JSON: send None or a str in its place")
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return _BASE64_MAGIC + base64.b64encode(value).decode("ascii")
    if isinstance(value, date):  # a datetime too
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _to_plain(getattr(value, field.name), depth + 1) for field in fields(value)
        }
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("the keys of a dict have to be str, as JSON has no others")
        return {str(key): _to_plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_to_plain(item, depth + 1) for item in value]
    raise TypeError(f"a {type(value).__name__} cannot be written in JSON; {_WHAT_MAY_TRAVEL}")


_WHAT_MAY_TRAVEL = (
    "what may be sent: None, bool, int, float, str, bytes, date, datetime, Enum, dataclasses, "
    "and list, tuple, Sequence, set, frozenset, dict, Mapping of these"
)

# ----------------------------------------------------------------------------------- reading values


def reader_of(annotation: Any) -> Reader:
    """Return what reads values of *annotation*; raise ``TypeError`` for a type that cannot come
    from JSON.

    An int is taken where a float is wanted, nothing else is converted: ``"1"`` is no int, and
    neither is ``true``.
    """
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation is Any or annotation is object:
        return lambda value, where: value
    if origin is typing.Annotated:
        return reader_of(arguments[0])
    if origin is Union or origin is types.UnionType:
        return _union_reader(annotation, [reader_of(argument) for argument in arguments])
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
    raise TypeError(f"{annotation!r} cannot be read from JSON; {_WHAT_MAY_TRAVEL}")


def _scalar_reader(name: str, kind: type[Any]) -> Reader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, kind):
            raise _wrong(value, where, name)
        return value

    return read


def _read_int(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(value, where, "int")
    if not _LEAST_INT <= value <= _MOST_INT:
        raise ValueError(f"{where} has to fit into 64 bits")
    return value


def _read_float(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _wrong(value, where, "float")
    return float(value)


def _wrong(value: Any, where: str, wanted: str) -> ValueError:
    names = {"NoneType": "null", "dict": "an object", "list": "an array"}
    kind = type(value).__name__
    return ValueError(f"{where} has to be {wanted}, not {names.get(kind, kind)}")


def _text_reader(name: str, parse: Callable[[str], Any]) -> Reader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, str):
            raise _wrong(value, where, name)
        try:
            return parse(value)
        except ValueError:
            raise ValueError(f"{where} is no {name}") from None

    return read


def _parse_base64(text: str) -> bytes:
    return base64.b64decode(text.removeprefix(_BASE64_MAGIC), validate=True)


_SCALARS: dict[Any, Reader] = {
    None: _scalar_reader("null", type(None)),
    type(None): _scalar_reader("null", type(None)),
    bool: _scalar_reader("bool", bool),
    int: _read_int,
    float: _read_float,
    str: _scalar_reader("str", str),
    bytes: _text_reader("base64", _parse_base64),
    datetime: _text_reader("ISO 8601 time", datetime.fromisoformat),
    date: _text_reader("ISO 8601 date", date.fromisoformat),
}
_ARRAYS: dict[Any, type[Any]] = {list: list, Sequence: list, set: set, frozenset: frozenset}


def _array_reader(make: type[Any], read_item: Reader) -> Reader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise _wrong(value, where, "an array")
        items = [read_item(item, f"{where}[{index}]") for index, item in enumerate(value)]
        try:
            return make(items)
        except TypeError:  # objects and arrays in a set
            raise ValueError(f"{where} has items that a {make.__name__} cannot hold") from None

    return read


def _tuple_reader(arguments: tuple[Any, ...]) -> Reader:
    if not arguments:
        return _array_reader(tuple, reader_of(Any))
    if len(arguments) == 2 and arguments[1] is ...:
        return _array_reader(tuple, reader_of(arguments[0]))
    readers = [reader_of(argument) for argument in arguments]

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) != len(readers):
            raise _wrong(value, where, f"an array of {len(readers)}")
        return tuple(
            read_item(item, f"{where}[{i}]")
            for i, (read_item, item) in enumerate(zip(readers, value, strict=True))
        )

    return read


def _dict_reader(read_item: Reader) -> Reader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object")
        return {key: read_item(item, f"{where}.{key}") for key, item in value.items()}

    return read


def _union_reader(annotation: Any, readers: list[Reader]) -> Reader:
    def read(value: Any, where: str) -> Any:
        reasons = []
        for read_one in readers:
            try:
                return read_one(value, where)
            except ValueError as exc:
                reasons.append(str(exc))
        raise ValueError(
            "; or ".join(reason for reason in reasons if "has to be null" not in reason)
        )

    return read


def _literal_reader(choices: tuple[Any, ...]) -> Reader:
    def read(value: Any, where: str) -> Any:
        for choice in choices:
            if value == choice and type(value) is type(choice):
                return choice
        raise ValueError(f"{where} has to be one of {', '.join(map(repr, choices))}")

    return read


def _enum_reader(kind: type[Enum]) -> Reader:
    def read(value: Any, where: str) -> Any:
        try:
            if isinstance(value, bool):
                raise ValueError
            return kind(value)
        except ValueError:
            raise ValueError(f"{where} has to be the value of a {kind.__name__}") from None

    return read


class _DataclassReader:
    """Reads a JSON object as a dataclass: fields with a default may be missing, unknown ones are
    refused.
    """

    @staticmethod
    @lru_cache(maxsize=256)
    def of(kind: type[Any]) -> _DataclassReader:
        """Return the reader of *kind*, and the same one each time: a dataclass may have fields of
        its own kind.
        """
        return _DataclassReader(kind)

    def __init__(self, kind: type[Any]) -> None:
        self._kind = kind
        self._readers: dict[str, Reader] | None = None
        self._needed = [
            field.name
            for field in fields(kind)
            if field.init and field.default is MISSING and field.default_factory is MISSING
        ]

    def _fields(self) -> dict[str, Reader]:
        if self._readers is None:  # not in __init__: see of()
            self._readers = {}
            hints = typing.get_type_hints(self._kind, include_extras=True)
            self._readers.update(
                {
                    field.name: reader_of(hints[field.name])
                    for field in fields(self._kind)
                    if field.init
                }
            )
        return self._readers

    def __call__(self, value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, where, f"an object ({self._kind.__name__})")
        readers = self._fields()
        missing = [name for name in self._needed if name not in value]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        unknown = [name for name in value if name not in readers]
        if unknown:
            raise ValueError(
                f"{where} has a field {unknown[0]!r} that {self._kind.__name__} does not have"
            )
        return self._kind(
            **{name: readers[name](item, f"{where}.{name}") for name, item in value.items()}
        )
