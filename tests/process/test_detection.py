"""Every kind of loss is noticed, on both sides, between processes: at once where the kernel is
told, by heartbeats where nobody is.

A silent peer has to be noticed within (n+1)·h + 1 s, where h is ``heartbeat_delay`` and n
``disconnect_after_invalid_heartbeat_count``; and nobody else may be taken for one.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    MS,
    Recorder,
    connect,
    echo_server,
    ms,
    process_of,
    send_text,
    upgrade,
    wait_for,
)
from support import foreign_server as serve_foreign
from support.close_codes import CLOSE_CODES
from support.faults import (
    AT_ONCE,
    HEARTBEATS,
    NOTICED_WITHIN,
    ClientPeer,
    Losses,
    ServerPeer,
    shrink_buffers,
    took,
)
from support.tls import Authority, tls_client, tls_server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as foreign_connect
from websockets.sync.connection import Connection
from websockets.sync.server import ServerConnection
from websockets.typing import Subprotocol

from mormot_ws import (
    WebSocketFrame,
    WebSocketProcess,
    WebSocketServer,
    focBinary,
    focText,
    wpsRun,
)
from mormot_ws.testing import Direction, FaultProxy

#: seconds of a long callback, many times what a silent peer gets
LONG = 3000 * MS
#: of the foreign peers: a ping every 0.1 s, to be answered within 0.5 s, or the connection is given
#: up
PINGS = {"ping_interval": 100 * MS, "ping_timeout": 500 * MS}
#: seconds of a callback that would be too long for them
ANNOYING = 1200 * MS


@pytest.fixture(scope="module")
def peer() -> Iterator[ServerPeer]:
    """A server in a process of its own, for the tests that leave it alive."""
    with ServerPeer(**HEARTBEATS) as peer:
        yield peer


@pytest.fixture
def losses() -> Losses:
    """What remembers when our side noticed."""
    return Losses()


@pytest.fixture
def proxy(peer: ServerPeer) -> Iterator[FaultProxy]:
    """A proxy in front of ``peer``."""
    with FaultProxy(HOST, peer.port) as proxy:
        yield proxy


def idle(seconds: float) -> None:
    """Let a connection be idle, so that its heartbeats are under way."""
    # no condition tells that
    time.sleep(seconds)


# ---------------------------------------------------------------------------------- graceful closes


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_a_graceful_close_of_the_server_tells_both_its_code(
    peer: ServerPeer, losses: Losses, code: int
) -> None:
    """Each close code and its reason arrive at the client at once, and the server knows that it
    was heard.
    """
    with connect(peer.port, losses.frame, **HEARTBEATS) as client:
        number = process_of(client).connection_id
        started = time.monotonic()
        assert send_text(client, f"close {code} because of {code}")
        ours, theirs = losses.loss(), peer.loss(number)
    assert ours.at - started < AT_ONCE
    assert theirs.at - started < AT_ONCE
    assert (ours.code, ours.reason) == (theirs.code, theirs.reason) == (code, f"because of {code}")


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_a_graceful_close_of_the_client_tells_both_its_code(
    peer: ServerPeer, losses: Losses, code: int
) -> None:
    """Each close code and its reason arrive at the server at once, and the client knows that it
    was heard.
    """
    with connect(peer.port, losses.frame, **HEARTBEATS) as client:
        process = process_of(client)
        started = time.monotonic()
        assert process.shutdown(code, f"because of {code}")
        ours, theirs = losses.loss(), peer.loss(process.connection_id)
    assert ours.at - started < AT_ONCE
    assert theirs.at - started < AT_ONCE
    assert (ours.code, ours.reason) == (theirs.code, theirs.reason) == (code, f"because of {code}")


def test_a_close_frame_without_a_code_is_1005_on_both_sides(
    peer: ServerPeer, losses: Losses
) -> None:
    """An empty close frame is graceful too."""
    with connect(peer.port, losses.frame, **HEARTBEATS) as client:
        number = process_of(client).connection_id
        assert send_text(client, "close 0")
        assert (losses.loss().code, peer.loss(number).code) == (1005, 1005)


# --------------------------------------------------------------------- losses that the kernel tells


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_an_end_without_close_frame_is_noticed_at_once(
    peer: ServerPeer, proxy: FaultProxy, losses: Losses, how: str
) -> None:
    """The end of the TCP stream, or its reset, is 1006 on both sides, with the cause in words."""
    with connect(proxy.port, losses.frame, **HEARTBEATS) as client:
        number = process_of(client).connection_id
        started = time.monotonic()
        if how == "FIN":
            proxy.close()
        else:
            proxy.cut()
        ours, theirs = losses.loss(), peer.loss(number)
    assert ours.at - started < AT_ONCE
    assert theirs.at - started < AT_ONCE
    assert (ours.code, theirs.code) == (1006, 1006)
    assert ours.error
    assert theirs.error


@pytest.mark.parametrize("traffic", [False, True], ids=["idle", "traffic"])
def test_a_killed_server_is_noticed_at_once(losses: Losses, traffic: bool) -> None:
    """SIGKILL of the server's process ends the connection for the client, whether it is idle or
    sends.
    """
    with ServerPeer(**HEARTBEATS) as peer, connect(peer.port, losses.frame, **HEARTBEATS) as client:
        while traffic and len(losses.all("focText")) < 20:
            assert send_text(client, "traffic")
        started = time.monotonic()
        peer.signal(signal.SIGKILL)
        assert losses.loss().at - started < AT_ONCE
        assert losses.loss().code == 1006
        assert not send_text(client, "too late")


def test_a_killed_client_is_noticed_at_once(losses: Losses) -> None:
    """SIGKILL of the client's process ends the connection for the server."""
    with (
        echo_server(callback=losses.frame, **HEARTBEATS) as server,
        ClientPeer(server.port, **HEARTBEATS) as client,
    ):
        started = time.monotonic()
        client.signal(signal.SIGKILL)
        assert losses.loss().at - started < AT_ONCE
        assert losses.loss().code == 1006


