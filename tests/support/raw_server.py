"""A server on plain sockets, and what it can do with a connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from mormot_ws import (
    WebSocketFrameOpCode,
    focBinary,
    focText,
)
from mormot_ws.process.freeing import ClosedByWith

from .places import HOST
from .raw_peer import HttpHead, RawServerPeer
from .waiting import BOUND, when_free

#: what a raw server does with a connection; the connection is closed when it returns
Behaviour = Callable[[RawServerPeer], Any]


class RawServer(ClosedByWith):
    """A server on plain sockets that treats its n-th connection by its n-th *behaviour*, and all
    later ones by the last.

    Connections are served one after another, in one thread. An exception in a behaviour is raised
    by :meth:`stop`, unless the connection broke.
    """

    def __init__(self, *behaviours: Behaviour, port: int = 0) -> None:
        self._behaviours = behaviours
        self._listener = when_free(lambda: socket.create_server((HOST, port)))
        self.port: int = self._listener.getsockname()[1]
        #: how many connections were accepted
        self.accepted = 0
        self._stopping = False
        self._error: BaseException | None = None
        self._peer: RawServerPeer | None = None
        self._thread = threading.Thread(target=self._run, name="raw server", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with RawServerPeer(sock) as peer:
                self._peer = peer
                behaviour = self._behaviours[min(self.accepted, len(self._behaviours) - 1)]
                self.accepted += 1
                try:
                    if not self._stopping:
                        behaviour(peer)
                except (OSError, EOFError):
                    pass  # the client has gone, or stop() was called
                except BaseException as exc:  # noqa: BLE001 - handed on to the test
                    self._error = exc
                self._peer = None

    def close(self) -> None:
        """End the connection of the moment and the thread."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        peer = self._peer
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(BOUND)
        self._listener.close()
        assert not self._thread.is_alive(), "the raw server does not end"
        if self._error is not None:
            raise self._error


def accept_and_close(peer: RawServerPeer) -> None:
    """Behaviour: accept the TCP connection, read the request and close."""
    peer.read_head()


def silent(peer: RawServerPeer) -> None:
    """Behaviour: take the request and never answer."""
    peer.wait_end()


def sending(data: bytes) -> Behaviour:
    """Behaviour: answer the request with *data*, whatever it is, and close."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(data)

    return behaviour


def truncated(size: int) -> Behaviour:
    """Behaviour: send the first *size* bytes of a good answer and close."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.send(peer.answer(peer.read_head())[:size])

    return behaviour


def answering(**headers: str | None) -> Behaviour:
    """Behaviour: answer 101 with changed *headers*, then do what a good server does."""

    def behaviour(peer: RawServerPeer) -> None:
        peer.send(peer.answer(peer.read_head(), **headers))
        converse(peer)

    return behaviour


def remembering(heads: list[HttpHead]) -> Behaviour:
    """Behaviour: append the request to *heads*, then do what a good server does."""

    def behaviour(peer: RawServerPeer) -> None:
        heads.append(peer.accept())
        converse(peer)

    return behaviour


def polite(peer: RawServerPeer) -> None:
    """Behaviour: upgrade, and do what a good server does."""
    peer.accept()
    converse(peer)


def upgrade_and_drop(peer: RawServerPeer) -> None:
    """Behaviour: upgrade, and end the TCP connection without a close frame."""
    peer.accept()


def drop_on_request(peer: RawServerPeer) -> None:
    """Behaviour: upgrade, and end the TCP connection, without a close frame, when a message has
    come.
    """
    peer.accept()
    peer.sock.settimeout(None)
    peer.receive_frame()


def converse(peer: RawServerPeer) -> None:
    """On an upgraded connection: echo messages, answer pings, answer a close frame and end."""
    peer.sock.settimeout(None)
    while True:
        frame = peer.receive_frame()
        if frame.opcode in (focText, focBinary):
            peer.send_frame(frame.opcode, frame.payload)
        elif frame.opcode is WebSocketFrameOpCode.focPing:
            peer.send_frame(WebSocketFrameOpCode.focPong, frame.payload)
        elif frame.opcode is WebSocketFrameOpCode.focConnectionClose:
            peer.send_frame(frame.opcode, frame.payload)
            return
