"""What services keep ends in time, also when nobody calls any more; and never during a call."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from support import BOUND, HOST, wait_for
from support.rest import pair, rest_client, rest_server

from mormot_ws import (
    AuthSession,
    AuthUser,
    ClientServices,
    HttpServerRequest,
    RestServerAuthenticationNone,
    ServerServices,
    sicClientDriven,
    sicPerSession,
    sicPerThread,
)
from mormot_ws.process.keeper import ProcessKeeper
from mormot_ws.services.instances import Instances

ANYBODY = RestServerAuthenticationNone(AuthUser)
#: the thread in which what has expired is freed
EXPIRY = "services expiry"


class ILamp(Protocol):
    def shine(self) -> int: ...
    def wait(self) -> None: ...


class Lamp(ILamp):
    """Counts its calls, tells of its end, and may be held in a call."""

    made: list[Lamp]
    #: with the name of the thread
    freed: list[tuple[Lamp, str]]
    inside: threading.Event
    may_go: threading.Event

    def __init__(self) -> None:
        self.made.append(self)
        self.calls = 0

    def shine(self) -> int:
        self.calls += 1
        return self.calls

    def wait(self) -> None:
        self.inside.set()
        assert self.may_go.wait(BOUND)

    def free(self) -> None:
        self.freed.append((self, threading.current_thread().name))


class IEar(Protocol):
    def hear(self, text: str) -> None: ...


class IRadio(Protocol):
    def listen(self, ear: IEar) -> None: ...


class Radio(IRadio):
    """Keeps what it was passed."""

    def __init__(self) -> None:
        self.ears: list[IEar] = []
        self.released: list[str] = []

    def listen(self, ear: IEar) -> None:
        self.ears.append(ear)

    def callback_released(self, callback: object, interface_name: str) -> None:
        self.released.append(interface_name)


@pytest.fixture(autouse=True)
def lamps() -> Iterator[None]:
    Lamp.made, Lamp.freed = [], []
    Lamp.inside, Lamp.may_go = threading.Event(), threading.Event()
    yield
    Lamp.may_go.set()


@contextlib.contextmanager
def lit(kind: Any, **options: Any) -> Iterator[tuple[ServerServices, ClientServices, Any]]:
    """Give services of *kind*, the server's and a client's, and a client's object."""
    with pair("synopsebin", None, None) as ends:
        services = ServerServices(ends.server, **options)
        services.register(ILamp, Lamp, kind)
        client = ClientServices(ends.client)
        yield services, client, client.get(ILamp, instance_creation=kind)


# ----------------------------------------------------------------------------------------- in time


def test_an_object_is_freed_when_its_time_is_over() -> None:
    """Without another request, and not in the thread that serves all connections. So is one that is
    made later.
    """
    with lit(sicClientDriven, instance_timeout=20) as (_, client, lamp):
        for count in (1, 2):
            lamp.shine()
            wait_for(lambda: len(Lamp.freed) == count)  # noqa: B023
            lamp = client.get(ILamp, instance_creation=sicClientDriven)
        assert Lamp.freed == [(made, EXPIRY) for made in Lamp.made]


def test_a_session_ends_when_its_time_is_over() -> None:
    """With its objects, and the application is told."""
    told: list[AuthSession] = []
    with lit(sicPerSession, authentication=ANYBODY, session_timeout_minutes=0.001) as ends:
        services, client, lamp = ends
        services.on_session_closed = told.append
        client.set_user("ann", scheme="none")
        (session,) = services.sessions
        lamp.shine()
        wait_for(lambda: told)
        assert (told, services.sessions, len(Lamp.freed)) == ([session], [], 1)


