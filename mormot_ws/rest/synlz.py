"""SynLZ, the fast LZ compression of the native protocols, in pure Python.

Streams are the same bytes as those of native code. They have no offsets: both sides keep the same
table with the last position for each of 4096 hashes. The container with checksums for a stream is
in ``algosynlz.py``.

For speed, the hashes of many positions are computed with a few operations on large numbers, and so
is the length of a match. Literals are copied in runs, and the decoder enters positions only when
the next match needs them.
"""

from __future__ import annotations

from collections.abc import Callable

_BITS = tuple(1 << i for i in range(32))
#: the encoder leaves this many bytes at the end uncompressed
_TAIL = 11
_LONGEST = 273
#: bytes whose hashes are computed at a time: larger numbers leave the processor's cache
_PIECE = 1 << 15
#: the value of unused entries in the encoder's table, larger than any position
_NOWHERE = 1 << 62
#: the decoder hashes runs of fewer positions one by one
_RUN_FROM = 20
#: bytes of a stream between two pauses of the decoder: under 10 ms
_PAUSE_AFTER = 1 << 14
#: what the second and third byte contribute to a hash
_HASH_2 = tuple((byte & 15) << 8 ^ byte >> 4 for byte in range(256))
_HASH_3 = tuple(byte << 4 for byte in range(256))


class SynLZError(ValueError):
    """Raised for a stream that cannot be decompressed: truncated, corrupt, or too large."""


def _lanes(pattern: int, count: int) -> int:
    """Return *count* lanes of 16 bits, each containing *pattern*."""
    return int.from_bytes(pattern.to_bytes(2, "little") * count, "little")


_LOW_4 = _lanes(15, _PIECE + 2)


def _hashes(data: bytes | bytearray) -> memoryview:
    """Return the hashes of all positions of *data* except the last two.

    *data* has at most ``_PIECE`` + 2 bytes.

    With v the three bytes at a position, little-endian, the hash is the low 12 bits of v xor (v >>
    12). All are computed at once, in lanes of 16 bits.
    """
    count = len(data)
    spread = bytearray(2 * count)
    spread[::2] = data
    first = int.from_bytes(spread, "little")
    second = first >> 16
    hashes = first ^ (second & _LOW_4) << 8 ^ second >> 4 & _LOW_4 ^ first >> 32 << 4
    # the last two lanes lack their successors, and the shift to the left may have left the last one
    return memoryview(hashes.to_bytes(2 * count + 2, "little")).cast("H")[: count - 2]


def synlz_compress(data: bytes) -> bytes:
    """Return the SynLZ stream of *data*, identical to that of the native encoder.

    It can be longer than *data* by an eighth.

    Raises ``ValueError`` from 2³⁰ bytes on, which the format cannot hold in all its
    implementations.
    """
    size = len(data)
    if size >> 30:
        raise ValueError("SynLZ can only compress less than 1 GB at once")
    parts = [_header(size)]
    if not size:
        return parts[0]
    append = parts.append
    from_bytes = int.from_bytes
    table = [_NOWHERE] * 4096
    last = size - _TAIL
    p = run = 0  # run: where the literals begin that have not been copied
    # the open group: the index of its control word in parts, its number of items, their bits
    at, used, word = 1, 0, 0
    append(b"")
    while p <= last:
        base = p
        stop = min(base + _PIECE, last + 1)
        hashes = _hashes(data[base : stop + 2])
        while p < stop:
            h = hashes[p - base]
            o = table[h]
            table[h] = p
            if (
                p - o < 3
                or data[o] != data[p]
                or data[o + 1] != data[p + 1]
                or data[o + 2] != data[p + 2]
            ):
                p += 1
                continue
            if run < p:
                if used + p - run >= 32:
                    at, used, run = _fill_groups(parts, at, used, word, data, run, p)
                    word = 0
                else:
                    used += p - run
                if run < p:
                    append(data[run:p])
            word |= _BITS[used]
            used += 1
            a = o + 3
            b = p + 3
            if data[a] == data[b]:  # most matches are short
                end = min(size - 1, p + _LONGEST)  # the very last byte is never part of a match
                while b < end:
                    differ = from_bytes(data[a : a + 24], "little") ^ from_bytes(
                        data[b : b + 24], "little"
                    )
                    if differ:
                        b += (differ & -differ).bit_length() - 1 >> 3
                        break
                    a += 24
                    b += 24
                if b > end:
                    b = end
            t = b - p - 2
            if t < 16:
                append((h << 4 | t).to_bytes(2, "little"))
            else:
                append((h << 4 | t - 16 << 16).to_bytes(3, "little"))
            p = run = b
            if used == 32:
                parts[at] = word.to_bytes(4, "little")
                at, used, word = len(parts), 0, 0
                append(b"")
    # the rest is literals
    if used + size - run >= 32:
        at, used, run = _fill_groups(parts, at, used, word, data, run, size)
        word = 0
    append(data[run:])
    parts[at] = word.to_bytes(4, "little")
    return b"".join(parts)


