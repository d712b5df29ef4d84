"""An echo server: every message goes back to its sender.

    python examples/server.py [--host 127.0.0.1] [--port 8999] [--protocol echo] [--async]

Open it in a browser, and it answers with a page that tries it out. Enter, Ctrl-C or SIGTERM stops
it; when its standard input ends, it serves on until a signal comes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpServerError,
    WebSocketAsyncServer,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focConnectionClose,
    focContinuation,
    focText,
)
from mormot_ws.page import answer_page, greet_page


class WebSocketProtocolEcho(WebSocketProtocolChat):
    """Sends every message back."""

    def echo_frame(self, sender: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Runs in the thread of the sender's connection. Never free() the server in here."""
        if frame.opcode is focContinuation:
            # a page that asks is told its connection ID; other clients get nothing
            greet_page(sender)
            say(f"#{sender.connection_id} connected from {sender.remote_ip}")
        elif frame.opcode is focConnectionClose:
            say(f"#{sender.connection_id} disconnected")
        else:
            self.send_frame(sender, frame)
            message = frame.text if frame.opcode is focText else frame.payload
            say(f"#{sender.connection_id} echo: {message!r:.100}")


def serve(port: str, name: str, by_events: bool = False) -> None:
    """Serve the protocol *name* on *port* until a line on standard input, or a signal.

    *port* is 'host:port'. *by_events*: with few threads for all connections, instead of one each.
    """
    protocol = WebSocketProtocolEcho(name, "")  # name, uri: '' is served whatever the URI
    protocol.on_incoming_frame = protocol.echo_frame
    # listens from here on; free() at the end says goodbye to every client
    with WebSocketAsyncServer(port) if by_events else WebSocketServer(port) as server:
        server.websocket_protocols.add(protocol)  # add, not add_once
        server.on_request = partial(answer_page, protocol=name)  # what a browser gets
        entered = threading.Event()
        threading.Thread(target=wait_for_enter, args=(entered,), daemon=True).start()
        say(f"Listening on {server.host}:{server.port}, protocol {name!r}. Enter stops the server.")
        say(f"For a browser: http://{server.host.replace('0.0.0.0', 'localhost')}:{server.port}/")
        while not entered.wait(0.5):  # a signal ends this at once, by its exception
            pass
    say("Stopped")


def wait_for_enter(entered: threading.Event) -> None:
    """Set *entered* when a line is typed.

    In a thread of its own, so that the main one is free for signals.
    """
    with contextlib.suppress(OSError):  # there may be no standard input at all
        # not by sys.stdin, whose lock would be in the way of a signal's exit
        while data := os.read(0, 1024):
            if b"\n" in data:
                entered.set()
                break


def say(text: str) -> None:
    """Print one line, whole and at once, from any thread.

    Several threads print, and the output may be a pipe.
    """
    # what a code page of Windows does not have is escaped
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="An echo server on WebSockets.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0: all (default %(default)s)",
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="0 for any free one (default %(default)s)"
    )
    parser.add_argument(
        "--protocol", default="echo", help="name of the sub-protocol (default %(default)s)"
    )
    parser.add_argument(
        "--async",
        dest="by_events",
        action="store_true",
        help="the event-driven server: few threads for any number of clients",
    )
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # both raise KeyboardInterrupt here, in the main thread
        signal.signal(number, signal.default_int_handler)
    try:
        serve(f"{args.host}:{args.port}", args.protocol, args.by_events)
    except KeyboardInterrupt:
        say("Stopped by a signal")
    except (HttpServerError, ValueError) as exc:
        sys.exit(f"Cannot serve: {exc}")


if __name__ == "__main__":
    main()
