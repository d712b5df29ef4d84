"""Happy Eyeballs (RFC 8305): the addresses of a name are tried beside each other, and one that has
failed comes last.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import BOUND, HOST, ms, wait_for
from support.faults import full_listener

from mormot_ws.sockets.crtsocket import CrtSocket
from mormot_ws.sockets.deadline import Deadline
from mormot_ws.sockets.dialling import STAGGER_MS, Dialling, _check_connected
from mormot_ws.sockets.lookup import in_order

V4, V6 = socket.AF_INET, socket.AF_INET6
_SOCKET = socket.socket


def info(host: str, port: int = 80) -> Any:
    """Return an address as the system's look-up does."""
    if ":" in host:
        return (V6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0))
    return (V4, socket.SOCK_STREAM, 6, "", (host, port))


def hosts(infos: list[Any]) -> list[str]:
    """Return the hosts of addresses."""
    return [one[4][0] for one in infos]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the name ``dual.test`` stands for; to be filled."""
    addresses: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(addresses))
    return addresses


@pytest.fixture
def hole() -> Iterator[int]:
    """A port that never answers an attempt."""
    with full_listener() as port:
        yield port


@pytest.fixture
def second_hole() -> Iterator[int]:
    """Another one."""
    with full_listener() as port:
        yield port


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that takes connections."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener


def dial(found: list[Any], failed: dict[Any, None] | None = None, timeout: float = 5_000) -> Any:
    """Dial ``dual.test``; return the address that won."""
    dialling = Dialling("dual.test", 80, failed or {})
    sock, address = dialling.connect(Deadline(ms(timeout)), Deadline(BOUND * 1000))
    dialling.taken(None)
    assert sock.fileno() < 0
    return address


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def test_the_families_take_turns() -> None:
    """The system's order within each, and its first family first."""
    six, four = [info(f"fd00::{n}") for n in range(3)], [info(f"10.0.0.{n}") for n in range(2)]
    assert hosts(in_order([*six, *four], {})) == [
        "fd00::0",
        "10.0.0.0",
        "fd00::1",
        "10.0.0.1",
        "fd00::2",
    ]
    assert in_order([], {}) == []


def test_addresses_that_failed_come_last_the_oldest_failure_first() -> None:
    """So that each gets its turn when none works."""
    order = [info(f"10.0.0.{n}") for n in range(4)]
    failed = {("10.0.0.2", 80): None, ("10.0.0.0", 80): None}
    assert hosts(in_order(order, failed)) == ["10.0.0.1", "10.0.0.3", "10.0.0.2", "10.0.0.0"]


def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second(
    found: list[Any], hole: int, listener: socket.socket
) -> None:
    """The next one is tried beside it, long before its time is up."""
    found += [info(HOST, hole), info(HOST, listener.getsockname()[1])]
    began = time.monotonic()
    assert dial(found, timeout=20_000) == listener.getsockname()
    assert 0.2 < time.monotonic() - began < BOUND / 2


def test_the_second_address_of_localhost_starts_at_once() -> None:
    """Windows takes two seconds to refuse the first."""
    dialling = Dialling("localhost", 80, {})
    both = [info("::1"), info("127.0.0.1")]
    assert (dialling._pause(both, Deadline(10_000)).seconds() or 1) < 0.05
    others = [info("::1"), info("10.0.0.1")]
    assert (dialling._pause(others, Deadline(10_000)).seconds() or 0) > 0.2


def test_a_short_time_is_shared_by_the_addresses(
    found: list[Any], hole: int, second_hole: int, listener: socket.socket
) -> None:
    """With less than 250 ms for each, the next ones start sooner."""
    found += [info(HOST, port) for port in (hole, second_hole, listener.getsockname()[1])]
    assert dial(found, timeout=400) == listener.getsockname()


