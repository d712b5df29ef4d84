"""Topics on the command line: ``serve --hub``, ``connect --subscribe`` and ``--publish``."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support import HOST
from support.programs import Program
from support.redis_server import redis_server
from support.topics import Heard, client_of, topics_on
from support.waiting import ms, wait_for

from mormot_ws import MemoryHub, WebSocketAsyncServer, WebSocketProtocolTopics
from mormot_ws.cli.arguments import parse


class Cli(Program):
    """``python -m mormot_ws ARGUMENTS`` as a process."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        super().__init__("-m", "mormot_ws", *arguments, **options)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the next event of that *name*; return it."""
        found: dict[str, Any] = json.loads(self.expect(f'^{{"event": "{name}"').string)
        return found


def uri(port: int) -> str:
    return f"ws://{HOST}:{port}/"


class TestServe:
    def test_a_hub_offers_topics_beside_the_echo(self) -> None:
        """And its counters come at the end."""
        heard = Heard()
        protocol = WebSocketProtocolTopics()
        with Cli("serve", "--port", "0", "--json", "--hub", "memory:") as cli:
            port = cli.event("listening")["port"]
            with client_of(port, protocol):
                assert protocol.subscribe("news", heard).wait(ms(5_000))
                assert protocol.publish("news", 1).wait(ms(5_000))
                assert heard.wait(1) == [1]
                assert protocol.members("news") == {protocol.member: None}
            cli.signal(signal.SIGINT)
            assert cli.event("topics")["published"] == 1
            assert cli.wait() == 0

    def test_the_first_line_says_that_there_are_topics(self) -> None:
        with Cli("serve", "--port", "0", "--hub", "memory:") as cli:
            cli.expect(r"^Listening on ws://127\.0\.0\.1:\d+/ \(echo, topics\);")
            cli.signal(signal.SIGINT)
            assert cli.wait() == 0

    def test_servers_of_a_redis_are_one(self, tmp_path: Path) -> None:
        """The URL with the password comes from a file, and is not shown."""
        heard = Heard()
        protocols = [WebSocketProtocolTopics(), WebSocketProtocolTopics()]
        with redis_server(tmp_path, requirepass="s3cret-of-redis") as redis:
            file = tmp_path / "url.txt"
            url = redis.url.replace("://", "://:s3cret-of-redis@")
            file.write_text(f"{url}\n", encoding="utf-8")
            options = ("serve", "--port", "0", "--json", "-v", "--hub", f"@{file}")
            with Cli(*options) as one, Cli(*options) as two:
                ports = [cli.event("listening")["port"] for cli in (one, two)]
                with client_of(ports[0], protocols[0]), client_of(ports[1], protocols[1]):
                    assert protocols[0].subscribe("news", heard).wait(ms(5_000))
                    assert protocols[1].publish("news", 1).wait(ms(5_000))
                    assert heard.wait(1) == [1]
                for cli in (one, two):
                    cli.signal(signal.SIGINT)
                    assert cli.wait() == 0
                    assert "s3cret" not in cli.output


class TestConnect:
    def test_publications_are_events(self) -> None:
        """One a line, and after a loss of the connection what was missed."""
        with MemoryHub() as hub, topics_on(WebSocketAsyncServer, hub) as topics:
            options = ("--json", "--subscribe", "news", "--subscribe", "other", "--reconnect")
            with Cli("connect", uri(topics.port), *options, "--count", "3") as cli:
                wait_for(lambda: topics.protocol.status().subscriptions == 2)
                hub.publish("news", {"a": "ü"})
                event = cli.event("publication")
                assert (event["topic"], event["offset"], event["data"]) == ("news", 1, {"a": "ü"})
                topics.server.connections()[0].abort("the test")
                hub.publish("other", [1])
                hub.publish("news", 2)
                assert cli.event("reconnected")
                found = [cli.event("publication")["data"] for _ in range(2)]
                assert sorted(map(str, found)) == ["2", "[1]"]
                assert cli.wait() == 0

    def test_lines_are_published(self) -> None:
        """The end of the input waits for their answers."""
        with MemoryHub() as hub, topics_on(WebSocketAsyncServer, hub) as topics:
            with Cli("connect", uri(topics.port), "--publish", "news", "--linger", "0") as cli:
                for number in range(3):
                    cli.enter(f"line {number}")
                wait_for(lambda: hub.history("news").position.offset == 3)
                cli.end_input()
                assert cli.wait() == 0
            assert [each.data for each in hub.history("news").publications] == [
                "line 0",
                "line 1",
                "line 2",
            ]

    def test_a_refused_line_is_told(self) -> None:
        """By the exit code, too."""
        with (
            topics_on(WebSocketAsyncServer, on_publish=lambda *_: "not today") as topics,
            Cli("connect", uri(topics.port), "--publish", "news", "--linger", "0") as cli,
        ):
            cli.enter("hello")
            cli.expect("not published: not today")
            cli.end_input()
            assert cli.wait() == 3

    def test_a_refused_subscription_ends_it(self) -> None:
        with (
            topics_on(WebSocketAsyncServer, on_subscribe=lambda *_: "members only") as topics,
            Cli("connect", uri(topics.port), "--subscribe", "news") as cli,
        ):
            cli.expect("subscription to 'news' refused: members only")
            assert cli.wait() == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--hub", "http://x"), "redis"),
        (("serve", "--hub", "@/no/such/file"), "cannot read the file"),
        (("serve", "--hub", "memory:", "--processes", "2"), "requires a Redis hub"),
        (("serve", "--hub", "memory:", "--protocol", "topics"), "--hub already serves it"),
        (("connect", "ws://x", "--subscribe", ""), "characters"),
        (("connect", "ws://x", "--subscribe", "a", "--subscribe", "a"), "each topic only once"),
        (("connect", "ws://x", "--subscribe", "a", "--binary"), "cannot be combined with --binary"),
        (
            ("connect", "ws://x", "--publish", "a", "--protocol", "a", "--protocol", "b"),
            "only one --protocol",
        ),
    ],
)
def test_wrong_arguments_are_said(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
