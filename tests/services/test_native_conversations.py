"""The conversations of native programs: answered by ServerServices as natively, and held by
ClientServices with a native server.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
from typing import Any

import pytest
from support import wait_for
from support.native_conversations import (
    CONVERSATIONS,
    SIGNED,
    Signer,
    answer_with,
    body_of,
    differs,
    plain_request,
    value_of,
)
from support.native_services import (
    ICart,
    IMine,
    INews,
    INewsCallback,
    IOnce,
    IPlain,
    IShort,
    ITypes,
    News,
    Place,
    register_all,
)
from support.rest import rest_client, rest_server

from mormot_ws import (
    AuthUser,
    ClientServices,
    HttpServerRequest,
    RestServerAuthenticationDefault,
    RestServerAuthenticationHttpBasic,
    RestServerAuthenticationNone,
    ServerServices,
    ServiceError,
    sicClientDriven,
)
from mormot_ws.services.interface import ServiceInterface

SCHEMES: dict[str, Any] = {
    "default": RestServerAuthenticationDefault,
    "none": RestServerAuthenticationNone,
    "basic": RestServerAuthenticationHttpBasic,
}
USERS = {
    name: AuthUser.with_password(name, password)
    for name, password in (
        ("tester", "pass-word"),
        ("scram", "scr-word"),
        ("mcfuser", "mcf-word"),
    )
}


def name_of(conversation: dict[str, Any]) -> str:
    return str(conversation["title"]).replace(" ", "-")


class NativeClient:
    """Replays what a native client has said, and collects what is answered otherwise."""

    def __init__(self, conversation: dict[str, Any]) -> None:
        self.conversation = conversation
        self.scheme = conversation["authentication"]
        self.signer = Signer(self.scheme, conversation["options"].get("pw", ""))
        self.wrong: list[str] = []
        self.heard: list[tuple[str, Any]] = []
        self.wanted: list[tuple[str, Any]] = []
        #: the client's answers to callbacks
        self.replies: queue.Queue[dict[str, Any]] = queue.Queue()
        for step in conversation["steps"]:
            if step["is"] == "callback-answer":
                self.replies.put(step)

    def on_callback(self, ctxt: HttpServerRequest) -> int:
        """Answer a callback as the native client did."""
        self.heard.append((ctxt.url, value_of(ctxt.in_content, "")))
        if any(name in ctxt.url for name in (".Ask", ".Both", ".BadAsk")):
            return answer_with(ctxt, self.replies.get_nowait())
        return 200

    def replay(self) -> None:
        """Say all of it to our server."""
        scheme = SCHEMES.get(self.scheme)
        with rest_server(None, self.conversation["key"]) as server:
            server.process_name = "soaserver"
            news = News()
            services = ServerServices(
                server,
                root=self.conversation["root"],
                authentication=scheme(USERS.get) if scheme else None,
                publish_signature="_signature_" in self.conversation["title"],
            )
            register_all(services, news, "ByPass" in self.conversation["title"])
            steps = self.conversation["steps"]
            for is_cut, part in itertools.groupby(steps, lambda step: step["is"] == "cut"):
                if is_cut:
                    continue
                with rest_client(
                    server.port,
                    self.conversation["protocol"],
                    self.conversation["key"],
                    application=self.on_callback,
                    timeout=20_000,
                ) as client:
                    self.say(client, server, news, list(part))
                wait_for(lambda: not server.connections())

    def say(self, client: Any, server: Any, news: News, steps: list[dict[str, Any]]) -> None:
        """Say the steps of one connection."""
        for at, step in enumerate(steps):
            if step["is"] == "callback":
                self.wanted.append((step["url"], value_of(body_of(step), "")))
            if step["is"] != "request":
                continue
            wait_for(lambda: len(self.heard) >= len(self.wanted))
            answer = next((one for one in steps[at + 1 :] if one["is"] == "answer"), None)
            url = self.signer.url(step["url"])
            if step.get("http"):
                status, kind, content = plain_request(server.port, step, url)
                headers = ""
            else:
                header = self.signer.headers(step.get("headers", ""))
                header = header.replace("NonBlocking", "WithoutAnswer")
                kind = step.get("type", "application/json")
                status = client.request(url, step["method"], 0, header, body_of(step), kind)
                kind, content = client.answer.content_type, client.answer.content
                headers = "\r\n".join(": ".join(pair) for pair in client.answer.headers)
            if step.get("no_answer") or answer is None:
                assert status == 200
                continue
            value = value_of(content, kind) if status != 404 or kind else None
            answer["request"] = step
            error = differs(self.conversation["title"], answer, (status, kind, value), self.signer)
            if error:
                self.wrong.append(f"{step['method']} {step['url']}: {error}")
            self.signer.learn(url, status, value, headers)
            later, news.later = news.later, []
            for call in later:
                call()
            # nobody else refers to what was passed
            later, call = [], None
        wait_for(lambda: len(self.heard) >= len(self.wanted))


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=name_of)
def test_a_native_client_is_answered_as_by_its_own(conversation: dict[str, Any]) -> None:
    """The same statuses, types and values, and the same calls back."""
    client = NativeClient(conversation)
    client.replay()
    assert not client.wrong, "\n".join(client.wrong)
    plain = {url for url, _ in client.wanted if "_free_" in url}
    heard = [one for one in client.heard if one[0] in plain or "_free_" not in one[0]]
    without = [pair for pair in heard if "Place" not in pair[0]]
    wanted = [pair for pair in client.wanted if "Place" not in pair[0]]
    # in any order: nobody says which reference goes first
    for pairs in (without, wanted):
        pairs.sort(key=lambda pair: pair[0] if "_free_" in pair[0] else "")
    assert without == wanted
    assert sum("Place" in url for url, _ in heard) == sum(
        "Place" in url for url, _ in client.wanted
    )


# ------------------------------------------------------------------------- as the native server


class Listener(INewsCallback):
    """What the native client had."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def progress(self, n: int) -> None:
        self.heard.append(n)

    def ask(self, question: str) -> int:
        self.heard.append(question)
        return 42

    def place(self, where: Place) -> None:
        self.heard.append(where)

    def both(self, a: str) -> tuple[str, int]:
        return f"{a}y", 7

    def bad(self) -> None:
        raise RuntimeError("callback on purpose")

    def bad_ask(self) -> int:
        raise RuntimeError("callback on purpose")


