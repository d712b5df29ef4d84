"""ServerProcesses and run_processes: run one server in several OS processes."""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import socket as sockets
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Any, ClassVar, TypeVar

from ..callbacks import check_callback
from ..errors import HttpServerError, WebSocketsError
from ..front.attributes import FixedAttributes
from ..front.signals import SignalQueue, StopSignals
from ..logs import get_logger
from ..process.freeing import ClosedByWith
from ..server.listener import Listener
from ..server.listening import Place, listen
from .child import MakeServer
from .status import ProcessesStatus
from .supervisor import ReplaceRequest, StatusRequest, Supervisor

_log = get_logger("mormot_ws.processes")

_MOST = 1024
#: how long ``status()`` waits for the OS processes, in seconds
_STATUS_SECONDS = 2.0

_Processes = TypeVar("_Processes", bound="ServerProcesses")


class ServerProcesses(FixedAttributes, ClosedByWith):
    """Runs one server in several OS processes on one machine, so that Python uses several cores.

    :param make_server: ``f(sockets, number)``, called in each OS process. It returns a
        :class:`Server`, a :class:`WebSocketAsyncServer` or a :class:`WebSocketServer` that listens
        on *sockets* (its parameter ``socket``). *number* counts from 0. It is pickled, so it must
        be a module-level function or a ``functools.partial`` of one.
    :param count: the number of OS processes.
    :param port: where to listen, as for :class:`WebSocketServer`; ``0``: a free port.
    :param socket: instead of *port*, one or several listening sockets.
    :param reuse_port: let other programs listen on the same port.
    :param unix_mode: the permissions of the file of ``unix:/path``.
    :param start_timeout: the maximum time for an OS process to start listening, in milliseconds.
    :param stop_timeout: the maximum time for an OS process to end, in milliseconds; after that it
        is killed.

    The parent opens and keeps the listening sockets, but does not serve clients itself. An OS
    process that ends is started again: at once, then after growing waits. If one ends six times
    within a minute, all of them are stopped, with an ERROR in the log. Raises ``ValueError`` or
    ``TypeError`` for invalid arguments, and ``ValueError`` on Windows, which cannot share listening
    sockets this way.
    """

    __slots__ = (
        "_at_end",
        "_count",
        "_letters",
        "_listener",
        "_make_server",
        "_place",
        "_start_ms",
        "_stop_ms",
        "_supervisor",
    )

    _ELSEWHERE: ClassVar[dict[str, str]] = {
        "stop": "close()",
        "free": "close()",
        "reload": "replace()",
        "restart": "replace()",
    }

    def __init__(
        self,
        make_server: MakeServer,
        count: int,
        port: int | str | None = None,
        *,
        socket: sockets.socket | Iterable[sockets.socket] | None = None,
        reuse_port: bool = False,
        unix_mode: int | None = None,
        start_timeout: int = 60_000,
        stop_timeout: int = 10_000,
    ) -> None:
        if sys.platform == "win32":
            raise ValueError("not supported on Windows: use one server in one process")
        _check_number("count", count, _MOST)
        _check_number("start_timeout", start_timeout)
        _check_number("stop_timeout", stop_timeout)
        if not callable(make_server):
            raise TypeError(
                f"make_server must be a function f(sockets, number), not {make_server!r}"
            )
        try:
            pickle.dumps(make_server)
        except Exception as exc:
            raise ValueError(
                "make_server must be a module-level function, which other processes can "
                f"import: {exc}"
            ) from exc
        self._make_server = make_server
        self._count = count
        self._place = Place.of(port, socket, reuse_port, unix_mode)
        self._start_ms = start_timeout
        self._stop_ms = stop_timeout
        self._listener: Listener | None = None
        self._supervisor: Supervisor | None = None
        self._at_end: Callable[[], Any] | None = None
        # the event for which run() waits
        self._letters: SignalQueue[str] = SignalQueue()

    # ------------------------------------------------------------------------------- start and stop

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or :meth:`close`, then close all connections with 1001.

        SIGHUP calls :meth:`replace`. Call it in the main thread; in any other thread it does not
        handle signals. Raises :class:`HttpServerError` if it cannot listen, if a server cannot be
        created, or if the processes have ended too often.
        """
        import signal

        letters = self._letters
        stop, change = (lambda: letters.put("stop")), (lambda: letters.put("replace"))
        with StopSignals(stop, {signal.SIGHUP: change}):
            try:
                supervisor = self._supervisor or self._begin()
                while letters.get() == "replace":
                    supervisor.post("replace")
            finally:
                self.close()
        if supervisor.failure is not None:
            raise supervisor.failure

    def start(self) -> None:
        """Start the processes; return when all of them listen.

        Raises :class:`HttpServerError` if it cannot listen or a server cannot be created; the log
        then contains the traceback.
        """
        supervisor = self._begin()
        # the supervisor has a time-out for each process
        supervisor.ready.wait((2 * self._start_ms + self._stop_ms) / 1000 + 5)
        if supervisor.failure is not None or not supervisor.ready.is_set():
            failure = supervisor.failure
            self.close()
            raise failure or HttpServerError("the processes did not listen in time")

    def close(self) -> None:
        """Stop all processes, and close all connections with 1001.

        Takes up to *stop_timeout*; processes that have not ended by then are killed. Safe to call
        twice, and from any thread.
        """
        supervisor, listener = self._supervisor, self._listener
        if supervisor is None:
            return
        atexit.unregister(self.close)
        supervisor.post("stop")
        supervisor.join(self._stop_ms / 1000 + 5)
        if listener is not None:
            listener.close()

    def __enter__(self: _Processes) -> _Processes:
        self.start()
        return self

    def replace(self) -> bool:
        """Replace the processes one by one, e.g. to load newer code, and wait until that is done.

        A new process is started. When it listens, the old one stops accepting connections, lets
        opening handshakes finish, and closes its connections with 1001. No connection is refused.
        Returns False if a new process does not listen in time: the old one is then kept, and the
        log says why.
        """
        request = ReplaceRequest()
        self._running().post(request)
        request.done.wait(self._count * (self._start_ms + self._stop_ms) / 1000 + 10)
        return request.replaced

    def replace_later(self) -> None:
        """Start what :meth:`replace` does, without waiting. May be called in signal handlers."""
        self._running().post("replace")

    # --------------------------------------------------------------------------------------- status

    def status(self) -> ProcessesStatus:
        """Return a snapshot of all processes, and the sums.

        Asks the processes and waits at most 2 s; those that have not answered by then have no
        status.
        """
        supervisor = self._running()
        request = StatusRequest()
        supervisor.post(request)
        if not request.done.wait(_STATUS_SECONDS):
            request.at_once = True
            supervisor.post(request)
            request.done.wait(_STATUS_SECONDS)
        if request.result is None:
            raise WebSocketsError("the processes did not answer")
        return request.result

    @property
    def host(self) -> str:
        """The address without the port; before the start, the requested one."""
        return self._place.address if self._listener is None else self._listener.host

    @property
    def port(self) -> int:
        """The port; before the start, the requested one."""
        return self._place.port if self._listener is None else self._listener.port

    @property
    def address(self) -> str:
        """Where it listens, e.g. ``'127.0.0.1:8999'``; before the start, as requested."""
        return str(self._place) if self._listener is None else self._listener.address

    def __repr__(self) -> str:
        return f"<ServerProcesses {self.address} count={self._count}>"

    # -------------------------------------------------------------------------------------- private

    def call_at_end(self, callback: Callable[[], Any]) -> None:
        """Call *callback* when all processes have ended, in a thread of this object.

        They end after :meth:`close`, or because one of them has ended too often. Call this before
        :meth:`start`.
        """
        check_callback(callback, "callback")
        self._at_end = callback

    def _ended(self) -> None:
        self._letters.put("ended")
        if self._at_end is not None:
            try:
                self._at_end()
            except Exception:  # noqa: BLE001
                _log.exception("%r: the callback at its end failed", self)

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise WebSocketsError("the processes are not running: call run(), start() or use with")
        return self._supervisor

    def _begin(self) -> Supervisor:
        """Listen, and start the supervisor."""
        if self._supervisor is not None:
            raise WebSocketsError("already started: create another ServerProcesses")
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(
                "this process was started by ServerProcesses and imports the program: put the "
                "start of the program below if __name__ == '__main__'"
            )
        # now, because later it would unblock signals that are blocked while a child is started
        resource_tracker.ensure_running()
        listening = self._listen()
        assert self._listener is not None
        listener = self._listener
        supervisor = Supervisor(
            self._make_server,
            listening,
            (listener.address, listener.host, listener.port),
            self._start_ms / 1000,
            self._stop_ms / 1000,
            self._ended,
        )
        self._supervisor = supervisor
        atexit.register(self.close)
        supervisor.start()
        return supervisor

    def _listen(self) -> list[list[sockets.socket]]:
        """Return the listening sockets of each process."""
        place = self._place
        # elsewhere the kernel does not distribute connections evenly, so they share one socket
        divided = place.is_ip and sys.platform == "linux" and self._count > 1
        if divided and not place.reuse_port:
            # another program on this port is an error, as for a single server
            probe = place.open()
            probe.close()
            place = replace(place, port=probe.port, reuse_port=True)
        self._listener = place.open()
        found = [list(self._listener.sockets)]
        if divided:
            try:
                for _ in range(1, self._count):
                    found.append(listen(place.address, self._listener.port, True))
            except HttpServerError:
                for sock in [sock for each in found for sock in each]:
                    sock.close()
                self._listener.close()
                raise
        else:
            found += [[sock.dup() for sock in found[0]] for _ in range(1, self._count)]
        return found


def run_processes(
    make_server: MakeServer,
    count: int,
    port: int | str | None = None,
    *,
    socket: sockets.socket | Iterable[sockets.socket] | None = None,
    reuse_port: bool = False,
    unix_mode: int | None = None,
    start_timeout: int = 60_000,
    stop_timeout: int = 10_000,
) -> None:
    """Serve in *count* OS processes until Ctrl-C or SIGTERM; SIGHUP replaces them.

    The parameters are those of :class:`ServerProcesses`, and the exceptions are those of its
    constructor and of ``run()``. ``make_server(sockets, number)`` is called in each process.
    """
    ServerProcesses(
        make_server,
        count,
        port,
        socket=socket,
        reuse_port=reuse_port,
        unix_mode=unix_mode,
        start_timeout=start_timeout,
        stop_timeout=stop_timeout,
    ).run()


def _check_number(name: str, value: object, most: int = 86_400_000) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be from 1 to {most}, not {value}")
