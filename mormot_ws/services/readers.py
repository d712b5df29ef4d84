"""Readers: convert JSON values to the types of annotations.

A reader decides by structure: it checks the types of values before it converts them, and reads no
value twice as the same type. So the time is proportional to the number of values, whatever the
annotation. Pure functions: types and values in, values out.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, Union

from .reader import (
    JSON_TYPES,
    MOST_NAME,
    MOST_REASONS,
    NAMES,
    NULL,
    Misfit,
    NullableReader,
    Read,
    Reader,
    Reason,
    Seen,
    as_it_is,
    misfit_of,
    nullable,
)
from .records import RecordReader
from .scalar_readers import (
    ANYTHING,
    NATIVE_SCALARS,
    NOTHING,
    SCALARS,
    SOLE_NATIVE_SCALARS,
    enum_reader,
    literal_reader,
)
from .values import WHAT_MAY_TRAVEL

#: the maximum number of items of a set that share a hash with another one
_MOST_COLLISIONS = 100


def reader_of(annotation: Any, native: bool = False) -> Reader:
    """Return the reader for *annotation*; raise ``TypeError`` for a type without a form in JSON.

    An int is accepted as a float; nothing else is converted: neither ``"1"`` nor ``true`` is an
    int. If *native*, values are read as native services write them: null and missing values are
    empty values, the names of fields ignore case, and unknown fields are ignored.
    """
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation is Any or annotation is object:
        return ANYTHING
    if origin is typing.Annotated:
        return reader_of(arguments[0], native)
    if origin is Union or origin is types.UnionType:
        return _union_of(arguments, native)
    if origin is Literal:
        return literal_reader(arguments)
    kind = origin or annotation
    scalars = NATIVE_SCALARS if native else SCALARS
    if kind in scalars:
        return scalars[kind]
    if kind is tuple:
        return _tuple_reader(arguments, native)
    if kind in _ARRAYS:
        return _array_reader(_ARRAYS[kind], item_reader(arguments[0] if arguments else Any, native))
    if kind in (dict, Mapping):
        if arguments and arguments[0] is not str:
            raise TypeError(f"{annotation!r}: the keys of a JSON object must be str")
        return _dict_reader(item_reader(arguments[1] if arguments else Any, native))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return enum_reader(kind, native)
    if isinstance(kind, type) and (is_dataclass(kind) or typing.is_typeddict(kind)):
        return _record_reader(kind, native)
    raise TypeError(f"{annotation!r} cannot be read from JSON; {WHAT_MAY_TRAVEL}")


def item_reader(annotation: Any, native: bool) -> Reader:
    """Return the reader for *annotation* that is not part of a union."""
    if not native:
        return reader_of(annotation)
    return nullable(_sole_reader(annotation))


def _sole_reader(annotation: Any) -> Reader:
    """Return the reader for *annotation* if no other type is possible.

    Native services are more tolerant then: they turn any text into bytes, for example.
    """
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if annotation is bytes or annotation is float:
        return SOLE_NATIVE_SCALARS[annotation]
    return reader_of(annotation, True)


# --------------------------------------------------------------------------------------- containers

_ARRAYS: dict[Any, type[Any]] = {list: list, Sequence: list, set: set, frozenset: frozenset}


def _array_reader(make: type[Any], reader: Reader) -> Reader:
    inner = reader.inner if isinstance(reader, NullableReader) else reader

    def read(value: Any, seen: Seen) -> Any:
        reader.check_all(value, range(len(value)), "[{}]")
        # almost no array contains null
        read_item = reader.read if inner is not reader and None in value else inner.read
        if read_item is as_it_is:
            return _made(make, value)
        items: list[Any] = []
        try:
            for item in value:
                items.append(read_item(item, seen))
        except Misfit as misfit:
            raise misfit.within(f"[{len(items)}]") from None
        return _made(make, items)

    return Reader(read, (list,), "an array", make)


def _made(make: type[Any], items: list[Any]) -> Any:
    """Return *items* as an instance of *make*."""
    if make is list:
        return items
    if make is tuple:
        return tuple(items)
    # a peer can choose numbers and tuples with equal hashes, for which a set takes quadratic time
    found: set[Any] = set()
    hashes: set[int] = set()
    try:
        for item in items:
            found.add(item)
            hashes.add(hash(item))
            if len(found) - len(hashes) > _MOST_COLLISIONS:
                raise misfit_of("has too many items with the same hash")
    except TypeError:
        # objects and arrays in a set
        raise misfit_of(f"has items that a {make.__name__} cannot hold") from None
    return found if make is set else make(found)


def _tuple_reader(arguments: tuple[Any, ...], native: bool) -> Reader:
    if not arguments:
        return _array_reader(tuple, reader_of(Any, native))
    if len(arguments) == 2 and arguments[1] is ...:
        return _array_reader(tuple, item_reader(arguments[0], native))
    readers = [item_reader(argument, native) for argument in arguments]
    wanted = f"an array of {len(readers)}"

    def read(value: Any, seen: Seen) -> Any:
        if len(value) != len(readers):
            raise misfit_of(f"must be {wanted}, not an array")
        for at, (reader, item) in enumerate(zip(readers, value, strict=True)):
            if reader.kinds is not None and type(item) not in reader.kinds:
                raise reader.wrong(item).within(f"[{at}]")
        items: list[Any] = []
        try:
            for reader, item in zip(readers, value, strict=True):
                items.append(reader.read(item, seen))
        except Misfit as misfit:
            raise misfit.within(f"[{len(items)}]") from None
        return tuple(items)

    return Reader(read, (list,), wanted)


def _dict_reader(reader: Reader) -> Reader:
    read_item = reader.read

    def read(value: Any, seen: Seen) -> Any:
        reader.check_all(value.values(), value, ".{}")
        if read_item is as_it_is:
            return value
        items: dict[str, Any] = {}
        key = ""
        try:
            for key, item in value.items():
                items[key] = read_item(item, seen)
        except Misfit as misfit:
            raise misfit.within(f".{key[:MOST_NAME]}") from None
        return items

    return Reader(read, (dict,), "an object", dict)


def _union_of(arguments: tuple[Any, ...], native: bool) -> Reader:
    """Return the reader of a union.

    If several of its types are arrays or objects, they are distinguished by their exact forms, and
    not read as native services do.
    """
    readers = [reader_of(argument) for argument in arguments]
    forms = [
        sum(form in (reader.kinds or JSON_TYPES) for reader in readers) for form in (dict, list)
    ]
    if native and max(forms) < 2:
        only = len([argument for argument in arguments if argument is not NULL]) == 1
        read_as = _sole_reader if only else _native_reader
        readers = [read_as(argument) for argument in arguments]
    return _union_reader(readers)


def _native_reader(annotation: Any) -> Reader:
    return reader_of(annotation, True)


def _union_reader(readers: list[Reader]) -> Reader:
    """Return a reader that uses the first of several types for which a value is valid."""
    fitting = {
        kind: [reader for reader in readers if reader.kinds is None or kind in reader.kinds]
        for kind in JSON_TYPES
    }
    named = [reader.wanted for reader in readers if reader is not NOTHING]

    def read(value: Any, seen: Seen) -> Any:
        candidates = fitting.get(type(value), ())
        if len(candidates) == 1:
            return candidates[0].read(value, seen)
        # only these contain others
        shared = isinstance(value, (list, dict))
        reasons: list[Reason] = []
        for reader in candidates:
            key = (id(reader), id(value))
            found = seen.get(key, seen) if shared else seen
            if found is seen:
                try:
                    found = reader.read(value, seen)
                except Misfit as misfit:
                    found = misfit
                if shared:
                    seen[key] = found
            if not isinstance(found, Misfit):
                return found
            reasons += found.reasons[: MOST_REASONS - len(reasons)]
        raise Misfit(*reasons)

    kinds = [kind for kind in JSON_TYPES if fitting[kind]]
    return _UnionReader(read, kinds, named[:MOST_REASONS])


class _UnionReader(Reader):
    """A reader of a union, whose errors name all types."""

    __slots__ = ("named",)

    def __init__(self, read: Read, kinds: list[type], named: list[str]) -> None:
        super().__init__(read, kinds, empty=(lambda: None) if NULL in kinds else None)
        self.named = named

    def wrong(self, value: Any) -> Misfit:
        kind = NAMES.get(type(value)) or type(value).__name__
        return Misfit(*(((), f"must be {wanted}, not {kind}") for wanted in self.named))


@lru_cache(maxsize=512)
def _record_reader(kind: type[Any], native: bool) -> RecordReader:
    """Return the cached reader of the dataclass or ``TypedDict`` *kind*.

    It is the same each time, because a record may have fields of its own kind.
    """
    return RecordReader(kind, native, item_reader)
