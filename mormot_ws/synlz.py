"""SynLZ, the fast LZ compression of the native protocols, in pure Python: streams are the same bytes both ways.

A stream carries no offsets: both sides keep the same table, which holds for each of 4096 hashes the last position that was entered
under it. What wraps a stream into a checked container is in ``algosynlz.py``. No frame, socket, thread or clock belongs in here.

What makes it as fast as Python gets: hashes of many positions come from a few operations on large numbers, literals are copied in
runs, and the decoder enters positions only when the next match needs them.
"""

from __future__ import annotations

_BITS = tuple(1 << i for i in range(32))
#: the encoder leaves this many bytes at the end uncompressed
_TAIL = 11
_LONGEST = 273
#: bytes whose hashes are computed at a time: larger numbers leave the processor's cache
_PIECE = 1 << 15
#: what the encoder's table holds where nothing was entered: no position is behind it
_NOWHERE = 1 << 62
#: the decoder hashes runs of fewer positions one by one
_RUN_FROM = 20
#: what the second and third byte contribute to a hash
_HASH_2 = tuple((byte & 15) << 8 ^ byte >> 4 for byte in range(256))
_HASH_3 = tuple(byte << 4 for byte in range(256))


class SynLZError(ValueError):
    """A SynLZ stream that cannot be decompressed: truncated, corrupt, or larger than allowed."""


def _lanes(pattern: int, count: int) -> int:
    """Return *count* lanes of 16 bits that hold *pattern* each."""
    return int.from_bytes(pattern.to_bytes(2, "little") * count, "little")


_LOW_4 = _lanes(15, _PIECE + 2)


def _hashes(data: bytes | bytearray) -> memoryview:
    """Return the hashes of all positions of *data* but the last two, which has at most ``_PIECE`` + 2 bytes.

    With v the three bytes at a position, little-endian, the hash is the low 12 bits of v xor (v >> 12).
    All are computed at once, in lanes of 16 bits.
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
    """Return the SynLZ stream of *data*, byte for byte that of the native encoder. It can be longer than *data*, by an eighth.

    Raises ``ValueError`` from 2³⁰ bytes on, which the format cannot hold in all its implementations.
    """
    size = len(data)
    if size >> 30:
        raise ValueError("SynLZ compresses less than 1 GB at once")
    parts = [_header(size)]
    if not size:
        return parts[0]
    last = size - _TAIL
    table = [_NOWHERE] * 4096
    hashes = memoryview(b"")
    base = 0  # the position that hashes begin with
    p = run = 0  # run: where the literals begin that have not been copied
    # the open group: where in parts its control word stands, how many items it has, their bits
    at, used, word = 1, 0, 0
    parts.append(b"")
    while p <= last:
        word = 0
        for bit in _BITS:
            try:
                h = hashes[p - base]
            except IndexError:
                if p > last:
                    used = bit.bit_length() - 1
                    break
                base = p
                hashes = _hashes(data[base : min(base + _PIECE, last + 1) + 2])
                h = hashes[0]
            o = table[h]
            table[h] = p
            if p - o > 2 and data[o] == data[p] and data[o + 1] == data[p + 1] and data[o + 2] == data[p + 2]:
                if run < p:
                    parts.append(data[run:p])
                word |= bit
                # the very last byte is never part of a match
                stop = min(size - 1, p + _LONGEST)
                a = o + 3
                b = p + 3
                while b < stop and data[a] == data[b]:
                    a += 1
                    b += 1
                t = b - p - 2
                if t < 16:
                    parts.append((h << 4 | t).to_bytes(2, "little"))
                else:
                    parts.append((h << 4 | t - 16 << 16).to_bytes(3, "little"))
                p = run = b
            else:
                p += 1
        else:
            used = 0
            if run < p:
                parts.append(data[run:p])
                run = p
            parts[at] = word.to_bytes(4, "little")
            at = len(parts)
            parts.append(b"")
            word = 0
    # the rest is literals; a group that they fill is followed by the control word of the next, as always
    split = min(size, p + 32 - used)
    parts[at] = word.to_bytes(4, "little")
    parts.append(data[run:split])
    if used + split - p == 32:
        parts += (b"\0\0\0\0", data[split:])
    return b"".join(parts)


def _header(size: int) -> bytes:
    if size < 0x8000:
        return size.to_bytes(2, "little")
    return (0x8000 | size & 0x7FFF | size >> 15 << 16).to_bytes(4, "little")


def synlz_decompress(stream: bytes, max_size: int) -> bytes:
    """Return what the SynLZ *stream* was made from.

    Raises :class:`SynLZError`, and nothing else, for a stream that is truncated or corrupt, or whose content has more than
    *max_size* bytes. Memory stays within *max_size* and the size of *stream*, whatever the header announces.
    """
    try:
        return _decompress(stream, max_size)
    except IndexError:
        raise SynLZError("the SynLZ stream is truncated") from None


def _size_of(stream: bytes) -> tuple[int, int]:
    """Return (size that the header announces, offset behind the header)."""
    size = stream[0] | stream[1] << 8
    if size < 0x8000:
        return size, 2
    return size & 0x7FFF | (stream[2] | stream[3] << 8) << 15, 4


def _decompress(stream: bytes, max_size: int) -> bytes:
    size, p = _size_of(stream)
    if size > max_size:
        raise SynLZError(f"the SynLZ stream holds {size} bytes, more than the limit of {max_size}")
    end = len(stream)
    out = bytearray()
    table: dict[int, int] = {}
    hash_2, hash_3 = _HASH_2, _HASH_3
    hashed = 0  # the first position that is not entered in the table
    while p < end:
        word = int.from_bytes(stream[p : p + 4], "little")
        p += 4
        if p > end:
            raise SynLZError("the SynLZ stream is truncated")
        left = 32
        while word:
            literals = (word & -word).bit_length() - 1
            word >>= literals + 1
            left -= literals + 1
            if literals:
                out += stream[p : p + literals]
                p += literals
            start = len(out)
            # each literal let one position in: all but the last two now, those two once their three bytes are known
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
            o = table.get(h)
            if o is None:
                raise SynLZError("the SynLZ stream refers to nothing")
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
                raise SynLZError("the SynLZ stream holds more than it announces")
        out += stream[p : p + left]
        p += left
    if len(out) != size:
        raise SynLZError(f"the SynLZ stream announces {size} bytes and holds {len(out)}")
    return bytes(out)


def _enter(out: bytearray, first: int, stop: int, table: dict[int, int]) -> None:
    """Enter the positions *first* to *stop* − 1 in *table*."""
    for at in range(first, stop, _PIECE):
        upto = min(at + _PIECE, stop)
        table.update(zip(_hashes(out[at : upto + 2]), range(at, upto), strict=True))
