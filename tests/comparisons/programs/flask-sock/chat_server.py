"""Chat server: a message goes to the others in the same room, which is the path of the URI."""

import sys
from collections import defaultdict

from flask import Flask
from flask_sock import ConnectionClosed, Sock

app = Flask(__name__)
sock = Sock(app)
rooms = defaultdict(set)


@sock.route("/<room>")
def chat(ws, room):
    rooms[room].add(ws)
    try:
        while True:
            message = ws.receive()
            for other in rooms[room] - {ws}:
                try:
                    other.send(message)
                except (ConnectionClosed, OSError):
                    rooms[room].discard(other)
    finally:
        rooms[room].discard(ws)


app.run(port=int(sys.argv[1]))
