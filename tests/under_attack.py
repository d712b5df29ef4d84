"""What attacks cost a server of ours with default settings, and what an honest client beside them
feels of it.

``python -m tests.under_attack [--only NAME,...] [--short] [--json]``. Linux only: it reads memory
from ``/proc``.

Three processes: an echo server (default settings, permessage-deflate on; a new one for each
attack), the attacker, and this one, which is the honest client: it sends 64 bytes and waits for the
echo, every 5 ms if it can, first while nothing else happens, then during the attack. Round trips
are weighed by the time that they took, so that a stall counts as much as it lasts. The table shows
for each attack the server's highest resident memory above idle (limit: 100 MB), the median round
trip in relation to idle (limit: 10 times), and what became of the attackers. The exit code is 1
when a limit is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import select
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.raw_client import client_frame, server_frame
from tests.support.children import Child, answer, commands, end_with_parent
from tests.support.kinds import add_option, server_class
from tests.support.waiting import poll_until

HOST = "127.0.0.1"
MEMORY_LIMIT = 100_000_000
ROUND_TRIP_LIMIT = 10.0
SOCKETS = 500
FRAGMENTS = 100_000
BOMB = 1 << 30
READERS = 20
#: bytes of each message that the peers who never read ask for, and of each broadcast; milliseconds
#: between two of these
_UNREAD = 65_536
_BROADCAST_MS = 10
_PING = bytes(range(32, 96))
_PING_SECONDS = 0.005
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_TEXT, _BINARY, _CONTINUATION = 1, 2, 0


# --------------------------------------------------------------------------------------- the server


def serve() -> None:
    """Serve; tell what became of connections, and broadcast, when told to."""
    from mormot_ws import (
        WebSocketFrame,
        WebSocketProcess,
        WebSocketProcessSettings,
        WebSocketProtocolChat,
        WebSocketServerSocket,
        focBinary,
        focText,
    )

    def echo(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode in (focText, focBinary):
            process.send_frame(frame)

    def echo_async(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode in (focText, focBinary):
            process.send_frame_async(frame)

    ends: Counter[str] = Counter()

    def ended(connection: WebSocketServerSocket) -> None:
        process = connection.websocket_process
        if process is not None:
            ends[f"{process.close_code} {process.last_error}".strip()] += 1

    with server_class()(
        f"{HOST}:0", settings=WebSocketProcessSettings(permessage_deflate=True)
    ) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))
        server.websocket_protocols.add(WebSocketProtocolChat("async", "", echo_async))
        server.on_websocket_disconnect = ended
        quiet = threading.Event()
        quiet.set()

        def broadcast() -> None:
            number = 0
            while not quiet.wait(_BROADCAST_MS / 1000):
                number += 1
                payload = number.to_bytes(8, "big") + bytes(_UNREAD - 8)  # a new object each time
                server.websocket_broadcast(WebSocketFrame(focBinary, payload))

        answer(port=server.port)
        for command in commands():
            if command["do"] == "broadcast" and command["on"]:
                quiet.clear()
                threading.Thread(target=broadcast, daemon=True).start()
            elif command["do"] == "broadcast":
                quiet.set()
            answer(connections=len(server._sockets), ends=ends)


# ------------------------------------------------------------------------------------ the attackers


def connect(
    port: int, protocol: str = "echo", deflate: bool = False, receive_buffer: int = 0
) -> socket.socket:
    """Return an upgraded socket."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(20)
    sock.connect((HOST, port))
    lines = [
        "GET / HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {_KEY}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {protocol}",
    ]
    if deflate:
        lines.append("Sec-WebSocket-Extensions: permessage-deflate")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)  # a broadcast may be right behind the head
        if not byte:
            raise ConnectionError(f"no upgrade: {head!r}")
        head += byte
    if not head.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"no upgrade: {head!r}")
    return sock


def end_of(sock: socket.socket) -> str:
    """Return how the server ends the connection: the code of its close frame, or what else there
    is.
    """
    data = b""
    try:
        while len(data) < 4:
            more = sock.recv(65536)
            if not more:
                return "cut"
            data += more
    except TimeoutError:
        return "no answer"
    except OSError as exc:
        return type(exc).__name__
    return str(int.from_bytes(data[2:4], "big")) if data[0] == 0x88 else f"frame {data[:4].hex()}"


