"""Division client: asks for each line of its input, and prints the answer, or why there is none."""

import sys

from socketio import Client
from socketio.exceptions import SocketIOError

sio = Client()
sio.connect(sys.argv[1], retry=True)
for line in sys.stdin:
    a, b = map(float, line.split())
    try:
        answer = sio.call("divide", (a, b), timeout=5)
    except SocketIOError as exc:
        print("failed:", exc, flush=True)
    else:
        print(answer.get("result", f"failed: {answer.get('error')}"), flush=True)
sio.disconnect()
