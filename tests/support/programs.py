"""Programs run as a user runs them: as processes with pipes (or a terminal), what they print read
line by line, each wait with a bound.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from mormot_ws.process.freeing import EndedByWith

from . import BOUND, ROOT, TIMEOUT_FACTOR, wait_for

EXAMPLES = ROOT / "examples"
#: seconds for a program to say or do something: it may have to start first, on a busy machine
PATIENCE = 3 * BOUND


class Lines:
    """Lines that come one by one, from another thread, and can be waited for."""

    def __init__(self) -> None:
        #: guards the fields below; notified for each line, and at the end
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._at_end = False
        self._seen = 0  # lines that expect() has gone past

    def add(self, line: str) -> None:
        """Take one more line."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def end(self) -> None:
        """No line will follow."""
        with self._changed:
            self._at_end = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """All lines up to now."""
        with self._changed:
            return "\n".join(self._lines)

    @property
    def at_end(self) -> bool:
        """Whether no line will follow."""
        return self._at_end

    def expect(self, pattern: str, bound: float = PATIENCE) -> re.Match[str]:
        """Wait for a line, behind those already expected, that contains *pattern*; fail without
        one within *bound* seconds.
        """
        give_up = time.monotonic() + bound
        with self._changed:
            while True:
                while self._seen < len(self._lines):
                    line = self._lines[self._seen]
                    self._seen += 1
                    match = re.search(pattern, line)
                    if match:
                        return match
                left = give_up - time.monotonic()
                if self._at_end or left <= 0:
                    why = "it ended" if self._at_end else f"nothing within {bound:g} s"
                    raise AssertionError(
                        f"no further line with {pattern!r} ({why}) in:\n" + "\n".join(self._lines)
                    )
                self._changed.wait(left)


class Program(EndedByWith):
    """``python ARGUMENTS`` as a process. A context manager that ends it, by its pid, if it has not
    ended by itself.

    Both of its output streams are read together. Warnings are errors in it; its output is not made
    unbuffered from outside, so a program that forgets to flush is found out.

    :param stdin: what it gets as standard input; by default a pipe, for :meth:`enter` and
        :meth:`end_input`.
    """

    _options: tuple[str, ...] = ("-X", "dev", "-W", "error")

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] = subprocess.PIPE,
    ) -> None:
        without = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        # a process started in the background ignores Ctrl-C, and its children would too; only the
        # main thread can change that
        in_main = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGINT, signal.default_int_handler) if in_main else None
        try:
            self._process = subprocess.Popen(
                [sys.executable, *self._options, *map(str, arguments)],
                cwd=cwd,
                env={**without, "PYTHONUTF8": "1", **(env or {})},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
        finally:
            if in_main:
                signal.signal(signal.SIGINT, previous)
        self._lines = Lines()
        # daemon: must not keep the tests from ending; it ends with the process
        self._reader = threading.Thread(target=self._read, name="program reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.add(line.rstrip("\n"))
        self._lines.end()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it has printed up to now."""
        return self._lines.text

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def expect(self, pattern: str, bound: float = PATIENCE) -> re.Match[str]:
        """Wait for a line, behind those already expected, that contains *pattern*; fail without
        one within *bound* seconds.
        """
        return self._lines.expect(pattern, bound)

    def enter(self, *lines: str) -> None:
        """Write *lines* to its standard input, all at once."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()

    def end_input(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, without any goodbye."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, bound: float = PATIENCE) -> int:
        """Wait for its end; return the exit code."""
        try:
            code = self._process.wait(bound)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end within {bound:g} s:\n{self.output}") from None
        self._reader.join(PATIENCE)
        return code

    def _end_block(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self._reader.join(PATIENCE)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()


class Script(Program):
    """Python source in a process of its own, without the checks of the development mode, and with
    unbuffered output.
    """

    _options = ("-u", "-W", "error")

    def __init__(self, source: str, *arguments: str) -> None:
        super().__init__("-c", textwrap.dedent(source), *arguments)

    @property
    def text(self) -> str:
        """The output up to now; the last line ends with a newline too."""
        return f"{self.output}\n" if self.output else ""

    @property
    def said_all(self) -> bool:
        """Whether its output has ended."""
        return self._lines.at_end

    def wait_line(self, start: str, bound: float = 2 * BOUND) -> str:
        """Wait for a line that begins with *start*, which may have come before another that was
        waited for; return the rest of it.
        """

        def find() -> list[str]:
            over = self.said_all
            found = [line for line in self.output.split("\n") if line.startswith(start)]
            assert found or not over, f"the script ended without {start!r}: {self.text}"
            return found

        return wait_for(find, bound, f"a line {start!r}")[0][len(start) :].strip()


def run_script(source: str, *arguments: str, bound: float = 2 * BOUND) -> tuple[int, str]:
    """Run Python *source* to its end in a process of its own; return its exit code and output."""
    with Script(source, *arguments) as script:
        return script.wait(bound), script.text


def run_module(
    module: str, *arguments: str, bound: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module arguments`` to its end, within *bound* seconds of a fast machine."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=bound * TIMEOUT_FACTOR,
        check=False,
    )
