"""Reconnection policies: how long a client waits before each attempt. Pure: no thread, no socket, no sleeping in here.

A policy is any object with :meth:`ReconnectPolicy.next_delay` and :meth:`ReconnectPolicy.reset`; give a callable that makes one as
``settings.reconnect_policy``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class FailureKind(Enum):
    """At which step an attempt failed, or the connection ended."""

    lost = "lost"  # a running connection has ended; close_code tells how
    connect = "connect"  # the TCP (or TLS, or proxy) connection could not be opened
    upgrade = "upgrade"  # the handshake failed; http_status tells what the server answered, 0: nothing
    callback = "callback"  # on_reconnect raised, or returned a text without trying an upgrade


@dataclass(frozen=True)
class ReconnectFailure:
    """What a policy is told before a wait."""

    kind: FailureKind
    #: the error in words
    text: str
    #: failed attempts since the connection was lost; 0 right after the loss
    attempts: int
    #: milliseconds since the connection was lost
    elapsed_ms: float
    #: of the connection that was lost; 1006: there was no close frame
    close_code: int = 0
    #: the HTTP status of a refused upgrade; 0: there was none
    http_status: int = 0


class ReconnectPolicy(Protocol):
    """What a client's thread asks. Its methods are called in that thread only, one at a time."""

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Return the milliseconds to wait before the next attempt, or None to give up for good."""

    def reset(self) -> None:
        """Start again from the shortest wait: the last connection was a good one."""


class ExponentialBackoff:
    """Doubling waits with full jitter: each is drawn between 0 and a bound that doubles, so that a fleet spreads out. The default.

    :param base_ms: the first bound in milliseconds.
    :param cap_ms: the highest bound in milliseconds; None: drawn once per object between 10 000 and 15 000, as in the original.
    :param max_attempts: give up after so many failed attempts in a row; 0: never.
    :param max_time_ms: give up so many milliseconds after the loss; 0: never.
    """

    def __init__(
        self, base_ms: float = 100, cap_ms: float | None = None, max_attempts: int = 0, max_time_ms: float = 0
    ) -> None:
        if base_ms <= 0 or (cap_ms is not None and cap_ms < base_ms) or max_attempts < 0 or max_time_ms < 0:
            raise ValueError("base_ms is above 0, cap_ms at least base_ms, and the limits are from 0")
        self.base_ms = base_ms
        self.cap_ms = random.uniform(10_000, 15_000) if cap_ms is None else cap_ms
        self.max_attempts = max_attempts
        self.max_time_ms = max_time_ms
        self._bound = base_ms

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Draw a wait below the bound, and double the bound."""
        if _is_over(failure, self.max_attempts, self.max_time_ms):
            return None
        bound = self._bound
        self._bound = min(bound * 2, self.cap_ms)
        return random.uniform(0, bound)

    def reset(self) -> None:
        """Start again from ``base_ms``."""
        self._bound = self.base_ms

    def __repr__(self) -> str:
        return f"ExponentialBackoff(base_ms={self.base_ms:g}, cap_ms={self.cap_ms:.0f})"


class LinearBackoff:
    """The pace of the native client: each wait is the one before plus a random 0–199 ms, up to a cap drawn once per object.

    :param step_ms: the additions are drawn below this.
    :param cap_ms: the longest wait; None: drawn between 10 000 and 14 999.
    :param max_attempts: give up after so many failed attempts in a row; 0: never.
    :param max_time_ms: give up so many milliseconds after the loss; 0: never.
    """

    def __init__(
        self, step_ms: float = 200, cap_ms: float | None = None, max_attempts: int = 0, max_time_ms: float = 0
    ) -> None:
        if step_ms <= 0 or (cap_ms is not None and cap_ms <= 0) or max_attempts < 0 or max_time_ms < 0:
            raise ValueError("step_ms and cap_ms are above 0, and the limits are from 0")
        self.step_ms = step_ms
        self.cap_ms = random.uniform(10_000, 14_999) if cap_ms is None else cap_ms
        self.max_attempts = max_attempts
        self.max_time_ms = max_time_ms
        self._wait = 0.0

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Add a random step to the last wait."""
        if _is_over(failure, self.max_attempts, self.max_time_ms):
            return None
        self._wait = min(self._wait + random.uniform(0, self.step_ms), self.cap_ms)
        return self._wait

    def reset(self) -> None:
        """Start again from no wait."""
        self._wait = 0.0

    def __repr__(self) -> str:
        return f"LinearBackoff(step_ms={self.step_ms:g}, cap_ms={self.cap_ms:.0f})"


def _is_over(failure: ReconnectFailure, max_attempts: int, max_time_ms: float) -> bool:
    return bool(
        (max_attempts and failure.attempts >= max_attempts) or (max_time_ms and failure.elapsed_ms >= max_time_ms)
    )
