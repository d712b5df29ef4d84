"""Each mistake of docs/reference/mistakes.md is made, and what is said is what the page says."""

from __future__ import annotations

import asyncio
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from support import HOST, ROOT, echo_server, process_of, wait_for

import mormot_ws
from mormot_ws import HttpClientWebSockets, WebSocketFrame, WebSocketProtocolChat, focText

PAGE = ROOT / "docs" / "reference" / "mistakes.md"
#: a row: what is written, and what is said
_ROW = re.compile(r"^\| `(?P<code>[^`]+)` \| `(?P<said>[^`]+)` \|$")


class Mistake(NamedTuple):
    """One row of the page's tables."""

    code: str
    said: str


def mistakes() -> list[Mistake]:
    """Return the rows of the page."""
    rows = map(_ROW.match, PAGE.read_text(encoding="utf-8").splitlines())
    return [Mistake(row["code"], row["said"]) for row in rows if row]


async def coroutine(*arguments: object) -> None:
    """What asyncio would call."""
    await asyncio.sleep(0)


def text(*arguments: object) -> None:
    """What can be a callback."""


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    """What the page says that its rows can use."""
    with ExitStack() as stack:
        server = stack.enter_context(echo_server())
        client = stack.enter_context(HttpClientWebSockets(HOST, server.port))
        protocol = WebSocketProtocolChat("echo")
        assert client.websockets_upgrade("", protocol=protocol) == ""
        door = stack.enter_context(mormot_ws.Server(f"{HOST}:0"))
        door.on_message(text)
        ws = stack.enter_context(mormot_ws.connect(f"ws://{HOST}:{door.port}/"))
        (peer,) = wait_for(lambda: door.peers)
        yield {
            **{name: getattr(mormot_ws, name) for name in mormot_ws.__all__},
            "mormot_ws": mormot_ws,
            "server": server,
            "settings": server.settings,
            "client": client,
            "protocol": protocol,
            "process": process_of(client),
            "frame": WebSocketFrame(focText, "hi"),
            "door": door,
            "ws": ws,
            "peer": peer,
            "f": text,
            "coroutine": coroutine,
        }


def said_by(code: str, names: dict[str, Any], caplog: pytest.LogCaptureFixture) -> str:
    """Run *code*; return what it raises, warns of, logs or returns, in the words of the page."""
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            try:
                result = eval(compile(code, "<page>", "eval"), dict(names))
            except SyntaxError:
                result = exec(compile(code, "<page>", "exec"), dict(names))
        except Exception as exc:  # noqa: BLE001
            return f"{type(exc).__name__}: {exc}"
    if isinstance(result, HttpClientWebSockets):
        result.free()
    if warned:
        return f"{warned[0].category.__name__}: {warned[0].message}"
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    if loud:
        return f"log {loud[0].levelname}: {loud[0].getMessage()}"
    return f"returns {result!r}"


def same(said: str, page: str) -> bool:
    """Tell whether *said* is what the *page* has, where … stands for anything."""
    pattern = ".*".join(re.escape(part) for part in page.split("…"))
    return re.fullmatch(pattern, said, re.DOTALL) is not None


@pytest.mark.parametrize("mistake", mistakes(), ids=lambda mistake: mistake.code)
def test_what_is_said_is_what_the_page_says(
    mistake: Mistake, names: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    said = said_by(mistake.code, names, caplog)
    assert same(said, mistake.said), said
    assert not said.startswith("returns None")


def test_there_are_fifty_and_each_line_of_a_table_is_tried() -> None:
    lines = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith(("| You write", "|--"))
    ]
    assert len(lines) == len(mistakes()) >= 50
    assert len({mistake.code for mistake in mistakes()}) == len(lines)
