"""``python -m mormot_ws``: the command ``mormot-ws``; see ``mormot_ws/cli``."""

import signal
import sys

if __name__ == "__main__":
    # until the command line installs its own handler: without this, Ctrl-C during an import would
    # print a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

try:
    from .cli import main
except KeyboardInterrupt:  # imported by another program
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
