"""Chat server: a message goes to the others in the same room, which is the path of the URI."""

import sys

from mormot_ws import Server

server = Server(f"127.0.0.1:{sys.argv[1]}")


@server.on_open
def opened(peer):
    peer.join(peer.request.path)


@server.on_message
def message(peer, message):
    server.send(message, group=peer.request.path, exclude=peer)


server.run()
