"""Echo client: sends each line of its input, and prints what comes back."""

import sys

from mormot_ws import connect


def show(ws, message):
    print(message, flush=True)


with connect(sys.argv[1], on_message=show) as ws:
    for line in sys.stdin:
        if not ws.send(line.strip()):
            print("not sent:", line.strip(), flush=True)
