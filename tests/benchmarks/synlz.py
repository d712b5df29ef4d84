"""What compression and its checks cost: ``python -m tests.benchmarks.synlz [--bytes N] [--rounds
N]``.

SynLZ beside zlib at level 1, on contents of several kinds, and CRC-32C in Python beside the C form;
medians of rounds that take turns.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from mormot_ws.rest import crc32c
from mormot_ws.rest.synlz import synlz_compress, synlz_decompress


def _contents(size: int) -> dict[str, bytes]:
    """Return what is compressed: JSON, source text, one that repeats, one that cannot be
    compressed.
    """
    chance = random.Random(1)
    names = ["fox", "reconnect", "mormot", "websocket", "frame", "server"]
    rows = [
        {"id": chance.randrange(1 << 16), "name": chance.choice(names), "on": bool(i & 1)}
        for i in range(size // 30)
    ]
    source = (Path(__file__).parents[2] / "mormot_ws" / "client" / "client.py").read_bytes()
    return {
        "json": json.dumps(rows).encode()[:size].ljust(size),
        "source text": (source * (size // len(source) + 1))[:size],
        "repeated": (b"abcdefg" * (size // 7 + 1))[:size],
        "random": chance.randbytes(size),
    }


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def _row(name: str, size: int, columns: list[float], ratios: list[float]) -> str:
    speeds = "".join(f"{size / seconds / 1e6:12.1f}" for seconds in columns)
    return f"{name:<14}{speeds}" + "".join(f"{ratio:10.1%}" for ratio in ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=200_000, help="size of each content")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(
        "MB/s           SynLZ pack  SynLZ unpack  zlib-1 pack  zlib unpack   SynLZ    zlib-1 "
        "(of the original size)"
    )
    for name, data in _contents(given.bytes).items():
        stream, deflated = synlz_compress(data), zlib.compress(data, 1)
        rounds = [
            (
                _seconds(synlz_compress, data),
                _seconds(synlz_decompress, stream, len(data)),
                _seconds(zlib.compress, data, 1),
                _seconds(zlib.decompress, deflated),
            )
            for _ in range(given.rounds)
        ]
        columns = [statistics.median(column) for column in zip(*rounds, strict=True)]
        print(_row(name, len(data), columns, [len(stream) / len(data), len(deflated) / len(data)]))
    print(
        "\nCRC-32C, µs    "
        + "Python".rjust(12)
        + ("C" if crc32c.HAVE_SPEEDUPS else "(no C)").rjust(12)
    )
    for size in (100, 450, 5_000, given.bytes):
        data = bytes(i * 7 % 251 for i in range(size))
        forms = (
            [crc32c.crc32c_python, crc32c.crc32c]
            if crc32c.HAVE_SPEEDUPS
            else [crc32c.crc32c_python]
        )
        times = [statistics.median(_seconds(form, data) for _ in range(20)) for form in forms]
        print(f"{size:>9} bytes" + "".join(f"{seconds * 1e6:12.1f}" for seconds in times))


if __name__ == "__main__":
    main()
