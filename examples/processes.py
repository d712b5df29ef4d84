"""An echo server in several OS processes that all listen on one port.

    python examples/processes.py [--port 8999] [--count 2]

Enter prints the status of each process. Ctrl-C or SIGTERM says goodbye to all clients and stops the
server; SIGHUP replaces the processes one by one without refusing a connection.
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
    """Return the server of one OS process. Called in that process."""
    server = Server(socket=sockets)

    @server.on_message("echo")
    def message(peer: Peer, text: str | bytes) -> None:
        """Called for each message, in a thread of that process."""
        peer.send(f"{text!r} from process {number}" if isinstance(text, str) else text)

    return server


def show_status(processes: ServerProcesses) -> None:
    """Print a line for each process, and the sums, whenever a line is typed."""
    # not with sys.stdin, whose lock could keep the program from ending
    while b"\n" in os.read(0, 1024):
        status = processes.status()
        for each in status.processes:
            connections = "?" if each.server is None else each.server.connections
            say(f"process {each.number}: PID {each.pid}, {each.state}, {connections} connections")
        total = status.total
        say(f"all: {total.connections} connections, {total.frames_in} frames received")


def say(text: str) -> None:
    """Print a line at once, even to a pipe."""
    print(text, flush=True)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="An echo server in several OS processes.")
    parser.add_argument("--port", default=8999, type=int, help="0: any free port")
    parser.add_argument("--count", default=2, type=int, help="the number of OS processes")
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


# the other processes import this module too
if __name__ == "__main__":
    main()
