"""Loose JSON: native mORMot code omits the quotes of names, as in ``{name:"a",x:1}``.

:func:`quoted_names` adds these quotes and leaves the rest to a strict parser. Text in quotes is
skipped. Each call into C handles one piece of the text, so that other threads can run in between.
Pure functions: bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .json_structure import PIECE, outside_strings

#: control characters, which JSON does not have: one represents an added quote, the others represent
#: escape sequences
_ADDED, _BACKSLASHES, _QUOTE = b"\x01", b"\x02\x02", b"\x02\x03"
#: unquoted text before a colon: a name, or an error that a strict parser will find. The lookbehind
#: lets each run of characters be tried only once, for linear time
_NAME = re.compile(
    rb'(?<![^\x00-\x20\x7f"\\{}\[\],:])([^\x00-\x20\x7f"\\{}\[\],:]+)(?=[ \t\r\n]*:)'
)


def quoted_names(text: bytes) -> bytes | None:
    """Return *text* with quotes around the names that lack them; None if there are none.

    Other errors in the JSON are kept. Time and memory are proportional to *text*.
    """
    if any(char in text for char in (b"\x01", b"\x02", b"\x03")):
        return None
    if len(text) <= PIECE:
        quoted = _quoted_piece(text)
    else:
        quoted = b"".join(map(_quoted_piece, _pieces(text)))
    return quoted if len(quoted) != len(text) else None


def _quoted_piece(piece: bytes) -> bytes:
    """Return *piece*, which begins and ends outside of strings, with quotes around its names."""
    hidden = piece
    if b"\\" in piece:
        hidden = piece.replace(b"\\\\", _BACKSLASHES).replace(b'\\"', _QUOTE)
    parts = hidden.split(b'"')
    parts[::2] = _ADDED.join(_NAME.split(b'"'.join(parts[::2]))).split(b'"')
    quoted = b'"'.join(parts).replace(_ADDED, b'"')
    if hidden is not piece:
        quoted = quoted.replace(_BACKSLASHES, b"\\\\").replace(_QUOTE, b'\\"')
    return quoted


def _pieces(text: bytes) -> Iterator[bytes]:
    """Yield *text* in pieces that begin and end outside of strings and names."""
    begin = 0
    for start, piece in outside_strings(text):
        found = max(piece.rfind(b"{"), piece.rfind(b","))
        if found > 0:
            yield text[begin : start + found]
            begin = start + found
    yield text[begin:]
