"""Chat server: a message goes to the others in the same room, which is the path of the URI."""

import sys
from collections import defaultdict

from websockets.sync.server import broadcast, serve

rooms = defaultdict(set)


def chat(connection):
    room = rooms[connection.request.path]
    room.add(connection)
    try:
        for message in connection:
            broadcast(room - {connection}, message)
    finally:
        room.discard(connection)


with serve(chat, "127.0.0.1", int(sys.argv[1])) as server:
    server.serve_forever()
