"""The command line as processes: serve, connect and bench as a shell or a script runs them, with
pipes and signals.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    RawServer,
    Recorder,
    connect,
    echo_server,
    foreign_server,
    refused_port,
    send_text,
    silent,
    wait_for,
)
from support.programs import PATIENCE, Program
from support.tls import Authority

from mormot_ws import HttpClientWebSockets, WebSocketFrame, WebSocketProcess, focText
from mormot_ws.testing import EchoServer, EchoServerProcess

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
COMMAND = (sys.executable, "-X", "dev", "-W", "error", "-m", "mormot_ws")


class Cli(Program):
    """``python -m mormot_ws ARGUMENTS`` as a process; its events, if it was told ``--json``."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        super().__init__("-m", "mormot_ws", *arguments, **options)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the next event of that *name*; return it."""
        found: dict[str, Any] = json.loads(self.expect(f'^{{"event": "{name}"').string)
        return found

    def end(self, code: int) -> str:
        """Wait for its end, with that exit *code* and without a traceback; return all that it has
        said.
        """
        assert (self.wait(), self.output) == (code, self.output), self.output
        assert "Traceback" not in self.output
        return self.output


def shell(*arguments: str, given: bytes = b"") -> tuple[int, bytes, str]:
    """Run a command to its end on that input; return its exit code and both outputs."""
    done = subprocess.run(
        [*COMMAND, *arguments], input=given, capture_output=True, timeout=PATIENCE, check=False
    )
    errors = done.stderr.decode()
    assert "Traceback" not in errors
    return done.returncode, done.stdout, errors


def listening(cli: Cli) -> int:
    """Wait until the server of ``serve --json`` listens; return its port."""
    return int(cli.event("listening")["port"])


