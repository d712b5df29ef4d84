"""The examples do what the README says of them, as real processes: prints, exit codes, pipes,
terminals, signals.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support import (
    BOUND,
    HOST,
    ROOT,
    RawClient,
    Recorder,
    echo_server,
    examples,
    exchange,
    refused_port,
    upgraded,
    wait_for,
)
from support.examples import listening_port
from support.programs import EXAMPLES, PATIENCE, Program

from mormot_ws import WebSocketProtocol, WebSocketServer, focConnectionClose, parse_close_payload

#: the signals that stop the server in the orderly way
SIGNALS = [signal.SIGINT, signal.SIGTERM]

start_server = partial(examples.start_server, "server.py")
start_client = partial(examples.start_client, "client.py")


@contextlib.contextmanager
def visitor(server: Program) -> Iterator[RawClient]:
    """Connect to *server*, and wait until it has noticed."""
    with upgraded(listening_port(server)) as client:
        server.expect(f"^#{client.connection_id} connected")
        yield client


def assert_clean(program: Program, code: int = 0) -> None:
    """The program ends, with that exit code, and nothing went wrong inside it."""
    assert program.wait() == code, program.output
    assert "Traceback" not in program.output
    assert "Warning" not in program.output


def assert_goodbye(client: RawClient) -> None:
    """The server says goodbye, as one that stops."""
    frame = client.receive_opcode(focConnectionClose)
    assert parse_close_payload(frame.payload)[0] == 1001
    client.send_frame(focConnectionClose, frame.payload)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Give both ends of a pipe: the one for the program, and the one to write bytes into."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a terminal: the one to type at, and the one for the program."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    ends = pty.openpty()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


class TestServer:
    def test_it_prints_each_connect_echo_and_disconnect_with_the_connections_number(self) -> None:
        with start_server() as server:
            port = listening_port(server)
            with upgraded(port) as first:
                server.expect("^#1 connected from 127.0.0.1$")
                with upgraded(port) as second:
                    server.expect("^#2 connected from 127.0.0.1$")
                    assert exchange(second, ["hello"]) == ["hello"]
                    server.expect("^#2 echo: 'hello'$")
                server.expect("^#2 disconnected$")
                assert exchange(first, ["grüße"]) == ["grüße"]
                server.expect("^#1 echo: 'grüße'$")
            server.expect("^#1 disconnected$")
            server.enter("")
            assert_clean(server)

    def test_enter_through_a_pipe_stops_it_gracefully(self) -> None:
        with start_server() as server, visitor(server) as client:
            server.enter("")
            assert_goodbye(client)
            server.expect("^#1 disconnected$")
            server.expect("^Stopped$")
            assert_clean(server)

    def test_enter_at_a_terminal_stops_it_gracefully(self) -> None:
        with (
            terminal() as (keyboard, inside),
            Program(EXAMPLES / "server.py", "--port", "0", stdin=inside) as server,
            visitor(server) as client,
        ):
            os.write(keyboard, b"\n")
            assert_goodbye(client)
            assert_clean(server)

    @pytest.mark.parametrize("number", SIGNALS)
    def test_a_signal_stops_it_gracefully(self, number: signal.Signals) -> None:
        with start_server() as server, visitor(server) as client:
            server.signal(number)
            assert_goodbye(client)
            server.expect("^Stopped")
            assert_clean(server)

    @pytest.mark.parametrize("number", SIGNALS)
    def test_at_the_end_of_its_input_it_keeps_serving_until_a_signal(
        self, number: signal.Signals
    ) -> None:
        with start_server() as server:
            port = listening_port(server)
            server.end_input()
            with upgraded(port) as client:
                assert exchange(client, ["still", "there?"]) == ["still", "there?"]
                server.expect("^#1 echo: 'there\\?'$")
                server.signal(number)
                assert_goodbye(client)
            assert_clean(server)

    def test_it_serves_without_a_standard_input(self) -> None:
        close_and_run = (
            "import os, sys; os.close(0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        with Program("-c", close_and_run, EXAMPLES / "server.py", "--port", "0") as server:
            with visitor(server) as client:
                assert exchange(client, ["hello"]) == ["hello"]
            server.signal(signal.SIGTERM)
            assert_clean(server)

    def test_a_line_that_is_no_text_stops_it_like_any_other(self) -> None:
        with (
            pipe() as (read, write),
            Program(EXAMPLES / "server.py", "--port", "0", stdin=read) as server,
        ):
            listening_port(server)
            os.write(write, b"\xff\xfe\n")
            assert_clean(server)

    def test_a_message_cannot_command_the_servers_terminal(self) -> None:
        with start_server() as server, visitor(server) as client:
            assert exchange(client, ["\x1b[2Jgone\nforged line"]) == ["\x1b[2Jgone\nforged line"]
            server.expect(re.escape(r"#1 echo: '\x1b[2Jgone\nforged line'"))

    def test_it_says_that_its_port_is_taken(self) -> None:
        with refused_port() as port, start_server(port=port) as server:
            server.expect(f"^Cannot serve: cannot listen on 127.0.0.1:{port}: .*in use")
            assert_clean(server, code=1)

    @pytest.mark.parametrize(
        "arguments", [["--port", "70000"], ["--host", "256.0.0.1"], ["--protocol", "no name"]]
    )
    def test_bad_arguments_get_a_message(self, arguments: list[str]) -> None:
        with start_server(*arguments) as server:
            server.expect("^Cannot serve: .*")
            assert_clean(server, code=1)

    def test_it_offers_the_protocol_that_it_is_told_to(self) -> None:
        with start_server("--protocol", "mirror") as server:
            port = listening_port(server)
            with RawClient(port) as client:
                client.upgrade(protocol="mirror")
            with RawClient(port) as client:
                client.send(client.request(protocol="echo"))
                assert client.read_head().status == 400


class TestClient:
    def test_a_typed_line_is_sent_and_its_echo_printed(self, server: WebSocketServer) -> None:
        with start_client(server.port) as client:
            client.expect("^Connected")
            client.enter("hello")
            client.expect(r"^\[ECHO\] hello$")
            client.enter("grüße, 世界")
            client.expect(r"^\[ECHO\] grüße, 世界$")
            client.enter("Q")
            assert_clean(client)

    def test_an_empty_line_prints_the_status(self, server: WebSocketServer) -> None:
        with start_client(server.port) as client:
            client.expect("^Connected")
            client.enter("")
            client.expect("^Connected, ConnectionID: 1, reconnection attempts: 0$")

    @pytest.mark.parametrize("quit", ["Q", "q", " q "])
    def test_all_that_was_typed_ahead_of_q_gets_its_echo(
        self, server: WebSocketServer, quit: str
    ) -> None:
        with start_client(server.port) as client:
            client.enter("one", "two", "three", quit, "not sent any more")
            for text in ("one", "two", "three"):
                client.expect(rf"^\[ECHO\] {text}$")
            assert_clean(client)
            assert "any more" not in client.output

    def test_the_end_of_its_input_quits(self, server: WebSocketServer) -> None:
        with start_client(server.port) as client:
            client.enter("last words")
            client.end_input()
            client.expect(r"^\[ECHO\] last words$")
            assert_clean(client)

    def test_ctrl_c_quits(self, server: WebSocketServer, recorder: Recorder) -> None:
        server.on_websocket_disconnect = recorder.call("disconnect")

        def is_gone() -> bool:
            # the first Ctrl-C may come just before it waits for a line, which Python then does all
            # the same: a user presses it once more
            client.signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                client.wait(BOUND / 5)
            return client.has_ended

        with start_client(server.port) as client:
            client.expect("^Connected")
            wait_for(is_gone)
            assert_clean(client)
        socket_ = recorder.wait("disconnect").value
        assert socket_.websocket_process.close_code == 1000

    def test_it_works_at_a_terminal(self, server: WebSocketServer) -> None:
        with (
            terminal() as (keyboard, inside),
            Program(EXAMPLES / "client.py", "--port", str(server.port), stdin=inside) as client,
        ):
            client.expect("^Connected")
            os.write(keyboard, b"hello\n")
            client.expect(r"^\[ECHO\] hello$")
            os.write(keyboard, b"\x04")  # Ctrl-D
            assert_clean(client)

    def test_bytes_that_are_no_text_do_not_stop_it(self, server: WebSocketServer) -> None:
        with (
            pipe() as (read, write),
            Program(EXAMPLES / "client.py", "--port", str(server.port), stdin=read) as client,
        ):
            os.write(write, b"a\xffb\nQ\n")
            client.expect(r"^\[ECHO\] a\N{REPLACEMENT CHARACTER}b$")
            assert_clean(client)

    def test_a_server_that_is_not_there_gets_a_message_and_exit_code_1(self) -> None:
        with refused_port() as port, start_client(port) as client:
            client.expect(f"^Cannot connect to 127.0.0.1:{port}: no server is listening .*refused")
            assert_clean(client, code=1)

    def test_a_server_that_refuses_gets_a_message_and_exit_code_1(
        self, server: WebSocketServer
    ) -> None:
        with start_client(server.port, "--protocol", "unknown") as client:
            client.expect(
                f"^Cannot connect to 127.0.0.1:{server.port}: HTTP/1.1 400 WebSocket Upgrade Error"
            )
            assert_clean(client, code=1)

    @pytest.mark.parametrize(
        "arguments",
        [["--port", "70000"], ["--host", ""], ["--protocol", "no name"], ["--uri", "a b"]],
    )
    def test_bad_arguments_get_a_message(
        self, server: WebSocketServer, arguments: list[str]
    ) -> None:
        with start_client(server.port, *arguments) as client:
            client.expect("^Cannot connect.*: .*")
            assert_clean(client, code=1)

    def test_it_reconnects_to_a_killed_server(self) -> None:
        with contextlib.ExitStack() as programs:
            first = programs.enter_context(start_server())
            port = listening_port(first)
            client = programs.enter_context(start_client(port))
            client.expect("^Connected")
            first.kill()
            client.expect(r"^\[CLOSED\]$")
            client.expect("^Reconnection attempt #1 failed$")
            client.expect("^Reconnection attempt #2 failed$")
            client.enter("")
            client.expect("^Disconnected, ConnectionID: 1, reconnection attempts: [2-9]")
            client.enter("into the void")
            client.expect("^Not sent: disconnected$")
            second = programs.enter_context(start_server(port=port))
            listening_port(second)
            number = client.expect(r"^Reconnected! ConnectionID: (\d+)$")[1]
            second.expect(f"^#{number} connected")
            client.enter("", "hello again")
            client.expect(f"^Connected, ConnectionID: {number}, reconnection attempts: 0$")
            client.expect(r"^\[ECHO\] hello again$")
            client.enter("Q")
            assert_clean(client)
            assert client.output.count("Reconnected!") == 1
            assert "into the void" not in second.output

    def test_it_comes_back_under_a_new_number_to_a_server_that_stayed(
        self, server: WebSocketServer
    ) -> None:
        with start_client(server.port) as client:
            client.expect("^Connected, ConnectionID: 1")
            process = server.is_active_websocket(1)
            assert process is not None
            process.abort("cut by the test")
            client.expect(r"^\[CLOSED\]$")
            client.expect("^Reconnected! ConnectionID: 2$")
            client.enter("hello", "Q")
            client.expect(r"^\[ECHO\] hello$")
            assert_clean(client)

    def test_a_server_that_stops_gracefully_is_seen_as_closed_too(self) -> None:
        with start_server() as server, start_client(listening_port(server)) as client:
            client.expect("^Connected")
            server.enter("")
            client.expect(r"^\[CLOSED\]$")
            client.expect("^Reconnection attempt #1 failed$")
            assert_clean(server)
            client.enter("Q")
            assert_clean(client)

    def test_the_same_uri_is_asked_for_again(self, recorder: Recorder) -> None:
        def uri_of(protocol: WebSocketProtocol) -> int:
            recorder.add("upgrade", protocol.upgrade_uri)
            return 200

        with echo_server() as server:
            server.on_websocket_upgraded = uri_of
            with start_client(server.port, "--uri", "news/today?page=1") as client:
                client.expect("^Connected")
                process = server.is_active_websocket(1)
                assert process is not None
                process.abort("cut by the test")
                client.expect("^Reconnected!")
        assert [event.value for event in recorder.all("upgrade")] == ["news/today?page=1"] * 2

    def test_a_refused_upgrade_is_a_failed_attempt(self) -> None:
        with contextlib.ExitStack() as programs:
            first = programs.enter_context(start_server())
            port = listening_port(first)
            client = programs.enter_context(start_client(port))
            client.expect("^Connected")
            first.kill()
            stranger = programs.enter_context(start_server("--protocol", "other", port=port))
            client.expect(
                "^WebSocket upgrade failed after reconnect: HTTP/1.1 400 WebSocket Upgrade Error$"
            )
            client.enter("")
            client.expect("^Disconnected, .* attempts: [1-9]")
            stranger.kill()
            programs.enter_context(start_server(port=port))
            client.expect("^Reconnected!")

    def test_it_quits_at_once_while_it_is_reconnecting(self) -> None:
        with start_server() as server, start_client(listening_port(server)) as client:
            client.expect("^Connected")
            server.kill()
            client.expect("^Reconnection attempt #3 failed$")
            client.enter("Q")
            assert client.wait(BOUND / 2) == 0
            assert_clean(client)


class TestFromACheckout:
    """``python examples/….py`` where the dependencies are installed, but the package is not."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        shutil.copytree(EXAMPLES, tmp_path / "checkout" / "examples")
        shutil.copytree(ROOT / "mormot_ws", tmp_path / "checkout" / "mormot_ws")
        for name in ("websocket", "simple_websocket", "wsproto", "h11"):
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            (tmp_path / "dependencies").mkdir(exist_ok=True)
            (tmp_path / "dependencies" / name).symlink_to(Path(spec.origin).parent)
        return tmp_path

    def start(self, checkout: Path, script: str, *arguments: str) -> Program:
        """Start *script* with an interpreter that does not know of any installed package but the
        dependencies (-S).
        """
        path = checkout / "checkout" / "examples" / script
        env = {"PYTHONPATH": str(checkout / "dependencies")}
        return Program("-S", path, *arguments, cwd=checkout, env=env)

    def test_both_run(self, checkout: Path) -> None:
        with self.start(checkout, "server.py", "--port", "0") as server:
            port = listening_port(server)
            with self.start(checkout, "client.py", "--port", str(port)) as client:
                client.enter("hello", "Q")
                client.expect(r"^\[ECHO\] hello$")
                assert_clean(client)
            server.enter("")
            assert_clean(server)


