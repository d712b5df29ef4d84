"""examples/at_least_once.py as its users run it, through a proxy that breaks its connections, and
with a receiver that is killed.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import HOST, RawClient, wait_for
from support.programs import EXAMPLES, PATIENCE, Program

from mormot_ws import focText
from mormot_ws.testing import FaultProxy

EXAMPLE = EXAMPLES / "at_least_once.py"


def start_receiver(port: int = 0) -> tuple[Program, int]:
    """Start the receiver; return it and its port."""
    receiver = Program(EXAMPLE, "receive", "--port", str(port))
    try:
        return receiver, int(receiver.expect(r"Listening on 127\.0\.0\.1:(\d+)")[1])
    except BaseException:
        receiver.__exit__(None, None, None)
        raise


@pytest.fixture
def receiver() -> Iterator[tuple[Program, int]]:
    """A running receiver and its port."""
    program, port = start_receiver()
    with program:
        yield program, port


@pytest.fixture
def proxy(receiver: tuple[Program, int]) -> Iterator[FaultProxy]:
    """A proxy in front of ``receiver``."""
    with FaultProxy(HOST, receiver[1]) as proxy:
        yield proxy


def messages(program: Program) -> list[str]:
    """Return the messages that a receiver has printed."""
    return re.findall(r"^message .*", program.output, re.MULTILINE)


def wait_messages(program: Program, number: int) -> None:
    """Wait until a receiver has printed so many."""
    wait_for(lambda: len(messages(program)) >= number, PATIENCE, f"{number} messages")


def type_messages(sender: Program, start: int, number: int) -> list[str]:
    """Type *number* messages; return them."""
    lines = [
        f"message {count}: grün {'x' * (count % 500)}" for count in range(start, start + number)
    ]
    sender.enter(*lines)
    return lines


FAULTS: dict[str, Callable[[FaultProxy], Any]] = {
    "RST": lambda proxy: proxy.cut(),
    "FIN": lambda proxy: proxy.close(),
    "cut inside a message": lambda proxy: proxy.truncate(5_000, "up"),
    "cut inside an acknowledgement": lambda proxy: proxy.truncate(20, "down"),
}


def test_every_message_arrives_once_and_in_order_although_connections_break(
    receiver: tuple[Program, int], proxy: FaultProxy
) -> None:
    """Whatever breaks the connection, the receiver delivers every message once, in order, and the
    sender ends when it knows that.
    """
    with Program(EXAMPLE, "send", "--port", str(proxy.port)) as sender:
        lines = type_messages(sender, 0, 100)
        wait_messages(receiver[0], 20)
        for fault in FAULTS.values():
            fault(proxy)
            accepted = proxy.accepted
            lines += type_messages(sender, len(lines), 100)
            wait_for(lambda accepted=accepted: proxy.accepted > accepted, PATIENCE)  # type: ignore[misc]
        sender.end_input()
        reconnections = int(
            sender.expect(r"500 messages, all acknowledged; (\d+) reconnections")[1]
        )
        assert sender.wait() == 0
    assert messages(receiver[0]) == lines
    assert proxy.accepted > len(FAULTS)
    assert reconnections >= 1


def test_every_message_arrives_at_least_once_although_the_receiver_is_killed(
    receiver: tuple[Program, int], proxy: FaultProxy
) -> None:
    """What a killed receiver had not acknowledged is delivered by the next one; both together have
    everything, each in order.
    """
    with Program(EXAMPLE, "send", "--port", str(proxy.port)) as sender:
        lines = type_messages(sender, 0, 200)
        wait_messages(receiver[0], 50)
        receiver[0].kill()
        lines += type_messages(sender, 200, 200)
        second, port = start_receiver()
        with second:
            proxy.target = (HOST, port)
            sender.end_input()
            sender.expect("400 messages, all acknowledged")
            assert sender.wait() == 0
            got = messages(second)
            before = messages(receiver[0])
    assert before == lines[: len(before)]
    assert got == lines[-len(got) :]
    assert len(before) + len(got) >= len(lines)


def test_duplicates_and_gaps_are_not_delivered(receiver: tuple[Program, int]) -> None:
    """A receiver takes the next number only, and always says which one it has."""

    def exchange(client: RawClient, **message: Any) -> int:
        client.send_frame(focText, json.dumps(message))
        have = json.loads(client.receive_opcode(focText).text)["have"]
        assert isinstance(have, int)
        return have

    with RawClient(receiver[1]) as client:
        client.upgrade(protocol="at-least-once")
        client.send_frame(focText, json.dumps({"number": 1, "text": "message of no session"}))
        assert exchange(client, session="s", first=7) == 6
        assert exchange(client, number=8, text="message too early") == 6
        assert exchange(client, number=7, text="message 7") == 7
        assert exchange(client, number=7, text="message 7 again") == 7
        assert exchange(client, number=8, text="message 8") == 8
    with RawClient(receiver[1]) as client:
        client.upgrade(protocol="at-least-once")
        assert exchange(client, session="s", first=8) == 8
        assert exchange(client, number=8, text="message 8 again") == 8
    assert messages(receiver[0]) == ["message 7", "message 8"]


def test_without_a_receiver_it_says_so() -> None:
    """A sender that cannot connect ends with a message."""
    with Program(EXAMPLE, "send", "--port", "1") as sender:
        sender.expect("Cannot connect to 127.0.0.1:1: Not Connected .*refused")
        assert sender.wait() == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_receiver(receiver: tuple[Program, int], number: signal.Signals) -> None:
    """It says goodbye and ends with 0."""
    receiver[0].signal(number)
    receiver[0].expect("Stopped by a signal")
    assert receiver[0].wait() == 0
