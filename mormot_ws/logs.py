"""The library's loggers: ``logging.getLogger('mormot_ws')`` and its children, behind a guard.

An exception in a log handler must not end a connection or a thread, text from a peer must not
forge log lines, and a persistent fault must not fill the disk. This module ensures all of this.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import cast

#: escape sequences for all control characters and Unicode's two line separators
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
}
_ESCAPES[0x0A], _ESCAPES[0x0D], _ESCAPES[0x09] = "\\n", "\\r", "\\t"


def escaped(text: str) -> str:
    """Return *text*, which may come from a peer, with its control characters escaped.

    Use it for log lines, errors and the terminal, so that a peer can neither start a new line nor
    move the cursor.
    """
    return text if text.isprintable() else text.translate(_ESCAPES)


#: the most characters shown of a path segment or a name: tokens are longer
_MOST_SEGMENT = 32
#: the most characters shown of a path
_MOST_PATH = 200


def shown_uri(uri: str) -> str:
    """Return *uri*, or a path, in a form that is safe for logs, errors and reprs.

    The query and long path segments are left out, because they may be tokens. Control characters
    are escaped.
    """
    place, mark, path = uri.partition("://")
    if mark:
        authority, slash, path = path.partition("/")
        if "?" in authority:
            authority, slash, path = authority.partition("?")[0], "", "?"
        # without user name and password
        place = f"{place}://{authority.rpartition('@')[2]}{slash}"
    else:
        place, path = "", uri
    path, mark, _ = path.partition("?")
    path = path[: _MOST_PATH + 1]
    path = "/".join(part if len(part) <= _MOST_SEGMENT else "…" for part in path.split("/"))
    if len(path) > _MOST_PATH:
        path = f"{path[:_MOST_PATH]}…"
    return escaped(f"{place}{path}{'?…' if mark else ''}")


def shown_name(name: str) -> str:
    """Return the *name* of a sub-protocol in a form that is safe for logs, reprs and the status.

    A long name may be a token, so only its beginning is shown.
    """
    return name if len(name) <= _MOST_SEGMENT else f"{name[:4]}…"


class OwnText(str):
    """Our own text for a log record: it may have several lines and is not escaped."""

    __slots__ = ()


def _harmless(value: object) -> object:
    """Return *value*, an argument of a log record, in a form that cannot forge log lines."""
    if isinstance(value, str):
        return value if type(value) is OwnText else escaped(value)
    if isinstance(value, BaseException):
        return escaped(str(value))
    # the reprs of our own objects already escape a peer's text
    return value


class GuardedLogger:
    """Logs to the logger called *name*; a handler's exception goes to ``sys.unraisablehook``.

    Any thread may use it, but not while holding a lock: handlers are the application's code.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at DEBUG."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._log(logging.DEBUG, text, args, extra)

    def info(self, text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at INFO."""
        self._log(logging.INFO, text, args, extra)

    def warning(self, text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, text, args, extra)

    def error(
        self,
        text: str,
        *args: object,
        extra: Mapping[str, object] | None = None,
        exc_info: BaseException | None = None,
    ) -> None:
        """Log at ERROR, with the traceback of *exc_info* if there is one."""
        self._log(logging.ERROR, text, args, extra, exc_info)

    def critical(self, text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at CRITICAL."""
        self._log(logging.CRITICAL, text, args, extra)

    def exception(
        self, text: str, *args: object, extra: Mapping[str, object] | None = None
    ) -> None:
        """Log at ERROR, with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, text, args, extra, True)

    def log(
        self, level: int, text: str, *args: object, extra: Mapping[str, object] | None = None
    ) -> None:
        """Log at *level*."""
        self._log(level, text, args, extra)

    def _log(
        self,
        level: int,
        text: str,
        args: tuple[object, ...],
        extra: Mapping[str, object] | None,
        trace: bool | BaseException | None = None,
    ) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        try:
            logger.log(
                level, text, *map(_harmless, args), extra=extra, exc_info=trace, stacklevel=3
            )
        except Exception as exc:  # noqa: BLE001
            # a failing handler must not affect the caller: the interpreter reports it
            _report(exc, logger.name)
        except BaseException as exc:
            # only the main thread gets Ctrl-C and the exceptions of signal handlers
            if threading.current_thread() is threading.main_thread():
                raise
            _report(exc, logger.name)


def _report(exc: BaseException, name: str) -> None:
    """Pass *exc*, raised by a log handler, to ``sys.unraisablehook``."""
    try:
        text = f"a log handler of {name!r} failed"
        sys.unraisablehook(cast("sys.UnraisableHookArgs", _Unraisable(exc, text)))
    except Exception:  # noqa: BLE001
        # the hook failed too: there is no other way to report it
        return


class _Unraisable:
    """The argument of ``sys.unraisablehook``, with the attributes of ``UnraisableHookArgs``."""

    def __init__(self, exc: BaseException, text: str) -> None:
        self.exc_type = type(exc)
        self.exc_value = exc
        self.exc_traceback = exc.__traceback__
        self.err_msg = text
        self.object = None


def get_logger(name: str) -> GuardedLogger:
    """Return the guarded logger called *name*, like ``logging.getLogger``."""
    return GuardedLogger(name)


#: seconds between two log lines about the same persistent fault
LOG_SECONDS = 10.0


class SeldomLog:
    """Reports a persistent fault immediately, then once every *seconds*, with the number of
    faults in between.

    Thread-safe. If two threads meet, there may be a line too many, or the number may be too small.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kind: object = None
        self._told_at = 0.0
        self._untold = 0

    def due(self, kind: object = "") -> str | None:
        """Count one fault. Return None if it should not be logged; otherwise the text to append to
        the log line: ``''``, or how many were left out. A new *kind* is always logged immediately.
        """
        now = self._clock()
        if kind == self._kind and now - self._told_at < self._seconds:
            self._untold += 1
            return None
        untold = self._untold if kind == self._kind else 0
        self._kind, self._told_at, self._untold = kind, now, 0
        return f" ({untold} more since the last such line)" if untold else ""
