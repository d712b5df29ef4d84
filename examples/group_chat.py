"""A chat server with rooms, one per path: ws://127.0.0.1:8999/kitchen is a room. Ctrl-C ends it."""

import sys

from mormot_ws import Peer, Server

server = Server(int(sys.argv[1]) if len(sys.argv) > 1 else 8999, address="127.0.0.1")


@server.on_open("chat")
def opened(peer: Peer) -> None:
    """Called when somebody has connected."""
    peer.join(peer.request.path)


@server.on_message("chat")
def message(peer: Peer, text: str) -> None:
    """Called for each message: the others in the room get it."""
    server.send(text, group=peer.request.path, exclude=peer)


server.run()
