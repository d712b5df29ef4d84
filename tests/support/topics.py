"""What the tests of topics share: servers with a hub, clients, and a peer that writes and reads
messages by itself.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import websocket

from mormot_ws import (
    HttpClientWebSockets,
    Hub,
    MemoryHub,
    Publication,
    WebSocketAsyncServer,
    WebSocketAsyncServerRest,
    WebSocketProtocolTopics,
    WebSocketServer,
    WebSocketServerRest,
)

from .endpoints import fast_settings
from .places import HOST
from .waiting import BOUND, ms, wait_for

Server = WebSocketServer | WebSocketAsyncServer

SESSION = "s6JwXb0aQ1ePz3mN"
OTHER_SESSION = "x6JwXb0aQ1ePz3mN"


class Topics:
    """A server with a protocol of topics on a hub."""

    def __init__(self, server: Server, protocol: WebSocketProtocolTopics, hub: Hub) -> None:
        self.server = server
        self.protocol = protocol
        self.hub = hub

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server.port)


@contextlib.contextmanager
def topics_on(
    kind: type[Server],
    hub: Hub | None = None,
    port: int = 0,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[Topics]:
    """Give a running server; *options* are those of its protocol."""
    own = MemoryHub() if hub is None else None
    with contextlib.ExitStack() as left:
        if own is not None:
            left.enter_context(own)
        used = hub or own
        assert used is not None
        protocol = WebSocketProtocolTopics("topics", "", used, **options)
        given: dict[str, Any] = {"settings": fast_settings(**(settings or {}))}
        if not issubclass(kind, (WebSocketServerRest, WebSocketAsyncServerRest)):
            # before the first client comes
            given["prepare"] = lambda made: made.websocket_protocols.add(protocol)
        server = left.enter_context(kind(f"{HOST}:{port}", **given))
        server.websocket_protocols.add(protocol)
        yield Topics(server, protocol, used)


@contextlib.contextmanager
def client_of(
    port: int, protocol: WebSocketProtocolTopics, connected: bool = True, **settings: Any
) -> Iterator[HttpClientWebSockets]:
    """Give a client that connects in the background, and comes back; wait for it unless told."""
    client = HttpClientWebSockets(
        HOST, port, timeout=ms(2_000), settings=fast_settings(**settings), connect=False
    )
    with client:
        client.auto_reconnect("topics", protocol=protocol)
        if connected:
            wait_for(lambda: client.status().connected, what="the connection")
        yield client


class Heard:
    """Remembers publications, and lets a test wait for them."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.recoveries: list[Any] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, publication: Publication) -> None:
        """An ``on_publication``."""
        self.threads.add(threading.current_thread())
        self.publications.append(publication)

    def recovered(self, recovery: Any) -> None:
        """An ``on_recovered``."""
        self.recoveries.append(recovery)

    @property
    def data(self) -> list[Any]:
        """The data of all publications."""
        return [each.data for each in self.publications]

    def wait(self, count: int) -> list[Any]:
        """Wait for so many publications; return the data of all."""
        wait_for(
            lambda: len(self.publications) >= count,
            what=f"{count} publications, of which {len(self.publications)} came,",
        )
        return self.data


class Talker:
    """A peer that writes and reads the messages by itself; a context manager."""

    def __init__(self, port: int, session: str = SESSION, hello: bool = True, **options: Any):
        self.ws = websocket.create_connection(
            f"ws://{HOST}:{port}/topics",
            timeout=BOUND,
            subprotocols=["topics"],
            # which costs it more than all the rest
            skip_utf8_validation=True,
            **options,
        )
        self.welcome: dict[str, Any] = {}
        if hello:
            self.say(type="hello", v=1, session=session)
            self.welcome = self.read("hello")

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.ws.shutdown()

    def say(self, text: str | None = None, **fields: Any) -> None:
        """Send a message."""
        self.ws.send(json.dumps(fields) if text is None else text)

    def read(self, kind: str = "") -> dict[str, Any]:
        """Return the next message, which is of that type."""
        message: dict[str, Any] = json.loads(self.ws.recv())
        assert not kind or message["type"] == kind, message
        return message

    def subscribe(self, topic: str = "news", **fields: Any) -> dict[str, Any]:
        """Subscribe, and return the answer."""
        self.say(type="sub", topic=topic, **fields)
        return self.read("sub")

    def publish(self, data: Any, seq: int, topic: str = "news") -> dict[str, Any]:
        """Publish, and return the answer."""
        self.say(type="pub", topic=topic, seq=seq, data=data)
        return self.read()

    def publications(self, count: int) -> list[tuple[int, Any]]:
        """Return offset and data of the next *count* publications."""
        found = [self.read("pub") for _ in range(count)]
        return [(each["offset"], each["data"]) for each in found]

    def closed(self) -> int:
        """Read until the connection is closed; return the code."""
        while True:
            opcode, payload = self.ws.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(payload[:2], "big")

    def silence(self) -> None:
        """Make sure that nothing else has come, by asking for a pong."""
        self.say(type="ping")
        assert self.read() == {"type": "pong"}


def refusing(hub: MemoryHub, error: Callable[[], Exception]) -> Callable[[], None]:
    """Let all calls of *hub* raise; return what ends that."""
    names = ("publish_json", "history", "subscribe", "members")

    def fail(*_: object, **__: object) -> Any:
        raise error()

    for name in names:
        hub.__dict__[name] = fail

    def end() -> None:
        for name in names:
            hub.__dict__.pop(name, None)

    return end
