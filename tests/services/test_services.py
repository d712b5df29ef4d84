"""Services on real sockets: calls from both ends, errors, time-outs, reconnections, and what goes
over the wire for them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from support import BOUND, HOST, in_threads, ms, refused_port, wait_for
from support.rest import pair, rest_client, rest_server
from support.rest import short_waits as short_waits

from mormot_ws import (
    AuthUser,
    ClientServices,
    HttpClientWebSockets,
    HttpServerRequest,
    RestServerAuthenticationDefault,
    RestServerAuthenticationHttpBasic,
    RestServerAuthenticationNone,
    ServerServices,
    ServiceConnectionError,
    ServiceError,
    ServiceTimeoutError,
    WebSocketsError,
    WebSocketServerRest,
)

SCHEMES = {
    "default": RestServerAuthenticationDefault,
    "none": RestServerAuthenticationNone,
    "basic": RestServerAuthenticationHttpBasic,
}


@dataclass
class Point:
    """What travels both ways."""

    x: int
    y: float = 0.0
    names: list[str] = field(default_factory=list)


class ICalculator(Protocol):
    """An interface with a Pascal name."""

    def add(self, a: int, b: int = 10) -> int: ...
    def mirror(self, point: Point) -> Point: ...
    def div_mod(self, a: int, b: int) -> tuple[int, int]: ...
    def fail(self, text: str, status: int) -> None: ...
    def count_to(self, number: int) -> str: ...
    def question(self) -> str: ...
    def who(self) -> int: ...


class Listener(ABC):
    """What the server calls at the client."""

    @abstractmethod
    def progress(self, step: int) -> None:
        """Be told."""

    @abstractmethod
    def ask(self, question: str) -> str:
        """Be asked."""


class Calculator(ICalculator):
    """The service."""

    def __init__(self) -> None:
        self.services: ServerServices | None = None

    def add(self, a: int, b: int = 10) -> int:
        return a + b

    def mirror(self, point: Point) -> Point:
        return Point(-point.x, -point.y, point.names[::-1])

    def div_mod(self, a: int, b: int) -> tuple[int, int]:
        return divmod(a, b)

    def fail(self, text: str, status: int) -> None:
        raise ServiceError(text, status)

    def count_to(self, number: int) -> str:
        assert self.services is not None
        listener = self.services.caller(Listener)
        for step in range(number):
            listener.progress(step + 1)
        return "counted"

    def question(self) -> str:
        assert self.services is not None
        return self.services.caller(Listener).ask("?")

    def who(self) -> int:
        assert self.services is not None
        return self.services.context.connection_id


class Ears(Listener):
    """The client's service: remembers what it is told, and answers questions."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.threads: set[threading.Thread] = set()
        self.answer: Any = None

    def progress(self, step: int) -> None:
        self.threads.add(threading.current_thread())
        self.heard.append(step)

    def ask(self, question: str) -> str:
        if self.answer is not None:
            return str(self.answer(question))
        return f"{question}!"


class Ends:
    """Both ends of a connection with their services."""

    def __init__(
        self, server: WebSocketServerRest, client: HttpClientWebSockets, **options: Any
    ) -> None:
        self.client = client
        self.server_services = ServerServices(server, **options)
        calculator = Calculator()
        calculator.services = self.server_services
        self.server_services.register(ICalculator, calculator)
        self.ears = Ears()
        self.client_services = ClientServices(client)
        self.client_services.register(Listener, self.ears)
        self.calculator = self.client_services.get(ICalculator)

    @property
    def connection_id(self) -> int:
        """The server's number of the client, now."""
        assert self.client.websockets is not None
        return self.client.websockets.connection_id

    def listener(self, **options: Any) -> Listener:
        """The server's view of the client."""
        return self.server_services.get(Listener, self.connection_id, **options)


