"""How soon a lost connection is noticed, fault by fault: ours, websocket-client's ``run_forever``
and websockets' sync client.

    python -m tests.detection_table [--rounds 3] [--json]

Each cell is the median of a few rounds; each round has a client in a process of its own, a server
in another, and a proxy between them that makes the faults. The connection is idle when the fault
comes; the server sends no pings of its own, so that what is measured is the client's own doing. The
last column is our server, whose client is lost. Who has not noticed within 10 s "never" does. The
settings stand below the table; all of the clients ping every half second, and give up after about
one and a half.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mormot_ws.testing import FaultProxy
from tests.support import HOST
from tests.support.programs import Script

#: seconds after which a cell is "never"
LIMIT = 10.0
#: seconds for which a connection is idle before its fault
IDLE = 0.7

_SERVER = """
import json, sys, time
from mormot_ws import *

def chat(process, frame):
    if frame.opcode is focContinuation:
        print("open", flush=True)
    elif frame.opcode is focConnectionClose:
        print("noticed", time.monotonic(), process.close_code, flush=True)
    elif frame.opcode in (focText, focBinary):
        process.send_frame(frame)

settings = WebSocketProcessSettings(**json.loads(sys.argv[1]))
server = WebSocketServer("127.0.0.1:0", settings=settings)
server.websocket_protocols.add(WebSocketProtocolChat("echo", "", chat))
print("port", server.port, flush=True)
sys.stdin.readline()
server.free()
"""

OURS = "heartbeat_delay=500, disconnect_after_invalid_heartbeat_count=2"
_OURS = f"""
import sys, time
from mormot_ws import *

def chat(process, frame):
    if frame.opcode is focContinuation:
        print("open", flush=True)
    elif frame.opcode is focConnectionClose:
        print("noticed", time.monotonic(), flush=True)

settings = WebSocketProcessSettings({OURS})
client = HttpClientWebSockets.open("127.0.0.1", int(sys.argv[1]), settings=settings)
protocol = WebSocketProtocolChat("echo", "", chat)
error = client.websockets_upgrade("", "", False, frozenset(), protocol)
assert not error, error
sys.stdin.readline()
client.free()
"""

RUN_FOREVER = "ping_interval=0.5, ping_timeout=0.45, reconnect=1"
_WEBSOCKET_CLIENT = f"""
import logging, sys, threading, time, websocket

def noticed(*args):
    print("noticed", time.monotonic(), flush=True)

class Log(logging.Handler):
    def emit(self, record):
        if record.getMessage().endswith("- reconnect"):
            noticed()

# the earliest counts: a callback, or its log, because with reconnect= no callback tells of a close
# frame
logging.getLogger("websocket").addHandler(Log())
logging.getLogger("websocket").setLevel(logging.INFO)
app = websocket.WebSocketApp(
    "ws://127.0.0.1:" + sys.argv[1] + "/", subprotocols=["echo"],
    on_open=lambda app: print("open", flush=True), on_error=noticed, on_close=noticed)
threading.Thread(target=app.run_forever, kwargs=dict({RUN_FOREVER}), daemon=True).start()
sys.stdin.readline()
"""

SYNC = "ping_interval=0.5, ping_timeout=1.0, close_timeout=1"
_WEBSOCKETS = f"""
import sys, time
from websockets.sync.client import connect
from websockets.exceptions import ConnectionClosed

with connect("ws://127.0.0.1:" + sys.argv[1] + "/", subprotocols=["echo"], {SYNC}) as client:
    print("open", flush=True)
    try:
        client.recv()
    except ConnectionClosed:
        print("noticed", time.monotonic(), flush=True)