# ------------------------------------------------------------------------- losses that nobody tells


def test_a_frozen_server_is_noticed(losses: Losses) -> None:
    """A server that is stopped (SIGSTOP) is given up in time, and notices that itself when it goes
    on.
    """
    with ServerPeer(**HEARTBEATS) as peer, connect(peer.port, losses.frame, **HEARTBEATS) as client:
        number = process_of(client).connection_id
        with peer.frozen():
            started = time.monotonic()
            loss = losses.loss()
            assert loss.at - started < NOTICED_WITHIN
            assert (loss.code, loss.error) == (1006, "no answer to 2 heartbeats")
            thawed = time.monotonic()
        assert peer.loss(number).at - thawed < NOTICED_WITHIN


def test_a_frozen_client_is_noticed(losses: Losses) -> None:
    """A client that is stopped (SIGSTOP) is given up in time, and notices that itself when it goes
    on.
    """
    with (
        echo_server(callback=losses.frame, **HEARTBEATS) as server,
        ClientPeer(server.port, **HEARTBEATS) as client,
    ):
        with client.frozen():
            started = time.monotonic()
            loss = losses.loss()
            assert loss.at - started < NOTICED_WITHIN
            assert (loss.code, loss.error) == (1006, "no answer to 2 heartbeats")
            thawed = time.monotonic()
        assert client.loss(client.connection_id).at - thawed < NOTICED_WITHIN


@pytest.mark.parametrize(
    "direction", [None, "up", "down"], ids=["both ways", "client to server", "server to client"]
)
@pytest.mark.parametrize("traffic", [False, True], ids=["idle", "traffic"])
def test_a_blackhole_is_noticed_by_both(
    peer: ServerPeer, proxy: FaultProxy, losses: Losses, direction: Direction | None, traffic: bool
) -> None:
    """Packets that vanish, both ways or one, end the connection on both sides in time, with and
    without traffic before.
    """
    with connect(proxy.port, losses.frame, **HEARTBEATS) as client:
        number = process_of(client).connection_id
        if traffic:
            assert send_text(client, "hello")
            losses.wait("focText")
        else:
            idle(250 * MS)
        assert process_of(client).state is wpsRun
        started = time.monotonic()
        proxy.blackhole(direction)
        ours, theirs = losses.loss(), peer.loss(number)
    assert ours.at - started < NOTICED_WITHIN
    assert theirs.at - started < NOTICED_WITHIN
    assert (ours.code, theirs.code) == (1006, 1006)


