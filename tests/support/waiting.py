"""Units of time, and waiting with a bound.

Every time-out of the tests is a multiple of one unit, ``MS``; ``MORMOT_WS_TEST_TIMEOUT_FACTOR=5``
makes all of them five times longer for a slow machine. A test waits for a condition, and fails at
the bound; where nothing can be waited for, the reason for a sleep stands above it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mormot_ws import HttpServerError

#: stretches every time-out of the tests
TIMEOUT_FACTOR = float(os.environ.get("MORMOT_WS_TEST_TIMEOUT_FACTOR", "1"))


#: a millisecond, in scaled seconds
MS = 0.001 * TIMEOUT_FACTOR


#: seconds for something that should happen at once
BOUND = 10_000 * MS


_T = TypeVar("_T")


def ms(number: float) -> int:
    """Return *number* scaled milliseconds, for settings."""
    return max(1, round(number * TIMEOUT_FACTOR))


def wait_for(condition: Callable[[], _T], bound: float = BOUND, what: str = "the condition") -> _T:
    """Return the first true value of *condition*; fail when there is none within *bound*
    seconds.
    """
    give_up = time.monotonic() + bound
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"{what} did not come true within {bound:g} s")
        time.sleep(0.002)


def when_free(listen: Callable[[], _T]) -> _T:
    """Return what *listen* returns, which wants a port that was used before; wait while a socket of
    another test process has it.
    """

    def tried() -> list[_T]:
        try:
            return [listen()]
        except (OSError, HttpServerError) as exc:
            cause = exc.__cause__ or exc
            if getattr(cause, "errno", None) != errno.EADDRINUSE:
                raise
            return []

    return wait_for(tried, what="the port")[0]


def poll_until(condition: Callable[[], object], seconds: float, every: float = 0.01) -> bool:
    """Wait up to *seconds* for *condition*, looking *every* so many; tell whether it came true."""
    give_up = time.monotonic() + seconds
    while not condition():
        left = give_up - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(every, left))
    return True


def in_threads(count: int, work: Callable[[int], Any], bound: float = BOUND) -> list[Any]:
    """Run ``work(0)`` to ``work(count - 1)`` in threads at once; return their results, raise what
    one of them raised.
    """
    results: list[Any] = [None] * count
    failures: list[BaseException] = []
    ready = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            ready.wait(bound)
            results[number] = work(number)
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failures.append(exc)

    threads = [
        threading.Thread(target=run, args=(n,), name=f"test thread {n}", daemon=True)
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(bound)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if failures:
        raise failures[0]
    return results
