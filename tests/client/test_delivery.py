"""Nothing is lost that was promised: what the results of ``send_frame`` and ``send_frame_async``
mean when connections break.

Every sentence of docs/delivery.md about guarantees has its test here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    FixedDelay,
    RawServer,
    RawServerPeer,
    Recorder,
    connect,
    echo_server,
    ms,
    new_client,
    process_of,
    send_text,
    text,
    upgrade,
    wait_for,
)
from support.faults import HEARTBEATS, Losses, shrink_buffers, took
from support.tls import Authority, behind_tls, tls_client, tls_server

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketServer,
    focBinary,
    focConnectionClose,
    focText,
    wpsRun,
)
from mormot_ws.testing import Ending, FaultProxy

both_transports = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
#: more than what the kernels and the proxy hold on the way from a client to a server when the
#: buffers are small
HELD = 400_000


def numbered(number: int, size: int) -> WebSocketFrame:
    """Return a message of *size* bytes that begins with its *number*."""
    return WebSocketFrame(focBinary, b"%08d" % number + bytes(size - 8))


class Numbers:
    """A server's callback: keeps the numbers of the messages in the order of their arrival, and
    checks that each is whole.
    """

    def __init__(self) -> None:
        self.got: list[int] = []
        self.texts: list[str] = []
        #: the number of each connection's first message
        self.firsts: dict[int, int] = {}

    def __call__(self, process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focBinary:
            number = int(frame.payload[:8])
            assert frame.payload[8:].count(0) == len(frame.payload) - 8
            self.firsts.setdefault(process.connection_id, number)
            self.got.append(number)
        elif frame.opcode is focText:
            self.texts.append(frame.text)


class Rig(contextlib.ExitStack):
    """A client with a large queue, a proxy and a server, with small buffers between them, plain or
    with TLS.
    """

    def __init__(self, tmp_path: Path, tls: bool, **settings: Any) -> None:
        super().__init__()
        settings.setdefault("max_outgoing_bytes", 16 << 20)
        self.numbers = Numbers()
        if tls:
            authority = Authority(tmp_path)
            self.server = self.enter_context(tls_server(authority.server_context(), self.numbers))
        else:
            self.server = self.enter_context(echo_server(callback=self.numbers))
        self.proxy = self.enter_context(FaultProxy(HOST, self.server.port, buffer_bytes=8192))
        if tls:
            self.client = tls_client(self.proxy.port, authority.client_context(), **settings)
        else:
            self.client = new_client(self.proxy.port, **settings)
        self.enter_context(self.client)
        assert upgrade(self.client) == ""
        shrink_client(self.client)
        self.client.auto_reconnect()
        self.process = process_of(self.client)
        again = self.process.on_reconnect
        assert again is not None
        self.again = again
        self.process.on_reconnect = self.on_reconnect

    def on_reconnect(self, process: WebSocketProcessClient | None) -> str:
        """Upgrade again, with small buffers."""
        if process is not None:
            shrink_client(self.client)
        return self.again(process) or ""

    def queue(self, numbers: range, size: int) -> None:
        """Queue numbered messages; all of them have to be accepted."""
        for number in numbers:
            assert self.process.send_frame_async(numbered(number, size))

    def wait_all(self, last: int) -> list[int]:
        """Wait for the message with the *last* number; return all numbers."""
        wait_for(
            lambda: self.numbers.got[-1:] == [last], what=f"{last} behind {self.numbers.got[-3:]}"
        )
        return self.numbers.got


def shrink_client(client: HttpClientWebSockets) -> None:
    """Give the client's socket small buffers, so that the kernel does not take everything at
    once.
    """
    assert client.transport is not None
    shrink_buffers(client.transport.sock)


def check_in_order_and_once(got: list[int]) -> None:
    """Fail when a number comes twice, or after a higher one."""
    wrong = [(before, after) for before, after in pairwise(got) if after <= before]
    assert not wrong, f"not in order, or twice: {wrong[:10]}"


# --------------------------------------------------------------------------------------- send_frame


def test_send_frame_is_true_only_while_the_connection_runs(server: WebSocketServer) -> None:
    """True means: the kernel of a running connection has all its bytes. False: before, between,
    and after connections.
    """
    go_on = threading.Event()
    frame = text("x")
    results: list[bool] = []
    with FaultProxy(HOST, server.port) as proxy, connect(proxy.port) as client:
        process = process_of(client)

        def on_reconnect(reopened: WebSocketProcessClient | None) -> str:
            results.append(process.send_frame(frame))  # TCP is open, but it is no WebSocket yet
            go_on.wait(BOUND)
            return again(reopened) or ""

        client.auto_reconnect()
        assert process.on_reconnect is not None
        again = process.on_reconnect
        process.on_reconnect = on_reconnect
        assert process.send_frame(frame)
        proxy.cut()
        wait_for(lambda: results)
        assert results == [False]
        assert not process.send_frame(frame)
        go_on.set()
        wait_for(lambda: process.state is wpsRun)
        assert process.send_frame(frame)
        process.shutdown()
        assert not process.send_frame(frame) or process.state is wpsRun
    assert not process.send_frame(frame)


def test_send_frame_does_not_wait_for_a_reconnection(server: WebSocketServer) -> None:
    """While there is no connection it says False at once, and keeps nothing."""
    with (
        FaultProxy(HOST, server.port) as proxy,
        connect(proxy.port, reconnect_policy=lambda: FixedDelay(60_000)) as client,
    ):
        client.auto_reconnect()
        proxy.cut()
        wait_for(lambda: not client.status().connected)
        started = time.monotonic()
        assert not send_text(client, "x")
        assert took(started) < 200 * MS
        assert process_of(client).outgoing.count == 0


@both_transports
def test_a_message_that_send_frame_could_not_send_whole_never_arrives(
    tmp_path: Path, tls: bool
) -> None:
    """False for a frame that was cut in the middle, and no part of it reaches the application, not
    after the reconnection either.
    """
    with Rig(tmp_path, tls) as rig:
        rig.proxy.truncate(HELD, "up")
        assert not rig.process.send_frame(numbered(1, 3 * HELD))
        wait_for(lambda: rig.client.status().reconnects == 1)
        assert rig.process.send_frame(numbered(2, 100))
        assert rig.wait_all(2) == [2]


@both_transports
def test_what_send_frame_has_sent_is_delivered_by_a_connection_that_is_closed_gracefully(
    tmp_path: Path, tls: bool
) -> None:
    """A close handshake comes behind everything for which True was returned: all of it arrives."""
    with Rig(tmp_path, tls, close_timeout=ms(5_000)) as rig:
        rig.proxy.throttle(2_000_000 / (MS * 1000))
        for number in range(200):
            assert rig.process.send_frame(numbered(number, 2_000))
        assert rig.process.shutdown()
        assert rig.wait_all(199) == list(range(200))


# ---------------------------------------------------------------- the queue outlasts a reconnection


@both_transports
def test_frames_queued_while_disconnected_go_out_in_order(tmp_path: Path, tls: bool) -> None:
    """What is queued between two connections is sent on the next one, once and in order."""
    with Rig(tmp_path, tls) as rig:
        rig.proxy.refuse()
        rig.proxy.cut()
        wait_for(lambda: not rig.client.status().connected)
        rig.queue(range(500), 1_000)
        connection = rig.client.status().connection
        assert connection is not None
        assert connection.queued_frames == 500
        rig.proxy.accept()
        assert rig.wait_all(499) == list(range(500))
        assert rig.process.outgoing.count == 0


def test_the_queue_outlasts_several_losses(tmp_path: Path) -> None:
    """Three servers' lives later it is still there, and still in order."""
    with Rig(tmp_path, False) as rig:
        rig.proxy.refuse()
        for number in range(3):
            rig.proxy.cut()
            wait_for(lambda: not rig.client.status().connected)
            rig.queue(range(number * 10, number * 10 + 10), 100)
            attempts = rig.process.attempts
            wait_for(lambda attempts=attempts: rig.process.attempts > attempts + 2)  # type: ignore[misc]
        rig.proxy.accept()
        assert rig.wait_all(29) == list(range(30))


