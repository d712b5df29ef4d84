"""Servers for ``ServerProcesses``, made in its OS processes; and as a program. No test in here."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

from mormot_ws import Peer, Server, ServerProcesses


def make_server(sockets: list[socket.socket], number: int) -> Server:
    """Return a server that answers with its number and its process ID."""
    server = Server(socket=sockets)

    @server.on_message("who")
    def message(peer: Peer, text: str) -> None:
        peer.send(f"{number} {os.getpid()}")

    return server


def make_no_server(sockets: list[socket.socket], number: int) -> Server:
    """Fail."""
    raise LookupError("there is no configuration")


def main() -> None:
    """Serve in one OS process, and print the address."""
    processes = ServerProcesses(make_server, 1, "127.0.0.1:0")
    processes.start()
    before = signal.getsignal(signal.SIGHUP)

    def tell() -> None:
        # a signal that comes before run() ends the program
        while signal.getsignal(signal.SIGHUP) == before:
            time.sleep(0.01)
        print(processes.address, flush=True)

    threading.Thread(target=tell).start()
    processes.run()


if __name__ == "__main__":
    main()
    sys.exit(0)
