"""A task runner: clients call a method to start tasks, and are called back while the tasks run.

    python examples/rest_server.py [--host 127.0.0.1] [--port 8999] [--pause 0.5]

rest_client.py is its client. You can also start tasks with curl, which cannot be called back; such
a task continues without asking:

    curl -d '[{"name":"by curl","steps":3}]' -H 'Content-Type: application/json' \\
        http://127.0.0.1:8999/root/TaskRunner.Start

Ctrl-C or SIGTERM stops it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from itertools import count
from pathlib import Path

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from rest_interfaces import Progress, Task, TaskRunner

from mormot_ws import HttpServerError, ServerServices, ServiceError, WebSocketServerRest


class Runner(TaskRunner):
    """The service. Its methods run in the threads of the connections that call them."""

    def __init__(self, services: ServerServices, pause: float) -> None:
        self.services = services
        self.pause = pause
        self.numbers = count(1)
        self.stopping = threading.Event()
        #: guards the watchers, by connection; nothing is called while it is held
        self.lock = threading.Lock()
        self.watchers: dict[int, Progress] = {}

    def start(self, task: Task) -> int:
        """Start a thread for *task*: this thread must not wait for an answer from the client."""
        if task.steps < 1:
            raise ServiceError(f"{task.name!r} has no steps", 400)
        number = next(self.numbers)
        boss = self.services.caller(Progress)
        say(
            f"task {number}: {task.name!r}, {task.steps} steps, from"
            f" #{self.services.context.connection_id}"
        )
        threading.Thread(
            target=self.run, args=(number, task, boss), name=f"task {number}", daemon=True
        ).start()
        return number

    def watch(self) -> None:
        """Remember the caller, which has to call again after a reconnection."""
        connection_id = self.services.context.connection_id
        with self.lock:
            self.watchers[connection_id] = self.services.caller(Progress)
        say(f"#{connection_id} is watching")

    def run(self, number: int, task: Task, boss: Progress) -> None:
        """Do the steps, in a separate thread."""
        for step in range(1, task.steps + 1):
            if step == task.steps and not self.confirmed(number, task, boss):
                say(f"task {number} was cancelled")
                return
            if self.stopping.wait(self.pause):
                return
            self.tell(number, task, step)
        say(f"task {number} is done")

    def confirmed(self, number: int, task: Task, boss: Progress) -> bool:
        """Ask the client that started the task.

        If it is gone, late or cannot be asked, the task continues.
        """
        try:
            return boss.may_finish(number, task)
        except ServiceError as exc:
            say(f"task {number}: no client to ask: {exc}")
            return True

    def tell(self, number: int, task: Task, step: int) -> None:
        """Notify the watchers. These calls return None, so they do not wait for slow clients."""
        with self.lock:
            watchers = list(self.watchers.items())
        for connection_id, watcher in watchers:
            try:
                watcher.step_done(number, task, step)
            except ServiceError:  # no longer connected
                with self.lock:
                    self.watchers.pop(connection_id, None)
                say(f"#{connection_id} has stopped watching")


def serve(port: str, pause: float) -> None:
    """Serve on *port* ('host:port') until a signal."""
    with WebSocketServerRest(port, uri="root", ajax=True) as server:
        services = ServerServices(server)  # root/…
        runner = Runner(services, pause)
        services.register(TaskRunner, runner)
        say(f"Listening on {server.host}:{server.port}; Ctrl-C stops the server")
        try:
            while not runner.stopping.wait(0.5):  # a signal ends this at once with an exception
                pass
        finally:
            runner.stopping.set()


def say(text: str) -> None:
    """Print a line as a whole and at once, because several threads print.

    The output may be a pipe.
    """
    # escape what a Windows code page does not have
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="A task runner that is called over WebSockets.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0: all (default %(default)s)",
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="0: any free port (default %(default)s)"
    )
    parser.add_argument(
        "--pause", default=0.5, type=float, help="seconds per step (default %(default)s)"
    )
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # both raise KeyboardInterrupt here, in the main thread
        signal.signal(number, signal.default_int_handler)
    try:
        serve(f"{args.host}:{args.port}", args.pause)
    except KeyboardInterrupt:
        say("Stopped by a signal")
    except (HttpServerError, ValueError) as exc:
        sys.exit(f"Cannot serve: {exc}")


if __name__ == "__main__":
    main()
