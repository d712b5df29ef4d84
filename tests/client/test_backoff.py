"""The waits of running clients: what their policy is told and asked, when a wait starts anew, ends
early, or is the last one.

The policies by themselves, without a client, are the matter of ``test_reconnect_policies.py``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
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
    ReconnectingClient,
    Recorder,
    connect,
    echo,
    echo_server,
    ms,
    new_client,
    polite,
    process_of,
    send_text,
    sending,
    silent,
    text,
    upgrade,
    wait_for,
)
from support.faults import took
from support.tls import Authority, tls_client, tls_server

from mormot_ws import (
    ExponentialBackoff,
    FailureKind,
    HttpClientWebSockets,
    LinearBackoff,
    ReconnectFailure,
    ReconnectPolicy,
    StopOn,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketProcessClient,
    WebSocketServer,
    focContinuation,
    sClosed,
    server_tls_context,
    sFinished,
    sRun,
    wpsRun,
)
from mormot_ws.testing import FaultProxy


class Watched:
    """Another policy, whose every answer is remembered with its time."""

    def __init__(self, policy: ReconnectPolicy) -> None:
        self.policy = policy
        self.delays: list[float] = []
        self.failures: list[ReconnectFailure] = []
        self.asked: list[float] = []
        self.resets = 0
        self.thread = threading.current_thread()

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        self.asked.append(time.monotonic())
        self.failures.append(failure)
        self.thread = threading.current_thread()
        delay = self.policy.next_delay(failure)
        if delay is not None:
            self.delays.append(delay)
        return delay

    def reset(self) -> None:
        self.resets += 1
        self.policy.reset()


class Doubling:
    """Waits that double, without any jitter, so that a test can tell them apart."""

    def __init__(self, first: float) -> None:
        self.first = first
        self.next = first

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        delay, self.next = self.next, self.next * 2
        return delay

    def reset(self) -> None:
        self.next = self.first


def reconnecting(
    port: int, policy: ReconnectPolicy, callback: Any = None, **settings: Any
) -> HttpClientWebSockets:
    """Return a client that reconnects by *policy*; free it."""
    client = connect(port, callback, reconnect_policy=lambda: policy, **settings)
    client.auto_reconnect()
    return client


def lose_server(server: WebSocketServer) -> int:
    """Free *server*; return its port, on which connections are refused from now on."""
    server.free()
    return server.port


def thread_of(client: HttpClientWebSockets) -> threading.Thread:
    """Return the client's thread."""
    thread = process_of(client).client_thread
    assert thread is not None
    return thread


def wait_given_up(client: HttpClientWebSockets) -> None:
    """Wait until the client's thread has ended by itself."""
    thread_of(client).join(BOUND)
    assert not thread_of(client).is_alive()


# ---------------------------------------------------------------------------------------- the waits


def test_the_default_is_exponential_with_full_jitter_from_100_ms(server: WebSocketServer) -> None:
    """Without a policy of its own a client draws each wait below a bound that begins with 100 ms
    and doubles, capped at 10 to 15 s.
    """
    with HttpClientWebSockets.open(HOST, server.port) as client:
        assert upgrade(client) == ""
        client.auto_reconnect()
        policy = client.policy
        assert isinstance(policy, ExponentialBackoff)
        assert policy.base_ms == 100
        assert 10_000 <= policy.cap_ms <= 15_000
        watched = client.policy = Watched(policy)
        lose_server(server)
        wait_for(lambda: len(watched.asked) >= 4)
        for number, delay in enumerate(watched.delays):
            assert 0 <= delay <= 100 * 2**number
        assert watched.resets == 1


def test_two_clients_do_not_wait_in_step(server: WebSocketServer) -> None:
    """Each client has a policy object of its own, with a cap of its own."""
    with (
        HttpClientWebSockets.open(HOST, server.port) as one,
        HttpClientWebSockets.open(HOST, server.port) as two,
    ):
        assert [upgrade(one), upgrade(two)] == ["", ""]
        assert one.policy is not two.policy
        assert isinstance(one.policy, ExponentialBackoff)
        assert isinstance(two.policy, ExponentialBackoff)
        assert one.policy.cap_ms != two.policy.cap_ms


