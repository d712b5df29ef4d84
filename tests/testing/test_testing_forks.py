"""A forked child leaves the test servers and the proxy of its parent alone."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support import HOST, Recorder, connect, process_of, send_text, wait_for

from mormot_ws.testing import EchoServer, EchoServerProcess, FaultProxy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")


def in_child(work: Callable[[], object]) -> int:
    """Do *work* in a forked child; return its exit code, 0 when nothing was raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kind", [EchoServer, EchoServerProcess])
def test_a_child_that_frees_them_ends_nothing_of_the_parent(
    kind: type[EchoServer | EchoServerProcess], recorder: Recorder
) -> None:
    """A child frees the echo server, its process and the proxy before it, and gives commands: the
    parent's connection goes on.
    """
    with kind() as server, FaultProxy(HOST, server.port) as proxy:
        client = connect(proxy.port, recorder.frame)
        assert send_text(client, "before")
        wait_for(lambda: "before" in recorder.texts())

        def free_all() -> None:
            proxy.cut()
            proxy.free()
            if isinstance(server, EchoServerProcess):
                server.freeze()
                server.kill()
            server.stop()
            server.free()

        assert in_child(free_all) == 0
        assert send_text(client, "after")
        wait_for(lambda: "after" in recorder.texts())
        assert proxy.links == 1
        assert process_of(client).close_code == 0
        client.free()
