"""Worker: the parent's view of a child. Used only in the supervisor's thread."""

from __future__ import annotations

import multiprocessing
import signal
import socket as sockets
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from ..logs import get_logger
from .child import ASK_STATUS, MakeServer, run_child

_log = get_logger("mormot_ws.processes")

#: signals that a child receives only when it is ready for them
_LATER = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


class Worker:
    """A child, from its start to its end.

    :param listening: its listening sockets, of which the child gets copies.
    :param deadline: the monotonic time at which it has to listen.
    """

    def __init__(
        self,
        make_server: MakeServer,
        listening: list[sockets.socket],
        address: str,
        number: int,
        deadline: float,
    ) -> None:
        self.number = number
        #: ``starting``, ``listening`` or ``stopping``
        self.state = "starting"
        self.started_at = monotonic()
        #: the time by which it has to listen or end; None: no limit
        self.deadline: float | None = deadline
        #: True while an answer is pending
        self.asked = False
        #: why there is no server, in one line
        self.failure = ""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.pipe_open = True
        self._process = context.Process(
            target=run_child,
            args=(make_server, listening, address, number, theirs),
            name=f"mormot_ws {number}",
        )
        # the child inherits the blocked signals, and unblocks them when its handlers are installed
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LATER)
        try:
            self._process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            # so that the end of the child is the end of the pipe
            theirs.close()
        self.pid = self._process.pid or 0

    @property
    def waits_on(self) -> list[Connection | int]:
        """What becomes readable when something happens: its pipe and its sentinel."""
        ends: list[Connection | int] = [self._process.sentinel]
        return [self.pipe, *ends] if self.pipe_open else ends

    @property
    def has_ended(self) -> bool:
        """True if the child has ended."""
        return self._process.exitcode is not None

    @property
    def end(self) -> str:
        """How it has ended, in words."""
        code = self._process.exitcode
        if code is not None and code < 0:
            try:
                return f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"was killed by signal {-code}"
        return f"ended with the exit code {code}"

    def news(self) -> list[tuple[Any, ...]]:
        """Return the child's new messages, without waiting."""
        said: list[tuple[Any, ...]] = []
        try:
            while self.pipe_open and self.pipe.poll():
                said.append(self.pipe.recv())
        except (EOFError, OSError):
            self.pipe.close()
            self.pipe_open = False
        return said

    def has_answered(self) -> None:
        """Record that it has sent its status."""
        self.asked = False

    def listens(self) -> None:
        """Record that it listens."""
        self.state, self.deadline = "listening", None

    def fails(self, why: str) -> None:
        """Record why there is no server."""
        self.failure = why

    def ask(self) -> bool:
        """Ask for its status, unless an answer is pending; return whether to expect one."""
        if self.state == "listening" and not self.asked:
            self.asked = self._say(ASK_STATUS)
        return self.asked

    def stop(self, word: str, deadline: float) -> None:
        """Let it end normally; it is killed at the *deadline*."""
        if self.state != "stopping":
            self.state = "stopping"
            self.deadline = deadline
            self._say(word)

    def kill(self, why: str) -> None:
        """End it at once."""
        _log.warning("process %d (PID %d) %s: killing it", self.number, self.pid, why)
        self.deadline = None
        self._process.kill()

    def forget(self) -> None:
        """Release the resources of an ended child."""
        if self.pipe_open:
            self.pipe.close()
            self.pipe_open = False
        self._process.join()
        self._process.close()

    def _say(self, word: str) -> bool:
        try:
            self.pipe.send((word,))
        except OSError:
            # it has ended or is ending: its sentinel reports it
            return False
        return True