def test_a_client_keeps_its_session_while_it_makes_no_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until it closes it."""
    monkeypatch.setattr("mormot_ws.services.client_session._MOST_MINUTES", 0.0002)
    pings: list[str] = []
    with lit(sicPerSession, authentication=ANYBODY) as (services, client, lamp):
        answer = services._server.on_request
        assert answer is not None

        def noting(ctxt: HttpServerRequest) -> int:
            if "_ping_" in ctxt.url:
                pings.append(ctxt.url)
            return answer(ctxt)

        services._server.on_request = noting
        client.set_user("ann", scheme="none")
        assert lamp.shine() == 1
        (session,) = services.sessions
        for count in (2, 4):
            session._used_at -= 3_590
            before = session.idle_seconds()
            wait_for(lambda: len(pings) >= count)  # noqa: B023
            assert session.idle_seconds() < before
        assert lamp.shine() == 2
        client.close_session()
        assert not services.sessions
        assert client._ping is None


def test_what_was_passed_by_plain_http_ends_without_an_upgrade(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mormot_ws.services.callbacks._UPGRADE_SECONDS", 0.02)
    radio = Radio()
    with rest_server(None) as server:
        ServerServices(server, instance_timeout=40).register(IRadio, radio)
        connection = http.client.HTTPConnection(HOST, server.port, timeout=BOUND)
        with contextlib.closing(connection):
            kind = {"Content-Type": "application/json"}
            connection.request("POST", "/root/Radio.Listen", "[1]", kind)
            assert connection.getresponse().status == 200
        wait_for(lambda: radio.released == ["IEar"])


@pytest.mark.parametrize("minutes", [1e7, float("inf")])
def test_what_is_kept_for_years_does_not_disturb_the_keeper(
    minutes: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The operating system can only wait for some days."""
    with rest_server(None) as server:
        services = ServerServices(server, instance_timeout=minutes * 60_000)
        services.register(ILamp, Lamp, sicClientDriven)
        ctxt = HttpServerRequest("/root/Lamp.Shine", "POST", "", "[]", "application/json")
        assert services.on_request(ctxt) == 200
        for _turn in range(2):
            turned = threading.Event()
            server._keeper.call_at(0, turned.set)
            assert turned.wait(BOUND)
    assert not caplog.records


def test_nothing_is_planned_while_nothing_is_kept() -> None:
    """And nothing any more when all has ended."""
    with lit(sicClientDriven, instance_timeout=20) as (services, _, lamp):
        assert services._expiry._timer is None
        lamp.shine()
        assert services._expiry._timer is not None
        wait_for(lambda: Lamp.freed and services._expiry._timer is services._expiry._thread is None)


def test_a_keeper_that_cannot_start_is_told_by_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is answered all the same."""
    with lit(sicClientDriven) as (services, _, _lamp):

        def refuse(*unused: object) -> None:
            raise RuntimeError("no more threads")

        monkeypatch.setattr(ProcessKeeper, "call_at", refuse)
        ctxt = HttpServerRequest("/root/Lamp.Shine", "POST", "", "[]", "application/json")
        assert services.on_request(ctxt) == 200
        monkeypatch.undo()
    assert "freed only by later calls: no more threads" in caplog.text


def test_a_server_that_is_freed_frees_the_objects() -> None:
    with lit(sicClientDriven) as (_, client, lamp):
        others = [client.get(ILamp, instance_creation=sicClientDriven) for _ in range(2)]
        for one in (lamp, *others):
            one.shine()
        client.release(others[0])
        wait_for(lambda: len(Lamp.freed) == 1)
    assert sorted(map(id, Lamp.made)) == sorted(id(freed) for freed, _ in Lamp.freed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork()")
def test_a_forked_child_ends_nothing_of_its_parent() -> None:
    """Objects and sessions of the parent's clients would end twice."""
    told: list[AuthSession] = []
    with lit(sicClientDriven, authentication=ANYBODY) as (services, client, lamp):
        services.on_session_closed = told.append
        client.set_user("ann", scheme="none")
        lamp.shine()
        child = os.fork()
        if not child:
            code = 99
            try:
                kept = [table for table in services._expiring() if table.next_due() is not None]
                services._server_freed()
                code = len(kept) + len(Lamp.freed) + len(told) + len(services.sessions)
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert (len(Lamp.freed), len(services.sessions)) == (0, 1)


# ----------------------------------------------------------------------------------- during a call


def _close_session(services: ServerServices) -> None:
    services.close_session(services.sessions[0])


def _let_it_expire(services: ServerServices) -> None:
    for service in services._registered.all():
        service.instances._seconds = 0
        service.instances.free_expired()


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (sicClientDriven, _close_session),
        (sicClientDriven, _let_it_expire),
        (sicPerSession, _close_session),
        (sicPerSession, _let_it_expire),
    ],
)
def test_an_object_is_not_freed_during_a_call(kind: Any, end: Callable[..., None]) -> None:
    """But behind it."""
    with lit(kind, authentication=ANYBODY) as (services, client, lamp):
        client.set_user("ann", scheme="none")
        caller = threading.Thread(target=lamp.wait)
        caller.start()
        assert Lamp.inside.wait(BOUND)
        end(services)
        assert not Lamp.freed
        Lamp.may_go.set()
        caller.join(BOUND)
        if end is _close_session:
            wait_for(lambda: len(Lamp.freed) == 1)
        else:
            assert lamp.shine() == 1