@both_transports
@pytest.mark.parametrize("cut_at", [0.1, 0.5, 0.9])
def test_a_frame_cut_in_the_middle_is_sent_again(tmp_path: Path, tls: bool, cut_at: float) -> None:
    """Frames larger than all buffers, a loss somewhere inside one of them: every frame arrives
    exactly once, in order.
    """
    size = 3 * HELD
    with Rig(tmp_path, tls) as rig:
        rig.proxy.truncate(size + int(cut_at * size * 0.6), "up")
        rig.queue(range(4), size)
        got = rig.wait_all(3)
        assert rig.client.status().reconnects == 1
        assert got == [0, 1, 2, 3]
        assert sorted(rig.numbers.firsts.values()) == [0, 1]


@both_transports
@pytest.mark.parametrize(
    ("count", "endings"), [(110, ["cut", "close"]), (199, ["cut"])], ids=["queue", "full queue"]
)
def test_losses_at_random_moments_duplicate_and_reorder_nothing(
    tmp_path: Path, tls: bool, count: int, endings: list[Ending]
) -> None:
    """Small and large frames, lost by RST and FIN again and again: no number comes twice, none
    before a smaller one.

    A queue that is more than half full makes the loop send it before it reads; the end must be the
    same.
    """
    sizes = [100, 5_000, 90_000, 20, 300_000, 16_384, 70_000, 50, 40_000, 1_000]
    with Rig(tmp_path, tls) as rig:
        rig.proxy.throttle(10_000_000 / (MS * 1000), "up")
        for number in range(count):
            assert rig.process.send_frame_async(numbered(number, sizes[number % len(sizes)]))
        for number in range(6):
            rig.proxy.truncate(200_000 + 123_457 * number, "up", endings[number % len(endings)])
            wait_for(
                lambda number=number: (
                    rig.client.status().reconnects > number or not rig.process.outgoing.count
                )
            )  # type: ignore[misc]
        rig.proxy.heal()
        reconnects = rig.client.status().reconnects
        for number in range(count, count + 999):  # one of these goes by a connection that lasts
            assert rig.process.send_frame_async(numbered(number, 100))
            with contextlib.suppress(AssertionError):
                wait_for(lambda number=number: rig.numbers.got[-1:] == [number], 50 * MS)  # type: ignore[misc]
                break
        check_in_order_and_once(rig.numbers.got)
        assert reconnects >= 4


