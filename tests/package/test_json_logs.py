"""JsonLogFormatter: log records as lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from mormot_ws import JsonLogFormatter


def line_of(record: logging.LogRecord, **fields: Any) -> dict[str, Any]:
    """Return the line of *record*, read again."""
    text = JsonLogFormatter(**fields).format(record)
    assert text.isascii()
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def a_record(message: str, /, *args: object, **extra: Any) -> logging.LogRecord:
    """Return a record as a logger makes one."""
    return logging.getLogger("mormot_ws.test").makeRecord(
        "mormot_ws.test", logging.WARNING, __file__, 1, message, args, None, extra=extra
    )


def test_a_line_has_the_time_the_level_and_the_fields() -> None:
    """Those of the record, and those that all lines have."""
    record = a_record("closed by %s", "ann", connection_id=7, remote_ip="192.0.2.7")
    record.created = 1_700_000_000.25
    line = line_of(record, service="chat")
    assert line == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "WARNING",
        "logger": "mormot_ws.test",
        "text": "closed by ann",
        "thread": "MainThread",
        "service": "chat",
        "connection_id": 7,
        "remote_ip": "192.0.2.7",
    }


def test_a_text_of_several_lines_is_one_line() -> None:
    """As are characters that are not ASCII, or half of one."""
    assert line_of(a_record("a\nb\u2028ü\ud800"))["text"] == "a\nb\u2028ü\ud800"


def test_a_traceback_is_a_field() -> None:
    """Also one that another formatter has made of it already."""
    record = a_record("failed")
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "ValueError: why" in line_of(record)["traceback"]
    other = a_record("failed")
    other.exc_text = "Traceback"
    assert line_of(other)["traceback"] == "Traceback"


def test_values_that_json_does_not_know_are_text() -> None:
    """A record is never lost for its fields."""
    line = line_of(a_record("x", who={1, 2}, what={("a", 1): 2, "b": b"c"}))
    assert line["who"] == "{1, 2}"
    assert line["what"] == {"b": "b'c'"}


def test_a_field_of_the_record_replaces_none_of_the_line() -> None:
    """The fields of the application's other loggers cannot hide the level or the time."""
    line = line_of(a_record("x", level=3, text="forged", service="other"), service="chat")
    assert (line["level"], line["text"], line["service"]) == ("WARNING", "x", "chat")


@pytest.mark.parametrize("name", ["time", "level", "text", "thread"])
def test_a_field_that_each_line_has_is_refused(name: str) -> None:
    """At once."""
    with pytest.raises(ValueError, match=name):
        JsonLogFormatter(**{name: "x"})
