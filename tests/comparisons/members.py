"""Members of a chat: what connects to the chat servers that are compared."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from typing import Any

from mormot_ws import connect
from tests.support import RawClient
from tests.support.programs import Lines

from .running import SOCKETIO, uri


class Member(ABC):
    """Somebody in a *room*, who comes back by itself."""

    def __init__(self) -> None:
        #: what it has received
        self.heard = Lines()

    @abstractmethod
    def say(self, text: str) -> None:
        """Send a message to the room; it may be lost while there is no connection."""

    @abstractmethod
    def leave(self) -> None:
        """End the connection."""


class PlainMember(Member):
    """A member of a chat over plain WebSockets: the room is the path."""

    def __init__(self, library: str, port: int, room: str) -> None:
        super().__init__()
        self._ws = connect(
            uri(library, port) + room, on_message=lambda ws, message: self.heard.add(str(message))
        )
        self._ws.wait_connected(30)

    def say(self, text: str) -> None:
        self._ws.send(text, timeout=0)

    def leave(self) -> None:
        self._ws.close()


class SocketIoMember(Member):
    """A member of a chat over Socket.IO: it joins the room by an event."""

    def __init__(self, library: str, port: int, room: str) -> None:
        import socketio

        super().__init__()
        self._room = room
        self._sio: Any = socketio.Client(reconnection_delay=0.5, reconnection_delay_max=1)
        self._sio.on("message", self.heard.add)
        self._sio.on("connect", lambda: self._sio.emit("join", room))
        self._sio.connect(uri(library, port), transports=["websocket"], retry=True)

    def say(self, text: str) -> None:
        import socketio.exceptions

        with contextlib.suppress(socketio.exceptions.SocketIOError):
            self._sio.emit("say", (self._room, text))

    def leave(self) -> None:
        # its own goodbye takes 3 seconds
        self._sio.reconnection = False
        if self._sio.connected:
            self._sio.eio.ws.abort()
        self._sio.shutdown()


def new_member(library: str, port: int, room: str) -> Member:
    """Return a new member of *room*."""
    kind = SocketIoMember if library == SOCKETIO else PlainMember
    return kind(library, port, room)


def deaf_member(library: str, port: int, room: str) -> RawClient:
    """Return a new member of *room* that does not read what is sent to it; close it."""
    member = RawClient(port, receive_buffer=4096)
    try:
        if library != SOCKETIO:
            member.send(RawClient.request(room, ""))
            assert member.read_head().status == 101
            return member
        member.send(RawClient.request("socket.io/?EIO=4&transport=websocket", ""))
        assert member.read_head().status == 101
        # Engine.IO has opened; then Socket.IO connects, and answers
        member.receive_frame()
        member.send_frame(1, "40")
        member.receive_frame()
        member.send_frame(1, "42" + json.dumps(["join", room]))
    except BaseException:
        member.close()
        raise
    return member
