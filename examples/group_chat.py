"""A chat server with a room for each path, e.g. ws://127.0.0.1:8999/kitchen. Ctrl-C stops it."""

import sys

from mormot_ws import Peer, Server

server = Server(int(sys.argv[1]) if len(sys.argv) > 1 else 8999, address="127.0.0.1")


@server.on_open("chat")
def opened(peer: Peer) -> None:
    """Called when a client has connected."""
    peer.join(peer.request.path)


@server.on_message("chat")
def message(peer: Peer, text: str) -> None:
    """Called for each message; sends it to the others in the room."""
    server.send(text, group=peer.request.path, exclude=peer)


server.run()
