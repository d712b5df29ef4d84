"""``connect``: a client that sends its input, prints what arrives, and can reconnect.

The main thread decides when to end. The client's thread connects, and reconnects if asked to. One
thread reads and sends the input, another one sends pings. ``events.py`` reports events to the user.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
from time import monotonic

from ..client.client import HttpClientWebSockets
from ..core.frames import WebSocketFrame, focBinary, focPing, focText
from ..reconnect_policies import ExponentialBackoff, StopOn
from ..settings import WebSocketProcessSettings
from ..states import wpsRun
from .events import ConnectionEvents, VisiblePolicy
from .inputs import PipeInput, PromptInput
from .mailbox import SIGNAL_CODES, Mailbox, News
from .output import Output, has_module
from .target import ConsoleProtocol, Target
from .topics import ConsoleTopics

#: seconds between two checks of the queue: more input is read only when it has room, and the
#: program ends only when it is empty
_LOOK = 0.05
#: seconds to wait at the end for the pinging thread
_JOIN = 0.5


class Connection:
    """The client of the command. Raises ``OSError`` for certificates that cannot be read."""

    def __init__(self, args: argparse.Namespace, mailbox: Mailbox, output: Output) -> None:
        self._args = args
        self._mailbox = mailbox
        self._output = output
        self.target: Target = Target(args)
        #: set when the program ends, which also ends attempts and waits
        self.stopping: threading.Event = threading.Event()
        self.events: ConnectionEvents = ConnectionEvents(
            args, mailbox, output, self.target, self.stopping
        )
        #: None until :meth:`start`
        self.client: HttpClientWebSockets | None = None
        # lines that could not be sent
        self._unsent = 0
        backoff = ExponentialBackoff(max_attempts=args.max_attempts)
        self._policy = VisiblePolicy(StopOn(backoff) if args.reconnect else None, self.events)
        self._protocol: ConsoleProtocol | ConsoleTopics
        #: the topics; None: it exchanges messages
        self._topics: ConsoleTopics | None = None
        if args.subscribe or args.publish:
            self._protocol = self._topics = ConsoleTopics(args, self.events, mailbox, output)
        else:
            self._protocol = ConsoleProtocol(args.protocol, self.events.on_incoming_frame)
        # a daemon thread, so that it does not keep the program from ending
        self._pinger = threading.Thread(target=self._ping, name="mormot-ws pinger", daemon=True)

    def start(self) -> None:
        """Start to connect.

        Raises ``ValueError`` for an invalid address or proxy that argparse did not detect.
        """
        client = self.client = self.target.open(self._settings(), connect=False)
        client.on_websockets_closed = self.events.on_websockets_closed
        client.auto_reconnect(
            self.target.resource,
            self.target.headers,
            protocol=self._protocol,
            policy=self._policy,
        )

    @property
    def unsent(self) -> int:
        """The number of lines that could not be sent."""
        return self._unsent if self._topics is None else self._topics.unpublished

    def opened(self) -> None:
        """Start to ping, once the first connection is open. Called in the main thread."""
        if self._args.ping and not self._pinger.is_alive():
            self._pinger.start()

    def free(self) -> None:
        """Close the connection and end all threads, within 3 s. Called in the main thread."""
        self.stopping.set()
        if self.client is not None:
            self.client.free()
        if self._pinger.ident is not None:
            self._pinger.join(_JOIN)

    def _settings(self) -> WebSocketProcessSettings:
        return WebSocketProcessSettings(
            heartbeat_delay=round(self._args.heartbeat * 1000),
            permessage_deflate=self._args.deflate,
            notify_all_frames=True,  # to see the pongs
            max_message_bytes=1 << 30,
            max_frame_mb=1024,
        )

    # -------------------------------------------------------------------------------- other threads

    def send(self, data: bytes) -> bool:
        """Send a line or block of the input; return False when no more can be sent.

        Called in the input's thread.
        """
        client = self.client
        process = None if client is None else client.websockets
        if process is None:
            return False
        if self._topics is not None:
            return self._topics.send_line(data, self.stopping, _LOOK)
        if self._args.binary:
            frame = WebSocketFrame(focBinary, data)
        else:
            try:
                frame = WebSocketFrame(focText, data.decode("utf-8"))
            except UnicodeDecodeError:
                return self._not_sent("the line is not UTF-8; use --binary to send any bytes")
        if not self._args.reconnect:
            return process.send_frame(frame) or self._not_sent(
                "the connection is closed", for_good=True
            )
        while not process.send_frame_async(frame):  # a queued frame survives a reconnection
            if self.stopping.is_set() or self.events.over.is_set():
                return self._not_sent("the connection is closed", for_good=True)
            self.stopping.wait(_LOOK)  # the queue is full: stop reading until it has room
        return True

    def _not_sent(self, why: str, for_good: bool = False) -> bool:
        """Count and report data that was not sent; return whether more can be sent."""
        self._unsent += 1
        if not self.stopping.is_set():
            self._output.error(f"not sent: {why}")
        return not for_good

    def _ping(self) -> None:
        while not self.stopping.wait(self._args.ping):
            process = None if self.client is None else self.client.websockets
            if process is not None and process.state is wpsRun:
                process.send_frame(WebSocketFrame(focPing, self.events.ping_payload()))

    # ----------------------------------------------------------------------------- for the main one

    def is_quiet_for(self, seconds: float) -> float:
        """Return how much of *seconds* without messages is left to wait.

        0: nothing has arrived for that time, and everything has been sent.
        """
        process = None if self.client is None else self.client.websockets
        if (
            process is None
            or process.outgoing.count
            or (self._topics is not None and self._topics.unacknowledged)
            or (self._args.reconnect and process.state is not wpsRun)
        ):
            return _LOOK if seconds else 0.0
        return max(0.0, self.events.last_activity + seconds - monotonic())

    def toolbar(self) -> str:
        """Return the text of the line below the prompt."""
        return self.events.describe(self.client)


def connect(args: argparse.Namespace, mailbox: Mailbox, output: Output) -> int:
    """Run the command; return its exit code. Called in the main thread."""
    try:
        connection = Connection(args, mailbox, output)
    except OSError as exc:
        output.error(f"cannot use a certificate: {exc}")
        return 1
    if args.insecure:
        output.event(
            "warning",
            "The certificate is not verified: anyone could impersonate the server",
            "bad",
            text="insecure",
        )
    source: PipeInput | PromptInput | None = None
    try:
        connection.start()
        letter = mailbox.next()
        assert letter is not None
        if letter.news is News.opened:
            connection.opened()
            if args.publish or not args.subscribe:
                source = _input(args, mailbox, output, connection)
            code = _Conversation(args, mailbox, output, connection).run()
        else:
            code = SIGNAL_CODES.get(letter.news, letter.value)
    except ValueError as exc:
        output.error(str(exc))
        return 2
    finally:
        connection.stopping.set()
        if source is not None:
            source.stop()
        connection.free()
    return 3 if code == 0 and connection.unsent else code


def _input(
    args: argparse.Namespace, mailbox: Mailbox, output: Output, connection: Connection
) -> PipeInput | PromptInput:
    """Start to read the input, with a prompt if possible."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if terminal and output.rich_err and output.out_is_terminal and has_module("prompt_toolkit"):
        return PromptInput(mailbox, connection.send, output, connection.toolbar)
    return PipeInput(mailbox, connection.send, args.binary)


