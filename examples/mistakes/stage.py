"""Helpers for the scripts of this folder: a server, a client, and the log. Not a script."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # works in a checkout, installed or not

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
    """Print a heading."""
    print(f"\n== {text}", flush=True)


def say(text: str) -> None:
    """Print a line in one write, because several threads print."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show_log(level: int = logging.INFO) -> None:
    """Print the library's log records, with the prefix LOG.

    Your own programs need one such line.
    """
    logging.basicConfig(
        level=level, format="LOG %(levelname)s %(name)s: %(message)s", stream=sys.stdout
    )


def echo(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Send each message back."""
    if frame.opcode in (focText, focBinary):
        process.send_frame(frame)


def echo_server(
    port: int = 0, callback: Callable[[WebSocketProcess, WebSocketFrame], None] = echo
) -> WebSocketServer:
    """Return a running server with the protocol 'echo' on *port*; 0: a free one."""
    server = WebSocketServer(f"{HOST}:{port}")
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
    return server


class Inbox:
    """Keep the last text received, and let another thread wait for one."""

    def __init__(self) -> None:
        self.text = ""
        #: set for each text; cleared before waiting for the next one
        self.arrived = threading.Event()

    def __call__(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """An ``on_incoming_frame``."""
        if frame.opcode is focText:
            self.text = frame.text
            self.arrived.set()


def connected(port: int, inbox: Inbox | None = None) -> HttpClientWebSockets:
    """Return a client that is connected to the protocol 'echo', with the URI ''."""
    client = HttpClientWebSockets.open(HOST, port)
    protocol = WebSocketProtocolChat("echo", "", inbox)
    error = client.websockets_upgrade("", "", False, frozenset(), protocol)
    if error:
        sys.exit(error)
    return client


def ask(client: HttpClientWebSockets, inbox: Inbox, text: str) -> str:
    """Send *text*; return the answer, or a text that says why there is none."""
    inbox.arrived.clear()
    process = client.websockets
    if process is None or not process.send_frame(WebSocketFrame(focText, text)):
        return "(not sent: there is no connection)"
    return inbox.text if inbox.arrived.wait(5) else "(no answer within 5 s)"
