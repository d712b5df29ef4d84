"""A Flask application with a WebSocket: an echo for each client, and a broadcast to all of them.

With Flask's own server, on http://127.0.0.1:5000/:

    python examples/flask_app.py

With gunicorn:

    gunicorn --worker-class gthread --threads 50 --chdir examples flask_app:app

The environment variable PORT changes the port of the first form. Requires ``pip install flask
gunicorn``.
"""

from __future__ import annotations

import os

from flask import Flask, Response, request

from mormot_ws import WebSocketFrame, WebSocketProcess, WebSocketProtocolChat, focBinary, focText
from mormot_ws.wsgi import WebSocketWsgiServer

PAGE = """<!doctype html><meta charset="utf-8"><title>mormot_ws in Flask</title>
<p><input id="text" autofocus>
<button id="say">Send</button> <button id="all">Tell everybody</button> <span id="state"></span></p>
<pre id="log"></pre>
<script>
  const at = (id) => document.getElementById(id);
  let socket;
  function connect() {
    socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws", "echo");
    socket.onopen = () => { at("state").textContent = "connected"; };
    socket.onmessage = (event) => { at("log").prepend(event.data + "\\n"); };
    socket.onclose = () => { at("state").textContent = "disconnected"; setTimeout(connect, 1000); };
  }
  at("say").onclick = () => socket.send(at("text").value);
  at("all").onclick = () => fetch("/broadcast", { method: "POST", body: at("text").value });
  connect();
</script>
"""


def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Runs in the thread of the client's request, which lasts until the WebSocket ends."""
    if frame.opcode in (focText, focBinary):
        process.send_frame(frame)


app = Flask(__name__)
websockets = WebSocketWsgiServer("flask_app")
websockets.websocket_protocols.add(WebSocketProtocolChat("echo", "ws", on_incoming_frame))


@app.get("/ws", websocket=True)  # only for upgrades; without it, Flask answers these with 400
def websocket() -> WebSocketWsgiServer:
    """Upgrade to a WebSocket, which runs until the returned response ends."""
    return websockets


@app.get("/")
def index() -> str:
    """The page for the browser."""
    return PAGE


@app.post("/broadcast")
def broadcast() -> Response:
    """Send the body to every client of this process."""
    frame = WebSocketFrame(focText, request.get_data(as_text=True))
    return Response(f"{websockets.websocket_broadcast(frame)} clients\n", mimetype="text/plain")


websockets.close_on_signals()  # on a signal, say goodbye to all clients at once

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
