"""The structure of JSON text: its brackets and commas, examined piece by piece.

A call into C cannot be interrupted, so each call examines only one piece, and other threads can run
in between. All functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

#: bytes of one piece
PIECE = 1 << 16
_STRUCTURE = b"{}[],"
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_STEP = [1 if byte in b"{[" else -1 if byte in b"}]" else 0 for byte in range(256)]
#: a string or the part of it in a piece, an escape sequence, a bracket or a comma
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|\\["\\]|[\[\]{},]', re.DOTALL)
#: the rest of a string
_STRING_END = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
#: with at most this many items after the wanted one, it is searched from the end
_FEW = 8


class Piece(NamedTuple):
    """A piece of a text, which does not end within an escape sequence."""

    #: offsets in the text
    start: int
    end: int
    #: True if it begins within a string
    in_string: bool
    #: its brackets and commas, without those in strings
    structure: bytes
    #: the brackets and commas after its last quote
    tail: bytes


def pieces(text: bytes, at: int = 0) -> Iterator[Piece]:
    """Yield the pieces of *text* from offset *at*, where no string may be open.

    Text that is not JSON is accepted: the parser will detect it.
    """
    for start, in_string, parts in _parts(text, at):
        ends_in_string = in_string ^ (len(parts) % 2 == 0)
        structure = b"".join(parts[in_string::2]).translate(None, _NO_STRUCTURE)
        tail = b"" if ends_in_string else parts[-1].translate(None, _NO_STRUCTURE)
        end = start + sum(map(len, parts)) + len(parts) - 1
        yield Piece(start, end, in_string, structure, tail)


def outside_strings(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, piece) of *text*, with NUL in place of the contents of strings."""
    for start, in_string, parts in _parts(text, 0):
        parts[not in_string :: 2] = [bytes(len(part)) for part in parts[not in_string :: 2]]
        yield start, b'"'.join(parts)


def _parts(text: bytes, at: int) -> Iterator[tuple[int, bool, list[bytes]]]:
    """Yield each piece's offset, whether it begins within a string, and the text between quotes."""
    in_string = False
    while at < len(text):
        end = at + PIECE
        piece = text[at:end]
        if piece.endswith(b"\\") and (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            # do not cut an escape sequence
            end += 1
            piece = text[at:end]
        if b"\\" in piece:
            # of the same length
            piece = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        parts = piece.split(b'"')
        ends_in_string = in_string ^ (len(parts) % 2 == 0)
        yield at, in_string, parts
        at, in_string = end, ends_in_string


def depths(piece: Piece, depth: int) -> list[int]:
    """Return the nesting depth after each item of the piece's structure.

    *depth* is the depth before the piece.
    """
    return list(accumulate(map(_STEP.__getitem__, piece.structure), initial=depth))[1:]


def end_of_brackets(text: bytes, at: int) -> int:
    """Return the offset after the bracket that closes the one at offset *at*; -1: none does.

    The time is proportional to the text. The kinds of brackets are ignored.
    """
    depth = 0
    for piece in pieces(text, at):
        levels = depths(piece, depth)
        if 0 in levels:
            return _offset(text, piece, levels.index(0))
        if levels:
            depth = levels[-1]
    return -1


def _offset(text: bytes, piece: Piece, index: int) -> int:
    """Return the offset after the item of the piece's structure at *index*; -1: no such item."""
    behind = len(piece.structure) - 1 - index
    if behind < min(_FEW, len(piece.tail)):
        # almost always: the end of the message follows
        for at in range(piece.end - 1, piece.start - 1, -1):
            if text[at] in _STRUCTURE:
                if not behind:
                    return at + 1
                behind -= 1
    at = piece.start
    if piece.in_string:
        match = _STRING_END.match(text, at, piece.end)
        if match is None:
            return -1
        at = match.end()
    for token in _TOKEN.finditer(text, at, piece.end):
        if text[token.start()] in _STRUCTURE:
            if not index:
                return token.end()
            index -= 1
    return -1
