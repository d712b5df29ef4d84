"""Supervisor: the thread in the parent that starts, replaces and stops the children.

Only this thread uses the children. Others post commands, which wake it.
"""

from __future__ import annotations

import contextlib
import socket as sockets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

from ..errors import HttpServerError
from ..logs import OwnText, get_logger
from ..status import ServerStatus
from .child import ENDED, FAILED, LEAVE, LISTENING, STATUS, STOP, MakeServer
from .status import ProcessesStatus, ProcessStatus, no_counts, total_of
from .worker import Worker

_log = get_logger("mormot_ws.processes")

#: how many processes of each number may die within the time below; after one more, all are stopped
_MOST_DEATHS = 5
_DEATHS_SECONDS = 60.0
#: seconds to wait before the second start; doubled each time
_FIRST_WAIT = 0.25
#: seconds that the old server may take for opening handshakes, in addition to the time to stop
_SETTLE_SECONDS = 3.0


@dataclass
class Slot:
    """The place of one of the OS processes, whichever process currently has it."""

    number: int
    #: the sockets, which stay open here, so that waiting connections are not lost with a child
    listening: list[sockets.socket]
    worker: Worker | None = None
    #: is to take its place
    successor: Worker | None = None
    #: when it has to be started again; None: it is running
    start_at: float | None = None
    starts: int = 0
    deaths: list[float] = field(default_factory=list)

    def wait_after_death(self, now: float) -> float | None:
        """Count a death; return the seconds to wait, or None after too many."""
        self.deaths = [at for at in self.deaths if now - at < _DEATHS_SECONDS]
        self.deaths.append(now)
        count = len(self.deaths)
        if count > _MOST_DEATHS:
            return None
        return 0.0 if count == 1 else _FIRST_WAIT * 2 ** (count - 2)


class StatusRequest:
    """A request by a caller of ``status()``."""

    def __init__(self) -> None:
        #: set by the caller, which then posts it again: the rest will not arrive in time
        self.at_once = False
        #: the numbers that have not answered; written by the supervisor
        self.missing: set[int] = set()
        self.answers: dict[int, ServerStatus] = {}
        self.result: ProcessesStatus | None = None
        self.done = threading.Event()


class ReplaceRequest:
    """A request by a caller of ``replace()``."""

    def __init__(self) -> None:
        self.replaced = False
        self.done = threading.Event()