def test_an_address_that_refuses_costs_no_wait(
    found: list[Any], listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure the next one starts at once."""
    monkeypatch.setattr("mormot_ws.sockets.dialling.STAGGER_MS", BOUND * 1000)
    port = listener.getsockname()[1]
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        found += [info(HOST, bound.getsockname()[1]), info(HOST, port)]
        began = time.monotonic()
        assert dial(found, timeout=BOUND * 2000) == (HOST, port)
        assert time.monotonic() - began < BOUND / 2


def test_a_failure_starts_the_next_at_once_while_others_go_on(
    found: list[Any], hole: int, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first never answers, the second refuses: the third need not wait for its turn."""
    pauses = [0.0]
    monkeypatch.setattr(
        Dialling, "_pause", lambda *_: Deadline(pauses.pop() if pauses else BOUND * 1000)
    )
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        ports = (hole, bound.getsockname()[1], listener.getsockname()[1])
        found += [info(HOST, port) for port in ports]
        began = time.monotonic()
        assert dial(found, timeout=BOUND * 2000) == listener.getsockname()
        assert time.monotonic() - began < BOUND / 2


def test_a_connection_to_itself_is_a_refusal() -> None:
    """Nobody listens, but the kernel may give the attempt that very port."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        sock.connect(sock.getsockname())
        with pytest.raises(ConnectionRefusedError):
            _check_connected(sock)


def test_an_attempt_goes_on_when_the_next_has_started(found: list[Any], hole: int) -> None:
    """The first address is slow, the second never answers: the first wins."""
    with socket.create_server((HOST, 0), backlog=0) as slow, contextlib.ExitStack() as stack:
        for _ in range(4):
            # as many as its queue takes, and more: further attempts get no answer
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(slow.getsockname())
        found += [info(*slow.getsockname()), info(HOST, hole)]
        dialling = Dialling("dual.test", 80, {})
        deadline = Deadline(BOUND * 2000)
        won: list[Any] = []
        thread = threading.Thread(
            target=lambda: won.append(dialling.connect(deadline, deadline)[1]), daemon=True
        )
        thread.start()
        wait_for(lambda: len(dialling._sockets) == 2, what="the second attempt")
        slow.setblocking(False)
        wait_for(lambda: accepted(slow) or won, bound=BOUND * 2, what="the answer to the first")
        thread.join(BOUND)
        dialling.taken(None)
        assert won == [slow.getsockname()]


def accepted(listener: socket.socket) -> bool:
    """Take all connections that wait; return False."""
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
    return False


def test_an_address_that_failed_does_not_win_by_being_nearer(
    found: list[Any], listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts only after a longer wait, or when the others have failed."""
    pauses: list[float | None] = []
    real = Dialling._pause

    def pause(self: Dialling, waiting: list[Any], deadline: Deadline) -> Deadline:
        result = real(self, waiting, deadline)
        pauses.append(result.seconds())
        return result

    monkeypatch.setattr(Dialling, "_pause", pause)
    port = listener.getsockname()[1]
    found += [info(HOST, port), info("127.0.0.2", port)]
    failed = {found[0][4]: None}
    with socket.create_server(("127.0.0.2", port)):
        assert dial(found, failed, 8_000) == ("127.0.0.2", port)
    assert pauses[0] is not None
    assert pauses[0] > 2 * STAGGER_MS / 1000
    # and when nobody listens on the other, it is used all the same
    assert dial(found, failed, 8_000) == (HOST, port)


def test_all_fail_with_the_error_of_the_last(found: list[Any]) -> None:
    """As one address would."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        found += [info(HOST, bound.getsockname()[1])]
        with pytest.raises(ConnectionRefusedError):
            dial(found)


def test_no_address_at_all_is_an_error(found: list[Any]) -> None:
    """Not a success, nor a wait."""
    with pytest.raises(OSError, match="no address"):
        dial(found)


def test_nothing_is_left_of_the_attempts(
    found: list[Any], hole: int, second_hole: int, listener: socket.socket
) -> None:
    """The losers of a success, and all of a failure, are closed, and what would wake them."""
    found += [info(HOST, hole), info(HOST, second_hole)]
    before = descriptors()
    with pytest.raises(TimeoutError):
        dial(found, timeout=100)
    found.append(info(HOST, listener.getsockname()[1]))
    dial(found)
    assert descriptors() == before


@pytest.mark.parametrize("where", ["look-up", "attempt"])
def test_an_interrupt_ends_it_at_once(
    where: str, hole: int, second_hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another thread, in the look-up too; nothing is left."""
    over, begun = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> list[Any]:
        begun.set()
        if where == "look-up":
            over.wait(BOUND)
        return [info(HOST, hole), info(HOST, second_hole)]

    client = client_without_connection()
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    before = descriptors()
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(client.reopen()), daemon=True)
    thread.start()
    assert begun.wait(BOUND)
    if where == "attempt":
        wait_for(lambda: client._dialling is not None and len(client._dialling._sockets) == 2)
    began = time.monotonic()
    client.interrupt()
    thread.join(BOUND)
    assert time.monotonic() - began < BOUND / 2
    assert result == ["ConnectionAbortedError: interrupted"]
    over.set()
    wait_for(lambda: not any("look-up" in one.name for one in threading.enumerate()))
    client.close()
    assert descriptors() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_closes_all_pending_descriptors_and_touches_no_connection(
    found: list[Any], hole: int, second_hole: int
) -> None:
    """The parent's attempts go on."""
    found += [info(HOST, hole), info(HOST, second_hole)]
    client = client_without_connection()
    thread = threading.Thread(target=client.reopen, daemon=True)
    thread.start()
    wait_for(lambda: client._dialling is not None and len(client._dialling._sockets) == 2)
    assert client._dialling is not None
    pending = [sock.fileno() for sock in client._dialling._sockets]
    pid = os.fork()
    if not pid:
        code = 1
        with contextlib.suppress(BaseException):
            closed = 0
            for number in pending:
                try:
                    os.fstat(number)
                except OSError:
                    closed += 1
            code = 0 if closed == 2 and "parent" in client.reopen() else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert thread.is_alive()
    assert all(sock.fileno() >= 0 for sock in client._dialling._sockets)
    client.interrupt()
    thread.join(BOUND)
    assert not thread.is_alive()


def client_without_connection() -> CrtSocket:
    """Return a client that has failed to connect at once."""
    client = CrtSocket("127.0.0.1", 1, timeout=ms(5_000), proxy="")
    assert not client.connected
    client.host, client.timeout = "dual.test", 60_000
    return client


def test_whatever_a_look_up_raises_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver of the program's own may raise anything; nobody waits for it in vain."""

    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("no resolver")

    client = client_without_connection()
    monkeypatch.setattr(socket, "getaddrinfo", broken)
    assert "RuntimeError: no resolver" in client.reopen()


def test_no_thread_for_the_look_up_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an exception."""

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = client_without_connection()
    monkeypatch.setattr(threading.Thread, "start", none)
    assert "can't start new thread" in client.reopen()