INTERFACES = {
    ServiceInterface(interface).wire_name: interface
    for interface in (ITypes, ICart, IOnce, IMine, IPlain, INews, IShort)
}


class NativeServer:
    """Answers as a native server has answered, and collects what it is asked otherwise."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self.wrong: list[str] = []
        #: what is expected next, with its answer
        self.script: list[tuple[dict[str, Any], dict[str, Any] | None]] = []
        for at, step in enumerate(steps):
            if step["is"] == "request":
                answer = next((one for one in steps[at + 1 :] if one["is"] == "answer"), None)
                self.script.append((step, None if step.get("no_answer") else answer))

    def on_request(self, ctxt: HttpServerRequest) -> int:
        """Find what was asked, and answer as captured."""
        url = SIGNED.sub("", ctxt.url)
        if "/auth" in url:
            url = url.partition("?")[0]
        for at, (step, answer) in enumerate(self.script):
            known = SIGNED.sub("", step["url"])
            if known == url or ("/auth" in url and known.partition("?")[0] == url):
                if "/auth" not in url and step["is"] == "request":
                    self.compare(ctxt, step)
                del self.script[at]
                return 200 if answer is None else answer_with(ctxt, answer)
        if url.endswith(("_callback_", "_free_/1", "_free_/2")):
            return 200
        self.wrong.append(f"{ctxt.method} {ctxt.url} was not asked")
        return 400

    def compare(self, ctxt: HttpServerRequest, step: dict[str, Any]) -> None:
        """Compare a call with that of the native client."""
        service, _, name = step["url"].partition("/")[2].partition("?")[0].partition(".")
        name = name.partition("/")[0]
        if service not in INTERFACES or name.startswith("_") or not step.get("body"):
            return
        for method in ServiceInterface(INTERFACES[service]).methods:
            if method.wire_name == f"{service}.{name}" and not step.get("type"):
                native = method.parameters.read(body_of(step))
                ours = method.parameters.read(ctxt.in_content)
                if native != ours:
                    self.wrong.append(f"{ctxt.url}: {ours}, not {native}")


def calls_of(steps: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the calls of methods with their answers."""
    found = []
    for at, step in enumerate(steps):
        path = SIGNED.sub("", step.get("url", "")).partition("/")[2].partition("?")
        service, _, name = path[0].partition(".")
        if (
            "/99" in name
            or step["is"] != "request"
            or service not in INTERFACES
            or name.startswith("_")
        ):
            continue
        answer = next((one for one in steps[at + 1 :] if one["is"] == "answer"), None)
        if answer is not None and step["method"] == "POST" and not step.get("no_answer"):
            found.append((step, answer))
    return found


