"""The chat room of the examples, as real processes: its messages on a raw connection, the terminal
client through pipes, killed servers.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import HOST, RawClient, wait_for
from support.children import fixed_port
from support.programs import EXAMPLES, PATIENCE, Program
from support.tls import Authority

from mormot_ws import focBinary, focConnectionClose, focText, parse_close_payload

Message = dict[str, Any]


def start_server(*arguments: str | Path, port: int = 0) -> Program:
    """Return the chat server, started."""
    return Program(EXAMPLES / "chat_server.py", "--port", str(port), *arguments)


def listening_port(server: Program) -> int:
    """Wait until *server* listens; return its port."""
    return int(server.expect(r"^Listening on 127\.0\.0\.1:(\d+)")[1])


def start_client(port: int, name: str, *arguments: str) -> Program:
    """Return a terminal client, started."""
    return Program(EXAMPLES / "chat_client.py", name, "--port", str(port), *arguments)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server for the tests that do not end it; each has rooms of its own."""
    with start_server() as server:
        yield listening_port(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.output, server.output


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """The name of a room that no other test uses."""
    return f"room {abs(hash(request.node.nodeid))}"[:30]


class Guest(RawClient):
    """A member on a raw connection, which says and hears JSON."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.upgrade(protocol="chat")

    def tell(self, **message: Any) -> None:
        """Send one message."""
        self.send_frame(focText, json.dumps(message))

    def hear(self) -> Message:
        """Return the next message of the server."""
        message: Message = json.loads(self.receive_opcode(focText).text)
        return message

    def ask(self, **message: Any) -> Message:
        """Send one message and return the next one of the server."""
        self.tell(**message)
        return self.hear()

    def join(self, room: str, name: str, **more: Any) -> Message:
        """Join; return the answer."""
        answer = self.ask(
            **{"type": "join", "room": room, "name": name, "client": f"secret of {name}", **more}
        )
        assert answer["type"] == "joined", answer
        return answer

    def say(self, *texts: str) -> list[Message]:
        """Say *texts* one after another; return them as they come back."""
        return [self.ask(type="say", id=f"id of {text}", text=text) for text in texts]

    def goodbye(self) -> int:
        """Return the code with which the server ends the connection; skip what comes before."""
        while (frame := self.receive_frame()).opcode is not focConnectionClose:
            pass
        return int(parse_close_payload(frame.payload)[0])


# ------------------------------------------------------------------------------------- the messages


def test_who_joins_is_told_who_is_there_and_the_others_are_told_of_him(
    port: int, room: str
) -> None:
    with Guest(port) as ann, Guest(port) as bob:
        answer = ann.join(room, " ann ")
        assert re.fullmatch(r"[0-9a-f]{32}", answer.pop("history"))
        assert answer == {
            "type": "joined",
            "room": room,
            "name": "ann",
            "messages": [],
            "names": ["ann"],
        }
        assert bob.join(room, "bob")["names"] == ["ann", "bob"]
        assert ann.hear() == {"type": "arrived", "name": "bob"}


def test_what_is_said_comes_to_everybody_in_the_room_with_its_number_and_id(
    port: int, room: str
) -> None:
    with Guest(port) as ann, Guest(port) as bob:
        ann.join(room, "ann")
        bob.join(room, "bob")
        ann.hear()
        (message,) = ann.say("hello")
        assert isinstance(message.pop("time"), int)
        expected = {
            "type": "message",
            "number": 1,
            "id": "id of hello",
            "name": "ann",
            "text": "hello",
        }
        assert message == expected
        assert {**bob.hear(), "time": 0} == {**expected, "time": 0}
        assert bob.say("hi")[0]["number"] == 2


def test_rooms_hear_nothing_of_each_other(port: int, room: str) -> None:
    with Guest(port) as ann, Guest(port) as bob:
        ann.join(room, "ann")
        bob.join(f"{room}b"[-30:], "bob")
        ann.say("only here")
        assert bob.ask(type="who") == {"type": "who", "names": ["bob"]}
        assert bob.say("only there")[0]["number"] == 1


def test_leaving_and_losing_the_connection_are_told_to_the_others(port: int, room: str) -> None:
    with Guest(port) as ann:
        ann.join(room, "ann")
        with Guest(port) as bob:
            bob.join(room, "bob")
            assert ann.hear()["type"] == "arrived"
            bob.tell(type="leave")
            assert ann.hear() == {"type": "left", "name": "bob"}
            assert bob.ask(type="who")["text"] == "join a room first"
            bob.join(room, "bob")
            assert ann.hear()["type"] == "arrived"
        assert ann.hear() == {"type": "left", "name": "bob"}
        assert ann.ask(type="who")["names"] == ["ann"]


def test_joining_another_room_leaves_the_first(port: int, room: str) -> None:
    with Guest(port) as ann, Guest(port) as bob:
        ann.join(room, "ann")
        bob.join(room, "bob")
        ann.hear()
        bob.join(f"{room}b"[-30:], "bob")
        assert ann.hear() == {"type": "left", "name": "bob"}


def test_the_same_name_gets_a_number(port: int, room: str) -> None:
    with Guest(port) as first, Guest(port) as second, Guest(port) as third:
        assert first.join(room, "ann", client="1")["name"] == "ann"
        assert second.join(room, "ANN", client="2")["name"] == "ANN-2"
        assert third.join(room, "ann", client="3")["name"] == "ann-3"


def test_the_last_50_messages_are_remembered(port: int, room: str) -> None:
    with Guest(port) as ann, Guest(port) as bob, Guest(port) as carol, Guest(port) as dave:
        talkers = [ann, bob, carol]  # three, because one alone would be slowed down
        for number, talker in enumerate(talkers):
            talker.join(room, f"talker {number}")
        for number in range(57):
            talkers[number % 3].tell(type="say", id="", text=f"text {number}")
        while ann.hear().get("number") != 57:
            pass
        remembered = dave.join(room, "dave")["messages"]
        assert [message["number"] for message in remembered] == list(range(8, 58))


def test_who_comes_back_gets_what_he_has_not_seen_and_nothing_twice(port: int, room: str) -> None:
    with Guest(port) as ann:
        history = ann.join(room, "ann")["history"]
        ann.say("one", "two", "three")
        with Guest(port) as bob:
            missed = bob.join(room, "bob", history=history, since=1)["messages"]
            assert [message["text"] for message in missed] == ["two", "three"]
        with Guest(port) as bob:
            assert bob.join(room, "bob", history=history, since=3)["messages"] == []
        with Guest(port) as bob:
            assert len(bob.join(room, "bob", history="of another time", since=3)["messages"]) == 3


def test_a_client_that_is_back_before_its_end_was_noticed_keeps_its_name_and_nobody_is_told(
    port: int, room: str
) -> None:
    with Guest(port) as bob, Guest(port) as old, Guest(port) as new:
        bob.join(room, "bob")
        old.join(room, "ann")
        assert bob.hear()["type"] == "arrived"
        assert new.join(room, "ann")["names"] == ["ann", "bob"]
        old.read_to_end()
        assert new.say("hello")[0]["name"] == "ann"
        assert bob.hear()["type"] == "message"


def test_a_client_that_is_back_in_another_room_has_left_the_first(port: int, room: str) -> None:
    with Guest(port) as bob, Guest(port) as old, Guest(port) as new:
        bob.join(room, "bob")
        old.join(room, "ann")
        assert bob.hear()["type"] == "arrived"
        new.join(f"{room}b"[-30:], "ann")
        assert bob.hear() == {"type": "left", "name": "ann"}
        assert bob.ask(type="who")["names"] == ["bob"]


# ------------------------------------------------------------------------------ what makes no sense

NO_MESSAGE = "this is no message of the chat"
NAME = "a name has 1 to 30 printable characters"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("{", "this is no JSON"),
        ("[" * 15_000, "this is no JSON"),
        ("null", NO_MESSAGE),
        ("[]", NO_MESSAGE),
        ('{"type": "join"}', NO_MESSAGE),
        ('{"type": "say", "id": 1, "text": "x"}', NO_MESSAGE),
        ('{"type": "shout"}', NO_MESSAGE),
        ('{"type": "join", "room": "r", "client": "c", "name": ""}', NAME),
        ('{"type": "join", "room": "r", "client": "c", "name": "a\\u001b[2J"}', NAME),
        ('{"type": "join", "room": "r", "client": "c", "name": "' + "x" * 31 + '"}', NAME),
        ('{"type": "join", "room": " ", "client": "c", "name": "ann"}', NAME),
        ('{"type": "say", "id": "", "text": "x"}', "join a room first"),
        ('{"type": "say", "id": "", "text": " "}', "a text has 1 to 2000 characters"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_connection_goes_on(
    port: int, payload: str, text: str
) -> None:
    with Guest(port) as guest:
        guest.send_frame(focText, payload)
        assert guest.hear() == {"type": "error", "text": text, "id": ""}
        assert guest.ask(type="who")["type"] == "error"


def test_a_binary_message_is_refused(port: int) -> None:
    with Guest(port) as guest:
        guest.send_frame(focBinary, b"{}")
        assert guest.hear()["text"] == "messages are text frames"


def test_a_text_that_is_too_long_is_refused_by_its_id(port: int, room: str) -> None:
    with Guest(port) as ann:
        ann.join(room, "ann")
        answer = ann.ask(type="say", id="7", text="x" * 2001)
        assert answer == {"type": "error", "text": "a text has 1 to 2000 characters", "id": "7"}
        # in as many bytes as can be
        assert ann.ask(type="say", id="8", text="\N{PILE OF POO}" * 2000)["number"] == 1


def test_an_oversized_message_ends_the_connection(port: int) -> None:
    with Guest(port) as guest:
        guest.send_frame(focText, "x" * 33_000)
        assert guest.goodbye() == 1009


def test_a_flood_is_slowed_down_and_the_others_are_not(port: int, room: str) -> None:
    with Guest(port) as flood, Guest(port) as bob:
        flood.join(room, "flood")
        bob.join(f"{room}b"[-30:], "bob")
        since = time.monotonic()
        for number in range(200):  # 18 s of messages
            flood.tell(type="say", id="", text=str(number))
        assert [message["text"] for message in bob.say("one", "two")] == ["one", "two"]
        assert bob.ask(type="who")["names"] == ["bob"]
        with Guest(port) as carol:
            said = carol.join(room, "carol")["messages"][-1]["number"]
            assert said <= 21 + 10 * (time.monotonic() - since)  # BURST, and RATE for each second


def test_pages_of_other_sites_may_not_listen(port: int) -> None:
    for origin, status in (
        (f"http://{HOST}:{port}", 101),
        ("http://evil.example", 403),
        ("null", 403),
    ):
        with RawClient(port) as client:
            client.send(client.request(protocol="chat", Host=f"{HOST}:{port}", Origin=origin))
            assert client.read_head().status == status, origin


# ------------------------------------------------------------------------------ the terminal client


def shown(program: Program) -> list[str]:
    """Return the messages that a terminal client has shown: ``name: text``."""
    return [line[6:] for line in program.output.splitlines() if re.match(r"\d\d:\d\d ", line)]


def test_the_terminal_client_says_what_is_typed_and_shows_what_happens(
    port: int, room: str
) -> None:
    with start_client(port, "ann", "--room", room) as ann, Guest(port) as bob:
        ann.expect(rf"^\* You are ann in {room}; here are ann$")
        bob.join(room, "bob")
        ann.expect(r"^\* bob has arrived$")
        ann.enter("  hello  ", "", "/who")
        assert bob.hear()["text"] == "hello"
        ann.expect(r"^\d\d:\d\d ann: hello$")
        ann.expect(r"^\* Here are ann, bob$")
        bob.say("\x1b[2Jgrüße")
        ann.expect(r"^\d\d:\d\d bob: \N{REPLACEMENT CHARACTER}\[2Jgrüße$")
        ann.enter("x" * 2001, "/quit")
        ann.expect("^! A line has at most 2000 characters$")
        assert bob.hear() == {"type": "left", "name": "ann"}
        assert ann.wait() == 0


def test_the_terminal_client_says_all_of_a_pipe_before_it_leaves(port: int, room: str) -> None:
    with Guest(port) as bob, start_client(port, "ann", "--room", room) as ann:
        bob.join(room, "bob")
        ann.enter(*(f"line {number}" for number in range(30)))
        ann.end_input()
        assert ann.wait() == 0
        heard = []
        while (message := bob.hear())["type"] != "left":
            heard += [message["text"]] if message["type"] == "message" else []
        assert heard == [f"line {number}" for number in range(30)]


def test_ctrl_c_leaves_at_once_without_a_complaint(port: int, room: str) -> None:
    with start_client(port, "ann", "--room", room) as ann:
        ann.expect(r"^\* You are ann")
        ann.signal(signal.SIGINT)
        assert ann.wait() == 0
        assert len(ann.output.splitlines()) == 1, ann.output


def test_the_terminal_client_talks_tls_with_an_authority_of_its_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with start_server(
        "--cert", authority.certificate_file, "--key", authority.private_key_file
    ) as server:
        port = listening_port(server)
        server.expect(rf"^For a browser: https://{HOST}:{port}/$")
        with start_client(port, "ann", "--ca", authority.file) as ann:
            ann.expect(r"^\* You are ann")
            ann.enter("hello")
            ann.expect("ann: hello$")
        with start_client(port, "bob", "--tls") as bob:
            bob.expect("^Cannot connect to .*certificate verify failed")
            assert bob.wait() == 1


def test_the_terminal_client_tells_that_it_cannot_connect() -> None:
    with start_client(fixed_port(), "ann") as ann:
        ann.expect("^Cannot connect to 127.0.0.1:")
        assert ann.wait() == 1
        assert "Traceback" not in ann.output


# ----------------------------------------------------------------------------------- killed servers


@contextlib.contextmanager
def left_behind(port: int, *arguments: str | Path) -> Iterator[tuple[int, Program]]:
    """Give a client that has said "before" and whose server, on *port*, was killed then."""
    with contextlib.ExitStack() as stack:
        with start_server(*arguments, port=port) as server:
            listening_port(server)
            client = stack.enter_context(start_client(port, "ann"))
            client.expect(r"^\* You are ann")
            client.enter("before")
            client.expect("ann: before$")
            server.kill()
        client.expect("The connection is lost")
        yield port, client


def test_nothing_is_lost_or_twice_or_out_of_order_when_the_server_is_killed_under_load(
    tmp_path: Path,
) -> None:
    """Three people say 20 lines each at once, and the server dies in the middle of that."""
    port, history = fixed_port(), tmp_path / "history.jsonl"
    names = ["ann", "bob", "carol"]
    with contextlib.ExitStack() as stack:
        with start_server("--history", history, port=port) as server:
            listening_port(server)
            clients = [stack.enter_context(start_client(port, name)) for name in names]
            for client in clients:
                client.expect(r"^\* You are ")
            for client in clients:
                client.enter(*(f"line {number}" for number in range(20)))
            # the room remembers 50, and no more than that are left
            clients[0].expect("ann: line 9$")
            server.kill()
        for client in clients:
            client.expect("The connection is lost")
        stack.enter_context(start_server("--history", history, port=port))
        for client in clients:
            wait_for(lambda client=client: len(shown(client)) >= 60, PATIENCE, "60 lines")
        for client in clients:
            client.enter("/quit")
            assert client.wait() == 0
        seen = shown(clients[0])
        assert shown(clients[1]) == shown(clients[2]) == seen
        assert len(seen) == 60
        for name in names:
            assert [line for line in seen if line.startswith(name)] == [
                f"{name}: line {n}" for n in range(20)
            ]
        assert not any("does not remember" in client.output for client in clients)


def test_without_a_history_the_clients_come_back_and_are_told_that_it_is_gone() -> None:
    with left_behind(fixed_port()) as (port, ann):
        ann.enter("meanwhile")
        with start_server(port=port):
            ann.expect("The server has forgotten what was said before")
            ann.expect("ann: meanwhile$")
            ann.enter("after")
            ann.expect("ann: after$")
            assert shown(ann) == ["ann: before", "ann: meanwhile", "ann: after"]


def test_a_history_outlasts_the_server_and_stays_short(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    entries = [
        {
            "room": "lobby",
            "history": "abc",
            "type": "message",
            "number": n,
            "id": "",
            "name": "ann",
            "text": "x",
            "time": 0,
        }
        for n in range(1, 71)
    ]
    history.write_text(
        "".join(f"{json.dumps(entry)}\n" for entry in entries) + '{"room": "lob', "utf-8"
    )
    with start_server("--history", history) as server, Guest(listening_port(server)) as bob:
        answer = bob.join("lobby", "bob")
        assert answer["history"] == "abc"
        assert [message["number"] for message in answer["messages"]] == list(range(21, 71))
        assert bob.say("on")[0]["number"] == 71
        server.kill()
    assert [json.loads(line)["number"] for line in history.read_text("utf-8").splitlines()] == list(
        range(21, 72)
    )


def test_who_was_away_for_too_long_is_told_how_much_is_forgotten(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    with left_behind(fixed_port(), "--history", history) as (port, ann):
        entry = json.loads(history.read_text("utf-8"))
        with history.open("a", encoding="utf-8") as file:
            file.writelines(
                f"{json.dumps({**entry, 'number': number})}\n" for number in range(2, 102)
            )
        with start_server("--history", history, port=port):
            ann.expect(r"^\* 50 messages were said meanwhile that the server does not remember$")
            wait_for(lambda: len(shown(ann)) == 51, PATIENCE, "the rest")
