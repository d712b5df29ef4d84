"""The hazard: ``free()`` inside a callback. It freezes that thread and says why, or raises; and the
right way works.

The frozen threads live in a process of their own, one for all cases, so that they cannot hang the
tests.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from support import (
    BOUND,
    RawClient,
    RawServer,
    ReconnectingClient,
    Recorder,
    connect,
    drop_on_request,
    echo_server,
    exchange,
    new_client,
    polite,
    process_of,
    send_text,
    upgrade,
    upgraded,
    wait_for,
)
from support.programs import Script

from mormot_ws import (
    HttpClientWebSockets,
    WebSocketFrame,
    WebSocketProcess,
    WebSocketsError,
    focText,
)

# ------------------------------------------------------------------------------- frozen, by default

#: the callbacks in which a client is freed
_CLIENT_CASES = [
    "on_incoming_frame_connected",
    "on_incoming_frame_message",
    "on_incoming_frame_ended",
    "on_before_incoming_frame",
    "on_websockets_closed",
    "on_reconnect_none",
    "on_reconnect_process",
    "on_client_connected",
    "on_client_disconnected",
]
#: the callbacks in which a server is freed
_SERVER_CASES = [
    "on_echo",
    "on_websocket_connect",
    "on_websocket_disconnect",
    "on_websocket_close",
    "on_websocket_upgraded",
    "on_request",
]

_SCRIPT = """
import logging, sys, threading, time
from mormot_ws import *

logging.basicConfig(format="<%(levelname)s> %(message)s", stream=sys.stdout)
opcodes = {"connected": focContinuation, "message": focText, "ended": focConnectionClose}


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # in one piece: many threads talk


def echo(process, frame):
    if frame.opcode is focText:
        process.send_frame(frame)


def new_server(callback=echo):
    server = WebSocketServer("127.0.0.1:0")
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", callback))
    return server


def free_inside(name, target):
    # a function of that name, so that the stack in the log shows it
    scope = {"target": target, "name": name, "say": say}
    lines = ["say('inside', name)", "target().free()", "say('returned', name)", "return 200"]
    exec(f"def {name}(*_):\\n    " + "\\n    ".join(lines), scope)
    return scope[name]


def client_case(name):
    server = new_server()
    upgraded = threading.Event()
    server.on_websocket_connect = lambda socket: upgraded.set()
    settings = WebSocketProcessSettings(close_timeout=200)
    client = HttpClientWebSockets.open("127.0.0.1", server.port, settings=settings)
    inside = free_inside(name, lambda: client)
    on_frame = None
    if name.startswith("on_incoming_frame_"):
        opcode = opcodes[name.rpartition("_")[2]]
        on_frame = lambda process, frame: inside() if frame.opcode is opcode else None
    elif name.startswith("on_client_"):
        setattr(client.settings, name, inside)
    elif name == "on_before_incoming_frame":
        client.on_before_incoming_frame = inside
    protocol = WebSocketProtocolChat("echo", "", on_frame)
    error = client.websockets_upgrade("", "", False, (), protocol)
    assert not error, error
    process = client.websockets
    if name == "on_websockets_closed":
        client.on_websockets_closed = inside
    elif name == "on_reconnect_none":
        process.on_reconnect = lambda process: inside() if process is None else "Retry"
    elif name == "on_reconnect_process":
        process.on_reconnect = lambda process: "Retry" if process is None else inside()
    if name in ("on_incoming_frame_message", "on_before_incoming_frame"):
        process.send_frame(WebSocketFrame(focText, "x"))
    elif name == "on_reconnect_process":
        upgraded.wait(10)
        server.is_active_websocket(1).shutdown()
    elif name not in ("on_incoming_frame_connected", "on_client_connected"):
        server.free()
    return client, server


def server_case(name):
    server = new_server()
    inside = free_inside(name, lambda: server)
    if name == "on_echo":
        server = new_server(lambda process, frame: inside() if frame.opcode is focText else None)
    else:
        setattr(server, name, inside)
    settings = WebSocketProcessSettings(close_timeout=200)
    client = HttpClientWebSockets.open("127.0.0.1", server.port, timeout=100, settings=settings)
    protocol = WebSocketProtocolChat("echo")
    if name == "on_request":
        client.request("")
    elif not client.websockets_upgrade("", "", False, (), protocol) and name == "on_echo":
        client.websockets.send_frame(WebSocketFrame(focText, "x"))
    if name != "on_request":
        client.free()
    return client, server


client_cases, server_cases = sys.argv[1].split(","), sys.argv[2].split(",")
kept = [client_case(name) for name in client_cases] + [server_case(name) for name in server_cases]
sys.stdin.readline()
began = time.monotonic()
kept[1][0].free()
say("free() outside took", time.monotonic() - began)
with new_server() as server:
    protocol = WebSocketProtocolChat("echo")
    client = HttpClientWebSockets.websockets_connect("127.0.0.1", server.port, protocol)
    say("the main thread goes on:", client.websockets.send_frame(WebSocketFrame(focText, "x")))
    client.free()