def test_a_client_waits_what_its_policy_says(server: WebSocketServer) -> None:
    """Between two questions to the policy there is the wait that it has asked for, and hardly
    more.
    """
    watched = Watched(Doubling(ms(10)))
    with reconnecting(server.port, watched):
        lose_server(server)
        wait_for(lambda: len(watched.asked) >= 6)
    pauses = [after - before for before, after in pairwise(watched.asked)]
    for pause, delay in zip(pauses, watched.delays, strict=False):
        assert delay / 1000 <= pause <= delay / 1000 + 250 * MS


def test_waits_stay_below_the_cap(server: WebSocketServer) -> None:
    """However often an attempt fails, the next one comes within the cap."""
    watched = Watched(ExponentialBackoff(base_ms=ms(5), cap_ms=ms(20)))
    with reconnecting(server.port, watched):
        lose_server(server)
        wait_for(lambda: len(watched.asked) >= 25)
    assert max(watched.delays) <= ms(20)
    pauses = sorted(after - before for before, after in pairwise(watched.asked))
    assert pauses[len(pauses) // 2] < 120 * MS


def test_the_linear_pace_of_the_original_can_be_chosen(server: WebSocketServer) -> None:
    """``settings.reconnect_policy = LinearBackoff`` waits as the native client does, and comes
    back.
    """
    port = server.port
    with connect(port, reconnect_policy=LinearBackoff) as client:
        client.auto_reconnect()
        assert isinstance(client.policy, LinearBackoff)
        watched = client.policy = Watched(client.policy)
        lose_server(server)
        wait_for(lambda: len(watched.delays) >= 3)
        assert watched.delays == sorted(watched.delays)
        with echo_server(port):
            wait_for(lambda: client.status().reconnects == 1)


def test_the_policy_is_asked_in_the_clients_thread(server: WebSocketServer) -> None:
    """No lock is needed in a policy: one thread asks it, the one of all callbacks."""
    watched = Watched(FixedDelay(ms(5)))
    with reconnecting(server.port, watched) as client:
        lose_server(server)
        wait_for(lambda: len(watched.asked) >= 3)
        assert watched.thread is thread_of(client)


# ------------------------------------------------------------------------------- stable connections


def dropping(process: WebSocketProcess, frame: WebSocketFrame) -> None:
    """An ``on_incoming_frame`` of a server that accepts a connection and drops it at once."""
    if frame.opcode is focContinuation:
        process.abort("dropped")


def test_a_server_that_accepts_and_drops_at_once_is_not_hammered() -> None:
    """A connection that did not live for ``reconnect_stable_after`` does not start the waits anew:
    they go on growing.
    """
    watched = Watched(Doubling(ms(10)))
    with echo_server(callback=dropping) as server, reconnecting(server.port, watched):
        wait_for(lambda: len(watched.asked) >= 6)
        assert server.status().upgraded <= 7
    assert watched.delays[:6] == [ms(10) * 2**n for n in range(6)]
    assert watched.resets == 1
    assert {failure.kind for failure in watched.failures} == {FailureKind.lost}
    assert watched.failures[-1].elapsed_ms >= sum(watched.delays[:5])


def test_a_stable_connection_starts_the_waits_anew() -> None:
    """After a connection that has lived for ``reconnect_stable_after`` the next loss is the first
    again.
    """
    watched = Watched(Doubling(ms(10)))
    with (
        echo_server() as server,
        FaultProxy(HOST, server.port) as proxy,
        reconnecting(proxy.port, watched, reconnect_stable_after=ms(100)) as client,
    ):
        for number in range(3):
            wait_for(
                lambda number=number: (
                    client.status().reconnects == number and client.status().connected
                )
            )  # type: ignore[misc]
            # a connection becomes stable by age alone
            time.sleep(150 * MS)
            proxy.cut()
        wait_for(lambda: len(watched.delays) == 3)
    assert watched.delays == [ms(10)] * 3
    assert watched.resets == 3
    assert [failure.attempts for failure in watched.failures] == [0, 0, 0]
    assert all(failure.elapsed_ms < 1_000 for failure in watched.failures)


def test_failures_are_counted_over_unstable_connections(server: WebSocketServer) -> None:
    """An unstable connection in between does not make the failed attempts forgotten."""
    watched = Watched(FixedDelay(ms(5)))
    port = server.port
    with FaultProxy(HOST, port) as proxy, reconnecting(proxy.port, watched) as client:
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: len(watched.failures) >= 4)
        proxy.accept()
        wait_for(lambda: client.status().connected)
        before = watched.failures[-1].attempts
        proxy.cut()
        wait_for(
            lambda: watched.failures[-1].kind is FailureKind.lost and len(watched.failures) > 4
        )
        assert watched.failures[-1].attempts >= before >= 3


