"""The controlling process of the chaos test: the processes, the proxy, and what happens to them."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mormot_ws.process.freeing import ClosedByWith
from mormot_ws.testing import FaultProxy
from tests.support.children import HOST, Child, ChildError, fixed_port
from tests.support.waiting import poll_until

from .faults import Action, Fault, play
from .messages import LARGE_PADDING
from .outcome import Measured, faults_of_stop

#: seconds for what should happen soon
_BOUND = 15.0
#: seconds that a server's ``free()`` may take: twice its close_timeout of 500 ms for its clients,
#: 2.5 s for callbacks, and some room
_FREE_BOUND = 5.0
#: bytes of the kernel's buffers of the proxy: small, so that senders soon feel a network that is
#: slow or stands still
_BUFFER = 16_384
#: bytes of the largest message
_FRAME_BYTES = LARGE_PADDING + 100
#: lets the memory of a process tell what it holds, not what the C library keeps for each thread
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


class Arena(ClosedByWith):
    """Holds the server, the clients and the proxy between them; a context manager that ends all of
    it.

    :param cap: seconds, of the clients' backoff; *margin*: seconds more within which everybody has
        to be back.
    :param tls: encrypt the connections.
    :param tell: is called with a line for each fault.
    """

    def __init__(
        self,
        clients: int,
        cap: float,
        margin: float,
        seed: int,
        tls: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._clients_count = clients
        self._cap = cap
        self._margin = margin
        self._seed = seed
        self._tell = tell
        #: what was violated, in words
        self.violations: list[str] = []
        #: how many faults there were, by kind
        self.faults: Counter[str] = Counter()
        #: seconds in which everybody was back, by round
        self.returns: list[float] = []
        #: seconds that graceful stops of the server took
        self.stops: list[float] = []
        self.folder = Path(tempfile.mkdtemp(prefix="mormot_ws-chaos-"))
        #: PEM files: the authority, and of the server the certificate and the key; empty without
        #: TLS
        self._ca, self._certificate = _certificates(self.folder) if tls else ((), ())
        self.incarnation = 0
        self._port = fixed_port()
        self._closing = contextlib.ExitStack()
        self._errors = self._closing.enter_context((self.folder / "stderr").open("wb"))
        self._proxy = self._closing.enter_context(
            FaultProxy(HOST, self._port, port=fixed_port(), buffer_bytes=_BUFFER)
        )
        self._stopping: list[tuple[int, Child]] = []  # servers that were told to stop
        self._standby: Child | None = None
        self._server: Child | None = None  # None: there is none now
        self._clients: Child  # there from start() on

    def start(self) -> None:
        """Start the server, then the clients."""
        self._start_server()
        self._clients = self._start_clients()

    def server_log(self, incarnation: int) -> Path:
        """Return where that server writes."""
        return self.folder / f"server-{incarnation}"

    @property
    def clients_log(self) -> Path:
        """Where the clients write."""
        return self.folder / "clients"

    # ------------------------------------------------------------------------------------ processes

    def _prepare_server(self) -> None:
        """Start the process of the next incarnation; it listens later."""
        number = self.incarnation + 1
        arguments = (str(self._port), str(number), str(self.server_log(number)), *self._certificate)
        self._standby = self._closing.enter_context(
            Child("tests.chaos.server", *arguments, errors=self._errors)
        )

    def _start_server(self) -> None:
        if self._standby is None:
            self._prepare_server()
        server, self._standby = self._standby, None
        assert server is not None
        server.hear()
        server.ask(_BOUND, do="listen")
        self._server = server
        self.incarnation += 1
        self._prepare_server()

    def _start_clients(self) -> Child:
        numbers = (
            self._proxy.port,
            self._port,
            self._clients_count,
            round(self._cap * 1000),
            self._seed,
        )
        arguments = [*map(str, numbers), str(self.clients_log), *self._ca]
        child = Child("tests.chaos.clients", *arguments, errors=self._errors, variables=_ALLOCATOR)
        self._closing.enter_context(child)
        child.hear()
        return child

    def footprint(self) -> dict[str, int]:
        """Return what the client process takes."""
        return self._clients.ask(do="footprint")

    def footprint_at_rest(self) -> dict[str, int]:
        """Return the same while all clients are connected and none sends: what the end is compared
        with.
        """
        self._clients.ask(do="pause")
        self._await_clients(
            lambda client: client["connected"], "not all clients are connected at the beginning"
        )
        found = self.footprint()
        self._clients.ask(do="resume")
        return found

    # --------------------------------------------------------------------------------------- faults

    def warm_up(self) -> None:
        """Let all queues fill and all connections be lost once, so that memory has its working set
        before it is measured.
        """
        self._await_clients(
            lambda client: all(client["arrived"]), "not all clients have got messages"
        )
        self._proxy.blackhole()
        self._await_clients(
            lambda client: client["port"] == self._port or _waits(client),
            "not all clients behind the proxy have noticed the silence",
        )
        self._proxy.cut()
        self._server_signal(signal.SIGSTOP)
        self._await_clients(_waits, "not all clients have noticed that the server is stopped")
        self._server_signal(signal.SIGCONT)
        self._proxy.heal()
        self._await_return()
        self.returns.clear()

    def _await_clients(self, condition: Callable[[dict[str, Any]], bool], otherwise: str) -> None:
        """Wait until *condition* is true of every client's report; note a violation if it stays
        false.
        """

        def come_true() -> bool:
            return all(map(condition, self._clients.ask(do="report")["clients"].values()))

        if not poll_until(come_true, _BOUND):
            self.violations.append(otherwise)

    def _server_signal(self, number: int) -> None:
        assert self._server is not None
        self._server.signal(number)

    def run_round(self, faults: list[Fault]) -> None:
        """Let the *faults* happen; then wait for everybody's return."""
        play(faults, self._begin_fault, self.faults, self._tell)
        self._proxy.heal()
        self._await_return()

    def _begin_fault(self, fault: Fault) -> Action | None:
        if fault.target == "server":
            return self._begin_server_fault(fault)
        return begin_network_fault(self._proxy, fault)

    def _begin_server_fault(self, fault: Fault) -> Action | None:
        server = self._server
        assert server is not None, "the server is down already"
        if not server.alive:
            self.violations.append(
                f"the server #{self.incarnation} has ended by itself, with {server.wait()}"
            )
        if fault.kind.startswith("freeze"):
            self._server_signal(signal.SIGSTOP)
            return lambda: self._server_signal(signal.SIGCONT)
        self._server = None
        if fault.kind.startswith("kill"):
            server.kill()
        else:
            server.tell(do="stop")
            self._stopping.append((self.incarnation, server))
        return self._start_server

    def _await_return(self) -> None:
        """Everybody has to be back within the cap and the margin."""
        over = time.monotonic()
        self._tell(f"{over:.2f} no fault any more")
        bound = self._cap + self._margin
        found = self._clients.ask(bound + _BOUND, do="back", since=over, until=over + bound)
        if found["back"]:
            self.returns.append(max(found["back"].values()))
        for client, state in found["missing"].items():
            text = f"client {client} is not back {bound:g} s after the last fault: {state}"
            self.violations.append(Measured(text))
        late = [f"{client}: {took:.2f}" for client, took in found["back"].items() if took > bound]
        if late:
            text = f"back later than {bound:g} s after the last fault: {', '.join(late)}"
            self.violations.append(Measured(text))
        self._reap_stopped()

    def _reap_stopped(self) -> None:
        """Look at what servers that were told to stop have left."""
        for incarnation, server in self._stopping:
            try:
                found = server.hear(_BOUND)
                code = server.wait(_BOUND)
                server.kill()  # lets go of its pipes
            except ChildError as exc:
                self.violations.append(f"server #{incarnation}, told to stop: {exc}")
                continue
            self.stops.append(found["took"])
            self.violations += faults_of_stop(f"server #{incarnation}", found, code, _FREE_BOUND)
        self._stopping.clear()

    # ------------------------------------------------------------------------------------------ end

    def drain(self) -> dict[str, Any]:
        """Let both sides send no more, and wait until all that was promised has arrived; return the
        clients' reports.

        Each client sends a last message of each stream. A connection that is lost on a busy machine
        just then (its heartbeats were not answered in time) takes them along; hence the repetition.
        """
        server = self._server
        assert server is not None
        server.ask(do="pause")
        for _ in range(3):
            self._clients.ask(do="pause")
            if poll_until(lambda: not self._missing(), _BOUND / 3):
                break
        else:
            self.violations += self._missing()
        clients: dict[str, Any] = self._clients.ask(do="report")["clients"]
        return clients

    def _missing(self) -> list[str]:
        """Return what was promised and has not arrived, in words."""
        assert self._server is not None
        served = self._server.ask(do="report")
        return [
            text
            for index, client in self._clients.ask(do="report")["clients"].items()
            for text in _undelivered(index, client, served)
        ]

    def finish(self) -> dict[str, Any]:
        """Free the clients, then the server; return what the clients' process has to say about
        itself.
        """
        found = self._clients.ask(do="free")
        self._clients.wait()
        server = self._server
        assert server is not None
        if not poll_until(lambda: not server.ask(do="report")["sockets"], _BOUND):
            left = server.ask(do="report")["sockets"]
            self.violations.append(
                f"the server still has {left} connections when all clients have gone"
            )
        server.tell(do="stop")
        self._stopping.append((self.incarnation, server))
        self._reap_stopped()
        return found

    def close(self) -> None:
        """End all processes."""
        self._closing.close()

    def stderr(self) -> str:
        """Return what the processes have written there."""
        return (self.folder / "stderr").read_text(errors="replace")


