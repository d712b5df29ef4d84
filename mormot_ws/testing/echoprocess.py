"""EchoServerProcess: an echo server in an OS process that can be killed and frozen."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

from ..attributes import IS_INT, IS_TEXT, Check, KnownAttributes
from ..core.forks import dies_in_child
from ..process.freeing import FreedByWith
from .echoserver import EchoServer, hold_port

#: seconds that an OS process may take to start, and to end, on a busy machine
_PATIENCE = 30.0
#: a new interpreter may not find the package by itself; at the end of its path, the package's
#: folder does not hide anything else
_SOURCE = (
    "import sys; sys.path.append(sys.argv[1]); from mormot_ws.testing.echoprocess import serve;"
    " serve(*sys.argv[2:])"
)
_ROOT = str(Path(__file__).resolve().parents[2])


def serve(host: str, port: str) -> None:
    """Run an echo server until standard input ends: the main function of the OS process."""
    with EchoServer(host=host, port=int(port)):
        print("ready", flush=True)
        sys.stdin.read()


class EchoServerProcess(KnownAttributes, FreedByWith):
    """An echo server in an OS process of its own. It keeps its port between restarts.

    :param host: an IPv4 address to listen on.
    :param port: the port; 0: any free one (see :attr:`port`).

    It echoes every message, on any URI, with any sub-protocol that a client asks for. It listens
    when the constructor returns. The constructor raises ``OSError`` if the port is taken, and
    ``RuntimeError`` if the OS process does not start. As a context manager it calls :meth:`free`.
    The OS process ends together with ours, however that ends, unless it is frozen at that time. Any
    thread may call the methods, but only one at a time.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {"host": IS_TEXT, "port": IS_INT}

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        IS_INT("port", port)
        self._process: subprocess.Popen[str] | None = None
        self._frozen = False
        #: the port, which stays reserved while the server is stopped
        self.port: int
        self.port, self._holder = hold_port(host, port)
        dies_in_child(self)
        try:
            self.start()
        except BaseException:
            self.free()
            raise

    def die_in_child(self) -> None:
        """In a forked child: leave the OS process to our parent."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    # the process is already gone
                    with contextlib.suppress(OSError):
                        pipe.close()
            # otherwise its finaliser warns that it is still running
            process.returncode = 0

    @property
    def uri(self) -> str:
        """The ``ws://`` URI of the server."""
        return f"ws://{self.host}:{self.port}/"

    @property
    def running(self) -> bool:
        """True while the OS process exists, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The ID of the OS process; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def start(self) -> None:
        """Start an OS process that listens on the same port. Does nothing while there is one."""
        if self.running:
            return
        self.kill()  # clean up after a process that ended by itself
        process = subprocess.Popen(
            [sys.executable, "-c", _SOURCE, _ROOT, self.host, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C must reach only the tests
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._process = process
        self._frozen = False
        first: queue.SimpleQueue[str] = queue.SimpleQueue()
        # a daemon thread: it ends with the OS process at the latest
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
                f"the echo process did not start on port {self.port} (see its messages on"
                " standard error)"
            )
        reader.join(_PATIENCE)

    def stop(self) -> int:
        """Stop the OS process gracefully; return its exit code, 0 for success.

        Each client gets a close frame (1001), then the OS process ends. It is killed if it has not
        ended after 30 s. Returns 0 if there is no OS process.
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
        """Kill the OS process (SIGKILL), frozen or not; the kernel closes its connections.

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
        """Suspend the OS process (SIGSTOP): its connections stay open, but nothing answers.

        The kernel still accepts new connections.
        """
        if self.pid and not self._frozen:
            self._suspend(True)
            self._frozen = True

    def thaw(self) -> None:
        """Resume the OS process after :meth:`freeze` (SIGCONT)."""
        if self.pid and self._frozen:
            self._suspend(False)
            self._frozen = False

    def _suspend(self, suspended: bool) -> None:
        if sys.platform != "win32":
            os.kill(self.pid, signal.SIGSTOP if suspended else signal.SIGCONT)
            return
        # Windows has no signals for this, but its kernel can do it
        import ctypes

        name = "NtSuspendProcess" if suspended else "NtResumeProcess"
        process = self._process
        assert process is not None
        status = getattr(ctypes.WinDLL("ntdll"), name)(ctypes.c_void_p(int(process._handle)))
        if status:
            raise OSError(f"{name} failed: {status & 0xFFFFFFFF:#x}")

    def free(self) -> None:
        """Stop the OS process and release the port. Safe to call twice."""
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
