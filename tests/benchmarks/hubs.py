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
import os
import resource
import select
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mormot_ws import (
    Hub,
    MemoryHub,
    RedisHub,
    WebSocketAsyncServer,
    encode_frame,
    focText,
)
from mormot_ws.topics.redis_scripts import PUBLISH, keys_of

from ..support.redis_server import RedisServer, redis_server
from ..support.topics import Talker, topics_on

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


def measure_redis(server: RedisServer, hub: RedisHub) -> dict[str, float]:
    """Return what a publication costs a busy Redis: CPU time, and memory for what is kept."""
    with server.client() as client:
        plain = _cost(client, b"")
        named = _cost(client, b"session")
        before = _cost_of_channels(server, client)
        for number in range(1, 1_001):
            hub.publish("sizes", _DATA, session="0123456789abcdef", sequence=number)
        base = f"{hub.prefix}{{sizes}}"
        sizes: dict[str, Any] = {
            key: client.memory_usage(f"{base}:{key}", samples=0)
            for key in ("past", "seen", "order")
        }
    return {
        "CPU of Redis, µs": plain,
        "CPU of Redis with a session, µs": named,
        "the same for each process that hears it, µs": before,
        "bytes of a publication that is kept": sizes["past"] / 1_000,
        "bytes of a session and sequence": (sizes["seen"] + sizes["order"]) / 1_000,
    }


def _redis_cpu(client: Any) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _cost(client: Any, session: bytes, count: int = 5_000) -> float:
    """Return the microseconds of CPU that Redis takes for a publication among many."""
    run = client.info("server")["run_id"]
    keys = keys_of("cost:", "news")
    text = json.dumps(_DATA).encode()
    together = client.pipeline(transaction=False)
    sha = client.script_load(PUBLISH.text)
    for number in range(count):
        name = session and b"%d %b" % (number, session)
        arguments = (run, "epoch", 86_400_000, keys.channel, text, 1_000, 300_000, name)
        together.evalsha(sha, 4, *keys[:4], *arguments, 10_000, 300_000)
    before = _redis_cpu(client)
    together.execute()
    return (_redis_cpu(client) - before) / count * 1e6


def _cost_of_channels(server: RedisServer, client: Any, processes: int = 10) -> float:
    """Return what one more process adds that is subscribed to the topic."""
    alone = _cost(client, b"")
    with ExitStack() as stack:
        for _ in range(processes):
            hub = stack.enter_context(RedisHub(server.url, prefix="cost:"))
            hub.subscribe("news", lambda publication: None)
            hub.wait_connected()
        return (_cost(client, b"") - alone) / processes


def measure_hearing(server: RedisServer, count: int = 5_000) -> dict[str, float]:
    """Return what a process spends on a publication that it hears of from Redis."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        _hear(server, there, count)
        os._exit(0)
    there.close()
    with here, here.makefile("r") as child, server.client() as client:
        child.readline()
        _cost(client, b"", count)
        cpu = float(child.readline())
    os.waitpid(pid, 0)
    return {"CPU of a process that hears of it, µs": cpu / count * 1e6}


def _hear(server: RedisServer, parent: socket.socket, count: int) -> None:
    """Say when it listens, and the CPU that *count* publications have taken."""
    done = threading.Event()
    offsets: list[int] = []

    def hear(publication: Any) -> None:
        offsets.append(publication.offset)
        if len(offsets) == count:
            done.set()

    file = parent.makefile("w")
    with RedisHub(server.url, prefix="cost:") as hub:
        hub.subscribe("news", hear)
        hub.wait_connected()
        # its first look into the history is not what is measured
        time.sleep(0.2)
        cpu = _cpu()
        print("listening", file=file, flush=True)
        done.wait(30)
        print(_cpu() - cpu, file=file, flush=True)


def measure_fan_out(connections: int, publications: int, pause: float) -> dict[str, float]:
    """Return what a server spends on a publication for each of its *connections*, which are those
    of another process. It waits *pause* seconds before each: without a pause, publications can
    share a write.
    """
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        _serve(there, publications, pause)
        os._exit(0)
    there.close()
    with here, here.makefile("rw") as server, ExitStack() as stack:
        port = int(server.readline())
        talkers = [
            stack.enter_context(Talker(port, f"session-{number:08}"))
            for number in range(connections)
        ]
        for talker in talkers:
            talker.subscribe("news")
        server.write("go\n")
        server.flush()
        size = int(server.readline())
        left = dict.fromkeys((talker.ws.sock for talker in talkers), size)
        while left:
            for sock in select.select(list(left), [], [])[0]:
                left[sock] -= len(sock.recv(1 << 20))
                if left[sock] <= 0:
                    del left[sock]
        server.write("done\n")
        server.flush()
        cpu = float(server.readline())
    os.waitpid(pid, 0)
    how = "one at a time" if pause else "many at a time"
    return {
        f"CPU of a server for each of {connections} connections, {how}, µs": cpu
        / (connections * publications)
        * 1e6
    }


def _serve(parent: socket.socket, publications: int, pause: float) -> None:
    """Publish when the parent says so; tell it how many bytes each connection gets, and the CPU."""
    with MemoryHub() as hub, topics_on(WebSocketAsyncServer, hub) as topics:
        file = parent.makefile("rw")
        print(topics.port, file=file, flush=True)
        file.readline()
        messages = (
            {"type": "pub", "topic": "news", "offset": number, "data": _DATA}
            for number in range(1, publications + 1)
        )
        frames = [
            encode_frame(focText, json.dumps(each, separators=(",", ":")).encode())
            for each in messages
        ]
        print(sum(map(len, frames)), file=file, flush=True)

        def publish() -> None:
            for _ in range(publications):
                time.sleep(pause)
                hub.publish("news", _DATA)

        cpu = _cpu()
        # not in the main thread, whose publications the keeper writes
        publisher = threading.Thread(target=publish)
        publisher.start()
        publisher.join()
        file.readline()
        print(_cpu() - cpu, file=file, flush=True)


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
            report("Redis itself, busy", measure_redis(server, hub))
        report("a process that hears", measure_hearing(server))
    report(
        "from a process to its connections",
        measure_fan_out(500, 200, 0) | measure_fan_out(500, 40, 0.05),
    )
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