def receive_numbers(peer: RawServerPeer, got: list[int]) -> None:
    """Read numbered messages to the end of the stream; a frame that is not whole does not count."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            frame = peer.receive_frame()
            if frame.opcode is focBinary:
                got.append(int(frame.payload[:8]))


def fill(process: WebSocketProcess, number: int, size: int) -> bool:
    """Queue some 16 kB of messages from *number* on; tell whether they left the queue at once."""
    for at in range(number, number + max(1, 16_000 // size)):
        assert process.send_frame_async(numbered(at, size))
    try:
        wait_for(lambda: not process.outgoing.count, 60 * MS)
    except AssertionError:
        return False
    return True


@both_transports
@pytest.mark.parametrize("size", [100, 16_300, 70_000])
@pytest.mark.parametrize("blocked", [False, True], ids=["queue only", "with a blocked send_frame"])
def test_each_frame_is_handed_to_the_kernel_exactly_once(
    tmp_path: Path, tls: bool, size: int, blocked: bool
) -> None:
    """A server that stops reading, is given up, and later reads what the kernels held: the two
    connections together have each frame once.

    Nothing is thrown away on the way here, so what the kernel had taken whole arrives by the first
    connection, and all the rest has to come by the second one. A ``send_frame`` that waits in
    between, behind the queued frames, changes nothing in that.
    """
    first: list[int] = []
    second: list[int] = []
    read_now = threading.Event()

    def deaf(peer: RawServerPeer) -> None:
        shrink_buffers(peer.sock)
        peer.accept()
        assert read_now.wait(
            3 * BOUND
        )  # the filling of the kernel's buffers below and the giving up have bounds of their own
        receive_numbers(peer, first)

    def good(peer: RawServerPeer) -> None:
        peer.accept()
        receive_numbers(peer, second)

    with contextlib.ExitStack() as stack:
        if tls:
            authority = Authority(tmp_path)
            context = authority.server_context()
            server = stack.enter_context(
                RawServer(behind_tls(context, deaf), behind_tls(context, good))
            )
            client = tls_client(server.port, authority.client_context(), send_delay=0, **HEARTBEATS)
        else:
            server = stack.enter_context(RawServer(deaf, good))
            client = new_client(server.port, send_delay=0, **HEARTBEATS)
        stack.enter_context(client)
        assert upgrade(client) == ""
        shrink_client(client)
        client.auto_reconnect()
        process = process_of(client)
        number = 0
        while fill(process, number, size):  # until the kernel takes no more ...
            number += max(1, 16_000 // size)
        number += max(1, 16_000 // size)
        count = number + 5
        for beyond in range(number, count):  # ... and beyond
            assert process.send_frame_async(numbered(beyond, size))
        if blocked:
            assert not process.send_frame(numbered(99_999_999, 100))
        wait_for(lambda: not client.status().connected)
        read_now.set()
        wait_for(lambda: second[-1:] == [count - 1], what=f"{count - 1} behind {second[-3:]}")
    got = first + second
    check_in_order_and_once(got)
    assert got == list(range(count)), f"lost: {sorted(set(range(count)) - set(got))}"


def test_an_on_reconnect_that_gives_its_upgrade_up_loses_nothing(tmp_path: Path) -> None:
    """Frames that begin to leave on a connection that ``on_reconnect`` then refuses by a text are
    sent on the next one, once.
    """
    refused: list[int] = []
    with Rig(tmp_path, False) as rig:
        rig.proxy.refuse()
        rig.proxy.cut()
        wait_for(lambda: not rig.client.status().connected)
        rig.queue(range(999), 1_000)

        def on_reconnect(process: WebSocketProcessClient | None) -> str:
            error = rig.on_reconnect(process)
            if process is not None and not error and not refused:
                assert process.send_frame_async(numbered(999, 1_000))
                refused.append(process.connection_id)
                return "the login failed"
            return error

        rig.process.on_reconnect = on_reconnect
        rig.proxy.throttle(400_000 / (MS * 1000), "up")
        rig.proxy.accept()
        wait_for(lambda: rig.client.status().reconnects == 1)
        rig.proxy.throttle(0)
        wait_for(lambda: 999 in rig.numbers.got)
        wait_for(lambda: not rig.proxy.links > 1)
        assert refused
        assert sorted(set(rig.numbers.got)) == list(range(1_000))
        assert len(rig.numbers.got) == 1_000


def test_what_is_queued_in_a_callback_outlasts_the_loss_too(tmp_path: Path) -> None:
    """Frames queued in the callback that is told of the loss are sent on the next connection."""
    with Rig(tmp_path, False) as rig:

        def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
            if frame.opcode is focConnectionClose:
                for number in range(5):
                    assert process.send_frame_async(numbered(number, 100))

        protocol = rig.process.protocol
        vars(protocol)["on_incoming_frame"] = callback
        rig.proxy.cut()
        assert rig.wait_all(4) == list(range(5))
        vars(protocol)["on_incoming_frame"] = None


def test_two_sides_with_full_queues_do_not_block_each_other() -> None:
    """A client that comes back with much to send, to a server that answers all of it: both go on
    reading, and everything arrives.
    """
    size, answers = 50_000, Numbers()

    def answer(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focBinary:
            assert process.send_frame_async(frame)

    with (
        echo_server(callback=answer, max_outgoing_bytes=2 << 20) as server,
        FaultProxy(HOST, server.port, buffer_bytes=8192) as proxy,
        connect(proxy.port, answers, max_outgoing_bytes=8 << 20) as client,
    ):
        process = process_of(client)
        client.auto_reconnect()
        assert process.on_reconnect is not None
        again = process.on_reconnect

        def on_reconnect(reopened: WebSocketProcessClient | None) -> str:
            if reopened is not None:
                # not its receive buffer: on loopback, where segments are larger than that, the
                # kernel would drop and repeat for seconds
                assert client.transport is not None
                client.transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            return again(reopened) or ""

        process.on_reconnect = on_reconnect
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: not client.status().connected)
        count = 0
        while process.send_frame_async(numbered(count, size)):
            count += 1
        proxy.accept()
        wait_for(
            lambda: answers.got[-1:] == [count - 1],
            what=f"{count} answers instead of {len(answers.got)}",
        )
        assert answers.got == list(range(count))
        assert process.reconnects == 1


@both_transports
def test_free_sends_what_is_queued_before_it_says_goodbye(tmp_path: Path, tls: bool) -> None:
    """Frames queued just before ``free()`` arrive, in order, when the peer takes them within
    ``close_timeout``.
    """
    with Rig(tmp_path, tls, close_timeout=ms(2_000)) as rig:
        rig.queue(range(300), 1_000)
        rig.client.free()
        assert rig.numbers.got == list(range(300)) or rig.wait_all(299) == list(range(300))


def test_shutdown_of_a_reconnecting_client_loses_nothing(tmp_path: Path) -> None:
    """What is queued at a ``shutdown()`` goes out before it or on the next connection, once and in
    order.
    """
    with Rig(tmp_path, False) as rig:
        for start in range(0, 400, 100):
            rig.queue(range(start, start + 100), 1_000)
            rig.process.shutdown()
            wait_for(lambda start=start: rig.client.status().reconnects == start // 100 + 1)  # type: ignore[misc]
        assert rig.wait_all(399) == list(range(400))


# ----------------------------------------------------------------- when there is no next connection


def test_a_frame_before_a_close_frame_that_was_cut_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel has taken the frame whole, and a byte of the close frame behind it, when the
    connection is lost.
    """
    second = Recorder()

    def behaviour(peer: RawServerPeer) -> None:
        peer.accept()
        if raw.accepted == 1:
            assert peer.receive_frame().text == "once"
            peer.sock.shutdown(socket.SHUT_RDWR)
        else:
            second.add("frame", peer.receive_frame().text)

    with (
        RawServer(behaviour) as raw,
        new_client(raw.port, reconnect_policy=lambda: FixedDelay(0)) as client,
    ):
        assert upgrade(client) == ""
        client.auto_reconnect()
        process = process_of(client)
        allowed = 3
        write_now = process.write_now

        def grudging(data: memoryview) -> int:
            nonlocal allowed
            if not allowed:
                return 0
            sent = write_now(data[:allowed])
            allowed -= sent
            return sent

        monkeypatch.setattr(process, "write_now", grudging)
        assert process.send_frame_async(text("once"))
        wait_for(lambda: process.sender.batch.wire is not None and not allowed)
        # not sent while the keeper tries to write the rest, which it does again and again
        wait_for(lambda: process.start_shutdown(1000, "the end"))
        left = len(process.sender.batch.wire or b"")
        allowed = left - (2 + 4 + 2 + len("the end")) + 1
        process._keeper.wake(process.sender)
        wait_for(lambda: client.status().reconnects)
        monkeypatch.undo()
        assert process.send_frame_async(text("after"))
        assert second.wait("frame").value == "after"