class TestDemo:
    def test_it_shows_the_loss_and_the_reconnection_and_exits_with_0(self) -> None:
        with Program(EXAMPLES / "demo.py", "--pause", "0") as demo:
            port = int(demo.expect(r"Listening on 127\.0\.0\.1:(\d+)")[1])
            for pattern in (
                r"\[ECHO\] hello$",
                r"\[CLOSED\]",
                "Reconnection attempt #1 failed",
                "Disconnected, ConnectionID: 1",
                rf"Listening on 127\.0\.0\.1:{port}",
                r"Reconnected! ConnectionID: \d+",
                r"\[ECHO\] hello again",
                "^The demo went well",
            ):
                demo.expect(pattern, 2 * PATIENCE)
            assert_clean(demo)
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, port)) != 0, "the demo has left its server running"

    @pytest.mark.parametrize(
        ("broken", "source", "message"),
        [
            ("server.py", "raise SystemExit('broken')", "the server did not print"),
            ("client.py", "input(); raise SystemExit(3)", "the client did not print"),
        ],
    )
    def test_it_says_what_failed_and_exits_with_1(
        self, tmp_path: Path, broken: str, source: str, message: str
    ) -> None:
        for name in ("demo.py", "server.py", "client.py"):
            shutil.copy(EXAMPLES / name, tmp_path)
        (tmp_path / broken).write_text(f"print('Connected', flush=True)\n{source}\n")
        env = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
        with Program(tmp_path / "demo.py", "--pause", "0", env=env) as demo:
            demo.expect(f"^The demo FAILED: {message}")
            assert_clean(demo, code=1)

    def test_ctrl_c_ends_it_and_what_it_has_started(self) -> None:
        with Program(EXAMPLES / "demo.py") as demo:
            port = int(demo.expect(r"Listening on 127\.0\.0\.1:(\d+)")[1])
            demo.expect(r"\[ECHO\] hello$")
            demo.signal(signal.SIGINT)
            assert_clean(demo, code=1)
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, port)) != 0, "the demo has left its server running"


def test_the_server_serves_the_client_beside_others() -> None:
    with start_server() as server:
        port = listening_port(server)
        with start_client(port) as client, upgraded(port) as other:
            client.enter("hello")
            client.expect(r"^\[ECHO\] hello$")
            assert exchange(other, ["from another"]) == ["from another"]
            client.enter("Q")
            assert_clean(client)
        assert "another" not in client.output
