"""Reading in one thread while others write, over TLS 1.3: the proof that it is safe, and what
becomes of the peers in the same load.

``python -m tests.tls_duplex [--connections 500] [--peer mormot_ws|websocket-client|websockets]
[--json]``; without ``--peer`` all three clients, one after the other, against the same server of
ours. Server and client are processes of their own.

On every connection both ends send a megabyte at the same time: the server from two threads, the
client from two (websocket-client and websockets: from one, beside the one that reads). Every
message names its sender's stream and its number, and its content follows from both, so that a lost,
doubled, exchanged or garbled one is found. A connection succeeds when each end has received all of
the other's megabyte, in order, and the connection was closed by close frames. Anything else is a
failure, a crash of the client's process included: the connections that it had open count, and a new
process does the rest. Everything has a time-out.

Our own client has it harder than the peers: in the midst of the load the server asks it again and
again to authenticate itself, which makes reading write on both ends (TLS 1.3 post-handshake
authentication, and the session tickets that follow it). Without the lock of ``TlsTransport`` that
alone fails on several of 40 connections; ``--plain`` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.children import Child, ChildError, answer, commands, end_with_parent
from tests.support.waiting import poll_until

#: after so many messages of a client, the server asks it to authenticate itself, and again
_ASK_EVERY = 10
PEERS = ("mormot_ws", "websocket-client", "websockets")
#: bytes that each end sends on each connection, in messages of so many, about
TOTAL = 1 << 20
MESSAGE = 16_000
#: seconds: what the peers are given as their time-out, and what one connection may take in all
TIMEOUT = 20.0
LIMIT = 60.0
#: connections open at a time
AT_ONCE = 4
_HEADER = 8  # bytes: stream and number of a message
_PATTERN = bytes(range(256)) * (MESSAGE // 256 + 4)


# ----------------------------------------------------------------------------------------- messages


def messages(stream: int, share: int) -> Iterator[bytes]:
    """Yield the messages of one *stream*, which together have *share* bytes."""
    number = 0
    while share:
        # not all alike: frames and TLS records shall not coincide
        size = min(share, MESSAGE - 37 * (number % 50))
        size = max(size, _HEADER) if share >= _HEADER else _HEADER
        yield message(stream, number, size)
        share -= min(size, share)
        number += 1


def message(stream: int, number: int, size: int) -> bytes:
    """Return the message of that *number*: its content follows from stream, number and size."""
    start = (stream * 7 + number * 13) & 0xFF
    return (
        stream.to_bytes(4, "big")
        + number.to_bytes(4, "big")
        + _PATTERN[start : start + size - _HEADER]
    )


class Checker:
    """Checks what one end receives. For one thread; :attr:`done` may be waited for by another."""

    def __init__(self) -> None:
        self.received = 0
        self.fault = ""
        self.done = threading.Event()
        self._next: Counter[int] = Counter()

    def add(self, payload: bytes) -> None:
        """Check the next message; :attr:`fault` says what is wrong with it, :attr:`done` that this
        was all.
        """
        stream, number = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
        if number != self._next[stream]:
            self.fail(f"message {number} of stream {stream} instead of {self._next[stream]}")
        elif payload != message(stream, number, len(payload)):
            self.fail(f"message {number} of stream {stream} is garbled")
        self._next[stream] += 1
        self.received += len(payload)
        if self.received >= TOTAL:
            self.done.set()

    def fail(self, fault: str) -> None:
        """Remember the first fault."""
        self.fault = self.fault or fault
        self.done.set()


def small_buffers(sock: socket.socket) -> None:
    """Let the kernel hold little: on both ends writing has to wait for the other's reading, so
    that both go on all the time.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072
    )  # less than a loopback segment would stall on windows, not on us


def send_all(
    send: Callable[[bytes], object], stream: int, share: int, failed: Callable[[str], None]
) -> None:
    """Send the messages of a stream; report an exception, which *send* also raises when it cannot
    send, to *failed*.
    """
    try:
        for payload in messages(stream, share):
            send(payload)
    except Exception as exc:  # noqa: BLE001 - whatever a library raises here is what we are after
        failed(f"writing: {type(exc).__name__}: {exc}")