def bombs(port: int) -> Callable[[], str]:
    """A gigabyte of zeros in a frame of a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(
        zlib.Z_FULL_FLUSH
    )  # can be repeated: it refers to nothing before
    payload = block * (BOMB >> 20)
    frame = b"\xc2\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload

    def attack() -> str:
        with connect(port, deflate=True) as sock:
            with contextlib.suppress(OSError):  # the server need not take all of it
                sock.sendall(frame)
            return end_of(sock)

    return attack


def fragments(port: int) -> Callable[[], str]:
    """A message of very many fragments of one byte."""
    first = bytearray(client_frame(_TEXT, b"x"))
    first[0] &= 0x7F
    middle = bytearray(client_frame(_CONTINUATION, b"x"))
    middle[0] &= 0x7F
    last = client_frame(_CONTINUATION, b"x")
    flood = bytes(first) + bytes(middle) * (FRAGMENTS - 2) + last
    expected = len(server_frame(_TEXT, bytes(FRAGMENTS)))

    def attack() -> str:
        with connect(port) as sock:
            sock.sendall(flood)
            missing = expected
            while missing > 0:
                data = sock.recv(65536)
                if not data:
                    return "cut"
                missing -= len(data)
            return "echoed whole"

    return attack


def huge_lengths(port: int) -> Callable[[], str]:
    """A header that announces 2^63 bytes, and some of them."""

    def attack() -> str:
        with connect(port) as sock:
            sock.sendall(b"\x82\xff" + (1 << 63).to_bytes(8, "big") + bytes(4) + bytes(1000))
            return end_of(sock)

    return attack


def slow_loris(port: int, seconds: float) -> Counter[str]:
    """Requests that come byte by byte, on very many sockets at a time."""
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection((HOST, port), 20)) for _ in range(SOCKETS)
        ]
        outcomes: Counter[str] = Counter()
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"x" * 10_000
        for byte in request:
            if not sockets or time.monotonic() - begin > seconds:
                break
            for sock in sockets:
                with contextlib.suppress(OSError):
                    sock.send(bytes([byte]))
            # the pace: four bytes a second
            ready = select.select(sockets, [], [], 0.25)[0]
            cut = {sock for sock in ready if _is_over(sock)}
            if cut:
                after = round(time.monotonic() - begin)
                outcomes[f"cut after {after} s"] += len(cut)
                sockets = [sock for sock in sockets if sock not in cut]
            elif ready:
                # the select() has not taken its time, and the pace belongs to the attack
                time.sleep(0.25)
        if sockets:
            outcomes["still waited for"] += len(sockets)
    return outcomes


def _is_over(sock: socket.socket) -> bool:
    try:
        return not sock.recv(65536)
    except OSError:
        return True


def never_reading(port: int, seconds: float, protocol: str = "echo") -> Counter[str]:
    """Peers that never read: half of them listen to broadcasts, half of them ask for echoes as
    fast as they can.
    """
    begin = time.monotonic()
    message = client_frame(_BINARY, bytes(_UNREAD))
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(connect(port, protocol, receive_buffer=4096))
            for _ in range(READERS)
        ]
        asking = peers[::2]
        sent = dict.fromkeys(asking, 0)
        for sock in asking:
            sock.setblocking(False)
        while time.monotonic() - begin < seconds:
            ready = select.select([], asking, [], 0.1)[1]
            for sock in ready:
                try:
                    sent[sock] += sock.send(message[sent[sock] % len(message) :])
                except BlockingIOError:
                    pass
                except OSError:
                    asking.remove(sock)
        return Counter({"megabytes asked for": sum(sent.values()) // 1_000_000})


_REPEATED = {"bomb": bombs, "fragments": fragments, "length": huge_lengths}


def attack() -> None:
    """Attack when told to, for the seconds that are told."""
    for command in commands():
        name, port, seconds = command["name"], command["port"], command["seconds"]
        once = _REPEATED[name](port) if name in _REPEATED else None
        answer(ready=True)
        sys.stdin.readline()
        if once is not None:
            outcomes: Counter[str] = Counter()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                outcomes[once()] += 1
        elif name == "loris":
            outcomes = slow_loris(port, seconds)
        else:
            outcomes = never_reading(port, seconds, "async" if name == "readers-async" else "echo")
        answer(outcomes=outcomes)


# -------------------------------------------------------------------------------- the honest client


class HonestClient:
    """Plays ping-pong with the server, and reads past whatever is broadcast meanwhile."""

    def __init__(self, port: int) -> None:
        from mormot_ws import WebProcessInFrame, focText

        self._sock = connect(port)
        self._decoder = WebProcessInFrame(masked=False)
        self._text = focText
        self._ping = client_frame(_TEXT, _PING)

    def round_trip(self) -> float:
        """Return the seconds of one round trip."""
        begin = time.perf_counter()
        self._sock.sendall(self._ping)
        while True:
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionError("the server has ended the honest connection")
            if any(frame.opcode is self._text for frame in self._decoder.feed(data)):
                return time.perf_counter() - begin

    def play(self, until: Callable[[], bool]) -> list[float]:
        """Return the round trips that there is time for, at least one."""
        found: list[float] = []
        due = time.perf_counter()
        while not found or not until():
            # the pace of the pings: there is nothing else to wait for
            time.sleep(max(0.0, due - time.perf_counter()))
            due = time.perf_counter() + _PING_SECONDS
            found.append(self.round_trip())
        return found

    def close(self) -> None:
        """Say goodbye."""
        with contextlib.suppress(OSError):
            self._sock.sendall(client_frame(8, (1000).to_bytes(2, "big")))
        self._sock.close()


def resident_bytes(pid: int, highest: bool = False) -> int:
    """Return the resident memory of a process: now, or at its highest since
    :func:`forget_highest`.
    """
    name = "VmHWM:" if highest else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} of process {pid}")


def forget_highest(pid: int) -> None:
    """Let the kernel count the highest memory anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


