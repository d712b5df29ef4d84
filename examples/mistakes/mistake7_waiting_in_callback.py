"""Mistake 7: waiting in a callback for another message of the same connection.

    python examples/mistakes/mistake7_waiting_in_callback.py

The thread that would read the message is the one that waits. The connection is fine, so nothing is
logged. The wait never ends, or ends with a time-out, and the message arrives right afterwards.
"""

from __future__ import annotations

import queue
import threading
import time

from stage import HOST, echo_server, say, title

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProtocolChat,
    focText,
)


def run(on_incoming_frame: object, port: int, done: threading.Event) -> None:
    """Connect with that callback, send 'question', and wait until it sets *done*."""
    with HttpClientWebSockets.open(HOST, port) as client:
        protocol = WebSocketProtocolChat("echo", "", on_incoming_frame)  # type: ignore[arg-type]
        client.websockets_upgrade("", "", False, frozenset(), protocol)
        protocol.send_frame(client.websockets, WebSocketFrame(focText, "question"))
        done.wait(10)


def wrong(port: int) -> None:
    """Ask a second question inside the callback, and wait there for its answer."""
    answered, done = threading.Event(), threading.Event()

    def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is not focText:
            return
        if frame.text == "question":
            process.send_frame(WebSocketFrame(focText, "second question"))
            started = time.monotonic()
            got = answered.wait(1)  # WRONG: only this thread could read the answer
            say(
                f"SYMPTOM: waited {time.monotonic() - started:.1f} s in"
                f" {threading.current_thread().name!r}; answered: {got}"
            )
        else:
            say("SYMPTOM: the answer arrives now that the first callback has returned")
            answered.set()
            done.set()

    run(on_incoming_frame, port, done)


def cure(port: int) -> None:
    """Hand the message to another thread, which may wait."""
    messages: queue.Queue[tuple[WebSocketProcess, str]] = queue.Queue()
    answered, done = threading.Event(), threading.Event()

    def on_incoming_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText and frame.text == "question":
            messages.put((process, frame.text))
        elif frame.opcode is focText:
            answered.set()

    def work() -> None:
        process, _ = messages.get(timeout=10)
        process.send_frame(WebSocketFrame(focText, "second question"))
        say(f"CURE: in {threading.current_thread().name!r}; answered: {answered.wait(5)}")
        done.set()

    worker = threading.Thread(target=work, name="worker")
    worker.start()
    run(on_incoming_frame, port, done)
    worker.join()


if __name__ == "__main__":
    with echo_server() as server:
        title("The mistake: the callback waits")
        wrong(server.port)
        title("The cure: another thread waits")
        cure(server.port)