class Supervisor:
    """Starts a child for each item of *listening*, and keeps them running.

    :param start_seconds: the time in which a child has to listen.
    :param stop_seconds: the time in which a child has to end.
    :param at_end: called without arguments in the supervisor's thread when all have ended.
    """

    def __init__(
        self,
        make_server: MakeServer,
        listening: list[list[sockets.socket]],
        place: tuple[str, str, int],
        start_seconds: float,
        stop_seconds: float,
        at_end: Callable[[], Any],
    ) -> None:
        self._make_server = make_server
        self._address, self._host, self._port = place
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._at_end = at_end
        self._slots = [Slot(number, each) for number, each in enumerate(listening)]
        #: children that have been replaced or are being stopped
        self._leaving: list[Worker] = []
        #: the slots still to be replaced
        self._to_replace: deque[Slot] = deque()
        self._replace_requests: list[ReplaceRequest] = []
        self._status_requests: list[StatusRequest] = []
        self._ended_counts = no_counts(self._host, self._port)
        self._stopping = False
        #: why all processes were stopped, or None
        self.failure: HttpServerError | None = None
        #: set when all children listen for the first time, or the supervisor has ended
        self.ready = threading.Event()
        #: set when all have ended
        self.ended = threading.Event()
        # appended to by any thread and by signal handlers
        self._commands: deque[str | StatusRequest | ReplaceRequest] = deque()
        self._awake, self._wake = sockets.socketpair()
        for end in (self._awake, self._wake):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mormot_ws processes", daemon=True)

    # ---------------------------------------------------------------------------------- any thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, command: str | StatusRequest | ReplaceRequest) -> None:
        """Post a request, ``stop`` or ``replace``. Never waits; signal handlers may call it."""
        self._commands.append(command)
        # full: it will wake up; closed: it has ended
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")
        if self.ended.is_set():
            self._answer_all()

    def join(self, seconds: float) -> bool:
        """Wait until all have ended; return whether they have."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------------ the supervisor's own

    def _run(self) -> None:
        try:
            self._supervise()
        except BaseException as exc:  # noqa: BLE001 - the waiting threads get it
            _log.error("stopping all processes: %s", exc, exc_info=exc)
            self.failure = HttpServerError(f"the processes cannot be supervised: {exc}")
            for worker in self._workers():
                worker.kill("has no supervisor")
                worker.forget()
        finally:
            self._close_sockets()
            self.ended.set()
            self.ready.set()
            self._answer_all()
            self._awake.close()
            self._wake.close()
            self._at_end()

    def _supervise(self) -> None:
        self._start(self._slots[0])
        while True:
            self._obey()
            self._look()
            workers = self._workers()
            if self._stopping and not workers:
                return
            news: list[Connection | sockets.socket | int] = [self._awake]
            for worker in workers:
                news += worker.waits_on
            wait(news, self._seconds())
            with contextlib.suppress(BlockingIOError):
                self._awake.recv(4096)
            for worker in workers:
                # check first whether it has ended, so that nothing arrives after the pipe was read
                has_ended = worker.has_ended
                for word, *rest in worker.news():
                    self._told(worker, word, rest)
                if has_ended:
                    self._over(worker)

    def _workers(self) -> list[Worker]:
        current = [worker for slot in self._slots for worker in (slot.worker, slot.successor)]
        return [worker for worker in (*current, *self._leaving) if worker is not None]

    def _seconds(self) -> float | None:
        """Return how long it may wait."""
        times = [worker.deadline for worker in self._workers()]
        times += [slot.start_at for slot in self._slots]
        due = [at for at in times if at is not None]
        return max(0.0, min(due) - monotonic()) if due else None

    # ------------------------------------------------------------------------------------- commands

    def _obey(self) -> None:
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, StatusRequest):
                if command.at_once:
                    self._answer(command, at_once=True)
                else:
                    self._ask(command)
            elif command == "stop":
                self._stop()
            elif self._stopping or not self.ready.is_set():
                _log.info("replace() ignored: the processes are starting or stopping")
                if isinstance(command, ReplaceRequest):
                    command.done.set()
            else:
                if isinstance(command, ReplaceRequest):
                    self._replace_requests.append(command)
                _log.info("replacing the processes")
                self._to_replace = deque(self._slots)
                self._replace_next()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        # connections are refused as soon as the children stop listening
        self._close_sockets()
        self._end_replacing(False)
        deadline = monotonic() + self._stop_seconds
        for slot in self._slots:
            slot.start_at = None
        for worker in self._workers():
            worker.stop(STOP, deadline)

    def _fail(self, text: str) -> None:
        if not self._stopping:
            self.failure = HttpServerError(text)
        self._stop()

    def _close_sockets(self) -> None:
        for slot in self._slots:
            for sock in slot.listening:
                sock.close()

    # --------------------------------------------------------------------------------------- status

    def _ask(self, request: StatusRequest) -> None:
        for slot in self._slots:
            if slot.worker is not None and slot.worker.ask():
                request.missing.add(slot.number)
        self._status_requests.append(request)
        self._answer(request)

    def _answer(self, request: StatusRequest, at_once: bool = False) -> None:
        """Answer *request* if nothing is missing."""
        if request.missing and not at_once:
            return
        with contextlib.suppress(ValueError):
            self._status_requests.remove(request)
        found = []
        for slot in self._slots:
            worker = slot.worker
            found.append(
                ProcessStatus(
                    slot.number,
                    0 if worker is None else worker.pid,
                    "waiting" if worker is None else worker.state,
                    slot.starts,
                    request.answers.get(slot.number),
                )
            )
        total = total_of(self._host, self._port, request.answers.values(), (self._ended_counts,))
        request.result = ProcessesStatus(tuple(found), total)
        request.done.set()

    def _answer_all(self) -> None:
        """Release all waiting threads, after the end."""
        self._end_replacing(False)
        while self._commands:
            try:
                command = self._commands.popleft()
            except IndexError:
                break
            if isinstance(command, StatusRequest):
                self._answer(command, at_once=True)
            elif isinstance(command, ReplaceRequest):
                command.done.set()
        for request in list(self._status_requests):
            self._answer(request, at_once=True)

    # -------------------------------------------------------------------------- starts and deaths

    def _new_worker(self, slot: Slot) -> Worker:
        slot.starts += 1
        deadline = monotonic() + self._start_seconds
        return Worker(self._make_server, slot.listening, self._address, slot.number, deadline)

    def _start(self, slot: Slot) -> None:
        slot.start_at = None
        try:
            slot.worker = self._new_worker(slot)
        except Exception as exc:  # noqa: BLE001 - no memory, no descriptor, nothing to pickle
            if not self.ready.is_set():
                self._fail(f"process {slot.number} cannot be started: {exc}")
            else:
                self._died(slot, f"cannot be started: {exc}")

    def _look(self) -> None:
        """Handle starts and time-outs that are due."""
        now = monotonic()
        for slot in self._slots:
            if slot.start_at is not None and slot.start_at <= now:
                self._start(slot)
        for worker in self._workers():
            if worker.deadline is not None and worker.deadline <= now:
                if worker.state == "starting":
                    # it may have reported why there is no server, and be slow to end
                    if not worker.failure:
                        worker.fails(f"did not listen within {self._start_seconds:g} s")
                    worker.kill(worker.failure)
                else:
                    worker.kill("did not end in time")

    def _told(self, worker: Worker, word: str, rest: list[Any]) -> None:
        """Handle a message of a child."""
        if word == STATUS:
            worker.has_answered()
            for request in list(self._status_requests):
                if worker.number in request.missing:
                    request.missing.discard(worker.number)
                    request.answers[worker.number] = rest[0]
                    self._answer(request)
        elif word == ENDED:
            counts = (self._ended_counts, rest[0])
            self._ended_counts = total_of(self._host, self._port, (), counts)
        elif word == FAILED:
            worker.fails(f"could not create its server: {rest[0]}")
            _log.error(
                "process %d (PID %d) %s\n%s",
                worker.number,
                worker.pid,
                worker.failure,
                OwnText(rest[1]),
            )
        elif word == LISTENING and worker.state == "starting":
            worker.listens()
            _log.info("process %d (PID %d) listens", worker.number, worker.pid)
            self._listens(worker)

    def _listens(self, worker: Worker) -> None:
        slot = self._slots[worker.number]
        if slot.successor is worker:
            self._succeed(slot)
            return
        if self.ready.is_set():
            self._replace_next()
            return
        # the first one has shown that a server can be created: now start all others
        for other in self._slots:
            if other.worker is None:
                self._start(other)
        if all(
            each.worker is not None and each.worker.state == "listening" for each in self._slots
        ):
            _log.info("%d processes listen on %s", len(self._slots), self._address)
            self.ready.set()

    def _over(self, worker: Worker) -> None:
        """Handle the end of a child."""
        for request in list(self._status_requests):
            request.missing.discard(worker.number)
            self._answer(request)
        slot = self._slots[worker.number]
        end = worker.failure or worker.end
        pid, expected = worker.pid, worker.state == "stopping"
        worker.forget()
        if worker in self._leaving:
            self._leaving.remove(worker)
            _log.info("process %d (PID %d) has been replaced, and %s", slot.number, pid, end)
            self._replace_next()
        elif slot.successor is worker:
            slot.successor = None
            if not self._stopping:
                _log.error("process %d was not replaced: the new one %s", slot.number, end)
            self._end_replacing(False)
            if slot.worker is None and not self._stopping:
                self._died(slot, end)
        else:
            slot.worker = None
            if not expected:
                self._died(slot, f"(PID {pid}) {end}")

    def _died(self, slot: Slot, end: str) -> None:
        if self._stopping:
            return
        if not self.ready.is_set():
            hint = ""
            if "ended with" in end:
                # its own traceback is on standard error
                hint = (
                    "; is the start of the program below if __name__ == '__main__', and "
                    "make_server above it?"
                )
            self._fail(f"process {slot.number} {end} before all processes listened{hint}")
            return
        seconds = slot.wait_after_death(monotonic())
        if seconds is None:
            text = f"process {slot.number} {end}; deaths in the last minute: {len(slot.deaths)}"
            _log.error("%s: stopping all processes", text)
            self._fail(text)
            return
        if slot.successor is not None:
            # it is being replaced anyway
            _log.error("process %d %s while it was being replaced", slot.number, end)
            return
        _log.error("process %d %s: starting it again in %g s", slot.number, end, seconds)
        slot.start_at = monotonic() + seconds

    # ------------------------------------------------------------------------------------ replacing

    def _replace_next(self) -> None:
        """Replace the next process, if no other one is being replaced."""
        if self._leaving or any(slot.successor is not None for slot in self._slots):
            return
        while self._to_replace and not self._stopping:
            slot = self._to_replace.popleft()
            if slot.worker is None:
                # the process to be started will be the new one
                continue
            try:
                slot.successor = self._new_worker(slot)
            except Exception as exc:  # noqa: BLE001 - no memory, no descriptor
                _log.error("process %d cannot be replaced: %s", slot.number, exc)
                self._end_replacing(False)
            return
        self._end_replacing(True)

    def _succeed(self, slot: Slot) -> None:
        """Let the successor, which now listens, take the place of its predecessor."""
        old, slot.worker, slot.successor = slot.worker, slot.successor, None
        if old is not None:
            self._leaving.append(old)
            old.stop(LEAVE, monotonic() + _SETTLE_SECONDS + self._stop_seconds)
        else:
            self._replace_next()

    def _end_replacing(self, replaced: bool) -> None:
        self._to_replace.clear()
        requests, self._replace_requests = self._replace_requests, []
        for request in requests:
            request.replaced = replaced
            request.done.set()