@contextlib.contextmanager
def both_ends(
    kind: str = "synopsejson", hide_errors: bool = False, **settings: Any
) -> Iterator[Ends]:
    """Give a connected server and client with services."""
    with pair(kind, on_request=None, on_callback=None, **settings) as ends:
        yield Ends(ends.server, ends.client, hide_errors=hide_errors)


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A connected server and client with services, on ``synopsejson``."""
    with both_ends() as both:
        yield both


class TestCalls:
    @pytest.mark.parametrize("kind", ["synopsejson", "synopsebin"])
    def test_both_sides_call_methods(self, kind: str) -> None:
        """On either protocol: the client calls the server, the server the client."""
        with both_ends(kind) as ends:
            assert ends.calculator.add(1, 2) == 3
            assert ends.listener().ask("how") == "how!"

    def test_arguments_go_by_place_by_name_or_by_default(self, ends: Ends) -> None:
        """As in a call of a method of this process."""
        calculator = ends.calculator
        assert (calculator.add(1), calculator.add(b=1, a=2), calculator.add(1, b=1)) == (11, 3, 2)

    def test_dataclasses_and_tuples_come_back_as_such(self, ends: Ends) -> None:
        """Arguments and results have the types that the interface says."""
        assert ends.calculator.mirror(Point(1, 2.5, ["a", "ä"])) == Point(-1, -2.5, ["ä", "a"])
        assert ends.calculator.div_mod(7, 3) == (2, 1)

    def test_many_threads_call_at_once(self, ends: Ends) -> None:
        """Each gets its own result."""
        assert in_threads(8, lambda number: ends.calculator.add(number, 100)) == list(
            range(100, 108)
        )

    def test_the_service_knows_its_caller(self, ends: Ends) -> None:
        """The context is that of the call; outside a call there is none."""
        assert ends.calculator.who() == ends.connection_id
        with pytest.raises(WebSocketsError, match="only available in the thread"):
            ends.server_services.context  # noqa: B018

    def test_a_proxy_is_an_instance_of_its_interface(self, ends: Ends) -> None:
        """And says what it is."""
        assert isinstance(ends.listener(), Listener)
        assert repr(ends.calculator) == "<proxy of ICalculator>"


class TestNotifications:
    def test_what_a_service_tells_its_caller_comes_before_its_answer(self) -> None:
        """Methods that return None do not wait, and may be called inside a call of the same
        client; they are not queued there.
        """
        with both_ends(send_delay=ms(500)) as ends:
            # what is queued right after this would be gathered, and leave later
            ends.listener().progress(0)
            wait_for(lambda: ends.ears.heard)
            assert ends.calculator.count_to(20) == "counted"
            assert ends.ears.heard == list(range(21))
            assert ends.client.websockets is not None
            assert ends.ears.threads == {ends.client.websockets.owner_thread}

    def test_from_other_threads_they_keep_their_order(self, ends: Ends) -> None:
        """Queued by a thread of the application."""
        listener = ends.listener()
        for step in range(50):
            listener.progress(step)
        wait_for(lambda: len(ends.ears.heard) == 50)
        assert ends.ears.heard == list(range(50))

    def test_the_errors_of_notifications_are_not_seen(self, ends: Ends) -> None:
        """Nobody waits for them; with notify=False they are."""
        ends.ears.progress = lambda step: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        services = ClientServices(ends.client)
        services.register(Listener, ends.ears)
        ends.listener().progress(1)
        with pytest.raises(ServiceError, match="ZeroDivisionError: division by zero"):
            ends.listener(notify=False).progress(2)

    def test_a_client_can_notify_inside_a_callback(self, ends: Ends) -> None:
        """What it calls there without waiting arrives; what would wait raises at once."""
        quiet = ends.client_services.get(ICalculator, notify=True)
        ends.ears.answer = lambda question: quiet.fail("not seen", 400) or "told"  # type: ignore[func-returns-value]
        assert ends.listener().ask("x") == "told"
        ends.ears.answer = lambda question: ends.calculator.add(1)
        with pytest.raises(
            ServiceError,
            match=r"WebSocketsError: ICalculator\.add\(\): .*inside a callback of the same",
        ):
            ends.listener().ask("x")


class TestErrors:
    def test_a_service_chooses_its_error(self, ends: Ends) -> None:
        """Text and status arrive; a status that is no error's becomes 500."""
        for status, seen in ((409, 409), (200, 500)):
            with pytest.raises(ServiceError, match=r"^taken — already$") as caught:
                ends.calculator.fail("taken — already", status)
            assert (caught.value.status, caught.value.maybe_executed) == (seen, True)

    def test_an_exception_arrives_as_its_text(
        self, ends: Ends, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its traceback stays in the log of the side where it happened."""
        with pytest.raises(ServiceError, match=r"^ZeroDivisionError: [a-z ]*$") as caught:
            ends.calculator.div_mod(1, 0)
        assert caught.value.status == 500
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.exc_info is not None
        assert ends.calculator.add(1) == 11

    def test_errors_can_be_hidden(self) -> None:
        """Only what a service says by ServiceError is told."""
        with both_ends(hide_errors=True) as ends:
            with pytest.raises(ServiceError, match=r"^internal error$"):
                ends.calculator.div_mod(1, 0)
            with pytest.raises(ServiceError, match=r"^told$"):
                ends.calculator.fail("told", 400)

    def test_waiting_inside_a_call_of_the_same_connection_raises_at_once(self, ends: Ends) -> None:
        """Fault 6: nobody could read the answer. The error says what to do."""
        with pytest.raises(
            ServiceError, match=r"Listener\.ask\(\): .*would wait forever.*notify=True"
        ):
            ends.calculator.question()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"{", "ICalculator.add: "),
            (b'"a"', "the arguments must be a JSON array"),
            (b'{"a":"1"}', "a must be int, not str"),
            (b'["1"]', "a must be int, not str"),
            (b"[true]", "a must be int, not bool"),
            (b"[]", "missing a required argument: 'a'"),
        ],
    )
    def test_wrong_arguments_are_refused(self, ends: Ends, content: bytes, said: str) -> None:
        """By whoever sends them; the service is not called."""
        status = ends.client.request(
            "root/Calculator.Add", "POST", 0, "", content, "application/json"
        )
        assert status == 406
        assert said in json.loads(ends.client.answer.content)["errorText"]

    def test_arguments_that_cannot_travel_raise_here(self, ends: Ends) -> None:
        """Nothing is sent."""
        calculator: Any = ends.calculator
        for arguments, error in (
            ((), TypeError),
            ((1, 2, 3), TypeError),
            ((1 << 70,), ValueError),
            ((1j,), TypeError),
        ):
            with pytest.raises(error):
                calculator.add(*arguments)

    def test_an_answer_that_does_not_fit_is_an_error(self) -> None:
        """A server that is of another opinion about the interface."""

        def other(ctxt: HttpServerRequest) -> int:
            ctxt.out_content, ctxt.out_content_type = b'{"result":["three"]}', "application/json"
            return 200

        with pair("synopsejson", other) as both:
            calculator = ClientServices(both.client).get(ICalculator)
            with pytest.raises(
                ServiceError, match="cannot be read: the result must be int, not str"
            ):
                calculator.add(1)

    @pytest.mark.parametrize("kind", ["synopsejson", "synopsebinary"])
    @pytest.mark.parametrize(
        ("content", "said"),
        [(b"Bad Gateway", "Bad Gateway"), (b"[1]", "[1]"), (b"", "no reason given")],
    )
    def test_an_error_that_no_service_has_made_keeps_its_text(
        self, kind: str, content: bytes, said: str
    ) -> None:
        """Whoever answers in place of a service need not know the form of its errors."""

        def application(ctxt: HttpServerRequest) -> int:
            ctxt.out_content, ctxt.out_content_type = content, "text/plain"
            return 502

        with pair(kind, application) as ends, pytest.raises(ServiceError) as raised:
            ClientServices(ends.client).get(ICalculator).add(1)
        assert (raised.value.status, raised.value.text) == (502, said)

    @pytest.mark.parametrize("kind", ["synopsejson", "http"])
    @pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), KeyboardInterrupt()])
    def test_a_service_that_ends_its_thread_is_answered_with_500(
        self, error: BaseException, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The connection goes on, and the log says at ERROR what was raised."""

        class Quitting(Calculator):
            def who(self) -> int:
                raise error

        with rest_server(None) as server, rest_client(server.port, "synopsejson") as client:
            ServerServices(server).register(ICalculator, Quitting())
            calculator = ClientServices(client).get(ICalculator)
            if kind == "http":
                connection = http.client.HTTPConnection(HOST, server.port, timeout=BOUND)
                with contextlib.closing(connection):
                    connection.request(
                        "POST",
                        "/root/Calculator.Who",
                        b"[]",
                        {"Content-Type": "application/json"},
                    )
                    answer = connection.getresponse()
                    assert (answer.status, b"errorText" in answer.read()) == (500, True)
            else:
                with pytest.raises(ServiceError, match=type(error).__name__) as caught:
                    calculator.who()
                assert caught.value.status == 500
            assert calculator.add(1) == 11
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.getMessage() == "ICalculator.who failed"
        assert record.exc_info is not None

    def test_ctrl_c_in_the_main_thread_is_raised_again(self) -> None:
        """It is meant for the program, and not for a caller."""

        class Interrupted(Calculator):
            def who(self) -> int:
                raise KeyboardInterrupt

        services = ServerServices(WebSocketServerStub())  # type: ignore[arg-type]
        services.register(ICalculator, Interrupted())
        ctxt = HttpServerRequest("root/Calculator.Who", in_content_type="application/json")
        with pytest.raises(KeyboardInterrupt):
            services.on_request(ctxt)

    def test_a_child_that_a_service_forks_ends_by_its_exit(self, ends: Ends) -> None:
        """It does not answer its parent's caller."""
        codes: list[int] = []

        class Forking(Calculator):
            def who(self) -> int:
                child = os.fork()
                if not child:
                    raise SystemExit(7)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                return 1

        services = ServerServices(WebSocketServerStub())  # type: ignore[arg-type]
        services.register(ICalculator, Forking())
        ctxt = HttpServerRequest("root/Calculator.Who", in_content_type="application/json")
        try:
            assert services.on_request(ctxt) == 200
        except SystemExit as exc:  # the child: leave without the tests' own ending
            os._exit(7 if exc.code == 7 else 1)
        assert codes == [7]

    def test_an_error_text_of_the_other_side_forges_no_line(self, ends: Ends) -> None:
        """As text it is what was sent, as an exception's it is escaped."""
        with pytest.raises(ServiceError) as raised:
            ends.calculator.fail("taken\nERROR forged \x1b[2J", 409)
        assert str(raised.value) == "taken\\nERROR forged \\x1b[2J"
        assert raised.value.text == "taken\nERROR forged \x1b[2J"

    def test_an_error_text_of_the_other_side_is_bounded(self) -> None:
        """Whatever it sends."""

        def long(ctxt: HttpServerRequest) -> int:
            ctxt.out_content, ctxt.out_content_type = b'{"errorText":"%s"}' % (b"x" * 100_000), ""
            return 500

        with pair("synopsejson", long) as both, pytest.raises(ServiceError) as raised:
            ClientServices(both.client).get(ICalculator).add(1)
        assert raised.value.text.startswith("xxx")
        assert len(raised.value.text) < 3_000


class TestConnections:
    def test_no_answer_in_time_is_a_time_out(self, short_waits: None) -> None:
        """It is a TimeoutError too; the service may have done its work."""
        release = threading.Event()
        with pair(
            "synopsejson", lambda ctxt: 200 if release.wait(BOUND) else 500, timeout=100
        ) as both:
            try:
                with pytest.raises(ServiceTimeoutError, match="no answer within") as caught:
                    ClientServices(both.client).get(ICalculator).add(1)
            finally:
                release.set()
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.status, caught.value.maybe_executed) == (404, True)

    def test_a_connection_lost_meanwhile_is_a_connection_error(self) -> None:
        """The call may have been executed."""

        def cut(ctxt: HttpServerRequest) -> int:
            both.server_process.abort("for the test")
            return 200

        with (
            pair("synopsejson", cut) as both,
            pytest.raises(ServiceConnectionError, match="lost") as caught,
        ):
            ClientServices(both.client).get(ICalculator).add(1)
        assert isinstance(caught.value, ConnectionError)
        assert caught.value.maybe_executed

    def test_without_a_connection_nothing_is_sent(self) -> None:
        """Before the upgrade, and to a client that is not there."""
        with refused_port() as port, HttpClientWebSockets(HOST, port) as client:
            calculator = ClientServices(client).get(ICalculator)
            with pytest.raises(ServiceConnectionError, match="websockets_upgrade") as caught:
                calculator.add(1)
        assert not caught.value.maybe_executed
        with (
            rest_server(None) as server,
            pytest.raises(ServiceConnectionError, match="connection #77") as caught,
        ):
            ServerServices(server).get(Listener, 77).progress(1)
        assert not caught.value.maybe_executed

    def test_a_call_after_the_end_of_the_connection_is_not_sent(self) -> None:
        """So it can be repeated without harm."""
        with both_ends() as ends:
            calculator = ends.calculator
        with pytest.raises(ServiceConnectionError, match="not connected") as caught:
            calculator.add(1)
        assert (caught.value.status, caught.value.maybe_executed) == (666, False)

    def test_a_service_whose_own_call_fails_answers_500(self, ends: Ends) -> None:
        """Its 404 says that a client is gone, not that there is no such service."""

        class Relay(Calculator):
            def question(self) -> str:
                return ends.server_services.get(Listener, 77).ask("?")

        services = ServerServices(WebSocketServerStub())  # type: ignore[arg-type]
        services.register(ICalculator, Relay())
        ctxt = HttpServerRequest("root/Calculator.Question", in_content_type="application/json")
        assert services.on_request(ctxt) == 500
        assert b"no WebSocket connection #77" in bytes(ctxt.out_content)
        with pytest.raises(WebSocketsError, match="only available in the thread"):
            services.context  # noqa: B018 - the call is over, in this very thread

    def test_both_sides_go_on_after_a_reconnection(self) -> None:
        """With the same objects; only the server's proxy for the old connection is of no use any
        more.
        """
        with rest_server(None) as server, rest_client(server.port, "synopsejson") as client:
            ends = Ends(server, client)
            client.auto_reconnect()
            old, lost = ends.listener(), ends.connection_id
            assert old.ask("a") == "a!"
            process = server.is_active_websocket(lost)
            assert process is not None
            process.abort("for the test")
            wait_for(
                lambda: (
                    ends.connection_id != lost and server.is_active_websocket(ends.connection_id)
                )
            )
            assert ends.calculator.add(1) == 11
            assert ends.listener().ask("b") == "b!"
            with pytest.raises(ServiceConnectionError):
                old.ask("c")


