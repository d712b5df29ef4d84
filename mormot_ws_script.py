"""Where the console script ``mormot-ws`` starts.

Ctrl-C ends it without Python's traceback while the rest is being imported.

A module of its own, outside the package, because importing anything of the package takes time
already. Nothing else belongs in here, and nobody else is to import it: it changes what SIGINT does
in the whole process.
"""

from __future__ import annotations

import signal

# else the parent process wants it to be ignored
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line has a handler of its own


def main() -> int:
    """Run the command line of the process; return its exit code."""
    from mormot_ws.cli import main

    return main()
