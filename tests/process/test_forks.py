"""A forked child, whatever it does and however it ends, leaves its parent's connections alone."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time

import pytest
from support import BOUND
from support.programs import run_script
from support.tls import Authority, authority

from mormot_ws.core import forks
from mormot_ws.core.forks import dies_in_child, renew_in_child
from mormot_ws.process import freeing
from mormot_ws.process.freeing import close_at_exit
from mormot_ws.process.keeper import ProcessKeeper

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")

__all__ = ["authority"]

#: a server and a client of it in one OS process, so that a child inherits both ends. Log records
#: of a child, and what it prints, are lines of the output
_PARENT = r"""
import gc, logging, multiprocessing, os, ssl, sys, threading, time, warnings
from concurrent.futures import ProcessPoolExecutor
# newer versions of Python warn of forks in programs with threads
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
from mormot_ws import *

BOUND, CERTIFICATE, KEY, CA = float(sys.argv[1]), *sys.argv[2:]
PARENT = os.getpid()


class Handler(logging.Handler):
    def emit(self, record):
        if os.getpid() != PARENT:
            os.write(1, f"LOGGED {record.getMessage()}\n".encode())


logging.basicConfig(level=logging.DEBUG, handlers=[Handler()])
received = []


def on_server(process, frame):
    if frame.opcode is focText:
        process.send_frame(frame)
        ask_child(frame.text, "server")
    told(frame)


def on_client(process, frame):
    if frame.opcode is focText:
        received.append(frame.text)
        ask_child(frame.text, "client")
    told(frame)


def told(frame):
    if os.getpid() != PARENT and frame.opcode is focConnectionClose:
        os.write(1, b"TOLD a callback of the end\n")


def ask_child(text, side):
    # in the connection's own thread: the child goes on in it, out of the callback
    if text == f"fork in the {side}" and os.getpid() == PARENT:
        children.append(os.fork())


def wait_for(condition, what):
    give_up = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < give_up, f"not within {BOUND} s: {what}"
        time.sleep(0.002)


def new_server():
    server = WebSocketServer(
        "127.0.0.1:0", certificate_file=CERTIFICATE or None, private_key_file=KEY or None
    )
    server.websocket_protocols.add(WebSocketProtocolChat("echo", "", on_server))
    return server


def new_client(port):
    context = client_tls_context(CA) if CA else None
    client = HttpClientWebSockets("localhost", port, bool(CA), context)
    protocol = WebSocketProtocolChat("echo", "", on_client)
    assert client.websockets_upgrade("", "", False, frozenset(), protocol) == ""
    client.auto_reconnect()
    return client


def check_echo(client, text):
    assert client.websockets.send_frame(WebSocketFrame(focText, text)), f"not sent: {text}"
    wait_for(lambda: text in received, f"an echo of {text!r}")


def wait_child(pid):
    wait_for(lambda: ended(pid), f"the end of the child {pid}")


