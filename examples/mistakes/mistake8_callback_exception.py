"""Mistake 8: an exception in a callback, and nobody looks into the log.

    python examples/mistakes/mistake8_callback_exception.py

As in the original an exception in on_incoming_frame does not end the connection: the message is
lost, the next one is served. Unlike there the log has the traceback. A program that configures no
logging gets such lines on its standard error.
"""

from __future__ import annotations

import json

from stage import Inbox, ask, connected, echo_server, say, show_log, title

from mormot_ws import WebSocketFrame, WebSocketProcess, focText


def wrong(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Answers {"number": n} by n + 1; fails on everything else."""
    if frame.opcode is focText:
        process.send_frame(WebSocketFrame(focText, str(json.loads(frame.text)["number"] + 1)))


def right(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """The same, but what the peer may get wrong is answered."""
    if frame.opcode is focText:
        try:
            answer = str(json.loads(frame.text)["number"] + 1)
        except (ValueError, KeyError, TypeError) as exc:
            answer = f'please send {{"number": n}} ({type(exc).__name__})'
        process.send_frame(WebSocketFrame(focText, answer))


if __name__ == "__main__":
    show_log()
    title("The mistake: the callback fails on a message")
    with echo_server(callback=wrong) as server, connected(server.port, inbox := Inbox()) as client:
        process = client.websockets
        assert process is not None
        process.send_frame(WebSocketFrame(focText, "not JSON"))  # nobody answers it
        answer = ask(client, inbox, '{"number": 1}')
        say(f"SYMPTOM: no answer to that one; the next is answered: {answer}")
    title("The cure: expect what can be wrong, and watch the log for the rest")
    with echo_server(callback=right) as server, connected(server.port, inbox := Inbox()) as client:
        say(f"CURE: {ask(client, inbox, 'not JSON')}")
