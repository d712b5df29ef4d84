"""The first connection: a client whose server is not there yet waits for it as it does for a lost
one, and an upgrade that has failed is just called again.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from support import (
    BOUND,
    HOST,
    FixedDelay,
    RawServer,
    Recorder,
    chat,
    drop_on_request,
    echo_server,
    fast_settings,
    ms,
    new_client,
    polite,
    process_of,
    refused_port,
    send_text,
    sending,
    silent,
    text,
    upgrade,
    wait_for,
)
from support.reconnection import NEVER
from support.rest import mirror
from support.tls import Authority, authority, tls_server

from mormot_ws import (
    ExponentialBackoff,
    FailureKind,
    HttpClientWebSockets,
    ReconnectFailure,
    StopOn,
    WebSocketProcess,
    WebSocketProtocolChat,
    WebSocketServerRest,
    focText,
)

__all__ = ["authority"]

REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnever"


def retrying(
    port: int, protocol: WebSocketProtocolChat | None = None, **settings: Any
) -> HttpClientWebSockets:
    """Return a client that connects to *port* in the background; free it."""
    client = HttpClientWebSockets.websockets_connect(
        HOST, port, protocol or chat(), retry=True, settings=fast_settings(**settings)
    )
    assert client is not None
    return client


def wait_connected(client: HttpClientWebSockets) -> None:
    """Wait until *client* is connected."""
    wait_for(lambda: client.status().connected, what="the first connection")


# ------------------------------------------------------------------------------- in the background


def test_a_client_may_be_there_before_its_server() -> None:
    """``retry=True`` returns at once; what is queued meanwhile is sent when the server is there,
    and later losses are reconnected.
    """
    recorder = Recorder()
    with refused_port() as port:
        client = retrying(port, chat(recorder))
        wait_for(lambda: client.status().attempts >= 2)
        assert not client.status().connected
        assert process_of(client).send_frame_async(text("early"))
        assert not send_text(client, "not queued")
    with client:
        with echo_server(port):
            recorder.wait("focText")
            assert recorder.names == ["focContinuation", "focText"]
            assert client.status().attempts == client.status().reconnects == 0
        with echo_server(port):
            recorder.wait("focContinuation", 2)
            wait_for(lambda: client.status().reconnects == 1)


def test_all_callbacks_run_in_the_clients_thread() -> None:
    """From the first connection on, as after a reconnection."""
    recorder = Recorder()
    with echo_server() as server, retrying(server.port, chat(recorder)) as client:
        recorder.wait("focContinuation")
        assert recorder.threads == {process_of(client).client_thread}


def test_the_first_attempt_is_made_at_once() -> None:
    """The policy is asked only when an attempt has failed."""
    policy = FixedDelay(NEVER)
    with (
        echo_server() as server,
        retrying(server.port, reconnect_policy=lambda: policy) as client,
    ):
        wait_connected(client)
        assert policy.failures == []


def test_the_policy_decides_on_the_waits() -> None:
    """It is told of each failed attempt, by its kind and exception, and ``reconnect_now()`` cuts a
    wait short.
    """
    policy = FixedDelay(NEVER)
    with refused_port() as port, retrying(port, reconnect_policy=lambda: policy) as client:
        for number in (1, 2, 3):
            wait_for(lambda number=number: len(policy.failures) == number)  # type: ignore[misc]
            failure = policy.failures[-1]
            assert (failure.kind, failure.attempts) == (FailureKind.refused, number)
            assert isinstance(failure.exception, ConnectionRefusedError)
            assert failure.close_code == 0
            client.reconnect_now()


def test_auto_reconnect_instead_of_the_first_upgrade() -> None:
    """With a protocol it connects in the background, over the connection that is open already."""
    recorder = Recorder()
    with RawServer(polite) as server, new_client(server.port) as client:
        assert client.connected
        client.auto_reconnect("room?x=1", "X-Mine: 1", protocol=chat(recorder))
        wait_connected(client)
        assert process_of(client).protocol.upgrade_uri == "room?x=1"
        assert process_of(client).protocol.upgrade_bearer_token == "X-Mine: 1"
        assert server.accepted == 1


def test_auto_reconnect_before_the_first_upgrade() -> None:
    """An upgrade that fails says so, and is made again in the background, with its own URI,
    headers and protocol.
    """
    with refused_port() as port, new_client(port) as client:
        client.auto_reconnect()
        protocol = chat()
        error = client.websockets_upgrade("room", protocol=protocol, headers="X-Mine: 1")
        assert error == "Not Connected"
        assert process_of(client).protocol is protocol
        assert client.websockets_upgrade("room", protocol=protocol) == (
            "Another thread is connecting this client"
        )
        wait_for(lambda: client.status().attempts >= 2)
    with RawServer(drop_on_request, polite) as server, new_client(server.port) as client:
        client.auto_reconnect()
        assert upgrade(client) == ""
        assert send_text(client, "drop me")
        wait_for(lambda: client.status().reconnects == 1)


def test_a_refused_first_upgrade_is_retried_too() -> None:
    """With the same values; the failure that was returned counts as the first one."""
    policy = FixedDelay(ms(5))
    with RawServer(sending(REFUSED), polite) as server:
        with new_client(server.port, reconnect_policy=lambda: policy) as client:
            client.auto_reconnect()
            assert upgrade(client, None, "room").startswith("HTTP/1.1 401")
            wait_connected(client)
            assert process_of(client).protocol.upgrade_uri == "room"
        assert [failure.http_status for failure in policy.failures] == [401]
        assert policy.failures[0].attempts == 1


def test_a_rest_client_may_be_there_before_its_server() -> None:
    """Requests work as soon as it is connected, and say meanwhile that it is not."""
    with refused_port() as port:
        client = new_client(port)
        client.auto_reconnect()
        assert client.websockets_upgrade("root") == "Not Connected"
        assert client.request("root/x", "POST", data=b"1") == 666
        assert client.answer.error
    with client, WebSocketServerRest(f"{HOST}:{port}", uri="root") as server:
        server.on_request = mirror
        wait_connected(client)
        assert client.request("root/x", "POST", data=b"1") == 200


def test_a_function_may_lead_to_another_server() -> None:
    """A whole URI moves the client: to the next of several servers, say."""
    with refused_port() as port, echo_server() as server, new_client(port) as client:
        uris = iter([f"ws://{HOST}:{port}/a", f"ws://{HOST}:{port}/b"])
        client.settings.reconnect_policy = lambda: FixedDelay(ms(5))
        client.auto_reconnect(
            lambda: next(uris, f"ws://{HOST}:{server.port}/c?x=1"), protocol=chat()
        )
        wait_connected(client)
        assert process_of(client).protocol.upgrade_uri == "c?x=1"
        assert client.port == server.port


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"uri": "a b"}, ValueError),
        ({"uri": "ws://"}, ValueError),
        ({"uri": 7}, TypeError),
        ({"headers": "no header"}, ValueError),
        ({"headers": {"X": "1"}}, TypeError),
        ({"protocol": "chat"}, TypeError),
    ],
    ids=str,
)
def test_what_can_never_work_raises_at_once(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    """In the caller's thread; nothing is started."""
    with refused_port() as port, new_client(port) as client:
        with pytest.raises(error):
            client.auto_reconnect(**{"protocol": chat(), **arguments})
        assert client.websockets is None


