"""A random mutational fuzzer in plain Python: valid inputs, bits flipped, spliced, cut, their
lengths edited.

It is guided a little: an input whose outcome was not seen before joins those that further ones are
made of. With the same seed and number of inputs it makes the same inputs.
"""

from __future__ import annotations

import random
import re
import signal
import threading
import time
import tracemalloc
from collections.abc import Hashable
from typing import NamedTuple

from .targets import MAX_INPUT, Target

#: seconds of processor time that one input may take; seconds after which one that hangs is
#: interrupted
TOO_LONG, HANGS = 2.0, 10.0
#: every so many inputs, one is run with its memory measured; it may take so many bytes at its peak
MEASURED, TOO_MUCH = 200, 1 << 20
#: inputs that are kept to be mutated, at most
CORPUS = 3000

_LENGTHS = [
    0,
    1,
    2,
    3,
    124,
    125,
    126,
    127,
    128,
    255,
    256,
    2047,
    2048,
    2049,
    65535,
    65536,
    (1 << 31) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
]
_NUMBERS = [
    b"0",
    b"1",
    b"13",
    b"101",
    b"511",
    b"512",
    b"513",
    b"65536",
    b"4294967296",
    b"18446744073709551616",
    b"-1",
    b"00",
]


class Finding(Exception):
    """An input for which something does not hold that must; the cause is its ``__cause__``."""

    def __init__(self, target: Target, data: bytes, what: str) -> None:
        super().__init__(
            f"{target.name}: {what}\n  python -m tests.fuzz --target {target.name} --input "
            f"{data.hex()}"
        )
        self.data = data


class Report(NamedTuple):
    """What a run has done."""

    target: str
    inputs: int
    seconds: float
    #: different outcomes that were seen
    outcomes: int
    #: of one input, in seconds and in bytes
    slowest: float
    largest: int

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0.0
        return (
            f"{self.target}: {self.inputs} inputs in {self.seconds:.1f} s ({rate:.0f}/s), "
            f"{self.outcomes} outcomes, "
            f"slowest {self.slowest * 1000:.1f} ms, largest {self.largest >> 10} kB, no finding"
        )


def mutated(data: bytes, target: Target, corpus: list[bytes], rng: random.Random) -> bytes:
    """Return *data* changed in one to five ways."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        at = rng.randrange(len(out) + 1)
        size = min(rng.choice((1, 1, 2, 4, 8, 16, 64, 256)), len(out) - at)
        kind = rng.randrange(12)
        if kind == 0 and size:  # flip a bit
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:  # another byte
            out[at] = rng.choice((0, 1, 0x7E, 0x7F, 0x80, 0x81, 0xFE, 0xFF, rng.randrange(256)))
        elif kind == 2:  # cut the end off
            del out[at:]
        elif kind == 3:  # take something out
            del out[at : at + size]
        elif kind == 4:  # repeat something
            out[at:at] = out[at : at + size] * rng.choice((1, 1, 2, 10))
        elif kind == 5:  # put noise in
            out[at:at] = rng.randbytes(rng.choice((1, 2, 4, 20)))
        elif kind in (6, 7):  # put something in that means something
            token = rng.choice(target.tokens)
            out[at : at + (len(token) if rng.random() < 0.3 else 0)] = token
        elif kind == 8:  # the head of one input, the tail of another
            other = rng.choice(corpus)
            out[at:] = other[rng.randrange(len(other) + 1) :]
        elif kind == 9:  # a binary length
            width = rng.choice((1, 2, 4, 8))
            out[at : at + width] = (rng.choice(_LENGTHS) & ((1 << 8 * width) - 1)).to_bytes(
                width, "big"
            )
        elif kind == 10:  # a number in text
            found = list(re.finditer(rb"\d+", bytes(out)))
            if found:
                match = rng.choice(found)
                out[match.start() : match.end()] = rng.choice(_NUMBERS)
        elif len(out) > 1:  # how it is run
            out[rng.randrange(2)] = rng.randrange(256)
    return bytes(out[:MAX_INPUT])


class Alarm:
    """Interrupts an input that hangs, where signals allow it and nobody else uses the timer
    (pytest-timeout does).
    """

    def __init__(self) -> None:
        self._usable = (
            hasattr(signal, "setitimer")
            and threading.current_thread() is threading.main_thread()
            and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        )

    def __enter__(self) -> Alarm:
        if self._usable:
            self._before = signal.signal(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *exc: object) -> None:
        self.set(0)
        if self._usable:
            signal.signal(signal.SIGALRM, self._before)

    def set(self, seconds: float) -> None:
        """Ring after so many *seconds* (0: never)."""
        if self._usable:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _ring(self, number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {HANGS:g} s")


def run_one(
    target: Target, data: bytes, alarm: Alarm, measure: bool = False
) -> tuple[Hashable, float, int]:
    """Run one input; return (outcome, seconds of processor time, bytes at the peak if they are
    measured). Raises :class:`Finding`.
    """
    peak = 0
    alarm.set(HANGS)
    start = time.thread_time()
    try:
        if measure:
            tracemalloc.start()
        outcome = target.run(data)
        if measure:
            peak = tracemalloc.get_traced_memory()[1]
    except Exception as exc:
        raise Finding(target, data, f"{type(exc).__name__}: {exc}") from exc
    finally:
        if measure:
            tracemalloc.stop()
        alarm.set(0)
    seconds = time.thread_time() - start
    if seconds > TOO_LONG and not measure:
        raise Finding(target, data, f"took {seconds:.1f} s")
    if peak > TOO_MUCH:
        raise Finding(target, data, f"took {peak} bytes")
    return outcome, 0.0 if measure else seconds, peak


def fuzz(target: Target, seconds: float, seed: int = 0, max_inputs: int = 0) -> Report:
    """Run *target* for some *seconds*, or for *max_inputs*; return what was done. Raises
    :class:`Finding` at the first one.
    """
    rng = random.Random(f"{target.name} {seed}")
    corpus = list(target.seeds)
    outcomes: set[Hashable] = set()
    slowest, largest, inputs = 0.0, 0, 0
    begin = time.monotonic()
    with Alarm() as alarm:
        while (not max_inputs or inputs < max_inputs) and time.monotonic() - begin < seconds:
            if inputs < len(target.seeds):
                data = target.seeds[inputs]
            else:
                data = mutated(rng.choice(corpus), target, corpus, rng)
            outcome, took, peak = run_one(target, data, alarm, inputs % MEASURED == MEASURED - 1)
            inputs += 1
            slowest, largest = max(slowest, took), max(largest, peak)
            if outcome not in outcomes:
                outcomes.add(outcome)
                if len(corpus) < CORPUS:
                    corpus.append(data)
    return Report(target.name, inputs, time.monotonic() - begin, len(outcomes), slowest, largest)
