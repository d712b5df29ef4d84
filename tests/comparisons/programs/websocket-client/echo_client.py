"""Echo client: sends each line of its input, and prints what comes back."""

import sys
import threading

from websocket import WebSocketApp, WebSocketException


def show(app, message):
    print(message, flush=True)


app = WebSocketApp(sys.argv[1], on_message=show)
threading.Thread(
    target=lambda: app.run_forever(reconnect=1, ping_interval=20, ping_timeout=10), daemon=True
).start()
for line in sys.stdin:
    try:
        app.send(line.strip())
    except (WebSocketException, OSError):
        print("not sent:", line.strip(), flush=True)
