"""Mistake 5: add_once on a running server.

    python examples/mistakes/mistake5_add_once.py

add_once replaces a protocol with the same name and URI. Open connections keep their clone of the
old one, so two clients of one server get different answers. add refuses instead, and returns False.
"""

from __future__ import annotations

from stage import HOST, Inbox, ask, connected, say, show_log, title

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServer,
    focText,
)


def answering(word: str) -> WebSocketProtocolChat:
    """Return a protocol that answers every text with *word*."""

    def answer(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            process.send_frame(WebSocketFrame(focText, word))

    return WebSocketProtocolChat("echo", "", answer)


def wrong() -> None:
    """Replace a protocol while a client uses it."""
    with WebSocketServer(f"{HOST}:0") as server:
        server.websocket_protocols.add(answering("old"))
        with connected(server.port, first := Inbox()) as early:
            ask(early, first, "who is there?")
            say(f"add_once returns {server.websocket_protocols.add_once(answering('new'))}")
            with connected(server.port, second := Inbox()) as late:
                say(
                    f"SYMPTOM: the connected client gets {ask(early, first, '?')!r}, the new"
                    f" one {ask(late, second, '?')!r}"
                )


def cure() -> None:
    """Use add, and check its result; to change a protocol, close its connections."""
    with WebSocketServer(f"{HOST}:0") as server:
        protocols = server.websocket_protocols
        say(
            f"CURE: add returns {protocols.add(answering('old'))}, and the second time"
            f" {protocols.add(answering('new'))}"
        )
        with connected(server.port, first := Inbox()) as early:
            ask(early, first, "?")
            protocols.remove("echo", "")
            protocols.add(answering("new"))
            assert early.websockets is not None
            old = server.is_active_websocket(early.websockets.connection_id)
            assert old is not None
            # its client reconnects, and gets the new protocol
            old.shutdown(1012, "please reconnect")
            with connected(server.port, second := Inbox()) as again:
                say(
                    "CURE: after replacing it on purpose, and closing the old connection:"
                    f" {ask(again, second, '?')!r}"
                )


if __name__ == "__main__":
    show_log()
    title("The mistake: add_once while clients are connected")
    wrong()
    title("The cure: add")
    cure()
