# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0. If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
"""Servers of topics, or rooms: ``python -m tests.benchmarks.topic_servers LIBRARY PORT [REDIS]``.

* ``mormot_ws``, ``mormot_ws-events``: topics, with a hub in memory, or over the Redis at the URL;
* ``python-socketio``: rooms in threading mode, with its Redis manager: an event ``sub`` enters one,
  and is answered by the event ``ready``; an event ``pub`` is sent to all in the room.

They start, announce themselves and end like those of ``servers``. A line ``publish TOPIC COUNT``
publishes so many, from the server's own code, and is answered.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import threading
from typing import Any

from .servers import HOST, announce

#: what each publication has once, and nothing else that is sent: so it can be counted
MARK = "~"
DATA = f"{MARK}{'x' * 99}"


def mormot_ws(port: int, redis: str, *, events: bool) -> None:
    """Serve with the library under test."""
    from mormot_ws import (
        MemoryHub,
        RedisHub,
        TopicLimits,
        WebSocketAsyncServer,
        WebSocketProtocolTopics,
        WebSocketServer,
    )

    hub = RedisHub(redis) if redis else MemoryHub()
    limits = TopicLimits(max_publications_per_second=0)
    server = (WebSocketAsyncServer if events else WebSocketServer)(f"{HOST}:{port}")
    server.websocket_protocols.add(WebSocketProtocolTopics("topics", "", hub, limits=limits))
    _obey(server.port, lambda topic: hub.publish(topic, DATA))


def python_socketio(port: int, redis: str) -> None:
    """Serve with python-socketio."""
    import logging

    from socketio import RedisManager, Server, WSGIApp
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # that it publishes again, when many come at once
    logging.getLogger("socketio.server").setLevel(logging.CRITICAL)
    sio: Any = Server(
        async_mode="threading",
        client_manager=RedisManager(redis) if redis else None,
        # none comes during a measure
        ping_interval=600,
    )

    @sio.event  # type: ignore[untyped-decorator,unused-ignore]
    def sub(sid: str, topic: str) -> None:
        sio.enter_room(sid, topic)
        sio.emit("ready", to=sid)

    @sio.event  # type: ignore[untyped-decorator,unused-ignore]
    def pub(sid: str, topic: str, data: str) -> None:
        sio.emit("pub", {"topic": topic, "data": data}, to=topic)

    server = make_server(HOST, port, WSGIApp(sio), threaded=True)
    server.socket.listen(4096)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _obey(server.port, lambda topic: sio.emit("pub", {"topic": topic, "data": DATA}, to=topic))


def _obey(port: int, publish: Any) -> None:
    announce(port=port)
    for line in sys.stdin:
        _, topic, count = line.split()
        for _ in range(int(count)):
            publish(topic)
        print(json.dumps({"published": int(count)}), flush=True)


def main() -> None:
    """Run the server that the command line names."""
    faulthandler.register(signal.SIGUSR1)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    library, port, redis = sys.argv[1], int(sys.argv[2]), (sys.argv[3:] or [""])[0]
    try:
        if library == "python-socketio":
            python_socketio(port, redis)
        else:
            mormot_ws(port, redis, events=library == "mormot_ws-events")
    except ImportError as error:
        announce(missing=str(error))
    sys.stdout.flush()
    # the threads of the libraries are not to delay the end
    os._exit(0)


if __name__ == "__main__":
    main()
