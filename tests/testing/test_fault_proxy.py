"""The fault proxy itself: what the fault tests stand on has to do what it says."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support import BOUND, HOST, MS, refused_port, wait_for
from support.programs import Program

from mormot_ws.testing import FaultProxy
from mormot_ws.testing.faultproxy import obey


class Link:
    """Both ends of one link through a proxy."""

    def __init__(self, proxy: FaultProxy, listener: socket.socket) -> None:
        self.client = socket.create_connection((HOST, proxy.port), BOUND)
        self.server, _ = listener.accept()
        self.server.settimeout(BOUND)

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the proxy forwards to."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(BOUND)
        yield listener


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[FaultProxy]:
    """A proxy in front of ``listener``."""
    with FaultProxy(HOST, listener.getsockname()[1]) as proxy:
        yield proxy


def read(sock: socket.socket, size: int) -> bytes:
    """Read *size* bytes."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"the stream ended after {len(data)} bytes"
        data += more
    return data


def silent(sock: socket.socket) -> bool:
    """Tell whether nothing arrives for a while, no end of the stream either."""
    sock.settimeout(100 * MS)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(BOUND)
    return False


def test_it_forwards_both_ways_and_counts(proxy: FaultProxy, listener: socket.socket) -> None:
    """Without a command it is only in between: every byte arrives, in order, with back-pressure."""
    data = bytes(range(256)) * 20_000
    with Link(proxy, listener) as pair:
        writer = threading.Thread(target=pair.client.sendall, args=(data,))
        writer.start()
        assert read(pair.server, len(data)) == data
        writer.join()
        pair.server.sendall(b"down")
        assert read(pair.client, 4) == b"down"
        assert (proxy.accepted, proxy.links) == (1, 1)
    wait_for(lambda: not proxy.links)
    assert proxy.carried == {"up": len(data), "down": 4}


def test_a_half_close_passes(proxy: FaultProxy, listener: socket.socket) -> None:
    """The end of one direction is passed on behind its data, and the other direction goes on."""
    with Link(proxy, listener) as pair:
        pair.client.sendall(b"last")
        pair.client.shutdown(socket.SHUT_WR)
        assert read(pair.server, 4) == b"last"
        assert pair.server.recv(1) == b""
        pair.server.sendall(b"answer")
        assert read(pair.client, 6) == b"answer"


def test_a_reset_passes(proxy: FaultProxy, listener: socket.socket) -> None:
    """A reset of one end resets the other."""
    with Link(proxy, listener) as pair:
        pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        pair.client.close()
        with pytest.raises(ConnectionResetError):
            pair.server.recv(1)


def test_cut_resets_both_ends(proxy: FaultProxy, listener: socket.socket) -> None:
    """``cut`` is a reset for both, and has been done when it returns."""
    with Link(proxy, listener) as pair:
        proxy.cut()
        assert proxy.links == 0
        for sock in (pair.client, pair.server):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_cut_of_some_links_leaves_the_others(proxy: FaultProxy, listener: socket.socket) -> None:
    """With a number only so many links are cut."""
    with Link(proxy, listener), Link(proxy, listener), Link(proxy, listener):
        proxy.cut(2)
        assert proxy.links == 1


def test_close_ends_both_streams(proxy: FaultProxy, listener: socket.socket) -> None:
    """``close`` is an orderly end of the stream for both, without a reset when they send on."""
    with Link(proxy, listener) as pair:
        proxy.close()
        for sock in (pair.client, pair.server):
            assert sock.recv(1) == b""
            sock.sendall(b"into the void")
        assert proxy.links == 1
    wait_for(lambda: not proxy.links)


def test_a_blackhole_tells_nobody_and_loses_nothing(
    proxy: FaultProxy, listener: socket.socket
) -> None:
    """In a blackhole neither bytes nor ends arrive; afterwards all of them do."""
    with Link(proxy, listener) as pair:
        proxy.blackhole()
        pair.client.sendall(b"later")
        pair.client.shutdown(socket.SHUT_WR)
        pair.server.sendall(b"later too")
        assert silent(pair.server)
        assert silent(pair.client)
        proxy.restore()
        assert read(pair.server, 5) == b"later"
        assert pair.server.recv(1) == b""
        assert read(pair.client, 9) == b"later too"


def test_a_blackhole_may_swallow_one_direction_only(
    proxy: FaultProxy, listener: socket.socket
) -> None:
    """With ``down`` closed the server still hears the client."""
    with Link(proxy, listener) as pair:
        proxy.blackhole("down")
        pair.client.sendall(b"up")
        assert read(pair.server, 2) == b"up"
        pair.server.sendall(b"down")
        assert silent(pair.client)
        proxy.restore("down")
        assert read(pair.client, 4) == b"down"