class _Conversation:
    """The main thread's part, from the first connection until the command ends."""

    def __init__(
        self, args: argparse.Namespace, mailbox: Mailbox, output: Output, connection: Connection
    ) -> None:
        self._args = args
        self._mailbox = mailbox
        self._output = output
        self._connection = connection
        terminal = sys.stdin is not None and sys.stdin.isatty()
        self._linger = args.linger if args.linger is not None else (0.0 if terminal else 1.0)
        self._draining = False

    def run(self) -> int:
        """Wait for the end of the command; return the exit code."""
        status_due = monotonic() + self._args.status if self._args.status else math.inf
        while True:
            wait = status_due - monotonic()
            if self._draining:
                left = self._connection.is_quiet_for(self._linger)
                if not left:
                    return 0
                wait = min(wait, left)
            letter = self._mailbox.next(None if wait == math.inf else wait)
            if letter is not None:
                code = self._read(letter.news, letter.value)
                if code is not None:
                    return code
            if monotonic() >= status_due:
                status_due += self._args.status
                self._show_status()

    def _read(self, news: News, value: int) -> int | None:
        """Handle a letter; return the exit code if *news* ends the command."""
        if news in SIGNAL_CODES:
            return SIGNAL_CODES[news]
        if news in (News.ended, News.failed):
            return value
        if news is News.counted:
            return 0
        if news is News.input_end and not self._draining:
            self._draining = True
            self._connection.events.restart_idle()
        return None

    def _show_status(self) -> None:
        client = self._connection.client
        if client is not None:
            text = self._connection.events.describe(client)
            self._output.event("status", f"* {text}", "dim", **client.status().as_dict())
