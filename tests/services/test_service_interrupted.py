"""Services that are interrupted at any line, as a signal handler or a finaliser may do: by the end
of what they work with, or by other calls.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from support.lines import Line, each_call, each_line
from support.rest import rest_client, rest_server
from support.waiting import BOUND, wait_for

from mormot_ws import (
    AuthUser,
    ClientServices,
    HttpServerRequest,
    RestServerAuthenticationNone,
    ServerServices,
    WebSocketsError,
    sicClientDriven,
    sicPerSession,
)
from mormot_ws.rest import exchange
from mormot_ws.services import (
    base,
    callbacks,
    client,
    expiry,
    instances,
    passing,
    registered,
    server,
    sessions,
)

# the interrupting calls run under the locks of the interrupted ones
pytestmark = pytest.mark.signals

SERVER = (server, instances, sessions, expiry, callbacks, registered)
CLIENT = (client, passing, base)


class IListener(Protocol):
    def heard(self, text: str) -> None: ...


class IRadio(Protocol):
    def listen(self, listener: IListener | None) -> None: ...
    def number(self) -> int: ...


class Listener:
    def heard(self, text: str) -> None:
        """Be told."""


class Radio:
    """Its objects have numbers, and what they are passed."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        ends.made.append(self)
        self.listeners: list[Any] = []

    def listen(self, listener: IListener | None) -> None:
        self.listeners.append(listener)

    def number(self) -> int:
        return self.ends.made.index(self)

    def free(self) -> None:
        self.ends.freed.append(self)


class Ends:
    """Both ends of a connection, with the service."""

    def __init__(self, server: Any, client: Any, kind: Any) -> None:
        self.server, self.client = server, client
        #: the requests of both sides
        self.wire: list[str] = []
        self.made: list[Radio] = []
        self.freed: list[Radio] = []
        self.services_of_server = ServerServices(
            server,
            authentication=RestServerAuthenticationNone(lambda name: AuthUser(name, "x"))
            if kind is sicPerSession
            else None,
        )
        self.services_of_server.register(IRadio, lambda: Radio(self), kind)
        server.on_request = self.noting(server.on_request)
        self.services = ClientServices(client)
        client.on_callback_request_process = self.noting(client.on_callback_request_process)
        if kind is sicPerSession:
            self.services.set_user("ann", scheme="none")

    def noting(self, answer: Callable[[HttpServerRequest], int]) -> Any:
        def note(ctxt: HttpServerRequest) -> int:
            self.wire.append(ctxt.url)
            return answer(ctxt)

        return note

    def close_sessions(self) -> None:
        """End all sessions."""
        for session in self.services_of_server.sessions:
            self.services_of_server.close_session(session)


@contextlib.contextmanager
def both(kind: Any = sicClientDriven) -> Iterator[Ends]:
    with rest_server(None) as server, rest_client(server.port, "synopsebin") as client:
        yield Ends(server, client, kind)


