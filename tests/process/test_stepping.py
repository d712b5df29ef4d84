"""The loop of a connection, driven step by step instead of by a thread of its own."""

from __future__ import annotations

import selectors
import socket
import threading
from typing import cast

from support import BOUND, Recorder, text

from mormot_ws import (
    WebCrtSocketProcess,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    encode_frame,
    focText,
    wpsDestroy,
)
from mormot_ws.core.incoming import WebProcessInFrame
from mormot_ws.process.keeper import ProcessKeeper
from mormot_ws.sockets.transport import Transport

CONNECTIONS = 100
MESSAGES = 5


def echo(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    if frame.opcode is focText:
        process.send_frame(frame)


def test_one_thread_drives_a_hundred_connections_by_readiness() -> None:
    """``begin_loop``, ``loop_step`` when a socket can be read, ``end_loop``: every message comes
    back in order, each connection begins and ends once, and all callbacks run in that one thread.
    """
    recorders = [Recorder() for _ in range(CONNECTIONS)]
    keeper = ProcessKeeper("keeper of the stepped connections")
    ready = selectors.DefaultSelector()
    peers: list[socket.socket] = []
    left = set()
    try:
        for number, recorder in enumerate(recorders):
            ours, peer = socket.socketpair()
            peer.settimeout(BOUND)
            peers.append(peer)

            def callback(
                process: WebSocketProcess, frame: WebSocketFrame, recorder: Recorder = recorder
            ) -> None:
                recorder.frame(process, frame)
                echo(process, frame)

            process = WebCrtSocketProcess(
                WebSocketProtocolChat("echo", "", callback),
                WebSocketProcessSettings(),
                keeper,
                mask_sent_frames=False,
                connection_id=number,
            )
            process.attach(Transport(ours))
            # as a server that waits for many sockets: the keeper would take input between the steps
            process.reader.allow_ahead(False)
            assert process.begin_loop()
            ready.register(ours, selectors.EVENT_READ, process)
            left.add(process)
        talkers = threading.Thread(target=talk, args=(peers,))
        talkers.start()
        while left:
            events = ready.select(BOUND)
            assert events, f"{len(left)} connections are stuck"
            for key, _ in events:
                process = cast(WebCrtSocketProcess, key.data)
                if not process.loop_step():
                    ready.unregister(key.fileobj)
                    process.end_loop()
                    left.remove(process)
                    assert process.state is wpsDestroy
                    assert process.close_code == 1000
        talkers.join(BOUND)
        assert not talkers.is_alive()
    finally:
        keeper.stop()
        ready.close()
        for peer in peers:
            peer.close()
    for number, recorder in enumerate(recorders):
        expected = [f"{number}:{at}" for at in range(MESSAGES)]
        assert recorder.texts() == expected
        assert recorder.names == [
            "focContinuation",
            *["focText"] * MESSAGES,
            "focConnectionClose",
        ]
        assert recorder.threads == {threading.current_thread()}


def talk(peers: list[socket.socket]) -> None:
    """Send from all *peers* in turn, read every echo, and close."""
    mask = b"\1\2\3\4"
    for at in range(MESSAGES):
        for number, peer in enumerate(peers):
            peer.sendall(encode_frame(focText, f"{number}:{at}".encode(), mask))
    for number, peer in enumerate(peers):
        decoder = WebProcessInFrame(masked=False)
        frames: list[WebSocketFrame] = []
        while len(frames) < MESSAGES:
            frames += decoder.feed(peer.recv(4096))
        assert frames == [text(f"{number}:{at}") for at in range(MESSAGES)]
    for peer in peers:
        peer.sendall(encode_frame(8, b"\x03\xe8", mask))
        # the other side of the close handshake ends TCP only when it has seen our end of it
        peer.shutdown(socket.SHUT_WR)
    for peer in peers:
        while peer.recv(4096):
            pass
