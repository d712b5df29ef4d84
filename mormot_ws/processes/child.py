"""The code in a child: runs the server until the parent or SIGTERM ends it.

The parent and the child send each other tuples through a pipe, which begin with one of the words
below. The end of the pipe means the end of the parent, and ends the child too.
"""

from __future__ import annotations

import os
import signal
import socket as sockets
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from time import monotonic, sleep
from typing import Any

from ..front.server import Server
from ..logs import get_logger
from ..server.accepting import ListeningServer

_log = get_logger("mormot_ws.processes")

#: from the parent: send the server's status
ASK_STATUS = "status"
#: from the parent: another child has the same socket; leave new connections to it, then end
LEAVE = "leave"
#: from the parent: end, with 1001 to all clients
STOP = "stop"
#: from the child: it listens
LISTENING = "listening"
#: from the child: there is no server; with the error in one line, and its traceback
FAILED = "failed"
#: from the child: the status
STATUS = "status"
#: from the child: the status at the end
ENDED = "ended"

#: how long the old server waits for opening handshakes, in seconds
_SETTLE_SECONDS = 2.0
#: the interval of its checks, in seconds
_LOOK_SECONDS = 0.01

#: creates the server of one OS process from its sockets and its number
MakeServer = Callable[[list[sockets.socket], int], Server | ListeningServer]


def run_child(
    make_server: MakeServer,
    listening: list[sockets.socket],
    address: str,
    number: int,
    pipe: Connection,
) -> None:
    """Serve until a command of the parent, the end of the parent, or SIGTERM."""
    # Ctrl-C and hang-up of a terminal go to all processes: the parent decides what they mean
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    # the signal itself writes its number: a Python handler runs too late for a thread that is about
    # to wait
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: _poke(wake))
    # the parent has blocked the signals until here
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP, signal.SIGTERM))
    try:
        server, opened = _make(make_server, listening, address, number)
    except BaseException as exc:  # noqa: BLE001 - the parent is told, and logs it
        said = f"{type(exc).__name__}: {exc}"
        _say(pipe, FAILED, said, "".join(traceback.format_exception(exc)))
        sys.exit(1)
    _say(pipe, LISTENING)
    leaves = _serve(opened, pipe, awake)
    if leaves:
        _settle(opened)
    if isinstance(server, Server):
        server.close()
    else:
        server.free()
    _say(pipe, ENDED, opened.status())


def _make(
    make_server: MakeServer, listening: list[sockets.socket], address: str, number: int
) -> tuple[Server | ListeningServer, ListeningServer]:
    """Return the application's server, and the one underneath."""
    server = make_server(listening, number)
    if isinstance(server, Server):
        if not server.running:
            server.start()
        opened = server.server
    elif isinstance(server, ListeningServer):
        opened = server
    else:
        raise TypeError(
            "make_server(sockets, number) must return a Server, a WebSocketAsyncServer or a "
            f"WebSocketServer, not {type(server).__name__}"
        )
    if opened.address != address:
        raise ValueError(
            f"the server listens on {opened.address} instead of {address}: make_server(sockets, "
            "number) must pass its sockets on, as in Server(socket=sockets)"
        )
    return server, opened


def _serve(server: ListeningServer, pipe: Connection, awake: int) -> bool:
    """Answer the parent until the end; return whether another OS process takes over."""
    while True:
        ready = wait([pipe, awake])
        if awake in ready:
            # the application may have handlers for other signals
            if signal.SIGTERM in os.read(awake, 4096):
                _log.info("SIGTERM: stopping %r", server)
                return False
            continue
        try:
            (word,) = pipe.recv()
        except (EOFError, OSError):
            _log.error("the parent process is gone: stopping %r", server)
            return False
        if word == ASK_STATUS:
            _say(pipe, STATUS, server.status())
        else:
            return bool(word == LEAVE)


def _settle(server: ListeningServer) -> None:
    """Stop accepting connections, and wait for opening handshakes, but not for long."""
    server.leave_visitors()
    until = monotonic() + _SETTLE_SECONDS
    while not server.is_settled() and monotonic() < until:
        # no event reports the end of a handshake, and this happens once in the life of a server
        sleep(_LOOK_SECONDS)


def _poke(wake: int) -> None:
    """Wake the main thread, in case the application uses another descriptor for signals."""
    try:
        os.write(wake, bytes([signal.SIGTERM]))
    except OSError:
        # it is full, so the thread will wake up
        return


def _say(pipe: Connection, *words: Any) -> None:
    try:
        pipe.send(words)
    except OSError as exc:
        _log.debug("cannot send %s to the parent process: %s", words[0], exc)
