"""Python processes of the tests' own that take commands and answer with lines of JSON. No test in
here.

The parent's side is :class:`Child`; the child's side is :func:`end_with_parent`,
:func:`commands` and :func:`answer`. A child ends with its standard input, and (on Linux) with the
thread that started it, even when it is stopped: none is left over.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mormot_ws.process.freeing import EndedByWith

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
#: seconds that a child may take to start on a busy machine
START_BOUND = 60.0
#: below the kernel's ephemeral ports: nobody's outgoing connection takes such a port while its
#: server is down, and no attempt to connect to it can meet itself
_PORTS = range(20_000, 32_000)


class ChildError(Exception):
    """A child has died, or keeps silent."""


def fixed_port() -> int:
    """Return a free port that stays free while nobody listens on it."""
    for port in random.sample(_PORTS, 200):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise OSError("there is no free port")


class Child(EndedByWith):
    """Runs ``python -m module arguments``; its standard error goes to *errors* (None: to ours),
    *variables* to its environment.

    A context manager that ends the process, by its pid.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        errors: IO[bytes] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        environment = {
            name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
        }
        environment.update(variables or {})
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # daemon: ends with the child's output, and must not keep the parent from ending
        self._reader = threading.Thread(target=self._read, name=f"{module} reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while it runs, or is stopped."""
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(b"")

    def tell(self, **command: Any) -> None:
        """Send a command; raise :class:`ChildError` when the child has gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as exc:
            raise ChildError(f"{self.module} has gone: {exc}") from None

    def hear(self, bound: float = START_BOUND) -> dict[str, Any]:
        """Return its next answer; raise :class:`ChildError` when none comes within *bound*
        seconds.
        """
        try:
            line = self._lines.get(timeout=bound)
        except queue.Empty:
            raise ChildError(f"{self.module} keeps silent for {bound:g} s") from None
        if not line:
            raise ChildError(f"{self.module} has ended with {self._process.wait(10)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, bound: float = START_BOUND, **command: Any) -> dict[str, Any]:
        """Send a command and return the answer."""
        self.tell(**command)
        return self.hear(bound)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.alive:
            os.kill(self.pid, number)

    def wait(self, bound: float = 30.0) -> int:
        """Wait for its end; return its exit code."""
        try:
            return self._process.wait(bound)
        except subprocess.TimeoutExpired:
            raise ChildError(f"{self.module} does not end within {bound:g} s") from None

    def kill(self) -> None:
        """End it at once, without any goodbye, also when it is stopped. Safe to call twice."""
        self.signal(signal.SIGKILL)
        self.wait()
        self._release()

    def _release(self) -> None:
        self._reader.join(10)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _end_block(self) -> None:
        self.kill()


# --------------------------------------------------------------------------------- the child's side


def end_with_parent() -> None:
    """Let the kernel end this process with the thread that started it, where it can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def answer(**values: Any) -> None:
    """Send one line to the parent."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def commands() -> Iterator[dict[str, Any]]:
    """Return the parent's commands until it closes our standard input."""
    for line in sys.stdin:
        yield json.loads(line)
