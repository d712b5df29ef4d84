"""What ``dir()`` shows of the objects that an application holds: public names only, each of them
documented.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import HOST, connect, echo_server, process_of, wait_for

import mormot_ws
from mormot_ws.core.publicdir import is_private

#: members without underscore that the package needs for itself
HELPERS = {
    "client": {"begin_exit", "end_exit", "notify_closed", "policy", "revive", "upgrade_failure"},
    "server": {"begin_exit", "end_exit"},
    "server socket": {"run", "say_goodbye"},
    "process": {
        "flush_outgoing",
        "log_fields",
        "prepare_ahead",
        "run_at_once",
        "send_queued",
        "shutdown_within",
        "stand_in",
    },
    "server process": {
        "flush_queued",
        "run_at_once",
        "safe_out",
        "start_shutdown",
        "wait_writable",
    },
    "thread": {"entered", "may_be_revived", "take_over"},
    "protocol": {"matches_uri", "prepare_process"},
    "REST protocol": {"decode", "encode", "head_of", "next_head"},
}
#: what each of them is there for must stay to be seen
PUBLIC = {
    "client": {
        "auto_reconnect",
        "free",
        "last_error",
        "on_websockets_closed",
        "settings",
        "websockets_upgrade",
    },
    "server": {
        "free",
        "on_websocket_connect",
        "port",
        "websocket_broadcast",
        "websocket_protocols",
    },
    "server socket": {"connection_id", "remote_ip", "websocket_process", "websocket_protocol"},
    "process": {
        "abort",
        "close_code",
        "on_reconnect",
        "process_start",
        "protocol",
        "send_frame",
        "shutdown",
        "state",
    },
    "server process": {"close_code", "owner", "send_frame_async", "status"},
    "thread": {"name", "process", "reconnect_now", "terminate", "thread_state"},
    "protocol": {
        "clone",
        "custom_data",
        "name",
        "on_incoming_frame",
        "send_frame_json",
        "upgrade_header",
        "uri",
    },
    "REST protocol": {"input_to_frame", "options", "set_encrypt_key"},
}


@pytest.fixture(scope="module")
def live() -> Iterator[dict[str, Any]]:
    """What an application gets into its hands while it runs, by what it is."""
    with echo_server() as server, connect(server.port) as client:
        process = process_of(client)
        number = process.connection_id
        server_process = wait_for(lambda: server.is_active_websocket(number))
        # the keepers start a moment later; then no test finds a new thread
        wait_for(
            lambda: sum(thread.name.endswith("keeper") for thread in threading.enumerate()) >= 2
        )
        yield {
            "client": client,
            "server": server,
            "server socket": server_process.owner,
            "process": process,
            "server process": server_process,
            "thread": process.client_thread,
            "protocol": process.protocol,
            "REST protocol": mormot_ws.WebSocketProtocolBinary(),
            "socket": mormot_ws.CrtSocket(HOST, 1),
            "protocols": server.websocket_protocols,
            "frame list": process.outgoing,
            "decoder": process.in_frame,
        }


def is_documented(item: object, name: str) -> bool:
    """Tell whether the reference says what the member *name* is: a docstring, a ``#:`` comment, or
    the class's own words.
    """
    member = inspect.getattr_static(type(item), name, None)
    if callable(member) or isinstance(member, (property, classmethod, staticmethod)):
        return bool(inspect.getdoc(getattr(type(item), name)))
    for base in type(item).__mro__:
        if base.__module__.startswith("mormot_ws"):
            words = base.__doc__ or ""
            if re.search(rf":(?:param|ivar) {name}:|\*{name}\*", words):
                return True
            if re.search(
                rf"#:.*\n(?:\s*(?:#|self\.).*\n)*\s*(?:self\.)?{name}\b", inspect.getsource(base)
            ):
                return True
    return False


@pytest.mark.parametrize("what", HELPERS)
def test_helpers_of_the_package_are_not_shown(live: dict[str, Any], what: str) -> None:
    """They are there all the same."""
    assert not HELPERS[what] & set(dir(live[what]))
    assert all(hasattr(live[what], name) for name in HELPERS[what])


@pytest.mark.parametrize("what", PUBLIC)
def test_what_is_public_is_shown(live: dict[str, Any], what: str) -> None:
    assert PUBLIC[what] <= set(dir(live[what]))


def test_every_name_that_is_shown_is_documented(live: dict[str, Any]) -> None:
    undocumented = {
        f"{what}.{name}"
        for what, item in live.items()
        for name in dir(item)
        if not name.startswith("_") and not is_documented(item, name)
    }
    assert sorted(undocumented) == []


def test_no_private_name_is_shown_and_those_of_python_are(live: dict[str, Any]) -> None:
    for item in live.values():
        assert not [name for name in dir(item) if is_private(name)]
        assert "__class__" in dir(item)


def test_a_descendant_shows_what_it_adds() -> None:
    """Its own members stand beside those of its base."""

    class Mine(mormot_ws.WebSocketProtocolChat):
        topic = "news"

        def __init__(self) -> None:
            super().__init__("mine", "")
            self.subscribed = True

    assert {"topic", "subscribed", "send_frame_json"} <= set(dir(Mine()))
