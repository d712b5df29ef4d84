"""Records: reads JSON objects as dataclasses and typed dicts.

Pure functions: types and values in, values out.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from .reader import MOST_NAME, Misfit, Reader, Seen, misfit_of
from .values import WIRE_NAME

_ReaderOf = Callable[[Any, bool], Reader]
#: the qualifiers of fields of a ``TypedDict``
_MARKS = ("Required", "NotRequired", "ReadOnly")


class RecordReader(Reader):
    """Reads a JSON object as a dataclass or ``TypedDict``.

    Fields with a default may be missing; unknown fields are refused. If *native*, fields with a
    default or an empty value may be missing, names ignore case, and unknown fields are ignored.
    """

    __slots__ = ("_by_lower", "_kind", "_names", "_native", "_needed", "_reader_of", "_readers")

    def __init__(self, kind: type[Any], native: bool, reader_of: _ReaderOf) -> None:
        super().__init__(
            self._read_object,
            (dict,),
            f"an object ({kind.__name__})",
            (lambda: self._read_object({}, {})) if native else None,
        )
        self._kind = kind
        self._native = native
        self._reader_of = reader_of
        #: by the name in JSON; created at first use, because a record may contain its own kind
        self._readers: dict[str, Reader] | None = None
        #: names in JSON: by attribute, by lower case, and of fields without a default
        self._names: dict[str, str] = {}
        self._by_lower: dict[str, str] = {}
        self._needed: list[str] = []

    def _prepare(self) -> dict[str, Reader]:
        kind = self._kind
        hints = typing.get_type_hints(kind, include_extras=True)
        names: dict[str, str] = {}
        needed: list[str] = []
        if is_dataclass(kind):
            for field in fields(kind):
                if field.init:
                    name = field.metadata.get(WIRE_NAME, field.name)
                    names[name] = field.name
                    if field.default is MISSING and field.default_factory is MISSING:
                        needed.append(name)
        else:
            names = {name: name for name in hints}
            required = kind.__required_keys__
            needed = [name for name in names if name in required]
        readers = {
            name: self._reader_of(_unmarked(hints[attribute]), self._native)
            for name, attribute in names.items()
        }
        self._names, self._needed = names, needed
        self._by_lower = {name.lower(): name for name in reversed(names)}
        self._readers = readers
        return readers

    def _read_object(self, value: Any, seen: Seen) -> Any:
        readers = self._prepare() if self._readers is None else self._readers
        if self._native and not readers.keys() >= value.keys():
            value = self._known(value, readers)
        for name, item in value.items():
            reader = readers.get(name)
            if reader is None:
                shown, owner = name[:MOST_NAME], self._kind.__name__
                raise misfit_of(f"has a field {shown!r}, which {owner} does not have")
            if reader.kinds is not None and type(item) not in reader.kinds:
                raise reader.wrong(item).within(f".{name}")
        missing = [name for name in self._needed if name not in value]
        names = self._names
        items: dict[str, Any] = {}
        if missing:
            items = self._empty(missing, readers)
        name = ""
        try:
            for name, item in value.items():
                items[names[name]] = readers[name].read(item, seen)
        except Misfit as misfit:
            raise misfit.within(f".{name}") from None
        if missing:
            # in the order of the fields, which shows in a dict
            items = {field: items[field] for field in names.values() if field in items}
        try:
            return self._kind(**items)
        # refused by its __post_init__
        except (ValueError, OverflowError) as exc:
            raise misfit_of(f"is not a valid {self._kind.__name__}: {exc}") from None

    def _known(self, value: dict[str, Any], readers: dict[str, Reader]) -> dict[str, Any]:
        """Return *value* without unknown fields, with the names in the record's spelling."""
        known: dict[str, Any] = {}
        for name, item in value.items():
            found = name if name in readers else self._by_lower.get(name.lower())
            if found is not None:
                known[found] = item
        return known

    def _empty(self, missing: list[str], readers: dict[str, Reader]) -> dict[str, Any]:
        """Return the values of missing fields; raise if a required one is missing."""
        lacks = [name for name in missing if not self._native or readers[name].empty is None]
        if lacks:
            raise misfit_of(f"lacks {', '.join(lacks)}")
        items: dict[str, Any] = {}
        for name in missing:
            empty = readers[name].empty
            assert empty is not None
            items[self._names[name]] = empty()
        return items


def _unmarked(hint: Any) -> Any:
    """Return the type of a field without ``Required`` and the like."""
    while getattr(typing.get_origin(hint), "_name", "") in _MARKS:
        hint = typing.get_args(hint)[0]
    return hint