class TestTheWire:
    def test_a_call_looks_as_in_mormot(self) -> None:
        """POST root/Interface.Method, an array of arguments, a result in an array."""
        seen: list[tuple[str, str, bytes, str]] = []

        def server(ctxt: HttpServerRequest) -> int:
            seen.append((ctxt.method, ctxt.url, ctxt.in_content, ctxt.in_content_type))
            ctxt.out_content, ctxt.out_content_type = b'{"result":[2,1]}', "application/json"
            return 200

        with pair("synopsejson", server) as both:
            assert ClientServices(both.client).get(ICalculator).div_mod(7, 3) == (2, 1)
        assert seen == [("POST", "root/Calculator.DivMod", b"[7,3]", "application/json")]

    @pytest.mark.parametrize(
        ("url", "status"),
        [
            ("root/Calculator.Add", 200),
            ("/root/Calculator.Add?x=1", 200),
            ("root/Calculator.add", 200),
            ("root/Calculator.DivMod", 200),
            ("root/Calculator.div_mod", 200),
            ("root/calculator.add", 200),
            ("ROOT/Calculator.Add", 200),
            ("root/Calculator.ADD", 200),
            ("root/Calculator/Add", 200),
            ("root/Calculator.Add/", 200),
            ("root/Calculator.Add/3", 200),
            ("root/Calculator.divmod", 200),
            ("root/_Calculator.Add", 400),
            ("root/ICalculator.Add", 400),
            ("//root/Calculator.Add", 404),
            ("root//Calculator.Add", 400),
            ("root/Calculator%2EAdd", 400),
        ],
    )
    def test_a_method_has_its_wire_name_and_its_python_name(
        self, ends: Ends, url: str, status: int
    ) -> None:
        """In any case: Pascal programs know no other."""
        assert ends.client.request(url, "POST", 0, "", b"[2,1]", "application/json") == status

    @pytest.mark.parametrize(
        ("url", "status"),
        [
            ("/root/Calculator.Add", 200),
            ("/root/Calculator.div_mod", 200),
            ("/root/calculator.add", 400),
            ("/ROOT/Calculator.Add", 404),
            ("/root/Calculator/Add", 400),
            ("/root/Calculator.Add/", 400),
            ("/root/STAT/soa", 400),
        ],
    )
    def test_by_plain_http_a_name_is_exact(self, url: str, status: int) -> None:
        """Any other spelling would pass a rule for paths in front of the server."""
        services = ServerServices(WebSocketServerStub())  # type: ignore[arg-type]
        services.register(ICalculator, Calculator())
        ctxt = HttpServerRequest(url, "POST", "", b"[2,1]", "application/json")
        assert services.on_request(ctxt) == status

    @pytest.mark.parametrize(
        ("url", "status"),
        [
            ("root/Listener.Ask/1", 200),
            ("root/Listener.ask/12", 200),
            ("root/Listener.Ask/", 200),
            ("root/listener.ask/1", 200),
            ("root/Listener.Ask/x", 400),
            ("root/Listener.Ask/1/2", 400),
            ("root/Listener.Ask/\u0661", 400),
            ("root/IListener.Ask/1", 400),
            ("root/Listener/Ask/1", 400),
        ],
    )
    def test_a_native_server_numbers_the_callbacks_of_a_client(
        self, ends: Ends, url: str, status: int
    ) -> None:
        """The number stands behind the name."""
        ctxt = HttpServerRequest(url, "POST", "", b'["how"]', "application/json")
        assert ends.client_services.on_request(ctxt) == status

    def test_an_answer_shows_a_bounded_part_of_a_long_url(self, ends: Ends) -> None:
        """What a peer sends is not sent back to it many times as long."""
        assert ends.client.request("\x01" * 100_000, "POST", 0, "", b"", "") == 404
        assert len(ends.client.answer.content) < 1_000

    @pytest.mark.parametrize(
        ("url", "method", "kind", "status"),
        [
            ("root/Calculator.Nothing", "POST", "application/json", 400),
            ("other/Calculator.Add", "POST", "application/json", 404),
            ("root/Calculator.Add", "PUT", "application/json", 405),
            ("root/Calculator.Add", "POST", "text/plain", 400),
        ],
    )
    def test_what_is_no_call_is_an_error(
        self, ends: Ends, url: str, method: str, kind: str, status: int
    ) -> None:
        """With the statuses of the original."""
        assert ends.client.request(url, method, 0, "", b"[1,2]", kind) == status
        assert json.loads(ends.client.answer.content)["errorCode"] == status

    def test_who_answered_requests_before_still_does(self) -> None:
        """Services take only their calls from an application."""
        with pair("synopsejson") as both:  # its application mirrors all requests
            services = ServerServices(both.server)
            services.register(ICalculator, Calculator())
            assert ClientServices(both.client).get(ICalculator).add(1) == 11
            assert (
                both.client.request("root/else", "POST", 0, "", b'"hi"', "application/json") == 200
            )
            assert both.client.answer.content == b'"hi"'

    @pytest.mark.parametrize(
        ("kind", "status"), [("application/json", 200), ("text/plain", 400), ("", 400)]
    )
    def test_plain_http_can_call_too(self, kind: str, status: int) -> None:
        """With the content type that a browser does not send to other sites without asking them."""
        with rest_server(None) as server:
            ServerServices(server).register(ICalculator, Calculator())
            connection = http.client.HTTPConnection(HOST, server.port, timeout=BOUND)
            with contextlib.closing(connection):
                connection.request(
                    "POST", "/root/Calculator.Add", b"[1,2]", {"Content-Type": kind} if kind else {}
                )
                answer = connection.getresponse()
                assert answer.status == status
                assert (answer.read() == b'{"result":[3]}') == (status == 200)


