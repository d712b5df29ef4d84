"""The command line's parts without processes: arguments, what is said of them, figures, status
lines, hints.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import mormot_ws
from mormot_ws import FailureKind, ReconnectFailure, ServerStatus
from mormot_ws.cli.arguments import parse
from mormot_ws.cli.figures import distribution, duration, histogram, percentile, size
from mormot_ws.cli.load import Measurement, window_for
from mormot_ws.cli.mailbox import Letter, Mailbox, News
from mormot_ws.cli.output import Output, has_module, printable
from mormot_ws.cli.serve import StatusLines
from mormot_ws.cli.target import ConsoleProtocol, Target

PACKAGE = Path(mormot_ws.__file__).parent
URI = "ws://127.0.0.1:8999/x"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what argparse says of bad *arguments*; it has to end with 2, and to name the command
    that helps.
    """
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: mormot-ws")
    return said.strip().splitlines()[-1]


def failure(kind: FailureKind, text: str = "", status: int = 0) -> ReconnectFailure:
    """What a policy would be told."""
    return ReconnectFailure(kind, text, 1, 0.0, 0, status)


class TestArguments:
    def test_defaults(self) -> None:
        """Without options the server echoes on this machine's port 8999."""
        args = parse(["serve"])
        assert (args.mode, args.where, args.protocol, args.uri) == (
            "echo",
            "127.0.0.1:8999",
            None,
            "",
        )

    @pytest.mark.parametrize(
        ("options", "where"),
        [
            (["--host", "::1", "--port", "0"], "[::1]:0"),
            (["--reuse-port"], "127.0.0.1:8999"),
            (["--unix", "/run/x.sock"], "unix:/run/x.sock"),
            (["--unix", "unix:/run/x.sock", "--unix-mode", "660"], "unix:/run/x.sock"),
            (["--unix", "@x"], "unix:@x"),
            (["--fd", "0"], "fd://0"),
            (["--systemd"], "systemd:"),
        ],
    )
    def test_where_to_listen(self, options: list[str], where: str) -> None:
        """The options are one argument of the server."""
        args = parse(["serve", *options])
        assert args.where == where
        assert args.unix_mode in (None, 0o660)

    def test_repeatable_options(self) -> None:
        """Protocols, headers and sizes may be given several times."""
        args = parse(
            [
                "connect",
                URI,
                "--protocol",
                "a",
                "--protocol",
                "b",
                "--header",
                "A: 1",
                "--header",
                "B: 2",
            ]
        )
        assert args.protocol == ["a", "b"]
        assert args.header == ["A: 1", "B: 2"]
        assert parse(["bench", URI, "--size", "1", "--size", "16k", "--size", "2Mi"]).size == [
            1,
            16_000,
            2 << 20,
        ]

    def test_linger_forever(self) -> None:
        """``forever`` is a number of seconds too."""
        assert parse(["connect", URI, "--linger", "forever"]).linger == math.inf

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "required: serve | connect | bench"),
            (["connect"], "required: URI"),
            (["connect", "http://h/"], "'http://h/' is not a URI like ws://host:port/resource"),
            (["connect", "ws://h:99999/"], "is not a URI"),
            (["connect", "ws://h/a b"], "percent-encoded"),
            (["connect", URI, "--protocol", "a b"], "the name of a sub-protocol must not contain"),
            (["connect", URI, "--protocol", ""], "the name is empty"),
            (["connect", URI, "--header", "nonsense"], "is not a header line"),
            (["connect", "ws://::1:8999"], "put an IPv6 address in brackets"),
            (["serve", "--origin", "example.com"], "is not an origin"),
            (["serve", "--origin", "https://example.com/"], "without a path"),
            (["connect", URI, "--header", "Upgrade: x"], "the handshake sets the header"),
            (["connect", URI, "--header", "A: 1\nB: 2"], "must have the form 'Name: value'"),
            (["connect", URI, "--bearer", "@/no/such/file"], "No such file"),
            (["connect", URI, "--bearer", "two words"], "one word of printable ASCII"),
            (["connect", URI, "--bearer", "t", "--header", "authorization: x"], "choose either"),
            (["connect", URI, "--ping", "0"], "at least 0.01 s"),
            (["connect", URI, "--ping", "soon"], "is not a number of seconds"),
            (["connect", URI, "--linger", "nan"], "is not a number of seconds"),
            (["connect", URI, "--count", "0"], "at least 1"),
            (["connect", URI, "--max-attempts", "3"], "requires --reconnect"),
            (["connect", URI, "--insecure"], "require a wss:// URI"),
            (["connect", "wss://h/", "--insecure", "--ca", "f"], "choose either"),
            (["connect", "wss://h/", "--key", "f"], "--key requires --cert"),
            (["serve", "sing"], "invalid choice: 'sing'"),
            (["serve", "--port", "70000"], "is not a port from 0 to 65535"),
            (["serve", "--uri", "a?b"], "a path without '?'"),
            (["serve", "--unix", "/x", "--port", "1"], "and a port"),
            (["serve", "--unix", "/x", "--reuse-port"], "and a port"),
            (["serve", "--unix", "/x", "--fd", "3"], "--unix, --fd, --systemd and"),
            (["serve", "--systemd", "--fd", "3"], "--unix, --fd, --systemd and"),
            (["serve", "--unix", ""], "a Unix socket is"),
            (["serve", "--unix", "/x", "--unix-mode", "999"], "is not an octal number"),
            (["serve", "--unix", "@x", "--unix-mode", "600"], "requires --unix PATH"),
            (["serve", "--unix-mode", "600"], "requires --unix PATH"),
            (["serve", "--fd", "x"], "is not a whole number"),
            (["connect", "ws+unix:/x?y"], "or ws+unix:/path:/resource"),
            (["connect", "ws+unix:/x:/", "--insecure"], "require a wss:// URI"),
            (["serve", "--client-ca", "f"], "requires --cert"),
            (["serve", "--max-message", "1G"], "is not a size like"),
            (["serve", "--max-connections", "-1"], "expected one argument|is not a whole number"),
            (["bench", URI, "--connections", "1001"], "at most 1000"),
            (["bench", URI, "--seconds", "4000"], "at most 3600 s"),
            (["bench", URI, "--size", "0"], "is not a size like"),
        ],
    )
    def test_bad_arguments_end_with_2(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        """What can never work is refused in argparse's way, with a line that says what is wrong."""
        line = refused(capsys, *arguments)
        assert any(part in line for part in said.split("|")) or said in line, line

    def test_help_tells_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each command's help has examples and the exit codes; each option is explained."""
        for command in ("serve", "connect", "bench"):
            with pytest.raises(SystemExit) as ended:
                parse([command, "--help"])
            text = capsys.readouterr().out
            assert ended.value.code == 0
            assert "examples:" in text
            assert "exit codes:" in text
            for action in parse([command, *([] if command == "serve" else [URI])]).parser._actions:
                assert action.help, f"{command} {action.dest} has no help"

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        """``--version`` is that of the package."""
        with pytest.raises(SystemExit):
            parse(["--version"])
        assert capsys.readouterr().out == f"mormot-ws {mormot_ws.__version__}\n"


class TestFigures:
    def test_percentiles_by_nearest_rank(self) -> None:
        """A percentile is one of the values: the smallest that so many do not exceed."""
        values = [float(n) for n in range(1, 101)]
        assert [percentile(values, p) for p in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
        assert percentile([7.0], 99) == 7.0

    def test_distribution(self) -> None:
        """The order of the values does not matter."""
        found = distribution([0.003, 0.001, 0.002])
        assert found is not None
        assert (found.count, found.least, found.median, found.most) == (3, 0.001, 0.002, 0.003)
        assert found.as_milliseconds()["median_ms"] == 2.0
        assert distribution([]) is None

    def test_histogram_counts_every_value(self) -> None:
        """The numbers behind the bars add up to all values; stragglers are in the last row; the
        highest bar is full.
        """
        values = [0.001 * 1.01**n for n in range(200)] + [5.0]
        lines = histogram(values, unicode=False)
        assert sum(int(line.split()[-1]) for line in lines) == len(values)
        assert len(lines) == 10
        assert max(line.count("#") for line in lines) == 40

    def test_histogram_of_equal_values(self) -> None:
        """One value, or many equal ones, are one row."""
        assert len(histogram([0.5] * 9, unicode=True)) == 1
        assert histogram([], unicode=True) == []

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(3e-6, "3 µs"), (0.00025, "0.25 ms"), (0.042, "42 ms"), (1.5, "1.5 s"), (90, "90 s")],
    )
    def test_duration(self, seconds: float, text: str) -> None:
        """Times are short, in the unit that suits them."""
        assert duration(seconds) == text

    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (16 << 20, "16.8 MB"), (5e12, "5e+03 GB")],
    )
    def test_size(self, count: float, text: str) -> None:
        """Numbers of bytes likewise."""
        assert size(count) == text

    def test_window_of_large_messages_is_small(self) -> None:
        """No more is on its way than the kernels hold; one message always is."""
        assert window_for(32, 64) == 64
        assert window_for(65536, 64) == 4
        assert window_for(10 << 20, 64) == 1

    def test_messages_of_a_measurement_differ(self) -> None:
        """Each message is another one, of the size that was asked for, and there are no more than
        asked for.
        """
        measurement = Measurement(20, 3, 1, False, lambda: None)
        frames = [measurement.next_frame() for _ in range(4)]
        payloads = [frame.payload for frame in frames[:3] if frame is not None]
        assert frames[3] is None
        assert len(set(payloads)) == 3
        assert {len(payload) for payload in payloads} == {20}


