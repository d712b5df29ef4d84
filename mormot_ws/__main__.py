"""``python -m mormot_ws``: the command line, the same program as ``mormot-ws``. See ``mormot_ws/cli``."""

import sys

try:
    from .cli import main
except KeyboardInterrupt:  # Ctrl-C before there was a handler for it
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