say("the end")
"""


class Frozen(NamedTuple):
    """What became of the process with the frozen threads."""

    exit_code: int
    output: str
    #: the text of each CRITICAL record
    records: list[str]
    #: seconds from its last line to its end
    ending: float


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    """Free clients and servers in all their callbacks, in a process of its own, and return what it
    said.
    """
    with Script(_SCRIPT, ",".join(_CLIENT_CASES), ",".join(_SERVER_CASES)) as script:
        count = len(_CLIENT_CASES) + len(_SERVER_CASES)
        wait_for(
            lambda: script.text.count("<CRITICAL>") == count or script.said_all,
            3 * BOUND,
            f"{count} records at CRITICAL",
        )
        script.enter("")
        script.wait_line("the end")
        began = time.monotonic()
        code = script.wait()
        ending = time.monotonic() - began
    records = re.findall(r"^<CRITICAL> (.*?)(?=^<|^\w|\Z)", script.text, re.DOTALL | re.MULTILINE)
    return Frozen(code, script.text, records, ending)


@pytest.mark.parametrize("case", [*_CLIENT_CASES, *_SERVER_CASES])
def test_free_in_a_callback_freezes_it_and_says_why(frozen: Frozen, case: str) -> None:
    """The callback never returns; one CRITICAL record has its stack, what waits for what, and the
    way out.
    """
    assert f"inside {case}\n" in frozen.output
    assert f"returned {case}\n" not in frozen.output
    (record,) = [text for text in frozen.records if re.search(rf"in {case}$", text, re.MULTILINE)]
    what = "client" if case in _CLIENT_CASES else "server"
    for words in (
        f"the {what} ",
        "own callback",
        "Thread '",
        "waits",
        "terminate()",
        "free_in_callback",
        "porting-guide",
    ):
        assert words in record


def test_the_rest_of_the_program_goes_on_and_ends_by_itself(frozen: Frozen) -> None:
    """Beside all these frozen threads the main thread works, and the process ends with exit code
    0, in time.
    """
    assert "the main thread goes on: True\n" in frozen.output
    assert frozen.exit_code == 0
    assert frozen.ending < BOUND
    assert "Traceback (most recent call last)" not in frozen.output


def test_a_frozen_client_can_be_freed_from_outside_within_a_bound(frozen: Frozen) -> None:
    """``free()`` in another thread gives the frozen one up after less than the original's seconds,
    and logs it.
    """
    (took,) = re.findall(r"free\(\) outside took ([\d.]+)", frozen.output)
    assert float(took) < 5
    assert re.search(r"^<ERROR> .*thread is left behind", frozen.output, re.MULTILINE)


# ------------------------------------------------------------------------------------------ raising


def _freeing(recorder: Recorder, target: Callable[[], Any]) -> Callable[..., Any]:
    """Return a callback that frees what *target* returns, and records what that raises."""

    def callback(*_: object) -> str:
        try:
            target().free()
        except WebSocketsError as exc:
            recorder.add("raised", str(exc))
        else:
            recorder.add("returned")
        return "Retry"

    return callback


@pytest.mark.parametrize(
    "case",
    [
        "on_before_incoming_frame",
        "on_websockets_closed",
        "on_reconnect_none",
        "on_reconnect_process",
        "on_client_disconnected",
    ],
)
def test_with_raise_a_client_freed_in_its_callback_raises(case: str, recorder: Recorder) -> None:
    """``free_in_callback='raise'``: a WebSocketsError at once instead of a freeze, and ``free()``
    outside still works.
    """
    with (
        RawServer(drop_on_request, polite) as server,
        ReconnectingClient(server.port, free_in_callback="raise") as reconnecting,
    ):
        client = reconnecting.client
        inside = _freeing(recorder, lambda: client)
        if case == "on_before_incoming_frame":
            client.on_before_incoming_frame = inside
        elif case == "on_client_disconnected":
            client.settings.on_client_disconnected = inside
        elif case == "on_websockets_closed":
            client.on_websockets_closed = inside
        else:
            process_of(client).on_reconnect = inside
        if case == "on_reconnect_none":
            server.close()
        elif case == "on_before_incoming_frame":
            process_of(client).protocol.on_before_incoming_frame = inside
            assert send_text(client, "x")
        else:
            reconnecting.drop()
        error = recorder.wait("raised").value
        assert "client is being freed from its own callback" in error
        assert not recorder.all("returned")
        assert repr(process_of(client).owner_thread.name) in error  # type: ignore[union-attr]


def test_with_raise_a_connection_survives_the_mistake(recorder: Recorder) -> None:
    """The refused ``free()`` changes nothing: the connection goes on, and messages are still
    answered.
    """
    frames = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        frames.frame(process, frame)
        if frame.opcode is focText and frame.payload == b"free":
            _freeing(recorder, lambda: client)()

    with echo_server() as server, new_client(server.port, free_in_callback="raise") as client:
        assert upgrade(client, callback) == ""
        assert send_text(client, "free")
        recorder.wait("raised")
        assert send_text(client, "and on")
        frames.wait("focText", 2)
        assert process_of(client).client_thread is not None
        assert not process_of(client).client_thread.terminated  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "case", ["on_echo", "on_websocket_connect", "on_websocket_disconnect", "on_request"]
)
def test_with_raise_a_server_freed_in_its_callback_raises_and_goes_on(
    case: str, recorder: Recorder
) -> None:
    """A WebSocketsError in the callback; the server still accepts and serves."""
    with echo_server(free_in_callback="raise") as server:
        inside = _freeing(recorder, lambda: server)

        def before(process: WebSocketProcess, frame: WebSocketFrame) -> bool:
            inside()
            return False

        if case == "on_echo":
            server.on_websocket_connect = lambda connection: setattr(
                connection.websocket_protocol, "on_before_incoming_frame", before
            )
        elif case == "on_request":
            server.on_request = lambda context: (inside(), 204)[1]
        else:
            setattr(server, case, inside)
        if case == "on_request":
            with RawClient(server.port) as visitor:
                visitor.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert visitor.read_answer()[0].status == 204
        with upgraded(server.port) as one:
            assert exchange(one, ["x"]) == ["x"]
        assert "server is being freed from its own callback" in recorder.wait("raised").value
        with upgraded(server.port) as two:
            assert exchange(two, ["y"]) == ["y"]
        assert not recorder.all("returned")


# ------------------------------------------------------------------------------------ the right way


@pytest.mark.parametrize(
    "case",
    ["focContinuation", "focText", "focConnectionClose", "on_websockets_closed", "on_reconnect"],
)
def test_terminate_in_the_callback_and_free_outside_is_fine(
    case: str, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The callback asks the thread to end and sets a flag; the main thread frees: nothing freezes,
    nothing is logged.
    """
    flag = threading.Event()

    def maybe_give_up(name: str) -> str:
        recorder.add(name)
        if name == case:
            thread = process_of(client).client_thread
            assert thread is not None
            thread.terminate()
            flag.set()
        return "Retry"

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        ready.wait(BOUND)
        maybe_give_up(frame.opcode.name)

    ready = threading.Event()
    with echo_server() as server, connect(server.port, callback) as client:
        client.on_websockets_closed = lambda _: maybe_give_up("on_websockets_closed")
        process_of(client).on_reconnect = lambda _: maybe_give_up("on_reconnect")
        ready.set()
        if case == "focText":
            assert send_text(client, "x")
        elif case != "focContinuation":
            server.free()
        assert flag.wait(BOUND)
        client.free()
    assert recorder.names.count("on_websockets_closed") == 1
    assert recorder.names.count("on_reconnect") == (case == "on_reconnect")
    assert not caplog.records


