"""The client process: ``python -m tests.topics_chaos.clients PORT PORT COUNT CAP_MS SEED LOG``.

It prints ``{"ready": COUNT}`` when all clients are subscribed, and answers commands. Its log::

    T by n topic                  client *by* publishes its publication n
    D by n topic state offset repeated reason     what became of it
    P who topic offset by n       client *who* has heard a publication
    R who topic recovered offset reason           how a subscription goes on
    X text                        an exception that nobody has handled

All subscriptions begin at offset 0, before anything is published.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection
from functools import partial
from typing import Any

from mormot_ws import (
    ExponentialBackoff,
    HttpClientWebSockets,
    Position,
    Publication,
    Publishing,
    Recovery,
    WebSocketProcessSettings,
    WebSocketProtocolTopics,
)
from tests.chaos.messages import Log, footprint, watch_exceptions
from tests.support.children import HOST, answer, commands, end_with_parent
from tests.support.waiting import poll_until

from .server import TOPICS
from .stacks import stacks_on_signal

#: milliseconds for an attempt to connect, and for the handshake
_TIMEOUT = 1_500
#: topics that a client subscribes to
_SUBSCRIPTIONS = 4
#: bytes of padding of large publications
_LARGE = 2_500
#: publications that a client with a small list may have without an answer
_FEW = 12
#: seconds that a callback blocks now and then
_BLOCK = 1.5
#: how probable it is, each time that a client publishes, that it then subscribes again, that a
#: callback blocks, or that its program dies and another goes on
_AGAIN, _BLOCKS, _DIES = 0.03, 0.004, 0.01
#: seconds that a dying program waits for a publication to die in
_DEATH_BOUND = 2.0


class _Program:
    """One client program: it dies, and the next one goes on from its state."""

    def __init__(
        self, owner: TopicsClient, topics: dict[str, Position | None], state: Any = None
    ) -> None:
        self._owner = owner
        #: taken by the callbacks for all that they do: nothing happens to a dead program
        self.safe = threading.RLock()
        self.state: dict[str, Any] | None = None
        self.dying = False
        few = owner.index % 10 == 9
        self.protocol = WebSocketProtocolTopics(max_unacknowledged=_FEW if few else 1_000)
        #: from the program before, without callbacks
        self.restored: list[Publishing] = []
        if state is not None:
            self.protocol.restore(state)
            self.restored = self.protocol.unacknowledged
        settings = WebSocketProcessSettings(
            heartbeat_delay=400,
            disconnect_after_invalid_heartbeat_count=2,
            close_timeout=500,
            send_timeout=2_000,
            reconnect_stable_after=1_000,
            reconnect_policy=lambda: ExponentialBackoff(base_ms=100, cap_ms=owner.cap_ms),
        )
        port = owner.port()
        self.client = HttpClientWebSockets(
            HOST, port, timeout=_TIMEOUT, settings=settings, process_name=owner.name, connect=False
        )
        for topic, since in topics.items():
            self.subscribe(topic, since)
        self.client.auto_reconnect(lambda: f"ws://{HOST}:{owner.port()}/", protocol=self.protocol)

    def subscribe(self, topic: str, since: Position | None) -> None:
        self.protocol.subscribe(topic, self._hear, since, self._recovered)

    def _hear(self, publication: Publication) -> None:
        owner = self._owner
        with self.safe:
            if self.state is not None:
                return
            data = publication.data
            owner.log.write(
                f"P {owner.name} {publication.topic} {publication.offset} {data['by']} {data['n']}"
            )
            owner.heard[publication.topic] = publication.offset
            if self.dying:
                # what is saved here is what another program will know
                self.state = self.protocol.state()
        if owner.blocks.is_set():
            owner.blocks.clear()
            # that is what it is for: the server notices that nothing is read
            time.sleep(_BLOCK)

    def _recovered(self, recovery: Recovery) -> None:
        owner = self._owner
        with self.safe:
            if self.state is not None:
                return
            owner.counts["recovered" if recovery.recovered else "announced"] += 1
            owner.counts["missed"] += recovery.missed
            owner.heard[recovery.topic] = recovery.position.offset
            owner.log.write(
                f"R {owner.name} {recovery.topic} {int(recovery.recovered)} "
                f"{recovery.position.offset} {recovery.reason or '-'}"
            )

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        self.protocol.publish(topic, data, partial(self._done, data["n"]))

    def _done(self, number: int, publishing: Publishing) -> None:
        with self.safe:
            if self.state is None:
                self._owner.done(number, publishing)

    def look_at_restored(self, but: Collection[int] = ()) -> None:
        """Note what became of the publications of the program before, *but* some."""
        for publishing in self.restored[:]:
            number = json.loads(publishing.json)["n"]
            if publishing.done and number not in but:
                self.restored.remove(publishing)
                self._owner.done(number, publishing)

    def die(self) -> Any:
        """Stop in the middle of a callback; return what another program needs; None: there was no
        callback in time.
        """
        self.dying = True
        poll_until(lambda: self.state is not None, _DEATH_BOUND)
        with self.safe:
            self.dying = False
            if self.state is None:
                return None
        self.client.free()
        return self.state


class TopicsClient:
    """One client, and the thread in which it publishes."""

    def __init__(self, index: int, ports: list[int], cap_ms: int, seed: int, log: Log) -> None:
        self.index = index
        self.name = f"c{index}"
        self.cap_ms = cap_ms
        self.log = log
        self._ports = ports
        self._random = random.Random(seed)
        self._port_choice = random.Random(seed + 1)
        self.topics = [
            TOPICS[(index * 3 + step * 7) % len(TOPICS)] for step in range(_SUBSCRIPTIONS)
        ]
        self.counts: Counter[str] = Counter()
        #: the offset that was heard last, by topic
        self.heard: dict[str, int] = {}
        self.number = 0
        #: set: the next callback takes long
        self.blocks = threading.Event()
        #: set: it publishes; cleared: it does not
        self.speaking = threading.Event()
        self._stopping = threading.Event()
        #: numbers without an answer, with when they were published
        self._open: dict[int, float] = {}
        self.program = _Program(self, dict.fromkeys(self.topics))
        self._thread = threading.Thread(target=self._run, name=f"publisher {index}", daemon=True)
        self._thread.start()

    def port(self) -> int:
        """Return the server for the next attempt."""
        return self._port_choice.choice(self._ports)

    # --------------------------------------------------------------------- in the publishing thread

    def _run(self) -> None:
        choose = self._random
        while not self._stopping.wait(choose.uniform(0.2, 1.0)):
            self.program.look_at_restored()
            if not self.speaking.is_set():
                continue
            for _ in range(choose.choice((1, 1, 1, 2, 30 if choose.random() < 0.1 else 1))):
                self._publish()
            if choose.random() < _AGAIN:
                self._subscribe_again()
            if choose.random() < _BLOCKS:
                self.blocks.set()
            if choose.random() < _DIES:
                self._die()

    def _publish(self) -> None:
        number, self.number = self.number, self.number + 1
        topic = self._random.choice(TOPICS)
        data: dict[str, Any] = {"by": self.name, "n": number}
        if self.index % 4 == 0:
            data["x"] = "x" * self._random.randrange(_LARGE)
        self.log.write(f"T {self.name} {number} {topic}")
        self._open[number] = time.monotonic()
        self.counts["published"] += 1
        self.program.publish(topic, data)

    def done(self, number: int, publishing: Publishing) -> None:
        """Note what became of a publication."""
        self._open.pop(number, None)
        self.counts[publishing.state] += 1
        self.counts["repeated"] += publishing.repeated
        self.log.write(
            f"D {self.name} {number} {publishing.topic} {publishing.state} {publishing.offset} "
            f"{int(publishing.repeated)} {publishing.code or publishing.reason or '-'}"
        )

    def _subscribe_again(self) -> None:
        protocol = self.program.protocol
        topic = self._random.choice(self.topics)
        subscription = next(each for each in protocol.subscriptions if each.topic == topic)
        if subscription.position is None:
            return
        protocol.unsubscribe(topic)
        self.counts["subscribed again"] += 1
        self.program.subscribe(topic, subscription.position)

    def _die(self) -> None:
        state = self.program.die()
        if state is None:
            return
        before = self.program
        self.counts["programs"] += 1
        self.program = _Program(self, dict.fromkeys(self.topics), state)
        # what the state does not have was done before it was taken
        left = {json.loads(each.json)["n"] for each in self.program.restored}
        before.look_at_restored(left)

    # --------------------------------------------------------------------------- in the main thread

    def is_back(self, since: float) -> bool:
        """Tell whether it is connected and subscribed, and all from before *since* is answered."""
        program = self.program
        return (
            program.client.status().connected
            and all(each.state == "subscribed" for each in program.protocol.subscriptions)
            and not any(at < since for at in list(self._open.values()))
        )

    def report(self) -> dict[str, Any]:
        """Return the state of this client."""
        program = self.program
        return {
            "heard": dict(self.heard),
            "topics": self.topics,
            "open": len(self._open),
            "member": program.protocol.member,
            "counts": dict(self.counts),
            "state": self.state(),
        }

    def state(self) -> str:
        """Return its state in words."""
        program = self.program
        return (
            f"{program.client!r} {program.client.status().last_error!r} "
            f"{program.protocol.subscriptions} open {sorted(self._open)[:5]} "
            f"{program.protocol.unacknowledged[:3]}"
        )

    def free(self) -> float:
        """End it; return the seconds that ``free()`` took."""
        self._stopping.set()
        self._thread.join()
        begin = time.monotonic()
        self.program.client.free()
        return time.monotonic() - begin


def _back(clients: list[TopicsClient], since: float, bound: float) -> dict[str, Any]:
    """Wait until everybody is back."""
    poll_until(lambda: all(client.is_back(since) for client in clients), bound)
    return {
        "took": time.monotonic() - since,
        "missing": {client.name: client.state() for client in clients if not client.is_back(since)},
    }


def main(port_0: int, port_1: int, count: int, cap_ms: int, seed: int, path: str) -> None:
    """Start the clients; then obey until the command ``free``, or the end of the standard input."""
    end_with_parent()
    stacks_on_signal(path)
    log = Log(path, durable=False)
    watch_exceptions(lambda text: log.write(f"X {text}"), path)
    footprint()  # whatever this loads is there before the comparison begins
    before = footprint()
    clients = [
        TopicsClient(index, [port_0, port_1], cap_ms, seed * 1000 + index, log)
        for index in range(count)
    ]
    found = _back(clients, time.monotonic(), 20.0)
    answer(ready=count, missing=found["missing"])
    for command in commands():
        if command["do"] == "back":
            answer(**_back(clients, command["since"], command["within"]))
        elif command["do"] == "speak":
            for client in clients:
                (client.speaking.set if command["on"] else client.speaking.clear)()
            answer(done=True)
        elif command["do"] == "report":
            answer(clients={client.name: client.report() for client in clients})
        elif command["do"] == "footprint":
            answer(**footprint())
        elif command["do"] == "free":
            took = max(client.free() for client in clients)
            if not poll_until(lambda: threading.active_count() <= before["threads"], 1.0):
                log.write(f"X threads are left: {[t.name for t in threading.enumerate()]}")
            log.flush()
            clients.clear()
            answer(took=took, before=before, after=footprint())
            return


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:6]]
    main(*numbers, sys.argv[6])  # type: ignore[misc,arg-type]
