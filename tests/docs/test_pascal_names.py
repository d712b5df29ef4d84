"""docs/reference/pascal-names.md is true: its Python names exist and follow the rule, and none
that mirrors a Pascal one is missing.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

import pytest
from support import HOST, ROOT, connect, echo_server, fast_settings, process_of, wait_for
from support.pascal_interface import INTERFACE

import mormot_ws

PAGE = ROOT / "docs" / "reference" / "pascal-names.md"

#: what the table names already though it is still to come: a class with all its members, or one
#: member
PLANNED: set[str] = set()

#: public names that mirror nothing of the original
OURS = {
    "CallError",
    "Changed",
    "ClientServices",
    "ClientStatus",
    "Connection",
    "ConnectionClosed",
    "ConnectionStatus",
    "ExponentialBackoff",
    "FailureKind",
    "GaveUp",
    "History",
    "Hub",
    "HubError",
    "HubFull",
    "HubRefused",
    "HubStatus",
    "HubUnavailable",
    "JsonLogFormatter",
    "LinearBackoff",
    "Lost",
    "MainThreadQueue",
    "MillisecondsWarning",
    "MemoryHub",
    "Peer",
    "PermessageDeflate",
    "Position",
    "ProcessStatus",
    "ProcessesStatus",
    "Publication",
    "Published",
    "Publishing",
    "ReconnectFailure",
    "ReconnectPolicy",
    "Recovery",
    "RedisHub",
    "Request",
    "Server",
    "ServerProcesses",
    "ServerServices",
    "ServerStatus",
    "ServiceConnectionError",
    "ServiceError",
    "ServiceTimeoutError",
    "ShardedHub",
    "StopOn",
    "TopicLimits",
    "TopicSubscription",
    "TopicsStatus",
    "WebSocketProtocolTopics",
    "WebSocketsProtocolError",
    "client_tls_context",
    "close_payload",
    "connect",
    "parse_close_payload",
    "run_processes",
    "server_tls_context",
    "systemd_sockets",
    "wire_name",
}

#: what the second column may say instead of a name
WORDS = {"never", "not yet", "callable"}


class Row(NamedTuple):
    """A row of a table."""

    pascal_class: str  # that the table is about; '' for types and functions
    python_class: str
    pascal: str
    python: str  # a name, or one of WORDS
    parameters: list[str] | None  # when the cell has parentheses
    note: str

    @property
    def owner(self) -> str:
        """The class to look into: that of the table, or the one that the cell names; '' for the
        package.
        """
        return self.python.rpartition(".")[0] or self.python_class

    @property
    def member(self) -> str:
        """The name to look for; '' for the class itself."""
        return self.python.rpartition(".")[2]

    @property
    def is_planned(self) -> bool:
        """Whether it is allowed not to exist yet."""
        return not PLANNED.isdisjoint({self.owner, self.python, f"{self.owner}.{self.member}"})


def rows() -> Iterator[Row]:
    """Read all tables of the page."""
    pascal_class = python_class = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = re.fullmatch(r"#### `(\w+)` → `(\w+)`", line)
            pascal_class, python_class = heading.groups() if heading else ("", "")
        elif line.startswith("| `"):
            pascal, python, note = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4])
            parameters = None
            if python not in WORDS:
                cell = re.fullmatch(r"`([\w.]*)(?:\(([\w, ]*)\))?`", python)
                assert cell, line
                python = cell[1]
                if cell[2] is not None:
                    parameters = cell[2].split(", ")
            yield Row(pascal_class, python_class, pascal.strip("`"), python, parameters, note)


ROWS = list(rows())
NAMED = [row for row in ROWS if row.python not in WORDS]
CLASSES = sorted({(row.pascal_class, row.python_class) for row in ROWS if row.python_class})


def snake(pascal: str) -> str:
    """The rule for members: snake case, in which some words are one word."""
    for words in ("WebSockets", "WebSocket", "TimeOut", "Subprotocol"):
        pascal = pascal.replace(words, words.capitalize())
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", pascal).lower()


def by_the_rule(pascal: str) -> set[str]:
    """Return what a Pascal name may become by the rule, whatever kind of name it is."""
    names = {snake(pascal)}
    if re.match("T[A-Z]", pascal):
        names.add(pascal[1:])
    if re.match("E[A-Z]", pascal):
        names.add(f"{pascal[1:]}Error")
    if re.match("[a-z]+[A-Z]", pascal):
        names.add(pascal)  # a member of an enumeration
    return names


def test_the_rule_is_that_of_the_guide() -> None:
    """What the porting guide gives as examples, so that this module does not test against a rule
    of its own.
    """
    assert "TWebSocketProtocolChat" in (
        guide := (ROOT / "docs" / "porting-guide.md").read_text(encoding="utf-8")
    )
    for pascal, python in (
        ("TWebSocketProtocolChat", "WebSocketProtocolChat"),
        ("EWebSockets", "WebSocketsError"),
        ("OnIncomingFrame", "on_incoming_frame"),
        ("ConnectionID", "connection_id"),
        ("WebSocketsUpgrade", "websockets_upgrade"),
        ("WebSocketBroadcast", "websocket_broadcast"),
        ("focText", "focText"),
    ):
        assert f"`{pascal}`" in guide
        assert f"`{python}`" in guide
        assert python in by_the_rule(pascal)


@pytest.fixture(scope="module")
def live() -> Iterator[dict[str, Any]]:
    """An object of each public class, by its class name, so that attributes are found too."""
    sockets: list[Any] = []
    with echo_server() as server:
        server.on_websocket_connect = sockets.append
        server.on_request = lambda context: (sockets.append(context), 200)[1]
        with mormot_ws.HttpClientWebSockets(HOST, server.port, settings=fast_settings()) as plain:
            plain.request("/")
        with connect(server.port) as client:
            wait_for(lambda: len(sockets) == 2)
            process = process_of(client)
            objects = [
                server,
                client,
                process,
                process.client_thread,
                process.protocol,
                process.settings,
                process.in_frame,
                mormot_ws.WebSocketFrameList(),
                server.websocket_protocols,
                server.is_active_websocket(sockets[1].connection_id),
                mormot_ws.WebSocketFrame(mormot_ws.focText),
                mormot_ws.CrtSocket(HOST, 1),
                mormot_ws.WebSocketProtocolBinary(),
                mormot_ws.WebSocketProtocolUri("uri", "localhost", 1),
                *sockets,
            ]
            found = {type(item).__name__: item for item in objects}
            found["WebCrtSocketProcess"] = found["WebSocketProcess"] = process
            found["WebSocketProtocol"] = process.protocol
            yield found


def test_the_tables_are_read() -> None:
    assert len(ROWS) > 250
    assert len(CLASSES) > 25


@pytest.mark.parametrize("row", NAMED, ids=lambda row: f"{row.pascal_class or 'unit'}.{row.pascal}")
def test_each_name_exists_and_follows_the_rule(row: Row, live: dict[str, Any]) -> None:
    if row.python:
        assert "renamed" in row.note or row.member in by_the_rule(row.pascal)
    if row.is_planned:
        return
    owner: Any = mormot_ws
    if row.owner:
        assert row.owner in mormot_ws.__all__
        owner = getattr(mormot_ws, row.owner)
    found = owner
    if row.member:
        assert hasattr(owner, row.member) or hasattr(live.get(row.owner), row.member)
        found = getattr(owner, row.member, None)
        if not row.owner or (isinstance(owner, type) and issubclass(owner, Enum)):
            assert row.member in mormot_ws.__all__ or row.member.startswith("pfs")
    if row.parameters is not None:
        parameters = [name for name in inspect.signature(found).parameters if name != "self"]
        assert parameters[: len(row.parameters)] == row.parameters


def test_planned_names_do_not_exist_yet(live: dict[str, Any]) -> None:
    """Else they are checked like the others from now on: take them out of PLANNED."""
    landed = [
        name
        for name in PLANNED
        if (owner := name.partition(".")[0]) in mormot_ws.__all__
        and (owner == name or hasattr(live.get(owner), name.partition(".")[2]))
    ]
    assert not landed


@pytest.mark.parametrize(("pascal", "python"), CLASSES)
def test_each_class_follows_the_rule(pascal: str, python: str) -> None:
    assert python == pascal.removeprefix("T")
    assert python in PLANNED or python in mormot_ws.__all__


def test_what_has_no_counterpart_has_a_reason() -> None:
    assert not [row.pascal for row in ROWS if row.python in {"never", "not yet"} and not row.note]
    assert not [
        row.pascal
        for row in ROWS
        if "renamed" in row.note and not re.search("renamed: .", row.note)
    ]


def test_no_name_stands_twice_in_a_table() -> None:
    keys = [(row.pascal_class, row.pascal) for row in ROWS if row.pascal != "ToText"]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("pascal_class", INTERFACE)
def test_each_name_of_the_interface_sections_is_in_a_table(pascal_class: str) -> None:
    """As a row of the class's table, as ``Class.Name``, or in the last column of the class."""
    listed = {row.pascal for row in ROWS if row.pascal_class == pascal_class} | {
        row.pascal.partition(".")[2] for row in ROWS if row.pascal.partition(".")[0] == pascal_class
    }
    if not pascal_class:
        listed |= {pascal for pascal, _ in CLASSES}
    for row in ROWS:
        if row.pascal == pascal_class:
            listed.update(re.findall(r"`(\w+)`", row.note))
    assert set(INTERFACE[pascal_class].split()) <= listed