def test_a_protocol_comes_before_the_first_upgrade() -> None:
    """Later it is an error: that client has one."""
    with echo_server() as server, new_client(server.port) as client:
        assert upgrade(client) == ""
        with pytest.raises(ValueError, match="before the first"):
            client.auto_reconnect(protocol=chat())


# ---------------------------------------------------------------------------------- upgrading again


def test_an_upgrade_that_has_failed_is_just_called_again() -> None:
    """A newcomer's loop: no ``reopen()`` is needed, neither after a refused connection nor after a
    refused upgrade.
    """
    with refused_port() as port, new_client(port) as client:
        assert [upgrade(client) for _ in range(3)] == ["Not Connected"] * 3
        assert "refused" in client.last_error
    with RawServer(sending(REFUSED), polite) as server, new_client(server.port) as client:
        assert upgrade(client).startswith("HTTP/1.1 401")
        assert upgrade(client) == ""
        assert server.accepted == 2


def test_key_is_optional() -> None:
    """Only the REST protocols have one; the original's order of arguments stays."""
    with echo_server() as server, new_client(server.port) as client:
        assert client.websockets_upgrade("", protocol=chat()) == ""
    with echo_server() as server, new_client(server.port) as client:
        assert client.websockets_upgrade("", "", False, frozenset(), chat(), "", False) == ""


def test_a_client_need_not_connect_when_it_is_made() -> None:
    """``connect=False`` leaves that to the upgrade."""
    with RawServer(polite) as server:
        client = HttpClientWebSockets(HOST, server.port, connect=False)
        assert not client.connected
        assert server.accepted == 0
        with client:
            assert upgrade(client) == ""


