"""What a peer says cannot pass for a line of the command line, nor move the cursor."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys

import pytest
from support import HOST, RawServer, RawServerPeer
from support.programs import PATIENCE
from test_cli_terminal import Terminal

from mormot_ws.cli.mailbox import Mailbox
from mormot_ws.cli.output import Output, OutputHandler, printable

COMMAND = (sys.executable, "-X", "dev", "-W", "error", "-m", "mormot_ws")
_TEXT, _CLOSE, _PONG = 1, 8, 10
FORGED = "* reconnected as #1"
REASON = f"bye\r\n{FORGED}\x1b[2K\u2028\u202e"


def connect(server: RawServer, *options: str) -> tuple[int, str, str]:
    """Run ``mormot-ws connect`` to its end; return its exit code and what it said, both streams."""
    done = subprocess.run(
        [*COMMAND, "connect", f"ws://{HOST}:{server.port}", "--linger", "forever", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def say_goodbye(peer: RawServerPeer) -> None:
    """Accept, and close with a reason that would forge a line."""
    peer.accept()
    peer.send_frame(_CLOSE, struct.pack(">H", 4000) + REASON.encode())
    peer.wait_end()


def refuse(peer: RawServerPeer) -> None:
    """Refuse the upgrade with a status line that would forge one."""
    peer.read_head()
    peer.send(f"HTTP/1.1 503 gone\r{FORGED}\x1b]0;title\x07\r\nConnection: close\r\n\r\n".encode())


def nobody_forged(said: str) -> None:
    """Each line has to be one of ours, without control characters."""
    lines = said.split("\n")
    assert not [line for line in lines if line.startswith(FORGED)]
    assert not [line for line in lines if line and not line.isprintable()]


@pytest.mark.parametrize("options", [(), ("-vv",)], ids=["quiet log", "whole log"])
def test_a_close_reason_stays_in_its_line(options: tuple[str, ...]) -> None:
    """Line breaks, escape sequences and marks of direction in it are written out."""
    server = RawServer(say_goodbye)
    try:
        code, out, errors = connect(server, *options)
    finally:
        server.close()
    assert (code, out) == (3, "")
    assert rf"bye\r\n{FORGED}\x1b[2K\u2028\u202e" in errors
    nobody_forged(errors)


@pytest.mark.parametrize("options", [(), ("-vv",)], ids=["quiet log", "whole log"])
def test_a_status_line_stays_in_its_line(options: tuple[str, ...]) -> None:
    """A server that refuses cannot write lines of its own either."""
    server = RawServer(refuse)
    try:
        code, out, errors = connect(server, *options)
    finally:
        server.close()
    assert (code, out) == (1, "")
    nobody_forged(errors)


def test_a_pong_that_nobody_asked_for_is_ignored() -> None:
    """Whatever it carries: the connection goes on, and no round trip is shown for it."""

    def play(peer: RawServerPeer) -> None:
        peer.accept()
        peer.send_frame(_PONG, b"mormot-ws soon")
        peer.send_frame(_PONG, b"mormot-ws 1e999")
        peer.send_frame(_TEXT, "after it")
        peer.wait_end()

    server = RawServer(play)
    try:
        code, out, errors = connect(server, "--count", "1")
    finally:
        server.close()
    assert (code, out) == (0, "after it\n")
    assert "ping" not in errors


@pytest.mark.parametrize("extra", [True, False], ids=["with the extra", "without it"])
def test_a_message_is_one_line_on_a_terminal(extra: bool) -> None:
    """Its line breaks are written out, so that it cannot look like a remark."""

    def play(peer: RawServerPeer) -> None:
        peer.accept()
        peer.send_frame(_TEXT, f"hello\n{FORGED}\u2028\u202eolleh")
        peer.wait_end()

    server = RawServer(play)
    try:
        with Terminal("connect", f"ws://{HOST}:{server.port}", extra=extra) as terminal:
            lines = terminal.expect("^< hello")
            assert rf"< hello\n{FORGED}\u2028\u202eolleh" in lines
            terminal.press("\x03")
            terminal.end(130)
    finally:
        server.close()


def test_a_traceback_in_the_log_is_indented(capfd: pytest.CaptureFixture[str]) -> None:
    """Its lines hold the text of exceptions, which a peer may have chosen."""
    handler = OutputHandler(Output(Mailbox()))
    try:
        raise ValueError(f"no\n{FORGED}")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "in a\ncallback", (), sys.exc_info()
        )
    handler.emit(record)
    first, *rest = capfd.readouterr().err.splitlines()
    assert first == r"in a\ncallback"
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_ordinary_text_stays_as_it_is() -> None:
    """Tabs, any script and joined emoji are no danger."""
    text = "a\tb ö 日本 \U0001f468\u200d\U0001f469 עברית"
    assert printable(text) == text
