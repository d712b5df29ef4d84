"""The examples of the front door, as real processes."""

from __future__ import annotations

from support import HOST, echo_server, refused_port, wait_for
from support.programs import EXAMPLES, Program


def test_the_echo_client_comes_back_by_itself() -> None:
    """It is there before its server, what is typed meanwhile arrives, and a restart of the server
    is not noticed.
    """
    with refused_port() as port:
        client = Program(EXAMPLES / "echo_client.py", f"ws://{HOST}:{port}/")
        client.__enter__()
        client.enter("typed early")
    try:
        for number in range(2):
            with echo_server(port) as server:
                if number:
                    client.enter("typed again")
                client.expect("^typed again$" if number else "^typed early$")
                wait_for(lambda server=server: server.status().connections == 1)  # type: ignore[misc]
        client.end_input()
        assert client.wait() == 0, client.output
        assert "Traceback" not in client.output
    finally:
        client.__exit__(None, None, None)
