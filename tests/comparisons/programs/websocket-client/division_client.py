"""Division client: asks for each line of its input, and prints the answer, or why there is none."""

import json
import sys

from websocket import WebSocket, WebSocketException

ws = WebSocket()
for line in sys.stdin:
    a, b = map(float, line.split())
    try:
        if not ws.connected:
            ws.connect(sys.argv[1], timeout=5)
        ws.send(json.dumps({"a": a, "b": b}))
        answer = json.loads(ws.recv())
    except (WebSocketException, OSError) as exc:
        print("failed:", exc, flush=True)
        # an answer that comes late must not be taken for that of the next request
        ws.shutdown()
    else:
        print(answer.get("result", f"failed: {answer.get('error')}"), flush=True)
