"""What may be called in a signal handler and in a finaliser: each row of the table in
``docs/explanation/threads.md``, for a client and for a server.

The main thread of a program is busy with calls of the library, and each row is called in the middle
of them: by a real signal, or by the collector, which runs finalisers in any thread.
"""

from __future__ import annotations

import sys

import pytest
from support import BOUND
from support.programs import run_script
from support.tls import Authority, authority

__all__ = ["authority"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGALRM")

PROGRAM = '''
import faulthandler, gc, logging, os, signal, sys, threading, time
from mormot_ws import *

logging.disable(logging.CRITICAL)
BEGAN = time.monotonic()
# what was done, and after how many seconds
done = []


def tell(text):
    done.append("%.1f s: %s" % (time.monotonic() - BEGAN, text))


def give_up():
    """Show which thread waits, for whom, and how far the program has come."""
    if not over.wait(float(sys.argv[3])):
        faulthandler.dump_traceback()
        for text in done:
            print(text)
        for process in processes:
            counts = process.protocol.counts
            print(process, process.status(), counts.frames_in, counts.frames_out)
            if process.exchange is not None:
                print(process.exchange.waiting)
        sys.stdout.flush()
        os._exit(1)


over = threading.Event()
# the two ends of a connection for requests
processes = []
threading.Thread(target=give_up, daemon=True).start()
side, how = sys.argv[1:3]
ca, certificate, key = sys.argv[4:7] if sys.argv[4:] else (None, None, None)
TEXT = WebSocketFrame(focText, b"busy")


def wait_for(condition, what):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.001)


class Pair:
    """A server and a client, and what each has received."""

    def __init__(self):
        self.received = []
        settings = WebSocketProcessSettings(close_timeout=200)
        self.server = WebSocketServer(
            "127.0.0.1:0",
            settings=settings,
            certificate_file=certificate,
            private_key_file=key,
        )
        self.server.websocket_protocols.add(WebSocketProtocolChat("chat", "", self.got))
        self.client = HttpClientWebSockets(
            "127.0.0.1",
            self.server.port,
            tls=bool(ca),
            tls_context=client_tls_context(ca) if ca else None,
            settings=WebSocketProcessSettings(close_timeout=200),
        )
        protocol = WebSocketProtocolChat("chat", "", self.got)
        text = self.client.websockets_upgrade("", protocol=protocol)
        assert not text, text
        wait_for(lambda: self.server.connections(), "no connection")
        [self.accepted] = self.server.connections()
        self.ours = self.client.websockets if side == "client" else self.accepted

    def got(self, process, frame):
        if frame.payload.startswith(b"late"):
            self.received.append(frame.payload)

    def free(self):
        self.client.free()
        self.server.free()


class Garbage:
    """A cycle, whose finaliser runs wherever the collector does."""

    def __init__(self, action):
        self.me = self
        self.action = action

    def __del__(self):
        self.action()


def interrupt(busy, action, times):
    """Call busy() again and again, interrupted by action() that many times."""
    count = 0
    # taken in one step: a handler or finaliser may come in the middle of another one
    turn = [None]

    def once(*_):
        nonlocal count
        try:
            turn.pop()
        except IndexError:
            return
        try:
            if count < times:
                count += 1
                action()
        finally:
            turn.append(None)

    if how == "signal":
        signal.signal(signal.SIGALRM, once)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            while count < times:
                busy()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    else:
        before = gc.get_threshold()
        gc.set_threshold(7)
        try:
            while count < times:
                Garbage(once)
                busy()
        finally:
            gc.set_threshold(*before)


def loads(pair):
    """What the main thread is doing meanwhile."""
    yield "send_frame", lambda: pair.ours.send_frame(TEXT)
    yield "send_frame_async", lambda: pair.ours.send_frame_async(TEXT)
    yield "status", lambda: (pair.client.status(), pair.server.status())
    yield "broadcast", lambda: pair.server.websocket_broadcast(TEXT)


def row(name, action, check, times=8):
    """Interrupt each kind of work by one call, and check what has come of it."""
    pair = Pair()
    try:
        for load, busy in list(loads(pair)):
            results = []
            interrupt(busy, lambda: results.append(action(pair, len(results))), times)
            check(pair, results, load)
    finally:
        pair.free()
    tell(name)


def late(number):
    return WebSocketFrame(focText, b"late %d" % number)


def all_arrived(pair, results, load):
    assert all(results), (load, results)
    wait_for(lambda: len(pair.received) == len(results), (load, len(pair.received)))
    assert len(set(pair.received)) == len(results), load
    pair.received.clear()


def nothing(pair, results, load):
    pass


def ends(name, action, over):
    """A call that ends something is made once, in the middle of each kind of work."""
    for at in range(4):
        pair = Pair()
        try:
            load, busy = list(loads(pair))[at]
            interrupt(busy, lambda: action(pair), 1)
            wait_for(lambda: over(pair), (name, load))
        finally:
            pair.free()
    tell(name)


def ended(pair):
    return pair.ours.state is wpsDestroy


def thread_of(pair):
    return pair.client.websockets.owner_thread


def upgrade_again(pair):
    """Interrupt upgrades by upgrades, and openings by openings."""
    client = HttpClientWebSockets(
        "127.0.0.1",
        pair.server.port,
        tls=bool(ca),
        tls_context=client_tls_context(ca) if ca else None,
        connect=False,
    )
    texts = []

    def upgrade():
        client.reopen()
        client.websockets_upgrade("elsewhere", protocol=WebSocketProtocolChat("other"))

    def both():
        texts.append(client.reopen())
        texts.append(client.websockets_upgrade("", protocol=WebSocketProtocolChat("other")))

    interrupt(upgrade, both, 8)
    assert all(isinstance(text, str) for text in texts)
    assert not client.reopen(), client.last_error
    assert not client.websockets_upgrade("", protocol=WebSocketProtocolChat("chat"))
    client.free()


def requests(kind):
    """Interrupt requests by requests on the same connection: they work, or raise at once."""
    server = WebSocketServerRest("127.0.0.1:0", uri="", ajax=True, options=())

    def application(ctxt):
        ctxt.out_content, ctxt.out_content_type = '"%s"' % ctxt.url, "application/json"
        return 200

    server.on_request = application
    client = HttpClientWebSockets("127.0.0.1", server.port)
    client.on_callback_request_process = application
    protocol = WebSocketProtocolJson("") if kind == "json" else WebSocketProtocolBinary("", "", ())
    assert not client.websockets_upgrade("", protocol=protocol)
    wait_for(lambda: server.connections(), "no connection")
    processes[:] = [client.websockets, *server.connections()]
    process = processes[side == "server"]
    outcomes = []

    def ask(url):
        ctxt = HttpServerRequest(url, "GET")
        status = process.notify_callback(ctxt)
        assert status == 200 and url.encode() in ctxt.out_content, (status, ctxt.out_error)

    def action():
        if threading.current_thread() is not threading.main_thread():
            # the collector runs in a thread that may have to answer: it would wait for itself
            outcomes.append("elsewhere")
            return
        began = time.monotonic()
        try:
            ask("/inner")
            outcomes.append("worked")
        except WebSocketsError:
            outcomes.append("raised")
            assert time.monotonic() - began < 1

    interrupt(lambda: ask("/outer"), action, 8)
    # how many of them raise is a matter of chance
    assert len(outcomes) == 8
    tell(kind + " requests in requests")
    ask("/after")
    # one that does not wait works anywhere
    queued = []
    without = wscNonBlockWithoutAnswer
    interrupt(
        lambda: ask("/outer"),
        lambda: queued.append(process.notify_callback(HttpServerRequest("/queued"), without)),
        8,
    )
    assert set(queued) == {200}
    tell(kind + " queued in requests")
    # and so does the end
    last = HttpServerRequest("/last", "GET")
    interrupt(lambda: process.notify_callback(last), lambda: process.abort("enough"), 1)
    client.free()
    server.free()
    tell(kind + " aborted")


row("send_frame_async", lambda pair, n: pair.ours.send_frame_async(late(n)), all_arrived)
row("send_frame", lambda pair, n: pair.ours.send_frame(late(n)), all_arrived)
if side == "server":
    row(
        "websocket_broadcast",
        lambda pair, n: pair.server.websocket_broadcast(late(n)),
        all_arrived,
    )
row(
    "status",
    lambda pair, n: (pair.client.status(), pair.server.status(), repr(pair.ours)),
    nothing,
)
if side == "client":
    row("reconnect_now", lambda pair, n: pair.client.reconnect_now(), nothing)


    row("upgrades", lambda pair, n: None, lambda pair, results, load: upgrade_again(pair), 1)
ends("shutdown", lambda pair: pair.ours.shutdown(), ended)
ends("abort", lambda pair: pair.ours.abort("enough"), ended)
if side == "client":
    ends(
        "terminate",
        lambda pair: thread_of(pair).terminate(),
        lambda pair: thread_of(pair).terminated,
    )
    if how == "finaliser":
        ends("free_later", lambda pair: pair.client.free_later(), ended)
if how == "signal":
    ends("free", lambda pair: (pair.client if side == "client" else pair.server).free(), ended)
if not ca:
    requests("json")
    requests("binary")
over.set()
print("all well")
'''


@pytest.mark.parametrize(
    ("side", "how", "tls"),
    [
        ("client", "signal", False),
        ("client", "finaliser", True),
        ("server", "signal", True),
        ("server", "finaliser", False),
    ],
    ids=lambda value: ("plain", "TLS")[value] if isinstance(value, bool) else value,
)
def test_what_the_table_allows_works_in_the_middle_of_other_calls(
    authority: Authority, side: str, how: str, tls: bool
) -> None:
    """No call waits for what it has interrupted, and none is lost."""
    files = [authority.file, authority.certificate_file, authority.private_key_file] if tls else []
    code, output = run_script(PROGRAM, side, how, str(1.8 * BOUND), *files)
    assert (code, output.splitlines()[-1:]) == (0, ["all well"]), output
