# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""What a publication costs: ``python -m tests.benchmarks.hubs [--seconds S] [--json FILE]``.

A hub in memory, and one over a Redis that is started here, with one thread and with eight; the time
until a subscriber in another hub hears of it; what Redis itself spends, in time and memory. The
page ``docs/explanation/scaling.md`` calculates with these figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mormot_ws import Hub, MemoryHub, RedisHub

from ..support.redis_server import RedisServer, redis_server

_DATA = {"from": "somebody", "text": "x" * 80}


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure_publishing(hub: Hub, threads: int, seconds: float) -> dict[str, float]:
    """Publish for *seconds* in each of *threads*, on a topic with one subscriber."""
    heard = [0]

    def hear(publication: object) -> None:
        heard[0] += 1

    hub.subscribe("bench", hear)
    hub.wait_connected()
    took: list[list[float]] = [[] for _ in range(threads)]
    stop = threading.Event()

    def publish(number: int) -> None:
        mine, clock, publish = took[number], time.perf_counter, hub.publish
        while not stop.is_set():
            began = clock()
            publish("bench", _DATA)
            mine.append(clock() - began)

    workers = [threading.Thread(target=publish, args=(number,)) for number in range(threads)]
    began, cpu = time.perf_counter(), _cpu()
    for worker in workers:
        worker.start()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    count = sum(map(len, took))
    give_up = time.perf_counter() + 10
    while heard[0] < count and time.perf_counter() < give_up:
        time.sleep(0.001)
    elapsed, cpu = time.perf_counter() - began, _cpu() - cpu
    hub.unsubscribe("bench", hear)
    every = [each for mine in took for each in mine]
    return {
        "publications/s, heard": count / elapsed,
        "publish() median, µs": statistics.median(every) * 1e6,
        "publish() 99 %, µs": _percentile(every, 0.99) * 1e6,
        "CPU of this process, µs": cpu / count * 1e6,
        "lost": float(count - heard[0]),
    }


def measure_delivery(publisher: Hub, subscriber: Hub, seconds: float) -> dict[str, float]:
    """Publish one after another; return how long it takes until it is heard elsewhere."""
    heard = threading.Event()

    def hear(publication: object) -> None:
        heard.set()

    subscriber.subscribe("ping", hear)
    subscriber.wait_connected()
    publisher.publish("ping", _DATA)
    heard.wait(5)
    took = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        heard.clear()
        began = time.perf_counter()
        publisher.publish("ping", _DATA)
        heard.wait(5)
        took.append(time.perf_counter() - began)
    subscriber.unsubscribe("ping", hear)
    return {
        "publish to callback median, µs": statistics.median(took) * 1e6,
        "publish to callback 99 %, µs": _percentile(took, 0.99) * 1e6,
    }


def measure_redis(server: RedisServer, hub: RedisHub, seconds: float) -> dict[str, float]:
    """Return what one publication costs Redis: its CPU time, and the memory of what is kept."""
    with server.client() as client:

        def cpu() -> float:
            info: Any = client.info("cpu")
            return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

        before, count = cpu(), 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            hub.publish("cost", _DATA)
            count += 1
        plain = (cpu() - before) / count
        before = cpu()
        for number in range(1, 1_001):
            hub.publish("session", _DATA, session="0123456789abcdef", sequence=number)
        named = (cpu() - before) / 1_000
        base = f"{hub.prefix}{{session}}"
        sizes: dict[str, Any] = {
            key: client.memory_usage(f"{base}:{key}", samples=0)
            for key in ("past", "seen", "order")
        }
    return {
        "CPU of Redis, µs": plain * 1e6,
        "CPU of Redis with a session, µs": named * 1e6,
        "bytes of a publication that is kept": sizes["past"] / 1_000,
        "bytes of a session and sequence": (sizes["seen"] + sizes["order"]) / 1_000,
    }


@contextmanager
def _redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as server:
        yield server


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hubs")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--json", metavar="FILE", help="write them there, too")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}

    def report(name: str, figures: dict[str, float]) -> None:
        results[name] = figures
        print(name)
        for what, figure in results[name].items():
            print(f"    {what:38} {figure:12,.1f}")

    seconds = options.seconds
    for threads in (1, 8):
        with MemoryHub() as memory:
            report(f"memory, {threads} threads", measure_publishing(memory, threads, seconds))
    with _redis() as server:
        for threads in (1, 8):
            with RedisHub(server.url) as hub:
                report(f"Redis, {threads} threads", measure_publishing(hub, threads, seconds))
        with RedisHub(server.url) as hub, RedisHub(server.url) as other:
            report("Redis, from hub to hub", measure_delivery(hub, other, seconds))
            report("Redis itself", measure_redis(server, hub, seconds))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