def test_the_names_of_python_socketio_exist() -> None:
    socketio = pytest.importorskip("socketio")
    page = PAGE.read_text(encoding="utf-8").partition("### Socket.IO")[2].partition("## Unit")[0]
    names = re.findall(r"`socketio\.([\w.]+)`", page)
    assert names
    for name in names:
        assert operator.attrgetter(name)(socketio), name


def test_each_public_name_is_in_a_table_or_ours() -> None:
    tables = {row.python for row in NAMED} | {python for _, python in CLASSES}
    assert set(mormot_ws.__all__) - tables == OURS


def test_each_member_that_says_what_it_mirrors_is_in_a_table() -> None:
    """A docstring that names a Pascal member, and the table of its class, agree."""
    in_tables = {
        (owner, row.pascal.lower()) for row in ROWS for owner in (row.owner, row.python_class)
    }
    missing = []
    for name in mormot_ws.__all__:
        cls = getattr(mormot_ws, name)
        if not inspect.isclass(cls) or issubclass(cls, Enum):
            continue
        for member, value in vars(cls).items():
            said = (
                re.search(r"[Mm]irrors ``(\w+)``", inspect.getdoc(value) or "")
                if not member.startswith("_")
                else None
            )
            if said and not any(
                (base.__name__, said[1].lower()) in in_tables for base in cls.__mro__
            ):
                missing.append(f"{name}.{member}: {said[1]}")
    assert not missing