@contextlib.contextmanager
def prompt() -> Iterator[None]:
    """Fail if the block waits for a time-out."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND / 10


ENDS: list[Callable[[Ends], object]] = [
    lambda ends: ends.server.free(),
    lambda ends: ends.close_sessions(),
]


@pytest.mark.parametrize("outer", ENDS, ids=["free", "close_session"])
@pytest.mark.parametrize("inner", ENDS, ids=["free", "close_session"])
def test_objects_are_freed_once_whatever_interrupts_their_end(
    outer: Callable[[Ends], object], inner: Callable[[Ends], object]
) -> None:
    """And the server does not wait for itself."""
    for place in each_call(*SERVER):
        with both(sicPerSession) as ends:
            assert ends.services.get(IRadio).number() == 0
            with prompt(), place.interrupted_by(lambda ends=ends: inner(ends)):  # type: ignore[misc]
                outer(ends)
            assert ends.freed == ends.made, place.number
    assert place.number > 10


def test_an_object_may_be_called_in_the_middle_of_its_first_call() -> None:
    """That works, or raises at once; the server keeps one object."""
    outcomes: set[str] = set()
    with both() as ends:
        for place in each_call(*CLIENT, exchange):
            ends.made.clear()
            radio = ends.services.get(IRadio, instance_creation=sicClientDriven)
            numbers: list[int] = []

            def call(radio: IRadio = radio, numbers: list[int] = numbers) -> None:
                try:
                    with prompt():
                        numbers.append(radio.number())
                    outcomes.add("worked")
                except WebSocketsError:
                    outcomes.add("raised")

            with prompt(), place.interrupted_by(call):
                numbers.append(radio.number())
            assert radio.number() == numbers[0] == numbers[-1], place.number
            ends.services.release(radio)
            wait_for(lambda: len(ends.freed) == len(ends.made), what=f"the end {place.number}")
            ends.freed.clear()
    assert outcomes == {"worked", "raised"}
    assert place.number > 20


def test_an_object_that_is_gone_at_any_line_of_a_call_is_released_once() -> None:
    """The server is told, whatever else is passed meanwhile."""
    with both() as ends:
        radio = ends.services.get(IRadio, instance_creation=sicClientDriven)
        for line in each_line(*CLIENT):
            gone, kept = [Listener()], Listener()
            radio.listen(gone[0])
            ends.wire.clear()
            with prompt(), line.interrupted_by(gone.clear):
                radio.listen(kept)
            gone.clear()
            assert not gone
            ends.services.release(kept)
            wait_for(lambda: sum("_callback_" in url for url in ends.wire) >= 2)
            radio.number()
            assert sum("_callback_" in url for url in ends.wire) == 2, line.number
    assert line.number > 20


def test_an_object_that_is_released_at_any_line_of_its_call_does_not_stay() -> None:
    """The server is told when it knows the object."""
    with both() as ends:
        radio = ends.services.get(IRadio, instance_creation=sicClientDriven)
        for line in each_line(*CLIENT):
            listener, released = Listener(), []

            def release(listener: Any = listener, released: list[bool] = released) -> None:
                # before it has a number there is nothing to release
                with contextlib.suppress(TypeError):
                    ends.services.release(listener)
                    released.append(True)

            with prompt(), line.interrupted_by(release):
                radio.listen(listener)
            if not released:
                release()
            wait_for(lambda: not len(ends.services_of_server._callbacks), what=f"{line.number}")
    assert line.number > 20


@pytest.mark.parametrize("also_released", [False, True])
def test_a_callback_that_is_dropped_at_any_line_is_released_once(also_released: bool) -> None:
    """While another one is received, moved, or released."""
    current: list[Line] = []
    dropped: list[Any] = []
    with both() as ends:
        radio = ends.services.get(IRadio, instance_creation=sicClientDriven)
        receive = ends.services_of_server._callbacks.receive

        def interrupted(*args: Any) -> Any:
            if not current:
                return receive(*args)
            with current.pop().interrupted_by(dropped.clear):
                proxy = receive(*args)
                if also_released:
                    ends.services_of_server.release(dropped[0] if dropped else proxy)
            return proxy

        ends.services_of_server._callbacks.receive = interrupted  # type: ignore[method-assign]
        first, second = Listener(), Listener()
        for line in each_line(callbacks):
            radio.listen(first)
            made = ends.made[0]
            dropped.append(made.listeners.pop())
            ends.wire.clear()
            current.append(line)
            radio.listen(second)
            dropped.clear()
            made.listeners.clear()
            wait_for(lambda: sum("_free_" in url for url in ends.wire) >= 2)
            radio.number()
            assert sum("_free_" in url for url in ends.wire) == 2, line.number
            assert not len(ends.services_of_server._callbacks)
    assert line.number > 10


@pytest.mark.parametrize("side", ["client", "server"])
def test_freeing_in_a_release_does_not_wait_for_itself(side: str) -> None:
    """On either side, at each place where a signal handler runs."""
    for place in each_call(callbacks, passing, client, server):
        with both() as ends:
            listener = Listener()
            radio = ends.services.get(IRadio, instance_creation=sicClientDriven)
            radio.listen(listener)
            (proxy,) = ends.made[0].listeners
            free = ends.client.free if side == "client" else ends.server.free
            with prompt(), place.interrupted_by(free):
                if side == "client":
                    ends.services.release(listener)
                else:
                    ends.services_of_server.release(proxy)
    assert place.number > 5


@pytest.mark.parametrize("how", ["gone", "released"])
def test_an_object_that_ends_at_any_line_of_a_renewal_does_not_stay(how: str) -> None:
    """Its call is not repeated, or the server is told. It is never passed as None."""
    current: list[Line] = []
    failed: list[Exception] = []
    held: list[Listener] = []
    renewed = threading.Event()
    with both() as ends:
        renew = ends.services._renew

        def end() -> None:
            if how == "gone":
                held.clear()
                return
            try:
                ends.services.release(held[0])
            except TypeError as exc:
                failed.append(exc)

        def interrupted() -> None:
            with current[0].interrupted_by(end):
                renew()
            renewed.set()

        ends.services._renew = interrupted  # type: ignore[method-assign]
        radio = ends.services.get(IRadio)
        ends.client.auto_reconnect()
        for line in each_line(*CLIENT):
            current[:] = [line]
            held.append(Listener())
            renewed.clear()
            wait_for(lambda: ends.client.status().connected and ends.server.connections())
            radio.listen(held[0])
            ends.server.connections()[0].abort("for the test")
            assert renewed.wait(BOUND), line.number
            assert not failed, line.number
            if line.reached:
                wait_for(lambda: not len(ends.services_of_server._callbacks), what=f"{line.number}")
                assert not len(ends.services._passed), line.number
            held.clear()
            gc.collect()
            assert None not in [one for made in ends.made for one in made.listeners], line.number
    assert line.number > 20
