"""An echo server in several OS processes, which all listen on one port.

    python examples/processes.py [--port 8999] [--count 2]

Enter prints what each of them has to do. Ctrl-C or SIGTERM says goodbye to all clients and ends it;
SIGHUP replaces the processes one after another, without refusing anybody.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import HttpServerError, Peer, Server, ServerProcesses


def make_server(sockets: list[socket.socket], number: int) -> Server:
    """Return the server of one OS process; called in it."""
    server = Server(socket=sockets)

    @server.on_message("echo")
    def message(peer: Peer, text: str | bytes) -> None:
        """Called for each message, in a thread of that process."""
        peer.send(f"{text!r} from process {number}" if isinstance(text, str) else text)

    return server


def show_status(processes: ServerProcesses) -> None:
    """Print a line for each process, and the sums, whenever a line is typed."""
    # not by sys.stdin, whose lock would be in the way of the program's end
    while b"\n" in os.read(0, 1024):
        status = processes.status()
        for each in status.processes:
            connections = "?" if each.server is None else each.server.connections
            say(f"process {each.number}: PID {each.pid}, {each.state}, {connections} connections")
        total = status.total
        say(f"all: {total.connections} connections, {total.frames_in} frames received")


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    print(text, flush=True)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="An echo server in several OS processes.")
    parser.add_argument("--port", default=8999, type=int, help="0 for any free one")
    parser.add_argument("--count", default=2, type=int, help="how many processes")
    args = parser.parse_args()
    try:
        with ServerProcesses(make_server, args.count, f"127.0.0.1:{args.port}") as processes:
            say(f"Listening on {processes.address}. Enter shows the status, Ctrl-C stops it.")
            threading.Thread(target=show_status, args=(processes,), daemon=True).start()
            # returns after a signal, when all have said goodbye
            processes.run()
    except (HttpServerError, ValueError) as exc:
        sys.exit(f"Cannot serve: {exc}")
    say("Stopped")


# the other processes import this module, too
if __name__ == "__main__":
    main()
