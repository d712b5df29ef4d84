"""Reader: reads JSON values as one type, or explains briefly why they are invalid.

Pure functions: values in, values out. The readers for annotations are in ``readers.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from ..logs import escaped
from .values import ExactFloat

#: results, or errors, for arrays and objects that may be read as several types, by the identity of
#: the reader and of the value
Seen = dict[tuple[int, int], Any]
Read = Callable[[Any, Seen], Any]
#: the place of an error, from the outside inwards, and its description
Reason = tuple[tuple[str, ...], str]

#: the maximum length of an error text, and of a name in it, in characters
MOST_TEXT, MOST_NAME = 400, 60
#: the number of places that an error text shows at each end of a path
_MOST_PLACES = 4
#: the maximum number of types of a union in an error text
MOST_REASONS = 4

NULL = type(None)
JSON_TYPES = (NULL, bool, int, float, ExactFloat, str, list, dict)
NAMES = {NULL: "null", dict: "an object", list: "an array", ExactFloat: "float"}


class Reader:
    """Reads values as one type: ``reader(value, where)`` returns *value* converted to that type.

    It raises ``ValueError`` for an invalid *value*; *where* names the value in its message. May be
    called from any thread.
    """

    __slots__ = ("empty", "kinds", "read", "wanted")

    def __init__(
        self,
        read: Read,
        kinds: Iterable[type] | None,
        wanted: str = "",
        empty: Callable[[], Any] | None = None,
    ) -> None:
        #: for other readers
        self.read: Read = read
        #: the JSON types that a value may have; None: all
        self.kinds = None if kinds is None else frozenset(kinds)
        #: a description of valid values
        self.wanted = wanted
        #: returns the value for null and for a missing value in native services; None: invalid
        self.empty = empty

    def __call__(self, value: Any, where: str) -> Any:
        try:
            if self.kinds is not None and type(value) not in self.kinds:
                raise self.wrong(value)
            return self.read(value, {})
        except Misfit as misfit:
            raise ValueError(misfit.text(where)) from None
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None

    def check_all(self, values: Collection[Any], places: Iterable[object], form: str) -> None:
        """Read all *values* at these *places*, e.g. ``[1]`` with the *form* ``[{}]``."""
        kinds = self.kinds
        if kinds is not None and not kinds.issuperset(map(type, values)):
            for place, value in zip(places, values, strict=True):
                if type(value) not in kinds:
                    raise self.wrong(value).within(form.format(str(place)[:MOST_NAME]))

    def wrong(self, value: Any) -> Misfit:
        """Return the exception for a *value* of another type."""
        kind = NAMES.get(type(value)) or type(value).__name__
        return Misfit(((), f"must be {self.wanted}, not {kind}"))


class Misfit(Exception):
    """Raised for an invalid value; a union has several *reasons*."""

    def __init__(self, *reasons: Reason) -> None:
        super().__init__()
        self.reasons = reasons

    def within(self, place: str) -> Misfit:
        """Return the same error for the value that contains this one at *place*."""
        return Misfit(*(((place, *path), text) for path, text in self.reasons))

    def text(self, where: str) -> str:
        """Return the message, of bounded length."""
        text = "; or ".join(f"{where}{_joined(path)} {reason}" for path, reason in self.reasons)
        text = escaped(text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…")
        # a key may contain a lone surrogate
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _joined(path: tuple[str, ...]) -> str:
    if len(path) > 2 * _MOST_PLACES:
        path = (*path[:_MOST_PLACES], "…", *path[-_MOST_PLACES:])
    return "".join(path)


def misfit_of(text: str) -> Misfit:
    """Return the exception for an invalid value, described by *text*."""
    return Misfit(((), text))


def as_it_is(value: Any, seen: Seen) -> Any:
    """Read any value as itself."""
    return value


class NullableReader(Reader):
    """Reads null as the empty value, as native services do, and anything else with *inner*."""

    __slots__ = ("inner",)

    def __init__(self, inner: Reader) -> None:
        super().__init__(
            self._read_or_empty, (*(inner.kinds or ()), NULL), inner.wanted, inner.empty
        )
        self.inner = inner

    def _read_or_empty(self, value: Any, seen: Seen) -> Any:
        if value is None:
            assert self.empty is not None
            return self.empty()
        return self.inner.read(value, seen)

    def wrong(self, value: Any) -> Misfit:
        return self.inner.wrong(value)


def nullable(reader: Reader) -> Reader:
    """Return a reader that also reads null, if *reader* has an empty value for it."""
    if reader.kinds is None or NULL in reader.kinds or reader.empty is None:
        return reader
    return NullableReader(reader)
