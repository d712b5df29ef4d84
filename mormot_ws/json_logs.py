"""JsonLogFormatter: log records as lines of JSON, for programs that collect logs."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import Any

#: the attributes of every record; all others were given as ``extra=``
_USUAL = frozenset(
    (
        *vars(logging.LogRecord("", 0, "", 0, "", (), None)),
        *("asctime", "message", "taskName", "stacklevel"),
    )
)
#: the fields of each line, which other fields cannot replace
_OWN = ("time", "level", "logger", "text", "thread", "traceback", "stack")


class JsonLogFormatter(logging.Formatter):
    """Formats a log record as one line of JSON, in ASCII.

    :param fields: additional fields of each line, e.g. ``service="chat"``.

    A line has ``time`` (UTC, ISO 8601, with milliseconds), ``level``, ``logger``, ``text`` and
    ``thread``, the extra fields of the record (such as ``connection_id`` and ``remote_ip`` in this
    library's records), and ``traceback`` if there is an exception. Values that JSON cannot
    represent are written as text. You can use it with all loggers, from any thread.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        for name in _OWN:
            if name in fields:
                raise ValueError(f"{name} is already a field of each line")
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break at the end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
            "thread": record.threadName,
            **self._fields,
        }
        for name, value in vars(record).items():
            if name not in _USUAL and name not in line and name not in _OWN:
                line[name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        elif record.exc_text:
            # another formatter has already handled the record, or it is from another process
            line["traceback"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str, skipkeys=True)

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self._fields))
        return f"<JsonLogFormatter{' ' if names else ''}{names}>"
