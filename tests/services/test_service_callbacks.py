"""Objects that clients pass to be called back: their calls, and when they end on either side."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from support import BOUND, in_threads, process_of, wait_for
from support.rest import rest_client, rest_server

from mormot_ws import (
    AuthUser,
    ClientServices,
    HttpClientWebSockets,
    HttpServerRequest,
    RestServerAuthenticationDefault,
    ServerServices,
    ServiceConnectionError,
    ServiceError,
    WebSocketAsyncServerRest,
    WebSocketProtocolJson,
    WebSocketsError,
    WebSocketServerRest,
    sicClientDriven,
)


class IListener(ABC):
    """What is passed."""

    @abstractmethod
    def heard(self, text: str) -> None:
        """Be told."""

    @abstractmethod
    def ask(self, question: str) -> str:
        """Be asked."""


class IKeeper(Protocol):
    def keep(self, listener: IListener) -> None: ...


class IRadio(Protocol):
    def listen(self, topic: str, listener: IListener | None) -> int: ...
    def once(self, listener: IListener, other: IListener) -> None: ...
    def ask_inside(self, listener: IListener) -> str: ...


class IViewer(Protocol):
    def picture(self, data: bytes) -> None: ...


class ICamera(Protocol):
    def watch(self, viewer: IViewer) -> None: ...


class Radio(IRadio):
    """The service: keeps what it is passed, by topic."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[IListener]] = {}
        self.released: list[tuple[object, str]] = []
        self.calls = 0

    def listen(self, topic: str, listener: IListener | None) -> int:
        self.calls += 1
        if topic == "refused":
            raise ServiceError("no more listeners", 409)
        if listener is not None:
            self.listeners.setdefault(topic, []).append(listener)
        return len(self.listeners.get(topic, ()))

    def once(self, listener: IListener, other: IListener) -> None:
        listener.heard("once")
        other.heard("other")

    def ask_inside(self, listener: IListener) -> str:
        return listener.ask("?")

    def callback_released(self, callback: object, name: str) -> None:
        self.released.append((callback, name))
        for listeners in list(self.listeners.values()):
            for one in list(listeners):
                if one is callback:
                    # in one step: another connection may add one at the same time
                    listeners.remove(one)

    def tell(self, text: str, topic: str = "news") -> None:
        for listener in list(self.listeners.get(topic, ())):
            listener.heard(text)


class Listener(IListener):
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.threads: set[threading.Thread] = set()

    def heard(self, text: str) -> None:
        self.texts.append(text)
        self.threads.add(threading.current_thread())
        if text == "bad":
            raise RuntimeError("on purpose")

    def ask(self, question: str) -> str:
        if question == "bad":
            raise RuntimeError("on purpose")
        return f"{question}!"


class Ends:
    """Both ends of a connection, with the service."""

    def __init__(
        self, server: Any, client: HttpClientWebSockets, wire: list[str], **options: Any
    ) -> None:
        self.server, self.client, self.wire = server, client, wire
        self.radio = Radio()
        self.server_services = ServerServices(server, **options)
        self.server_services.register(IRadio, self.radio)
        answer = server.on_request

        def noting(ctxt: HttpServerRequest) -> int:
            wire.append(f"{ctxt.url} {ctxt.in_content.decode()}")
            return int(answer(ctxt))

        server.on_request = noting
        self.services = ClientServices(client)
        answer_back = client.on_callback_request_process
        assert answer_back is not None

        def noting_back(ctxt: HttpServerRequest) -> int:
            wire.append(f"< {ctxt.url} {ctxt.in_content.decode()}")
            assert answer_back is not None
            return answer_back(ctxt)

        client.on_callback_request_process = noting_back
        self.remote = self.services.get(IRadio)

    @property
    def process(self) -> Any:
        """The server's side of the connection."""
        (process,) = self.server.connections()
        return process

    def cut(self) -> None:
        """Lose the connection, and wait for the next one."""
        before = self.process
        before.abort("for the test")
        wait_for(
            lambda: (
                len(self.server.connections()) == 1
                and self.process is not before
                and self.client.status().connected
            )
        )