# --------------------------------------------------------------------------------------- the server


def serve(ca_file: str, certificate_file: str, private_key_file: str) -> None:
    """Serve until standard input ends; each line of it is answered with the count of good and bad
    connections so far.
    """
    from mormot_ws import (
        WebSocketFrame,
        WebSocketProcess,
        WebSocketProcessSettings,
        WebSocketProtocolChat,
        WebSocketServer,
        focBinary,
        focConnectionClose,
        focContinuation,
        focText,
        server_tls_context,
    )
    from mormot_ws.sockets.tls_transport import TlsTransport

    def transport_of(process: WebSocketProcess) -> TlsTransport:
        transport = getattr(process, "transport", None)
        assert isinstance(transport, TlsTransport)
        return transport

    guard = threading.Lock()  # guards checkers and outcomes
    checkers: dict[int, Checker] = {}
    outcomes: Counter[str] = Counter()
    asked: Counter[int] = Counter()  # per connection, each counted by its own thread only

    def start(process: WebSocketProcess) -> None:
        small_buffers(transport_of(process).sock)
        checker = checkers[process.connection_id] = Checker()

        def send(payload: bytes) -> None:
            if not process.send_frame(WebSocketFrame(focBinary, payload)):
                raise ConnectionError(f"send_frame returned False: {process.last_error}")

        senders = [
            threading.Thread(
                target=send_all, args=(send, stream, TOTAL // 2, checker.fail), daemon=True
            )
            for stream in (1, 2)
        ]

        def judge() -> None:
            for sender in senders:
                sender.join(LIMIT)
            if not checker.done.wait(LIMIT):
                checker.fail("the client's megabyte is not complete")
            process.send_frame(WebSocketFrame(focText, checker.fault or "complete"))

        for sender in senders:
            sender.start()
        threading.Thread(target=judge, daemon=True).start()

    def end(process: WebSocketProcess) -> None:
        with guard:
            checker = checkers.pop(process.connection_id)
            fault = checker.fault
            if checker.received < TOTAL:
                fault = fault or "connection lost"
            elif process.close_code != 1000:
                fault = fault or f"closed with {process.close_code} {process.last_error}"
            outcomes[fault] += 1

    def ask(process: WebSocketProcess) -> None:
        transport = transport_of(process)
        try:
            with transport._safe_tls:  # the request leaves with the next record that is written
                transport.ssl_object.verify_client_post_handshake()
        except ssl.SSLError as exc:
            # usual: a client that does not do this (the peers), or one that is still answering the
            # last request
            if exc.reason not in (
                "EXTENSION_NOT_RECEIVED",
                "REQUEST_PENDING",
                "REQUEST_SENT",
                "STILL_IN_INIT",
            ):
                checkers[process.connection_id].fail(f"asking: {exc}")
        else:
            asked[process.connection_id] += 1

    def on_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focContinuation:
            start(process)
        elif frame.opcode is focBinary:
            checkers[process.connection_id].add(frame.payload)
            if process.protocol.frames_in_count % _ASK_EVERY == 0:
                ask(process)
        elif frame.opcode is focConnectionClose:
            end(process)

    context = server_tls_context(certificate_file, private_key_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.post_handshake_auth = True
    settings = WebSocketProcessSettings(send_timeout=int(TIMEOUT * 1000), heartbeat_delay=5_000)
    with WebSocketServer("127.0.0.1:0", settings=settings, tls_context=context) as server:
        server.websocket_protocols.add(WebSocketProtocolChat("duplex", "", on_frame))
        answer(port=server.port)
        for _ in commands():
            # the last connections are ending
            poll_until(lambda: not server.websocket_connections, TIMEOUT)
            with guard:
                answer(outcomes=outcomes, asked=sum(asked.values()))
                outcomes.clear()
                asked.clear()


# -------------------------------------------------------------------------------------- the clients


def client_context(
    ca_file: str, certificate_file: str = "", private_key_file: str = ""
) -> ssl.SSLContext:
    """Return what the clients are given; ours has a certificate, to show it when the server
    asks.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate_file:
        context.load_cert_chain(certificate_file, private_key_file)
        context.post_handshake_auth = True
    return context


def mormot_ws_connection(port: int, context: ssl.SSLContext) -> str:
    """Do one connection with our client: two writing threads; return '' or what failed."""
    from mormot_ws import (
        HttpClientWebSockets,
        WebSocketFrame,
        WebSocketProcess,
        WebSocketProcessSettings,
        WebSocketProtocolChat,
        focBinary,
        focConnectionClose,
        focText,
    )

    checker = Checker()
    verdict: queue.Queue[str] = queue.Queue()

    def on_frame(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focBinary:
            checker.add(frame.payload)
        elif frame.opcode is focText:
            verdict.put(frame.text)
        elif frame.opcode is focConnectionClose:
            verdict.put(f"ended with {process.close_code} {process.last_error}")
            checker.done.set()

    milliseconds = int(TIMEOUT * 1000)
    settings = WebSocketProcessSettings(send_timeout=milliseconds, heartbeat_delay=5_000)
    client = HttpClientWebSockets("localhost", port, True, context, milliseconds, settings=settings)
    with client:
        error = client.websockets_upgrade(
            "", "", False, frozenset(), WebSocketProtocolChat("duplex", "", on_frame)
        )
        if error:
            return f"{error} {client.last_error}"
        process = client.websockets
        assert process is not None
        assert client.transport is not None
        small_buffers(client.transport.sock)

        def send(payload: bytes) -> None:
            if not process.send_frame(WebSocketFrame(focBinary, payload)):
                raise ConnectionError(f"send_frame returned False: {process.last_error}")

        finish_duplex([(send, 1), (send, 2)], checker)
        judgement = checker.fault or _get(verdict)
        if judgement != "complete":
            return judgement
        if not process.shutdown(1000):
            return "the close frame was not answered"
        return "" if process.close_code == 1000 else f"closed with {process.close_code}"


def websocket_client_connection(port: int, context: ssl.SSLContext) -> str:
    """Do one connection with websocket-client: one reading and one writing thread."""
    import websocket

    checker = Checker()
    verdict: queue.Queue[str] = queue.Queue()
    connection = websocket.create_connection(
        f"wss://localhost:{port}/",
        timeout=TIMEOUT,
        sslopt={"context": context},
        subprotocols=["duplex"],
        enable_multithread=True,
    )

    def read() -> None:
        try:
            while True:
                opcode, payload = connection.recv_data()
                if opcode == websocket.ABNF.OPCODE_BINARY:
                    checker.add(payload)
                elif opcode == websocket.ABNF.OPCODE_TEXT:
                    verdict.put(payload.decode())
                    return
                else:
                    raise ConnectionError("closed by the server")
        # whatever the library raises is the failure that is counted
        except Exception as exc:  # noqa: BLE001
            checker.fail(f"reading: {type(exc).__name__}: {exc}")

    assert connection.sock is not None
    small_buffers(connection.sock)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        finish_duplex([(connection.send_binary, 1)], checker)
        judgement = checker.fault or _get(verdict)
        if judgement != "complete":
            return checker.fault or judgement
        connection.close(1000)
        return ""
    finally:
        connection.shutdown()  # type: ignore[no-untyped-call]
        reader.join(TIMEOUT)


def websockets_connection(port: int, context: ssl.SSLContext) -> str:
    """Do one connection with the ``sync`` client of websockets: its reading thread, one that
    takes, and one that writes.
    """
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    checker = Checker()
    verdict: queue.Queue[str] = queue.Queue()
    with connect(
        f"wss://localhost:{port}/",
        ssl=context,
        subprotocols=[Subprotocol("duplex")],
        compression=None,
        proxy=None,
        open_timeout=TIMEOUT,
        close_timeout=TIMEOUT,
    ) as connection:

        def read() -> None:
            try:
                while True:
                    data = connection.recv(TIMEOUT)
                    if isinstance(data, str):
                        verdict.put(data)
                        return
                    checker.add(data)
            # whatever the library raises is the failure that is counted
            except Exception as exc:  # noqa: BLE001
                checker.fail(f"reading: {type(exc).__name__}: {exc}")

        small_buffers(connection.socket)
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        finish_duplex([(connection.send, 1)], checker)
        judgement = checker.fault or _get(verdict)
        reader.join(TIMEOUT)
    if judgement != "complete":
        return judgement
    return "" if connection.close_code == 1000 else f"closed with {connection.close_code}"


def finish_duplex(senders: list[tuple[Callable[[bytes], object], int]], checker: Checker) -> None:
    """Send by all *senders* (function, stream) at the same time, and wait until this and the
    receiving are over.
    """
    share = TOTAL // len(senders)
    threads = [
        threading.Thread(target=send_all, args=(send, stream, share, checker.fail), daemon=True)
        for send, stream in senders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        if thread.is_alive():
            checker.fail("writing does not end")
    if not checker.done.wait(LIMIT):
        checker.fail("the server's megabyte is not complete")


def _get(verdict: queue.Queue[str]) -> str:
    try:
        return verdict.get(timeout=LIMIT)
    except queue.Empty:
        return "no verdict of the server"


CLIENTS: dict[str, Callable[[int, ssl.SSLContext], str]] = {
    "mormot_ws": mormot_ws_connection,
    "websocket-client": websocket_client_connection,
    "websockets": websockets_connection,
}


def run_client(peer: str, port: int, first: int, count: int, *files: str) -> None:
    """Do *count* connections, some at a time; print a line when one begins, and one when it has
    ended.
    """
    context = client_context(*files)
    numbers = iter(range(first, first + count))
    guard = threading.Lock()  # guards the numbers and standard output

    def work() -> None:
        while True:
            with guard:
                number = next(numbers, None)
                if number is None:
                    return
                answer(begin=number)
            try:
                fault = CLIENTS[peer](port, context)
            except Exception as exc:  # noqa: BLE001 - a failure, whatever it is
                fault = f"{type(exc).__name__}: {exc}"
            with guard:
                answer(end=number, fault=fault)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(count * LIMIT)
    sys.stdout.flush()
    os._exit(0)  # threads that a library has left behind are not to delay the end


# --------------------------------------------------------------------------------------- the parent


@dataclass
class Figures:
    """What became of one client's connections."""

    connections: int = 0
    failures: int = 0
    crashes: int = 0
    seconds: float = 0.0
    #: how often the server has asked for authentication in the midst of it
    asked: int = 0
    #: what the client saw, and how often
    faults: Counter[str] = field(default_factory=Counter)
    #: what the server saw of the same connections, '' for a good one
    server: Counter[str] = field(default_factory=Counter)


def measure(
    peer: str,
    port: int,
    files: tuple[str, ...],
    count: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Figures:
    """Let *peer* do its connections, in as many processes as it takes, but no longer than
    *seconds*.
    """
    figures = Figures()
    begin = time.monotonic()
    done = 0
    while done < count and time.monotonic() - begin < seconds:
        open_connections: set[int] = set()
        with (
            # what the peers say of their failures is counted, not shown
            open(os.devnull, "wb") as nowhere,
            Child(
                "tests.tls_duplex",
                *("client", peer, str(port), str(done), str(count - done), *files),
                errors=None if peer == "mormot_ws" else nowhere,
            ) as child,
        ):
            ended = ""
            while not ended and time.monotonic() - begin < seconds:
                try:
                    line = child.hear(min(seconds, 3 * LIMIT))
                except ChildError:
                    ended = "hung" if child.alive else _how(child.wait())
                    break
                if "begin" in line:
                    open_connections.add(line["begin"])
                    continue
                open_connections.discard(line["end"])
                done += 1
                if line["fault"]:
                    figures.failures += 1
                    figures.faults[_short(line["fault"])] += 1
                progress(
                    f"{peer}: {done} of {count}, {figures.failures} failures, "
                    f"{figures.crashes} crashes"
                )
        if open_connections and ended:
            figures.crashes += 1
            figures.failures += len(open_connections)
            figures.faults[f"client process: {ended}"] += len(open_connections)
            done += len(open_connections)
    figures.connections = done
    figures.seconds = time.monotonic() - begin
    return figures


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _short(fault: str) -> str:
    return fault if len(fault) < 100 else fault[:97] + "…"


def make_certificates(folder: Path) -> tuple[str, str, str]:
    """Return the files (authority, certificate, key) of a server on this machine."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    names = [str(folder / name) for name in ("ca.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(names[0])
    issued.cert_chain_pems[0].write_to_path(names[1])
    issued.private_key_pem.write_to_path(names[2])
    return names[0], names[1], names[2]


def run(
    peers: list[str], connections: int, seconds: float, progress: Callable[[str], None], plain: bool
) -> dict[str, Figures]:
    """Start the server and let all *peers* have their turn."""
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = make_certificates(Path(folder))
        with Child("tests.tls_duplex", "server", *files) as server:
            port = server.hear()["port"]
            for peer in peers:
                shown = files if peer == "mormot_ws" and not plain else files[:1]
                found[peer] = figures = measure(peer, port, shown, connections, seconds, progress)
                try:
                    seen = server.ask(do="report")
                # the worst that can happen: there is nobody left for the other peers
                except ChildError as exc:
                    figures.server[f"server process: {exc}"] = connections
                    break
                figures.server.update(seen["outcomes"])
                figures.asked = seen["asked"]
    return found


def is_good(figures: Figures, connections: int) -> bool:
    """Tell whether there was no failure at either end."""
    return (
        figures.connections == connections
        and figures.failures == figures.crashes == 0
        and figures.server == Counter({"": connections})
    )


def report(found: dict[str, Figures]) -> str:
    """Return the table."""
    load = f"{TOTAL >> 20} MB each way at the same time on each connection, {AT_ONCE} at a time"
    lines = [
        f"TLS 1.3, {load}; {ssl.OPENSSL_VERSION}, Python {platform.python_version()}",
        (
            f"{'client':<18}{'connections':>12}{'failures':>10}{'crashes':>9}"
            f"{'server saw failures':>21}{'asked':>7}{'seconds':>9}"
        ),
    ]
    for peer, figures in found.items():
        bad = sum(count for fault, count in figures.server.items() if fault)
        lines.append(
            f"{peer:<18}{figures.connections:>12}{figures.failures:>10}{figures.crashes:>9}{bad:>21}{figures.asked:>7}"
            f"{figures.seconds:>9.1f}"
        )
    for peer, figures in found.items():
        lines += [f"  {peer}: {count} x {fault}" for fault, count in figures.faults.most_common(8)]
        lines += [
            f"  {peer}, seen by the server: {count} x {_short(fault)}"
            for fault, count in figures.server.most_common(6)
            if fault
        ]
    return "\n".join(lines)


def main() -> int:
    """Run the command; the exit code is 1 when our own client or our server has failed."""
    if sys.argv[1:2] == ["server"]:
        end_with_parent()
        serve(*sys.argv[2:5])
        return 0
    if sys.argv[1:2] == ["client"]:
        end_with_parent()
        run_client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:])
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m tests.tls_duplex", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--connections", type=int, default=500, help="of each client (default: 500, at most 5000)"
    )
    parser.add_argument(
        "--peer",
        action="append",
        choices=PEERS,
        help="one client only; may be repeated (default: all)",
    )
    parser.add_argument(
        "--seconds", type=float, default=300, help="that each client may take (default: 300)"
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="do not ask our client to authenticate itself meanwhile",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON instead of a table"
    )
    arguments = parser.parse_args()
    count = max(1, min(arguments.connections, 5000))

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    found = run(arguments.peer or list(PEERS), count, arguments.seconds, progress, arguments.plain)
    progress("")
    if arguments.json:
        print(json.dumps({peer: vars(figures) for peer, figures in found.items()}, indent=1))
    else:
        print(report(found))
    ours = found.get("mormot_ws")
    return 0 if ours is None or is_good(ours, count) else 1


if __name__ == "__main__":
    sys.exit(main())
