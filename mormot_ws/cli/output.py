"""Output: writes all output of a command line by line, from any thread.

Messages and results go to standard output, remarks to standard error, so a pipe gets only the data.
With ``--json`` everything goes to standard output, one event per line. With ``--log-json`` remarks
and the log go to standard error as lines of JSON. On a terminal, with the extra ``cli``, remarks
are coloured unless ``NO_COLOR`` is set.

Text from a peer (messages, close reasons, status lines, log records about them) is escaped, so that
it can neither move the cursor nor start a new line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO, Any

from ..core.taking import take
from ..json_logs import JsonLogFormatter
from ..topics.hub import Publication
from .mailbox import Mailbox, News

#: seconds that a line waits for another thread's line, which may be blocked by a full pipe
_PATIENCE = 3.0
#: escape sequences for characters that could confuse a terminal: control characters (except tabs),
#: Unicode's line separators, and the marks that change the direction of writing
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (
        *(code for code in range(32) if code != 9),
        *range(127, 160),
        *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
}
_ESCAPES[10], _ESCAPES[13] = "\\n", "\\r"
#: the most bytes of a binary message that are shown on a terminal
_SHOWN_BYTES = 32
_STYLES = {"good": "green", "bad": "red", "dim": "dim", "": ""}


class Output:
    """Writes the lines of a command.

    :param mailbox: gets a letter when standard output no longer has a reader.
    :param as_json: write only events, as lines of JSON.
    :param plain: use no colours and no line editing, even if they are installed.
    :param quiet: write no remarks except errors.
    :param log_json: write remarks and the library's log as lines of JSON.

    The methods may be called from any thread and do not raise when writing fails.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        as_json: bool = False,
        plain: bool = False,
        quiet: bool = False,
        log_json: bool = False,
    ) -> None:
        self.as_json = as_json
        self.log_json = log_json
        self.quiet = quiet
        self._mailbox = mailbox
        #: held while a line is written, so that lines do not mix; last in the lock order. Writing
        #: may block, so a slow reader slows us down
        self._safe_lines = threading.Lock()
        # if standard output was closed before the start, its descriptor may now be a socket
        self._gone = sys.stdout is None
        self._no_remarks = sys.stderr is None
        self.out_is_terminal: bool = _is_terminal(sys.stdout)
        self.err_is_terminal: bool = _is_terminal(sys.stderr)
        plain = plain or as_json or log_json
        rich = not plain and os.environ.get("TERM") != "dumb" and has_module("rich")
        #: True when rich may draw tables, bars and colours
        self.rich_out: bool = rich and self.out_is_terminal
        self.rich_err: bool = rich and self.err_is_terminal
        self._colours = self.rich_err and not os.environ.get("NO_COLOR")
        #: True while a prompt owns the terminal: lines go through ``sys.stdout``, which it replaces
        self.prompting = False
        # unbuffered writers to the two descriptors
        self._writers: dict[int, Callable[[memoryview], int]] = {
            1: _writer(1, self.out_is_terminal),
            2: _writer(2, self.err_is_terminal),
        }
        encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
        self.unicode: bool = encoding.replace("-", "") == "utf8"

    # --------------------------------------------------------------------------------------- output

    def event(
        self,
        event: str,
        remark: str = "",
        style: str = "",
        details: Sequence[str] = (),
        /,
        **fields: Any,
    ) -> None:
        """Report an event.

        :param event: its name; ``--json`` writes an object with it, the time and *fields*.
        :param remark: the text without ``--json``; '': none.
        :param style: see :meth:`remark`; 'bad' is shown even with ``--quiet``.
        :param details: further lines of the remark.
        """
        if self.as_json:
            self._write_json({"event": event, "time": round(time.time(), 3), **fields})
        elif remark and (not self.quiet or style == "bad"):
            self.remark(remark, style, details, event=event, **fields)

    def error(self, text: str, shown: str = "", /, **fields: Any) -> None:
        """Report an error: an event ``error`` with *text* and *fields*, even with ``--quiet``.

        :param shown: the text of the remark, if it differs from *text*.
        """
        self.event("error", f"mormot-ws: {shown or text}", "bad", text=text, **fields)

    def remark(
        self, text: str, style: str = "", details: Sequence[str] = (), /, **fields: Any
    ) -> None:
        """Write a line to standard error, and *details* as indented lines below it.

        :param style: good, bad, dim or ''.
        :param fields: further fields of a line of JSON.
        """
        if self.log_json:
            level = logging.ERROR if style == "bad" else logging.INFO
            record = logging.LogRecord("mormot-ws", level, "", 0, text, (), None)
            vars(record).update({name: fields[name] for name in fields if name != "text"})
            if details:
                vars(record)["details"] = list(details)
            self.log(record)
            return
        text = "\n    ".join(map(printable, (text, *details)))
        if self._colours and _STYLES[style]:
            text = _coloured(text, _STYLES[style])
        self._write(2, (f"{text}\n").encode("utf-8", "backslashreplace"))

    def log(self, record: logging.LogRecord) -> None:
        """Write *record* as a line of JSON to standard error."""
        self._write(2, JsonLogFormatter().format(record).encode("ascii") + b"\n")

    def message(self, payload: bytes, is_text: bool, raw: bool) -> None:
        """Write a received message: unchanged to a pipe, as one escaped line to a terminal.

        :param raw: add no newline in a pipe.
        """
        if self.as_json:
            if is_text:
                self.event("message", type="text", data=payload.decode("utf-8"))
            else:
                self.event(
                    "message",
                    type="binary",
                    base64=b64encode(payload).decode("ascii"),
                    size=len(payload),
                )
        elif not self.out_is_terminal:
            self._write(1, payload if raw else payload + b"\n")
        elif is_text:
            self.line("< " + payload.decode("utf-8"))
        else:
            rest = " …" if len(payload) > _SHOWN_BYTES else ""
            self.line(f"< binary, {len(payload)} bytes: {payload[:_SHOWN_BYTES].hex(' ')}{rest}")

    def publication(self, publication: Publication) -> None:
        """Write a publication: only its data to a pipe; with topic and offset to a terminal."""
        data = publication.data
        if self.as_json:
            self.event(
                "publication",
                topic=publication.topic,
                offset=publication.offset,
                epoch=publication.epoch,
                data=data,
            )
            return
        text = data if isinstance(data, str) else publication.json
        if self.out_is_terminal:
            self.line(f"< {publication.topic} {publication.offset}: {text}")
        else:
            self._write(1, text.encode("utf-8", "backslashreplace") + b"\n")

    def line(self, text: str) -> None:
        """Write one line of data, escaped, to standard output."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._write(1, f"{printable(text)}\n".encode(encoding, "backslashreplace"))

    def table(self, title: str, values: Mapping[str, object]) -> None:
        """Write names and values to standard output, one per line."""
        if self.rich_out:
            from rich.table import Table

            table = Table(title=title, title_justify="left", show_header=False)
            table.add_column()
            table.add_column(justify="right")
            for name, value in values.items():
                table.add_row(name, str(value))
            self.render(table)
        else:
            width = max(map(len, values), default=0)
            for text in (title, *(f"  {name:<{width}}  {value}" for name, value in values.items())):
                self.line(text)

    def render(self, renderable: Any) -> None:
        """Write a renderable of rich to standard output. Call it only with :attr:`rich_out`."""
        from rich.console import Console

        console = Console(force_terminal=True)
        with console.capture() as captured:
            console.print(renderable)
        self._write(1, captured.get().encode("utf-8", "backslashreplace"))

    # ------------------------------------------------------------------------------------- internal

    def _write_json(self, value: Mapping[str, Any]) -> None:
        self._write(1, json.dumps(value).encode("ascii") + b"\n")

    def _write(self, descriptor: int, data: bytes) -> None:
        """Write all of *data*, bypassing Python's buffers, so nothing is left to flush."""
        held: list[bool] = []
        try:
            if not take(self._safe_lines, held, _PATIENCE):
                # another thread is blocked in a write: nobody reads, so nothing can be reported
                return
            if self.prompting:
                sys.stdout.write(data.decode("utf-8", "replace"))
                sys.stdout.flush()
            elif not (self._gone if descriptor == 1 else self._no_remarks):
                write = self._writers[descriptor]
                view = memoryview(data)
                while view:
                    view = view[write(view) :]
        except OSError:
            if descriptor == 1 and not self._gone:
                self._gone = True
                self._mailbox.post(News.output_gone)
        finally:
            # this way no signal handler can raise between acquiring and releasing the lock
            if held and held[0]:
                self._safe_lines.release()