class TestRegistering:
    def test_an_implementation_that_lacks_something_is_refused(self, ends: Ends) -> None:
        """At once, and by name."""

        class Half:
            def add(self, a: int) -> int:
                return a

        for wrong, message in (
            (object(), r"object does not implement ICalculator: the method add\(\) is missing"),
            (Half(), r"Half does not implement ICalculator: add\(\): too many"),
            (Calculator, "register an object, not the class Calculator"),
        ):
            with pytest.raises(TypeError, match=message):
                ServerServices(WebSocketServerStub()).register(ICalculator, wrong)  # type: ignore[arg-type]

    def test_an_interface_is_registered_once(self, ends: Ends) -> None:
        """A second implementation would hide the first."""
        with pytest.raises(ValueError, match="Calculator is already registered"):
            ends.server_services.register(ICalculator, Calculator())

    @pytest.mark.parametrize(
        "declaration", ["read_all readAll", "read_all ReadAll", "readAll readall", "a_1 a1"]
    )
    def test_two_methods_with_one_name_on_the_wire_are_refused(
        self, ends: Ends, declaration: str
    ) -> None:
        """A call would reach another method than the one that was called, from either end."""

        def method(self: object) -> None: ...

        names = declaration.split()
        interface = type("Store", (), dict.fromkeys(names, method))
        for use in (
            lambda: ends.server_services.register(interface, interface()),
            lambda: ends.client_services.get(interface),
        ):
            with pytest.raises(TypeError, match=f"Store.{names[0]} and Store.{names[1]} are both"):
                use()

    def test_interfaces_whose_names_differ_by_an_underscore_are_two(self, ends: Ends) -> None:
        """Each is called by its own name."""
        called: list[str] = []

        def wiping(name: str) -> type:
            def wipe(self: object) -> None:
                called.append(name)

            wipe.__annotations__ = {"return": None}
            return type(name, (), {"wipe": wipe})

        for name in ("User_Admin", "Useradmin"):
            interface = wiping(name)
            ends.server_services.register(interface, interface())
        for name in ("User_Admin", "Useradmin"):
            ends.client_services.get(wiping(name)).wipe()
        assert called == ["User_Admin", "Useradmin"]

    @pytest.mark.parametrize("kind", ["synopsejson", "synopsebin"])
    def test_a_root_may_have_several_parts(self, kind: str) -> None:
        """As in Pascal; both sides call, by plain HTTP too, and other roots are other ones."""
        with pair(kind, on_request=None, on_callback=None) as ends:
            services = ServerServices(ends.server, root="api/v1")
            services.register(ICalculator, Calculator())
            client = ClientServices(ends.client, root="api/v1")
            client.register(Listener, Ears())
            assert client.get(ICalculator).add(2, 3) == 5
            listener = services.get(Listener, ends.process.connection_id)
            assert listener.ask("why") == "why!"
            for url, status in (
                ("API/V1/calculator.add", 200),
                ("api/v1/timestamp", 200),
                ("api/v1", 400),
                ("api/v12/Calculator.Add", 404),
                ("api/Calculator.Add", 404),
                ("api", 404),
            ):
                found = ends.client.request(url, "POST", 0, "", b"[2,3]", "application/json")
                assert (url, found) == (url, status)

    @pytest.mark.parametrize(("scheme", "authentication"), SCHEMES.items())
    def test_sessions_may_have_such_a_root_too(self, scheme: Any, authentication: Any) -> None:
        """It is part of what a client proves and signs, and the name of a cookie."""
        with pair("synopsebin", on_request=None, on_callback=None) as ends:
            user = AuthUser.with_password("ann", "ann's")
            services = ServerServices(
                ends.server, root="api/v1", authentication=authentication(lambda name: user)
            )
            services.register(ICalculator, Calculator())
            client = ClientServices(ends.client, root="api/v1")
            client.set_user("ann", "ann's", scheme)
            assert client.get(ICalculator).add(2, 3) == 5
            client.close_session()
            assert not services.sessions

    @pytest.mark.parametrize("root", ["", "/root", "root/"])
    def test_the_root_is_part_of_the_uri(self, root: str) -> None:
        """Slashes around it are not."""
        with pytest.raises(ValueError, match="root must be the first part"):
            ServerServices(WebSocketServerStub(), root=root)  # type: ignore[arg-type]


class WebSocketServerStub:
    """As much of a server as the constructor of services looks at."""

    on_request = None

    def is_active_websocket(self, connection_id: int) -> None:
        """No connections."""
