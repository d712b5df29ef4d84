"""What the echo clients connect to:
``python -m tests.comparisons.echo_server plain|socketio PORT``.
"""

from __future__ import annotations

import sys

HOST = "127.0.0.1"


def serve_plain(port: int) -> None:
    """Serve WebSockets."""
    from mormot_ws import Server

    server = Server(port, address=HOST)
    server.on_message(lambda peer, message: peer.send(message))
    server.run()


def serve_socketio(port: int) -> None:
    """Serve Socket.IO."""
    import socketio
    from werkzeug.serving import run_simple

    sio = socketio.Server(async_mode="threading")
    sio.on("message", lambda sid, data: sio.send(data, to=sid))
    run_simple(HOST, port, socketio.WSGIApp(sio), threaded=True)


if __name__ == "__main__":
    {"plain": serve_plain, "socketio": serve_socketio}[sys.argv[1]](int(sys.argv[2]))