# -------------------------------------------------------------------------- what the policy is told


def told(watched: Watched, kind: FailureKind) -> ReconnectFailure:
    """Wait until the policy is told of a failure of that *kind*; return it."""

    def find() -> list[ReconnectFailure]:
        return [failure for failure in watched.failures if failure.kind is kind]

    return wait_for(find, what=f"a failure {kind.name} in {watched.failures}")[0]


@pytest.fixture
def watched() -> Watched:
    """A policy that waits 5 ms and remembers what it was told."""
    return Watched(FixedDelay(ms(5)))


def test_a_loss_is_told_with_its_close_code(server: WebSocketServer, watched: Watched) -> None:
    """``lost`` comes first, with the code of the close frame and no failed attempt."""
    with reconnecting(server.port, watched):
        lose_server(server)
        lost = told(watched, FailureKind.lost)
    assert (lost.close_code, lost.attempts, lost.http_status) == (1001, 0, 0)


def test_a_loss_without_close_frame_is_told_as_1006(
    server: WebSocketServer, watched: Watched
) -> None:
    """``lost`` says why, in words, too."""
    with FaultProxy(HOST, server.port) as proxy, reconnecting(proxy.port, watched):
        proxy.cut()
        lost = told(watched, FailureKind.lost)
    assert lost.close_code == 1006
    assert lost.text


def test_a_refused_port_is_told(server: WebSocketServer, watched: Watched) -> None:
    """``refused``: nobody listens there; the attempts are counted, and the code of the loss is
    still there.
    """
    with reconnecting(server.port, watched):
        lose_server(server)
        refused = told(watched, FailureKind.refused)
        wait_for(lambda: len(watched.failures) >= 4)
    assert (refused.attempts, refused.close_code) == (1, 1001)
    assert "refused" in refused.text.lower()
    assert [failure.attempts for failure in watched.failures[:4]] == [0, 1, 2, 3]


def test_a_silent_upgrade_is_told_as_a_time_out(server: WebSocketServer, watched: Watched) -> None:
    """``timeout``: TCP is connected, but nobody answers the upgrade."""
    client = new_client_by(server.port, watched, timeout=100)
    with FaultProxy(HOST, server.port) as proxy, client:
        client.port = proxy.port
        proxy.blackhole()
        lose_server(server)
        failure = told(watched, FailureKind.timeout)
    assert (failure.http_status, failure.attempts) == (0, 1)


def new_client_by(port: int, policy: ReconnectPolicy, timeout: int) -> HttpClientWebSockets:
    """Return a client with a short *timeout* that reconnects by *policy*; free it."""
    client = new_client(port, timeout=timeout, reconnect_policy=lambda: policy)
    assert upgrade(client) == ""
    client.auto_reconnect()
    return client


def test_a_silent_tls_handshake_is_told_as_a_time_out(tmp_path: Path, watched: Watched) -> None:
    """``timeout``: TCP is connected, but nobody answers the TLS handshake."""
    authority = Authority(tmp_path)
    with (
        tls_server(authority.server_context(), echo) as server,
        FaultProxy(HOST, server.port) as proxy,
        tls_client(
            proxy.port,
            authority.client_context(),
            timeout=ms(200),
            reconnect_policy=lambda: watched,
        ) as client,
    ):
        assert upgrade(client) == ""
        client.auto_reconnect()
        proxy.blackhole()
        proxy.cut()
        assert told(watched, FailureKind.timeout).http_status == 0


def test_a_certificate_that_is_not_trusted_is_told_as_tls(tmp_path: Path, watched: Watched) -> None:
    """``tls``: the server that came back is not the one that is trusted."""
    good, other = Authority(tmp_path, "good"), Authority(tmp_path, "other")
    with (
        tls_server(good.server_context(), echo) as server,
        tls_client(server.port, good.client_context(), reconnect_policy=lambda: watched) as client,
    ):
        assert upgrade(client) == ""
        client.auto_reconnect()
        server.free()
        with tls_server(other.server_context(), echo, server.port):
            failure = told(watched, FailureKind.tls)
    assert "certificate" in failure.text.lower()