def _fill_groups(
    parts: list[bytes], at: int, used: int, word: int, data: bytes, run: int, end: int
) -> tuple[int, int, int]:
    """Complete groups with the literals from *run* to *end*, the open one first.

    Return (the index in *parts* of the next control word, the number of items in its group, the
    position where its literals begin).
    """
    while used + end - run >= 32:
        split = run + 32 - used
        parts[at] = word.to_bytes(4, "little")
        parts.append(data[run:split])
        at, used, word, run = len(parts), 0, 0, split
        parts.append(b"")  # the control word of the next group exists even if no item follows
    return at, end - run, run


def _header(size: int) -> bytes:
    if size < 0x8000:
        return size.to_bytes(2, "little")
    return (0x8000 | size & 0x7FFF | size >> 15 << 16).to_bytes(4, "little")


def synlz_decompress(
    stream: bytes, max_size: int, between: Callable[[], object] | None = None
) -> bytes:
    """Return the decompressed *stream*.

    It can take a second for each 3 MB. *between* is called after pieces of at most a few
    milliseconds, and may raise to stop. Apart from that, only :class:`SynLZError` is raised: for a
    stream that is truncated or corrupt, or whose content has more than *max_size* bytes. Memory is
    limited by *max_size* and the size of *stream*, whatever the header announces.
    """
    try:
        return _decompress(stream, max_size, between)
    except IndexError:
        raise SynLZError("the SynLZ stream is truncated") from None


def _size_of(stream: bytes) -> tuple[int, int]:
    """Return (the size in the header, the offset after the header)."""
    size = stream[0] | stream[1] << 8
    if size < 0x8000:
        return size, 2
    return size & 0x7FFF | (stream[2] | stream[3] << 8) << 15, 4


def _decompress(stream: bytes, max_size: int, between: Callable[[], object] | None) -> bytes:
    size, p = _size_of(stream)
    if size > max_size:
        raise SynLZError(f"the SynLZ stream holds {size} bytes, more than the limit of {max_size}")
    end = len(stream)
    out = bytearray()
    table = [-1] * 4096
    hash_2, hash_3 = _HASH_2, _HASH_3
    hashed = 0  # the first position that is not entered in the table
    pause = _PAUSE_AFTER
    while p < end:
        word = int.from_bytes(stream[p : p + 4], "little")
        p += 4
        if p > end:
            raise SynLZError("the SynLZ stream is truncated")
        if p > pause and between is not None:
            pause = p + _PAUSE_AFTER
            between()
        left = 32
        while word:
            literals = (word & -word).bit_length() - 1
            word >>= literals + 1
            left -= literals + 1
            if literals:
                out += stream[p : p + literals]
                p += literals
            start = len(out)
            # each literal adds one position: all except the last two now, those two when their
            # three bytes are known
            if start - 2 - hashed > _RUN_FROM:
                _enter(out, hashed, start - 2, table)
                hashed = start - 2
            while hashed < start - 2:
                table[out[hashed] ^ hash_2[out[hashed + 1]] ^ hash_3[out[hashed + 2]]] = hashed
                hashed += 1
            low = stream[p]
            h = low >> 4 | stream[p + 1] << 4
            length = (low & 15) + 2
            p += 2
            if length == 2:
                length = stream[p] + 18
                p += 1
            o = table[h]
            if o < 0:
                raise SynLZError("the SynLZ stream contains an invalid reference")
            distance = start - o
            if length <= distance:
                out += out[o : o + length]
            else:
                out += (out[o:] * (length // distance + 1))[:length]
            while hashed <= start:
                table[out[hashed] ^ hash_2[out[hashed + 1]] ^ hash_3[out[hashed + 2]]] = hashed
                hashed += 1
            hashed = start + length
            if hashed > size:
                raise SynLZError("the SynLZ stream contains more than its header announces")
        out += stream[p : p + left]
        p += left
    if len(out) != size:
        raise SynLZError(f"the SynLZ stream announces {size} bytes but contains {len(out)}")
    return bytes(out)


def _enter(out: bytearray, first: int, stop: int, table: list[int]) -> None:
    """Enter the positions *first* to *stop* − 1 in *table*."""
    for at in range(first, stop, _PIECE):
        upto = min(at + _PIECE, stop)
        for h, position in zip(_hashes(out[at : upto + 2]), range(at, upto), strict=True):
            table[h] = position
