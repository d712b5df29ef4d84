"""The command line: ``mormot-ws`` and ``python -m mormot_ws``.

Nothing else in the package imports this.

The main thread waits on the :class:`~mormot_ws.cli.mailbox.Mailbox` and never blocks elsewhere, so
Ctrl-C works at any moment. Other threads connect, read the input and send. This module stays small:
it catches the signals before it imports anything slow.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..front.console import console_close
from .mailbox import Mailbox, News


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (None: ``sys.argv``) and return the exit code.

    This is the entry point of ``mormot-ws``. It takes over SIGINT and SIGTERM for the rest of the
    OS process. Raises ``SystemExit`` for ``--help`` and bad arguments.
    """
    mailbox = Mailbox()
    mailbox.catch_signals()
    with console_close(lambda: mailbox.post(News.terminate)):
        from .program import run

        return run(arguments, mailbox)
