"""The command line on a terminal: a pseudo-terminal, whose screen pyte draws. With the extra
``cli`` and without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pyte
import pytest
from support import echo_server, wait_for
from support.programs import PATIENCE

from mormot_ws import WebSocketFrame, focText
from mormot_ws.process.freeing import EndedByWith
from mormot_ws.testing import EchoServer

_ROWS, _COLUMNS = 30, 100
#: runs the command line
MAIN = "import sys; from mormot_ws.cli import main; sys.exit(main())"
#: the same as it is without the extra
MAIN_WITHOUT_EXTRA = (
    f"import sys; sys.modules['rich'] = sys.modules['prompt_toolkit'] = None; {MAIN}"
)


class Terminal(EndedByWith):
    """A command on a terminal of its own. A context manager that ends it, by its pid, if it has
    not ended by itself.
    """

    def __init__(self, *arguments: str, extra: bool = True, **variables: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        self._slave = (
            # kept open: what is left in it when the program ends can still be read, and its mode be
            # asked for
            slave
        )
        self._mode = termios.tcgetattr(slave)
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        source = MAIN if extra else MAIN_WITHOUT_EXTRA
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", source, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**environment, "TERM": "xterm-256color", "PYTHONUTF8": "1", **variables},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.screen = pyte.Screen(_COLUMNS, _ROWS)
        self.screen.write_process_input = self._answer  # type: ignore[method-assign]
        self._stream = pyte.ByteStream(self.screen)
        #: everything that was written to the terminal
        self.raw = b""
        #: guards the screen and the bytes
        self._safe = threading.Lock()
        self._stopping = False
        # daemon: must not keep the tests from ending; it ends when the terminal is closed
        self._reader = threading.Thread(target=self._read, name="terminal reader", daemon=True)
        self._reader.start()

    def _answer(self, data: str) -> None:
        """The program has asked the terminal something: where the cursor is."""
        os.write(self._master, data.encode())

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopping:
                data = os.read(self._master, 65536)
                with self._safe:
                    self.raw += data
                    self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        """The screen, without empty lines."""
        with self._safe:
            return [line.rstrip() for line in self.screen.display if line.strip()]

    def expect(self, pattern: str) -> list[str]:
        """Wait for a line that matches; return the screen."""

        def find() -> list[str]:
            lines = self.lines
            return lines if any(re.search(pattern, line) for line in lines) else []

        try:
            return wait_for(find, PATIENCE)
        except AssertionError:
            raise AssertionError(
                f"no {pattern!r} on the screen:\n" + "\n".join(self.lines)
            ) from None

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def end(self, code: int) -> None:
        """Wait for its end with that exit *code*; the terminal has to be as it was before, and no
        traceback on it.
        """
        assert self._process.wait(PATIENCE) == code, "\n".join(self.lines)
        assert termios.tcgetattr(self._slave) == self._mode
        assert b"Traceback" not in self.raw

    def _end_block(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stopping = True
        os.write(self._slave, b"\n")  # wakes the reader
        self._reader.join(PATIENCE)
        os.close(self._slave)
        os.close(self._master)


class TestConnect:
    def test_the_line_that_is_typed_stays_whole(self) -> None:
        """What arrives is printed above the prompt; the half line below it goes on as if nothing
        had happened.
        """
        with (
            echo_server() as server,
            Terminal("connect", f"ws://127.0.0.1:{server.port}", "--protocol", "echo") as terminal,
        ):
            terminal.expect("^connected as #1, in 0")  # the line below the prompt
            terminal.press("half")
            terminal.expect("^> half$")
            server.websocket_broadcast(WebSocketFrame(focText, "from elsewhere \x1b[31m"))
            lines = terminal.expect("^< from elsewhere")
            # and no escape sequence of others reaches the terminal
            assert r"< from elsewhere \x1b[31m" in lines
            terminal.expect("^> half$")
            terminal.press(" line\r")
            lines = terminal.expect("^< half line$")
            assert lines.index("> half line") < lines.index("< half line")
            terminal.press("\x04")
            terminal.expect("closed by us: 1000")
            terminal.end(0)

    def test_ctrl_c_at_the_prompt(self) -> None:
        """It closes the connection and leaves the terminal as it was."""
        with EchoServer() as server, Terminal("connect", server.uri) as terminal:
            terminal.expect("^connected as #1")
            terminal.press("half\x03")
            terminal.expect("closed by us: 1000")
            terminal.end(130)

    def test_ctrl_c_while_a_line_is_being_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A peer that takes nothing holds the sender, and not the keys: the prompt goes on to be
        one.
        """
        stuck = "import threading; from mormot_ws.cli.connect import Connection; "
        stuck += "Connection.send = lambda self, data: threading.Event().wait(60); "
        monkeypatch.setitem(globals(), "MAIN", stuck + MAIN)
        with EchoServer() as server, Terminal("connect", server.uri) as terminal:
            terminal.expect("^connected as #1")
            terminal.press("stuck\r")
            terminal.expect("^> stuck$")
            terminal.press("next")
            # between two prompts the terminal itself may echo the keys
            terminal.expect("> next$")
            terminal.press("\x03")
            terminal.expect("closed by us: 1000")
            terminal.end(130)

    def test_the_server_goes_while_the_prompt_waits(self) -> None:
        """The prompt is taken away."""
        with EchoServer() as server, Terminal("connect", server.uri) as terminal:
            terminal.expect("^connected as #1")
            server.stop()
            terminal.expect("closed by the server: 1001")
            terminal.end(0)

    def test_ctrl_c_during_the_backoff(self) -> None:
        """It ends the wait."""
        with EchoServer() as server, Terminal("connect", server.uri, "--reconnect") as terminal:
            terminal.expect("^connected as #1")
            server.kill()
            terminal.expect(r"^\* attempt 3 in ")
            terminal.press("\x03")
            terminal.end(130)

    @pytest.mark.parametrize("how", ["without the extra", "--plain"])
    def test_plain(self, how: str) -> None:
        """Without the extra, or when told so: no colours, no prompt; Ctrl-C is a signal."""
        plain = ["--plain"] if how == "--plain" else []
        with (
            EchoServer() as server,
            Terminal("connect", server.uri, *plain, extra=how == "--plain") as terminal,
        ):
            terminal.expect(r"^\* connected to")
            terminal.press("hello\r")
            terminal.expect("^< hello$")
            terminal.press("\x03")
            terminal.expect("closed by us: 1000")
            terminal.end(130)
            assert b"\x1b" not in terminal.raw

    @pytest.mark.parametrize("no_colour", ["", "1"])
    def test_no_color(self, no_colour: str) -> None:
        """Remarks are coloured, unless ``NO_COLOR`` is set."""
        with (
            EchoServer() as server,
            Terminal("connect", server.uri, NO_COLOR=no_colour) as terminal,
        ):
            terminal.expect("^connected as #1")
            terminal.press("\x04")
            terminal.end(0)
            assert (b"\x1b[32m* connected" in terminal.raw) == (not no_colour)


class TestOthers:
    def test_the_counters_of_a_server(self) -> None:
        """Ctrl-C shows them as a table."""
        with Terminal("serve", "--port", "0") as terminal:
            terminal.expect("^Listening on")
            terminal.press("\x03")
            terminal.expect("upgrades refused .* 0 ")
            terminal.end(0)

    @pytest.mark.parametrize("extra", [True, False])
    def test_the_bar_of_bench(self, extra: bool) -> None:
        """A bar shows how far it is, by rich or by plain characters; nothing of it is left at the
        end.
        """
        arguments = ("--count", "10000000", "--seconds", "0.5")
        with (
            EchoServer() as server,
            Terminal("bench", server.uri, *arguments, extra=extra) as terminal,
        ):
            terminal.expect(r"^round trips, 32 B ")
            terminal.expect(r"^Throughput, messages of 32 B")
            terminal.end(0)
            assert not any(line.startswith("round trips") for line in terminal.lines)
            assert any("█" in line for line in terminal.lines)
