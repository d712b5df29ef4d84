"""Division server: answers requests, with an error where that is due."""

import sys

from socketio import Server, WSGIApp
from werkzeug.serving import run_simple

sio = Server(async_mode="threading")


@sio.event
def divide(sid, a, b):
    try:
        return {"result": a / b}
    except (ArithmeticError, TypeError) as exc:
        return {"error": str(exc)}


run_simple("127.0.0.1", int(sys.argv[1]), WSGIApp(sio), threaded=True)
