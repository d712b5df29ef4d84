"""Logging in the threads of a server: a log handler that raises costs its own record only.

``logging`` catches what most handlers raise; a queue handler whose queue is full, a filter or a
``__repr__`` may still raise into the thread that logs, and these threads have to go on.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable, MutableMapping
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class SafeLogger(_Adapter):
    """The logger *name*, whose methods never raise what a handler, filter or argument raises.

    From any thread. What was raised is printed to ``sys.stderr``, as ``logging`` does it, unless
    ``logging.raiseExceptions`` is False. Ctrl-C and exceptions of signal handlers, which only the
    main thread meets, are raised as ever.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave the ``extra`` of each call as it is."""
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log as ``Logger.log`` does. ``debug()``, ``exception()`` and the others end here."""
        try:
            if self.logger.isEnabledFor(level):
                kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
                self.logger.log(level, msg, *args, **kwargs)
        except Exception:  # noqa: BLE001 - any handler may raise anything
            _print_exception()
        except BaseException:
            if threading.current_thread() is threading.main_thread():
                raise
            _print_exception()


def _print_exception() -> None:
    # where even that fails there is nobody left to tell
    with contextlib.suppress(Exception):
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc(file=sys.stderr)


class SeldomLog:
    """Tells about a fault that may come thousands of times a second: at once, and then once in
    *seconds* while it lasts, with the number of those in between.

    For one thread.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kind: object = None
        self._told_at = 0.0
        self._untold = 0

    def due(self, kind: object = "") -> str | None:
        """Count one fault; return None when it is not to be told, else what to add to its line:
        ``''`` or how many were left out. Another *kind* than the last one is told at once.
        """
        now = self._clock()
        if kind == self._kind and now - self._told_at < self._seconds:
            self._untold += 1
            return None
        untold = self._untold if kind == self._kind else 0
        self._kind, self._told_at, self._untold = kind, now, 0
        return f" ({untold} more since the last such line)" if untold else ""
