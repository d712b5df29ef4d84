"""Reconnection policies: how long a client waits before each attempt.

A policy is any object with :meth:`ReconnectPolicy.next_delay` and :meth:`ReconnectPolicy.reset`;
set ``settings.reconnect_policy`` to a callable that returns a new one. Policies are pure: they
neither sleep nor use threads or sockets.
"""

from __future__ import annotations

import math
import random
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, ClassVar, Protocol, SupportsFloat

from .attributes import IS_BOOL, IS_INT, IS_MILLISECONDS, Check, KnownAttributes

#: the longest finite wait, in milliseconds, that a policy may return
_LONGEST_MS = 366 * 24 * 3_600_000
#: the longest wait, in milliseconds, that a server can request with ``Retry-After``
_LONGEST_RETRY_AFTER_MS = 300_000


class FailureKind(Enum):
    """The step at which an attempt failed or the connection ended."""

    lost = "lost"  # an open connection ended; close_code says how
    refused = "refused"  # nobody listens there
    timeout = "timeout"  # connecting, or the handshake, timed out
    tls = (
        # TLS failed before the upgrade was answered, e.g. because a certificate was rejected
        "tls"
    )
    connect = (
        # the connection could not be opened for another reason: unknown host, no route, a proxy's
        # refusal
        "connect"
    )
    # the upgrade failed; http_status is the server's answer, 0: none
    upgrade = "upgrade"
    callback = "callback"  # on_reconnect raised, or returned a text without trying an upgrade


@dataclass(frozen=True)
class ReconnectFailure:
    """What a policy learns about a failure before each wait."""

    kind: FailureKind
    #: a description of the error
    text: str
    #: failed attempts since the last stable connection; 0 right after it was lost
    attempts: int
    #: milliseconds since the last stable connection was lost
    elapsed_ms: float
    #: the close code of the lost connection; 1006: there was no close frame
    close_code: int = 0
    #: the HTTP status with which the server or a proxy refused; 0: none
    http_status: int = 0
    #: the headers of that answer
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    #: the first 1024 bytes of its body
    body: bytes = field(default=b"", repr=False)
    #: the exception, if there was one
    exception: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def retry_after_ms(self) -> float:
        """The wait in milliseconds that ``Retry-After`` requests; at most 300 000; 0: none."""
        for name, value in self.headers:
            if name.lower() == "retry-after":
                return min(_retry_after_ms(value.strip()), _LONGEST_RETRY_AFTER_MS)
        return 0.0


