"""Many WebSocket clients in one thread, for tests of a server with hundreds of them: bare sockets
that count what they get.

    python -m tests.crowd --port 8999 --clients 1000 [--deaf 10]

It connects and upgrades them all, says ``ready``, and then prints a line for each of these, as soon
as the last of the clients that read has had it: ``got TEXT NUMBER TIME`` (a text message) and
``closed CODE NUMBER TIME`` (a close frame, which they answer). The time is that of
``time.monotonic()``. Pings are answered. *Deaf* ones do not read until ``hear`` comes on the
standard input; its end ends them all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import sys
import time
from collections import Counter

from mormot_ws import (
    WebProcessInFrame,
    encode_frame,
    focConnectionClose,
    focPing,
    focPong,
    focText,
    parse_close_payload,
)
from tests.support import BOUND, HOST, RawClient

_MASK = b"\x12\x34\x56\x78"


class Member:
    """One client."""

    def __init__(self, port: int, receive_buffer: int) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(BOUND)
        self.sock.connect((HOST, port))
        self.sock.sendall(RawClient.request())
        self._head = b""
        self._decoder = WebProcessInFrame(masked=False, max_message_bytes=64 << 20)

    def upgraded(self) -> None:
        """Read the answer to the upgrade."""
        while b"\r\n\r\n" not in self._head:
            data = self.sock.recv(4096)
            assert data, f"not upgraded: {self._head!r}"
            self._head += data
        head, _, self._unread = self._head.partition(b"\r\n\r\n")
        assert b" 101 " in head, head
        self.sock.setblocking(False)

    def read(self) -> list[str] | None:
        """Return what has come: texts, and ``closed CODE``; None at the end."""
        try:
            data = self._unread or self.sock.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        self._unread = b""
        if not data:
            return None
        found = []
        for frame in self._decoder.feed(data):
            if frame.opcode is focText:
                found.append(f"got {frame.text}")
            elif frame.opcode is focPing:
                self._send(focPong, frame.payload)
            elif frame.opcode is focConnectionClose:
                found.append(f"closed {parse_close_payload(frame.payload)[0]}")
                self._send(focConnectionClose, frame.payload)
        return found

    def _send(self, opcode: int, payload: bytes) -> None:
        with contextlib.suppress(OSError):
            self.sock.send(encode_frame(opcode, payload, _MASK))


class Crowd:
    """All of them, and what they have got."""

    def __init__(self, port: int, clients: int, deaf: int) -> None:
        self._deaf = [Member(port, 4096) for _ in range(deaf)]
        members = [Member(port, 0) for _ in range(clients - deaf)]
        for member in members + self._deaf:
            member.upgraded()
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        for member in members:
            self._selector.register(member.sock, selectors.EVENT_READ, member)
        self._hearing = len(members)
        self._members = len(members)
        self._counts: Counter[str] = Counter()

    def run(self) -> None:
        """Listen until the standard input ends."""
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if not self._command():
                        return
                else:
                    self._read(key.data)

    def _command(self) -> bool:
        line = os.read(sys.stdin.fileno(), 100)
        if line.startswith(b"hear"):
            for member in self._deaf:
                self._selector.register(member.sock, selectors.EVENT_READ, member)
        return bool(line)

    def _read(self, member: Member) -> None:
        found = member.read()
        for what in found or ():
            self._counts[what] += 1
            if self._counts[what] == self._members:
                self._say(what)
        if found is None:
            self._selector.unregister(member.sock)
            member.sock.close()
            self._counts["ended"] += 1
            if self._counts["ended"] == self._members:
                closed = [what for what in self._counts if what.startswith("closed ")]
                print(
                    (
                        f"ended {self._counts['ended']} "
                        f"{[(what, self._counts[what]) for what in closed]}"
                    ),
                    flush=True,
                )

    def _say(self, what: str) -> None:
        print(what, self._counts[what], time.monotonic(), flush=True)


def main() -> None:
    """Read the command line, connect, listen."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crowd", description="Many clients in one thread."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=1000, help="how many (default %(default)s)")
    parser.add_argument(
        "--deaf", type=int, default=0, help="how many of them do not read (default %(default)s)"
    )
    arguments = parser.parse_args()
    crowd = Crowd(arguments.port, arguments.clients, arguments.deaf)
    print("ready", flush=True)
    crowd.run()


if __name__ == "__main__":
    main()