def test_each_setting_is_in_the_table_or_ours() -> None:
    """The settings of the original stand first in the class, up to the comment that says where
    ours begin.
    """
    source = inspect.getsource(mormot_ws.WebSocketProcessSettings)
    originals = source.partition("# --- settings that the original does not have")[0]
    mirrored = set(re.findall(r"^    (\w+): ", originals, re.MULTILINE))
    assert mirrored
    assert mirrored <= {row.member for row in NAMED if row.owner == "WebSocketProcessSettings"}


# ------------------------------------------------- members that are there for the sake of the table


def test_invalid_ping_send_count_is_the_pascal_name_of_invalid_ping_count() -> None:
    with echo_server() as server, connect(server.port) as client:
        process = process_of(client)
        process.liveness.invalid_ping_count = 3
        assert process.invalid_ping_send_count == 3


def test_connection_close_was_sent_tells_of_our_close_frame() -> None:
    with echo_server() as server, connect(server.port) as client:
        process = process_of(client)
        assert not process.connection_close_was_sent
        process.shutdown()
        assert process.connection_close_was_sent


def test_process_class_makes_the_processes_of_a_server() -> None:
    class Counting(mormot_ws.WebSocketProcessServer):
        """A descendant, as in Pascal."""

    with echo_server() as server:
        server.process_class = Counting
        with connect(server.port) as client:
            number = process_of(client).connection_id
            assert type(wait_for(lambda: server.is_active_websocket(number))) is Counting


def test_set_full_log_returns_the_settings_for_the_next_call() -> None:
    settings = mormot_ws.WebSocketProcessSettings()
    assert settings.set_full_log() is settings
    assert settings.log_details