def hold(services: ClientServices, steps: list[dict[str, Any]], listener: Listener) -> list[str]:
    """Make the calls of a conversation; return what has come of them otherwise."""
    wrong = []
    proxies: dict[str, Any] = {}
    for step, answer in calls_of(steps):
        path = SIGNED.sub("", step["url"]).partition("/")[2]
        service, _, name = path.partition(".")
        name, _, number = name.partition("/")
        key = f"{service}/{number}"
        if key not in proxies:
            kind = {"instance_creation": sicClientDriven} if service == "Cart" else {}
            proxies[key] = services.get(INTERFACES[service], **kind)
        methods = ServiceInterface(INTERFACES[service]).methods
        method = next((one for one in methods if one.wire_name == f"{service}.{name}"), None)
        if method is None:
            continue
        is_bytes = bool(step.get("type"))
        try:
            arguments = [body_of(step)] if is_bytes else method.parameters.read(body_of(step))
        except ValueError:
            # what only a raw request can have
            continue
        for at in method.parameters.callbacks:
            arguments[at] = listener
        try:
            result = getattr(proxies[key], method.name)(*arguments)
        except ServiceError as exc:
            if exc.status != answer["status"]:
                wrong.append(f"{path}: {exc!r}, not {answer['status']}")
            continue
        if method.custom is None and not 200 <= answer["status"] < 300:
            wrong.append(f"{path}: {result!r}, not an error")
        else:
            native = result
            if method.custom is None:
                native = method.read_result(body_of(answer))
            if result != native or getattr(result, "status", answer["status"]) != answer["status"]:
                wrong.append(f"{path}: {result!r}")
    proxies.clear()
    return wrong


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=name_of)
def test_a_native_server_is_understood(conversation: dict[str, Any]) -> None:
    """The client asks the same, and reads what is answered; its answers to callbacks are the
    native ones.
    """
    steps = conversation["steps"]
    native = NativeServer(steps)
    listener = Listener()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(rest_server(native.on_request, conversation["key"]))
        client = stack.enter_context(
            rest_client(server.port, conversation["protocol"], conversation["key"], timeout=20_000)
        )
        services = ClientServices(client, root=conversation["root"])
        options = conversation["options"]
        if any("/auth" in step.get("url", "") for step in steps):
            user = options.get("user", "tester")
            password = {"scram": "scr-word", "mcfuser": "mcf-word"}.get(user, "pass-word")
            refused = ""
            try:
                services.set_user(user, password, options.get("auth", "default"))
            except ServiceError as exc:
                refused = exc.text
            if "mutual" in conversation["title"]:
                # the captured proof is for another nonce
                assert "did not prove" in refused
            else:
                ends = [one for one in steps if "logonname" in one.get("body", "")]
                assert bool(refused) == (not ends)
        wrong = hold(services, steps, listener)
        callbacks = [step for step in steps if step["is"] == "callback"]
        replies = [step for step in steps if step["is"] == "callback-answer"]
        process = client.websockets
        assert process is not None
        for step in callbacks:
            ctxt = HttpServerRequest(
                step["url"],
                "POST",
                "",
                body_of(step),
                "application/json",
                connection_id=process.connection_id,
            )
            status = server.callback(ctxt, False)
            if not step.get("no_answer"):
                reply = replies.pop(0)
                value = value_of(ctxt.out_content, "")
                if status == 666:
                    assert value["Message"] == "callback on purpose"
                elif (status, value) != (reply["status"], value_of(body_of(reply), "")):
                    wrong.append(f"{step['url']}: {status} {value}")
            elif status not in (200, 666):
                wrong.append(f"{step['url']}: {status}")
    assert not wrong + native.wrong, "\n".join(wrong + native.wrong)
