"""The server in several OS processes in examples/, as a real program."""

from __future__ import annotations

import signal
import sys

import pytest
from support import BOUND, HOST, examples, wait_for
from support.examples import listening_port
from support.programs import EXAMPLES, Program

from mormot_ws import connect

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads of signals in /proc"
)


def catches(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has a handler for that signal."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        (mask,) = [line.split()[1] for line in file if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_it_serves_shows_its_status_is_replaced_and_says_goodbye() -> None:
    """Enter, SIGHUP and SIGTERM; the exit code is 0. Meanwhile another one is refused the port."""
    closed: list[int] = []
    opened: list[object] = []
    with examples.start_server("processes.py", "--count", "2") as program:
        port = listening_port(program)
        with connect(
            f"ws://{HOST}:{port}",
            protocol="echo",
            on_open=opened.append,
            on_close=lambda ws, code, reason: closed.append(code),
        ) as ws:
            assert ws.send("hello")
            answer = ws.recv(timeout=BOUND)
            assert isinstance(answer, str)
            assert answer.startswith("'hello' from process ")
            program.enter("")
            first = [
                program.expect(rf"^process {number}: PID (\d+), listening")[1] for number in "01"
            ]
            program.expect("^all: 1 connections, 1 frames received")
            # a signal that comes before run() ends the program
            wait_for(lambda: catches(program.pid, signal.SIGHUP))
            program.signal(signal.SIGHUP)
            # it comes back to one of the new processes
            wait_for(lambda: len(opened) == 2)
            assert closed == [1001]

            def is_replaced() -> bool:
                program.enter("")
                now = [program.expect(rf"^process {number}: PID (\d+),")[1] for number in "01"]
                return not {*now} & {*first}

            wait_for(is_replaced)
            with Program(EXAMPLES / "processes.py", "--port", str(port)) as second:
                second.expect("^Cannot serve: .*another program listens there")
                assert second.wait() == 1
            program.signal(signal.SIGTERM)
            wait_for(lambda: len(closed) >= 2)
            assert closed[1] == 1001
        program.expect("^Stopped$")
        assert program.wait() == 0
        assert "Traceback" not in program.output
