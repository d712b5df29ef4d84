"""Messages that arrive even if connections break.

Each message is kept and sent again until the receiver has acknowledged it.

    python examples/at_least_once.py receive [--host 127.0.0.1] [--port 8999]
    python examples/at_least_once.py send [--host 127.0.0.1] [--port 8999] < messages.txt

``receive`` prints the messages. ``send`` sends the lines of its standard input and ends when all of
them have been acknowledged. Meanwhile, unplug the cable, or stop and restart the receiver.
docs/delivery.md explains what this adds to the guarantees of the library.

The sender begins with the number from which it continues: ``{"session": "3f…", "first": 7}``. Then
it sends ``{"number": 7, "text": "…"}`` and so on. The receiver answers with the last number up to
which it has all messages: ``{"have": 7}``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

# runs from a checkout, installed or not
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerError,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketServer,
    focContinuation,
    focText,
)

NAME = "at-least-once"
#: the maximum number of messages in flight, which limits the memory while the receiver is away
WINDOW = 1000


def as_frame(**message: Any) -> WebSocketFrame:
    """Return a message as a text frame."""
    return WebSocketFrame(focText, json.dumps(message))


class ReliableSender:
    """Sends texts, and keeps each one until it is acknowledged."""

    def __init__(self, host: str, port: int) -> None:
        self._session = uuid.uuid4().hex
        self._next = 1
        # numbers and texts without an acknowledgement
        self._kept: OrderedDict[int, str] = OrderedDict()
        #: guards the fields above and the order of sending; notified when messages are acknowledged
        self._changed = threading.Condition()
        # 0: WINDOW is the only limit, so that the library's queue never refuses. A receiver that is
        # silent for 10 s counts as lost
        settings = WebSocketProcessSettings(
            max_outgoing_frames=0,
            max_outgoing_bytes=0,
            heartbeat_delay=5_000,
            disconnect_after_invalid_heartbeat_count=1,
        )
        self.client = HttpClientWebSockets.open(host, port, settings=settings)

    def connect(self) -> str:
        """Make the first connection and enable reconnection; return '' or the error."""
        error = self.client.websockets_upgrade(
            "", protocol=WebSocketProtocolChat(NAME, "", self._on_frame)
        )
        if not error:
            self.client.auto_reconnect()
        return error

    def send(self, text: str) -> None:
        """Take responsibility for *text*. May be called from any thread.

        Waits while WINDOW messages are in flight.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._kept) < WINDOW)
            self._kept[self._next] = text
            self._push(number=self._next, text=text)
            self._next += 1

    def wait_acknowledged(self) -> int:
        """Wait until the receiver has acknowledged everything; return the number of messages."""
        with self._changed:
            self._changed.wait_for(lambda: not self._kept)
            return self._next - 1

    def _push(self, **message: Any) -> None:
        process = self.client.websockets
        assert process is not None
        process.send_frame_async(
            as_frame(**message)
        )  # never waits. False: no connection; all kept messages are sent on the next one

    def _on_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """In the client's thread: send everything again on each new connection, handle answers."""
        if frame.opcode is focContinuation:
            with self._changed:
                process.outgoing.clear()  # left over from the last connection; all is in _kept
                self._push(session=self._session, first=next(iter(self._kept), self._next))
                for number, text in self._kept.items():
                    self._push(number=number, text=text)
        elif frame.opcode is focText:
            have = json.loads(frame.text)["have"]
            with self._changed:
                while self._kept and next(iter(self._kept)) <= have:
                    self._kept.popitem(last=False)
                self._changed.notify_all()


class ReliableReceiver:
    """Passes each message to *deliver* in order and, as long as it is running, once."""

    def __init__(self, host: str, port: int, deliver: Callable[[str], Any]) -> None:
        self._deliver = deliver
        #: the last number of each session. Kept in a database, together with what deliver() does,
        #: it would make "at least once" an "exactly once", even if this process is killed
        self._have: dict[str, int] = {}
        #: guards _have: a sender may be back before its last connection has ended
        self._safe = threading.Lock()
        self.server = WebSocketServer(f"{host}:{port}")
        self.server.websocket_protocols.add(WebSocketProtocolChat(NAME, "", self._on_frame))

    def _on_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is not focText:
            return
        message = json.loads(frame.text)
        if "session" in message:
            process.protocol.set_custom_data(message["session"])
        session = process.protocol.custom_data
        if session is None:
            return  # left over from the sender's last connection: it comes again after its session
        with self._safe:
            have = self._have.setdefault(session, message.get("first", 1) - 1)
            # we already have anything else, or it comes again later
            if message.get("number") == have + 1:
                self._deliver(message["text"])
                # only now: do not acknowledge a message before deliver() has returned
                have = self._have[session] = have + 1
        process.send_frame(as_frame(have=have))


def say(text: str) -> None:
    """Print a line as a whole and at once, because several threads print.

    The output may be a pipe.
    """
    # escape what a Windows code page does not have
    data = f"{text}\n".encode(sys.stdout.encoding, "backslashreplace")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def receive(host: str, port: int) -> None:
    """Print what arrives until a signal."""
    receiver = ReliableReceiver(host, port, say)
    with receiver.server as server:
        say(f"Listening on {server.host}:{server.port}. Press Ctrl-C to stop.")
        while not threading.Event().wait(0.5):  # on Windows, Ctrl-C ends only short waits
            pass


def send(host: str, port: int) -> None:
    """Send the lines of standard input."""
    sender = ReliableSender(host, port)
    with sender.client as client:
        error = sender.connect()
        if error:
            sys.exit(f"Cannot connect to {host}:{port}: {error} {client.last_error}")
        for line in sys.stdin:
            sender.send(line.rstrip("\n"))
        count = sender.wait_acknowledged()
        say(f"{count} messages, all acknowledged; {client.status().reconnects} reconnections")


def main() -> None:
    """Read the command line, then receive or send."""
    parser = argparse.ArgumentParser(description="Messages that arrive even if connections break.")
    parser.add_argument("what", choices=("receive", "send"))
    parser.add_argument(
        "--host", default="127.0.0.1", help="the receiver's address (default %(default)s)"
    )
    parser.add_argument(
        "--port", default=8999, type=int, help="the receiver's port (default %(default)s)"
    )
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # both raise KeyboardInterrupt here, in the main thread
        signal.signal(number, signal.default_int_handler)
    try:
        (receive if args.what == "receive" else send)(args.host, args.port)
    except KeyboardInterrupt:
        say("Stopped by a signal")
    except (HttpServerError, ValueError) as exc:
        sys.exit(f"Cannot {args.what}: {exc}")


if __name__ == "__main__":
    main()
