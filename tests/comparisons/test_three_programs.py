"""The three programs that are compared, as real processes, in a short form."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from support import HOST, ROOT, refused_port, wait_for

from mormot_ws import Server
from mormot_ws.testing import FaultProxy

from . import chatting
from .counting import PROGRAMS, size
from .members import new_member
from .report import sizes
from .running import (
    OURS,
    SOCKETIO,
    Compared,
    new_port,
    seconds_until_answer,
    start_client,
    start_echo_server,
    start_server,
)

PAGE = ROOT / "docs" / "explanation" / "comparison.md"
#: modules that have to be there for the programs of other libraries
NEEDED = {
    "flask-sock": ["flask_sock"],
    "python-socketio": ["socketio", "requests"],
    "websocket-client": ["websocket"],
    "websockets": ["websockets.sync.client"],
}


@contextmanager
def ended(client: Compared) -> Iterator[Compared]:
    """A client, which has to end with its input, and without a word about it."""
    with client:
        yield client
        client.end_input()
        assert client.wait() == 0, client.output
        assert "Traceback" not in client.output, client.output


def test_our_echo_client_loses_no_line_while_its_server_is_away() -> None:
    """It is there before its server, and comes back to it; what was typed meanwhile arrives."""
    with Server(0, address=HOST) as server, refused_port() as nobody:
        server.on_message(lambda peer, message: peer.send(message))
        with (
            FaultProxy(HOST, nobody) as proxy,
            ended(start_client(OURS, "echo", proxy.port)) as client,
        ):
            wait_for(lambda: proxy.accepted, what="a first attempt")
            client.enter("early")
            proxy.target = (HOST, server.port)
            client.expect("^early$")
            proxy.target = (HOST, nobody)
            accepted = proxy.accepted
            proxy.cut()
            wait_for(lambda: proxy.accepted > accepted, what="an attempt to come back")
            client.enter("away")
            proxy.target = (HOST, server.port)
            client.expect("^away$")


def test_our_chat_server_keeps_rooms_apart_and_waits_for_no_member() -> None:
    """A message reaches the others of its room, at once also when one of them does not read; after
    a kill and a restart at once, the members talk again.
    """
    seen = chatting.watch(OURS)
    assert (seen.fault, seen.had) == ("", chatting.FLOOD)
    # a send that waits gives up the member after 10 s
    assert seen.took < 9
    assert seen.back is not None, seen.why


def test_our_requests_are_answered_over_a_restart_of_the_server() -> None:
    """With the error where there is one; the first request after the restart, too."""
    port = new_port()
    with ended(start_client(OURS, "division", port)) as client:
        client.enter("6 3")
        with start_server(OURS, "division", port) as server:
            client.expect(r"^2\.0$")
            client.enter("1 0")
            client.expect("^failed: .*division by zero$")
            server.kill()
        with start_server(OURS, "division", port) as server:
            client.enter("3 2")
            client.expect(r"^1\.5$")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0, server.output


@pytest.mark.parametrize("task", PROGRAMS)
def test_ours_is_the_shortest(task: str) -> None:
    """In lines, for the same task."""
    lines = {library: size(task, library).lines for library in PROGRAMS[task]}
    assert lines.pop(OURS) < min(lines.values())


def test_the_page_tells_the_lines_and_names() -> None:
    """``python -m tests.comparisons --sizes`` prints what stands there."""
    assert sizes() in PAGE.read_text(encoding="utf-8")


def test_the_names_are_those_of_the_library() -> None:
    """Its imports, attributes and keyword arguments; those of the standard library do not count."""
    assert size("echo client", OURS).names == {"connect", "on_message", "send"}
    assert size("chat server", "websockets").names == {
        *("broadcast", "path", "request", "serve", "serve_forever"),
    }
    assert size("echo client", "python-socketio").names == {
        *("Client", "SocketIOError", "connect", "disconnect", "event", "message", "retry", "send"),
    }


def needed(*libraries: str) -> None:
    """Skip the test without the *libraries*."""
    for library in libraries:
        modules = [pytest.importorskip(name) for name in NEEDED[library]]
        if library == "websockets" and not hasattr(modules[0], "reconnect"):
            pytest.skip("websockets has reconnect() since version 17")


def others(task: str) -> list[str]:
    """Return those that can do the *task*, but for ours."""
    return [library for library in PROGRAMS[task] if library != OURS]


@pytest.mark.parametrize("library", others("echo client"))
def test_the_echo_client_of_another_library_works(library: str) -> None:
    """A line comes back."""
    needed(library)
    with ExitStack() as stack:
        if library == SOCKETIO:
            port = new_port()
            stack.enter_context(start_echo_server(library, port))
        else:
            server = stack.enter_context(Server(0, address=HOST))
            server.on_message(lambda peer, message: peer.send(message))
            port = server.port
        client = stack.enter_context(start_client(library, "echo", port))
        seconds_until_answer(client, "^hello$", "hello")


@pytest.mark.parametrize("library", others("chat server"))
def test_the_chat_server_of_another_library_works(library: str) -> None:
    """A message reaches the others of its room, and nobody else."""
    needed(library)
    port = new_port()
    with start_server(library, "chat", port), ExitStack() as stack:
        members = [new_member(library, port, room) for room in ("kitchen", "kitchen", "garden")]
        for member in members:
            stack.callback(member.leave)
        assert chatting.fault_of(*members) == ""


@pytest.mark.parametrize("libraries", others("requests and answers"))
def test_the_requests_of_another_library_are_answered(libraries: str) -> None:
    """With the error where there is one."""
    needed(*libraries.split(", "))
    server_library, client_library = (libraries.split(", ") * 2)[:2]
    port = new_port()
    with (
        start_server(server_library, "division", port),
        start_client(client_library, "division", port) as client,
    ):
        client.enter("6 3", "1 0")
        client.expect(r"^2\.0$")
        client.expect("^failed: .*division by zero$")
