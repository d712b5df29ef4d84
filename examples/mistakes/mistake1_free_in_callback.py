"""Mistake 1: freeing the client in one of its callbacks.

    python examples/mistakes/mistake1_free_in_callback.py

free() waits for the client's thread to end, but the callback runs in that thread, so it waits for
itself. The script makes the mistake in a child process, which it kills afterwards, and then shows
two solutions.
"""

from __future__ import annotations

import subprocess
import sys
import threading

from stage import connected, echo_server, say, show_log, title

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketProcessClient,
    WebSocketProtocolChat,
    WebSocketsError,
)


def lose_connection(client: HttpClientWebSockets, on_reconnect: object) -> None:
    """Set the callback. The caller then stops the server, so that it is called."""
    assert client.websockets is not None
    client.websockets.on_reconnect = on_reconnect  # type: ignore[assignment]


def wrong() -> None:
    """The mistake. Never returns."""
    show_log()
    server = echo_server()
    client = connected(server.port)
    entered, returned = threading.Event(), threading.Event()

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        entered.set()
        client.free()  # WRONG: waits for the thread that it runs in
        returned.set()
        return "Retry"

    lose_connection(client, on_reconnect)
    server.free()
    entered.wait(5)
    if not returned.wait(1):
        say(
            "SYMPTOM: free() was called a second ago and has not returned; the client does not"
            " reconnect"
        )
        say("SYMPTOM: the main thread goes on as if nothing had happened")
    threading.Event().wait()


def show_wrong() -> None:
    """Run wrong() in a child process until the symptom appears, then kill the child."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--wrong"], stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert child.stdout is not None
    with child, child.stdout as lines:
        for line in lines:
            say(line.rstrip("\n"))
            if line.startswith("SYMPTOM: the main thread"):
                break
        child.kill()
    say(f"The process had to be killed: exit code {child.returncode}")


def cure() -> None:
    """The callback sets an event, and the main thread frees the client."""
    enough = threading.Event()
    server = echo_server()
    client = connected(server.port)

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        assert client.websockets is not None
        assert client.websockets.client_thread is not None
        client.websockets.client_thread.terminate()  # no more attempts; returns at once
        enough.set()  # not client.free()
        return "Retry"

    lose_connection(client, on_reconnect)
    server.free()
    enough.wait(5)
    client.free()
    say("CURE: freed by the main thread")


def cure_for_tests() -> None:
    """A setting that raises an exception instead of freezing."""
    met = threading.Event()
    server = echo_server()
    client = HttpClientWebSockets.open(server.host, server.port)
    client.settings.free_in_callback = "raise"
    error = client.websockets_upgrade("", "", False, frozenset(), WebSocketProtocolChat("echo"))
    if error:
        sys.exit(error)

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        try:
            client.free()
        except WebSocketsError as exc:
            say(f"CURE: with free_in_callback='raise': {exc}")
        met.set()
        return "Retry"

    lose_connection(client, on_reconnect)
    server.free()
    met.wait(5)
    client.free()


if __name__ == "__main__":
    if sys.argv[1:] == ["--wrong"]:
        wrong()
    title("The mistake, in a child process")
    show_wrong()
    title("The cure")
    cure()
    cure_for_tests()