def test_a_blackhole_keeps_a_link_whose_target_has_gone(
    proxy: FaultProxy, listener: socket.socket
) -> None:
    """A client behind a blackhole does not learn that the server was reset, until it is
    restored.
    """
    with Link(proxy, listener) as pair:
        proxy.blackhole()
        pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        pair.server.close()
        assert silent(pair.client)
        proxy.restore()
        with pytest.raises(ConnectionResetError):
            pair.client.recv(1)


def test_a_blackhole_accepts_new_connections(proxy: FaultProxy, listener: socket.socket) -> None:
    """A new connection is accepted, and reaches the target when the blackhole ends."""
    proxy.blackhole()
    with socket.create_connection((HOST, proxy.port), BOUND) as client:
        client.sendall(b"hello")
        wait_for(lambda: proxy.links == 1)
        proxy.restore()
        server, _ = listener.accept()
        with server:
            assert read(server, 5) == b"hello"


def test_delay_lets_bytes_wait(proxy: FaultProxy, listener: socket.socket) -> None:
    """Each direction waits for itself."""
    with Link(proxy, listener) as pair:
        proxy.delay(100 * MS * 1000, "up")
        started = time.monotonic()
        pair.client.sendall(b"slow")
        assert read(pair.server, 4) == b"slow"
        assert time.monotonic() - started >= 100 * MS
        proxy.delay(0)
        pair.server.sendall(b"fast")
        assert read(pair.client, 4) == b"fast"


def test_throttle_bounds_the_pace(proxy: FaultProxy, listener: socket.socket) -> None:
    """A throttled direction takes its time, and loses nothing."""
    with Link(proxy, listener) as pair:
        proxy.throttle(100_000 / MS / 1000, "up")
        data = bytes(range(250)) * 80
        started = time.monotonic()
        pair.client.sendall(data)
        assert read(pair.server, len(data)) == data
        assert time.monotonic() - started >= 150 * MS


@pytest.mark.parametrize("then", ["cut", "close"])
def test_truncate_ends_one_link_after_so_many_bytes(
    proxy: FaultProxy, listener: socket.socket, then: str
) -> None:
    """Exactly so many bytes arrive, then the link ends; the next link is whole again."""
    with Link(proxy, listener) as pair:
        pair.client.sendall(b"before")
        assert read(pair.server, 6) == b"before"
        proxy.truncate(10, "up", "cut" if then == "cut" else "close")
        pair.client.sendall(b"0123456789ABCDEF")
        assert read(pair.server, 10) == b"0123456789"
        if then == "cut":
            with pytest.raises(ConnectionResetError):
                pair.server.recv(1)
        else:
            assert pair.server.recv(1) == b""
    with Link(proxy, listener) as pair:
        pair.client.sendall(b"0123456789ABCDEF")
        assert read(pair.server, 16) == b"0123456789ABCDEF"


def test_refuse_and_accept(proxy: FaultProxy, listener: socket.socket) -> None:
    """While it refuses, the port stays its own, and open links go on."""
    with Link(proxy, listener) as pair:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, proxy.port), BOUND)
        pair.client.sendall(b"still")
        assert read(pair.server, 5) == b"still"
        proxy.accept()
        with Link(proxy, listener):
            assert proxy.links == 2


def test_stall_gives_no_answer_and_accept_ends_it(
    proxy: FaultProxy, listener: socket.socket
) -> None:
    """While it stalls, an attempt to connect is not even refused, and open links go on; what fills
    its queue counts nowhere.
    """
    with Link(proxy, listener) as pair:
        proxy.stall()
        with pytest.raises(TimeoutError):
            socket.create_connection((HOST, proxy.port), 100 * MS)
        pair.client.sendall(b"still")
        assert read(pair.server, 5) == b"still"
        proxy.accept()
        with Link(proxy, listener):
            assert (proxy.links, proxy.accepted) == (2, 2)
        proxy.stall()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, proxy.port), BOUND)


def test_a_target_that_refuses_resets_the_client() -> None:
    """A client does not wait for a server that is not there."""
    with refused_port() as port, FaultProxy(HOST, port) as proxy:
        # the reset may come as early as the end of connect()
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection((HOST, proxy.port), BOUND) as client,
        ):
            client.recv(1)
        wait_for(lambda: proxy.accepted == 1 and not proxy.links)


