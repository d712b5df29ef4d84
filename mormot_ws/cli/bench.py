"""``bench``: round trips and throughput of an echo server.

This module connects, shows the progress and reports the results. The load is in ``load.py``.
"""

from __future__ import annotations

import argparse
import sys
import threading
from time import monotonic
from typing import Any

from ..settings import WebSocketProcessSettings
from ..sockets.deadline import Deadline
from .figures import distribution, duration, histogram, size
from .load import Link, Measurement, window_for
from .mailbox import SIGNAL_CODES, Letter, Mailbox, News
from .output import Output
from .target import ConsoleProtocol, Target

#: seconds between two steps of the progress bar
_STEP = 0.1
#: seconds to wait for the last echoes after a measurement has ended
_LAST_ECHOES = 1.0
#: milliseconds for all close handshakes together
_GOODBYE_MS = 1_000
#: seconds to wait at the end for the connecting thread
_JOIN = 0.5
#: the width of the plain progress bar, in characters
_BAR = 30


class _Ended(Exception):
    """Raised to end the command early, with the exit code *code*."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Bench:
    """The state of the command. All methods except the opener's run in the main thread."""

    def __init__(self, args: argparse.Namespace, mailbox: Mailbox, output: Output) -> None:
        self._args = args
        self._mailbox = mailbox
        self._output = output
        self._target = Target(args)
        self._links: list[Link] = []
        self._stopping = False
        self._opener = threading.Thread(target=self._open_all, name="mormot-ws opener", daemon=True)

    def run(self) -> int:
        """Connect, measure and report; return the exit code."""
        progress = Progress(self._output)
        try:
            self._connect(progress)
            for message_size in self._args.size:
                self._measure(progress, message_size, "round trips", 1)
                window = window_for(message_size, self._args.window)
                if window > 1:
                    self._measure(progress, message_size, "throughput", window)
            return 0
        except _Ended as end:
            return end.code
        finally:
            progress.close()
            self._free()

    def _connect(self, progress: Progress) -> None:
        progress.begin("connecting", self._args.connections)
        self._opener.start()
        while True:
            letter = self._next(_STEP)
            progress.show(sum(link.client is not None for link in self._links))
            if letter is not None and letter.news is News.opened:
                return

    def _open_all(self) -> None:
        """Open the connections one after another, in the opener's thread."""
        settings = WebSocketProcessSettings(
            permessage_deflate=self._args.deflate,
            max_message_bytes=1 << 30,
            max_frame_mb=1024,
            heartbeat_delay=0,
        )
        try:
            while len(self._links) < self._args.connections and not self._stopping:
                link = Link()
                client = self._target.open(settings)
                self._links.append(link)
                link.client = client
                error = self._target.upgrade(
                    client, ConsoleProtocol(self._args.protocol, link.on_incoming_frame)
                )
                if error:
                    failure = self._target.failure(client, error, 1, 0)
                    hint = self._target.hint(failure)
                    self._output.error(
                        f"cannot connect to {self._target.text}: {error}"
                        + (f" ({hint})" if hint else "")
                    )
                    self._mailbox.post(News.failed, 1)
                    return
        except ValueError as exc:  # an invalid address or proxy that argparse did not detect
            self._output.error(str(exc))
            self._mailbox.post(News.failed, 2)
            return
        self._mailbox.post(News.opened)

    def _measure(self, progress: Progress, message_size: int, name: str, window: int) -> None:
        """Run one measurement and report it.

        Raises :class:`_Ended` when no further measurement is possible.
        """
        args = self._args
        measurement = Measurement(
            message_size, args.count, window, args.binary, lambda: self._mailbox.post(News.done)
        )
        progress.begin(f"{name}, {size(message_size)}", args.count)
        begun = monotonic()
        try:
            measurement.run_on(self._links)
            while not measurement.finished and (passed := monotonic() - begun) < args.seconds:
                self._next(min(_STEP, args.seconds - passed))
                progress.show(
                    max(len(measurement.times), round(args.count * min(1.0, passed / args.seconds)))
                )
            measurement.stop()
            until = monotonic() + _LAST_ECHOES  # late echoes would disturb the next measurement
            while any(link.busy for link in self._links) and monotonic() < until:
                self._next(_STEP / 10)
        finally:
            measurement.stop()
            progress.close()
            self._report(measurement, name)
        lost = [link.lost for link in self._links if link.lost]
        if lost:
            self._output.error(f"the connection was lost: {lost[0]}")
            raise _Ended(3)
        if not measurement.times:
            other = " (it sends other messages)" if measurement.strangers else ""
            self._output.error(
                f"no echo within {args.seconds:g} s: is {self._target.text} an echo server?{other}"
            )
            raise _Ended(3)

    def _next(self, seconds: float) -> Letter | None:
        """Wait for a letter; raise :class:`_Ended` if it ends the program."""
        letter = self._mailbox.next(seconds)
        if letter is not None and letter.news in SIGNAL_CODES:
            raise _Ended(SIGNAL_CODES[letter.news])
        if letter is not None and letter.news is News.failed:
            raise _Ended(letter.value)
        return letter

    def _report(self, measurement: Measurement, name: str) -> None:
        times = list(measurement.times)
        found = distribution(times)
        if found is None:
            return
        seconds = measurement.seconds
        rate = found.count / seconds
        if self._args.json:
            self._output.event(
                "result",
                measurement=name,
                uri=self._target.text,
                size=measurement.size,
                connections=len(self._links),
                window=measurement.window,
                seconds=round(seconds, 6),
                messages_per_s=round(rate, 1),
                bytes_per_s=round(rate * measurement.size),
                strangers=measurement.strangers,
                **found.as_milliseconds(),
            )
            return
        links = f"{len(self._links)} connection{'' if len(self._links) == 1 else 's'}"
        way = f", {measurement.window} messages in flight on each" if measurement.window > 1 else ""
        self._output.line(
            f"{name.capitalize()}, messages of {size(measurement.size)}, {links}{way}"
        )
        if measurement.window == 1:
            self._output.line(
                f"  median {duration(found.median)}   95 % {duration(found.p95)}"
                f"   99 % {duration(found.p99)}   max {duration(found.most)}"
            )
            for line in histogram(times, self._output.unicode):
                self._output.line(line)
        each_way = f"{size(rate * measurement.size)}/s each way"
        self._output.line(
            f"  {found.count} echoes in {duration(seconds)}: {rate:.0f} messages/s, {each_way}"
        )
        if measurement.strangers:
            self._output.line(f"  {measurement.strangers} messages arrived that were not echoes")

    def _free(self) -> None:
        """Close all connections at once."""
        self._stopping = True
        clients = [link.client for link in self._links if link.client is not None]
        for client in clients:
            if client.websockets is not None:
                client.websockets.start_shutdown(1000, "")
        deadline = Deadline(_GOODBYE_MS)
        for client in clients:
            thread = None if client.websockets is None else client.websockets.client_thread
            if thread is not None:
                thread.join(deadline.seconds())
        for client in clients:
            client.free()
        if self._opener.ident is not None:
            self._opener.join(_JOIN)