def test_a_client_certificate_that_the_server_refuses_is_told_as_tls(
    tmp_path: Path, watched: Watched
) -> None:
    """``tls`` under TLS 1.3 too, where the refusal arrives only in place of the answer to the
    upgrade.
    """
    authority = Authority(tmp_path)
    strict = server_tls_context(
        authority.certificate_file, authority.private_key_file, None, authority.file
    )
    with (
        tls_server(authority.server_context(), echo) as server,
        tls_client(
            server.port, authority.client_context(), reconnect_policy=lambda: watched
        ) as client,
    ):
        assert upgrade(client) == ""
        client.auto_reconnect()
        server.free()
        with tls_server(strict, echo, server.port):
            failure = told(watched, FailureKind.tls)
    assert (
        "certificate required" in failure.text.lower()
        or "handshake failure" in failure.text.lower()
    )


def until_told(peer: RawServerPeer) -> None:
    """Behaviour: upgrade, and drop the connection when a message comes."""
    peer.accept()
    peer.receive_frame()


def first_polite_then(*answers: bytes) -> list[Callable[[RawServerPeer], Any]]:
    """Return behaviours: accept a connection until told, give each of the *answers* to an upgrade,
    then be polite.
    """
    return [until_told, *(sending(answer) for answer in answers), polite]


def refusal(status: int) -> bytes:
    """Return the answer of a server that refuses an upgrade."""
    return f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def test_a_refused_upgrade_is_told_with_its_http_status(watched: Watched) -> None:
    """``upgrade``: each attempt is told with the status that it got; a cut answer has none."""
    answers = first_polite_then(refusal(401), refusal(403), refusal(503), b"HTTP/1.1 10")
    with RawServer(*answers) as server, reconnecting(server.port, watched) as client:
        assert send_text(client, "drop me")
        wait_for(lambda: client.status().reconnects == 1)
    found = [(failure.kind, failure.http_status) for failure in watched.failures[1:]]
    assert found == [(FailureKind.upgrade, status) for status in (401, 403, 503, 0)]
    assert [failure.attempts for failure in watched.failures] == [0, 1, 2, 3, 4]
    assert "503" in watched.failures[3].text


def test_a_callback_that_refuses_is_told(server: WebSocketServer, watched: Watched) -> None:
    """``callback``: ``on_reconnect`` returned a text, raised, or did not upgrade; its words are
    passed on.
    """
    answers: Iterator[Any] = iter(["not in the mood", ValueError("a bug"), "", None])

    def on_reconnect(process: WebSocketProcessClient | None) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return again(process) or "" if answer is None else str(answer)

    with FaultProxy(HOST, server.port) as proxy, reconnecting(proxy.port, watched) as client:
        process = process_of(client)
        assert process.on_reconnect is not None
        again = process.on_reconnect
        process.on_reconnect = on_reconnect
        proxy.cut()
        wait_for(lambda: client.status().reconnects == 1)
    kinds = [failure.kind for failure in watched.failures]
    assert kinds == [FailureKind.lost] + [FailureKind.callback] * 3
    texts = [failure.text for failure in watched.failures[1:]]
    assert texts[:2] == ["not in the mood", "ValueError: a bug"]
    assert texts[2]


# ---------------------------------------------------------------------------------------- giving up


