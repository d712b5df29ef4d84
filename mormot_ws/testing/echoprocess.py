"""EchoServerProcess: the echo server in an OS process that can be killed and frozen.

No test and no pytest in here.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

from ..core.forks import dies_in_child
from ..process.freeing import FreedByWith
from .echoserver import EchoServer, hold_port

#: seconds that a process may take to start on a busy machine, and to end
_PATIENCE = 30.0
#: the package may have been found in a way that a new interpreter does not know; last in its path
#: it changes nothing else
_SOURCE = (
    "import sys; sys.path.append(sys.argv[1]); from mormot_ws.testing.echoprocess import serve;"
    " serve(*sys.argv[2:])"
)
_ROOT = str(Path(__file__).resolve().parents[2])


def serve(host: str, port: str) -> None:
    """What the process runs: an echo server, until its standard input ends."""
    with EchoServer(host=host, port=int(port)):
        print("ready", flush=True)
        sys.stdin.read()


class EchoServerProcess(FreedByWith):
    """An echo server in an OS process of its own, on a port that stays reserved without it.

    :param host: an IPv4 address to listen on.
    :param port: 0: any free one (see :attr:`port`).

    It echoes every message, on any URI, under whatever sub-protocol a client asks for. It listens
    when the constructor returns; that raises ``OSError`` when the port is taken, ``RuntimeError``
    when the process does not start. It is a context manager that calls :meth:`free`. The process
    ends with ours, however that ends, unless it is frozen then. Its methods may be called from any
    thread, by one at a time.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self._process: subprocess.Popen[str] | None = None
        self._frozen = False
        #: the port, which stays its own while it is stopped
        self.port: int
        self.port, self._holder = hold_port(host, port)
        dies_in_child(self)
        try:
            self.start()
        except BaseException:
            self.free()
            raise

    def die_in_child(self) -> None:
        """In a forked child: the process is our parent's child, and no business of ours."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    # one that has gone: nothing to say to it
                    with contextlib.suppress(OSError):
                        pipe.close()
            # else its finalizer says that it still runs
            process.returncode = 0

    @property
    def uri(self) -> str:
        """Its ``ws://`` address."""
        return f"ws://{self.host}:{self.port}/"

    @property
    def running(self) -> bool:
        """True while there is a process, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of the process; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def start(self) -> None:
        """Start a process that listens on the same port. Does nothing while there is one."""
        if self.running:
            return
        self.kill()  # what has ended by itself
        process = subprocess.Popen(
            [sys.executable, "-c", _SOURCE, _ROOT, self.host, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests alone
        )
        self._process = process
        self._frozen = False
        first: queue.SimpleQueue[str] = queue.SimpleQueue()
        # daemon: ends with the process, at the latest
        reader = threading.Thread(
            target=_read_line,
            args=(process, first),
            name=f"echo process {process.pid} reader",
            daemon=True,
        )
        reader.start()
        try:
            line = first.get(timeout=_PATIENCE)
        except queue.Empty:
            line = ""
        if line.strip() != "ready":
            self.kill()
            raise RuntimeError(
                f"the echo process does not start on port {self.port} (its messages are on the"
                " standard error)"
            )
        reader.join(_PATIENCE)

    def stop(self) -> int:
        """Stop it gracefully and return its exit code, 0 when all went well.

        Each client gets a close frame (1001), then the process ends.

        Returns 0 while there is no process. Kills one that does not end within 30 s.
        """
        process = self._process
        if process is None:
            return 0
        self.thaw()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        self.kill()
        return process.returncode

    def kill(self) -> None:
        """Kill the process (SIGKILL), frozen or not: the kernel closes its connections.

        Does nothing while there is none.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(_PATIENCE)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def freeze(self) -> None:
        """Stop the process from running (SIGSTOP): its connections stay open, nobody answers.

        Its kernel still accepts new ones.
        """
        if self.pid and not self._frozen:
            os.kill(self.pid, signal.SIGSTOP)
            self._frozen = True

    def thaw(self) -> None:
        """Undo :meth:`freeze` (SIGCONT)."""
        if self.pid and self._frozen:
            os.kill(self.pid, signal.SIGCONT)
            self._frozen = False

    def free(self) -> None:
        """Stop the process, and give the port back. Safe to call twice."""
        self.stop()
        if self._holder is not None:
            self._holder.close()

    def __repr__(self) -> str:
        state = (
            f"{'frozen' if self._frozen else 'running'} pid={self.pid}"
            if self.running
            else "stopped"
        )
        return f"<EchoServerProcess {self.host}:{self.port} {state}>"


def _read_line(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    lines.put("" if process.stdout is None else process.stdout.readline())