def test_without_reconnection_nothing_is_queued(server: WebSocketServer) -> None:
    """``send_frame_async`` returns False when the connection has ended and will not come back: at
    a client without ``on_reconnect`` …
    """
    with FaultProxy(HOST, server.port) as proxy, connect(proxy.port) as client:
        assert process_of(client).send_frame_async(text("x"))
        proxy.cut()
        wait_for(lambda: not client.status().connected)
        assert not process_of(client).send_frame_async(text("x"))


def test_after_free_nothing_is_queued(server: WebSocketServer) -> None:
    """… at one that was freed …"""
    with connect(server.port) as client:
        client.auto_reconnect()
    assert not process_of(client).send_frame_async(text("x"))


def test_after_giving_up_nothing_is_queued(server: WebSocketServer) -> None:
    """… at one whose policy has given up …"""
    with connect(server.port, reconnect_policy=lambda: FixedDelay(ms(5), max_attempts=2)) as client:
        client.auto_reconnect()
        server.free()
        thread = process_of(client).client_thread
        assert thread is not None
        thread.join(BOUND)
        assert not process_of(client).send_frame_async(text("x"))


def test_a_servers_connection_does_not_come_back() -> None:
    """… and at a server, where the next connection of the same client is another one: its queue
    ends with the connection.
    """
    processes: list[WebSocketProcess] = []
    recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        processes.append(process)

    with (
        echo_server(callback=callback) as server,
        FaultProxy(HOST, server.port) as proxy,
        connect(proxy.port, recorder.frame) as client,
    ):
        client.auto_reconnect()
        wait_for(lambda: processes)
        proxy.blackhole("down")
        assert processes[0].send_frame_async(text("to nobody"))
        proxy.cut()
        proxy.heal()
        recorder.wait("focContinuation", 2)
        wait_for(lambda: not processes[0].send_frame_async(text("to nobody")))
        new = wait_for(lambda: server.is_active_websocket(process_of(client).connection_id))
        assert new is not processes[0]
        assert new.send_frame_async(text("to the new one"))
        recorder.wait("focText")
        assert recorder.texts() == ["to the new one"]


