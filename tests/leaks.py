"""What reconnections leave behind: threads, file descriptors and memory of a client's and a
server's process, before and after.

    python -m tests.leaks [--reconnects 1000] [--clients 1] [--tls] [--json]

The server runs in a process of its own. The client's connection is lost again and again, in turn by
a reset, by the end of the stream, by a close frame of the server, and inside a message; a message
goes both ways on every connection. After some warming up the figures are taken, and again after the
last reconnection and a settling time. Exit code 1: something has grown.

Memory is told in two ways. The heap is what is really in use: bytes that malloc has given away
(glibc tells), and blocks of Python's own allocator. A leak shows there, however small, as soon as
it is multiplied. The resident memory (RSS) also holds what was freed in between; it settles some
hundred kilobytes higher after the first hundreds of connections, and then stays, with TLS more than
without.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mormot_ws import (
    ExponentialBackoff,
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    client_tls_context,
    focText,
)
from mormot_ws.testing import FaultProxy
from tests.support import BOUND, HOST, ROOT, ms, send_text, wait_for
from tests.support.heap import heap_in_use
from tests.support.kinds import add_option
from tests.support.programs import Script

#: losses before the first figures: pools, caches and lazy imports are filled by then
WARM_UP = 40
#: how much the memory of a process may differ, in bytes: beyond it is growth
NOISE = 3 << 20
#: the same of what its heap has in use, and of the blocks of Python's allocator: of 1 000
#: reconnects each may keep 256 bytes and one block
HEAP_NOISE = 256 << 10
BLOCKS_NOISE = 1_000
_SERVER = """
import sys
from mormot_ws import WebSocketProtocolChat, focText

def callback(process, frame):
    if frame.opcode is focText:
        if frame.payload == b"close":
            process.shutdown(4000, "as you wish")
        else:
            process.send_frame(frame)

certificate = dict(zip(("certificate_file", "private_key_file"), sys.argv[2:]))
sys.path.append(sys.argv[1])
from tests.support.kinds import server_class
server = server_class()("127.0.0.1:0", **certificate)
server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
print("port", server.port, flush=True)
from tests.support.heap import heap_in_use
while sys.stdin.readline().strip() == "heap":
    print("heap", *heap_in_use(), flush=True)
