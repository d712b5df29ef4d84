"""``python -m mormot_ws``: the command line, the same program as ``mormot-ws``. See
``mormot_ws/cli``.
"""

import signal
import sys

if __name__ == "__main__":
    # until the command line has its own handler: end without Python's traceback, which Ctrl-C
    # during an import would print
    signal.signal(signal.SIGINT, signal.SIG_DFL)

try:
    from .cli import main
except KeyboardInterrupt:  # imported by another program
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