class OutputHandler(logging.Handler):
    """Shows the library's log records as remarks, without disturbing a line being typed."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Show *record*; ``logging`` calls this in any thread."""
        try:
            if self._output.log_json:
                self._output.log(record)
                return
            whole = self.format(record)
            text = record.getMessage()
            # the traceback, if there is one
            details = whole.removeprefix(text).strip("\n").splitlines()
            self._output.event("log", text, "dim", details, level=record.levelname, text=text)
        # like logging's own handlers, for records that cannot be formatted
        except Exception:  # noqa: BLE001
            self.handleError(record)


#: the lowest level of log records shown, by the number of ``-v``; the commands themselves report
#: everything that a user needs to know
_LEVELS = {0: logging.CRITICAL, 1: logging.INFO}


def show_log(output: Output, verbose: int) -> OutputHandler:
    """Show the library's log from now on; return the handler, to be removed at the end."""
    logger = logging.getLogger("mormot_ws")
    handler = OutputHandler(output)
    logger.setLevel(_LEVELS.get(max(verbose, output.log_json), logging.DEBUG))
    logger.addHandler(handler)
    return handler


def printable(text: str) -> str:
    """Return *text* as one line, escaping everything that could control a terminal."""
    return text if text.isprintable() and text.isascii() else text.translate(_ESCAPES)


def has_module(name: str) -> bool:
    """Return whether a module of the extra ``cli`` is installed."""
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except ValueError:  # blocked with ``sys.modules[name] = None``
        return False


def _is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def _writer(descriptor: int, is_terminal: bool) -> Callable[[memoryview], int]:
    """Return a function that writes bytes to *descriptor* and returns how many it wrote."""
    if sys.platform == "win32" and is_terminal:
        # a console expects bytes in its own code page, to which this converts UTF-8
        console = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
        return console.write
    return partial(os.write, descriptor)


def _coloured(text: str, style: str) -> str:
    from rich.style import Style

    return Style.parse(style).render(text)