# --------------------------------------------------------------------------------------- its bounds


@contextlib.contextmanager
def disconnected(
    server: WebSocketServer, **settings: Any
) -> Iterator[tuple[HttpClientWebSockets, FaultProxy]]:
    """Give a client between two connections, and the proxy that it waits for."""
    with FaultProxy(HOST, server.port) as proxy, connect(proxy.port, **settings) as client:
        client.auto_reconnect()
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: not client.status().connected)
        yield client, proxy


@pytest.fixture
def numbers() -> Numbers:
    """What the server below has received."""
    return Numbers()


@pytest.fixture
def counting(numbers: Numbers) -> Iterator[WebSocketServer]:
    """A server that keeps ``numbers``."""
    with echo_server(callback=numbers) as server:
        yield server


BOUNDS = [{"max_outgoing_frames": 10}, {"max_outgoing_bytes": 1_000}]


@pytest.mark.parametrize("bound", BOUNDS, ids=["frames", "bytes"])
def test_a_full_queue_refuses(
    counting: WebSocketServer, numbers: Numbers, bound: dict[str, int]
) -> None:
    """By default the new frame is refused with False, and counted; the old ones are sent when the
    connection is back.
    """
    with disconnected(counting, **bound) as (client, proxy):
        results = [
            process_of(client).send_frame_async(numbered(number, 100)) for number in range(15)
        ]
        assert results == [True] * 10 + [False] * 5
        connection = process_of(client).status()
        assert (connection.queued_frames, connection.queued_bytes, connection.queue_lost) == (
            10,
            1_000,
            5,
        )
        proxy.accept()
        wait_for(lambda: len(numbers.got) == 10)
        assert process_of(client).send_frame_async(numbered(15, 100))
        wait_for(lambda: len(numbers.got) == 11)
    assert numbers.got == [*range(10), 15]