@contextlib.contextmanager
def both(kind: str = "synopsebin", **options: Any) -> Iterator[Ends]:
    with rest_server(None) as server, rest_client(server.port, kind) as client:
        yield Ends(server, client, [], **options)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with both() as found:
        yield found


# ------------------------------------------------------------------------------------------ calls


@pytest.mark.parametrize("kind", ["synopsejson", "synopsebin", "synopsebinary"])
def test_what_was_passed_is_called(kind: str) -> None:
    """By number; what has no result is not waited for, the rest is."""
    with both(kind) as ends:
        listener = Listener()
        assert ends.remote.listen("news", listener) == 1
        ends.radio.tell("hello")
        assert ends.radio.listeners["news"][0].ask("how") == "how!"
        wait_for(lambda: listener.texts == ["hello"])
        assert listener.threads == {ends.client.websockets.owner_thread}  # type: ignore[union-attr]
        assert ends.wire[:1] == ['root/Radio.Listen ["news",1]']
        assert set(ends.wire[1:]) == {
            '< root/Listener.Heard/1 ["hello"]',
            '< root/Listener.Ask/1 ["how"]',
        }


def test_an_event_driven_server_calls_back_too() -> None:
    with WebSocketAsyncServerRest("127.0.0.1:0", uri="root") as server:
        with rest_client(server.port, "synopsebin") as client:
            ends = Ends(server, client, [])
            listener = Listener()
            ends.remote.listen("news", listener)
            ends.radio.tell("hello")
            wait_for(lambda: listener.texts == ["hello"])
            wait_for(lambda: ends.radio.listeners["news"][0].ask("a") == "a!")
        wait_for(lambda: len(ends.radio.released) == 1)


@pytest.mark.parametrize("kind", ["synopsejson", "synopsebin"])
def test_bytes_go_to_a_callback_as_json(kind: str) -> None:
    """Native clients refuse callbacks with other content; calls of services may have it."""
    heard: list[tuple[str, bytes]] = []

    def native(ctxt: HttpServerRequest) -> int:
        heard.append((ctxt.in_content_type, ctxt.in_content))
        return 200

    class Camera(ICamera):
        def watch(self, viewer: IViewer) -> None:
            for data in (b"\0\xff", b""):
                viewer.picture(data)

    with rest_server(None) as server, rest_client(server.port, kind, application=native) as client:
        ServerServices(server).register(ICamera, Camera())
        assert client.request("root/Camera.Watch", "POST", 0, "", b"[1]", "") == 200
        wait_for(lambda: len(heard) == 3)
        assert heard[:2] == [("application/json", b'["AP8="]'), ("application/json", b"[null]")]


def test_nil_is_none(ends: Ends) -> None:
    assert ends.remote.listen("news", None) == 0
    assert ends.wire == ['root/Radio.Listen ["news",0]']


def test_each_time_an_object_is_passed_it_has_a_new_number(ends: Ends) -> None:
    """The same object too, also after a reconnection."""
    listener = Listener()
    ends.remote.listen("a", listener)
    ends.remote.listen("b", listener)
    assert ends.wire == ['root/Radio.Listen ["a",1]', 'root/Radio.Listen ["b",2]']


