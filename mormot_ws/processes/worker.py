"""Worker: what the parent knows of one child. Used by the supervisor's thread only."""

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

#: signals that a child gets only when it is ready for them
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
        #: when it has to listen, or to have ended; None: it may take its time
        self.deadline: float | None = deadline
        #: True while it owes an answer
        self.asked = False
        #: why there is no server, in a line
        self.failure = ""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.pipe_open = True
        self._process = context.Process(
            target=run_child,
            args=(make_server, listening, address, number, theirs),
            name=f"mormot_ws {number}",
        )
        # the child inherits this, and takes it back when its handlers are there
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
        """What becomes readable when there is news: its pipe, and its end."""
        ends: list[Connection | int] = [self._process.sentinel]
        return [self.pipe, *ends] if self.pipe_open else ends

    @property
    def has_ended(self) -> bool:
        """True when the child has ended."""
        return self._process.exitcode is not None

    @property
    def end(self) -> str:
        """How it has ended, in words."""
        code = self._process.exitcode
        if code is not None and code < 0:
            try:
                return f"was ended by {signal.Signals(-code).name}"
            except ValueError:
                return f"was ended by the signal {-code}"
        return f"ended with the exit code {code}"

    def news(self) -> list[tuple[Any, ...]]:
        """Return what the child has said since, without waiting."""
        said: list[tuple[Any, ...]] = []
        try:
            while self.pipe_open and self.pipe.poll():
                said.append(self.pipe.recv())
        except (EOFError, OSError):
            self.pipe.close()
            self.pipe_open = False
        return said

    def has_answered(self) -> None:
        """Note that it has said its status."""
        self.asked = False

    def listens(self) -> None:
        """Note that it listens."""
        self.state, self.deadline = "listening", None

    def fails(self, why: str) -> None:
        """Note why there is no server."""
        self.failure = why

    def ask(self) -> bool:
        """Ask for its status, unless it owes an answer; return whether one is to be expected."""
        if self.state == "listening" and not self.asked:
            self.asked = self._say(ASK_STATUS)
        return self.asked

    def stop(self, word: str, deadline: float) -> None:
        """Let it end in order, until *deadline*; then it is killed."""
        if self.state != "stopping":
            self.state = "stopping"
            self.deadline = deadline
            self._say(word)

    def kill(self, why: str) -> None:
        """End it at once."""
        _log.warning("process %d (PID %d) %s: it is killed", self.number, self.pid, why)
        self.deadline = None
        self._process.kill()

    def forget(self) -> None:
        """Give back what an ended child has left here."""
        if self.pipe_open:
            self.pipe.close()
            self.pipe_open = False
        self._process.join()
        self._process.close()

    def _say(self, word: str) -> bool:
        try:
            self.pipe.send((word,))
        except OSError:
            # it has ended, or is ending: its sentinel tells
            return False
        return True