class ReconnectPolicy(Protocol):
    """Decides the wait before each attempt; called only in the client's thread."""

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Return the milliseconds to wait before the next attempt, or None to give up.

        ``math.inf`` waits until ``reconnect_now()`` is called.
        """

    def reset(self) -> None:
        """Start again from the shortest wait, because the last connection was stable."""


def check_policy(name: str, value: object) -> None:
    """Raise ``TypeError`` if *value* is not a policy."""
    if isinstance(value, type) or not (hasattr(value, "next_delay") and hasattr(value, "reset")):
        raise TypeError(
            f"{name} must be an object with next_delay() and reset(), like StopOn() or"
            f" ExponentialBackoff(), not {value!r}"
        )


def _are_waits(**values: object) -> None:
    """Raise ``TypeError`` for a value that is not a number of milliseconds."""
    for name, value in values.items():
        # None is the default of the cap
        if value is not None or name != "cap_ms":
            IS_MILLISECONDS(name, value)


def _is_above_0(name: str, value: Any) -> None:
    IS_MILLISECONDS(name, value)
    # written so that NaN, for which every comparison is False, is rejected too
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number of milliseconds above 0, not {name}={value}")


def _is_limit(check: Check) -> Check:
    """Return a check for a limit, where 0 means no limit."""

    def check_limit(name: str, value: Any) -> None:
        check(name, value)
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0 (0 means no limit), not {name}={value}")

    return check_limit


_LIMITS: dict[str, Check] = {
    "max_attempts": _is_limit(IS_INT),
    "max_time_ms": _is_limit(IS_MILLISECONDS),
}


class ExponentialBackoff(KnownAttributes):
    """Exponential back-off with full jitter; the default policy.

    Each wait is drawn between 0 and a bound, which doubles after each attempt. The random waits
    spread out the attempts of many clients.

    :param base_ms: the first bound in milliseconds.
    :param cap_ms: the highest bound in milliseconds; None: drawn once per object between 10 000 and
        15 000, as in the original.
    :param max_attempts: give up after this many consecutive failed attempts; 0: never.
    :param max_time_ms: give up this many milliseconds after the loss; 0: never.

    A client recovers quickly from a short loss, at the cost of early attempts: about four in the
    first second, one in the next, then one every two seconds. A ``Retry-After`` header in a refusal
    is respected up to five minutes, and the drawn wait is added to it. When many clients lose a
    server for 5 s, they make 3.2 times as many attempts in the first second as in the average
    second of the outage; with ``base_ms=200``, 2.9 times as many.
    """

    _CHECKS: ClassVar = {"base_ms": _is_above_0, "cap_ms": _is_above_0, **_LIMITS}

    def __init__(
        self,
        base_ms: float = 100,
        cap_ms: float | None = None,
        max_attempts: int = 0,
        max_time_ms: float = 0,
    ) -> None:
        _are_waits(base_ms=base_ms, cap_ms=cap_ms, max_time_ms=max_time_ms)
        IS_INT("max_attempts", max_attempts)
        # written so that NaN, for which every comparison is False, is rejected too
        if not (
            0 < base_ms < math.inf
            and (cap_ms is None or base_ms <= cap_ms < math.inf)
            and max_attempts >= 0
            and max_time_ms >= 0
        ):
            raise ValueError(
                "base_ms must be above 0, cap_ms at least base_ms, and the limits at least 0, not "
                f"base_ms={base_ms}, cap_ms={cap_ms}, max_attempts={max_attempts}, "
                f"max_time_ms={max_time_ms}"
            )
        self.base_ms = base_ms
        self.cap_ms: float = random.uniform(10_000, 15_000) if cap_ms is None else cap_ms
        self.max_attempts = max_attempts
        self.max_time_ms = max_time_ms
        self._bound = min(base_ms, self.cap_ms)

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Draw a wait below the bound, and double the bound."""
        if _is_over(failure, self.max_attempts, self.max_time_ms):
            return None
        bound = self._bound
        self._bound = min(bound * 2, self.cap_ms)
        return failure.retry_after_ms + random.uniform(0, bound)

    def reset(self) -> None:
        """Start again from ``base_ms``."""
        self._bound = min(self.base_ms, self.cap_ms)

    def __repr__(self) -> str:
        return f"ExponentialBackoff(base_ms={self.base_ms:g}, cap_ms={self.cap_ms:.0f})"


class LinearBackoff(KnownAttributes):
    """The back-off of the native client: each wait is 0–199 ms longer, at random, up to a cap.

    :param step_ms: each addition is drawn below this number of milliseconds.
    :param cap_ms: the longest wait in milliseconds; None: drawn once per object between 10 000 and
        14 999.
    :param max_attempts: give up after this many consecutive failed attempts; 0: never.
    :param max_time_ms: give up this many milliseconds after the loss; 0: never.
    """

    _CHECKS: ClassVar = {"step_ms": _is_above_0, "cap_ms": _is_above_0, **_LIMITS}

    def __init__(
        self,
        step_ms: float = 200,
        cap_ms: float | None = None,
        max_attempts: int = 0,
        max_time_ms: float = 0,
    ) -> None:
        _are_waits(step_ms=step_ms, cap_ms=cap_ms, max_time_ms=max_time_ms)
        IS_INT("max_attempts", max_attempts)
        if not (
            0 < step_ms < math.inf
            and (cap_ms is None or 0 < cap_ms < math.inf)
            and max_attempts >= 0
            and max_time_ms >= 0
        ):
            raise ValueError(
                "step_ms and cap_ms must be above 0, and the limits at least 0, not "
                f"step_ms={step_ms}, cap_ms={cap_ms}, max_attempts={max_attempts}, "
                f"max_time_ms={max_time_ms}"
            )
        self.step_ms = step_ms
        self.cap_ms: float = random.uniform(10_000, 14_999) if cap_ms is None else cap_ms
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
        """Start again without a wait."""
        self._wait = 0.0

    def __repr__(self) -> str:
        return f"LinearBackoff(step_ms={self.step_ms:g}, cap_ms={self.cap_ms:.0f})"


