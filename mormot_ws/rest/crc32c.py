"""CRC-32C (Castagnoli), with the C package of the ``speedups`` extra, or in Python.

The Python version does not work byte by byte. It treats the message as one big ``int``. Multiples
of the polynomial with few terms fold its beginning onto the rest with a few shifts and XORs, until
about forty bytes are left for the table. The environment variable ``MORMOT_WS_NO_SPEEDUPS=1``
selects Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable

#: the polynomial 0x1EDC6F41, its bits reflected
_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
#: bytes folded at once: larger numbers do not fit into the processor's cache
_PIECE = 1 << 17
#: below this many bytes the table alone is as fast
_FOLD_FROM = 64

#: Exponents of two multiples of the polynomial, the last one 0. Squaring one (doubling its
#: exponents) gives a multiple again. The long one has fewer terms, and a wide gap after its first,
#: so it folds nearly its own length at once; the short one continues where it ends.
_LONG = (6777, 484, 100, 0)
_SHORT = (290, 136, 113, 107, 32, 0)


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


def _folds(exponents: tuple[int, ...], count: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return (degree, bits folded at once, distance) of *exponents*, the longest first.

    They are doubled 0 to *count* − 1 times.
    """
    degree, second, *_ = exponents
    moves = [degree - exponent for exponent in exponents[1:]]
    return [
        (degree << n, (degree - second) << n, tuple(move << n for move in moves))
        for n in reversed(range(count))
    ]


_TABLE = _table()
#: enough doublings for _PIECE, and for the rest that the long one leaves
_FOLDS = _folds(_LONG, 8) + _folds(_SHORT, 6)


def crc32c_python(data: bytes) -> int:
    """Return the CRC-32C of *data*, 0 to 2³²−1."""
    crc = _ONES
    for at in range(0, len(data), _PIECE):
        crc = _crc_of_piece(data[at : at + _PIECE], crc)
    return crc ^ _ONES


def crc32c_from(data: bytes, start: int) -> int:
    """Return the CRC-32C of *data*, continued from *start*. For short data."""
    return _crc_of_piece(data, start ^ _ONES) ^ _ONES


def _crc_of_piece(piece: bytes, crc: int) -> int:
    if len(piece) >= _FOLD_FROM:
        # bit 0 is the first of the message, so the highest power: folding moves the lowest bits
        # upwards
        bits = len(piece) * 8
        value = int.from_bytes(piece, "little") ^ crc
        for degree, most, moves in _FOLDS:
            while bits - degree >= 64:
                count = min(bits - degree, most) & ~7
                low = value & ((1 << count) - 1)
                value >>= count
                for move in moves:
                    value ^= low << (move - count)
                bits -= count
        piece = value.to_bytes(bits >> 3, "little")
        crc = 0
    table = _TABLE
    for byte in piece:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc


def _choose() -> tuple[Callable[[bytes], int], bool]:
    if not os.environ.get("MORMOT_WS_NO_SPEEDUPS"):
        try:
            import google_crc32c
        except ImportError:
            pass  # the extra is optional: Python works too
        else:
            if google_crc32c.implementation == "c":
                return google_crc32c.value, True
    return crc32c_python, False


#: ``crc32c(data) -> int``: the function in use; ``HAVE_SPEEDUPS`` is True if it is the C function
crc32c: Callable[[bytes], int]
HAVE_SPEEDUPS: bool
crc32c, HAVE_SPEEDUPS = _choose()
