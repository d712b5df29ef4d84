"""``serve --processes``: the echo server in several OS processes."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
from collections.abc import Iterator
from functools import partial

from ..core.addresses import websocket_uri
from ..errors import HttpServerError
from ..processes.processes import ServerProcesses
from ..server.accepting import ListeningServer
from ..status import ServerStatus
from .mailbox import Mailbox, News
from .output import Output, show_log
from .serve import (
    Room,
    is_certificate_usable,
    make_server,
    tell_counters,
    wait_for_end,
    what_is_served,
)


def serve_several(args: argparse.Namespace, mailbox: Mailbox, output: Output) -> int:
    """Run the command; return its exit code. Called in the main thread."""
    if not is_certificate_usable(args, output):
        return 1
    # the parser stays in this process
    plain = argparse.Namespace(**{k: v for k, v in vars(args).items() if k != "parser"})
    try:
        processes = ServerProcesses(
            partial(_make_in_child, plain),
            args.processes,
            args.where,
            reuse_port=args.reuse_port,
            unix_mode=args.unix_mode,
        )
    except ValueError as exc:
        # on Windows
        output.error(str(exc))
        return 1
    processes.call_at_end(lambda: mailbox.post(News.ended, 1))
    try:
        processes.start()
    except HttpServerError as exc:
        output.error(str(exc))
        return 1

    def status() -> ServerStatus:
        return processes.status().total

    with contextlib.closing(processes), _hang_up(processes):
        uri = websocket_uri(processes.host, processes.port, args.uri, bool(args.cert))
        output.event(
            "listening",
            f"Listening on {uri} ({what_is_served(args)}, {args.processes} processes); "
            "Ctrl-C stops the server",
            "good",
            uri=uri,
            host=processes.host,
            port=processes.port,
            mode=args.mode,
            processes=args.processes,
        )
        code = wait_for_end(args, mailbox, output, status)
        if code == 1:
            output.error("the server processes died too often; use -v to see why")
    tell_counters(args, output, status())
    return code


@contextlib.contextmanager
def _hang_up(processes: ServerProcesses) -> Iterator[None]:
    """Let SIGHUP replace the processes; under ``nohup`` it stays ignored."""
    before = signal.getsignal(signal.SIGHUP)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: processes.replace_later())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _make_in_child(
    args: argparse.Namespace, sockets: list[socket.socket], number: int
) -> ListeningServer:
    """Return the server of one OS process, and set up its output."""
    output = Output(Mailbox(), args.json, args.plain, args.quiet, args.log_json)
    show_log(output, args.verbose)
    return make_server(args, Room(args.mode, output), socket=sockets)
