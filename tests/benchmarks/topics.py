# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""Topics beside the rooms of python-socketio: ``python -m tests.benchmarks.topics [--rounds N]
[--seconds S] [--subscribers N] [--json FILE]``.

* **fan-out**: a client publishes to 1 000 subscribers in one OS process, and to 500 in each of two
  over Redis: publications per second with some on the way, the time from publishing to each arrival
  with one at a time, and the CPU that the servers spend on a publication for each subscriber;
* **memory**: of a connection with one subscription, and of each further subscription;
* **recovery**: the server is killed while all are subscribed, publications are missed, and another
  one starts: the seconds until all have connected again and have everything, beside connecting and
  subscribing again without what was missed.

The contestants of a figure are measured in turn, round by round. The page
``docs/explanation/performance.md`` has the figures. Needs redis-server, and for the comparison
python-socketio and redis-py.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mormot_ws import Position, RedisHub

from ..support.children import fixed_port
from ..support.redis_server import RedisServer, redis_server
from .handshake import HandshakeError
from .processes import Helper, HelperError, MissingLibrary
from .subscribers import Dialect, Publisher, Rooms, Subscribers, Topics, publisher
from .topic_servers import DATA

_TOPIC = "news"
#: publications on the way
_DEPTH = 8
#: publications that all have missed
_MISSED = 20
#: further subscriptions of each connection
_MORE = 10
#: seconds that a server's memory is left to settle
_SETTLE = 0.5

Figures = dict[str, float]


class Contestant:
    """A library and how its servers are set up."""

    def __init__(self, label: str, library: str, redis: bool, processes: int = 1) -> None:
        self.label = label
        self.library = library
        self.redis = redis
        self.processes = processes

    @property
    def dialect(self) -> Dialect:
        """What its clients say."""
        return Rooms() if self.library == "python-socketio" else Topics()

    @contextmanager
    def servers(self, redis: RedisServer, port: int = 0) -> Iterator[list[Helper]]:
        """Run its servers."""
        url = [redis.url] if self.redis else []
        with ExitStack() as stack:
            helpers = []
            for _ in range(self.processes):
                helpers.append(Helper("topic_servers", self.library, str(port), *url))
                stack.callback(helpers[-1].close)
            yield helpers


ONE = [
    Contestant("mormot_ws threaded, memory", "mormot_ws", False),
    Contestant("mormot_ws event-driven, memory", "mormot_ws-events", False),
    Contestant("mormot_ws threaded, Redis", "mormot_ws", True),
    Contestant("mormot_ws event-driven, Redis", "mormot_ws-events", True),
    Contestant("python-socketio threading, Redis", "python-socketio", True),
]
TWO = [
    Contestant("mormot_ws threaded, Redis", "mormot_ws", True, 2),
    Contestant("mormot_ws event-driven, Redis", "mormot_ws-events", True, 2),
    Contestant("python-socketio threading, Redis", "python-socketio", True, 2),
]


def _cpu(helpers: list[Helper]) -> float:
    return sum(helper.cpu_seconds() for helper in helpers)


def _memory(helpers: list[Helper]) -> float:
    time.sleep(_SETTLE)
    return float(sum(helper.private_bytes() for helper in helpers))


def fan_out(contestant: Contestant, redis: RedisServer, count: int, seconds: float) -> Figures:
    """Publish from one client to *count* subscribers, shared out among the servers."""
    dialect = contestant.dialect
    with contestant.servers(redis) as helpers:
        ports = [helper.greeting["port"] for helper in helpers]
        with Subscribers(ports, count, dialect, [_TOPIC]) as subscribers:
            subscribers.open()
            with publisher(ports[0], dialect) as sender:
                sender.publish(_TOPIC)
                subscribers.wait(lambda: subscribers.heard >= count)
                latencies = _one_at_a_time(subscribers, sender, seconds)
                return {**_stream(subscribers, sender, helpers, seconds), **latencies}


def _one_at_a_time(subscribers: Subscribers, sender: Publisher, seconds: float) -> Figures:
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        wanted = subscribers.heard + subscribers.count
        since = time.perf_counter()
        sender.publish(_TOPIC)
        subscribers.wait(lambda: subscribers.heard >= wanted, took, since)  # noqa: B023
    took.sort()
    return {
        "latency median, ms": statistics.median(took) * 1e3,
        "latency 99 %, ms": took[int(len(took) * 0.99)] * 1e3,
    }


def _stream(
    subscribers: Subscribers, sender: Publisher, helpers: list[Helper], seconds: float
) -> Figures:
    count, begun = subscribers.count, subscribers.heard
    sent = 0
    cpu, begin = _cpu(helpers), time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        while sent * count - (subscribers.heard - begun) < _DEPTH * count:
            sender.publish(_TOPIC)
            sent += 1
        before = subscribers.heard
        subscribers.wait(lambda: subscribers.heard > before)  # noqa: B023
    heard = subscribers.heard - begun
    figures = {
        "publications/s": heard / count / (now - begin),
        "server CPU per publication and subscriber, µs": (_cpu(helpers) - cpu) / heard * 1e6,
    }
    subscribers.wait(lambda: subscribers.heard - begun >= sent * count)
    return figures


