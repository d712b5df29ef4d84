"""The invariants, from the logs of both sides; see the package's docstring. Pure: lines in,
findings out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter

#: close codes that tell of a broken stream or a failed callback
_BAD_CODES = frozenset((1002, 1003, 1007, 1008, 1009, 1011))
#: findings that are kept; more are only counted
_KEPT = 100

#: (incarnation, connection id): the order of these is the order in which the servers accepted them
ConnectionName = tuple[int, int]


@dataclass
class Run:
    """What has arrived of one stream on one connection: *first* to *last*."""

    first: int
    last: int


@dataclass
class _Client:
    """Where the reading of the clients' log is with one client."""

    #: the connection of the moment, None until its first message; and the newest of all
    connection: ConnectionName | None = None
    newest: ConnectionName = (0, 0)
    #: when the last connection has ended; 0: none has
    ended: float = 0.0
    #: the next number, by stream
    numbers: Counter[str] = field(default_factory=Counter)


@dataclass
class Findings:
    """What the check has found."""

    violations: list[str] = field(default_factory=list)
    violations_count: int = 0
    #: messages by stream: for which ``send…`` returned True, and which have arrived
    promised: Counter[str] = field(default_factory=Counter)
    arrived: Counter[str] = field(default_factory=Counter)
    #: of a and s: promised, and neither arrived nor sent again: lost with a connection
    lost: Counter[str] = field(default_factory=Counter)
    #: connections that the clients have opened
    connections: int = 0
    #: how the clients' connections have ended
    close_codes: Counter[int] = field(default_factory=Counter)
    #: seconds between the end of a connection and the next one: the longest
    longest_outage: float = 0.0

    def violated(self, text: str) -> None:
        """Note a violation."""
        self.violations_count += 1
        if len(self.violations) < _KEPT:
            self.violations.append(text)


