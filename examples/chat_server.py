"""A chat server with rooms, for chat_client.py in a terminal and chat.html in a browser.

    python examples/chat_server.py [--host 127.0.0.1] [--port 8999] [--history FILE] [--cert FILE
    [--key FILE]]

Ctrl-C or SIGTERM stops it. With --history the last messages of each room outlast it. Open
http://127.0.0.1:8999/ for the page.

Messages are JSON objects in text frames; docs/how-to/chat-room.md has them in a table. Whoever
joins says the number of the last message that he has seen, and gets those that came since: that is
all that a client needs to come back after a loss.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpServerError,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocol,
    WebSocketProtocolChat,
    WebSocketServer,
    focConnectionClose,
    focContinuation,
    focText,
)
from mormot_ws.page import answer_html

PAGE = Path(__file__).with_name("chat.html")
MAX_HISTORY = 50  # messages that a room remembers
MAX_ROOMS = 100  # rooms at a time; one that nobody is in makes room for a new one
MAX_NAME = 30  # characters of a name, of a person or a room
MAX_TEXT = 2_000  # characters of a text
RATE = 10  # messages a second that one connection may send for long, and
BURST = 20  # how many it may send at once

Message = dict[str, Any]


class Refusal(Exception):
    """What somebody asks for cannot be done; the text says why, and is sent to him."""


@dataclass
class Room:
    """One room and what was said in it last."""

    name: str
    #: the identity of the row of numbers below: a room that begins again at 1 has another one
    history: str = field(default_factory=lambda: uuid.uuid4().hex)
    messages: deque[Message] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))

    @property
    def last(self) -> int:
        """The number of the newest message."""
        return int(self.messages[-1]["number"]) if self.messages else 0


@dataclass(frozen=True)
class Member:
    """One person in one room, by one connection."""

    process: WebSocketProcess
    room: Room
    name: str
    # a secret of the client program: who knows it is the same person on a new connection
    client: str


class Throttle:
    """Makes a connection wait whose messages come too fast.

    For the connection's own thread: the others are not delayed.
    """

    def __init__(self) -> None:
        self._due = 0.0  # when the next message may be handled, were there no burst

    def wait(self, stopping: threading.Event) -> None:
        """Wait until the next message may be handled, or *stopping* is set."""
        now = time.monotonic()
        self._due = max(self._due + 1 / RATE, now - BURST / RATE)
        if self._due > now:
            stopping.wait(self._due - now)


class ChatServer:
    """The rooms and who is in them.

    The callbacks of different connections run at the same time, each in its connection's thread.
    One lock keeps the tables together, and the order of what is sent too: a message gets its number
    and its place in every queue before the next one gets a number. That is sound because nothing
    waits while the lock is held: send_frame_async and websocket_broadcast only put frames into
    queues.
    """

    def __init__(
        self,
        port: str,
        history: Path | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        #: guards the three below, and the order of what is queued for the members of a room
        self._safe = threading.Lock()
        self._rooms: dict[str, Room] = {}
        self._members: dict[int, Member] = {}  # by connection ID
        self._file = None if history is None else HistoryFile(history, self._rooms)
        self._stopping = threading.Event()  # ends the waits of throttled connections
        settings = WebSocketProcessSettings(
            # MAX_TEXT characters, whatever their escapes; more is closed with 1009
            max_message_bytes=32_768,
            # a member that leaves so much unread is closed; it comes back for what it missed
            max_outgoing_bytes=4_000_000,
            outgoing_policy="close",
            # a member that is silent for 30 s is gone
            heartbeat_delay=10_000,
            disconnect_after_invalid_heartbeat_count=2,
        )
        self.server = WebSocketServer(
            port, settings=settings, certificate_file=cert, private_key_file=key
        )
        self.server.on_request = lambda ctxt: answer_html(ctxt, PAGE.read_text("utf-8"))
        self.server.on_websocket_upgraded = check_origin
        self.server.websocket_protocols.add(WebSocketProtocolChat("chat", "", self._on_frame))

    def free(self) -> None:
        """Stop, with a goodbye to everybody. Not from a callback."""
        self._stopping.set()
        self.server.free()
        if self._file is not None:
            self._file.close()

    # ------------------------------------------------------------------ in the connections' threads

    def _on_frame(self, sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        """One connection opens, sends a message, or ends."""
        if frame.opcode is focContinuation:
            sender.protocol.connection_opaque = Throttle()
        elif frame.opcode is focConnectionClose:
            with self._safe:
                self._leave(sender)
        else:
            sender.protocol.connection_opaque.wait(self._stopping)
            try:
                self._obey(sender, parse(frame))
            except Refusal as refusal:
                text, *id = refusal.args
                sender.send_frame_async(
                    as_frame({"type": "error", "text": text, "id": id[0] if id else ""})
                )

    def _obey(self, sender: WebSocketProcess, message: object) -> None:
        match message:
            case {"type": "join", "room": str(room), "name": str(name), "client": str(client)}:
                assert isinstance(message, dict)
                with self._safe:
                    self._leave(sender)
                    self._join(sender, checked(room), checked(name), client, message)
            case {"type": "say", "id": str(id), "text": str(text)}:
                if not text.strip() or len(text) > MAX_TEXT or len(id) > 64:
                    raise Refusal(f"a text has 1 to {MAX_TEXT} characters", id[:64])
                with self._safe:
                    self._say(self._member(sender), id, text)
            case {"type": "who"}:
                with self._safe:
                    names = self._names(self._member(sender).room)
                sender.send_frame_async(as_frame({"type": "who", "names": names}))
            case {"type": "leave"}:
                with self._safe:
                    self._leave(sender)
            case _:
                raise Refusal("this is no message of the chat")

    # ----------------------------------------------------------------------- while the lock is held

    def _join(
        self, sender: WebSocketProcess, room_name: str, name: str, client: str, message: Message
    ) -> None:
        """Let *sender* in, and give it what it has missed.

        Everything later comes behind that in its queue.
        """
        room = self._room(room_name)
        came_back = self._take_over(client, room)
        name = free_name(name, self._names(room))
        since = message.get("since")
        if message.get("history") != room.history or not isinstance(since, int):
            since = 0  # it has never been here, or what it knows is of another row of numbers
        answer = {
            "type": "joined",
            "room": room.name,
            "name": name,
            "history": room.history,
            "messages": [said for said in room.messages if said["number"] > since],
            "names": sorted([*self._names(room), name]),
        }
        sender.send_frame_async(as_frame(answer))
        if not came_back:
            self._broadcast(room, {"type": "arrived", "name": name})
        self._members[sender.connection_id] = Member(sender, room, name, client)

    def _take_over(self, client: str, room: Room) -> bool:
        """End the last connection of *client*, if we have not noticed its end.

        Returns True if it was in *room* all the time.
        """
        last = next((member for member in self._members.values() if member.client == client), None)
        if last is None:
            return False
        last.process.abort("its client is back on a new connection")  # does not wait
        if last.room is not room:
            self._leave(last.process)
            return False
        del self._members[last.process.connection_id]  # whatever it still brings is refused
        return True

    def _say(self, member: Member, id: str, text: str) -> None:
        room = member.room
        message = {
            "type": "message",
            "number": room.last + 1,
            "id": id,
            "name": member.name,
            "text": text,
        }
        message["time"] = int(time.time())
        if self._file is not None:
            # first: what was sent is remembered, also when we are killed now
            self._file.write(room, message)
        room.messages.append(message)
        self._broadcast(room, message)

    def _leave(self, sender: WebSocketProcess) -> None:
        member = self._members.pop(sender.connection_id, None)
        if member is not None:
            self._broadcast(member.room, {"type": "left", "name": member.name})

    def _broadcast(self, room: Room, message: Message) -> None:
        ids = [id for id, member in self._members.items() if member.room is room]
        self.server.websocket_broadcast(as_frame(message), ids)

    def _member(self, sender: WebSocketProcess) -> Member:
        member = self._members.get(sender.connection_id)
        if member is None:
            raise Refusal("join a room first")
        return member

    def _names(self, room: Room) -> list[str]:
        return sorted(member.name for member in self._members.values() if member.room is room)

    def _room(self, name: str) -> Room:
        if name not in self._rooms and len(self._rooms) >= MAX_ROOMS:
            used = {member.room.name for member in self._members.values()}
            unused = next((other for other in self._rooms if other not in used), None)
            if unused is None:
                raise Refusal("there are too many rooms")
            del self._rooms[unused]
        return self._rooms.setdefault(name, Room(name))


class HistoryFile:
    """The last messages of each room as lines of JSON.

    Written while the server's lock is held: short appends, in order.
    """

    def __init__(self, path: Path, rooms: dict[str, Room]) -> None:
        """Read *path*, if it exists, into *rooms*; rewrite what is needed, and append to it."""
        lines = path.read_bytes().splitlines() if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                room, history = entry.pop("room"), entry.pop("history")
            except (ValueError, KeyError):
                continue  # cut short when the server was killed, or the disk was full
            if room not in rooms or rooms[room].history != history:
                rooms[room] = Room(room, history)
            rooms[room].messages.append(entry)
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            file.writelines(
                self._line(room, message) for room in rooms.values() for message in room.messages
            )
        fresh.replace(path)
        # no buffer: what was written outlasts this process
        self._file = path.open("ab", buffering=0)

    @staticmethod
    def _line(room: Room, message: Message) -> bytes:
        return json.dumps({"room": room.name, "history": room.history, **message}).encode() + b"\n"

    def write(self, room: Room, message: Message) -> None:
        """Append one message."""
        try:
            self._file.write(self._line(room, message))
        except OSError as exc:
            raise Refusal(
                f"the server cannot keep the message: {exc.strerror}", message["id"]
            ) from exc

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def as_frame(message: Message) -> WebSocketFrame:
    """Return a message as a text frame."""
    return WebSocketFrame(focText, json.dumps(message))


def parse(frame: WebSocketFrame) -> object:
    """Return what a frame says; nobody has to send us sense."""
    if frame.opcode is not focText:
        raise Refusal("messages are text frames")
    try:
        return json.loads(frame.text)
    except (ValueError, RecursionError):
        raise Refusal("this is no JSON") from None


def checked(name: str) -> str:
    """Return the name of a person or a room without blanks around it.

    Control characters and the like are refused.
    """
    name = name.strip()
    if not (0 < len(name) <= MAX_NAME and name.isprintable()):
        raise Refusal(f"a name has 1 to {MAX_NAME} printable characters")
    return name


def free_name(name: str, taken: list[str]) -> str:
    """Return *name*, with a number behind it when somebody in the room has it already."""
    others = {other.casefold() for other in taken}
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
    return next(free for free in names if free.casefold() not in others)


def check_origin(protocol: WebSocketProtocol) -> int:
    """Refuse pages of other sites: they could listen through a visitor's browser.

    Programs send no Origin.
    """
    origin = protocol.upgrade_header("Origin")
    return 200 if not origin or urlsplit(origin).netloc == protocol.upgrade_header("Host") else 403


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="A chat server on WebSockets.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0: all (default %(default)s)",
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="0 for any free one (default %(default)s)"
    )
    parser.add_argument(
        "--history", type=Path, metavar="FILE", help="keep the last messages in this file"
    )
    parser.add_argument(
        "--cert", metavar="FILE", help="certificate chain in PEM: serve https and wss"
    )
    parser.add_argument(
        "--key", metavar="FILE", help="its private key, if that is not in the same file"
    )
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # both raise KeyboardInterrupt here, in the main thread
        signal.signal(number, signal.default_int_handler)
    try:
        chat = ChatServer(f"{args.host}:{args.port}", args.history, args.cert, args.key)
    except (HttpServerError, ValueError, OSError) as exc:
        sys.exit(f"Cannot serve: {exc}")
    try:
        server = chat.server
        print(f"Listening on {server.host}:{server.port}. Ctrl-C stops the server.", flush=True)
        host = server.host.replace("0.0.0.0", "localhost")
        print(
            f"For a browser: {'https' if args.cert else 'http'}://{host}:{server.port}/", flush=True
        )
        while not threading.Event().wait(0.5):  # on Windows, Ctrl-C ends only short waits
            pass
    except KeyboardInterrupt:
        print("Stopped by a signal", flush=True)
    finally:
        chat.free()


if __name__ == "__main__":
    main()
