"""Requests and their answers: what a client learns when there is none."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from .running import (
    new_port,
    seconds_until_answer,
    start_client,
    start_server,
)

#: seconds that the server is away, or that a client has for coming back by itself: that is what is
#: watched, so there is no condition to wait for
AWAY = 3.0
#: seconds after which an answer or a failure should have come
IN_TIME = 20.0


@dataclass
class Dividing:
    """What a client was told."""

    #: for a request just before there is a server
    early: str
    #: for one that has no answer, of the server's own making
    refused: str = ""
    #: for the first one after a kill and a restart of which the client may have learned
    after: str = ""
    #: for one while the server is away
    away: str = ""
    #: seconds from the server's restart until the next answer; None: never
    back: float | None = None
    #: how many requests have failed after the restart, the server being there
    failed_after: int = 0
    #: for one that the server does not answer
    silent: str = ""
    #: the answer to the next one, which is 4
    next: str = ""


def watch(client_library: str, server_library: str) -> Dividing:
    """Start the client, then its server; kill and restart it; stop it, and let it go on."""
    port = new_port()
    with start_client(client_library, "division", port) as client:
        time.sleep(AWAY)
        client.enter("6 3")
        with start_server(server_library, "division", port) as server:
            found = Dividing(client.expect(r"^(2\.0|failed: .*)$", IN_TIME)[0])
            seconds_until_answer(client, r"^5\.0$", "5 1")
            client.enter("1 0")
            found.refused = client.expect("^failed: .*", IN_TIME)[0]
            server.kill()
        with start_server(server_library, "division", port) as server:
            time.sleep(2 * AWAY)
            client.enter("3 2")
            found.after = client.expect(r"^(1\.5|failed: .*)$", IN_TIME)[0]
            seconds_until_answer(client, r"^5\.5$", "11 2")
            server.kill()
        # it has learned of the loss
        time.sleep(AWAY / 6)
        client.enter("9 3")
        time.sleep(AWAY)
        with start_server(server_library, "division", port) as server:
            found.away = client.expect(r"^(3\.0|failed: .*)", IN_TIME)[0]
            before = client.output.count("failed:")
            found.back = seconds_until_answer(client, r"^7\.0$", "7 1")
            found.failed_after = client.output.count("failed:") - before
            # the answers are through
            time.sleep(AWAY / 3)
            server.signal(signal.SIGSTOP)
            begin = time.monotonic()
            client.enter("12 2")
            try:
                found.silent = client.expect(r"^(6\.0|failed: .*)$", IN_TIME)[0]
                found.silent += f" after {time.monotonic() - begin:.1f} s"
            except AssertionError:
                found.silent = f"nothing within {IN_TIME:g} s"
            server.signal(signal.SIGCONT)
            client.enter("8 2")
            found.next = client.expect(r"^(4\.0|6\.0|failed: .*)$", IN_TIME)[0]
        client.end_input()
    return found
