"""Echo client: sends each line of its input, and prints what comes back."""

import sys

from socketio import Client
from socketio.exceptions import SocketIOError

sio = Client()


@sio.event
def message(data):
    print(data, flush=True)


sio.connect(sys.argv[1], retry=True)
for line in sys.stdin:
    try:
        sio.send(line.strip())
    except SocketIOError:
        print("not sent:", line.strip(), flush=True)
sio.disconnect()
