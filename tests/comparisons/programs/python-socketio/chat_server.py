"""Chat server: a message goes to the others in the same room, which a client joins first."""

import sys

from socketio import Server, WSGIApp
from werkzeug.serving import run_simple

sio = Server(async_mode="threading")


@sio.event
def join(sid, room):
    sio.enter_room(sid, room)


@sio.event
def say(sid, room, text):
    sio.send(text, to=room, skip_sid=sid)


run_simple("127.0.0.1", int(sys.argv[1]), WSGIApp(sio), threaded=True)
