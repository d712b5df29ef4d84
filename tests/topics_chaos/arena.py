"""The controlling process: the servers, Redis, the clients, the proxies, and the faults."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mormot_ws.process.freeing import ClosedByWith
from mormot_ws.testing import FaultProxy
from tests.chaos.arena import begin_network_fault
from tests.chaos.faults import Action, Fault, play
from tests.chaos.outcome import Measured, faults_of_stop
from tests.support.children import HOST, Child, ChildError, fixed_port
from tests.support.waiting import poll_until

from .server import HUB_CAP, HUB_TIMEOUT, PRESENCE_AGE, TOPICS
from .stacks import SIGNAL
from .storage import Storage

#: seconds for what should happen soon
_BOUND = 20.0
#: seconds, beside the cap of the clients' backoff, within which everybody has to be back after the
#: last fault: an attempt that began in a fault (1.5 s), the hub's own (a call that began in one and
#: its backoff), what a client waits before it asks again (1 s), and what waits because of the limit
#: of publications per second, or because all ask at once for all that there is, in small pieces
_FACTOR = float(os.environ.get("MORMOT_WS_TEST_TIMEOUT_FACTOR", "1"))
_MARGIN = (1.5 + (HUB_TIMEOUT + HUB_CAP) / 1000 + 1.0 + 12.0) * _FACTOR
#: seconds that a server's ``free()`` may take, with that of its hub
_FREE_BOUND = 7.0
#: bytes of the kernel's buffers of the clients' proxies
_BUFFER = 16_384


class _Server:
    """One of the two servers: its port, its proxies, and its incarnations."""

    def __init__(self, number: int, redis_port: int, closing: contextlib.ExitStack) -> None:
        self.number = number
        self.port = fixed_port()
        self.incarnation = 0
        #: between its hub and Redis
        self.hub_proxy = closing.enter_context(FaultProxy(HOST, redis_port, port=fixed_port()))
        #: between the clients and it
        self.proxy = closing.enter_context(
            FaultProxy(HOST, self.port, port=fixed_port(), buffer_bytes=_BUFFER)
        )
        self.standby: Child | None = None
        self.child: Child | None = None

    @property
    def name(self) -> str:
        """The name of the incarnation that runs, or was the last."""
        return f"s{self.number}-{self.incarnation}"


class Arena(ClosedByWith):
    """Holds all of it; a context manager that ends all of it.

    :param cap: seconds, of the clients' backoff.
    :param tell: is called with a line for each fault.
    """

    def __init__(self, clients: int, cap: float, seed: int, tell: Callable[[str], None]) -> None:
        self._clients_count = clients
        self._cap = cap
        self._seed = seed
        self._tell = tell
        #: what was violated, in words
        self.violations: list[str] = []
        #: how many faults there were, by kind
        self.faults: Counter[str] = Counter()
        #: seconds in which everybody was back, by round
        self.returns: list[float] = []
        #: seconds that graceful stops of servers took
        self.stops: list[float] = []
        #: all incarnations of servers that have run
        self.incarnations: list[str] = []
        #: counts of the servers that were stopped, and of the last ones
        self.topics_counts: Counter[str] = Counter()
        self.folder = Path(tempfile.mkdtemp(prefix="mormot_ws-topics-chaos-"))
        self._closing = contextlib.ExitStack()
        self.storage = Storage(self.folder, TOPICS)
        self._closing.callback(self.storage.close)
        self._errors = self._closing.enter_context((self.folder / "stderr").open("wb"))
        port = self.storage.redis.port
        self._servers = [_Server(number, port, self._closing) for number in range(2)]
        self._stopping: list[tuple[str, Child]] = []
        self._clients: Child  # there from start() on

    @property
    def clients_log(self) -> Path:
        """Where the clients write."""
        return self.folder / "clients"

    def start(self) -> None:
        """Start the servers, then the clients; let them speak when all are subscribed."""
        for server in self._servers:
            self._start_server(server, resume=False)
        numbers = (*(server.proxy.port for server in self._servers), self._clients_count)
        numbers += (round(self._cap * 1000), self._seed)
        child = Child(
            "tests.topics_chaos.clients",
            *map(str, numbers),
            str(self.clients_log),
            errors=self._errors,
        )
        self._clients = self._closing.enter_context(child)
        missing = child.hear()["missing"]
        self.violations += [f"at the beginning: {text}" for text in missing.values()]
        for server in self._servers:
            self._child(server).ask(do="resume")
        self._clients.ask(do="speak", on=True)

    # ------------------------------------------------------------------------------------ processes

    def server_log(self, name: str) -> Path:
        """Return where that incarnation writes."""
        return self.folder / f"server-{name}"

    def _prepare(self, server: _Server) -> None:
        """Start the process of the next incarnation; it listens later."""
        name = f"s{server.number}-{server.incarnation + 1}"
        server.standby = self._closing.enter_context(
            Child(
                "tests.topics_chaos.server",
                *(str(server.port), name, str(server.hub_proxy.port), str(self.server_log(name))),
                errors=self._errors,
            )
        )

    def _start_server(self, server: _Server, resume: bool = True) -> None:
        if server.standby is None:
            self._prepare(server)
        child, server.standby = server.standby, None
        assert child is not None
        child.hear()
        child.ask(_BOUND, do="listen")
        if resume:
            child.ask(_BOUND, do="resume")
        server.child = child
        server.incarnation += 1
        self.incarnations.append(server.name)
        self._prepare(server)

    @staticmethod
    def _child(server: _Server) -> Child:
        assert server.child is not None, "the server is down"
        return server.child

    # --------------------------------------------------------------------------------------- faults

    def run_round(self, faults: list[Fault]) -> None:
        """Let the *faults* happen; then wait for everybody's return."""
        self.storage.copy()
        play(faults, self._begin_fault, self.faults, self._tell)
        for server in self._servers:
            server.proxy.heal()
            server.hub_proxy.heal()
        self._await_return()

    def _begin_fault(self, fault: Fault) -> Action | None:
        target, _, number = fault.target.partition(" ")
        if target == "redis":
            return self._begin_redis_fault(fault)
        server = self._servers[int(number)]
        if target == "server":
            return self._begin_server_fault(server, fault)
        return begin_network_fault(server.hub_proxy if target == "hub" else server.proxy, fault)

    def _begin_server_fault(self, server: _Server, fault: Fault) -> Action | None:
        child = self._child(server)
        if not child.alive:
            self.violations.append(f"{server.name} has ended by itself, with {child.wait()}")
        if fault.kind.startswith("freeze"):
            child.signal(signal.SIGSTOP)
            return lambda: child.signal(signal.SIGCONT)
        server.child = None
        if fault.kind.startswith("kill"):
            child.kill()
        else:
            child.tell(do="stop")
            self._stopping.append((server.name, child))
        return lambda: self._start_server(server)

    def _begin_redis_fault(self, fault: Fault) -> Action | None:
        storage, redis = self.storage, self.storage.redis
        kind = fault.kind.split()[1]
        if kind == "freeze":
            redis.freeze()
            return redis.thaw
        if kind == "cut":
            redis.cut()
            return None
        (redis.end if kind == "stop" else redis.die)()
        if kind in ("wipe", "earlier"):
            storage.end_era(earlier=kind == "earlier")
        else:
            storage.copy()
        return redis.start

    def _await_return(self) -> None:
        """Everybody has to be back within the cap and the margin."""
        over = time.monotonic()
        self._tell(f"{over:.2f} no fault any more")
        bound = self._cap + _MARGIN
        found = self._clients.ask(bound + _BOUND, do="back", since=over, within=bound)
        self.returns.append(found["took"])
        for client, state in found["missing"].items():
            text = f"{client} is not back {bound:g} s after the last fault: {state}"
            self.violations.append(Measured(text))
        if found["missing"]:
            for child in (self._clients, *map(self._child, self._servers)):
                child.signal(SIGNAL)
        self._reap_stopped()

    def _reap_stopped(self) -> None:
        """Look at what servers that were told to stop have left."""
        for name, child in self._stopping:
            try:
                found = child.hear(_BOUND)
                code = child.wait(_BOUND)
                child.kill()  # lets go of its pipes
            except ChildError as exc:
                self.violations.append(f"{name}, told to stop: {exc}")
                continue
            self.stops.append(found["took"])
            self._count(found["report"])
            self.violations += faults_of_stop(name, found, code, _FREE_BOUND)
        self._stopping.clear()

    def _count(self, report: dict[str, Any]) -> None:
        self.topics_counts.update(
            {name: report["topics"][name] for name in ("slow", "taken_over", "unavailable")}
        )
        self.topics_counts["hub reconnects"] += report["hub"]["reconnects"]

    # ------------------------------------------------------------------------------------------ end

    def drain(self) -> dict[str, Any]:
        """Let nobody speak any more, and wait until everybody has everything; return the clients'
        reports.
        """
        for server in self._servers:
            self._child(server).ask(do="pause")
        self._clients.ask(do="speak", on=False)
        if not poll_until(lambda: not self._missing(), _BOUND, every=0.1):
            self.violations += self._missing()
        bound = PRESENCE_AGE / 1000 + _BOUND
        if not poll_until(lambda: not self._wrong_members(), bound, every=0.2):
            self.violations += self._wrong_members()
        clients: dict[str, Any] = self._clients.ask(do="report")["clients"]
        return clients

    def _missing(self) -> list[str]:
        """Return what has not arrived, in words."""
        newest = self.storage.newest()
        found = []
        for name, client in self._clients.ask(do="report")["clients"].items():
            if client["open"]:
                found.append(f"{name} waits for {client['open']} answers: {client['state']}")
            for topic in client["topics"]:
                if client["heard"].get(topic, 0) != newest[topic]:
                    found.append(
                        f"{name} has heard {topic} up to {client['heard'].get(topic)}, of "
                        f"{newest[topic]}: {client['state']}"
                    )
        for server in self._servers:
            heard = self._child(server).ask(do="report")["heard"]
            for topic in TOPICS:
                if heard.get(topic, 0) != newest[topic]:
                    found.append(
                        f"{server.name} has heard {topic} up to {heard.get(topic)}, of "
                        f"{newest[topic]}"
                    )
        return found

    def _wrong_members(self) -> list[str]:
        """Return where the members are not those that are subscribed, in words."""
        wanted: dict[str, list[str]] = {topic: [] for topic in TOPICS}
        for client in self._clients.ask(do="report")["clients"].values():
            for topic in client["topics"]:
                wanted[topic].append(client["member"])
        found = []
        for server in self._servers:
            members = self._child(server).ask(do="members")["members"] or {}
            for topic in TOPICS:
                here, should = set(members.get(topic, ())), set(wanted[topic])
                if here != should:
                    found.append(
                        f"{server.name}: on {topic} the members {sorted(should - here)} are "
                        f"missing, {sorted(here - should)} are too many"
                    )
        return found

    def footprint(self) -> dict[str, int]:
        """Return what the clients' process takes."""
        return self._clients.ask(do="footprint")

    def finish(self) -> dict[str, Any]:
        """Free the clients, then the servers; return what the clients' process says of itself."""
        found = self._clients.ask(do="free")
        self._clients.wait()
        for server in self._servers:
            child = self._child(server)
            child.tell(do="stop")
            self._stopping.append((server.name, child))
        self._reap_stopped()
        # nobody publishes any more, whatever has become of the waits before
        self.storage.end_last_era()
        return found

    def close(self) -> None:
        """End all processes."""
        self._closing.close()

    def stderr(self) -> str:
        """Return what the processes have written there."""
        return (self.folder / "stderr").read_text(errors="replace")
