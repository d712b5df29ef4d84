"""Requests and upgrades that a signal handler's exception interrupts in the main thread: it is
raised again, and nobody gets the answer that was meant for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import BOUND, HOST, Behaviour, RawServer, RawServerPeer, fast_settings, ms, wait_for
from support.programs import run_script
from support.rest import KINDS, protocol_of, rest_server
from support.tls import Authority, authority, behind_tls

from mormot_ws import (
    HttpClientWebSockets,
    HttpServerRequest,
    WebSocketProcess,
    WebSocketProtocolChat,
    wpsRun,
)
from mormot_ws.sockets.transport import Transport

__all__ = ["authority"]

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs such signals")


class Interrupted(BaseException):
    """A signal handler's own exception."""


Interrupting = Callable[[Callable[[], object]], threading.Thread]

#: what fits into no buffer of the kernel
BYTES = os.urandom(6 << 20)


def is_stuck(writer: WebSocketProcess | Transport) -> bool:
    """Tell whether the kernel's buffers are full, and stay so."""
    before = writer.output_state()
    # "stay so" is a matter of time
    time.sleep(0.05)
    return before is not None and before[1] > 100_000 and before == writer.output_state()


@pytest.fixture(params=[Interrupted, TimeoutError], ids=["an exception", "TimeoutError"])
def interrupting(request: pytest.FixtureRequest) -> Iterator[tuple[type[BaseException], Any]]:
    """An exception, and a function that raises it here once its condition is true.

    A ``TimeoutError`` is what many raise in a handler of SIGALRM; it is not the socket's.
    """
    error: type[BaseException] = request.param

    def handler(*_: object) -> None:
        raise error("by the handler")

    main = threading.main_thread().ident or 0

    def start(condition: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            wait_for(condition)
            signal.pthread_kill(main, signal.SIGUSR1)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield error, start
    finally:
        signal.signal(signal.SIGUSR1, before)


class Held:
    """An application that holds the request of ``/held`` until it is told."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, ctxt: HttpServerRequest) -> int:
        if ctxt.url.endswith("/held"):
            self.begun.set()
            self.go_on.wait(BOUND)
        ctxt.out_content = json.dumps(ctxt.url)
        ctxt.out_content_type = "application/json"
        return 200


@contextlib.contextmanager
def connected(
    authority: Authority, kind: str, tls: bool, application: Held
) -> Iterator[HttpClientWebSockets]:
    """Give a client for requests of that *kind*, which reconnects."""
    with (
        rest_server(application, options=()) as server,
        HttpClientWebSockets(
            "localhost" if tls else HOST,
            server.port,
            tls=tls,
            tls_context=authority.client_context() if tls else None,
            settings=fast_settings(send_timeout=ms(20_000)),
            connect=False,
        ) as client,
    ):
        if tls:
            server.tls_context = authority.server_context()
        if kind != "http":
            client.auto_reconnect()
            assert not client.websockets_upgrade("root", protocol=protocol_of(kind, "", (), "root"))
        yield client
        application.go_on.set()


def check_answers(client: HttpClientWebSockets) -> None:
    """Requests get their own answers, once the client is connected again."""
    if client.websockets is not None:
        wait_for(lambda: client.request("/first") == 200)
    for number in range(5):
        assert client.request(f"/{number}") == 200, client.answer.error
        assert client.answer.content.endswith(f'/{number}"'.encode())


over_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


@over_tls
@pytest.mark.parametrize("kind", ["http", *KINDS])
def test_an_interrupted_request_leaves_its_answer_to_nobody(
    authority: Authority,
    interrupting: tuple[type[BaseException], Interrupting],
    kind: str,
    tls: bool,
) -> None:
    """While it waits for the answer: the later requests get their own."""
    error, interrupt = interrupting
    application = Held()
    with connected(authority, kind, tls, application) as client:
        thread = interrupt(application.begun.is_set)
        with pytest.raises(error, match="by the handler"):
            client.request("/held")
        thread.join(BOUND)
        application.go_on.set()
        check_answers(client)


@over_tls
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_is_interrupted_in_its_write_gives_the_connection_up(
    authority: Authority,
    interrupting: tuple[type[BaseException], Interrupting],
    kind: str,
    tls: bool,
) -> None:
    """The exception is raised again, and the later requests use a new connection."""
    error, interrupt = interrupting
    application = Held()
    with connected(authority, kind, tls, application) as client:
        process = client.websockets
        assert process is not None
        number = process.connection_id
        # the server reads nothing more
        assert client.request("/held", header="Sec-WebSocket-REST: WithoutAnswer") == 200
        assert application.begun.wait(BOUND)
        thread = interrupt(lambda: is_stuck(process))
        with pytest.raises(error, match="by the handler"):
            client.request("/large", "POST", data=BYTES, data_type="application/octet-stream")
        thread.join(BOUND)
        application.go_on.set()
        wait_for(lambda: process.state is wpsRun and process.connection_id != number)
        check_answers(client)


@over_tls
def test_an_http_request_that_is_interrupted_in_its_write_is_not_continued(
    authority: Authority, interrupting: tuple[type[BaseException], Interrupting], tls: bool
) -> None:
    """The next one is made on a new connection."""
    error, interrupt = interrupting
    done = threading.Event()

    def unread(peer: RawServerPeer) -> None:
        done.wait(BOUND)

    def answers(peer: RawServerPeer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown")
        peer.read_to_end()

    def behaviour(which: Behaviour) -> Behaviour:
        return behind_tls(authority.server_context(), which) if tls else which

    with (
        RawServer(behaviour(unread), behaviour(answers)) as server,
        HttpClientWebSockets(
            "localhost" if tls else HOST,
            server.port,
            tls=tls,
            tls_context=authority.client_context() if tls else None,
        ) as client,
    ):
        transport = client.transport
        assert transport is not None
        thread = interrupt(lambda: is_stuck(transport))
        with pytest.raises(error, match="by the handler"):
            client.request("/large", "POST", data=BYTES)
        thread.join(BOUND)
        done.set()
        assert client.request("/small") == 200, client.answer.error
        assert client.answer.content == b"own"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_memory_error_in_the_answer_closes_the_connection(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """It is raised again; the next request gets its own answer."""
    application = Held()
    application.go_on.set()
    with connected(authority, "http", tls, application) as client:
        check_answers(client)
        received = Transport.recv_within
        failing = [True]

        def recv_within(self: Transport, size: int, deadline: Any) -> bytes:
            if self is client.transport and failing:
                failing.clear()
                raise MemoryError
            return received(self, size, deadline)

        monkeypatch.setattr(Transport, "recv_within", recv_within)
        with pytest.raises(MemoryError):
            client.request("/lost")
        check_answers(client)


def test_an_interrupted_upgrade_leaves_its_answer_to_nobody(
    interrupting: tuple[type[BaseException], Interrupting],
) -> None:
    """The next upgrade is made on a new connection."""
    error, interrupt = interrupting
    asked, answer = threading.Event(), threading.Event()

    def holds(peer: RawServerPeer) -> None:
        peer.read_head()
        asked.set()
        answer.wait(BOUND)

    def accepts(peer: RawServerPeer) -> None:
        peer.accept()
        peer.read_to_end()

    with (
        RawServer(holds, accepts) as server,
        HttpClientWebSockets(HOST, server.port, settings=fast_settings()) as client,
    ):
        thread = interrupt(asked.is_set)
        with pytest.raises(error, match="by the handler"):
            client.websockets_upgrade("", protocol=WebSocketProtocolChat("echo"))
        thread.join(BOUND)
        answer.set()
        assert not client.websockets_upgrade("", protocol=WebSocketProtocolChat("echo"))


def test_an_interrupted_opening_of_tcp_is_no_failed_attempt(
    interrupting: tuple[type[BaseException], Interrupting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the handler raised comes out of ``reopen()``."""
    error, interrupt = interrupting
    begun = threading.Event()
    done = threading.Event()
    with RawServer(lambda peer: done.wait(BOUND)) as server:
        client = HttpClientWebSockets(
            HOST, server.port, tls=True, timeout=ms(10_000), settings=fast_settings(), connect=False
        )
        wait_input = Transport._wait_input

        def waits(self: Transport, deadline: Any) -> None:
            begun.set()
            wait_input(self, deadline)

        monkeypatch.setattr(Transport, "_wait_input", waits)
        with client:
            thread = interrupt(begun.is_set)
            with pytest.raises(error, match="by the handler"):
                client.reopen()
            thread.join(BOUND)
            done.set()
            assert not client.connected


PROGRAM = """
import logging, random, signal, sys, warnings
from mormot_ws import *
from mormot_ws.rest.protocols import *

logging.disable(logging.CRITICAL)
# Python closes a socket whose constructor was interrupted, and says so
warnings.simplefilter("ignore", ResourceWarning)
random.seed(2)
kind = sys.argv[1]


class Boom(BaseException):
    pass


def handler(number, frame):
    raise Boom


def application(ctxt):
    ctxt.out_content, ctxt.out_content_type = '"%s"' % ctxt.url, "application/json"
    return 200


def protocol():
    return WebSocketProtocolJson("") if kind == "json" else WebSocketProtocolBinary("", "", ())


def new_client():
    client = HttpClientWebSockets("127.0.0.1", server.port)
    if kind != "http":
        text = client.websockets_upgrade("", protocol=protocol())
        assert not text, text
    return client


signal.signal(signal.SIGALRM, handler)
server = WebSocketServerRest("127.0.0.1:0", uri='', ajax=True, options=())
server.on_request = application
client = new_client()
assert client.request("/loaded") == 200
interrupted = lost = 0
for round in range(150):
    try:
        try:
            # again after a second, because Python itself drops what is raised in a finaliser
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.001), 1.0)
            while True:
                client.request("/interrupted")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Boom:
        interrupted += 1
    url = "/%d" % round
    status = client.request(url)
    if status == 200:
        assert client.answer.content.decode().strip('"').endswith(url), (url, client.answer)
    else:
        assert client.websockets is not None, client.answer
        lost += 1
        client.free()
        client = new_client()
client.free()
server.free()
print(interrupted, lost)
print("all well")
"""


@pytest.mark.parametrize("kind", ["http", "json", "binary"])
def test_no_interruption_gives_a_request_the_answer_to_another(kind: str) -> None:
    """Some hundred interruptions at random moments."""
    code, output = run_script(PROGRAM, kind)
    assert (code, output.splitlines()[-1:]) == (0, ["all well"]), output