@pytest.mark.parametrize("fault", ["blackhole", "frozen"])
def test_a_silent_peer_is_noticed_under_steady_sending(losses: Losses, fault: str) -> None:
    """Sends that the kernels still take, ours and the peer's, are no sign of life of the peer."""
    with (
        ServerPeer(**HEARTBEATS) as peer,
        FaultProxy(HOST, peer.port) as proxy,
        connect(
            proxy.port if fault == "blackhole" else peer.port, losses.frame, **HEARTBEATS
        ) as client,
        contextlib.ExitStack() as stack,
    ):
        started = time.monotonic()
        if fault == "blackhole":
            proxy.blackhole()
        else:
            stack.enter_context(peer.frozen())
        while send_text(client, "anybody there?"):
            assert took(started) < NOTICED_WITHIN
            idle(1 * MS)
        assert losses.loss().at - started < NOTICED_WITHIN


def test_a_proxy_with_nobody_behind_it_is_noticed(losses: Losses) -> None:
    """A link that a proxy keeps open after the server has died is given up in time."""
    with (
        ServerPeer(**HEARTBEATS) as peer,
        FaultProxy(HOST, peer.port) as proxy,
        connect(proxy.port, losses.frame, **HEARTBEATS),
    ):
        proxy.blackhole()
        started = time.monotonic()
        peer.kill()
        assert losses.loss().at - started < NOTICED_WITHIN
        assert losses.loss().code == 1006


def test_a_blackhole_below_tls_is_noticed_by_both(tmp_path: Path, losses: Losses) -> None:
    """With TLS it is the same."""
    authority = Authority(tmp_path)
    theirs = Losses()
    with (
        tls_server(authority.server_context(), theirs.frame, **HEARTBEATS) as server,
        FaultProxy(HOST, server.port) as proxy,
        tls_client(proxy.port, authority.client_context(), **HEARTBEATS) as client,
    ):
        assert upgrade(client, losses.frame) == ""
        theirs.wait("focContinuation")
        started = time.monotonic()
        proxy.blackhole()
        assert losses.loss().at - started < NOTICED_WITHIN
        assert theirs.loss().at - started < NOTICED_WITHIN


def test_a_restored_blackhole_that_was_short_harms_nothing(losses: Losses) -> None:
    """A silence shorter than n heartbeats is forgiven, and nothing of what was sent is lost."""
    # the blackhole lasts until one heartbeat has stayed unanswered; three more may follow. A time
    # instead would be stretched by a busy machine, beyond what is forgiven
    patient = {"heartbeat_delay": ms(500), "disconnect_after_invalid_heartbeat_count": 4}
    with (
        ServerPeer(**patient) as peer,
        FaultProxy(HOST, peer.port) as proxy,
        connect(proxy.port, losses.frame, **patient) as client,
    ):
        process = process_of(client)
        proxy.blackhole()
        assert send_text(client, "meanwhile")
        wait_for(lambda: process.invalid_ping_count, what="an unanswered heartbeat")
        proxy.restore()
        losses.wait("focText")
        wait_for(lambda: not process.invalid_ping_count, what="its forgiveness")
        assert send_text(client, "afterwards")
        losses.wait("focText", 2)
        assert losses.texts() == ["meanwhile", "afterwards"]
        assert process.state is wpsRun
        assert not losses.all("lost")


# ------------------------------------------------------------------------------------ blocked sends


def big() -> WebSocketFrame:
    """Return a frame larger than all buffers on the way."""
    return WebSocketFrame(focBinary, bytes(32 << 20))


def test_a_blocked_send_does_not_hide_a_frozen_server(losses: Losses) -> None:
    """A send that waits for a frozen peer returns False when the heartbeats have given that peer
    up, in their time.
    """
    with (
        ServerPeer(**HEARTBEATS) as peer,
        connect(peer.port, losses.frame, send_timeout=ms(60_000), **HEARTBEATS) as client,
        peer.frozen(),
    ):
        started = time.monotonic()
        assert not process_of(client).send_frame(big())
        assert took(started) < NOTICED_WITHIN
        assert losses.loss().at - started < NOTICED_WITHIN