def test_shutdown_in_a_callback_is_fine(recorder: Recorder) -> None:
    """Closing the connection inside a callback does not wait for itself."""

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        recorder.frame(process, frame)
        if frame.opcode is focText:
            process.shutdown()

    with echo_server() as server, connect(server.port, callback) as client:
        assert send_text(client, "x")
        recorder.wait("focConnectionClose")
    assert recorder.names == ["focContinuation", "focText", "focConnectionClose"]


def test_freeing_another_client_in_a_callback_is_no_hazard(recorder: Recorder) -> None:
    """Only one's own client is: the callback of one may free another, and a client's callback may
    free a server.
    """
    other_recorder = Recorder()

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            other.free()
            other_server.free()
            recorder.add("freed")

    with (
        echo_server() as server,
        echo_server() as other_server,
        connect(other_server.port, other_recorder.frame) as other,
    ):
        with connect(server.port, callback) as client:
            assert send_text(client, "x")
            recorder.wait("freed")
        assert other_recorder.names == ["focContinuation", "focConnectionClose"]


def test_the_end_of_a_with_block_in_a_callback_is_the_same_hazard(recorder: Recorder) -> None:
    """``__exit__`` is ``free()``: with 'raise' it raises too."""

    def callback(process: WebSocketProcess, frame: WebSocketFrame) -> None:
        if frame.opcode is focText:
            try:
                with client:
                    pass
            except WebSocketsError as exc:
                recorder.add("raised", exc)

    with echo_server() as server, new_client(server.port, free_in_callback="raise") as client:
        assert isinstance(client, HttpClientWebSockets)
        assert upgrade(client, callback) == ""
        assert send_text(client, "x")
        recorder.wait("raised")
