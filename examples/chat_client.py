"""A chat client for the terminal, for the rooms of chat_server.py.

    python examples/chat_client.py NAME [--room lobby] [--host 127.0.0.1] [--port 8999]
                                        [--tls [--ca FILE]]

Each line is sent to the room. /who shows who is there; /quit (or the end of input, or Ctrl-C)
leaves. Works on a terminal and with pipes.

The client reconnects by itself and shows what it has missed. Lines typed while it is disconnected
are sent after that. No line is lost or shown twice, as long as the room remembers its history.
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

MAX_TEXT = 2_000  # characters that the server accepts
MAX_UNSAID = 20  # lines that may be in flight before say() waits
PATIENCE = 10  # seconds for which leave() waits for lines in flight


class ChatClient:
    """One person in one room.

    The methods without an underscore are called in the main thread, the others in the client's.
    """

    def __init__(
        self, host: str, port: int, room: str, name: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self._name = name
        self._room = room
        self._entered = False
        self.topics = WebSocketProtocolTopics()
        # an unknown position requests everything that the room remembers
        start = Position("", 0)
        self.topics.subscribe(room, self._heard, start, self._recovered, self._refused)
        # a server that is silent for 15 s counts as lost
        settings = WebSocketProcessSettings(
            heartbeat_delay=5_000, disconnect_after_invalid_heartbeat_count=2
        )
        self.client = HttpClientWebSockets.open(host, port, tls is not None, tls, settings=settings)
        self.client.on_websockets_closed = self._closed

    def connect(self) -> str:
        """Make the first connection and enable reconnection; return '' or the error."""
        uri = f"?{urlencode({'name': self._name})}"
        error = self.client.websockets_upgrade(uri, protocol=self.topics)
        if not error:
            self.client.auto_reconnect()
        return error

    def say(self, text: str) -> None:
        """Send *text* now, or after reconnecting. Waits while MAX_UNSAID lines are in flight."""
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
            show("! Not connected")
        else:
            show(f"* Here are {', '.join(sorted(each['name'] for each in members.values()))}")

    def leave(self, patience: float) -> int:
        """Wait up to *patience* seconds for lines in flight; return how many were not sent."""
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
            show("* Reconnected")
        elif recovery.reason == "epoch":
            show("* Reconnected, but the server has lost the history")
        else:
            show("* Reconnected, but some lines are missing")

    def _refused(self, subscription: TopicSubscription) -> None:
        show(f"! {subscription.reason}")

    def _said(self, line: Publishing) -> None:
        if line.state == "refused":
            show(f"! {line.reason}")

    def _closed(self, client: HttpClientWebSockets) -> None:
        show("* Connection lost; reconnecting")


def show(line: str) -> None:
    """Print a line as a whole and at once. Text from others cannot control the terminal."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    # escape what a Windows code page does not have
    data = f"{line}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def talk(chat: ChatClient) -> None:
    """Handle the lines of standard input until /quit or their end."""
    for raw in sys.stdin.buffer if sys.stdin else ():
        line = raw.decode("utf-8", "replace").strip()
        if line == "/quit":
            break
        if line == "/who":
            chat.who()
        elif len(line) > MAX_TEXT:
            show(f"! A line must have at most {MAX_TEXT} characters")
        elif line:
            chat.say(line)


def main() -> None:
    """Read the command line, connect and chat."""
    parser = argparse.ArgumentParser(description="A chat client that reconnects by itself.")
    parser.add_argument("name", help="your name in the room")
    parser.add_argument("--room", default="lobby", help="the room to join (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the server (default %(default)s)")
    parser.add_argument("--port", default=8999, type=int, help="its port (default %(default)s)")
    parser.add_argument("--tls", action="store_true", help="connect with TLS (wss)")
    parser.add_argument("--ca", metavar="FILE", help="trust this authority instead of the system's")
    args = parser.parse_args()
    try:
        tls = client_tls_context(args.ca) if args.tls or args.ca else None
        chat = ChatClient(args.host, args.port, args.room, args.name, tls)
        with chat.client as client:  # frees it at the end, in this thread; never in a callback
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
    except (ValueError, OSError) as exc:  # an invalid port, or a missing file
        sys.exit(f"Cannot connect: {exc}")


if __name__ == "__main__":
    main()
