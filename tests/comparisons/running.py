"""Starting the programs that are compared, and telling what they have said."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.children import HOST, fixed_port
from tests.support.programs import Program
from tests.support.waiting import wait_for

FOLDER = Path(__file__).with_name("programs")
OURS = "mormot_ws"
SOCKETIO = "python-socketio"
#: seconds for what should happen in the end
BOUND = 30.0
#: seconds between two lines that are entered until one is answered
_PROBE = 0.25


class Compared(Program):
    """A program as its users run it: without the checks of the tests."""

    _options = ()


def uri(library: str, port: int) -> str:
    """Return where a client of *library* connects to."""
    return f"http://{HOST}:{port}" if library == SOCKETIO else f"ws://{HOST}:{port}/"


def start_client(library: str, task: str, port: int) -> Compared:
    """Start the client of a task; it connects to *port*."""
    return Compared(FOLDER / library / f"{task}_client.py", uri(library, port))


def start_server(library: str, task: str, port: int) -> Compared:
    """Start the server of a task, and wait until it listens on *port*."""
    return listening(Compared(FOLDER / library / f"{task}_server.py", str(port)), port)


def start_echo_server(library: str, port: int) -> Compared:
    """Start what the echo clients connect to; not a part of the comparison."""
    kind = "socketio" if library == SOCKETIO else "plain"
    return listening(Compared("-m", "tests.comparisons.echo_server", kind, str(port)), port)


def listening(server: Compared, port: int) -> Compared:
    """Wait until *server* listens on *port*, and return it."""

    def listens() -> bool:
        assert not server.has_ended, server.output
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 5):
            return True
        return False

    try:
        wait_for(listens, BOUND, "listening")
    except BaseException:
        server.__exit__(None, None, None)
        raise
    return server


@contextlib.contextmanager
def stopped(program: Compared) -> Iterator[None]:
    """End *program* at the end of the block."""
    with program:
        yield


def new_port() -> int:
    """Return a port for a server that may be absent."""
    return fixed_port()


def seconds_until_answer(client: Compared, answer: str, line: str) -> float:
    """Enter *line* again and again until a line with *answer* comes; return the seconds it took.

    Raises ``AssertionError`` when none comes.
    """
    begin = time.monotonic()
    while True:
        with contextlib.suppress(BrokenPipeError):
            client.enter(line)
        try:
            client.expect(answer, _PROBE)
        except AssertionError:
            if client.has_ended or time.monotonic() - begin > BOUND:
                raise
        else:
            return time.monotonic() - begin


def fate(client: Compared, line: str) -> str:
    """Tell what became of a *line* that was to be sent while there was no server."""
    said = client.output.split("\n")
    if f"not sent: {line}" in said:
        return "reported as not sent"
    if line in said:
        return "sent later"
    return "lost without a word"


def last_words(program: Compared) -> str:
    """Return the last line of a program that has failed."""
    lines = [line for line in program.output.split("\n") if line.strip()]
    return re.sub(r"0x[0-9a-f]+", "0x…", lines[-1])[:120] if lines else "nothing"