class Checker:
    """Reads the logs of the servers in the order of their incarnations, then that of the
    clients.
    """

    def __init__(self) -> None:
        self.findings = Findings()
        # by client and stream
        self._runs: defaultdict[tuple[int, str], dict[ConnectionName, Run]] = defaultdict(dict)
        self._owner: dict[ConnectionName, int] = {}  # the client on a connection
        # messages of p and r promised
        self._pushed: Counter[tuple[ConnectionName, str]] = Counter()

    # ---------------------------------------------------------------------------- the servers' logs

    def read_server(self, incarnation: int, lines: Iterable[str]) -> None:
        """Read one server's log."""
        for line in lines:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind in ("A", "S"):
                connection, client, number = map(int, rest.split())
                self._arrived_at_server(kind.lower(), (incarnation, connection), client, number)
            elif kind in ("P", "R"):
                connection, number = map(int, rest.split())
                self._promised_by_server(kind.lower(), (incarnation, connection), number)
            elif kind == "E":
                connection, code = map(int, rest.split())
                if code in _BAD_CODES:
                    self.findings.violated(
                        f"server #{incarnation}: connection {connection} has ended with {code}"
                    )
            elif kind == "X":
                self.findings.violated(f"server #{incarnation}: {rest}")

    def _arrived_at_server(
        self, stream: str, connection: ConnectionName, client: int, number: int
    ) -> None:
        self.findings.arrived[stream] += 1
        if self._owner.setdefault(connection, client) != client:
            self.findings.violated(
                f"messages of clients {client} and {self._owner[connection]} on {connection}"
            )
        # by connections: a slow network may still bring messages from an old one while the new one
        # is running
        runs = self._runs[client, stream]
        run = runs.get(connection)
        if run is None:
            runs[connection] = Run(number, number)
            return
        if number != run.last + 1:
            self.findings.violated(
                f"stream {stream} of client {client} on connection {connection}: {number} "
                f"instead of {run.last + 1}"
            )
        run.last = number

    def _promised_by_server(self, stream: str, connection: ConnectionName, number: int) -> None:
        self.findings.promised[stream] += 1
        if number != self._pushed[connection, stream]:
            self.findings.violated(
                f"the server's own log of stream {stream} on {connection} is out of order: {number}"
            )
        self._pushed[connection, stream] = number + 1

    # ----------------------------------------------------------------------------- the clients' log

    def read_clients(self, lines: Iterable[str]) -> None:
        """Read the clients' log, and compare the runs of what has arrived from them."""
        clients: defaultdict[int, _Client] = defaultdict(_Client)
        for line in lines:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind in ("P", "R"):
                index, _, incarnation, connection, number = map(int, rest.split())
                self._arrived_at_client(
                    kind.lower(), index, clients[index], (incarnation, connection), number
                )
            elif kind in ("A", "S"):
                index, number = map(int, rest.split())
                self._promised_by_client(kind.lower(), index, clients[index], number)
            elif kind == "O":
                index_text, _, at = rest.split()
                self._opened(clients[int(index_text)], float(at))
            elif kind == "E":
                index_text, _, at, code = rest.split()
                self._ended(int(index_text), clients[int(index_text)], float(at), int(code))
            elif kind == "X":
                self.findings.violated(f"clients: {rest}")
        for (index, stream), runs in self._runs.items():
            self._look_at_runs(
                stream,
                index,
                sorted(runs.items(), key=itemgetter(0)),
                clients[index].numbers[stream],
            )

    def _opened(self, client: _Client, at: float) -> None:
        self.findings.connections += 1
        if client.ended:
            self.findings.longest_outage = max(self.findings.longest_outage, at - client.ended)
        client.connection = None
        client.numbers["p"] = client.numbers["r"] = 0

    def _ended(self, index: int, client: _Client, at: float, code: int) -> None:
        client.ended = at
        self.findings.close_codes[code] += 1
        if code in _BAD_CODES:
            self.findings.violated(f"a connection of client {index} has ended with {code}")

    def _promised_by_client(self, stream: str, index: int, client: _Client, number: int) -> None:
        if number != client.numbers[stream]:
            self.findings.violated(
                f"the log of stream {stream} of client {index} is out of order: {number}"
            )
        client.numbers[stream] = number + 1
        self.findings.promised[stream] += 1

    def _arrived_at_client(
        self, stream: str, index: int, client: _Client, connection: ConnectionName, number: int
    ) -> None:
        findings = self.findings
        findings.arrived[stream] += 1
        if client.connection is None:
            if connection <= client.newest:
                findings.violated(f"client {index}: connection {connection} after {client.newest}")
            if self._owner.setdefault(connection, index) != index:
                findings.violated(
                    f"clients {index} and {self._owner[connection]} were both served as "
                    f"{connection}"
                )
            client.connection = client.newest = connection
        elif client.connection != connection:
            findings.violated(f"client {index} on {client.connection}: a message for {connection}")
        if number != client.numbers[stream]:
            findings.violated(
                f"stream {stream} to client {index} on {connection}: {number} instead of "
                f"{client.numbers[stream]}"
            )
        client.numbers[stream] = number + 1
        # the last one may have left just before its server was killed, which then could not note it
        if number > self._pushed[connection, stream]:
            findings.violated(
                f"stream {stream} on {connection}: {number} has arrived, but was never promised"
            )

    # --------------------------------------------------------------------------- across connections

    def _look_at_runs(
        self, stream: str, index: int, runs: list[tuple[ConnectionName, Run]], promised: int
    ) -> None:
        findings = self.findings
        expected = 0
        for connection, run in runs:
            if run.first < expected:
                findings.violated(
                    f"stream {stream} of client {index}: {run.first} on {connection}, when "
                    f"all below {expected} were over"
                )
            findings.lost[stream] += max(0, run.first - expected)
            expected = max(expected, run.last + 1)
        if expected > promised:
            findings.violated(
                f"stream {stream} of client {index}: {expected - 1} has arrived, of "
                f"{promised} promised ones"
            )
        findings.lost[stream] += max(0, promised - expected)
