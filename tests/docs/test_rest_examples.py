"""The REST examples as real processes: calls, callbacks, questions back, a reconnection, and a
stranger over plain HTTP.
"""

from __future__ import annotations

import http.client
import json
import signal
from functools import partial

import pytest
from support import HOST, examples, refused_port
from support.examples import listening_port
from support.programs import EXAMPLES, PATIENCE, Program

PAUSE = "0.01"

start_server = partial(examples.start_server, "rest_server.py", "--pause", PAUSE)
start_client = partial(examples.start_client, "rest_client.py")


def assert_clean(program: Program, code: int = 0) -> None:
    """The program ends, with that exit code, and nothing went wrong inside it."""
    assert program.wait() == code, program.output
    assert "Traceback" not in program.output


def test_a_task_reports_its_progress_to_all_and_asks_who_started_it() -> None:
    """The client calls the server, the server the clients, and the examples end as they should."""
    with start_server() as server:
        port = listening_port(server)
        with start_client(port) as watcher, start_client(port) as boss:
            server.expect("is watching")
            server.expect("is watching")
            boss.enter("tea 3")
            boss.expect(r"task 1 \(tea\): 2 of 3|Task 1 has started")
            server.expect("task 1 is done")
            for number in (1, 2, 3):
                watcher.expect(rf"^  task 1 \(tea\): {number} of 3")
            watcher.enter("Q")
            assert_clean(watcher)
            boss.expect("of 3")
            boss.end_input()
            assert_clean(boss)
            assert "task 1 may finish" in boss.output
            assert "may finish" not in watcher.output
        server.signal(signal.SIGTERM)
        assert_clean(server)


def test_errors_are_shown_and_do_no_harm() -> None:
    """A line that cannot be read, and one that the server refuses."""
    with start_server() as server, start_client(listening_port(server)) as client:
        client.enter("tea", "none 0", "tea 1")
        client.expect("^Type a name and a number")
        client.expect("^Not started: 'none' has no steps$")
        client.expect("^Task 1 has started")
        client.end_input()
        assert_clean(client)
        server.signal(signal.SIGINT)
        assert_clean(server)


def test_the_client_goes_on_with_the_next_server() -> None:
    """It says that the connection is lost, refuses calls meanwhile, reconnects, watches again, and
    calls work.
    """
    with start_server() as server:
        port = listening_port(server)
        with start_client(port) as client:
            client.expect("^.CONNECTED. as #1")
            server.kill()
            client.expect("^.CLOSED.")
            client.enter("tea 2")
            client.expect("^Not started: TaskRunner.start.*not connected")
            with start_server(port=port) as successor:
                client.expect("^.CONNECTED. as #")
                successor.expect("is watching")
                client.enter("cake 2")
                client.expect(r"task 1 \(cake\): 2 of 2")
                client.enter("Q")
                assert_clean(client)
                successor.signal(signal.SIGTERM)
                assert_clean(successor)


def test_a_task_can_be_started_by_plain_http() -> None:
    """As the server's page says for curl; there is nobody to ask then, and it goes on."""
    with start_server() as server:
        connection = http.client.HTTPConnection(HOST, listening_port(server), timeout=PATIENCE)
        connection.request(
            "POST",
            "/root/TaskRunner.Start",
            json.dumps([{"name": "by curl", "steps": 1}]),
            {"Content-Type": "application/json"},
        )
        assert connection.getresponse().read() == b'{"result":[1]}'
        connection.close()
        server.expect("task 1: no client to ask")
        server.expect("task 1 is done")
        server.signal(signal.SIGTERM)
        assert_clean(server)


@pytest.mark.parametrize("program", ["rest_server.py", "rest_client.py"])
def test_a_port_that_is_of_no_use_is_told_in_one_line(program: str) -> None:
    """A refused connection, a port in use."""
    with refused_port() as port, Program(EXAMPLES / program, "--port", str(port)) as started:
        assert_clean(started, 1)
        assert started.output.startswith("Cannot "), started.output
