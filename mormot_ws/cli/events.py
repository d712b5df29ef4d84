"""Reports what happens on the connection of ``connect``.

Contains the callbacks of the client's thread, and a policy that reports its decisions.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from time import monotonic

from ..client.client import HttpClientWebSockets
from ..core.frames import (
    WebSocketFrame,
    focBinary,
    focConnectionClose,
    focContinuation,
    focPong,
    focText,
)
from ..logs import shown_name
from ..process.process import WebSocketProcess
from ..reconnect_policies import FailureKind, ReconnectFailure, ReconnectPolicy
from ..states import wpsRun
from ..topics.hub import Publication
from .figures import duration, size
from .mailbox import Mailbox, News
from .output import Output
from .target import Target

#: close codes that are not errors: the peer has finished or is going away
_GOOD_CODES = (1000, 1001, 1005)


class ConnectionEvents:
    """Reports events to the user and the main thread. The callbacks run in the client's thread.

    :param stopping: set when the program itself ends the connection.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        mailbox: Mailbox,
        output: Output,
        target: Target,
        stopping: threading.Event,
    ) -> None:
        self._args = args
        self._mailbox = mailbox
        self._output = output
        self._target = target
        self._stopping = stopping
        #: set when there is no connection and there will be no further attempt
        self.over: threading.Event = threading.Event()
        #: when the last message arrived, on the monotonic clock
        self.last_activity: float = monotonic()
        #: the number of the last attempt since the connection was lost; at the start it is 1
        self.attempt: int = 1
        #: when the next attempt is due, on the monotonic clock; 0: there is none
        self.next_attempt_at: float = 0.0
        self._opened = False
        self._received = 0
        self._ping_ms = 0.0
        #: the payload of the last ping of ``--ping``, and when it was sent, on the monotonic clock;
        #: replaced as a whole, so that threads always see a matching pair
        self._last_ping = (b"mormot-ws", 0.0)

    # ---------------------------------------------------------------------- callbacks of the client

    def on_incoming_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        """Handle a message, a pong, or the beginning or end of a connection."""
        opcode = frame.opcode
        if opcode is focText or opcode is focBinary:
            self._message(frame)
        elif opcode is focPong:
            self._pong(frame.payload)
        elif opcode is focContinuation:
            self._open(process)
        elif opcode is focConnectionClose:
            self._closed(process)

    def on_websockets_closed(self, client: HttpClientWebSockets) -> None:
        """Handle the end of the connection, which is final without ``--reconnect``."""
        process = client.websockets
        if process is not None and not self._args.reconnect:
            self.over.set()
            self._mailbox.post(News.ended, 0 if process.close_code in _GOOD_CODES else 3)

    def _message(self, frame: WebSocketFrame) -> None:
        is_text = frame.opcode is focText
        self._counted(lambda: self._output.message(frame.payload, is_text, self._args.binary))

    def publication(self, publication: Publication) -> None:
        """Handle a publication on a topic."""
        self._counted(lambda: self._output.publication(publication))

    def _counted(self, show: Callable[[], None]) -> None:
        """Show a message, unless the wanted number has been shown."""
        most = self._args.count
        if most and self._received >= most:
            return
        show()
        self._received += 1
        self.last_activity = monotonic()
        if self._received == most:
            self._mailbox.post(News.counted)

    def ping_payload(self) -> bytes:
        """Return the payload of the next ping, which identifies its pong.

        Called in the pinger's thread.
        """
        sent = monotonic()
        payload = f"mormot-ws {sent:.6f}".encode()
        self._last_ping = payload, sent
        return payload

    def _pong(self, payload: bytes) -> None:
        ours, sent = self._last_ping
        # other pongs answer a heartbeat of the library, or are unsolicited
        if payload == ours:
            milliseconds = (monotonic() - sent) * 1000
            self._ping_ms = milliseconds
            text = f"* ping: {duration(milliseconds / 1000)}"
            self._output.event("ping", text, "dim", rtt_ms=round(milliseconds, 3))

    def _open(self, process: WebSocketProcess) -> None:
        name = shown_name(process.protocol.name)
        number = f" as #{process.connection_id}" if process.connection_id else ""
        fields = {
            "uri": self._target.text,
            "connection_id": process.connection_id,
            "protocol": name,
            "deflate": process.protocol.compression is not None,
        }
        attempts, self.attempt, self.next_attempt_at = self.attempt, 0, 0.0
        self.last_activity = monotonic()
        if self._opened:
            tried = f"{attempts} attempt{'' if attempts == 1 else 's'}"
            self._output.event(
                "reconnected",
                f"* reconnected{number} after {tried}",
                "good",
                attempts=attempts,
                **fields,
            )
            return
        self._opened = True
        named = f", protocol {name!r}" if name else ""
        self._output.event(
            "open", f"* connected to {self._target.text}{number}{named}", "good", **fields
        )
        self._mailbox.post(News.opened)

    def _closed(self, process: WebSocketProcess) -> None:
        code, reason = process.close_code, process.close_reason
        ours = self._stopping.is_set()
        said = f"{code} {reason or process.last_error}".rstrip()
        if code == 1006:
            text = f"* lost: {process.last_error or 'the connection ended'}"
        else:
            text = f"* closed by {'us' if ours else 'the server'}: {said}"
        good = ours or code in _GOOD_CODES
        self._output.event(
            "closed",
            text,
            "" if good else "bad",
            code=code,
            reason=reason,
            by_us=ours,
            why=process.last_error,
        )

    # -------------------------------------------------------------------------- attempts to connect

    def will_try(self, failure: ReconnectFailure, milliseconds: float) -> None:
        """Report that the next attempt is due in *milliseconds*."""
        self.attempt += 1
        self.next_attempt_at = monotonic() + milliseconds / 1000
        why = "" if failure.kind is FailureKind.lost else f" ({failure.text})"
        self._output.event(
            "attempt",
            f"* attempt {self.attempt} in {duration(milliseconds / 1000)}{why}",
            "dim",
            attempt=self.attempt,
            wait_ms=round(milliseconds),
            kind=failure.kind.value,
            why=failure.text,
            http_status=failure.http_status,
        )

    def gave_up(self, failure: ReconnectFailure) -> None:
        """Report that there will be no further attempt."""
        self.over.set()
        if not self._args.reconnect:
            if not self._opened:
                self._error(f"cannot connect to {self._target.text}: {failure.text}", failure)
                self._mailbox.post(News.failed, 1)
            return
        tried = ""
        if failure.attempts:
            tried = (
                f" after {failure.attempts} failed attempt{'' if failure.attempts == 1 else 's'}"
            )
        self._error(f"gave up{tried}: {failure.text}", failure)
        if self._opened:
            self._mailbox.post(News.ended, 3)
        else:
            self._mailbox.post(News.failed, 1)

    def _error(self, text: str, failure: ReconnectFailure) -> None:
        hint = self._target.hint(failure)
        shown = f"{text} ({hint})" if hint else text
        self._output.error(
            text, shown, hint=hint, kind=failure.kind.value, http_status=failure.http_status
        )

    # ------------------------------------------------------------------------------- for any thread

    def restart_idle(self) -> None:
        """Restart the clock that measures the time without messages."""
        self.last_activity = monotonic()

    def describe(self, client: HttpClientWebSockets | None) -> str:
        """Return the state of the connection as one line of text."""
        process = None if client is None else client.websockets
        if client is None or process is None:
            return "not connected"
        if process.state is wpsRun:
            state = (
                f"connected as #{process.connection_id}" if process.connection_id else "connected"
            )
        elif self.next_attempt_at:
            state = (
                f"attempt {self.attempt} in {max(0.0, self.next_attempt_at - monotonic()):.1f} s"
            )
        else:
            state = "closed"
        protocol = process.protocol
        parts = [
            state,
            f"in {protocol.frames_in_count} ({size(protocol.frames_in_bytes)})",
            f"out {protocol.frames_out_count} ({size(protocol.frames_out_bytes)})",
        ]
        if process.outgoing.count:
            parts.append(f"waiting {process.outgoing.count}")
        ping = self._ping_ms or process.last_ping_delay
        if ping:
            parts.append(f"ping {duration(ping / 1000)}")
        if process.reconnects:
            parts.append(f"reconnected {process.reconnects}×")
        return ", ".join(parts)


class VisiblePolicy:
    """A policy that follows *policy* and reports each decision before the wait.

    If *policy* is None, there is no further attempt.
    """

    def __init__(self, policy: ReconnectPolicy | None, events: ConnectionEvents) -> None:
        self._policy = policy
        self._events = events

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        """Ask the policy and report its decision."""
        delay = None if self._policy is None else self._policy.next_delay(failure)
        if delay is None:
            self._events.gave_up(failure)
        else:
            self._events.will_try(failure, delay)
        return delay

    def reset(self) -> None:
        """Reset the other policy."""
        if self._policy is not None:
            self._policy.reset()
