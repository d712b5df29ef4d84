"""Fixtures of the tests of topics: hubs of both kinds, a Redis that is started for them, servers of
both kinds: what a test with the fixture ``kind`` proves, it proves for both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.redis_server import RedisServer, redis_server
from support.waiting import ms

from mormot_ws import Hub, MemoryHub, ShardedHub, WebSocketAsyncServer, WebSocketServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests of this OS process that do it no harm."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop, freeze and restart."""
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """What the keys of this test begin with."""
    return f"test{next(_numbers)}:"


@pytest.fixture(params=["memory", "redis", "sharded"])
def make_hub(request: pytest.FixtureRequest, prefix: str) -> Iterator[Callable[..., Hub]]:
    """What makes hubs, each test with one kind after the other. All of one test share topics only
    when they are over Redis.
    """
    with ExitStack() as stack:

        def make(**settings: Any) -> Hub:
            settings = {"timeout": ms(5_000), **settings}
            if request.param == "memory":
                return stack.enter_context(MemoryHub(**settings))
            if request.param == "sharded":
                return stack.enter_context(ShardedHub([MemoryHub(**settings) for _ in range(2)]))
            from mormot_ws import RedisHub

            url = request.getfixturevalue("shared_redis").url
            return stack.enter_context(RedisHub(url, prefix=prefix, **settings))

        yield make


@pytest.fixture
def hub(make_hub: Callable[..., Hub]) -> Hub:
    """A hub of one kind after the other."""
    return make_hub()


@pytest.fixture(params=[WebSocketServer, WebSocketAsyncServer], ids=["threaded", "event-driven"])
def kind(request: pytest.FixtureRequest) -> Any:
    """The class of the server."""
    return request.param