@pytest.mark.parametrize("bound", BOUNDS, ids=["frames", "bytes"])
def test_a_full_queue_may_drop_its_oldest(
    counting: WebSocketServer, numbers: Numbers, bound: dict[str, int]
) -> None:
    """With ``drop_oldest`` the new frame is accepted, and the oldest give way; they are counted
    too.
    """
    with disconnected(counting, outgoing_policy="drop_oldest", **bound) as (client, proxy):
        results = [
            process_of(client).send_frame_async(numbered(number, 100)) for number in range(15)
        ]
        assert results == [True] * 15
        connection = process_of(client).status()
        assert (connection.queued_frames, connection.queued_bytes, connection.queue_lost) == (
            10,
            1_000,
            5,
        )
        proxy.accept()
        wait_for(lambda: len(numbers.got) == 10)
    assert numbers.got == list(range(5, 15))


def test_a_frame_larger_than_the_queue_waits_alone(
    counting: WebSocketServer, numbers: Numbers
) -> None:
    """An empty queue accepts one frame of any size; the next one is refused."""
    with disconnected(counting, max_outgoing_bytes=1_000) as (client, proxy):
        assert process_of(client).send_frame_async(numbered(1, 5_000))
        assert not process_of(client).send_frame_async(numbered(2, 100))
        proxy.accept()
        wait_for(lambda: numbers.got == [1])


