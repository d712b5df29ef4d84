"""Division client: asks for each line of its input, and prints the answer, or why there is none."""

import sys

from mormot_ws import WebSocketsError, connect

with connect(sys.argv[1]) as ws:
    for line in sys.stdin:
        a, b = map(float, line.split())
        try:
            print(ws.call("divide", a, b), flush=True)
        except (WebSocketsError, TimeoutError) as exc:
            print("failed:", exc, flush=True)
