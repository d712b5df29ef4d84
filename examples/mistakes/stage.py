"""What the scripts of this folder share: a server to make the mistake with, and its log.

Not a program.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # runs from a checkout, installed or not

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focBinary,
    focText,
)

HOST = "127.0.0.1"


def title(text: str) -> None:
    """Begin a part of the output."""
    print(f"\n== {text}", flush=True)


def say(text: str) -> None:
    """Print a line, in one piece: several threads talk."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show_log(level: int = logging.INFO) -> None:
    """Print what the library logs, each record behind the word LOG.

    Your own programs need the same line once.
    """
    logging.basicConfig(
        level=level, format="LOG %(levelname)s %(name)s: %(message)s", stream=sys.stdout
    )


def echo(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Sends each message back."""
    if frame.opcode in (focText, focBinary):
        process.send_frame(frame)


def echo_server(
    port: int = 0, callback: Callable[[WebSocketProcess, WebSocketFrame], None] = echo
) -> WebSocketServer:
    """Return a running server of the protocol 'echo' on a free port, or on *port*."""
    server = WebSocketServer(f"{HOST}:{port}")
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
    return server


class Inbox:
    """Keeps the last text that came, and lets another thread wait for one."""

    def __init__(self) -> None:
        self.text = ""
        #: set for each text; cleared by who waits for the next one
        self.arrived = threading.Event()

    def __call__(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """An ``on_incoming_frame``."""
        if frame.opcode is focText:
            self.text = frame.text
            self.arrived.set()


def connected(port: int, inbox: Inbox | None = None) -> HttpClientWebSockets:
    """Return a client that is upgraded to 'echo'; the URI is ''."""
    client = HttpClientWebSockets.open(HOST, port)
    protocol = WebSocketProtocolChat("echo", "", inbox)
    error = client.websockets_upgrade("", "", False, frozenset(), protocol)
    if error:
        sys.exit(error)
    return client


def ask(client: HttpClientWebSockets, inbox: Inbox, text: str) -> str:
    """Send *text*; return the answer, or say that none has come."""
    inbox.arrived.clear()
    process = client.websockets
    if process is None or not process.send_frame(WebSocketFrame(focText, text)):
        return "(not sent: there is no connection)"
    return inbox.text if inbox.arrived.wait(5) else "(no answer within 5 s)"