def test_an_object_that_is_released_during_a_call_is_freed_behind_it() -> None:
    """By another connection of the same client: native ones may do so."""
    with lit(sicClientDriven) as (services, _client, lamp), contextlib.ExitStack() as stack:
        lamp.shine()
        port = services._server.port  # type: ignore[attr-defined]
        other = stack.enter_context(rest_client(port, "synopsebin"))
        caller = threading.Thread(target=lamp.wait)
        caller.start()
        assert Lamp.inside.wait(BOUND)
        assert other.request("root/Lamp._free_/1", "POST", 0, "", b"[]", "") == 200
        assert other.request("root/Lamp.Shine/1", "POST", 0, "", b"[]", "") == 403
        assert not Lamp.freed
        Lamp.may_go.set()
        caller.join(BOUND)
        wait_for(lambda: len(Lamp.freed) == 1)


# ---------------------------------------------------------------------------------- for each thread


@pytest.mark.skipif(
    os.environ.get("MORMOT_WS_TEST_SERVER") == "async",
    reason="connections of the event-driven server share threads",
)
def test_a_thread_has_an_object_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection of this server has a thread; native clients are told that kind's number."""
    monkeypatch.setattr("mormot_ws.services.expiry._MOST_LATE", 0.02)
    with lit(sicPerThread) as (services, _client, lamp):
        port = services._server.port  # type: ignore[attr-defined]
        assert [lamp.shine(), lamp.shine()] == [1, 2]
        with rest_client(port, "synopsebin") as other:
            assert ClientServices(other).get(ILamp).shine() == 1
            assert other.request("root/stat/soa", "GET") == 200
            assert other.answer.content == b'["Lamp","*",6]'
        wait_for(lambda: Lamp.freed)
        assert Lamp.freed == [(Lamp.made[1], EXPIRY)]


def test_a_thread_does_not_get_the_object_of_one_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although the number of a thread is used again."""
    monkeypatch.setattr("mormot_ws.services.instances.get_ident", lambda: 7)
    with lit(sicPerThread) as (services, _, _lamp):
        found = []

        def call() -> None:
            ctxt = HttpServerRequest("/root/Lamp.Shine", "POST", "", "[]", "application/json")
            services.on_request(ctxt)
            found.append(bytes(ctxt.out_content))  # type: ignore[arg-type]

        for _ in range(2):
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(BOUND)
        assert found == [b'{"result":[1]}'] * 2
        assert [freed for freed, _ in Lamp.freed] == Lamp.made[:1]


# -------------------------------------------------------- mistakes in what is called at the end


def test_a_free_that_exits_keeps_no_other_object(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the thread nor the other objects are lost, and the log tells of it."""
    free = Lamp.free

    def exiting(self: Lamp) -> None:
        free(self)
        raise SystemExit("a bug")

    monkeypatch.setattr(Lamp, "free", exiting)
    with lit(sicClientDriven, instance_timeout=20) as (_, client, lamp):
        others = [client.get(ILamp, instance_creation=sicClientDriven) for _ in range(2)]
        for each in (lamp, *others):
            each.shine()
        wait_for(lambda: len(Lamp.freed) == 3)
        client.get(ILamp, instance_creation=sicClientDriven).shine()
        wait_for(lambda: len(Lamp.freed) == 4)
    wait_for(lambda: caplog.text.count("free() of a Lamp failed") == 4)


def test_objects_that_ctrl_c_has_left_are_freed_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It interrupts the first free() of three, and is raised again."""
    instances = Instances(Lamp, sicClientDriven, 60, 10)
    for _ in range(3):
        instances.create(None)
    free = Lamp.free

    def interrupted(self: Lamp) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lamp, "free", interrupted)
    with pytest.raises(KeyboardInterrupt):
        instances.free_all()
    monkeypatch.setattr(Lamp, "free", free)
    instances.free_all()
    assert [made for made, _ in Lamp.freed] == Lamp.made[1:]
