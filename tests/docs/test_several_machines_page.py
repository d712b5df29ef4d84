"""docs/how-to/several-machines.md is true: what stands in front, and what is written into the
configuration of Redis.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support import ROOT, wait_for
from support.children import fixed_port
from support.nginx import MAIN, accepts, nginx_program
from support.pages import blocks_of
from support.programs import PATIENCE
from support.redis_server import redis_server
from support.topics import Talker, topics_on

from mormot_ws import RedisHub, WebSocketAsyncServer

PAGE = "docs/how-to/several-machines.md"


def blocks(language: str) -> list[str]:
    """Return the page's blocks in *language*."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    return [block.code for block in blocks_of(text, PAGE) if block.language == language]


def options(text: str) -> dict[str, str]:
    """Return what a configuration of Redis says."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


@contextmanager
def running(*command: str) -> Iterator[None]:
    """Run a program until the end of the block."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


@pytest.mark.parametrize("front", ["nginx", "haproxy"])
def test_two_servers_behind_it_are_one(front: str, tmp_path: Path) -> None:
    """Clients are divided between them, and hear each other, through what the page shows."""
    (site,) = blocks({"nginx": "nginx", "haproxy": "cfg"}[front])
    ports = {number: fixed_port() for number in (8999, 8998, 8080)}
    for number, port in ports.items():
        site, count = re.subn(rf"\b{number}\b", str(port), site)
        assert count == 1, number
    if front == "nginx":
        program = nginx_program()
        (tmp_path / "site.conf").write_text(site, encoding="utf-8")
        user = "user root;" if os.geteuid() == 0 else ""
        (tmp_path / "nginx.conf").write_text(MAIN.format(user=user), encoding="utf-8")
        command = [program, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"]
    else:
        found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if found is None:
            pytest.skip("haproxy is not installed: apt-get install haproxy")
        (tmp_path / "haproxy.cfg").write_text(site, encoding="utf-8")
        command = [found, "-f", str(tmp_path / "haproxy.cfg")]
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as redis, ExitStack() as stack:
        served = [
            stack.enter_context(
                topics_on(
                    WebSocketAsyncServer,
                    stack.enter_context(RedisHub(redis.url)),
                    ports[number],
                )
            )
            for number in (8999, 8998)
        ]
        stack.enter_context(running(*command))
        wait_for(lambda: accepts(ports[8080]), PATIENCE, front)
        one, other = (
            stack.enter_context(Talker(ports[8080], f"session-number-{number}"))
            for number in range(2)
        )
        assert [topics.server.status().connections for topics in served] == [1, 1]
        one.subscribe("news")
        assert other.publish("hello", 1)["type"] == "ack"
        assert one.publications(1) == [(1, "hello")]


def test_a_redis_that_is_set_up_so_keeps_what_it_has(tmp_path: Path) -> None:
    """Over its end; and it refuses rather than forgets."""
    settings = options(blocks("properties")[0])
    with redis_server(tmp_path, **settings) as redis, RedisHub(redis.url) as hub:
        assert redis.command("CONFIG", "GET", "maxmemory-policy") == [
            b"maxmemory-policy",
            b"noeviction",
        ]
        position = hub.publish("news", 1).position
        redis.end()
        redis.start()
        hub.publish("news", 2)
        assert [each.data for each in hub.history("news", position).publications] == [2]


def test_the_rights_are_enough_and_no_more(tmp_path: Path) -> None:
    """For all that a hub does; without one of them something fails, so none is too many."""
    _, name, *rules = blocks("properties")[1].split()
    with redis_server(tmp_path) as redis:
        redis.command("ACL", "SETUSER", name, *rules)
        with RedisHub(redis.url.replace("redis://", f"redis://{name}:secret@")) as hub:
            heard: list[object] = []
            hub.subscribe("news", heard.append)
            hub.subscribe("sports", heard.append)
            assert hub.wait_connected()
            for sequence in range(1, 40):
                hub.publish("news", 1, session="s", sequence=sequence)
            hub.publish("news", 1, session="s", sequence=1)
            hub.join("news", "ann")
            assert hub.members("news") == {"ann": None}
            hub.unsubscribe("sports", heard.append)
            assert hub.leave("news", "ann")
            wait_for(lambda: len(heard) == 39)
            assert hub.status().last_error == ""
        assert redis.command("ACL", "LOG") == []
