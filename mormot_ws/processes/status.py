"""Snapshots of a server in several OS processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..status import ServerStatus

#: current values, as opposed to counters since the start
_PRESENT = ("connections", "sockets")


@dataclass(frozen=True)
class ProcessStatus:
    """A snapshot of one of the OS processes."""

    #: its number, from 0
    number: int
    #: its process ID; 0 while it waits to be started again
    pid: int
    #: ``starting``, ``listening``, ``stopping`` or ``waiting`` (to be started again)
    state: str
    #: how often it was replaced, after it died or by ``replace()``
    starts: int
    #: the status of its server; None: it did not answer in time, or does not listen yet
    server: ServerStatus | None


@dataclass(frozen=True)
class ProcessesStatus:
    """A snapshot of a server in several OS processes."""

    #: one for each number, in order, without those being replaced
    processes: tuple[ProcessStatus, ...]
    #: the sums, including those of OS processes that ended normally. The counters of a killed
    #: process are lost
    total: ServerStatus

    def as_dict(self) -> dict[str, Any]:
        """Return the values as a dictionary, e.g. for JSON."""
        return asdict(self)


def no_counts(host: str, port: int) -> ServerStatus:
    """Return a status in which all values are 0."""
    return ServerStatus(host, port, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def total_of(
    host: str, port: int, present: Iterable[ServerStatus], ended: Iterable[ServerStatus] = ()
) -> ServerStatus:
    """Return the sums of *present*, and of the counters of those that have *ended*."""
    other = ("host", "port", "close_codes")
    sums = {field.name: 0 for field in fields(ServerStatus) if field.name not in other}
    codes: Counter[int] = Counter()
    for status in present:
        codes.update(status.close_codes)
        for name in sums:
            sums[name] += getattr(status, name)
    for status in ended:
        codes.update(status.close_codes)
        for name in sums:
            if name not in _PRESENT:
                sums[name] += getattr(status, name)
    return ServerStatus(host, port, **sums, close_codes=dict(codes))