class TestStatusLines:
    @staticmethod
    def status(**values: Any) -> ServerStatus:
        """A snapshot with these values, 0 elsewhere."""
        names = ServerStatus.__dataclass_fields__
        return ServerStatus(
            **{name: values.get(name, "" if name == "host" else 0) for name in names}
        )

    def test_rates_are_per_second(self) -> None:
        """The rates are those since the line before; the header comes again after 20 lines."""
        lines = StatusLines()
        start = lines._last_at
        head, first = lines.next(self.status(), start + 1)
        assert head.split()[:4] == ["conns", "accept", "refused", "away"]
        assert first.split()[0] == "0"
        (second,) = lines.next(self.status(frames_in=50, bytes_in=4000, connections=3), start + 3)
        assert second.split() == ["3", "0", "0", "0", "25", "0", "50", "0", "2", "kB", "0", "B"]
        assert [len(lines.next(self.status(), start + n)) for n in range(4, 23)] == [1] * 18 + [2]


class TestMailbox:
    def test_letters_come_in_order_and_waiting_is_bounded(self) -> None:
        """What was posted first is read first; an empty mailbox returns None in time."""
        mailbox = Mailbox()
        mailbox.post(News.opened)
        mailbox.post(News.failed, 1)
        assert [mailbox.next(0), mailbox.next(0), mailbox.next(0.01)] == [
            Letter(News.opened),
            Letter(News.failed, 1),
            None,
        ]
        assert mailbox.next(-1) is None