# ---------------------------------------------------------------------------------------- giving up


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_final_no_ends_it(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """``StopOn`` gives up at the first attempt too; the client tells its application, and says what
    the server has answered.
    """
    told: list[tuple[HttpClientWebSockets, ReconnectFailure, threading.Thread]] = []
    answer = REFUSED.replace(b"401", str(status).encode())
    with RawServer(sending(answer)) as server:
        client = new_client(server.port, reconnect_policy=StopOn)
        client.on_gave_up = lambda *news: told.append((*news, threading.current_thread()))
        with client:
            client.auto_reconnect(protocol=chat())
            thread = process_of(client).client_thread
            assert thread is not None
            thread.join(BOUND)
            assert not thread.is_alive()
            failure = client.gave_up
            assert failure is not None
            assert told == [(client, failure, thread)]
            assert (failure.http_status, failure.body) == (status, b"never")
            assert client.status().thread_state == "sFinished"
            assert not process_of(client).send_frame_async(text("nobody will send this"))
        assert server.accepted == 1
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"giving up: HTTP/1.1 {status}" in said


def test_after_giving_up_an_upgrade_by_hand_starts_it_again() -> None:
    """It opens the connection by itself, and the client then reconnects as before."""
    with (
        RawServer(sending(REFUSED), drop_on_request, polite) as server,
        new_client(server.port, reconnect_policy=StopOn) as client,
    ):
        client.auto_reconnect(protocol=chat())
        wait_for(lambda: client.gave_up is not None)
        thread = process_of(client).client_thread
        assert thread is not None
        thread.join(BOUND)
        assert client.websockets_upgrade("") == ""
        assert client.gave_up is None
        assert client.websockets is not None
        assert client.websockets.send_frame(text("drop me"))
        wait_for(lambda: client.status().reconnects == 1)


def test_a_bad_certificate_ends_it(authority: Authority) -> None:
    """Waiting will not make it a good one. Without ``certificates`` it is a failure like others."""
    with tls_server(authority.server_context(), None) as server:
        for certificates in (True, False):
            policy = StopOn(FixedDelay(ms(5), max_attempts=3), certificates=certificates)
            client = HttpClientWebSockets.websockets_connect(
                f"wss://localhost:{server.port}",
                chat(),
                retry=True,
                settings=fast_settings(reconnect_policy=lambda policy=policy: policy),
            )
            assert client is not None
            with client:
                failure = wait_for(lambda client=client: client.gave_up)  # type: ignore[misc]
                assert failure.kind is FailureKind.tls
                assert failure.attempts == (1 if certificates else 3)


def test_what_on_gave_up_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The thread ends in order."""

    def fail(client: HttpClientWebSockets, failure: ReconnectFailure) -> None:
        raise ValueError("no way")

    with refused_port() as port, new_client(port) as client:
        client.on_gave_up = fail
        client.auto_reconnect(protocol=chat(), policy=ExponentialBackoff(1, 1, max_attempts=1))
        thread = process_of(client).client_thread
        assert thread is not None
        thread.join(BOUND)
        assert "no way" in caplog.text


# --------------------------------------------------------------------------------------- its ending


def test_free_ends_a_client_that_waits_or_connects(caplog: pytest.LogCaptureFixture) -> None:
    """At once, whatever it is doing, without a word about a failure."""
    caplog.set_level(logging.WARNING)
    policy = FixedDelay(NEVER)
    with refused_port() as port:
        client = retrying(port, reconnect_policy=lambda: policy)
        # the warning comes after the question to the policy
        wait_for(lambda: policy.failures and caplog.records)
        caplog.clear()
        client.free()
        assert not process_of(client).client_thread.is_alive()  # type: ignore[union-attr]
    with RawServer(silent) as server:
        client = retrying(server.port)
        wait_for(lambda: server.accepted == 1)
        client.free()
        assert not process_of(client).client_thread.is_alive()  # type: ignore[union-attr]
    assert caplog.records == []


def test_free_later_frees_from_a_callback() -> None:
    """What ``free()`` must not do there: the thread ends behind the callback, and the server gets
    the code.
    """
    ended = Recorder()

    def callback(process: WebSocketProcess, frame: Any) -> None:
        if frame.opcode is focText:
            client.free_later(4001, "enough")
            client.free_later()

    with echo_server(callback=ended.frame) as server:
        client = retrying(server.port, WebSocketProtocolChat("echo", "", callback))
        wait_connected(client)
        server.websocket_broadcast(text("end"))
        thread = process_of(client).client_thread
        assert thread is not None
        thread.join(BOUND)
        assert not thread.is_alive()
        assert "freed" in repr(client)
        assert ended.wait("focConnectionClose").value.payload == b"\x0f\xa1enough"
        client.free()


def test_free_later_from_another_thread_does_not_wait() -> None:
    """It returns while a callback still runs; without a thread it is ``free()``."""
    entered, leave = threading.Event(), threading.Event()

    def callback(process: WebSocketProcess, frame: Any) -> None:
        if frame.opcode is focText:
            entered.set()
            leave.wait(BOUND)

    with echo_server() as server:
        client = retrying(server.port, WebSocketProtocolChat("echo", "", callback))
        wait_connected(client)
        server.websocket_broadcast(text("hello"))
        assert entered.wait(BOUND)
        client.free_later()
        thread = process_of(client).client_thread
        assert thread is not None
        assert thread.is_alive()
        leave.set()
        thread.join(BOUND)
        assert not thread.is_alive()
        client.free()
    with refused_port() as port:
        client = new_client(port)
        client.free_later()
        assert "freed" in repr(client)


def test_free_waits_for_a_thread_that_frees_the_client() -> None:
    """After ``free()`` nothing is left running, also when ``free_later()`` came first."""
    with echo_server() as server:
        for _ in range(20):
            client = retrying(server.port)
            wait_connected(client)
            client.free_later()
            client.free()
            assert not process_of(client).client_thread.is_alive()  # type: ignore[union-attr]


def test_free_later_ends_an_attempt() -> None:
    """It does not wait for a server that is silent."""
    with RawServer(silent) as server:
        client = retrying(server.port)
        wait_for(lambda: server.accepted == 1)
        client.free_later()
        thread = process_of(client).client_thread
        assert thread is not None
        thread.join(BOUND / 5)
        assert not thread.is_alive()
        assert "freed" in repr(client)
