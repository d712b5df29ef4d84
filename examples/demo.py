"""The reconnection demo: runs by itself in one terminal, in about 15 seconds.

    python examples/demo.py
    python examples/demo.py --pause 0

It starts server.py and client.py, types into the client, kills the server, waits for failed
attempts, restarts the server, and checks that the client reconnects and gets its echo. The exit
code is 0 if all of that was seen, otherwise 1.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

PATIENCE = 30  # the time-out for each wait, in seconds
PAUSE = 1.5  # seconds between two steps, so that you can read along


class Program:
    """An example as an OS process, whose output is shown and searched.

    Lines can be typed into it.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        script = str(Path(__file__).with_name(f"{name}.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        # the lines that it printed; None: it has ended
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.relay = threading.Thread(target=self._relay, daemon=True)
        self.relay.start()

    def _relay(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                show(f"{self.name}:  {line.rstrip()}")
                self.lines.put(line)
        self.lines.put(None)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line that contains *pattern*."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise DemoFailed(
                    f"the {self.name} did not print {pattern!r} within {PATIENCE} s, or ended"
                    " before that"
                )
            match = re.search(pattern, line)
            if match:
                return match

    def enter(self, line: str) -> None:
        """Type *line* and Enter."""
        show(f"{self.name}:  <- typing {line!r}")
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def expect_exit(self) -> None:
        """Wait for its end, which must be a normal one."""
        code = self.process.wait(PATIENCE)
        if code != 0:
            raise DemoFailed(f"the {self.name} ended with exit code {code}")

    def clean_up(self) -> None:
        """Leave nothing behind, even after a failure."""
        self.process.kill()  # does nothing if it has ended
        self.process.wait()
        self.relay.join(PATIENCE)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


class DemoFailed(Exception):
    """Raised if the expected output did not appear."""


def show(text: str) -> None:
    """Print a line as a whole and at once."""
    # escape what a Windows code page does not have
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def demo(programs: list[Program], pause: float) -> None:
    """Run the steps, *pause* seconds apart; add each started program to *programs*."""

    def rest() -> None:
        # so that you can read along
        time.sleep(pause)

    def step(text: str) -> None:
        rest()
        show(f"\n--- {text}")

    def start(name: str, *arguments: str) -> Program:
        programs.append(Program(name, *arguments))
        return programs[-1]

    show("--- A server, and a client that connects to it")
    server = start("server", "--port", "0")
    port = server.expect(r"Listening on \S+:(\d+)")[1]
    client = start("client", "--port", port)
    client.expect("^Connected")
    for message in ("hello", "how are you?", "fine weather today"):
        rest()
        client.enter(message)
        client.expect(re.escape(f"[ECHO] {message}"))

    step(
        "The server is killed: the client notices at once and tries to reconnect, at growing"
        " intervals"
    )
    server.process.kill()
    client.expect(r"\[CLOSED\]")
    client.expect("Reconnection attempt #3 failed")
    client.enter("")
    client.expect("^Disconnected")
    client.expect(r"Reconnection attempt #\d+ failed")

    step("The server is restarted: the client reconnects by itself")
    server = start("server", "--port", port)
    server.expect("Listening on")
    client.expect(r"Reconnected! ConnectionID: \d+")
    rest()
    client.enter("hello again")
    client.expect(re.escape("[ECHO] hello again"))

    step("Stopping both")
    client.enter("Q")
    client.expect_exit()
    server.enter("")
    server.expect_exit()


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="The reconnection demo, which runs by itself.")
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE,
        metavar="SECONDS",
        help="time between two steps, so that you can read along (default: %(default)s)",
    )
    pause = parser.parse_args().pause
    started = time.monotonic()
    programs: list[Program] = []
    try:
        demo(programs, pause)
    except (DemoFailed, OSError, subprocess.TimeoutExpired) as exc:
        show(f"\nThe demo FAILED: {exc}")
        return 1
    except KeyboardInterrupt:
        show("\nStopped by Ctrl-C")
        return 1
    finally:
        for program in programs:
            program.clean_up()
    show(
        "\nThe demo went well: lost, reconnected and echoing again in"
        f" {time.monotonic() - started:.0f} seconds."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
