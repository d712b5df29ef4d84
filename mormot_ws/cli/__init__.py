"""The command line: ``mormot-ws`` and ``python -m mormot_ws``.

Nothing else in the package imports this.

Threads: the main one waits on the :class:`~mormot_ws.cli.mailbox.Mailbox` and does nothing that
could block, so that Ctrl-C is served at any moment; connecting, reading the input and sending have
threads of their own. This module stays small: it catches the signals before anything that takes
time is imported.
"""

from __future__ import annotations

from collections.abc import Sequence

from .mailbox import Mailbox


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (None: ``sys.argv``) and return the exit code.

    The entry point of ``mormot-ws``.

    It takes over SIGINT and SIGTERM for the rest of the process. Raises ``SystemExit`` for
    ``--help`` and bad arguments.
    """
    mailbox = Mailbox()
    mailbox.catch_signals()
    from .program import run

    return run(arguments, mailbox)
