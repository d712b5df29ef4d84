"""Reader: reads values of JSON as one type, or says in short why they do not fit.

Pure: values in, values out. What annotations make of values is in ``readers.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from ..logs import escaped
from .values import ExactFloat

#: what was read so far of arrays and objects that may be read as several types, or why not, by the
#: identity of the reader and of the value
Seen = dict[tuple[int, int], Any]
Read = Callable[[Any, Seen], Any]
#: where a misfit is, from the outermost place inwards, and what it is
Reason = tuple[tuple[str, ...], str]

#: characters of an error text, and of one name in it
MOST_TEXT, MOST_NAME = 400, 60
#: places of a path that an error text has at each end
_MOST_PLACES = 4
#: types of a union that an error text names
MOST_REASONS = 4

NULL = type(None)
JSON_TYPES = (NULL, bool, int, float, ExactFloat, str, list, dict)
NAMES = {NULL: "null", dict: "an object", list: "an array", ExactFloat: "float"}


class Reader:
    """Reads values as one type: ``reader(value, where)`` returns what the type makes of *value*.

    It raises ``ValueError`` where *value* does not fit; *where* says what it is, for its text. From
    any thread.
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
        #: the types of JSON that a value may have; None: all
        self.kinds = None if kinds is None else frozenset(kinds)
        #: what the value has to be, in words
        self.wanted = wanted
        #: what null and a missing value stand for in native services; None: they do not fit
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
        """Check all *values*, which have these *places*: ``[1]`` with the *form* ``[{}]``."""
        kinds = self.kinds
        if kinds is not None and not kinds.issuperset(map(type, values)):
            for place, value in zip(places, values, strict=True):
                if type(value) not in kinds:
                    raise self.wrong(value).within(form.format(str(place)[:MOST_NAME]))

    def wrong(self, value: Any) -> Misfit:
        """Return what to raise when *value* has another type."""
        kind = NAMES.get(type(value)) or type(value).__name__
        return Misfit(((), f"has to be {self.wanted}, not {kind}"))


class Misfit(Exception):
    """A value does not fit; a union has several *reasons*."""

    def __init__(self, *reasons: Reason) -> None:
        super().__init__()
        self.reasons = reasons

    def within(self, place: str) -> Misfit:
        """Return the same for the value that has this one at *place*."""
        return Misfit(*(((place, *path), text) for path, text in self.reasons))

    def text(self, where: str) -> str:
        """Return it in words, in a bounded number of them."""
        text = "; or ".join(f"{where}{_joined(path)} {reason}" for path, reason in self.reasons)
        text = escaped(text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…")
        # a key may have half a character
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _joined(path: tuple[str, ...]) -> str:
    if len(path) > 2 * _MOST_PLACES:
        path = (*path[:_MOST_PLACES], "…", *path[-_MOST_PLACES:])
    return "".join(path)


def misfit_of(text: str) -> Misfit:
    """Return what to raise when a value does not fit, as *text* says."""
    return Misfit(((), text))


def as_it_is(value: Any, seen: Seen) -> Any:
    """Read any value as itself."""
    return value


class NullableReader(Reader):
    """Reads null as the empty value, as native services do, and all else as *inner* does."""

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
    """Return a reader that also reads null, where *reader* has an empty value for it."""
    if reader.kinds is None or NULL in reader.kinds or reader.empty is None:
        return reader
    return NullableReader(reader)
