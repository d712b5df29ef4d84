"""A chat client for the terminal, for the rooms of chat_server.py.

    python examples/chat_client.py NAME [--room lobby] [--host 127.0.0.1] [--port 8999] [--tls [--ca
    FILE]]

A line is said; /who shows who is there; /quit (or the end of input, or Ctrl-C) leaves. Works at a
terminal and through pipes.

It comes back by itself, and gets what it has missed; what is said meanwhile is said then. No line
is lost, and none appears twice, as long as the room remembers what has happened.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpClientWebSockets,
    Position,
    Publication,
    Publishing,
    Recovery,
    TopicSubscription,
    WebSocketProcessSettings,
    WebSocketProtocolTopics,
    WebSocketsError,
    client_tls_context,
)

MAX_TEXT = 2_000  # characters that the server takes
MAX_UNSAID = 20  # lines that may be under way before say() waits
PATIENCE = 10  # seconds that leaving waits for lines under way


class ChatClient:
    """One person in one room.

    The methods without an underscore are for the main thread, the others run in the client's.
    """

    def __init__(
        self, host: str, port: int, room: str, name: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self._name = name
        self._room = room
        self._entered = False
        self.topics = WebSocketProtocolTopics()
        # a position that never was: everything that the room remembers
        start = Position("", 0)
        self.topics.subscribe(room, self._heard, start, self._recovered, self._refused)
        # a server that is silent for 15 s is given up
        settings = WebSocketProcessSettings(
            heartbeat_delay=5_000, disconnect_after_invalid_heartbeat_count=2
        )
        self.client = HttpClientWebSockets.open(host, port, tls is not None, tls, settings=settings)
        self.client.on_websockets_closed = self._closed

    def connect(self) -> str:
        """Connect for the first time, and ask for reconnection; return '' or what went wrong."""
        uri = f"?{urlencode({'name': self._name})}"
        error = self.client.websockets_upgrade(uri, protocol=self.topics)
        if not error:
            self.client.auto_reconnect()
        return error

    def say(self, text: str) -> None:
        """Say *text* now, or as soon as we are back. Waits while MAX_UNSAID lines are under way."""
        while len(unsaid := self.topics.unacknowledged) >= MAX_UNSAID:
            unsaid[0].wait(500)  # on Windows, Ctrl-C ends only short waits
        self.topics.publish(self._room, {"text": text}, self._said)

    def who(self) -> None:
        """Show who is in the room."""
        try:
            members = self.topics.members(self._room)
        except WebSocketsError as exc:
            show(f"! {exc}")
            return
        if members is None:
            show("! There is no connection")
        else:
            show(f"* Here are {', '.join(sorted(each['name'] for each in members.values()))}")

    def leave(self, patience: float) -> int:
        """Wait up to *patience* seconds for the lines under way; return how many were not said."""
        self.client.on_websockets_closed = None
        give_up = time.monotonic() + patience
        for unsaid in self.topics.unacknowledged:
            unsaid.wait(max(0.0, give_up - time.monotonic()) * 1000)
        return len(self.topics.unacknowledged)

    # ----------------------------------------------------------------------- in the client's thread

    def _heard(self, publication: Publication) -> None:
        said = publication.data
        when = time.strftime("%H:%M", time.localtime(said["time"]))
        show(f"{when} {said['name']}: {said['text']}")

    def _recovered(self, recovery: Recovery) -> None:
        if not self._entered:
            self._entered = True
            show(f"* You are {self._name} in {self._room}")
        elif recovery.recovered:
            show("* We are back")
        elif recovery.reason == "epoch":
            show("* We are back, but the server has forgotten what was said before")
        else:
            show("* We are back; the server does not remember all that was said meanwhile")

    def _refused(self, subscription: TopicSubscription) -> None:
        show(f"! {subscription.reason}")

    def _said(self, line: Publishing) -> None:
        if line.state == "refused":
            show(f"! {line.reason}")

    def _closed(self, client: HttpClientWebSockets) -> None:
        show("* The connection is lost; we come back as soon as the server does")


def show(line: str) -> None:
    """Print one line, whole and at once. What others write may not command the terminal."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    # what a code page of Windows does not have is escaped
    data = f"{line}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def talk(chat: ChatClient) -> None:
    """Do what the lines on standard input say, until /quit or their end."""
    for raw in sys.stdin.buffer if sys.stdin else ():
        line = raw.decode("utf-8", "replace").strip()
        if line == "/quit":
            break
        if line == "/who":
            chat.who()
        elif len(line) > MAX_TEXT:
            show(f"! A line has at most {MAX_TEXT} characters")
        elif line:
            chat.say(line)


def main() -> None:
    """Read the command line, connect, talk."""
    parser = argparse.ArgumentParser(description="A chat client that comes back by itself.")
    parser.add_argument("name", help="what the others call you")
    parser.add_argument("--room", default="lobby", help="the room to join (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the server (default %(default)s)")
    parser.add_argument("--port", default=8999, type=int, help="its port (default %(default)s)")
    parser.add_argument("--tls", action="store_true", help="connect by wss")
    parser.add_argument("--ca", metavar="FILE", help="trust this authority instead of the system's")
    args = parser.parse_args()
    try:
        tls = client_tls_context(args.ca) if args.tls or args.ca else None
        chat = ChatClient(args.host, args.port, args.room, args.name, tls)
        with chat.client as client:  # frees it at the end, in this thread: never in a callback
            try:
                error = chat.connect()
                if error:
                    where = f"{args.host}:{args.port}"
                    sys.exit(f"Cannot connect to {where}: {error} {client.last_error}")
                talk(chat)
                left = chat.leave(PATIENCE)
            except KeyboardInterrupt:
                left = chat.leave(0)
            if left:
                sys.exit(f"{left} lines were not delivered")
    except KeyboardInterrupt:
        pass
    except (ValueError, OSError) as exc:  # not a port, or no such file
        sys.exit(f"Cannot connect: {exc}")


if __name__ == "__main__":
    main()
