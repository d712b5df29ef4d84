"""What runs in a child: its server, until the parent or SIGTERM ends it.

The parent and the child say to each other, through a pipe, tuples that begin with one of the words
below. The end of the pipe is the end of the parent, and so of the child.
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

#: from the parent: say what the server's status is
ASK_STATUS = "status"
#: from the parent: another one has the same socket, leave the visitors to it, then end
LEAVE = "leave"
#: from the parent: end, with 1001 to all clients
STOP = "stop"
#: from the child: it listens
LISTENING = "listening"
#: from the child: there is no server; the error in a line, and its traceback
FAILED = "failed"
#: from the child: the status
STATUS = "status"
#: from the child: the status at the end
ENDED = "ended"

#: how long the old server waits for those who are in the opening handshake, in seconds
_SETTLE_SECONDS = 2.0
#: how often it looks
_LOOK_SECONDS = 0.01

#: makes the server of one OS process of its sockets and its number
MakeServer = Callable[[list[sockets.socket], int], Server | ListeningServer]


def run_child(
    make_server: MakeServer,
    listening: list[sockets.socket],
    address: str,
    number: int,
    pipe: Connection,
) -> None:
    """Serve until the parent says that it is enough, or has gone, or SIGTERM comes."""
    # the terminal's Ctrl-C and hang-up go to all processes: the parent decides what they mean
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    # the signal itself writes its number: a handler of Python's runs too late for a thread that is
    # about to wait
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: _poke(wake))
    # the parent has blocked them until here
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
            "make_server(sockets, number) returns a Server, a WebSocketAsyncServer or a "
            f"WebSocketServer, not {type(server).__name__}"
        )
    if opened.address != address:
        raise ValueError(
            f"the server listens on {opened.address} instead of {address}: make_server(sockets, "
            "number) has to give its sockets to it, as in Server(socket=sockets)"
        )
    return server, opened


def _serve(server: ListeningServer, pipe: Connection, awake: int) -> bool:
    """Answer the parent until the end; return whether another OS process takes the visitors."""
    while True:
        ready = wait([pipe, awake])
        if awake in ready:
            # the application may have handlers for others
            if signal.SIGTERM in os.read(awake, 4096):
                _log.info("SIGTERM: %r ends", server)
                return False
            continue
        try:
            (word,) = pipe.recv()
        except (EOFError, OSError):
            _log.error("the parent process has gone: %r ends", server)
            return False
        if word == ASK_STATUS:
            _say(pipe, STATUS, server.status())
        else:
            return bool(word == LEAVE)


def _settle(server: ListeningServer) -> None:
    """Accept nobody, and wait until nobody is in the opening handshake; not for long."""
    server.leave_visitors()
    until = monotonic() + _SETTLE_SECONDS
    while not server.is_settled() and monotonic() < until:
        # no event tells the end of a handshake, and this happens once in the life of a server
        sleep(_LOOK_SECONDS)


def _poke(wake: int) -> None:
    """Wake the main thread, should the application have another descriptor for signals."""
    try:
        os.write(wake, bytes([signal.SIGTERM]))
    except OSError:
        # it is full, so the thread will wake
        return


def _say(pipe: Connection, *words: Any) -> None:
    try:
        pipe.send(words)
    except OSError as exc:
        _log.debug("the parent process cannot be told %s: %s", words[0], exc)
