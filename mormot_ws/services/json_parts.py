"""Parses large JSON in parts, because a parser in C blocks all other threads until it is done.

Brackets and commas are located first, then small groups of adjacent items are passed to the parser,
which does the rest of the work. Pure functions: bytes in, values out.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from typing import Any

from ..rest.json_structure import outside_strings

#: the maximum number of brackets and commas in one call of a parser
_FEW = 10_000
_ITEM = re.compile(rb"[\[\]{},]")
_CLOSING = {0x5B: 0x5D, 0x7B: 0x7D}
_COMMA = 0x2C
_BLANK = b" \t\r\n"

Loads = Callable[[bytes], Any]


def parse_by_parts(content: bytes, loads: Loads) -> Any:
    """Return the value in *content*, which must not be nested too deeply for a recursion.

    *loads* parses a part. Raises ``ValueError`` if it is not JSON.
    """
    return _Outline(content, loads).value()


def _wrong() -> ValueError:
    return ValueError("the JSON is incomplete or malformed between its items")


class _Outline:
    """The brackets and commas of a text."""

    def __init__(self, content: bytes, loads: Loads) -> None:
        self._content = content
        self._loads = loads
        #: offsets of brackets and commas
        self._places = array("Q")
        #: for each opening bracket, the index of the closing one; for the others, their own index
        self._closed_by = array("Q")
        self._find()

    def _find(self) -> None:
        opened: list[int] = []
        places, closed_by, content = self._places, self._closed_by, self._content
        for start, text in outside_strings(content):
            for match in _ITEM.finditer(text):
                index, place = len(places), start + match.start()
                places.append(place)
                closed_by.append(index)
                kind = content[place]
                if kind in _CLOSING:
                    opened.append(index)
                elif kind != _COMMA:
                    if not opened or _CLOSING[content[places[opened[-1]]]] != kind:
                        raise _wrong()
                    closed_by[opened.pop()] = index
        if opened or not places:
            raise _wrong()

    def value(self) -> Any:
        """Return the value of the whole text."""
        places, last = self._places, self._closed_by[0]
        around = (self._content[: places[0]], self._content[places[last] + 1 :])
        if last != len(places) - 1 or any(text.strip(_BLANK) for text in around):
            raise _wrong()
        return self._container(0)

    def _container(self, first: int) -> Any:
        """Return the array or object whose opening bracket has the index *first*."""
        places, closed_by, content = self._places, self._closed_by, self._content
        last = closed_by[first]
        if last - first <= _FEW:
            return self._loads(content[places[first] : places[last] + 1])
        is_object = content[places[first]] == 0x7B
        made: Any = {} if is_object else []
        # the items not yet in made begin at this index and offset, the last one at *item*
        group, begin = first, places[first] + 1
        item = begin
        index = first + 1
        while index != last:
            inner = closed_by[index]
            if inner - index > _FEW:
                if item > begin:
                    self._add(made, content[begin : item - 1])
                self._add_large(made, content[item : places[index]], index)
                index = inner + 1
                if content[places[inner] + 1 : places[index]].strip(_BLANK):
                    raise _wrong()
                if index == last:
                    return made
                group, begin = index, places[index] + 1
                item = begin
            elif inner == index:
                # a comma
                if index - group > _FEW:
                    self._add(made, content[begin : places[index]])
                    group, begin = index, places[index] + 1
                item = places[index] + 1
            else:
                index = inner
            index += 1
        self._add(made, content[begin : places[last]])
        return made

    def _add(self, made: Any, text: bytes) -> None:
        """Add the items in *text*, at least one, to *made*."""
        if not text.strip(_BLANK):
            raise _wrong()
        if isinstance(made, dict):
            made.update(self._loads(b"{%b}" % text))
        else:
            made.extend(self._loads(b"[%b]" % text))

    def _add_large(self, made: Any, before: bytes, index: int) -> None:
        """Add the container at *index* to *made*; *before* is the text before it."""
        before = before.strip(_BLANK)
        if isinstance(made, list):
            if before:
                raise _wrong()
            made.append(self._container(index))
            return
        key, colon = before[:-1], before[-1:]
        names = self._loads(b"{%b:0}" % key) if colon == b":" else {}
        if len(names) != 1:
            raise _wrong()
        made[next(iter(names))] = self._container(index)
