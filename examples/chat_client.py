"""A chat client for the terminal, for the rooms of chat_server.py.

It reconnects by itself, and gets the messages that it missed.

    python examples/chat_client.py NAME [--room lobby] [--host 127.0.0.1] [--port 8999] [--tls [--ca
    FILE]]

A line is said; /who shows who is there; /quit (or the end of input, or Ctrl-C) leaves. Works at a
terminal and through pipes.

A line is kept until the server has sent it back with its number. After a loss the client joins
again, finds out what arrived and what did not, and says the rest again: no line is lost, and none
appears twice, as long as the room remembers what happened meanwhile.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    client_tls_context,
    focConnectionClose,
    focContinuation,
    focText,
)

MAX_TEXT = 2_000  # characters that the server takes
MAX_UNSAID = 20  # lines that may be under way before say() waits
PATIENCE = 10  # seconds that leaving waits for lines under way

Message = dict[str, Any]


class ChatClient:
    """One person in one room.

    The methods without an underscore are for the main thread, the others run in the client's.
    """

    def __init__(
        self, host: str, port: int, room: str, name: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self._room = room
        self._name = name
        self._secret = uuid.uuid4().hex  # tells the server that we are the same as before
        #: guards what is below, which both threads use, and the order of what is sent; notified
        #: when lines have been said
        self._changed = threading.Condition()
        self._joined = False  # we are in the room, on this connection
        self._history = ""  # the identity of the room's numbers, and
        self._last = 0  # the last one that we have seen
        self._unsaid: dict[str, str] = {}  # lines that have not come back, by their id
        # a server that is silent for 15 s is given up
        settings = WebSocketProcessSettings(
            heartbeat_delay=5_000, disconnect_after_invalid_heartbeat_count=2
        )
        self.client = HttpClientWebSockets.open(host, port, tls is not None, tls, settings=settings)

    def connect(self) -> str:
        """Connect for the first time, and ask for reconnection; return '' or what went wrong."""
        protocol = WebSocketProtocolChat("chat", "", self._on_frame)
        error = self.client.websockets_upgrade("", protocol=protocol)
        if not error:
            self.client.auto_reconnect()
        return error

    def say(self, text: str) -> None:
        """Say *text* now, or as soon as we are back in the room.

        Waits while MAX_UNSAID lines are in flight.
        """
        id = uuid.uuid4().hex
        with self._changed:
            self._changed.wait_for(lambda: len(self._unsaid) < MAX_UNSAID)
            self._unsaid[id] = text
            if self._joined:
                self._send(type="say", id=id, text=text)

    def who(self) -> None:
        """Ask who is in the room; the answer is printed when it comes."""
        self._send(type="who")

    def leave(self, patience: float) -> int:
        """Wait up to *patience* seconds for the lines in flight, and leave.

        Returns how many were not said.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._unsaid, patience)
            self._joined = False
            self._send(type="leave")
            return len(self._unsaid)

    def _send(self, **message: Any) -> None:
        """Queue a message; never waits.

        What has not left when the connection breaks is dropped when we join again.
        """
        process = self.client.websockets
        # None: Ctrl-C came before the upgrade
        if process is not None:
            process.send_frame_async(WebSocketFrame(focText, json.dumps(message)))

    # ----------------------------------------------------------------------- in the client's thread

    def _on_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focContinuation:
            process.outgoing.clear()  # left from the last connection
            with self._changed:
                name, room, since = self._name, self._room, self._last
                self._send(
                    type="join",
                    room=room,
                    name=name,
                    client=self._secret,
                    since=since,
                    history=self._history,
                )
        elif frame.opcode is focConnectionClose:
            with self._changed:
                was_joined, self._joined = self._joined, False
            if was_joined:
                show("* The connection is lost; we come back as soon as the server does")
        elif frame.opcode is focText:
            with self._changed:
                lines = self._take(json.loads(frame.text))
            for line in lines:  # not while the lock is held: the terminal may be slow
                show(line)

    def _take(self, message: Message) -> list[str]:
        """Do what a message of the server says; return the lines to show."""
        match message["type"]:
            case "joined":
                return self._on_joined(message)
            case "message":
                return self._on_message(message)
            case "arrived" | "left" as what:
                return [f"* {message['name']} has {what}"]
            case "who":
                return [f"* Here are {', '.join(message['names'])}"]
            case "error":
                self._settle(message["id"])
                return [f"! {message['text']}"]
        return []  # of a newer server

    def _on_joined(self, message: Message) -> list[str]:
        names = ", ".join(message["names"])
        lines = [f"* You are {message['name']} in {message['room']}; here are {names}"]
        if self._history not in ("", message["history"]):
            lines.append("* The server has forgotten what was said before")
        if self._history != message["history"]:
            self._history, self._last = message["history"], 0
        elif message["messages"] and (lost := message["messages"][0]["number"] - self._last - 1):
            lines.append(f"* {lost} messages were said meanwhile that the server does not remember")
        for said in message["messages"]:
            lines += self._on_message(said)
        self._joined = True
        # they are not among what was said, so they did not arrive
        for id, text in self._unsaid.items():
            self._send(type="say", id=id, text=text)
        return lines

    def _on_message(self, message: Message) -> list[str]:
        if message["number"] <= self._last:
            return []
        self._last = message["number"]
        self._settle(message["id"])
        when = time.strftime("%H:%M", time.localtime(message["time"]))
        return [f"{when} {message['name']}: {message['text']}"]

    def _settle(self, id: str) -> None:
        """The server has said, or refused, the line with that id, if it is ours."""
        self._unsaid.pop(id, None)
        self._changed.notify_all()


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
    parser.add_argument(
        "--host", default="127.0.0.1", help="the server's name or address (default %(default)s)"
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="the server's port (default %(default)s)"
    )
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