@pytest.mark.parametrize("status", [401, 403, 404])
def test_stop_on_ends_at_a_refusal_that_will_not_heal(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """``StopOn`` ends the client's thread at 401, 403 or 404, with a warning that says why, and
    makes no further attempt.
    """
    caplog.set_level(logging.WARNING, "mormot_ws")
    policy = StopOn(FixedDelay(ms(5)))
    with (
        RawServer(*first_polite_then(refusal(503), refusal(status))) as server,
        reconnecting(server.port, policy) as client,
    ):
        assert send_text(client, "drop me")
        wait_given_up(client)
        assert server.accepted == 3
        assert client.status().thread_state == "sFinished"
        assert str(status) in client.status().last_error
        assert not process_of(client).send_frame_async(text("nobody will ever send this"))
    assert any(
        str(status) in record.getMessage() and "giving up" in record.getMessage()
        for record in caplog.records
    )


def test_stop_on_ends_at_a_close_code_that_will_not_heal(server: WebSocketServer) -> None:
    """``StopOn`` ends at 1008: the server does not want this client."""
    with reconnecting(server.port, StopOn(FixedDelay(ms(5)))) as client:
        connection = wait_for(lambda: server.is_active_websocket(process_of(client).connection_id))
        connection.shutdown(1008, "go away")
        wait_given_up(client)
        assert client.status().thread_state == "sClosed"
        assert server.status().accepted == 1


def test_stop_on_goes_on_at_anything_else() -> None:
    """503 and 1011 heal."""
    recorder = Recorder()
    with (
        RawServer(*first_polite_then(refusal(503), refusal(410), refusal(500))) as server,
        reconnecting(server.port, StopOn(FixedDelay(ms(5))), recorder.frame) as client,
    ):
        assert send_text(client, "drop me")
        wait_for(lambda: client.status().reconnects == 1)
        assert send_text(client, "back")
        recorder.wait("focText")


@pytest.mark.parametrize("kind", [ExponentialBackoff, LinearBackoff])
def test_a_maximum_of_attempts_ends_the_reconnection(server: WebSocketServer, kind: Any) -> None:
    """After ``max_attempts`` failed attempts in a row the thread ends; not one more is made."""
    recorder = Recorder()
    port = server.port
    options = {
        "cap_ms": ms(10),
        "max_attempts": 4,
        "base_ms" if kind is ExponentialBackoff else "step_ms": ms(5),
    }
    with ReconnectingClient(
        port, recorder, reconnect_policy=lambda: kind(**options)
    ) as reconnecting_client:
        lose_server(server)
        wait_given_up(reconnecting_client.client)
        assert len(recorder.all("on_reconnect(None)")) == 4
        assert reconnecting_client.process.attempts == 4
        assert process_of(reconnecting_client.client).client_thread is not None
        assert reconnecting_client.client.status().thread_state in (sFinished.name, sClosed.name)


def test_a_maximum_of_time_ends_the_reconnection(server: WebSocketServer) -> None:
    """``max_time_ms`` after the loss the thread ends, whatever the number of attempts."""
    watched = Watched(ExponentialBackoff(base_ms=ms(5), cap_ms=ms(10), max_time_ms=ms(200)))
    with reconnecting(server.port, watched) as client:
        started = time.monotonic()
        lose_server(server)
        wait_given_up(client)
        assert 200 * MS <= took(started) < 1_200 * MS
        assert len(watched.failures) > 3


# ------------------------------------------------------------------------------------ reconnect_now


@pytest.mark.parametrize("how", ["client", "process"])
@pytest.mark.parametrize("thread", ["main", "another"])
def test_reconnect_now_cuts_a_wait_short(server: WebSocketServer, how: str, thread: str) -> None:
    """From any thread, by the client or its process: the next attempt is made at once, and the
    call does not wait for it.
    """
    watched = Watched(FixedDelay(60_000))
    with FaultProxy(HOST, server.port) as proxy, reconnecting(proxy.port, watched) as client:
        proxy.cut()
        wait_for(lambda: watched.delays)
        call = client.reconnect_now if how == "client" else process_of(client).reconnect_now
        started = time.monotonic()
        if thread == "main":
            call()
        else:
            other = threading.Thread(target=call)
            other.start()
            other.join(BOUND)
        assert took(started) < 500 * MS
        wait_for(lambda: client.status().reconnects == 1)
        assert took(started) < 2_000 * MS


def test_reconnect_now_makes_one_attempt(server: WebSocketServer) -> None:
    """When that attempt fails the policy is asked again, and its wait is kept."""
    watched = Watched(FixedDelay(60_000))
    with FaultProxy(HOST, server.port) as proxy, reconnecting(proxy.port, watched) as client:
        proxy.refuse()
        proxy.cut()
        wait_for(lambda: len(watched.delays) == 1)
        client.reconnect_now()
        wait_for(lambda: len(watched.delays) == 2)
        # a further attempt, which is not to be made, would come meanwhile
        time.sleep(100 * MS)
        assert len(watched.delays) == 2
        proxy.accept()
        client.reconnect_now()
        wait_for(lambda: client.status().connected)


def test_reconnect_now_on_a_running_connection_does_nothing(server: WebSocketServer) -> None:
    """There is no wait to cut short: neither the connection nor a later wait is touched."""
    watched = Watched(FixedDelay(ms(300)))
    with FaultProxy(HOST, server.port) as proxy, reconnecting(proxy.port, watched) as client:
        client.reconnect_now()
        assert process_of(client).state is wpsRun
        proxy.cut()
        wait_for(lambda: watched.delays)
        started = watched.asked[0]
        wait_for(lambda: client.status().reconnects == 1)
        assert took(started) >= 290 * MS


def test_reconnect_now_without_a_thread_does_nothing(server: WebSocketServer) -> None:
    """Before the first upgrade, and after the end, it is harmless."""
    with new_client(server.port) as client:
        client.reconnect_now()
        assert upgrade(client) == ""
    client.reconnect_now()


def test_terminate_ends_a_wait(server: WebSocketServer) -> None:
    """``terminate()`` during a wait ends the thread without a further attempt."""
    watched = Watched(FixedDelay(60_000))
    with FaultProxy(HOST, server.port) as proxy, reconnecting(proxy.port, watched) as client:
        proxy.cut()
        wait_for(lambda: watched.delays)
        thread = process_of(client).client_thread
        assert thread is not None
        assert thread.thread_state is sRun
        thread.terminate()
        wait_given_up(client)
        assert proxy.accepted == 1


# ------------------------------------------------------------------------------- policies with bugs


class Buggy(FixedDelay):
    """A policy with a bug in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__(ms(5))
        self.method = method

    def next_delay(self, failure: ReconnectFailure) -> float | None:
        if self.method == "next_delay":
            raise RuntimeError("a bug in the policy")
        return super().next_delay(failure)

    def reset(self) -> None:
        if self.method == "reset":
            raise RuntimeError("a bug in the policy")


@pytest.mark.parametrize("method", ["next_delay", "reset"])
def test_a_policy_that_raises_is_logged_and_harms_nobody_else(
    server: WebSocketServer, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a policy raises is in the log with its traceback, the client says truly whether it goes
    on, and others do not notice.
    """
    with (
        FaultProxy(HOST, server.port) as proxy,
        reconnecting(proxy.port, Buggy(method)) as client,
        reconnecting(proxy.port, FixedDelay(ms(5))) as other,
    ):
        proxy.cut()
        wait_for(lambda: other.status().reconnects == 1)
        wait_for(lambda: client.status().connected or not thread_of(client).is_alive())
        records = [
            record
            for record in caplog.records
            if record.levelno >= logging.ERROR and record.exc_info
        ]
        assert any("a bug in the policy" in str(record.exc_info) for record in records)
        if not client.status().connected:
            assert client.status().thread_state == "sFinished"
            assert not process_of(client).send_frame_async(text("nobody will ever send this"))


def test_a_policy_that_cannot_be_made_is_told_to_the_caller(server: WebSocketServer) -> None:
    """What ``settings.reconnect_policy`` raises reaches the caller of the upgrade, and nothing is
    left behind.
    """

    def broken() -> ReconnectPolicy:
        raise RuntimeError("a bug in the factory")

    with new_client(server.port, reconnect_policy=broken) as client:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a bug in the factory"):
                upgrade(client)
            assert not client.status().connected
            assert client.reopen() == ""
        client.settings.reconnect_policy = lambda: FixedDelay(0)
        assert upgrade(client) == ""
    assert "mormot_ws clients' keeper" not in [thread.name for thread in threading.enumerate()]
    wait_for(lambda: not server.websocket_connections)


@pytest.mark.parametrize("delay", [0, 0.25])
def test_a_policy_may_ask_for_no_wait(server: WebSocketServer, delay: float) -> None:
    """0 is no wait, fractions of a millisecond are fine."""
    with (
        FaultProxy(HOST, server.port) as proxy,
        reconnecting(proxy.port, FixedDelay(delay)) as client,
    ):
        proxy.cut()
        wait_for(lambda: client.status().reconnects == 1)


def test_without_silence_no_policy_is_asked(server: WebSocketServer) -> None:
    """A client that does not reconnect does not ask how long to wait."""
    watched = Watched(FixedDelay(ms(5)))
    with connect(server.port, reconnect_policy=lambda: watched) as client:
        lose_server(server)
        wait_given_up(client)
    with echo_server() as second, connect(second.port, reconnect_policy=lambda: watched) as client:
        client.auto_reconnect()
        client.settings.client_auto_upgrade = False
        second.free()
        wait_given_up(client)
    assert watched.delays == []


def test_a_silent_server_does_not_stop_the_attempts(watched: Watched) -> None:
    """After a time-out the next attempt comes, and succeeds when the server answers again."""
    with (
        RawServer(until_told, silent, polite) as server,
        new_client_by(server.port, watched, timeout=100) as client,
    ):
        assert send_text(client, "drop me")
        wait_for(lambda: client.status().reconnects == 1)
    assert FailureKind.timeout in {failure.kind for failure in watched.failures}