# --------------------------------------------------------------------------------------- the parent


@dataclasses.dataclass(frozen=True)
class Attack:
    """One row of the table."""

    name: str
    title: str
    #: seconds that it goes on, in the long and in the short form; the lasting ones wait for the
    #: server's time-outs
    seconds: float
    short: float
    broadcast: bool = False


ATTACKS = [
    Attack("bomb", "deflate bombs, 1 GB of zeros each", 4, 0.7),
    Attack("fragments", f"messages of {FRAGMENTS} fragments", 4, 0.7),
    Attack("length", "headers announcing 2^63 bytes", 4, 0.5),
    Attack("loris", f"slow-loris handshakes on {SOCKETS} sockets", 13, 1.2),
    Attack("readers", f"{READERS} peers that never read", 13, 1.2, broadcast=True),
    Attack(
        "readers-async", f"{READERS} of them, echoes by send_frame_async", 13, 1.2, broadcast=True
    ),
]


@dataclasses.dataclass
class Row:
    """What was measured."""

    name: str
    title: str
    memory: int
    idle: float
    median: float
    late: float  # the 99th percentile
    worst: float
    outcome: dict[str, int]
    ends: dict[str, int]

    @property
    def ratio(self) -> float:
        """The round trip in relation to idle."""
        return self.median / self.idle

    @property
    def good(self) -> bool:
        """True when both limits are kept."""
        return self.memory < MEMORY_LIMIT and self.ratio < ROUND_TRIP_LIMIT


class Listener:
    """Waits for a child's answer in a thread of its own, so that the honest client need not
    look.
    """

    def __init__(self, child: Child, bound: float) -> None:
        self.heard: dict[str, Any] = {}
        self._error: Exception | None = None
        self._done = threading.Event()

        def listen() -> None:
            try:
                self.heard = child.hear(bound)
            except Exception as exc:  # noqa: BLE001 - raised by outcome()
                self._error = exc
            self._done.set()

        threading.Thread(target=listen, daemon=True).start()

    @property
    def over(self) -> bool:
        """True when there is an answer, or an error."""
        return self._done.is_set()

    def outcome(self) -> dict[str, int]:
        """Return what became of the attack."""
        if self._error is not None:
            raise self._error
        outcomes: dict[str, int] = self.heard["outcomes"]
        return outcomes