class Progress:
    """A progress bar on standard error, if that is a terminal. Used by the main thread."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._shows = output.err_is_terminal and not output.as_json and not output.quiet
        self._bar: Any = None
        self._task: Any = None
        self._title = ""
        self._total = 1
        self._drawn = False

    def begin(self, title: str, total: int) -> None:
        """Start a new bar."""
        self.close()
        self._title, self._total = title, max(1, total)
        if self._shows and self._output.rich_err:
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(title, total=self._total)
            self._bar.start()

    def show(self, done: int) -> None:
        """Show that *done* steps are complete."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif self._shows:
            filled = min(_BAR, _BAR * done // self._total)
            sys.stderr.write(f"\r{self._title} [{'#' * filled}{' ' * (_BAR - filled)}]")
            sys.stderr.flush()
            self._drawn = True

    def close(self) -> None:
        """Remove the bar. Safe to call twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._drawn:
            sys.stderr.write(f"\r{' ' * (len(self._title) + _BAR + 3)}\r")
            sys.stderr.flush()
            self._drawn = False


def bench(args: argparse.Namespace, mailbox: Mailbox, output: Output) -> int:
    """Run the command; return its exit code. Called in the main thread."""
    try:
        command = Bench(args, mailbox, output)
    except OSError as exc:
        output.error(f"cannot use a certificate: {exc}")
        return 1
    return command.run()