def test_a_blocked_send_does_not_hide_a_frozen_client(losses: Losses) -> None:
    """The same on the server's side, with a send inside the connection's own callback."""
    sent: list[tuple[bool, float]] = []

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            go_on.wait(BOUND)
            sent.append((process.send_frame(big()), time.monotonic()))
        losses.frame(process, frame)

    go_on = threading.Event()
    with (
        echo_server(callback=callback, send_timeout=ms(60_000), **HEARTBEATS) as server,
        ClientPeer(server.port, **HEARTBEATS) as client,
    ):
        client.enter("send me a lot")
        client.wait_line("sent True")
        with client.frozen():
            started = time.monotonic()
            go_on.set()
            assert losses.loss().at - started < NOTICED_WITHIN
            assert not sent[0][0]


def test_a_blocked_send_below_tls_does_not_hide_a_silent_peer(
    tmp_path: Path, losses: Losses
) -> None:
    """With TLS it is the same."""
    authority = Authority(tmp_path)
    with (
        tls_server(authority.server_context(), None, **HEARTBEATS) as server,
        FaultProxy(HOST, server.port) as proxy,
        tls_client(
            proxy.port, authority.client_context(), send_timeout=ms(60_000), **HEARTBEATS
        ) as client,
    ):
        assert upgrade(client, losses.frame) == ""
        proxy.blackhole()
        started = time.monotonic()
        assert not process_of(client).send_frame(big())
        assert took(started) < NOTICED_WITHIN
        assert losses.loss().at - started < NOTICED_WITHIN


def test_a_blocked_send_has_a_bound_of_its_own(
    peer: ServerPeer, proxy: FaultProxy, losses: Losses
) -> None:
    """Without heartbeats a send to a peer that takes nothing returns False after ``send_timeout``,
    and ends the connection.
    """
    limit = 600
    with connect(proxy.port, losses.frame, heartbeat_delay=0, send_timeout=ms(limit)) as client:
        proxy.blackhole()
        started = time.monotonic()
        assert not process_of(client).send_frame(big())
        assert took(started) < (limit + 700) * MS  # the kernel takes something at first
        assert losses.loss().at - started < (limit + 1000) * MS


def test_waiting_senders_share_one_bound(
    peer: ServerPeer, proxy: FaultProxy, losses: Losses
) -> None:
    """Several threads that send to a peer that takes nothing do not wait one after another."""
    limit = 600
    returned: list[tuple[bool, float]] = []

    def send() -> None:
        returned.append((process_of(client).send_frame(big()), took(started)))

    with connect(proxy.port, losses.frame, heartbeat_delay=0, send_timeout=ms(limit)) as client:
        proxy.blackhole()
        started = time.monotonic()
        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
    assert [sent for sent, _ in returned] == [False] * 4
    first, last = returned[0][1], returned[-1][1]
    assert last - first < limit * MS


# ---------------------------------------------------------------- long callbacks: alive stays alive


def busy_then(
    recorder: Recorder, work: Callable[[WebSocketProcess], Any], word: bytes = b"work"
) -> Callable[[Any, Any], None]:
    """Return a callback that does *work* at the message *word*, records everything, and then
    records ``worked``.
    """

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText and frame.payload == word:
            work(process)
            recorder.add("worked")

    return callback


def sleeping(process: WebSocketProcess, seconds: float) -> None:
    """Work that leaves the connection alone."""
    idle(seconds)


