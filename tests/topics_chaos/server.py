"""One incarnation of a server: ``python -m tests.topics_chaos.server PORT NAME REDIS_PORT LOG``.

It prints ``{"standby": true}`` when it is ready to listen, and listens at the command ``listen``.
Its log has a line for each event, written before the next one::

    A by n topic          the application is asked for a client's publication, and allows it
    B topic offset        server code has subscribed; the next publication comes behind offset
    P topic offset by n   … and has heard a publication (R topic offset reason: Lost)
    T by n topic          server code begins to publish
    K by n topic offset   … and has published (F by n topic maybe: it has failed)
    X text                an exception that nobody has handled

The publisher *by* of server code is the NAME.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any

from mormot_ws import (
    ExponentialBackoff,
    HubError,
    Lost,
    Publication,
    RedisHub,
    TopicLimits,
    WebSocketProcess,
    WebSocketProtocolTopics,
)
from tests.chaos.messages import Log, footprint, watch_exceptions
from tests.chaos.server import listening
from tests.support.children import HOST, answer, commands, end_with_parent
from tests.support.waiting import poll_until

from .stacks import stacks_on_signal
from .storage import PREFIX

TOPICS = [f"t{number}" for number in range(10)]
#: the client's publications with such numbers are refused: every so many
REFUSED_EVERY = 40
#: bytes that may wait for a client that does not read: few, so that some are skipped
MAX_BEHIND = 50_000
#: publications per second of a client: few, so that some have to wait
RATE = 25
#: ms, of the hub
HUB_TIMEOUT = 1_000
HUB_CAP = 500
PRESENCE_AGE = 2_000
_HOUR = 3_600_000.0

#: seconds between two publications of server code
_SPEAK_EVERY = 0.15


def chaos_hub(redis_port: int) -> RedisHub:
    """Return a hub that forgets nothing by itself."""
    return RedisHub(
        f"redis://{HOST}:{redis_port}/0",
        history_count=1_000_000,
        history_age=2 * _HOUR,
        window_count=1_000_000,
        window_age=2 * _HOUR,
        timeout=HUB_TIMEOUT,
        prefix=PREFIX,
        presence_age=PRESENCE_AGE,
        policy=ExponentialBackoff(base_ms=50, cap_ms=HUB_CAP),
    )


class ChaosServer:
    """Serves the topics, and takes part in them."""

    def __init__(self, port: int, name: str, redis_port: int, log: Log) -> None:
        self.name = name
        self._log = log
        self.hub = chaos_hub(redis_port)
        self.protocol = WebSocketProtocolTopics(
            "topics",
            "",
            self.hub,
            limits=TopicLimits(max_publications_per_second=RATE, max_behind=MAX_BEHIND),
            presence=True,
            on_publish=self._asked,
            on_member=lambda process, topic: process.connection_id,
        )
        #: set: server code publishes nothing
        self.paused = threading.Event()
        self.paused.set()
        self._stopping = threading.Event()
        #: the offset that server code has heard last, by topic
        self.heard: dict[str, int] = {}
        self.server = listening(port)
        self.server.websocket_protocols.add(self.protocol)
        self._speaker = threading.Thread(target=self._speak_for_ever, name="speaker", daemon=True)
        self._speaker.start()

    def _asked(self, process: WebSocketProcess, topic: str, data: Any) -> bool | str:
        if data["n"] % REFUSED_EVERY == REFUSED_EVERY - 1:
            return "every fortieth is refused"
        self._log.write(f"A {data['by']} {data['n']} {topic}")
        return True

    # ---------------------------------------------------------------------------------- server code

    def _speak_for_ever(self) -> None:
        left = list(TOPICS)
        number = 0
        while not self._stopping.wait(_SPEAK_EVERY):
            left = [topic for topic in left if not self._subscribe(topic)]
            if not self.paused.is_set():
                self._speak(random.choice(TOPICS), number)
                number += 1

    def _subscribe(self, topic: str) -> bool:
        def hear(heard: Publication | Lost) -> None:
            if isinstance(heard, Lost):
                self.heard[topic] = heard.position.offset
                self._log.write(f"R {topic} {heard.position.offset} {heard.reason}")
                return
            self.heard[topic] = heard.offset
            data = heard.data
            self._log.write(f"P {topic} {heard.offset} {data['by']} {data['n']}")

        try:
            history = self.hub.subscribe(topic, hear)
        except HubError:
            return False
        # it may be called before this: the check sorts it out
        self._log.write(f"B {topic} {history.position.offset}")
        self.heard.setdefault(topic, history.position.offset)
        return True

    def _speak(self, topic: str, number: int) -> None:
        self._log.write(f"T {self.name} {number} {topic}")
        try:
            done = self.hub.publish(topic, {"by": self.name, "n": number})
        except HubError as exc:
            self._log.write(f"F {self.name} {number} {topic} {int(exc.maybe_published)}")
        else:
            self._log.write(f"K {self.name} {number} {topic} {done.offset}")

    # --------------------------------------------------------------------------- in the main thread

    def report(self) -> dict[str, Any]:
        """Return the state of this server."""
        return {
            "hub": self.hub.status().as_dict(),
            "topics": self.protocol.status().as_dict(),
            "heard": dict(self.heard),
        }

    def members(self) -> dict[str, list[str]] | None:
        """Return who is present on each topic; None: the hub is away."""
        try:
            return {topic: sorted(self.hub.members(topic)) for topic in TOPICS}
        except HubError:
            return None

    def free(self) -> float:
        """Stop gracefully; return the seconds that it took."""
        self._stopping.set()
        begin = time.monotonic()
        self.server.free()
        # this ends the call that the speaker is in
        self.hub.free()
        self._speaker.join()
        return time.monotonic() - begin


def main(port: int, name: str, redis_port: int, path: str) -> None:
    """Run until the command ``stop``, or the end of the standard input."""
    end_with_parent()
    stacks_on_signal(path)
    log = Log(path, durable=True)
    watch_exceptions(lambda text: log.write(f"X {text}"), path)
    with chaos_hub(redis_port):
        # what this loads is there before the comparison begins
        footprint()
    before = footprint()
    answer(standby=True)
    chaos: ChaosServer | None = None
    for command in commands():
        if command["do"] == "listen":
            chaos = ChaosServer(port, name, redis_port, log)
            answer(listening=time.monotonic())
            continue
        assert chaos is not None, command
        if command["do"] == "pause":
            chaos.paused.set()
            answer(paused=True)
        elif command["do"] == "resume":
            chaos.paused.clear()
            answer(resumed=True)
        elif command["do"] == "report":
            answer(**chaos.report())
        elif command["do"] == "members":
            answer(members=chaos.members())
        elif command["do"] == "stop":
            took = chaos.free()
            chaos.server.websocket_protocols.remove("topics")
            poll_until(lambda: threading.active_count() <= before["threads"], 1.0)
            found = chaos.report()
            answer(took=took, before=before, after=footprint(), report=found)
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
