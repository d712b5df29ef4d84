"""The reconnection demo, by itself and in one terminal, in about 15 seconds.

    python examples/demo.py
    python examples/demo.py --pause 0

It starts server.py and client.py as they are, types into the client, kills the server, waits for
failed attempts, starts the server again, and checks that the client is back and gets its echo.
Exits with 0 when all of that was seen, else with 1.
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

PATIENCE = 30  # seconds for anything that we wait for
PAUSE = 1.5  # seconds between two steps, so that one can read along


class Program:
    """One of the examples as an OS process: its output is shown and searched.

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
        # what it has printed; None: it has ended
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
                    " before"
                )
            match = re.search(pattern, line)
            if match:
                return match

    def enter(self, line: str) -> None:
        """Type *line* and Enter."""
        show(f"{self.name}:  <- {line!r} is typed")
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def expect_exit(self) -> None:
        """Wait for its end, which has to be an orderly one."""
        code = self.process.wait(PATIENCE)
        if code != 0:
            raise DemoFailed(f"the {self.name} ended with exit code {code}")

    def clean_up(self) -> None:
        """Leave nothing behind, however it went."""
        self.process.kill()  # does nothing when it has ended
        self.process.wait()
        self.relay.join(PATIENCE)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


class DemoFailed(Exception):
    """Something that should have been seen was not."""


def show(text: str) -> None:
    """Print one line, whole and at once."""
    # what a code page of Windows does not have is escaped
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def demo(programs: list[Program], pause: float) -> None:
    """The story, with *pause* seconds between its steps. *programs* gets whatever was started."""

    def rest() -> None:
        # so that one can read along
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
        "The server is killed: the client notices at once, and tries to reconnect, less and less"
        " often"
    )
    server.process.kill()
    client.expect(r"\[CLOSED\]")
    client.expect("Reconnection attempt #3 failed")
    client.enter("")
    client.expect("^Disconnected")
    client.expect(r"Reconnection attempt #\d+ failed")

    step("The server is started again: the client comes back by itself")
    server = start("server", "--port", port)
    server.expect("Listening on")
    client.expect(r"Reconnected! ConnectionID: \d+")
    rest()
    client.enter("here I am again")
    client.expect(re.escape("[ECHO] here I am again"))

    step("Both are stopped")
    client.enter("Q")
    client.expect_exit()
    server.enter("")
    server.expect_exit()


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="The reconnection demo, by itself.")
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE,
        metavar="SECONDS",
        help="between two steps, so that one can read along (default: %(default)s)",
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
        "\nThe demo went well: lost, reconnected, and echoing again, in"
        f" {time.monotonic() - started:.0f} seconds."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
