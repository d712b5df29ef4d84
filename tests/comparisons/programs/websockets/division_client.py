"""Division client: asks for each line of its input, and prints the answer, or why there is none."""

import json
import sys

from websockets import WebSocketException
from websockets.sync.client import connect

connection = None
for line in sys.stdin:
    a, b = map(float, line.split())
    try:
        if connection is None:
            connection = connect(sys.argv[1], close_timeout=1)
        connection.send(json.dumps({"a": a, "b": b}))
        answer = json.loads(connection.recv(timeout=5))
    except (WebSocketException, OSError) as exc:
        print("failed:", exc, flush=True)
        if connection is not None:
            # an answer that comes late must not be taken for that of the next request
            connection.close()
            connection = None
    else:
        print(answer.get("result", f"failed: {answer.get('error')}"), flush=True)