def test_a_failing_callback_is_an_error_of_who_waits(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    """In the native form: 666 with class and message."""
    listener = Listener()
    ends.remote.listen("news", listener)
    with pytest.raises(ServiceError, match="on purpose") as raised:
        ends.radio.listeners["news"][0].ask("bad")
    assert raised.value.status == 666
    ends.radio.tell("bad")
    ends.radio.tell("good")
    wait_for(lambda: listener.texts == ["bad", "good"])


@pytest.mark.parametrize("content", [b"[]", b"[{}]", b"5", b"["])
def test_a_callback_whose_parameters_cannot_be_read_has_failed(ends: Ends, content: bytes) -> None:
    """In the native form too."""
    listener = Listener()
    ends.remote.listen("news", listener)
    url, number = "root/Listener.Ask/1", ends.process.connection_id
    ctxt = HttpServerRequest(url, "POST", "", content, "application/json", connection_id=number)
    assert ends.server.callback(ctxt, False) == 666
    told = json.loads(bytes(ctxt.out_content))  # type: ignore[arg-type]
    assert told["ClassName"] == "ValueError"
    assert told["Message"].startswith("IListener.ask: ")


def test_waiting_for_the_caller_inside_its_call_raises_at_once(ends: Ends) -> None:
    """Nobody could read its answer."""
    with pytest.raises(ServiceError, match="would wait forever"):
        ends.remote.ask_inside(Listener())


@pytest.mark.parametrize(
    ("url", "content", "kind", "status"),
    [
        ("root/Listener.Ask/1", b'["x"]', "", 200),
        ("ROOT/LISTENER.ASK/1", b'{QUESTION:"x"}', "", 200),
        ("/root/Listener.Ask/1", b'["x"]', "application/json", 200),
        ("root/Listener.Ask/2", b'["x"]', "", 400),
        ("root/Listener.Ask/0", b'["x"]', "", 400),
        ("root/Listener.Ask", b'["x"]', "", 400),
        ("root/Listener.Asks/1", b'["x"]', "", 400),
        ("root/IListener.Ask/1", b'["x"]', "", 400),
        ("root/Listener/Ask/1", b'["x"]', "", 400),
        ("root/Other.Ask/1", b'["x"]', "", 400),
        ("other/Listener.Ask/1", b'["x"]', "", 400),
        ("root/Listener.Ask/1", b'["x"]', "text/plain", 400),
        ("root/_free_/2", b"[]", "", 400),
        ("root/_free_/x", b"[]", "", 400),
    ],
)
def test_what_a_server_may_ask_of_a_client(
    ends: Ends, url: str, content: bytes, kind: str, status: int
) -> None:
    listener = Listener()
    ends.remote.listen("news", listener)
    ctxt = HttpServerRequest(url, "POST", "", content, kind)
    assert ends.services.on_request(ctxt) == status


@pytest.mark.parametrize("number", ["-1", "2147483648", "1.5", '"1"', "[]"])
def test_an_impossible_number_is_refused(ends: Ends, number: str) -> None:
    content = f'["news",{number}]'.encode()
    assert ends.client.request("root/Radio.Listen", "POST", 0, "", content, "") == 406
    assert not ends.radio.calls


def test_a_connection_has_a_bounded_number_of_them(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mormot_ws.services.callbacks.MOST_CALLBACKS", 3)
    listener = Listener()
    for _ in range(3):
        ends.remote.listen("news", listener)
    with pytest.raises(ServiceError, match="at most 3 callbacks") as raised:
        ends.remote.listen("news", listener)
    assert raised.value.status == 406


def test_by_plain_http_there_is_a_bounded_number_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """On all connections together, because anybody may make many. Those that are upgraded have
    their own bound.
    """
    monkeypatch.setattr("mormot_ws.services.callbacks.MOST_CALLBACKS", 3)
    upgraded: set[int] = set()

    class Server:
        on_request: Any = None
        process_name = ""

        def is_active_websocket(self, connection_id: int) -> Any:
            return SimpleNamespace(exchange=None) if connection_id in upgraded else None

    server = Server()
    ServerServices(server).register(IRadio, Radio())  # type: ignore[arg-type]

    def listen(connection_id: int) -> int:
        ctxt = HttpServerRequest(
            "/root/Radio.Listen",
            "POST",
            "",
            '["a",1]',
            "application/json",
            connection_id=connection_id,
        )
        return int(server.on_request(ctxt))

    assert [listen(number) for number in range(1, 6)] == [200, 200, 200, 406, 406]
    upgraded.add(2)
    assert [listen(number) for number in (2, 4, 5)] == [200, 200, 406]


def test_what_does_not_implement_the_interface_is_not_sent(ends: Ends) -> None:
    remote: Any = ends.remote
    for wrong in (object(), Listener, "text"):
        with pytest.raises(TypeError):
            remote.listen("news", wrong)
    assert not ends.wire


# ---------------------------------------------------------------------------------- released by …


def test_an_object_that_is_passed_with_each_call_has_few_numbers(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server frees each of them; the latest ones are still good for calls under way."""
    monkeypatch.setattr("mormot_ws.services.passing.MOST_FREED", 3)
    listener = Listener()
    for _ in range(5):
        ends.remote.once(listener, listener)
    wait_for(lambda: sum("_free_" in line for line in ends.wire) == 10)
    wait_for(lambda: len(ends.services._passed) == 3)
    assert listener.texts == ["once", "other"] * 5
    found = []
    for number in range(1, 11):
        ctxt = HttpServerRequest(f"root/Listener.Ask/{number}", "POST", "", '["x"]')
        found.append(ends.services.on_request(ctxt))
    assert sorted(found) == [200] * 3 + [400] * 7


def test_the_client_forgets_an_object(ends: Ends) -> None:
    """The server is told, and its service; calls go nowhere from then on."""
    listener = Listener()
    ends.remote.listen("news", listener)
    (proxy,) = ends.radio.listeners["news"]
    del listener
    gc.collect()
    wait_for(lambda: ends.radio.released == [(proxy, "IListener")])
    assert ends.wire[1:] == ['root/CacheFlush/_callback_ {"IListener":1}']
    with pytest.raises(ServiceConnectionError, match="has released it") as raised:
        proxy.heard("x")
    assert not raised.value.maybe_executed
    assert len(ends.server_services._callbacks) == 0


def test_the_client_releases_an_object(ends: Ends) -> None:
    """All its numbers; once."""
    listener = Listener()
    ends.remote.listen("a", listener)
    ends.remote.listen("b", listener)
    ends.services.release(listener)
    wait_for(lambda: len(ends.radio.released) == 2)
    with pytest.raises(TypeError, match="the server does not have this Listener"):
        ends.services.release(listener)
    del listener
    gc.collect()
    assert ends.remote.listen("a", None) == 0
    assert sum("_callback_" in line for line in ends.wire) == 2


def test_an_object_whose_class_refuses_weak_references_is_kept(ends: Ends) -> None:
    class Slotted:
        __slots__ = ("texts",)

        def __init__(self) -> None:
            self.texts: list[str] = texts

        def heard(self, text: str) -> None:
            self.texts.append(text)

        def ask(self, question: str) -> str:
            return question

    texts: list[str] = []
    remote: Any = ends.remote
    remote.listen("news", Slotted())
    gc.collect()
    ends.radio.tell("still here")
    wait_for(lambda: texts == ["still here"])


def test_the_server_forgets_an_object(ends: Ends) -> None:
    """The client is told, behind the calls before; it does not tell the server then."""
    listener, other = Listener(), Listener()
    ends.remote.once(listener, other)
    wait_for(lambda: sum("_free_" in line for line in ends.wire) == 2)
    assert (listener.texts, other.texts) == (["once"], ["other"])
    assert ends.wire[-2:] in (
        ["< root/_free_/1 []", "< root/_free_/2 []"],
        ["< root/_free_/2 []", "< root/_free_/1 []"],
    )
    del listener, other
    gc.collect()
    assert ends.remote.listen("news", None) == 0
    assert not [line for line in ends.wire if "_callback_" in line]


def test_the_server_releases_an_object(ends: Ends) -> None:
    """While the service still has it."""
    listener = Listener()
    ends.remote.listen("news", listener)
    (proxy,) = ends.radio.listeners["news"]
    ends.server_services.release(proxy)
    wait_for(lambda: "< root/_free_/1 []" in ends.wire)
    with pytest.raises(ServiceConnectionError):
        proxy.ask("?")
    ends.server_services.release(proxy)
    with pytest.raises(TypeError, match="not a callback passed by a client"):
        ends.server_services.release(listener)


def test_the_end_of_the_connection_releases_them() -> None:
    """Without a word of the client."""
    with rest_server(None) as server:
        with rest_client(server.port, "synopsejson") as client:
            ends = Ends(server, client, [])
            listener = Listener()
            ends.remote.listen("news", listener)
            (proxy,) = ends.radio.listeners["news"]
        wait_for(lambda: ends.radio.released == [(proxy, "IListener")])
        with pytest.raises(ServiceConnectionError):
            proxy.heard("x")
        assert len(ends.server_services._callbacks) == 0


def test_what_is_released_twice_or_wrongly_is_an_error(ends: Ends) -> None:
    listener = Listener()
    ends.remote.listen("news", listener)
    for content, status in (
        (b'{"IListener":2}', 400),
        (b'{"IOther":1}', 400),
        (b'{"IListener":"1"}', 400),
        (b"[]", 400),
        (b"{", 400),
        (b"", 400),
        (b"{ilistener:1}", 200),
        (b'{"IListener":1}', 400),
    ):
        url = "root/cacheflush/_callback_"
        assert ends.client.request(url, "POST", 0, "", content, "") == status, content


def test_a_service_that_fails_on_a_release_is_logged(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(callback: object, name: str) -> None:
        raise RuntimeError("on purpose")

    ends.radio.callback_released = fails  # type: ignore[method-assign]
    listener = Listener()
    ends.remote.listen("news", listener)
    ends.services.release(listener)
    wait_for(lambda: "callback_released() of a Radio failed" in caplog.text)


# --------------------------------------------------------------------------- after a reconnection


def test_callbacks_are_passed_again_after_a_reconnection(ends: Ends) -> None:
    """With new numbers, by the calls that have passed them; the application is told."""
    told: list[Any] = []
    ends.services.on_callbacks_renewed = lambda services, failed: told.append(failed)
    ends.client.auto_reconnect()
    kept, gone, used = Listener(), Listener(), Listener()
    ends.remote.listen("news", kept)
    ends.remote.listen("old", gone)
    ends.remote.once(used, used)
    wait_for(lambda: sum("_free_" in line for line in ends.wire) == 2)
    ends.services.release(gone)
    wait_for(lambda: len(ends.radio.released) == 1)
    del ends.wire[:]
    for lost in (1, 2):
        ends.cut()
        wait_for(lambda: len(told) == lost)  # noqa: B023
    assert told == [[], []]
    assert [line for line in ends.wire if "Radio" in line] == [
        'root/Radio.Listen ["news",5]',
        'root/Radio.Listen ["news",6]',
    ]
    ends.radio.tell("again")
    wait_for(lambda: kept.texts == ["again"])


def test_on_callbacks_renewed_that_exits_keeps_no_later_renewal(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next reconnection passes the objects again."""
    calls: list[int] = []

    def exits(services: ClientServices, failed: object) -> None:
        calls.append(1)
        raise SystemExit("a bug")

    ends.services.on_callbacks_renewed = exits
    ends.client.auto_reconnect()
    kept = Listener()
    ends.remote.listen("news", kept)
    for lost in (1, 2):
        ends.cut()
        wait_for(lambda: len(calls) == lost)  # noqa: B023
    wait_for(lambda: caplog.text.count("on_callbacks_renewed failed") == 2)


def test_a_reconnection_with_another_protocol_is_noticed_by_the_next_call() -> None:
    """Objects are passed again then."""
    with rest_server(None) as server, rest_client(server.port, "synopsebin") as client:
        ends = Ends(server, client, [])
        told: list[Any] = []
        ends.services.on_callbacks_renewed = lambda services, failed: told.append(failed)
        assert client.websockets is not None

        def again(process: Any) -> str:
            other = WebSocketProtocolJson("root")
            return client.websockets_upgrade("root", protocol=other, reconnect=True)

        client.websockets.on_reconnect = again
        listener = Listener()
        ends.remote.listen("news", listener)
        ends.cut()
        assert ends.remote.listen("other", None) == 0
        wait_for(lambda: told == [[]])
        ends.radio.tell("again")
        wait_for(lambda: listener.texts == ["again"])


def told_of(ends: Ends) -> list[Any]:
    """Return a list that grows with each renewal, of a client that reconnects."""
    told: list[Any] = []
    ends.services.on_callbacks_renewed = lambda services, failed: told.append(failed)
    ends.client.auto_reconnect()
    return told


def listens(ends: Ends) -> list[str]:
    """Return the calls that have passed a listener."""
    return [line for line in ends.wire if "Radio.Listen" in line]


def test_what_was_passed_on_the_new_connection_is_not_passed_again(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread that was faster than the renewal: the service would have the object twice, once
    under a number that the client has forgotten.
    """
    told = told_of(ends)
    passed = threading.Event()
    take = ends.services._passed.take_passings

    def take_later(*args: Any) -> Any:
        assert passed.wait(BOUND)
        return take(*args)

    monkeypatch.setattr(ends.services._passed, "take_passings", take_later)
    before, after = Listener(), Listener()
    ends.remote.listen("news", before)
    ends.cut()
    wait_for(lambda: len(ends.radio.released) == 1)
    ends.remote.listen("news", after)
    passed.set()
    wait_for(lambda: told)
    assert listens(ends) == [f'root/Radio.Listen ["news",{number}]' for number in (1, 2, 3)]
    ends.radio.tell("once")
    wait_for(lambda: before.texts == after.texts == ["once"])


def test_a_connection_that_is_noticed_twice_is_one_reconnection(ends: Ends) -> None:
    """A call notices the new protocol while the connection tells that it has begun."""
    told = told_of(ends)
    listener = Listener()
    ends.remote.listen("news", listener)
    ends.cut()
    wait_for(lambda: told)
    ends.services._connection_changed(process_of(ends.client), True)
    wait_for(lambda: not ends.services._renewing)
    assert told == [[]]
    assert len(listens(ends)) == 2


def test_a_connection_that_is_lost_just_after_the_answer_passes_it_again(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal is over when the thread of the call goes on."""
    told = told_of(ends)
    takes: list[Any] = []
    take, remember = ends.services._passed.take_passings, ends.services._passed.remember

    def taking(*args: Any) -> Any:
        taken = take(*args)
        takes.append(taken)
        return taken

    def remember_late(*args: Any) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(ends.services._passed, "take_passings", taking)
        ends.cut()
        wait_for(lambda: takes and not ends.services._renewing)
        remember(*args)

    monkeypatch.setattr(ends.services._passed, "remember", remember_late)
    listener = Listener()
    ends.remote.listen("news", listener)
    wait_for(lambda: told)
    assert told == [[]]
    wait_for(lambda: len(ends.radio.released) == 1)
    ends.radio.tell("again")
    wait_for(lambda: listener.texts == ["again"])


def test_a_call_that_reaches_the_next_connection_passes_its_object_once(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client cannot know which connection has carried it: it passes the object again, and the
    service is told that the first one is released.
    """
    told = told_of(ends)
    call = ends.services._call

    def call_late(*args: Any) -> Any:
        monkeypatch.undo()
        ends.cut()
        return call(*args)

    monkeypatch.setattr(ends.services, "_call", call_late)
    listener = Listener()
    ends.remote.listen("news", listener)
    wait_for(lambda: told)
    assert told == [[]]
    wait_for(lambda: len(ends.radio.released) == 1)
    assert [one.ask("once") for one in ends.radio.listeners["news"]] == ["once!"]


def test_a_call_that_waits_for_the_next_connection_leaves_one_object(ends: Ends) -> None:
    """It is sent, and it is repeated: the service is told that the first one is released."""

    class Keeper(IKeeper):
        def __init__(self) -> None:
            self.kept: list[IListener] = []
            self.released: list[object] = []

        def keep(self, listener: IListener) -> None:
            self.kept.append(listener)

        def callback_released(self, callback: object, name: str) -> None:
            self.released.append(callback)

    keeper = Keeper()
    ends.server_services.register(IKeeper, keeper)
    told = told_of(ends)
    lost, back = threading.Event(), threading.Event()
    process = process_of(ends.client)
    reconnect = process.on_reconnect
    assert reconnect is not None

    def reconnect_later(process: Any) -> str:
        lost.set()
        assert back.wait(BOUND)
        return reconnect(process)

    process.on_reconnect = reconnect_later
    listener = Listener()
    ends.process.abort("for the test")
    assert lost.wait(BOUND)
    ends.services.get(IKeeper, notify=True).keep(listener)
    back.set()
    wait_for(lambda: told)
    wait_for(lambda: len(keeper.kept) == 2 and keeper.released)
    (kept,) = [one for one in keeper.kept if one not in keeper.released]
    assert kept.ask("is it heard") == "is it heard!"


def test_what_cannot_be_passed_again_is_told(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []
    ends.services.on_callbacks_renewed = lambda services, failed: told.append(failed)
    ends.client.auto_reconnect()
    listener = Listener()
    ends.remote.listen("news", listener)
    ends.radio.listen = lambda topic, listener: 1 // 0  # type: ignore[method-assign]
    services = ServerServices(ends.server)
    services.register(IRadio, ends.radio)
    ends.cut()
    wait_for(lambda: told)
    (((target, error),),) = told
    assert target is listener
    assert "division" in error.text


def test_an_application_may_pass_them_again_itself() -> None:
    with rest_server(None) as server, rest_client(server.port, "synopsebin") as client:
        ends = Ends(server, client, [])
        ends.services = ClientServices(client, renew_callbacks=False)
        listener = Listener()
        client.auto_reconnect()
        ends.services.get(IRadio).listen("news", listener)
        ends.cut()
        assert ends.services.get(IRadio).listen("other", None) == 0
        assert ends.radio.calls == 2


def test_a_session_moves_its_callbacks_to_its_new_connection() -> None:
    """By _replaceconn_, as native clients may; not those of other sessions."""
    users = {name: AuthUser.with_password(name, name) for name in ("ann", "bob")}
    authentication = RestServerAuthenticationDefault(users.get)
    with (
        rest_server(None) as server,
        rest_client(server.port, "synopsebin") as first,
        rest_client(server.port, "synopsebin") as second,
        rest_client(server.port, "synopsebin") as third,
    ):
        ends = Ends(server, first, [], authentication=authentication)
        ends.services.set_user("ann", "ann")
        listener = Listener()
        ends.remote.listen("news", listener)
        session = ends.services._session
        assert session is not None
        stranger = ClientServices(third)
        stranger.set_user("bob", "bob")
        other = stranger._session
        assert other is not None
        (process,) = [one for one in server.connections() if one.connection_id == 1]
        moves = b"%d" % process.connection_id
        url = "root/CacheFlush/_replaceconn_"
        for client, who, answer in (
            (third, other, b'{"n":0}'),
            (second, session, b'{"n":1}'),
            (second, session, b'{"n":0}'),
        ):
            client.request(who.signed(url), "POST", 0, "", moves, "text/plain")
            assert client.answer.content == answer
        heard: list[str] = []
        second.on_callback_request_process = lambda ctxt: heard.append(ctxt.url) or 200  # type: ignore[func-returns-value]
        ends.radio.tell("moved")
        wait_for(lambda: heard == ["root/Listener.Heard/1"])


# ----------------------------------------------------------------------------- many, and by HTTP


def test_many_threads_pass_and_forget_objects() -> None:
    """Nothing is left on either side."""
    with both() as ends:

        def work(number: int) -> None:
            for _ in range(20):
                listener = Listener()
                ends.remote.listen(f"topic {number}", listener)
                del listener

        in_threads(8, work)
        gc.collect()
        wait_for(lambda: len(ends.radio.released) == 160)
        wait_for(lambda: len(ends.server_services._callbacks) == 0)
        assert len(ends.services._passed) == 0


def test_an_object_may_be_passed_by_plain_http_before_the_upgrade() -> None:
    """It is called once the connection is a WebSocket."""
    with rest_server(None) as server:
        radio = Radio()
        ServerServices(server).register(IRadio, radio)
        with HttpClientWebSockets("127.0.0.1", server.port) as client:
            heard: list[str] = []
            client.on_callback_request_process = lambda ctxt: heard.append(ctxt.url) or 200  # type: ignore[func-returns-value]
            content = b'["news",1]'
            kind = "application/json"
            assert client.request("root/Radio.Listen", "POST", 30_000, "", content, kind) == 200
            with pytest.raises(ServiceConnectionError):
                radio.tell("too early")
            assert client.websockets_upgrade("root", "", True) == ""
            radio.tell("hello")
            wait_for(lambda: heard == ["root/Listener.Heard/1"])
        wait_for(lambda: len(radio.released) == 1)


def test_an_object_of_a_client_is_told_of_releases_too() -> None:
    """Not only the one of a shared service."""

    class Station(Radio):
        all: list[Radio] = []

        def __init__(self) -> None:
            super().__init__()
            self.all.append(self)

    with rest_server(None) as server, rest_client(server.port, "synopsebin") as client:
        ServerServices(server).register(IRadio, Station, sicClientDriven)
        services = ClientServices(client)
        radio = services.get(IRadio, instance_creation=sicClientDriven)
        listener = Listener()
        assert radio.listen("news", listener) == radio.listen("x", listener) == 1
        (station,) = Station.all
        station.tell("own")
        wait_for(lambda: listener.texts == ["own"])
        services.release(listener)
        wait_for(lambda: len(station.released) == 2)


def test_an_object_of_the_server_ends_with_the_client_s() -> None:
    """When it is forgotten, or released; once."""

    class Cart:
        ended: list[object] = []

        def put(self, pieces: int) -> int:
            return pieces

        def free(self) -> None:
            self.ended.append(self)

    class ICart(Protocol):
        def put(self, pieces: int) -> int: ...

    with rest_server(None) as server, rest_client(server.port, "synopsejson") as client:
        ServerServices(server).register(ICart, Cart, sicClientDriven)
        services = ClientServices(client)
        carts = [services.get(ICart, instance_creation=sicClientDriven) for _ in range(3)]
        assert [cart.put(3) for cart in carts[:2]] == [3, 3]
        services.release(carts[0])
        carts.clear()
        gc.collect()
        wait_for(lambda: len(Cart.ended) == 2)
        again = services.get(ICart, instance_creation=sicClientDriven)
        assert again.put(1) == 1
        services.release(again)
        assert again.put(2) == 2
        assert type(server) is WebSocketServerRest


def test_passing_an_object_inside_a_callback_raises_as_any_call(ends: Ends) -> None:
    """It would wait for itself."""
    caught: list[BaseException] = []

    class Eager(Listener):
        def heard(self, text: str) -> None:
            try:
                ends.remote.listen("news", self)
            except WebSocketsError as exc:
                caught.append(exc)

    eager = Eager()
    ends.remote.listen("news", eager)
    ends.radio.tell("x")
    wait_for(lambda: caught)
    assert "inside a callback" in str(caught[0])