def _are_numbers(name: str, value: Any) -> None:
    if not isinstance(value, Collection) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be whole numbers, like (401, 403), not {value!r}")
    for number in value:
        if not isinstance(number, int):
            raise TypeError(f"{name} must be whole numbers, like (401, 403), not {number!r}")


class StopOn(KnownAttributes):
    """Follows another policy, but gives up on failures that further attempts cannot fix.

    :param policy: the policy that decides the waits; None: an :class:`ExponentialBackoff`.
    :param http_statuses: give up if an upgrade is refused with one of these statuses.
    :param close_codes: give up if the connection was closed with one of these codes.
    :param certificates: give up if one side rejects the other's TLS certificate.
    """

    _CHECKS: ClassVar = {
        "policy": check_policy,
        "http_statuses": _are_numbers,
        "close_codes": _are_numbers,
        "certificates": IS_BOOL,
    }

    def __init__(
        self,
        policy: ReconnectPolicy | None = None,
        http_statuses: Collection[int] = (401, 403, 404),
        close_codes: Collection[int] = (1008,),
        certificates: bool = True,
    ) -> None:
        self.policy: ReconnectPolicy = ExponentialBackoff() if policy is None else policy
        _are_numbers("http_statuses", http_statuses)
        _are_numbers("close_codes", close_codes)
        self.http_statuses: frozenset[int] = frozenset(http_statuses)
        self.close_codes: frozenset[int] = frozenset(close_codes)
        self.certificates: bool = certificates

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Give up on this failure, or ask the other policy."""
        if failure.http_status in self.http_statuses:
            return None
        if failure.kind is FailureKind.lost and failure.close_code in self.close_codes:
            return None
        if self.certificates and failure.kind is FailureKind.tls and _is_certificate(failure):
            return None
        return self.policy.next_delay(failure)

    def reset(self) -> None:
        """Reset the other policy."""
        self.policy.reset()

    def __repr__(self) -> str:
        return f"StopOn({self.policy!r}, {sorted(self.http_statuses)}, {sorted(self.close_codes)})"


def failure_kind(error: BaseException) -> FailureKind:
    """Return the kind of failure for an exception raised while connecting or upgrading."""
    if isinstance(error, ssl.SSLError):
        return FailureKind.tls
    if isinstance(error, TimeoutError):
        return FailureKind.timeout
    if isinstance(error, ConnectionRefusedError):
        return FailureKind.refused
    return FailureKind.connect


def _is_certificate(failure: ReconnectFailure) -> bool:
    """Return whether TLS failed because of a certificate.

    A server that rejects our certificate reports it with an alert.
    """
    exception = failure.exception
    if exception is not None and not isinstance(exception, ssl.SSLError):
        exception = exception.__cause__
    if not isinstance(exception, ssl.SSLError):
        return False
    reason = exception.reason or ""
    return "CERTIFICATE" in reason or "UNKNOWN_CA" in reason


def _is_over(failure: ReconnectFailure, max_attempts: int, max_time_ms: float) -> bool:
    return bool(
        (max_attempts and failure.attempts >= max_attempts)
        or (max_time_ms and failure.elapsed_ms >= max_time_ms)
    )


def checked_delay(value: object, default: float) -> float:
    """Return *value*, a policy's answer, in milliseconds; *default* if it is invalid.

    Other types, NaN, negative numbers and more than a year are invalid. Infinity is allowed.
    """
    if isinstance(value, (bool, str, bytes)) or not isinstance(value, SupportsFloat):
        return default
    try:
        number = float(value)
    except (ValueError, TypeError, ArithmeticError):
        return default
    return number if 0 <= number <= _LONGEST_MS or number == math.inf else default


def _retry_after_ms(value: str) -> float:
    """Return the milliseconds that *value*, a number of seconds or a date, asks for."""
    if value.isascii() and value.isdigit():
        return float(value[:12]) * 1000
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        return max(0.0, (when - datetime.now(timezone.utc)).total_seconds() * 1000)
    except (ValueError, TypeError, ArithmeticError):
        return 0.0