sys.stdin.readline()
"""

CLIENTS = {
    "mormot_ws": _OURS,
    "websocket-client": _WEBSOCKET_CLIENT,
    "websockets (sync)": _WEBSOCKETS,
}
SETTINGS = {
    "mormot_ws": OURS,
    "websocket-client": f"run_forever({RUN_FOREVER})",
    "websockets (sync)": f"connect({SYNC})",
}


def _leave(proxy: FaultProxy, peer: Script) -> None:
    peer.enter("")


def _kill(proxy: FaultProxy, peer: Script) -> None:
    os.kill(peer.pid, signal.SIGKILL)


def _freeze(proxy: FaultProxy, peer: Script) -> None:
    os.kill(peer.pid, signal.SIGSTOP)


def _orphan(proxy: FaultProxy, peer: Script) -> None:
    proxy.blackhole()
    os.kill(peer.pid, signal.SIGKILL)


Fault = Callable[[FaultProxy, Script], None]
#: what happens to the link, or to the peer of the side that is watched
FAULTS: dict[str, Fault] = {
    "the peer closes gracefully": _leave,
    "FIN without close frame": lambda proxy, peer: proxy.close(),
    "RST": lambda proxy, peer: proxy.cut(),
    "the peer is killed": _kill,
    "the peer is frozen (SIGSTOP)": _freeze,
    "packets vanish both ways": lambda proxy, peer: proxy.blackhole(),
    "packets to the server vanish": lambda proxy, peer: proxy.blackhole("up"),
    "packets to the client vanish": lambda proxy, peer: proxy.blackhole("down"),
    "a proxy with nobody behind it": _orphan,
}


def one_round(client_source: str, fault: Fault, watch_server: bool) -> float | None:
    """Make a connection, let it be idle, make the fault; return the seconds until it was noticed,
    None: not within the limit.
    """
    server_settings = {
        "heartbeat_delay": 500 if watch_server else 0,
        "disconnect_after_invalid_heartbeat_count": 2,
    }
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Script(_SERVER, json.dumps(server_settings)))
        proxy = stack.enter_context(FaultProxy(HOST, int(server.wait_line("port "))))
        client = stack.enter_context(Script(client_source, str(proxy.port)))
        watched, peer = (server, client) if watch_server else (client, server)
        watched.wait_line("open")
        # heartbeats are under way by then; the processes do not tell
        time.sleep(IDLE)
        proxy.refuse()
        started = time.monotonic()
        try:
            fault(proxy, peer)
            with contextlib.suppress(AssertionError):
                return float(watched.wait_line("noticed ", LIMIT).split()[0]) - started
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(peer.pid, signal.SIGCONT)
        return None


def cell(client_source: str, fault: Fault, rounds: int, watch_server: bool = False) -> float | None:
    """Return the median of some rounds; None when the first one has no result, or most of them
    have not.
    """
    results: list[float] = []
    for number in range(rounds):
        seconds = one_round(client_source, fault, watch_server)
        if seconds is None and not number:
            return None
        results.append(LIMIT if seconds is None else seconds)
    found = statistics.median(results)
    return None if found >= LIMIT else found


def shown(seconds: float | None) -> str:
    """Return a cell's text."""
    if seconds is None:
        return f"never within {LIMIT:g} s"
    return f"{seconds * 1000:.0f} ms"


def measure(rounds: int, progress: bool) -> dict[str, dict[str, float | None]]:
    """Return all medians, by fault and column."""
    columns: dict[str, tuple[str, bool]] = {
        name: (source, False) for name, source in CLIENTS.items()
    }
    # our client without heartbeats as the peer of the server that is watched
    columns["mormot_ws server"] = (_OURS.replace(OURS, "heartbeat_delay=0"), True)
    table: dict[str, dict[str, float | None]] = {}
    with ThreadPoolExecutor(2) as two:  # at a time: they mostly wait
        for name, fault in FAULTS.items():
            cells = {
                column: two.submit(cell, source, fault, rounds, watch_server)
                for column, (source, watch_server) in columns.items()
            }
            table[name] = {column: future.result() for column, future in cells.items()}
            if progress:
                print(
                    name,
                    {column: shown(seconds) for column, seconds in table[name].items()},
                    file=sys.stderr,
                )
    return table


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.detection_table", description="How soon losses are noticed."
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="of each cell, of which the median counts (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    started = time.monotonic()
    table = measure(arguments.rounds, sys.stderr.isatty())
    if arguments.json:
        print(json.dumps(table))
        return
    columns = list(next(iter(table.values())))
    print(f"{'':32}" + "".join(f"{column:>22}" for column in columns))
    for name, cells in table.items():
        print(f"{name:32}" + "".join(f"{shown(cells[column]):>22}" for column in columns))
    print(
        "\nwebsocket-client joins its ping thread, for up to 3 s, before it says anything. "
        "websockets waits for close_timeout after its"
    )
    print(
        "ping_timeout, by default 10 s. With reconnect= no callback of websocket-client "
        "tells of a close frame: its log was taken."
    )
    print(f"Medians of {arguments.rounds} rounds, in {time.monotonic() - started:.0f} s. Settings:")
    for column, settings in {**SETTINGS, "mormot_ws server": OURS}.items():
        print(f"  {column}: {settings}")


if __name__ == "__main__":
    main()