def test_heal_ends_all_that_lasts(proxy: FaultProxy, listener: socket.socket) -> None:
    """After ``heal`` bytes pass as if nothing had been."""
    with Link(proxy, listener) as pair:
        proxy.delay(60_000)
        proxy.throttle(1)
        proxy.blackhole()
        proxy.truncate(1)
        proxy.refuse()
        proxy.heal()
        pair.client.sendall(b"healthy")
        assert read(pair.server, 7) == b"healthy"


@pytest.mark.parametrize("fault", ["delay", "throttle"])
def test_heal_lets_go_what_was_held_back(
    proxy: FaultProxy, listener: socket.socket, fault: str
) -> None:
    """Bytes that would have waited for years, longer than a selector can wait, come at once."""
    with Link(proxy, listener) as pair:
        if fault == "delay":
            proxy.delay(1e12)
        else:
            proxy.throttle(1e-9)
        pair.client.sendall(b"he")
        wait_for(lambda: bool(proxy._relay.timed))
        proxy.heal()
        pair.client.sendall(b"althy")
        assert read(pair.server, 7) == b"healthy"


def test_free_cuts_and_can_be_repeated(proxy: FaultProxy, listener: socket.socket) -> None:
    """``free`` leaves nothing, and commands behind it do no harm."""
    with Link(proxy, listener) as pair:
        proxy.free()
        proxy.free()
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            pair.client.recv(1)


def test_a_command_that_cannot_be_carried_out_raises_where_it_was_given(
    proxy: FaultProxy, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the proxy's thread belongs to the caller, and the proxy goes on."""

    def fail() -> None:
        raise OSError("no more sockets")

    with monkeypatch.context() as patch:
        patch.setattr(proxy._relay, "refuse", fail)
        with pytest.raises(OSError, match="no more sockets"):
            proxy.refuse()
    with Link(proxy, listener) as pair:
        pair.client.sendall(b"on")
        assert read(pair.server, 2) == b"on"


def test_arguments_that_make_no_sense_are_refused(proxy: FaultProxy) -> None:
    """Directions, numbers and endings are looked at before anything happens."""
    for wrong in (
        lambda: proxy.blackhole("sideways"),  # type: ignore[arg-type]
        lambda: proxy.delay(-1),
        lambda: proxy.delay(math.inf),
        lambda: proxy.throttle(True),
        lambda: proxy.throttle(math.nan),
        lambda: proxy.cut(-1),
        lambda: proxy.close("all"),  # type: ignore[arg-type]
        lambda: proxy.truncate(10, "up", "explode"),  # type: ignore[arg-type]
        lambda: FaultProxy(HOST, 65536),
        lambda: FaultProxy(HOST, 80, port=-1),
    ):
        with pytest.raises(
            ValueError,
            match=r"must be ('up', 'down' or None|a (finite |whole )?number|'cut' or 'close')",
        ):
            wrong()


def test_its_repr_says_where_and_how_much(proxy: FaultProxy, listener: socket.socket) -> None:
    """In a debugger one sees both addresses and the links."""
    to = listener.getsockname()[1]
    with Link(proxy, listener):
        assert repr(proxy) == f"<FaultProxy {HOST}:{proxy.port} -> {HOST}:{to} links=1>"
    assert proxy.uri == f"ws://{HOST}:{proxy.port}/"
    proxy.free()
    assert repr(proxy).endswith(" freed>")


def test_it_is_a_program_too(listener: socket.socket) -> None:
    """``python -m mormot_ws.testing`` prints its port, obeys lines, and ends at ``stop``."""
    with Program(
        "-m", "mormot_ws.testing", "--target", f"{HOST}:{listener.getsockname()[1]}"
    ) as program:
        port = int(program.expect(r"port (\d+)")[1])
        with (
            socket.create_connection((HOST, port), BOUND) as client,
            listener.accept()[0] as server,
        ):
            program.enter("delay 0 up", "nonsense")
            program.expect("^ok$")
            program.expect("^error: 'nonsense'")
            client.sendall(b"up")
            assert read(server, 2) == b"up"
            program.enter("stop")
            assert program.wait() == 0


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("blackhole down", "ok"),
        ("delay 20 up", "ok"),
        ("truncate 100 down close", "ok"),
        ("heal", "ok"),
        ("status", "links 0 accepted 0 up 0 down 0"),
        ("delay", "error"),
        ("delay soon", "error"),
        ("blackhole sideways", "error"),
        ("explode", "error"),
        ("", "error"),
    ],
)
def test_its_command_lines(proxy: FaultProxy, line: str, answer: str) -> None:
    """As a program it takes lines, and says what it thinks of each."""
    assert obey(proxy, line).startswith(answer)
