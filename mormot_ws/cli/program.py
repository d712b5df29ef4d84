"""Sets up the output and the log, and runs the command named in the arguments."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from .arguments import parse
from .mailbox import SIGNAL_CODES, Mailbox, News
from .output import Output, show_log


def run(arguments: Sequence[str] | None, mailbox: Mailbox) -> int:
    """Run the command in *arguments*; return the exit code. Called in the main thread.

    :param mailbox: receives the signals.
    """
    try:
        try:
            args = parse(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # --help and --version write there
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            # otherwise the interpreter would report the error again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return SIGNAL_CODES[News.output_gone]
    output = Output(mailbox, args.json, args.plain, args.quiet, args.log_json)
    handler = show_log(output, args.verbose)
    try:
        return _command(args, mailbox, output)
    finally:
        logger = logging.getLogger("mormot_ws")
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def _command(args: argparse.Namespace, mailbox: Mailbox, output: Output) -> int:
    if args.command == "serve":
        if args.processes is not None:
            from .several import serve_several

            return serve_several(args, mailbox, output)
        from .serve import serve

        return serve(args, mailbox, output)
    if args.command == "connect":
        from .connect import connect

        return connect(args, mailbox, output)
    from .bench import bench

    return bench(args, mailbox, output)
