"""Division server: answers requests, with an error where that is due."""

import json
import sys

from websockets.sync.server import serve


def divide(connection):
    for message in connection:
        try:
            request = json.loads(message)
            answer = {"result": request["a"] / request["b"]}
        except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
            answer = {"error": str(exc)}
        connection.send(json.dumps(answer))


with serve(divide, "127.0.0.1", int(sys.argv[1])) as server:
    server.serve_forever()