def test_dropping_several_small_ones_for_a_large_one_counts_each(counting: WebSocketServer) -> None:
    """``queue_lost`` is the number of frames that will not arrive."""
    with disconnected(counting, outgoing_policy="drop_oldest", max_outgoing_bytes=1_000) as (
        client,
        _,
    ):
        for number in range(10):
            assert process_of(client).send_frame_async(numbered(number, 100))
        assert process_of(client).send_frame_async(numbered(10, 1_000))
        connection = process_of(client).status()
        assert (connection.queued_frames, connection.queue_lost) == (1, 10)


def test_the_policy_close_ends_a_connection_that_does_not_keep_up() -> None:
    """With ``close`` a full queue ends the connection with 1008, and the frame is refused."""
    losses = Losses()
    with (
        echo_server() as server,
        FaultProxy(HOST, server.port, buffer_bytes=8192) as proxy,
        connect(
            proxy.port, losses.frame, outgoing_policy="close", max_outgoing_frames=20
        ) as client,
    ):
        shrink_client(client)
        proxy.blackhole()
        number = 0
        while process_of(client).send_frame_async(numbered(number, 50_000)):
            number += 1
            assert number < 1_000
        assert losses.loss().code in (1006, 1008)
        assert not process_of(client).send_frame_async(text("x"))


def test_queueing_never_waits(server: WebSocketServer) -> None:
    """``send_frame_async`` returns at once even while another thread's ``send_frame`` waits for a
    peer that does not read.
    """
    with (
        FaultProxy(HOST, server.port, buffer_bytes=8192) as proxy,
        connect(proxy.port, heartbeat_delay=0, send_timeout=ms(60_000)) as client,
    ):
        shrink_client(client)
        proxy.blackhole()
        process = process_of(client)
        thread = threading.Thread(target=process.send_frame, args=(numbered(0, 1 << 20),))
        thread.start()
        wait_for(process.safe_out.locked)
        started = time.monotonic()
        for number in range(100):
            assert process.send_frame_async(numbered(number, 100))
        assert took(started) < 200 * MS
        proxy.cut()
        thread.join(BOUND)


def test_tls_and_plain_are_what_they_say(tmp_path: Path) -> None:
    """The tests above that are to run with TLS do."""
    with Rig(tmp_path, True) as rig:
        assert rig.client.transport is not None
        assert isinstance(getattr(rig.client.transport, "ssl_object", None), ssl.SSLObject)
