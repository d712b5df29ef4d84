"""ReconnectWaits: asks a client's policy how long to wait before each attempt.

It counts the failures since the last stable connection. It neither makes attempts nor waits;
``thread.py`` does.
"""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple, Protocol

from ..logs import get_logger
from ..reconnect_policies import (
    ExponentialBackoff,
    FailureKind,
    ReconnectFailure,
    ReconnectPolicy,
    checked_delay,
    failure_kind,
)
from .upgrade import UpgradeError

_log = get_logger("mormot_ws.client")


class HasPolicy(Protocol):
    """An owner of a policy: a client, or a hub of topics."""

    @property
    def policy(self) -> ReconnectPolicy | None:
        """Decides the waits; None: the default policy."""


class AttemptFailure(NamedTuple):
    """Why an attempt failed."""

    kind: FailureKind
    #: as text
    text: str
    #: the exception; it has the answer of a server or proxy as ``http_status``, ``headers`` and
    #: ``body``
    exception: BaseException | None = None


class ReconnectWaits:
    """The failures of one client, and its policy's answers. Used in the client's thread."""

    def __init__(self, client: HasPolicy, name: str) -> None:
        self._client = client
        self._name = name
        #: failed attempts since the last stable connection
        self.failures: int = 0
        # when that connection was lost, or when the first attempt began
        self._since = 0.0
        # decides the waits if the policy fails
        self._fallback = ExponentialBackoff()

    def take_over(self, last: ReconnectWaits) -> None:
        """Continue with the failures of *last*."""
        self.failures = last.failures
        self._since = last._since

    def begin(self, stable: bool) -> None:
        """Begin after a loss or at the start; reset the policy if the connection was *stable*."""
        if not stable and self._since:
            # do not hammer a server that accepts and drops immediately
            return
        try:
            if self._client.policy is not None:
                self._client.policy.reset()
        except BaseException:  # noqa: BLE001
            _log.exception("%s: reset() of the reconnection policy failed", self._name)
        self._fallback.reset()
        self.failures = 0
        self._since = monotonic()

    def count_failure(self) -> int:
        """Count a failed attempt; return the new number."""
        self.failures += 1
        return self.failures

    def failure(self, failed: AttemptFailure, close_code: int) -> ReconnectFailure:
        """Return the failure for the policy; *close_code* is that of the last connection."""
        exception = failed.exception
        return ReconnectFailure(
            failed.kind,
            failed.text,
            self.failures,
            (monotonic() - self._since) * 1000,
            close_code,
            getattr(exception, "http_status", 0),
            getattr(exception, "headers", ()),
            getattr(exception, "body", b""),
            exception,
        )

    def delay(self, failure: ReconnectFailure, fields: dict[str, object]) -> float | None:
        """Return the policy's next wait in milliseconds; None: give up.

        If the policy fails, the default policy decides. *fields* go into log records.
        """
        policy = self._client.policy
        default = self._fallback.next_delay(failure)
        assert default is not None
        if policy is None:
            return default
        try:
            delay = policy.next_delay(failure)
            if delay is None:
                return None
            checked = checked_delay(delay, -1)
            if checked >= 0:
                return checked
            _log.error(
                "%s: the reconnection policy returned %.80r, which is not a number of milliseconds"
                " from 0 to a year, or infinity; waiting %.0f ms",
                self._name,
                delay,
                default,
                extra=fields,
            )
        except BaseException:  # noqa: BLE001
            _log.exception(
                "%s: the reconnection policy failed; waiting %.0f ms",
                self._name,
                default,
                extra=fields,
            )
        return default


def reopen_failure(exception: OSError | None, error: str) -> AttemptFailure:
    """Return the failure to open the TCP connection, with a proxy's answer if there was one."""
    kind = FailureKind.connect if exception is None else failure_kind(exception)
    return AttemptFailure(kind, error, exception)


def upgrade_failure(refused: UpgradeError | None, error: str) -> AttemptFailure:
    """Return the failure of an upgrade, which may have failed before the server answered."""
    kind = FailureKind.callback if refused is None else refused.kind
    return AttemptFailure(kind, error, refused)
