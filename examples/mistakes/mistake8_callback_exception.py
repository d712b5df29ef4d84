"""Mistake 8: missing the log of an exception in a callback.

    python examples/mistakes/mistake8_callback_exception.py

As in mORMot, an exception in on_incoming_frame does not end the connection: the message is lost,
and the next one is handled. Unlike in mORMot, the log has the traceback. A program that does not
configure logging gets it on standard error.
"""

from __future__ import annotations

import json

from stage import Inbox, ask, connected, echo_server, say, show_log, title

from mormot_ws import WebSocketFrame, WebSocketProcess, focText


def wrong(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Answer {"number": n} with n + 1; fail on everything else."""
    if frame.opcode is focText:
        process.send_frame(WebSocketFrame(focText, str(json.loads(frame.text)["number"] + 1)))


def right(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Do the same, but answer invalid messages too."""
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
        process.send_frame(WebSocketFrame(focText, "not JSON"))  # gets no answer
        answer = ask(client, inbox, '{"number": 1}')
        say(f"SYMPTOM: no answer to this message; the answer to the next: {answer}")
    title("The cure: handle invalid messages, and watch the log for other errors")
    with echo_server(callback=right) as server, connected(server.port, inbox := Inbox()) as client:
        say(f"CURE: {ask(client, inbox, 'not JSON')}")