def ended(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        assert status == 0, f"the child ended with {status}"
    return found


children = []
server = new_server()
client = new_client(server.port)
closed = []
client.on_websockets_closed = closed.append
server.on_websocket_disconnect = (
    lambda connection: connection.connection_id == 1 and closed.append(connection)
)
check_echo(client, "before")
"""

_CHECKS = r"""
check_echo(client, "after")
assert not closed and client.websockets.close_code == 0 and client.websockets.reconnects == 0
wait_for(lambda: server.websocket_connections == 1, "the end of the child's connections")
assert server.websocket_broadcast(WebSocketFrame(focText, "to all")) == 1
wait_for(lambda: "to all" in received, "the broadcast")
# the listener and the counts are in order too
new_client(server.port).free()
client.free()
server.free()
assert not [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
print("unharmed")
"""


def check(children: str, authority: Authority | None = None) -> str:
    """Run the parent, which does *children* between two echoes; return what the children have
    printed. They have to be silent else.
    """
    files = ("", "", "")
    if authority is not None:
        files = (authority.certificate_file, authority.private_key_file, authority.file)
    code, output = run_script(_PARENT + children + _CHECKS, str(BOUND), *files, bound=6 * BOUND)
    assert code == 0, output
    said, _, rest = output.rpartition("unharmed\n")
    assert rest == ""
    assert "LOGGED" not in said, said
    assert "TOLD" not in said, said
    return said


_FORK = r"""
pid = os.fork()
if pid == 0:
    {child}
wait_child(pid)
"""

_LIVES = {
    "exits": "sys.exit(0)",
    "exits at once": "os._exit(0)",
    "frees both": "client.free(); server.free(); client.free(); server.free(); sys.exit(0)",
    "ends a with block": (
        "server.__exit__(None, None, None); client.__exit__(None, None, None); sys.exit(0)"
    ),
    "collects garbage": "del server, client; gc.collect(); sys.exit(0)",
    "closes the connection": (
        "client.websockets.shutdown(); client.websockets.abort('why'); client.close(); sys.exit(0)"
    ),
    "forks again": "os.fork() or sys.exit(0); os.wait(); sys.exit(0)",
    "terminates and reconnects": (
        "client.reconnect_now(); client.auto_reconnect(); client.reopen(); sys.exit(0)"
    ),
}


@pytest.mark.parametrize("life", list(_LIVES))
def test_the_parent_goes_on_whatever_a_child_does(life: str) -> None:
    """A child that exits, frees, closes or forgets what it inherited is silent, and harms no
    connection.
    """
    assert check(_FORK.format(child=_LIVES[life])) == ""


@pytest.mark.parametrize("life", ["exits", "frees both", "closes the connection"])
def test_the_tls_state_of_the_parent_is_not_touched(life: str, authority: Authority) -> None:
    """Over TLS not a byte of the child's, no close_notify either, gets into the parent's stream."""
    assert check(_FORK.format(child=_LIVES[life]), authority) == ""


def test_what_a_child_inherits_is_dead() -> None:
    """In the child nothing is connected, nothing can be sent, nothing waits, and the descriptors
    are closed.
    """
    child = r"""
    began = time.monotonic()
    process, other = client.websockets, server_side
    frame = WebSocketFrame(focText, "from the child")
    for each in (process, other):
        assert each.state is wpsDestroy
        assert not each.send_frame(frame) and not each.send_frame_async(frame)
        assert not each.shutdown() and each.fileno() == -1
    assert not client.connected and not client.status().connected and client.reopen() != ""
    protocol = WebSocketProtocolChat("echo")
    error = client.websockets_upgrade("", "", False, frozenset(), protocol)
    assert error == "Not Connected", error
    assert client.request("/") == 666
    assert server.websocket_connections == 0 and server.websocket_broadcast(frame) == 0
    assert server.status().connections == 0 and server.is_active_websocket(1) is None
    client.free(); server.free()
    descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    links = [os.readlink(path) for path in descriptors if os.path.islink(path)]
    assert not [link for link in links if link.startswith("socket:")], links
    assert time.monotonic() - began < 2 * BOUND / 10
    sys.exit(0)
"""
    if not sys.platform.startswith("linux"):
        child = "\n".join(line for line in child.splitlines() if "link" not in line)
    before = "\nserver_side = server.is_active_websocket(1)\n"
    assert check(before + _FORK.format(child=child.strip())) == ""


def test_a_child_has_clients_and_servers_of_its_own() -> None:
    """A child connects to its parent and to a server of its own, queued frames leave, and what it
    does not free says goodbye at its exit.
    """
    child = r"""
    PARENT = os.getpid()  # it may tell what it likes about its own
    received.clear()
    first, mine = new_client(server.port), new_server()
    second, third = new_client(mine.port), new_client(mine.port)
    for each in (first, second, third):
        check_echo(each, f"own {id(each)}")
    # the keeper goes on as long as one of them needs it
    first.free(); second.free()
    assert third.websockets.send_frame_async(WebSocketFrame(focText, "queued"))
    wait_for(lambda: "queued" in received, "the queued frame")
    os.write(1, b"all own\n")
    sys.exit(0)
"""
    # a port can be connected to only while its owner lives: the parent's, which is inherited
    child = child.replace("new_client(server.port)", "new_client(port)")
    assert check("\nport = server.port\n" + _FORK.format(child=child.strip())) == "all own\n"


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_child_forked_in_a_callback_ends_with_it(side: str) -> None:
    """In the child the callback is the last thing that runs in the connection's thread: nothing is
    read, nobody is told of an end.
    """
    children = f"""
    check_echo(client, "fork in the {side}")
    wait_for(lambda: children, "the fork")
    wait_child(children[0])
    """
    assert check(textwrap.dedent(children)) == ""


def test_a_child_forked_in_a_callback_may_exit() -> None:
    """``sys.exit()`` inside the callback ends such a child, silently."""
    children = r"""
def ask_child(text, side, fork_first=ask_child):
    fork_first(text, side)
    if os.getpid() != PARENT:
        sys.exit(0)

check_echo(client, "fork in the client")
wait_for(lambda: children, "the fork")
wait_child(children[0])
"""
    assert check(children) == ""


def test_a_child_forked_in_a_callback_handles_no_further_message() -> None:
    """Messages that came in the same read with the one whose callback has forked are the parent's
    alone.
    """
    children = r"""
plain_on_client = client.websockets.protocol.on_incoming_frame

def on_client(process, frame):
    if os.getpid() != PARENT:
        os.write(1, b"TOLD a message\n")
    if frame.opcode is focText and frame.text == "hold":
        # all that follows arrives meanwhile, and is read at once
        wait_for(lambda: server.status().frames_out >= 22, "the server's part")
    plain_on_client(process, frame)

client.websockets.protocol.on_incoming_frame = on_client
for text in ["hold", *["fill"] * 5, "fork in the client", *["rest"] * 14]:
    assert client.websockets.send_frame(WebSocketFrame(focText, text))
wait_for(lambda: received.count("rest") == 14, "all messages")
wait_child(children[0])
"""
    assert check(children) == ""


def test_processes_of_multiprocessing_harm_nobody(authority: Authority) -> None:
    """``Process`` and ``ProcessPoolExecutor`` with forks, which end in their own way."""
    children = r"""
from mormot_ws.wsgi import WebSocketWsgiServer
hosted = WebSocketWsgiServer()  # says goodbye before the pools of threads end
forking = multiprocessing.get_context("fork")
process = forking.Process(target=int)
process.start()
process.join(BOUND)
assert process.exitcode == 0
with ProcessPoolExecutor(2, mp_context=forking) as pool:
    assert list(pool.map(abs, range(-4, 0))) == [4, 3, 2, 1]
hosted.free()
"""
    assert check(children, authority) == ""


def test_a_daemon_of_a_client_program_harms_nobody() -> None:
    """Two forks, a session of its own, and the end of the one in between."""
    child = r"""
    os.setsid()
    if os.fork():
        sys.exit(0)
    sys.exit(0)
"""
    assert check(_FORK.format(child=child.strip())) == ""


def test_no_lock_of_the_parent_keeps_a_child_waiting() -> None:
    """Whatever locks other threads hold at the moment of the fork, the child frees, sends, serves
    and connects.
    """
    children = r"""
from mormot_ws.process import keeper as keepers
process, other = client.websockets, server.is_active_websocket(1)
held = [
    lock
    for owner in (client, client._use, client._life, client._life.thread,
                  process.sender, process.reader, process.outgoing,
                  process._keeper, keepers, other.sender, other.reader,
                  server, server._keeper, other.outgoing, server.websocket_protocols)
    for lock in vars(owner).values()
    if hasattr(lock, "acquire") and hasattr(lock, "release")
]
assert len(held) >= 14, held
taken, over = threading.Event(), threading.Event()

def hold():
    # what cannot be had is held by a thread that reads
    mine = [lock for lock in held if lock.acquire(timeout=0.2)]
    taken.set()
    over.wait(BOUND)
    for lock in mine:
        lock.release()

holder = threading.Thread(target=hold, daemon=True)
holder.start()
assert taken.wait(BOUND)
pid = os.fork()
if pid == 0:
    PARENT = os.getpid()
    process.send_frame(WebSocketFrame(focText, "no"))
    process.send_frame_async(WebSocketFrame(focText, "no"))
    process.shutdown(); client.reconnect_now(); client.status(); server.status()
    client.free(); server.free(); server.websocket_broadcast(WebSocketFrame(focText, "no"))
    mine = WebSocketServer("127.0.0.1:0")
    mine.websocket_protocols = server.websocket_protocols
    again = HttpClientWebSockets("127.0.0.1", mine.port)
    assert again.websockets_upgrade("", "", False, frozenset(), process.protocol.clone("")) == ""
    check_echo(again, "own")
    again.free(); mine.free()
    sys.exit(0)
over.set()
holder.join(BOUND)
wait_child(pid)
"""
    assert check(children) == ""


def test_a_child_of_a_busy_program_ends() -> None:
    """Forks in the middle of broadcasts and reconnections of other threads, each child at its
    end within the bound.
    """
    children = r"""
stop = threading.Event()

def broadcast():
    while not stop.is_set():
        server.websocket_broadcast(WebSocketFrame(focBinary, b"x"))
        # lets the other threads run
        time.sleep(0)

def come_and_go():
    while not stop.is_set():
        new_client(server.port).free()

threads = [threading.Thread(target=work) for work in (broadcast, broadcast, come_and_go)]
for thread in threads:
    thread.start()
try:
    for number in range(25):
        pid = os.fork()
        if pid == 0:
            if number % 2:
                client.free(); server.free()
            sys.exit(0)
        wait_child(pid)
finally:
    stop.set()
    for thread in threads:
        thread.join(BOUND)
"""
    assert check(children) == ""


def test_the_keeper_of_a_child_is_its_own() -> None:
    """A keeper that was made before the fork runs in the child, one that was stopped stays so; the
    parent's timers do not run there.
    """
    keeper, stopped = ProcessKeeper("test keeper"), ProcessKeeper("test keeper, stopped")
    stopped.stop()
    own, late = threading.Event(), threading.Event()
    keeper.call_at(0, own.set)
    keeper.call_at(time.monotonic() + 60 * BOUND, late.set)
    assert own.wait(BOUND)
    own.clear()
    read, write = os.pipe()
    with open(read, "rb") as answers, open(write, "wb", buffering=0) as answer:
        pid = os.fork()
        if pid == 0:
            try:
                keeper.call_at(0, own.set)
                stopped.call_at(0, late.set)
                said = own.wait(BOUND) and not late.is_set()
                keeper.stop()
                answer.write(b"well" if said else b"not so")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        answer.close()
        assert answers.read() == b"well"
    keeper.call_at(0, own.set)
    assert own.wait(BOUND)
    keeper.stop()


def test_what_goes_away_is_forgotten_by_no_line_of_python() -> None:
    """Python drops what a signal handler raises in such a line: a Ctrl-C would be lost."""

    class Owner:
        def die_in_child(self) -> None: ...

        def begin_exit(self) -> None: ...

        def end_exit(self, deadline: object) -> None: ...

    owner = Owner()
    dies_in_child(owner)
    renew_in_child(owner, "lock", threading.Lock)
    close_at_exit(owner)
    key = id(owner)
    known = {key, (key, "lock")}
    assert known <= forks._owned.keys()
    assert key in freeing._alive
    lines: list[str] = []
    sys.setprofile(lambda frame, event, arg: lines.append(event) if event == "call" else None)
    try:
        del owner
    finally:
        sys.setprofile(None)
    assert not lines
    assert not known & forks._owned.keys()
    assert key not in freeing._alive
