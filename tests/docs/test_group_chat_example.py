"""The chat server with groups in examples/, as a real process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import websocket
from support import BOUND, HOST, wait_for
from support.children import fixed_port
from support.programs import EXAMPLES, Program


@contextlib.contextmanager
def guest(port: int, room: str) -> Iterator[Any]:
    """Somebody in a room of the chat server, which may be starting still."""
    found: list[Any] = []

    def connected() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            uri = f"ws://{HOST}:{port}/{room}"
            found.append(websocket.create_connection(uri, subprotocols=["chat"], timeout=BOUND))
        return bool(found)

    wait_for(connected, bound=3 * BOUND)
    try:
        yield found[0]
    finally:
        found[0].shutdown()


def hears(guest: Any, say: Callable[[], Any]) -> Any:
    """Return what *guest* hears first; say it again while the guest may not be in the room yet."""
    guest.settimeout(0.2)

    def heard() -> Any:
        say()
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            return guest.recv()

    try:
        return wait_for(heard)
    finally:
        guest.settimeout(BOUND)


def test_the_group_chat_keeps_rooms_apart_and_ends_with_ctrl_c() -> None:
    """The others of a room get a message, other rooms do not; Ctrl-C says 1001, and the exit code
    is 0.
    """
    port = fixed_port()
    with Program(EXAMPLES / "group_chat.py", str(port)) as program:
        with guest(port, "a") as one, guest(port, "a") as two, guest(port, "b") as other:
            assert hears(two, lambda: one.send("hello")) == "hello"
            # both are in the room now
            two.send("hi")
            assert one.recv() == "hi"
            program.signal(signal.SIGINT)
            for client in (one, other):
                opcode, data = client.recv_data(control_frame=True)
                assert (opcode, data[:2]) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe9")
        assert program.wait() == 0
        assert program.output == ""