def sending(process: WebSocketProcess, seconds: float) -> None:
    """Work that sends all the time."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and process.send_frame(
        WebSocketFrame(focBinary, bytes(1 << 18))
    ):
        pass


def test_long_callbacks_on_both_sides_kill_no_healthy_connection() -> None:
    """While the client, the server, or both are in a callback of 3 s, with heartbeats of 0.1 s,
    the connection and its order stay.
    """
    work = partial(sleeping, seconds=LONG)
    with ServerPeer(**HEARTBEATS) as peer, contextlib.ExitStack() as stack:
        clients = []
        for server_works, word in ((False, b"work"), (True, b"nothing"), (True, b"busy")):
            recorder = Losses()  # the server says "busy" when it begins its work
            client = stack.enter_context(
                connect(peer.port, busy_then(recorder, work, word), **HEARTBEATS)
            )
            assert send_text(client, f"busy {LONG}" if server_works else "work")
            recorder.wait("focText")
            clients.append((client, recorder))
        for client, recorder in clients:
            for number in range(3):
                assert send_text(client, f"after {number}")
            wait_for(lambda recorder=recorder: recorder.texts()[-1:] == ["after 2"], LONG + BOUND)  # type: ignore[misc]
            assert recorder.texts()[-3:] == ["after 0", "after 1", "after 2"]
            assert not recorder.all("lost")


def read_on(connection: Connection) -> None:
    """Read all messages to the end of a foreign connection, so that none of them stands in the
    way.
    """
    with contextlib.suppress(ConnectionClosed):
        for _ in connection:
            pass


@contextlib.contextmanager
def foreign_server(
    ping_interval: float, ping_timeout: float, errors: list[BaseException]
) -> Iterator[int]:
    """Serve with ``websockets``, which demands pongs, and says ``work`` to each client; give its
    port.
    """

    def handler(connection: ServerConnection) -> None:
        try:
            connection.send("work")
            for message in connection:
                if isinstance(message, str):
                    connection.send(message)
        except ConnectionClosed as exc:
            errors.append(exc)

    with serve_foreign(
        handler, ping_interval=ping_interval, ping_timeout=ping_timeout, max_size=None
    ) as port:
        yield port


@pytest.mark.parametrize("work", [sleeping, sending])
def test_a_long_callback_does_not_annoy_a_foreign_server(
    work: Callable[[WebSocketProcess, float], Any],
) -> None:
    """A server that demands pongs gets them while our client is in a long callback, also when the
    callback sends all the time.
    """
    recorder = Losses()
    errors: list[BaseException] = []
    with (
        foreign_server(**PINGS, errors=errors) as port,
        connect(
            port, busy_then(recorder, lambda process: work(process, ANNOYING)), **HEARTBEATS
        ) as client,
    ):
        recorder.wait("worked", bound=ANNOYING + BOUND)
        assert not errors
        assert send_text(client, "after")
        wait_for(lambda: recorder.texts()[-1:] == ["after"])
        assert not recorder.all("lost")


@pytest.mark.parametrize(
    ("work", "settings"),
    [(sleeping, {}), (sending, {}), (sleeping, {"notify_all_frames": True})],
    ids=["sleeping", "sending", "notify_all_frames"],
)
def test_a_long_callback_does_not_annoy_a_foreign_client(
    work: Callable[[WebSocketProcess, float], Any], settings: dict[str, Any]
) -> None:
    """A client that demands pongs gets them while our server is in a long callback, whatever the
    callback does.
    """
    recorder = Losses()
    callback = busy_then(recorder, lambda process: work(process, ANNOYING))
    with (
        echo_server(callback=callback, **HEARTBEATS, **settings) as server,
        foreign_connect(
            f"ws://{HOST}:{server.port}/",
            subprotocols=[Subprotocol("echo")],
            max_size=None,
            **PINGS,
        ) as client,
    ):
        reader = threading.Thread(target=read_on, args=(client,))
        reader.start()
        try:
            client.send("work")
            recorder.wait("worked", bound=ANNOYING + BOUND)
            assert not recorder.all("lost")
            client.send("after")
            wait_for(lambda: recorder.texts()[-1:] == ["after"] or recorder.all("lost"))
            assert not recorder.all("lost")
        finally:
            client.close()
            reader.join(BOUND)


# ------------------------------------------------------------------ long callbacks: dead is noticed


@pytest.mark.parametrize("fault", ["killed", "blackhole"])
def test_a_long_callback_hides_a_dead_peer_no_longer_than_it_runs(
    losses: Losses, fault: str
) -> None:
    """A server that dies during a callback is noticed when the callback has ended, at the latest
    in the usual time after that.
    """
    ended: list[float] = []

    def work(process: WebSocketProcess) -> None:
        idle(800 * MS)
        ended.append(time.monotonic())

    with (
        ServerPeer(**HEARTBEATS) as peer,
        FaultProxy(HOST, peer.port) as proxy,
        connect(proxy.port, busy_then(losses, work), **HEARTBEATS) as client,
    ):
        assert send_text(client, "work")
        losses.wait("focText")
        if fault == "blackhole":
            proxy.blackhole()
        else:
            peer.kill()
        loss = losses.loss()
        assert loss.at - ended[0] < NOTICED_WITHIN
        assert loss.code == 1006


def test_a_long_callback_does_not_keep_others_from_knowing(losses: Losses) -> None:
    """A peer that goes silent during an endless callback is given up meanwhile: sends of other
    threads say so in the usual time.
    """
    go_on = threading.Event()
    with (
        ServerPeer(**HEARTBEATS) as peer,
        connect(
            peer.port, busy_then(losses, lambda process: go_on.wait(BOUND)), **HEARTBEATS
        ) as client,
    ):
        assert send_text(client, "work")
        losses.wait("focText")
        with peer.frozen():
            started = time.monotonic()
            try:
                while send_text(client, "anybody there?"):
                    assert took(started) < NOTICED_WITHIN
                    idle(1 * MS)
            finally:
                go_on.set()
            losses.loss()


def test_messages_that_wait_for_a_long_callback_do_not_hide_a_dead_peer(losses: Losses) -> None:
    """More unread messages than we take in advance, then silence: they are all delivered, and then
    the loss is noticed in time.
    """
    ended: list[float] = []
    go_on = threading.Event()

    def work(process: WebSocketProcess) -> None:
        go_on.wait(BOUND)
        ended.append(time.monotonic())

    with (
        ServerPeer(**HEARTBEATS) as peer,
        FaultProxy(HOST, peer.port) as proxy,
        connect(proxy.port, busy_then(losses, work), **HEARTBEATS) as client,
    ):
        assert send_text(client, "work")
        losses.wait("focText")
        assert send_text(client, "flood 40")
        wait_for(lambda: proxy.carried["down"] > 40 << 16)
        proxy.blackhole()
        idle(400 * MS)
        go_on.set()
        loss = losses.loss()
        assert loss.at - ended[0] < NOTICED_WITHIN
        assert len(losses.all("focBinary")) == 40


# --------------------------------------------------------------------------------------- slow links


@pytest.mark.parametrize("method", ["send_frame", "send_frame_async"])
@pytest.mark.parametrize("role", ["client", "server"])
def test_a_slow_link_is_no_dead_peer(role: str, method: str) -> None:
    """A large message over a slow link, many times longer under way than the heartbeats allow a
    silence, kills no healthy connection.
    """
    theirs, ours = Losses(), Losses()
    message = WebSocketFrame(focBinary, bytes(700_000))
    with (
        echo_server(callback=theirs.frame, **HEARTBEATS) as server,
        FaultProxy(HOST, server.port, buffer_bytes=8192) as proxy,
        connect(proxy.port, ours.frame, **HEARTBEATS) as client,
    ):
        process: WebSocketProcess | None = process_of(client)
        if role == "server":
            process = wait_for(lambda: server.is_active_websocket(process_of(client).connection_id))
        assert process is not None
        shrink_buffers(socket_of(process))
        proxy.throttle(1_000_000 / (MS * 1000))
        assert getattr(process, method)(message)
        receiver = theirs if role == "client" else ours
        wait_for(lambda: receiver.all("focBinary") or receiver.all("lost"))
        assert receiver.names == ["focContinuation", "focBinary"]


def socket_of(process: WebSocketProcess) -> socket.socket:
    """Return the socket below a running process."""
    transport = getattr(process, "transport")  # noqa: B009 - of WebCrtSocketProcess
    sock = transport.sock
    assert isinstance(sock, socket.socket)
    return sock


def test_the_kernel_watches_too(server: WebSocketServer) -> None:
    """``SO_KEEPALIVE`` and ``TCP_USER_TIMEOUT`` are set on both sides, where the platform has
    them.
    """
    with connect(server.port) as client:
        process = wait_for(lambda: server.is_active_websocket(process_of(client).connection_id))
        for side in (process_of(client), process):
            sock = socket_of(side)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 0