class TestOutput:
    def test_json_is_a_line_of_ascii_on_standard_output(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """An event is one line whatever is in it, with its name and the time; remarks are not said
        besides.
        """
        output = Output(Mailbox(), as_json=True)
        output.event("error", "for people", "bad", text="two\nlines ☃")
        output.message(b"\xff\x00", False, False)
        lines = capfd.readouterr().out.splitlines()
        first, second = map(json.loads, lines)
        assert first.pop("time") > 0
        assert first == {"event": "error", "text": "two\nlines ☃"}
        assert (second["type"], second["base64"], second["size"]) == ("binary", "/wA=", 2)
        assert "".join(lines).isascii()

    def test_messages_of_a_pipe_are_the_data_alone(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Text ends with a newline, raw bytes do not; remarks are on the other stream; quiet
        leaves errors only.
        """
        output = Output(Mailbox(), quiet=True)
        output.message(b"text", True, False)
        output.message(b"raw", False, True)
        output.event("open", "a remark")
        output.event("error", "an error", "bad")
        assert capfd.readouterr() == ("text\nraw", "an error\n")

    def test_a_terminal_is_protected(self) -> None:
        """Control characters that came from the network are written out, line breaks too."""
        assert printable("a\x1b[2Jb\x9bc\td\n") == "a\\x1b[2Jb\\x9bc\td\\n"

    def test_nobody_reads(self, capfd: pytest.CaptureFixture[str]) -> None:
        """A closed pipe is told to the main thread once, and raises nothing."""
        mailbox = Mailbox()
        output = Output(mailbox)
        reader, writer = os.pipe()
        saved = os.dup(1)
        try:
            os.dup2(writer, 1)
            os.close(reader)
            output.line("lost")
            output.line("lost")
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            os.close(writer)
        assert mailbox.next(0) == Letter(News.output_gone)
        assert mailbox.next(0) is None

    def test_blocked_modules_count_as_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The extra is looked for, not assumed."""
        monkeypatch.setitem(sys.modules, "rich", None)
        assert not has_module("rich")
        assert not has_module("no_such_module_here")


class TestTarget:
    @staticmethod
    def target(*arguments: str) -> Target:
        return Target(parse(["connect", *(arguments or (URI,))]))

    def test_the_query_of_the_uri_is_not_shown(self) -> None:
        """What is printed may be kept, and a token may be in the query."""
        target = self.target("ws://127.0.0.1:8999/room?token=secret")
        assert target.text == "ws://127.0.0.1:8999/room?…"
        assert target.resource == "room?token=secret"

    def test_bearer_file_is_read_for_every_attempt(self, tmp_path: Path) -> None:
        """A token that was renewed in its file is used from then on; one that is gone is an error
        of that attempt.
        """
        file = tmp_path / "token"
        file.write_text("one\n")
        target = self.target(URI, "--bearer", f"@{file}", "--header", "A: 1")
        assert target.headers() == "A: 1\r\nAuthorization: Bearer one"
        file.write_text("two\n")
        assert target.headers().endswith("Bearer two")
        file.unlink()
        with pytest.raises(OSError, match="No such file"):
            target.headers()

    @pytest.mark.parametrize(
        ("found", "hint"),
        [
            (
                failure(FailureKind.upgrade, "HTTP/1.0 400 WebSocket Upgrade Error", 400),
                "try --protocol NAME",
            ),
            (
                failure(FailureKind.upgrade, "HTTP/1.1 400 Bad Request", 400),
                "the server may require a sub-protocol",
            ),
            (
                failure(FailureKind.upgrade, "HTTP/1.1 401 Unauthorized", 401),
                "--bearer or --header",
            ),
            (failure(FailureKind.upgrade, "HTTP/1.1 200 OK", 200), "no WebSocket endpoint at this"),
            (failure(FailureKind.upgrade, "No server response"), "wss:// uses TLS"),
            (failure(FailureKind.tls, "[SSL: CERTIFICATE_VERIFY_FAILED]"), "--ca FILE"),
            (failure(FailureKind.tls, "[SSL: WRONG_VERSION_NUMBER]"), "ws:// does not use TLS"),
            (failure(FailureKind.refused, "refused"), "is the server running"),
            (failure(FailureKind.connect, "no route"), ""),
        ],
    )
    def test_hints(self, found: ReconnectFailure, hint: str) -> None:
        """Each kind of failure comes with what may be tried."""
        said = self.target().hint(found)
        assert hint in said if hint else said == ""

    def test_hint_for_a_name_that_the_server_does_not_have(self) -> None:
        """Whoever has named a sub-protocol is not told to name one."""
        found = failure(FailureKind.upgrade, "HTTP/1.0 400 WebSocket Upgrade Error", 400)
        assert (
            self.target(URI, "--protocol", "a").hint(found)
            == "the server has no sub-protocol a for this URI"
        )

    def test_any_of_the_names_may_be_chosen(self) -> None:
        """All names are asked for; the server's choice has to be one of them, and does not narrow
        the next request.
        """
        protocol = ConsoleProtocol(["one", "two"], lambda process, frame: None)
        assert protocol.get_subprotocols() == "one, two"
        assert protocol.set_subprotocol("TWO")
        assert not protocol.set_subprotocol("three")
        assert protocol.name == "TWO"
        assert protocol.get_subprotocols() == "one, two"


def test_nothing_in_the_package_imports_the_command_line() -> None:
    """Only the program itself does: ``import mormot_ws`` must not get slower by it."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "cli" or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            assert not any(
                name == "cli" or name.startswith(("cli.", "mormot_ws.cli")) for name in names
            ), path


def test_parsed_arguments_are_plain() -> None:
    """What the commands get is a namespace with the command's name."""
    assert isinstance(parse(["serve"]), argparse.Namespace)
    assert parse(["bench", URI]).command == "bench"
