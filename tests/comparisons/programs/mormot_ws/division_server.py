"""Division server: answers requests, with an error where that is due."""

import sys

from mormot_ws import Server

server = Server(f"127.0.0.1:{sys.argv[1]}")


@server.method
def divide(a: float, b: float):
    return a / b


server.run()
