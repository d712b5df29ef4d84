"""A page that has the client of topics, and a server whose messages the test writes and reads."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

from mormot_ws import HttpServerRequest, WebSocketServer, close_payload, focConnectionClose, focText
from mormot_ws.page import TOPICS_JS, answer_topics_js
from mormot_ws.process.freeing import ClosedByWith

from .browser import Tab
from .places import HOST
from .raw_peer import RawServerPeer
from .waiting import BOUND

Message = dict[str, Any]

#: what is heard is remembered, and so are the events; ``settle`` does it for a promise
SCRIPT = f"""
import {{ Topics }} from "{TOPICS_JS}";
window.heard = [];
window.events = [];
window.settled = {{}};
window.start = (urls, options) => {{
  const next = () => urls.length > 1 ? urls.shift() : urls[0];
  window.topics = new Topics(urls.length > 1 ? next : urls[0], options);
  for (const type of ["online", "offline", "waiting", "answered", "ended"]) {{
    topics.addEventListener(type, (event) => events.push([type, event.detail]));
  }}
}};
window.listen = (topic, options) => {{
  window.subscription = topics.subscribe(topic, (publication) => heard.push(publication), {{
    onRecovered: (recovery) => heard.push(recovery),
    onRefused: (error) => heard.push({{ code: error.code, reason: error.message }}),
    ...options }});
}};
window.settle = (name, promise) => promise.then((value) => {{ settled[name] = value; }},
  (error) => {{ settled[name] = {{ error: error.code, reason: error.message }}; }});
document.body.dataset.state = "ready";
"""
#: the same client in a worker, which is told where to connect
WORKER = f"""
import {{ Topics }} from "{TOPICS_JS}";
self.onmessage = ({{ data }}) => {{
  const topics = new Topics(data);
  topics.subscribe("news", (publication) => self.postMessage(publication));
}};
"""
PAGE = '<!doctype html><title>Topics</title><body><script type="module" src="/page.js"></script>'


def answer(ctxt: HttpServerRequest, script: str) -> int:
    """Answer with the page, whose policy allows no inline script, and with what it loads."""
    if ctxt.url == "/":
        ctxt.out_content, ctxt.out_content_type = PAGE, "text/html; charset=utf-8"
        ctxt.out_custom_headers = (
            "Content-Security-Policy: default-src 'none'; script-src 'self';"
            f" connect-src ws://{HOST}:*"
        )
        return 200
    if ctxt.url == "/page.js":
        ctxt.out_content, ctxt.out_content_type = script, "text/javascript"
        return 200
    if ctxt.url == "/worker.js":
        ctxt.out_content, ctxt.out_content_type = WORKER, "text/javascript"
        return 200
    return answer_topics_js(ctxt)


@contextlib.contextmanager
def page_served(script: str = SCRIPT) -> Iterator[int]:
    """Give the port of a server that has the page with that *script*."""
    with WebSocketServer(f"{HOST}:0") as server:
        server.on_request = lambda ctxt: answer(ctxt, script)
        yield server.port


class TopicsTab:
    """A tab with the page: what its client of topics is told to do, and has heard. It connects to
    the first of *ports*, and back to the next, the last of them again and again.
    """

    def __init__(self, tab: Tab, *ports: int, **options: Any) -> None:
        self.tab = tab
        tab.wait_state("ready")
        tab.run("start(...arguments)", [f"ws://{HOST}:{port}/" for port in ports], options)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what JavaScript returns in the page."""
        return self.tab.run(script, *arguments)

    def publish(self, name: str, data: Any, topic: str = "news") -> None:
        """Publish; :attr:`settled` has its end by that *name*."""
        self.run(
            "settle(arguments[0], topics.publish(arguments[1], arguments[2]))", name, topic, data
        )

    @property
    def heard(self) -> list[Message]:
        """What the callbacks were given."""
        return list(self.run("return heard"))

    @property
    def settled(self) -> dict[str, Any]:
        """The results of the promises that have one."""
        return dict(self.run("return settled"))

    @property
    def events(self) -> list[tuple[str, Message]]:
        """The events, with their details."""
        return [(type, detail) for type, detail in self.run("return events")]

    def wait_heard(self, *expected: Message) -> None:
        """Wait until the callbacks were given what has these fields, in this order."""
        self.tab.wait(lambda: len(self.heard) >= len(expected), f"{len(expected)} calls")
        found = [
            {name: value for name, value in each.items() if name in wanted}
            for each, wanted in zip(self.heard, expected, strict=True)
        ]
        assert found == list(expected)

    def wait_settled(self, name: str, expected: Any) -> None:
        """Wait for the end of a promise."""
        self.tab.wait(lambda: name in self.settled, f"the end of {name}")
        assert self.settled[name] == expected

    def wait_event(self, type: str, count: int = 1) -> Message:
        """Wait for the *count*-th event of a type; return its detail."""

        def found() -> list[Message]:
            return [detail for each, detail in self.events if each == type]

        self.tab.wait(lambda: len(found()) >= count, f"{count} events {type}")
        return found()[count - 1]


class Talk(RawServerPeer):
    """The server's end of one connection."""

    def say(self, type: str, **fields: Any) -> None:
        """Send one message."""
        self.send_frame(focText, json.dumps({"type": type, **fields}))

    def hear(self, *expected: Message) -> None:
        """Read as many messages, which have to be these."""
        heard = [json.loads(self.receive_opcode(focText).text) for _ in expected]
        assert heard == list(expected)

    def hello(self, **limits: int) -> str:
        """Read the client's hello and answer it; return the session."""
        hello = json.loads(self.receive_opcode(focText).text)
        session = hello.pop("session")
        assert hello == {"type": "hello", "v": 1}
        self.say("hello", v=1, member="4f0c", limits={"window": 64, **limits})
        return str(session)

    def end(self, code: int) -> None:
        """Close the connection with *code*."""
        self.send_frame(focConnectionClose, close_payload(code, "why"))
        self.receive_opcode(focConnectionClose)
        self.close()


class ScriptedServer(ClosedByWith):
    """Accepts connections, and leaves what is said on them to the test."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(BOUND)
        self.port: int = self._listener.getsockname()[1]
        self._talks: list[Talk] = []

    def accept(self) -> Talk:
        """Return the next connection, after the handshake."""
        sock, _ = self._listener.accept()
        talk = Talk(sock)
        self._talks.append(talk)
        assert talk.accept().headers["sec-websocket-protocol"] == "topics"
        return talk

    def close(self) -> None:
        """Close all connections, and listen no more."""
        for talk in self._talks:
            talk.close()
        self._listener.close()