class TestServe:
    def test_neither_side_prints_a_secret(self) -> None:
        """Not with --verbose, and not as JSON: the query, the bearer token, a header, the password
        of a proxy.
        """
        secrets = ("in-the-query", "bearer-token", "in-a-header", "of-the-proxy")
        options = (
            "--bearer",
            secrets[1],
            "--header",
            f"X-Key: {secrets[2]}",
            "-v",
            "--linger",
            "0",
        )
        with Cli("serve", "--port", "0", "--json", "-v") as cli, refused_port() as dead:
            uri = f"{cli.expect(r'(ws://[^ ]+)/')[1]}/room?token={secrets[0]}"
            for more in ((), ("--json",), ("--proxy", f"http://user:{secrets[3]}@{HOST}:{dead}")):
                code, out, errors = shell("connect", uri, *options, *more, given=b"hi\n")
                assert code == (1 if "--proxy" in more else 0)
                assert not [secret for secret in secrets if secret in out.decode() + errors]
            cli.signal(signal.SIGINT)
            cli.end(0)
            assert "room?" in cli.output
            assert not [secret for secret in secrets if secret in cli.output]

    def test_echo_and_the_counters_at_the_end(self) -> None:
        """A free port is printed; clients with and without a sub-protocol get their echo; Ctrl-C
        says goodbye and shows the counters.
        """
        recorder = Recorder()
        with Cli("serve", "--port", "0", "--status", "0.05") as cli:
            port = int(cli.expect(r"^Listening on ws://127\.0\.0\.1:(\d+)/ \(echo\)")[1])
            with connect(port, recorder.frame) as client:
                assert send_text(client, "hello")
                recorder.wait("focText")
                cli.expect(r"^#1 connected from 127\.0\.0\.1, protocol 'echo'")
                cli.expect(r"^ +1 +1 +0 +0 +\d+ +\d+ +1 +1 ")
                cli.signal(signal.SIGINT)
                said = cli.end(0)
                assert recorder.wait("focConnectionClose").value.payload[:2] == (1001).to_bytes(
                    2, "big"
                )
        assert "messages received       1" in said.partition("Counters at the end")[2]

    def test_chat_reaches_the_others(self) -> None:
        """Each message goes to all but its sender; SIGTERM is a way to stop as good as Ctrl-C."""
        sender, receiver = Recorder(), Recorder()
        with Cli("serve", "chat", "--port", "0", "--json") as cli:
            port = listening(cli)
            with connect(port, sender.frame) as one, connect(port, receiver.frame) as two:
                cli.event("connected")
                cli.event("connected")
                assert send_text(one, "hello")
                receiver.wait("focText")
                assert send_text(two, "and you")
                sender.wait("focText")
            assert (sender.texts(), receiver.texts()) == (["and you"], ["hello"])
            cli.signal(signal.SIGTERM)
            cli.end(0)
            assert cli.event("stopped")["frames_out"] == 2

    def test_broadcast_of_standard_input(self) -> None:
        """Each line goes to everybody; the end of the input is the end of the server."""
        recorder = Recorder()
        with (
            Cli("serve", "broadcast", "--port", "0", "--json") as cli,
            connect(listening(cli), recorder.frame),
        ):
            cli.event("connected")
            cli.enter("one", "two")
            recorder.wait("focText", 2)
            cli.end_input()
            cli.end(0)
            assert recorder.texts() == ["one", "two"]

    def test_named_protocol_and_uri(self) -> None:
        """With ``--protocol`` and ``--uri`` others are refused, and counted."""
        with Cli("serve", "--port", "0", "--json", "--protocol", "room", "--uri", "/talk") as cli:
            uri = f"ws://{HOST}:{listening(cli)}"
            both = ("--protocol", "room", "--protocol", "echo")
            assert shell("connect", f"{uri}/talk", *both, "--linger", "0")[0] == 0
            assert (
                "the server has no sub-protocol room"
                in shell("connect", uri, "--protocol", "room")[2]
            )
            assert (
                shell("connect", f"{uri}/talk", "--linger", "0")[0] == 0
            )  # the URI alone tells it, as in the original
            cli.signal(signal.SIGINT)
            cli.end(0)
            assert cli.event("stopped")["refused"] == 1

    def test_a_port_that_is_taken(self) -> None:
        """One line, exit code 1."""
        with EchoServer() as server:
            code, out, errors = shell("serve", "--port", str(server.port))
        assert (code, out) == (1, b"")
        assert errors == (
            f"mormot-ws: cannot listen on 127.0.0.1:{server.port}: Address already in use; "
            "--port 0 picks a free one\n"
        )

    @unix
    def test_a_unix_socket(self, tmp_path: Path) -> None:
        """Served, connected to by the URI that it prints, and removed at the end."""
        path = tmp_path / "echo.sock"
        with Cli("serve", "--unix", str(path), "--unix-mode", "600", "--json") as cli:
            uri = cli.event("listening")["uri"]
            assert uri == f"ws+unix:{path}:/"
            assert path.stat().st_mode & 0o777 == 0o600
            code, out, errors = shell("connect", uri, "--count", "1", given=b"hello\n")
            assert (code, out) == (0, b"hello\n")
            assert f"connected to {uri}" in errors
            assert cli.event("connected")["remote_ip"] == "unix:"
            taken = shell("serve", "--unix", str(path))
            assert taken[0] == 1
            assert taken[2] == (
                f"mormot-ws: cannot listen on unix:{path}: Address already in use; "
                "another program listens there\n"
            )
            cli.signal(signal.SIGTERM)
            cli.end(0)
        assert not path.exists()
        code, _, errors = shell("connect", uri, "--timeout", "1")
        assert code == 1
        assert "is the server running, and on this socket?" in errors

    @unix
    def test_an_inherited_descriptor(self) -> None:
        """``--fd`` and ``--systemd`` take a socket that listens already."""
        with socket.create_server((HOST, 0)) as sock:
            port = sock.getsockname()[1]
            command = [*COMMAND, "serve", "--json", "--fd", str(sock.fileno())]
            with subprocess.Popen(
                command, pass_fds=[sock.fileno()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as program:
                assert program.stdout is not None
                assert json.loads(program.stdout.readline())["port"] == port
                assert shell("connect", f"ws://{HOST}:{port}", "--linger", "0")[0] == 0
                program.send_signal(signal.SIGTERM)
                assert program.wait(PATIENCE) == 0

    def test_what_was_not_passed(self) -> None:
        """One line, exit code 1."""
        for option, said in (
            (("--systemd",), "systemd has passed no socket to this process"),
            (("--fd", "99"), "descriptor 99 is not a socket"),
        ):
            code, _, errors = shell("serve", *option)
            assert code == 1
            assert said in errors
            assert len(errors.splitlines()) == 1

    @pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="ports cannot be shared")
    def test_a_shared_port(self) -> None:
        """With ``--reuse-port`` for both."""
        options = ("--reuse-port", "--json")
        with Cli("serve", "--port", "0", *options) as one:
            port = listening(one)
            with Cli("serve", "--port", str(port), *options) as two:
                assert listening(two) == port
                for cli in (one, two):
                    cli.signal(signal.SIGTERM)
                    cli.end(0)

    @pytest.mark.skipif(sys.platform == "win32", reason="not on Windows")
    def test_several_processes(self) -> None:
        """They echo on one port; SIGTERM ends them, and the counters are the sums."""
        recorder = Recorder()
        with Cli("serve", "--processes", "2", "--port", "0", "--json") as cli:
            with connect(listening(cli), recorder.frame) as client:
                assert send_text(client, "hello")
                recorder.wait("focText")
                assert cli.event("connected")["connection_id"] == 1
            cli.signal(signal.SIGTERM)
            stopped = cli.event("stopped")
            assert (stopped["frames_in"], stopped["frames_out"]) == (1, 1)
            cli.end(0)

    def test_browsers_get_a_page(self) -> None:
        """``GET /`` is answered with the test page, which asks for the server's sub-protocol."""
        with Cli("serve", "--port", "0", "--json", "--protocol", "room") as cli:
            with HttpClientWebSockets(HOST, listening(cli)) as client:
                assert client.request("/") == 200
                assert b"<html" in client.answer.content
                assert b"room" in client.answer.content
            cli.signal(signal.SIGINT)
            cli.end(0)

    def test_tls(self, tmp_path: Path) -> None:
        """A certificate makes it wss://; a client checks it unless told otherwise, and says what
        to do.
        """
        authority = Authority(tmp_path)
        files = ("--cert", authority.certificate_file, "--key", authority.private_key_file)
        with Cli("serve", "--port", "0", "--json", *files) as cli:
            uri = f"wss://{HOST}:{listening(cli)}"
            assert shell("connect", uri, "--ca", authority.file, "--count", "1", given=b"hello")[
                :2
            ] == (0, b"hello\n")
            code, _, errors = shell("connect", uri)
            assert code == 1
            assert "try --ca FILE" in errors
            cli.signal(signal.SIGINT)
            cli.end(0)

    def test_a_certificate_that_is_none(self, tmp_path: Path) -> None:
        """A bad file is one line as well."""
        code, _, errors = shell("serve", "--cert", str(tmp_path / "none.pem"))
        assert (code, errors.count("\n")) == (1, 1)


class TestConnectPipes:
    def test_lines_in_lines_out(self) -> None:
        """Messages alone are on standard output, the remarks on standard error; the last line
        needs no newline.
        """
        with EchoServer() as server:
            code, out, errors = shell(
                "connect", server.uri, "--linger", "0.3", given="a\n\nç".encode()
            )
        assert (code, out.decode()) == (0, "a\n\nç\n")
        assert [line.partition(" ")[0] for line in errors.splitlines()] == ["*", "*"]

    def test_binary_is_copied(self) -> None:
        """``--binary`` brings any bytes there and back, unchanged."""
        data = os.urandom(200_000)
        with EchoServer() as server:
            assert shell("connect", server.uri, "--binary", "--linger", "0.5", given=data)[:2] == (
                0,
                data,
            )
            assert all(frame.opcode.name == "focBinary" for frame in server.messages)

    def test_a_line_that_is_no_text(self) -> None:
        """It is not sent, said, and counts in the exit code; the others are sent."""
        with EchoServer() as server:
            code, out, errors = shell(
                "connect", server.uri, "--count", "2", given=b"one\n\xff\ntwo\n"
            )
        assert (code, out) == (3, b"one\ntwo\n")
        assert "not UTF-8; use --binary" in errors

    @pytest.mark.parametrize(("close_code", "exit_code"), [(1000, 0), (1008, 3)])
    def test_closed_by_the_server(self, close_code: int, exit_code: int) -> None:
        """The close code and reason are said; whether they are good shows in the exit code."""

        def close(process: WebSocketProcess, frame: WebSocketFrame) -> None:
            if frame.opcode is focText:
                process.shutdown(close_code, "enough")

        with echo_server(0, close) as server:
            uri = f"ws://{HOST}:{server.port}"
            arguments = ("connect", uri, "--protocol", "echo", "--json", "--linger", "forever")
            code, out, _ = shell(*arguments, given=b"x\n")
        closed = json.loads(out.splitlines()[-1])
        assert (code, closed["code"], closed["reason"], closed["by_us"]) == (
            exit_code,
            close_code,
            "enough",
            False,
        )

    def test_nobody_reads_the_output(self) -> None:
        """``| head -1`` ends it, without a word."""
        with EchoServer() as server:
            arguments = [*COMMAND, "connect", server.uri, "-q", "--linger", "forever"]
            with subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stderr is not None
                process.stdin.write(b"one\n")
                process.stdin.flush()
                assert process.stdout.readline() == b"one\n"
                process.stdout.close()
                process.stdin.write(b"two\n")
                process.stdin.flush()
                assert process.wait(PATIENCE) == 141
                assert process.stderr.read() == b""

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
    def test_streams_that_are_closed(self, closed: str) -> None:
        """Without standard input, output or error it works as far as it can; nothing of ours gets
        into the connection.
        """
        with EchoServer() as server:
            line = f"{' '.join(COMMAND)} connect {server.uri} --linger 0.2 {closed}"
            done = subprocess.run(
                ["sh", "-c", line],
                input=b"one\n",
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, done
            assert [frame.text for frame in server.messages] == ([] if closed == "<&-" else ["one"])
            assert b"Traceback" not in done.stderr

    def test_nobody_reads_the_help(self) -> None:
        """The same for argparse's own output."""
        reader, writer = os.pipe()
        os.close(reader)
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            [*COMMAND, "--help"],
            env=buffered,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, b"")


class TestConnect:
    def test_events_of_ping_and_status(self) -> None:
        """Pings show their round trip, the status all counters; Ctrl-C closes with 1000."""
        with (
            EchoServer() as server,
            Cli("connect", server.uri, "--json", "--ping", "0.05", "--status", "0.1") as cli,
        ):
            assert cli.event("open")["uri"] == server.uri
            assert 0 < cli.event("ping")["rtt_ms"] < BOUND * 1000
            assert cli.event("status")["connected"] is True
            cli.signal(signal.SIGINT)
            cli.end(130)
            closed = json.loads(cli.output.splitlines()[-1])
            assert (closed["event"], closed["code"], closed["by_us"]) == ("closed", 1000, True)

    def test_back_after_the_server_was_killed(self) -> None:
        """Attempts are shown with their number, wait and reason; what is entered meanwhile is sent
        when the connection is back.
        """
        with (
            EchoServerProcess() as server,
            Cli("connect", server.uri, "--reconnect", "--json") as cli,
        ):
            cli.event("open")
            cli.enter("before")
            cli.event("message")
            server.kill()
            assert cli.event("closed")["code"] == 1006
            first, second = cli.event("attempt"), cli.event("attempt")
            assert (first["attempt"], first["kind"]) == (1, "lost")
            assert (second["attempt"], second["kind"]) == (2, "refused")
            cli.enter("while down")
            server.start()
            assert cli.event("reconnected")["attempts"] >= 2
            assert cli.event("message")["data"] == "while down"
            cli.end_input()
            cli.end(0)

    def test_a_server_that_comes_later(self) -> None:
        """With ``--reconnect`` the first connection may take some attempts too; they are limited
        by ``--max-attempts``.
        """
        with refused_port() as port:
            uri = f"ws://{HOST}:{port}"
            with Cli("connect", uri, "--reconnect", "--json") as cli:
                assert cli.event("attempt")["attempt"] == 2
                cli.signal(signal.SIGINT)
                cli.end(130)
            code, out, _ = shell("connect", uri, "--reconnect", "--max-attempts", "3", "--json")
        events = [json.loads(line) for line in out.splitlines()]
        assert [event["event"] for event in events] == ["attempt", "attempt", "error"]
        assert events[-1]["text"].startswith(
            "gave up after 3 failed attempts: ConnectionRefusedError"
        )
        assert code == 1

    def test_unauthorised(self) -> None:
        """401 is final, even with ``--reconnect``; a token opens the door, and is not shown."""
        with echo_server() as server:
            server.on_websocket_upgraded = lambda protocol: (
                200 if protocol.upgrade_bearer_token == "s3cret" else 401
            )
            uri = f"ws://{HOST}:{server.port}"
            code, _, errors = shell("connect", uri, "--protocol", "echo", "--reconnect")
            assert code == 1
            assert "401" in errors
            assert "try --bearer" in errors
            code, _, errors = shell(
                "connect", uri, "--protocol", "echo", "--bearer", "s3cret", "-vv", "--linger", "0"
            )
            assert code == 0
            assert "s3cret" not in errors

    def test_a_server_that_wants_a_name(self) -> None:
        """One of ours without a rule for the URI answers 400: the way out is named."""
        with echo_server() as server:
            code, _, errors = shell("connect", f"ws://{HOST}:{server.port}")
        assert code == 1
        assert errors.count("\n") == 1
        assert "try --protocol NAME" in errors

    def test_a_foreign_server(self) -> None:
        """The server of `websockets` serves connect and bench as ours does."""

        def echo(connection: Any) -> None:
            for message in connection:
                connection.send(message)

        with foreign_server(echo) as port:
            uri = f"ws://{HOST}:{port}/any"
            assert shell("connect", uri, "--deflate", "--count", "1", given=b"hi\n")[:2] == (
                0,
                b"hi\n",
            )
            assert shell("bench", uri, "--count", "50", "--json")[0] == 0

    @pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_while_the_server_keeps_silent(self, signalled: signal.Signals) -> None:
        """A handshake without an answer does not hold a signal up."""
        with (
            RawServer(silent) as server,
            Cli("connect", f"ws://{HOST}:{server.port}", "-vv") as cli,
        ):
            wait_for(lambda: server.accepted, PATIENCE, "a connection")
            cli.signal(signalled)
            cli.end(128 + signalled)

    def test_ctrl_c_during_the_start(self) -> None:
        """A signal that comes while modules are still being imported is no traceback."""
        source = """
            import os, signal, sys
            class Finder:
                def find_spec(self, name, path=None, target=None):
                    if name == "mormot_ws.cli.arguments":
                        os.kill(os.getpid(), signal.SIGINT)
            sys.meta_path.insert(0, Finder())
            from mormot_ws.cli import main
            sys.exit(main(["connect", "ws://127.0.0.1:1", "--reconnect"]))
        """
        lines = [line.removeprefix(" " * 12) for line in source.splitlines()]
        with Program("-c", "\n".join(lines)) as program:
            assert program.wait() == 130
            assert "Traceback" not in program.output

    def test_ctrl_c_before_the_package_is_imported(self) -> None:
        """The console script's own module is enough to end without a traceback; a signal that is
        ignored stays so.
        """
        kill = "os.kill(os.getpid(), signal.SIGINT)"
        early = (
            "import os, signal, sys, mormot_ws_script; "
            f"assert 'mormot_ws' not in sys.modules; {kill}"
        )
        with Program("-c", early) as program:
            assert program.wait() == -signal.SIGINT
            assert program.output == ""
        ignored = (
            "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
            f"import mormot_ws_script; {kill}"
        )
        with Program("-c", ignored) as program:
            assert program.wait() == 0


class TestBench:
    def test_result_as_json(self) -> None:
        """For each size a line for the round trips and one for the throughput, with all that
        belongs to them.
        """
        with EchoServer() as server:
            arguments = (
                "--size",
                "10",
                "--size",
                "1k",
                "--connections",
                "2",
                "--count",
                "100",
                "--json",
            )
            code, out, _ = shell("bench", server.uri, *arguments)
        results = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert [(r["measurement"], r["size"], r["count"]) for r in results] == [
            ("round trips", 10, 100),
            ("throughput", 10, 100),
            ("round trips", 1000, 100),
            ("throughput", 1000, 100),
        ]
        for result in results:
            assert (
                0
                < result["min_ms"]
                <= result["median_ms"]
                <= result["p95_ms"]
                <= result["p99_ms"]
                <= result["max_ms"]
            )
            assert result["bytes_per_s"] == pytest.approx(
                result["messages_per_s"] * result["size"], rel=0.01
            )
            assert (result["connections"], result["strangers"]) == (2, 0)

    def test_result_for_people(self) -> None:
        """The distribution with a histogram, and the rates; no bar in a pipe."""
        with EchoServer() as server:
            code, out, errors = shell("bench", server.uri, "--count", "100", "--binary")
        text = out.decode()
        assert (code, errors) == (0, "")
        assert "median " in text
        assert "#" in text or "█" in text
        assert text.count("messages/s") == 2

    def test_time_is_a_bound_too(self) -> None:
        """It stops when its seconds are over, however many messages are left."""
        with EchoServer() as server:
            arguments = ("--count", "10000000", "--seconds", "0.2", "--json")
            code, out, _ = shell("bench", server.uri, *arguments)
        assert code == 0
        assert all(json.loads(line)["seconds"] < BOUND for line in out.splitlines())

    def test_ctrl_c_shows_what_there_is(self) -> None:
        """An interrupted measurement is reported as far as it went."""
        with (
            EchoServer() as server,
            Cli("bench", server.uri, "--count", "10000000", "--seconds", "60", "--json") as cli,
        ):
            server.wait_messages(10)
            cli.signal(signal.SIGINT)
            cli.end(130)
            assert cli.event("result")["count"] > 0

    def test_a_server_that_does_not_echo(self) -> None:
        """It is said, in time, with exit code 3."""
        with echo_server(0, lambda process, frame: None) as server:
            arguments = (
                "bench",
                f"ws://{HOST}:{server.port}",
                "--protocol",
                "echo",
                "--seconds",
                "0.2",
            )
            code, out, errors = shell(*arguments)
        assert (code, out) == (3, b"")
        assert "is ws://" in errors

    def test_nobody_there(self) -> None:
        """No connection, no figures."""
        with refused_port() as port:
            code, out, errors = shell("bench", f"ws://{HOST}:{port}")
        assert (code, out) == (1, b"")
        assert "is the server running" in errors
