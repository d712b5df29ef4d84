"""A client of rest_server.py that calls a method to start tasks, and is called back.

It reconnects by itself.

    python examples/rest_client.py [--host 127.0.0.1] [--port 8999]

A line like "tea 5" starts a task of five steps; Q (or the end of input, or Ctrl-C) quits.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from rest_interfaces import Progress, Task, TaskRunner

from mormot_ws import ClientServices, HttpClientWebSockets, ServiceError, WebSocketProcess


class Watcher(Progress):
    """The methods that the server calls, in the client's thread.

    They may notify the server, but must not wait for an answer.
    """

    def step_done(self, number: int, task: Task, step: int) -> None:
        """Show the progress."""
        say(f"  task {number} ({task.name}): {step} of {task.steps}")

    def may_finish(self, number: int, task: Task) -> bool:
        """Answer the server."""
        say(f"  task {number} may finish")
        return True


class TaskClient:
    """The application."""

    def __init__(self, host: str, port: int) -> None:
        self.client = HttpClientWebSockets.open(host, port)
        self.client.settings.on_client_connected = self.connected
        self.client.settings.on_client_disconnected = self.disconnected
        self.services = ClientServices(self.client)
        self.services.register(Progress, Watcher())
        #: waits for answers: for the main thread
        self.runner = self.services.get(TaskRunner)
        #: does not wait for methods that return None: for callbacks
        self.notified_runner = self.services.get(TaskRunner, notify=True)

    def connect(self) -> str:
        """Upgrade to synopsejson and enable reconnection; return '' or the error."""
        error = self.client.websockets_upgrade("root", "", True)
        if not error:
            self.client.auto_reconnect()
        return error

    def connected(self, process: WebSocketProcess) -> None:
        """Called in the client's thread for each connection, on which we have to register again."""
        self.notified_runner.watch()
        say(f"[CONNECTED] as #{process.connection_id}")

    def disconnected(self, process: WebSocketProcess) -> None:
        """Called in the client's thread when a connection has ended."""
        say("[CLOSED]")

    def start(self, line: str) -> None:
        """Call the server, and show its answer or the error."""
        name, _, steps = line.rpartition(" ")
        try:
            number = self.runner.start(Task(name or "task", int(steps)))
            say(f"Task {number} has started")
        except ValueError:
            say("Type a name and a number of steps: tea 5")
        # an error from the server, a time-out or no connection: see its subclasses
        except ServiceError as exc:
            say(f"Not started: {exc}")


def say(text: str) -> None:
    """Print a line as a whole and at once, because several threads print.

    The output may be a pipe.
    """
    # escape what a Windows code page does not have
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> None:
    """Read the command line, connect and start the tasks that are typed."""
    parser = argparse.ArgumentParser(description="Starts tasks on rest_server.py.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the server's name or address (default %(default)s)"
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="the server's port (default %(default)s)"
    )
    args = parser.parse_args()
    try:
        app = TaskClient(args.host, args.port)
        with app.client:  # frees it at the end, in this thread; never in a callback
            error = app.connect()
            if error:
                sys.exit(
                    f"Cannot connect to {args.host}:{args.port}: {error} ({app.client.last_error})"
                )
            say("Type a name and a number of steps to start a task (tea 5); Q quits.")
            for raw in sys.stdin.buffer if sys.stdin else ():
                line = raw.decode("utf-8", "replace").strip()
                if line.upper() == "Q":
                    break
                if line:
                    app.start(line)
    except KeyboardInterrupt:
        pass
    except ValueError as exc:
        sys.exit(f"Cannot connect: {exc}")


if __name__ == "__main__":
    main()
