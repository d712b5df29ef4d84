"""Echo client: sends each line of its input, and prints what comes back."""

import sys
import threading
from contextlib import suppress

from websockets import ConnectionClosed
from websockets.sync.client import reconnect

connection = None


def receive():
    global connection
    for connection in reconnect(sys.argv[1]):
        with suppress(ConnectionClosed):
            for message in connection:
                print(message, flush=True)


threading.Thread(target=receive, daemon=True).start()
for line in sys.stdin:
    try:
        if connection is None:
            raise ConnectionError
        connection.send(line.strip())
    except (ConnectionClosed, ConnectionError):
        print("not sent:", line.strip(), flush=True)
