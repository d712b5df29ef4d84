"""Mistake 9: treating a frame's payload as text.

    python -b examples/mistakes/mistake9_payload_is_bytes.py

In Pascal, RawByteString and RawUtf8 can be compared with a literal. In Python, bytes and str are
never equal, and comparing them is not an error: the branch is never taken. Start Python with -b to
get a warning.
"""

from __future__ import annotations

from stage import Inbox, ask, connected, echo_server, say, title

from mormot_ws import WebSocketFrame, WebSocketProcess, focText


def wrong(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Never recognise a 'ping'."""
    if frame.opcode is focText:
        # WRONG: bytes and str; mypy finds it
        known = frame.payload == "ping"  # type: ignore[comparison-overlap]
        process.send_frame(
            WebSocketFrame(focText, "pong" if known else f"unknown command {frame.payload!r}")
        )


def right(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """Use frame.text, which is a str; frame.payload is bytes."""
    if frame.opcode is focText:
        process.send_frame(
            WebSocketFrame(
                focText, "pong" if frame.text == "ping" else f"unknown command {frame.text}"
            )
        )


if __name__ == "__main__":
    title("The mistake: comparing the payload with a str")
    with echo_server(callback=wrong) as server, connected(server.port, inbox := Inbox()) as client:
        say(f"SYMPTOM: {ask(client, inbox, 'ping')}")
    title("The cure: frame.text")
    with echo_server(callback=right) as server, connected(server.port, inbox := Inbox()) as client:
        say(f"CURE: {ask(client, inbox, 'ping')}")
