"""Visitors while servers replace each other:  python -m tests.benchmarks.restarts

They connect, upgrade and leave, from several threads. A server is replaced by the next one on the
same listening socket (as with systemd, or ``ServerProcesses``), or on a socket of its own
(``reuse_port``). Counted is who was refused, reset, or cut before the answer to his upgrade.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from mormot_ws import WebSocketAsyncServer, WebSocketProtocolChat

# the tests import each other without the folder's name
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support import HOST, RawClient, echo


def _prepare(server: WebSocketAsyncServer) -> None:
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", echo))


def _next(kind: str, port: int, listening: socket.socket | None) -> WebSocketAsyncServer:
    if listening is not None:
        return WebSocketAsyncServer(socket=listening.dup(), prepare=_prepare)
    return WebSocketAsyncServer(f"{HOST}:{port}", reuse_port=True, prepare=_prepare)


def measure(kind: str, restarts: int, threads: int) -> str:
    """Return what was counted, in a line."""
    listening = socket.create_server((HOST, 0), backlog=1024) if kind == "shared" else None
    server = _next(kind, listening.getsockname()[1] if listening else 0, listening)
    port = server.port
    counts: Counter[str] = Counter()
    done = threading.Event()

    def visit() -> None:
        while not done.is_set():
            try:
                with RawClient(port) as client:
                    client.upgrade()
                counts["served"] += 1
            # an AssertionError: another answer than 101
            except (OSError, EOFError, AssertionError) as exc:
                counts[type(exc).__name__] += 1

    visitors = [threading.Thread(target=visit) for _ in range(threads)]
    for visitor in visitors:
        visitor.start()
    for _ in range(restarts):
        time.sleep(0.3)
        following = _next(kind, port, listening)
        server.free()
        server = following
    done.set()
    for visitor in visitors:
        visitor.join()
    server.free()
    if listening is not None:
        listening.close()
    failed = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "served")
    return f"{kind}: {restarts} restarts, {counts['served']} served, {failed or 'none'} failed"


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--threads", type=int, default=4)
    args = parser.parse_args()
    for kind in ("shared", "reuse_port"):
        print(measure(kind, args.restarts, args.threads), flush=True)


if __name__ == "__main__":
    main()