def begin_network_fault(proxy: FaultProxy, fault: Fault) -> Action | None:
    """Let *fault* happen to a proxy; return what ends it, if anything."""
    arguments = fault.arguments
    kind = fault.kind.partition(" ")[0]
    getattr(proxy, kind)(**arguments)
    if kind in ("cut", "close", "truncate"):
        return None
    if kind == "blackhole":
        return lambda: proxy.restore(**arguments)
    if kind == "refuse":
        return proxy.accept
    return (lambda: proxy.delay(0)) if kind == "delay" else (lambda: proxy.throttle(0))


def _certificates(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make an authority and a certificate of a server on this machine; return their files."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    ca, certificate, key = (str(folder / name) for name in ("ca.pem", "certificate.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return (ca,), (certificate, key)


def _waits(client: dict[str, Any]) -> bool:
    """Tell whether a client has lost its connection, and queues messages for the next one."""
    return not client["connected"] and client["queued"] > 0


def _undelivered(index: str, client: dict[str, Any], served: dict[str, Any]) -> list[str]:
    """Return what of one client's last connection has not arrived, in words."""
    found = []
    unsent = client["promised_bytes"] - client["sent_bytes"]
    if client["queued"] or not 0 <= unsent <= client["lost"] * _FRAME_BYTES:
        found.append(
            f"client {index}: {client['promised_bytes']} bytes were promised, "
            f"{client['sent_bytes']} sent, "
            f"{client['lost']} frames are lost in doubt, {client['queued']} wait"
        )
    arrived = served["arrived"].get(index, [-1, -1])
    for at, stream in enumerate("as"):
        if arrived[at] != client["promised"][at] - 1:
            found.append(
                f"client {index}: the last message of stream {stream} that arrived is "
                f"{arrived[at]}, "
                f"of {client['promised'][at]} promised"
            )
    promised = served["promised"].get(client["tag"])
    if promised != client["arrived"]:
        found.append(
            f"client {index} on connection {client['tag']}: {promised} messages of p and r "
            "were promised, "
            f"{client['arrived']} have arrived"
        )
    return found
