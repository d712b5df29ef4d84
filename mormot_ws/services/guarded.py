"""guarded(): calls application code that is not the execution of a call: its end, or an event."""

from __future__ import annotations

from collections.abc import Callable
from threading import current_thread, main_thread

from ..core.forks import call_in_child
from ..logs import get_logger

_log = get_logger("mormot_ws.services")

# how many forks have led to this process
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


call_in_child(_count_fork)


def fork_count() -> int:
    """Return how many forks have led to this process; for :func:`ends_program`."""
    return _forks


def ends_program(exc: BaseException, forks: int) -> bool:
    """Return whether *exc* must be raised again: it ends a child forked since *forks* was counted,
    or a program after Ctrl-C.
    """
    interrupts = isinstance(exc, KeyboardInterrupt) and current_thread() is main_thread()
    return forks != _forks or interrupts


def guarded(what: str, function: Callable[..., object], *args: object) -> None:
    """Call ``function(*args)``, and log what it raises, even ``SystemExit``.

    Raises only what :func:`ends_program`. *what* names the function in the log.
    """
    forks = _forks
    try:
        function(*args)
    except BaseException as exc:
        if ends_program(exc, forks):
            raise
        _log.exception("%s failed", what)