def run(item: Attack, short: bool) -> Row:
    """Measure idle, then while *item* goes on."""
    with (
        Child("tests.under_attack", "server") as server,
        Child("tests.under_attack", "attacker") as attacker,
        contextlib.closing(HonestClient(port := server.hear()["port"])) as honest,
    ):
        seconds = item.short if short else item.seconds
        attacker.ask(name=item.name, port=port, seconds=seconds)
        _play_for(honest, 0.2)  # warm up
        idle_memory = resident_bytes(server.pid)
        forget_highest(server.pid)
        idle = _play_for(honest, 0.4 if short else 2.0)
        if item.broadcast:
            server.ask(do="broadcast", on=True)
        attacker.tell(go=True)
        listener = Listener(attacker, seconds + 60)
        trips = honest.play(lambda: listener.over)
        highest = resident_bytes(server.pid, highest=True)
        if item.broadcast:
            server.ask(do="broadcast", on=False)
        return Row(
            item.name,
            item.title,
            max(0, highest - idle_memory),
            weighed(idle, 0.5),
            weighed(trips, 0.5),
            weighed(trips, 0.99),
            max(trips),
            listener.outcome(),
            _wait_alone(server),
        )


def weighed(trips: list[float], share: float) -> float:
    """Return the round trip that the time was spent below for that *share* of it."""
    weights = [max(trip, _PING_SECONDS) for trip in trips]
    left = share * sum(weights)
    for trip, weight in sorted(zip(trips, weights, strict=True)):
        left -= weight
        if left <= 0:
            return trip
    return max(trips)


def _play_for(honest: HonestClient, seconds: float) -> list[float]:
    end = time.monotonic() + seconds
    return honest.play(lambda: time.monotonic() > end)


def _wait_alone(server: Child) -> dict[str, int]:
    """Wait until only the honest client is connected; return how the others have ended."""
    poll_until(lambda: server.ask(do="report")["connections"] == 1, 20, 0.05)
    ends: dict[str, int] = server.ask(do="report")["ends"]
    return ends


def table(rows: list[Row]) -> str:
    """Return what was measured, for people."""
    machine = (
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    lines = [
        f"Server with default settings and permessage-deflate; {machine}",
        (
            f"{'attack':<42}{'memory above idle':>18}{'idle':>9}{'attacked':>10}{'ratio':>7}"
            f"{'99 %':>11}{'worst':>11}  verdict"
        ),
    ]
    for row in rows:
        lines.append(
            f"{row.title:<42}{row.memory / 1e6:>15.1f} MB{row.idle * 1e6:>6.0f} µs"
            f"{row.median * 1e6:>7.0f} µs{row.ratio:>7.1f}"
            f"{row.late * 1e3:>8.1f} ms{row.worst * 1e3:>8.1f} ms  {'OK' if row.good else 'MISSED'}"
        )
        told = ", ".join(f"{count} x {what}" for what, count in row.outcome.items())
        ends = ", ".join(f"{count} x {what}" for what, count in row.ends.items())
        lines.append(f"    attackers: {told or '-'}")
        lines.append(f"    server: {ends or '-'}")
    return "\n".join(lines)


def main() -> int:
    """Run the command."""
    if sys.argv[1:2] == ["server"]:
        end_with_parent()
        serve()
        return 0
    if sys.argv[1:2] == ["attacker"]:
        end_with_parent()
        attack()
        return 0
    names = [item.name for item in ATTACKS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.under_attack", description=__doc__.partition("\n")[0]
    )
    add_option(parser)
    parser.add_argument("--only", metavar="NAME,...", help=f"some of {', '.join(names)}")
    parser.add_argument(
        "--short", action="store_true", help="about a second of each, without waiting for time-outs"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON instead of a table"
    )
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else names
    if unknown := set(chosen) - set(names):
        parser.error(f"no attack {', '.join(unknown)}")
    rows = [run(item, arguments.short) for item in ATTACKS if item.name in chosen]
    if arguments.json:
        print(
            json.dumps(
                [{**dataclasses.asdict(row), "ratio": row.ratio, "good": row.good} for row in rows],
                indent=1,
            )
        )
    else:
        print(table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