def memory(contestant: Contestant, redis: RedisServer, count: int) -> Figures:
    """Connect *count* clients with one subscription each, then as many with some more."""
    one = _grown(contestant, redis, count, [_TOPIC])
    figures = {"connection with one subscription, kB": one / count / 1e3}
    if contestant.library != "python-socketio":
        # there each answer is a thread for a moment, and what is left of it is not a room's
        more = [f"topic {number}" for number in range(_MORE)]
        many = _grown(contestant, redis, count, [_TOPIC, *more])
        figures["further subscription, bytes"] = (many - one) / count / _MORE
    return figures


def _grown(contestant: Contestant, redis: RedisServer, count: int, topics: list[str]) -> float:
    """Return the bytes by which a server grows with *count* connections."""
    dialect = contestant.dialect
    with contestant.servers(redis) as helpers:
        ports = [helpers[0].greeting["port"]]
        with Subscribers(ports, 20, dialect, topics) as first:
            # what is made once is there
            first.open()
            before = _memory(helpers)
            with Subscribers(ports, count, dialect, topics) as subscribers:
                subscribers.open()
                return _memory(helpers) - before


def recovery(contestant: Contestant, redis: RedisServer, count: int) -> Figures:
    """Kill the server under *count* subscribers, let them miss something, start it again."""
    port = fixed_port()
    ours = contestant.library != "python-socketio"
    with contestant.servers(redis, port) as helpers, RedisHub(redis.url) as hub:
        with Subscribers([port], count, contestant.dialect, [_TOPIC]) as subscribers:
            subscribers.open()
            newest = hub.history(_TOPIC, limit=1).position
            os.kill(helpers[0].pid, 9)
        for _ in range(_MISSED):
            hub.publish(_TOPIC, DATA)
    figures = {"connect and subscribe, s": _return(contestant, redis, port, count, None)}
    if ours:
        figures["… and everything missed, s"] = _return(contestant, redis, port, count, newest)
    return figures


def _return(
    contestant: Contestant, redis: RedisServer, port: int, count: int, since: Position | None
) -> float:
    """Return the seconds in which all are back on a new server."""
    dialect = contestant.dialect
    if since is not None:
        dialect = Topics(since._asdict())
    with (
        contestant.servers(redis, port),
        Subscribers([port], count, dialect, [_TOPIC]) as subscribers,
    ):
        return subscribers.open(0 if since is None else _MISSED)


def _measure(
    contestants: list[Contestant], rounds: int, measure: Callable[[Contestant], Figures]
) -> dict[str, Figures]:
    """Return the medians of each contestant's figures; each round is in another order."""
    samples: dict[str, list[Figures]] = {each.label: [] for each in contestants}
    for number in range(rounds):
        shift = number % len(contestants)
        for each in contestants[shift:] + contestants[:shift]:
            try:
                samples[each.label].append(measure(each))
            except (MissingLibrary, HelperError, HandshakeError, OSError) as exc:
                print(f"  {each.label}: {type(exc).__name__}: {exc}", flush=True)
    return {
        label: {name: statistics.median(each[name] for each in found) for name in found[0]}
        for label, found in samples.items()
        if found
    }


def _print(title: str, figures: dict[str, Figures]) -> None:
    print(f"\n{title}")
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    width = max(map(len, figures), default=0)
    for name in names:
        print(f"  {name}")
        base = next(
            (each.get(name) for label, each in figures.items() if "socketio" in label), None
        )
        for label, each in figures.items():
            if name in each:
                ratio = f"  / python-socketio {each[name] / base:6.2f}" if base else ""
                print(f"    {label:{width}}  {each[name]:10,.2f}{ratio}", flush=True)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.topics")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each part of a figure")
    parser.add_argument("--subscribers", type=int, default=1_000)
    parser.add_argument("--only", help="some of fan-out, two, memory, recovery")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count, seconds, rounds = options.subscribers, options.seconds, options.rounds
    wanted = (options.only or "fan-out,two,memory,recovery").split(",")
    print(f"load {os.getloadavg()[0]:.2f}; {rounds} rounds")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
        jobs: list[tuple[str, str, list[Contestant], Callable[[Contestant], Figures]]] = [
            (
                "fan-out",
                f"One publication to {count} subscribers in one OS process",
                ONE,
                lambda each: fan_out(each, redis, count, seconds),
            ),
            (
                "two",
                f"One publication to two OS processes with {count // 2} subscribers each",
                TWO,
                lambda each: fan_out(each, redis, count, seconds),
            ),
            ("memory", "Memory of a server", ONE, lambda each: memory(each, redis, count)),
            (
                "recovery",
                f"{count} clients after the death of their server, with {_MISSED} missed",
                ONE[2:],
                lambda each: recovery(each, redis, count),
            ),
        ]
        for name, title, contestants, measure in jobs:
            if name in wanted:
                results[name] = _measure(contestants, rounds, measure)
                _print(title, results[name])
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