server.free()
"""


@dataclass
class Figures:
    """What a process holds."""

    threads: int
    descriptors: int
    rss: int
    heap: int
    blocks: int

    @classmethod
    def of(cls, process: psutil.Process, heap: tuple[int, int]) -> Figures:
        """Take the figures of a process; *heap* are its :func:`heap.heap_in_use`."""
        with process.oneshot():
            return cls(process.num_threads(), process.num_fds(), process.memory_info().rss, *heap)

    def grown_since(self, before: Figures) -> list[str]:
        """Return what is more than *before*."""
        noise = {
            "threads": 0,
            "descriptors": 0,
            "rss": NOISE,
            "heap": HEAP_NOISE,
            "blocks": BLOCKS_NOISE,
        }
        return [
            name
            for name, most in noise.items()
            if getattr(self, name) > getattr(before, name) + most
        ]


class FlappingClient:
    """A client that loses its connection on demand and comes back."""

    def __init__(self, proxy: FaultProxy, ca_file: str) -> None:
        self.echoed = 0
        self.reconnects = 0
        self._proxy = proxy
        settings = WebSocketProcessSettings(
            reconnect_policy=lambda: ExponentialBackoff(ms(1), ms(5)), heartbeat_delay=ms(1_000)
        )
        context = client_tls_context(ca_file) if ca_file else None
        self.client = HttpClientWebSockets.open(
            "localhost", proxy.port, bool(ca_file), context, settings=settings
        )
        error = self.client.websockets_upgrade(
            "", "", False, frozenset(), WebSocketProtocolChat("echo", "", self._on_frame)
        )
        assert not error, f"{error} {self.client.last_error}"
        self.client.auto_reconnect()

    def _on_frame(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            self.echoed += 1

    def exchange(self) -> None:
        """Send a message and wait for its echo."""
        before = self.echoed
        wait_for(lambda: send_text(self.client, "hello"), what="a message that can be sent")
        wait_for(lambda: self.echoed > before, what="an echo")

    def lose(self, number: int) -> None:
        """Lose the connection in the way of that number."""
        kind = number % 4
        if kind == 0:
            self._proxy.cut()
        elif kind == 1:
            self._proxy.close()
        elif kind == 2:
            send_text(self.client, "close")
        else:
            self._proxy.truncate(1_000, "up")
            send_text(self.client, "x" * 5_000)

    def wait_back(self) -> None:
        """Wait for one reconnection more than the last time."""
        wait_for(lambda: self.client.status().reconnects > self.reconnects, what="a reconnection")
        wait_for(lambda: self.client.status().connected)
        self._proxy.truncate(None)
        self.reconnects = self.client.status().reconnects


class Sides:
    """The two processes, and how their figures are taken."""

    def __init__(self, server: Script) -> None:
        self._server = server
        self._asked = 0
        self._ours, self._theirs = psutil.Process(), psutil.Process(server.pid)

    def figures(self) -> tuple[Figures, Figures]:
        """Return those of the client's process and of the server's."""
        self._server.enter("heap")
        self._asked += 1
        wait_for(lambda: len(self._answers()) == self._asked)
        heap, blocks = map(int, self._answers()[-1].split()[1:])
        return Figures.of(self._ours, heap_in_use()), Figures.of(self._theirs, (heap, blocks))

    def _answers(self) -> list[str]:
        return [
            line
            for line in self._server.text.splitlines()
            if line.startswith("heap ") and line.count(" ") == 2
        ]

    def settled(self) -> tuple[Figures, Figures]:
        """Return them once they hardly change any more, at the latest after 3 s."""
        give_up = time.monotonic() + 3
        figures = self.figures()
        while time.monotonic() < give_up:
            # whether they change is seen from two looks at them
            time.sleep(0.2)
            before, figures = figures, self.figures()
            if [(one.threads, one.descriptors, one.rss) for one in figures] == [
                (one.threads, one.descriptors, one.rss) for one in before
            ]:
                break
        return figures


def measure(reconnects: int, clients: int = 1, tls: bool = False) -> dict[str, object]:
    """Lose *clients* connections *reconnects* times altogether; return the figures."""
    with contextlib.ExitStack() as stack:
        certificate: tuple[str, ...] = ()
        ca_file = ""
        if tls:
            from tests.support.tls import Authority

            authority = Authority(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            certificate, ca_file = (
                (authority.certificate_file, authority.private_key_file),
                authority.file,
            )
        server = stack.enter_context(Script(_SERVER, str(ROOT), *certificate))
        proxy = stack.enter_context(FaultProxy(HOST, int(server.wait_line("port "))))
        flapping = [FlappingClient(proxy, ca_file) for _ in range(clients)]
        for one in flapping:
            stack.callback(one.client.free)
        sides = Sides(server)
        before: tuple[Figures, Figures] | None = None
        started = time.monotonic()
        lost = 0
        for number in range((reconnects + WARM_UP) // clients):
            if lost >= WARM_UP and before is None:
                before = sides.settled()
                started = time.monotonic()
            flapping[0].lose(number)  # a fault of the proxy hits the others too
            for one in flapping:
                if number % 4 in (2, 3) and one is not flapping[0]:
                    send_text(one.client, "close")
                one.wait_back()
                one.exchange()
                lost += 1
        seconds = time.monotonic() - started
        assert before is not None
        after = sides.settled()
        for one in flapping:
            one.client.free()
        wait_for(
            lambda: not any("WebSocketClient" in thread.name for thread in threading.enumerate()),
            BOUND,
        )
    return {
        "reconnects": lost - WARM_UP,
        "clients": clients,
        "tls": tls,
        "seconds": round(seconds, 1),
        "client": {
            "before": asdict(before[0]),
            "after": asdict(after[0]),
            "grown": after[0].grown_since(before[0]),
        },
        "server": {
            "before": asdict(before[1]),
            "after": asdict(after[1]),
            "grown": after[1].grown_since(before[1]),
        },
    }


def show(result: dict[str, object]) -> None:
    """Print the figures as a table."""
    print(
        f"{result['reconnects']} reconnects of {result['clients']} client(s) in "
        f"{result['seconds']} s, TLS: {result['tls']}"
    )
    print(
        f"{'process':8} {'':8} {'threads':>8} {'descriptors':>12} {'memory (RSS)':>14} "
        f"{'heap in use':>14} {'blocks':>8}"
    )
    for side in ("client", "server"):
        figures = result[side]
        assert isinstance(figures, dict)
        for when in ("before", "after"):
            one = Figures(**figures[when])
            print(
                f"{side:8} {when:8} {one.threads:8} {one.descriptors:12} {one.rss / 1024:11.0f} kB"
                f" {one.heap / 1024:11.0f} kB {one.blocks:8}"
            )
        print(f"{side:8} grown: {', '.join(figures['grown']) or 'nothing'}")


def main() -> int:
    """Read the command line, measure, print; return 1 when something has grown."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.leaks", description="What reconnections leave behind."
    )
    parser.add_argument(
        "--reconnects", type=int, default=1000, help="how many (default %(default)s)"
    )
    parser.add_argument(
        "--clients", type=int, default=1, help="by how many clients (default %(default)s)"
    )
    add_option(parser)
    parser.add_argument("--tls", action="store_true", help="with TLS")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    result = measure(arguments.reconnects, arguments.clients, arguments.tls)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)
    return 1 if any(result[side]["grown"] for side in ("client", "server")) else 0  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(main())
