"""The chat room of the examples, as real processes: what may be said, on a raw connection; the
terminal client through pipes; killed servers, and two of them behind nginx.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support import HOST, RawClient, examples, wait_for
from support.children import fixed_port
from support.examples import listening_port
from support.nginx import RunningNginx
from support.programs import EXAMPLES, PATIENCE, Program
from support.redis_server import redis_server
from support.tls import Authority

from mormot_ws import focText

Message = dict[str, Any]

#: two of them for the tests that look at who is there
ROOMS = ("lobby", "kitchen", "attic", "garden")
start_server = partial(
    examples.start_server, "chat_server.py", *(part for room in ROOMS for part in ("--room", room))
)
start_client = partial(examples.start_client, "chat_client.py")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server for the tests that do not end it."""
    with start_server() as server:
        yield listening_port(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.output, server.output


class Guest(RawClient):
    """Somebody on a raw connection, who says and hears messages of topics."""

    def __init__(self, port: int, name: str, room: str = "kitchen") -> None:
        super().__init__(port)
        self.upgrade(f"?name={quote(name)}", "topics")
        self._seq = 0
        self.tell(type="hello", v=1, session=f"secret-of-{name.strip():_<16}")
        assert self.hear()["type"] == "hello"
        self.tell(type="sub", topic=room)
        self.entered = self.hear()

    def tell(self, **message: Any) -> None:
        """Send one message."""
        self.send_frame(focText, json.dumps(message))

    def hear(self) -> Message:
        """Return the next message of the server."""
        message: Message = json.loads(self.receive_opcode(focText).text)
        return message

    def say(self, data: object, room: str = "kitchen") -> list[Message]:
        """Say something; return what is heard up to the answer."""
        self._seq += 1
        self.tell(type="pub", topic=room, seq=self._seq, data=data)
        heard = [self.hear()]
        while heard[-1]["type"] not in ("ack", "nack"):
            heard.append(self.hear())
        return heard


# --------------------------------------------------------------------------------- what may be said


def test_what_is_said_comes_to_everybody_with_the_name_of_the_connection(port: int) -> None:
    with (
        Guest(port, " ann ", "attic") as ann,
        Guest(port, "bob", "attic") as bob,
        Guest(port, "carl", "lobby"),
    ):
        heard, answer = bob.say({"text": "hello", "name": "ann", "time": 0}, "attic")
        assert answer["type"] == "ack"
        assert heard["data"].pop("time") > 1_600_000_000
        assert heard["data"] == {"name": "bob", "text": "hello"}
        assert ann.hear()["offset"] == heard["offset"] == answer["offset"]
        ann.tell(type="members", topic="attic")
        names = [member["name"] for member in ann.hear()["members"].values()]
        assert sorted(names) == ["ann", "bob"]


@pytest.mark.parametrize(
    "data", [None, 7, [], {}, {"text": 1}, {"text": " "}, {"text": "x" * 2001}]
)
def test_what_is_no_text_is_refused_and_the_connection_goes_on(port: int, data: object) -> None:
    with Guest(port, "ann") as ann:
        (answer,) = ann.say(data)
        assert answer["code"] == "refused"
        assert answer["reason"] == "a line must have 1 to 2000 characters"
        # in as many bytes as can be
        assert ann.say({"text": "\N{PILE OF POO}" * 2000})[-1]["type"] == "ack"


def test_there_are_only_the_rooms_of_the_server(port: int) -> None:
    with Guest(port, "ann", "cellar") as ann:
        assert ann.entered["reason"] == "there is no such room"
        assert ann.say({"text": "hello"}, "cellar")[-1]["reason"] == "there is no such room"


@pytest.mark.parametrize("uri", ["", "?name=", "?name=%20", f"?name={'x' * 31}", "?name=a%1B[2J"])
def test_nobody_comes_in_without_a_name(port: int, uri: str) -> None:
    with RawClient(port) as client:
        client.send(client.request(uri, "topics"))
        assert client.read_head().status == 400


def test_pages_of_other_sites_may_not_listen(port: int) -> None:
    for origin, status in (
        (f"http://{HOST}:{port}", 101),
        ("http://evil.example", 403),
        ("null", 403),
    ):
        with RawClient(port) as client:
            client.send(client.request("?name=ann", "topics", Host=f"{HOST}:{port}", Origin=origin))
            assert client.read_head().status == status, origin


# ------------------------------------------------------------------------------ the terminal client


def shown(program: Program) -> list[str]:
    """Return the messages that a terminal client has shown: ``name: text``."""
    return [line[6:] for line in program.output.splitlines() if re.match(r"\d\d:\d\d ", line)]


def test_the_terminal_client_says_what_is_typed_and_shows_what_happens(port: int) -> None:
    with (
        start_client(port, "ann", "--room", "garden") as ann,
        Guest(port, "bob", "garden") as bob,
    ):
        ann.expect(r"^\* You are ann in garden$")
        ann.enter("  hello  ", "", "/who")
        assert bob.hear()["data"]["text"] == "hello"
        ann.expect(r"^\d\d:\d\d ann: hello$")
        ann.expect(r"^\* Here are ann, bob$")
        bob.say({"text": "\x1b[2Jgrüße"}, "garden")
        ann.expect(r"^\d\d:\d\d bob: \N{REPLACEMENT CHARACTER}\[2Jgrüße$")
        ann.enter("x" * 2001, "/quit")
        ann.expect("^! A line must have at most 2000 characters$")
        assert ann.wait() == 0
        assert "lost" not in ann.output


def test_the_terminal_client_tells_what_is_refused(port: int) -> None:
    with start_client(port, "ann", "--room", "cellar") as ann:
        ann.expect("^! there is no such room$")
        ann.enter("hello", "/who")
        ann.expect("^! there is no such room$")
        ann.expect("^! ")


def test_the_terminal_client_says_all_of_a_pipe_before_it_leaves(port: int) -> None:
    with Guest(port, "bob", "lobby") as bob, start_client(port, "ann") as ann:
        ann.enter(*(f"line {number}" for number in range(14)))
        ann.end_input()
        assert ann.wait() == 0
        heard = [bob.hear()["data"]["text"] for _ in range(14)]
        assert heard == [f"line {number}" for number in range(14)]


def test_ctrl_c_leaves_at_once_without_a_complaint(port: int) -> None:
    with start_client(port, "ann") as ann:
        ann.expect(r"^\* You are ann")
        ann.signal(signal.SIGINT)
        assert ann.wait() == 0
        assert "Traceback" not in ann.output
        assert "lost" not in ann.output


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


def test_a_server_without_redis_forgets_and_that_is_told() -> None:
    port = fixed_port()
    with contextlib.ExitStack() as stack:
        with start_server(port=port) as server:
            listening_port(server)
            ann = stack.enter_context(start_client(port, "ann"))
            ann.expect(r"^\* You are ann")
            ann.enter("before")
            ann.expect("ann: before$")
            server.kill()
        ann.expect("Connection lost")
        ann.enter("meanwhile")
        stack.enter_context(start_server(port=port))
        ann.expect("the server has lost the history")
        ann.expect("ann: meanwhile$")
        assert shown(ann) == ["ann: before", "ann: meanwhile"]


def test_two_servers_behind_nginx_are_one_and_nothing_is_lost_when_one_is_killed(
    tmp_path: Path,
) -> None:
    """Three people say 9 lines each at once, and one of the servers dies in the middle of that."""
    front, *ports = (fixed_port() for _ in range(3))
    site = (EXAMPLES / "chat_nginx.conf").read_text("utf-8")
    for old, new in zip(("8999", "8997", "8998"), (front, *ports), strict=True):
        assert site.count(old) == 1
        site = site.replace(old, str(new))
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        servers = [
            stack.enter_context(start_server("--redis", redis.url, port=port)) for port in ports
        ]
        for server in servers:
            listening_port(server)
        stack.enter_context(RunningNginx(tmp_path, site, front))
        names = ["ann", "bob", "carol"]
        clients = [stack.enter_context(start_client(front, name)) for name in names]
        for name, client in zip(names, clients, strict=True):
            client.expect(rf"^\* You are {name}")
        for client in clients:
            client.enter(*(f"line {number}" for number in range(9)))
        clients[0].expect(": line 4$")
        servers[0].kill()
        for client in clients:
            wait_for(lambda client=client: len(shown(client)) >= 27, PATIENCE, "27 lines")
            client.enter("/quit")
            assert client.wait() == 0
        seen = shown(clients[0])
        assert shown(clients[1]) == shown(clients[2]) == seen
        for name in names:
            assert [line for line in seen if line.startswith(name)] == [
                f"{name}: line {n}" for n in range(9)
            ]
        # nginx had given somebody to the one that died
        assert any("Reconnected" in client.output for client in clients)
        assert not any("forgotten" in client.output for client in clients)
