# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""Starting, asking and ending the processes that hold the libraries."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT = 20.0  # seconds; imports may be slow on a busy machine
_END_TIMEOUT = 5.0  # seconds


class MissingLibrary(Exception):
    """The library of a contestant is not there."""


class HelperError(Exception):
    """A helper process died or kept silent."""


class Helper:
    """A Python process of ours that answers on its standard output with lines of JSON.

    It ends by itself as soon as its standard input does, so none is left over even if we are
    killed.
    """

    def __init__(
        self, module: str, *arguments: str, environment: dict[str, str] | None = None
    ) -> None:
        """Start ``python -m tests.benchmarks.MODULE ARGUMENTS`` and wait for its first line."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", *arguments],
            cwd=_ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us alone
        )
        self._buffer = b""
        try:
            self.greeting = self._answer(_START_TIMEOUT)
            if "missing" in self.greeting:
                raise MissingLibrary(self.greeting["missing"])
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ask(self, question: str, timeout: float) -> dict[str, Any]:
        """Send one line and return the answer; the timeout is in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(question.encode() + b"\n")
        self._process.stdin.flush()
        return self._answer(timeout)

    def _answer(self, timeout: float) -> dict[str, Any]:
        """Return the next line of JSON; the timeout, in seconds, is for each piece of it."""
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        # not select(), which knows only the first 1 024 descriptors
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poller.poll(timeout * 1000):
                raise HelperError(f"no answer within {timeout:.0f} s")
            chunk = os.read(handle, 65536)
            if not chunk:
                raise HelperError("the process ended")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise HelperError(f"unexpected output {line[:80]!r}")
        return answer

    def private_bytes(self) -> int:
        """Return the resident memory that this process shares with no other, in bytes."""
        total = 0
        with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith(("Private_Clean:", "Private_Dirty:")):
                    total += int(line.split()[1]) * 1024
        return total

    def cpu_seconds(self) -> float:
        """Return how long the process has computed so far, all its threads together."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process: politely, and if that does not help, not so."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass
        try:
            self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
