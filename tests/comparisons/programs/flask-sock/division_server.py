"""Division server: answers requests, with an error where that is due."""

import json
import sys

from flask import Flask
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)


@sock.route("/")
def divide(ws):
    while True:
        message = ws.receive()
        try:
            request = json.loads(message)
            answer = {"result": request["a"] / request["b"]}
        except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
            answer = {"error": str(exc)}
        ws.send(json.dumps(answer))


app.run(port=int(sys.argv[1]))
