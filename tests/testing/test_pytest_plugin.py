"""The pytest plugin, as a user's suite meets it: in processes of their own, from a folder without
this project.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import BOUND


def run_pytest(folder: Path, source: str, *arguments: str) -> str:
    """Write *source* as a test module into *folder*, run pytest there, and return what it
    printed.
    """
    (folder / "test_it.py").write_text(textwrap.dedent(source), encoding="utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "PYTHON"))
    }
    found = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            # slow to load
            "-p",
            "no:hypothesispytest",
            "-W",
            "error",
            *arguments,
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=6 * BOUND,
        check=False,
    )
    return found.stdout + found.stderr


_USE = """
    import time
    import pytest
    from mormot_ws import ExponentialBackoff, HttpClientWebSockets, WebSocketFrame
    from mormot_ws import WebSocketProcessSettings, WebSocketProtocolChat, focText

    def client_of(server):
        settings = WebSocketProcessSettings(
            reconnect_policy=lambda: ExponentialBackoff(base_ms=5, cap_ms=20)
        )
        client = HttpClientWebSockets.open(server.host, server.port, settings=settings)
        protocol = WebSocketProtocolChat("chat", "")
        assert client.websockets_upgrade("", "", False, frozenset(), protocol) == ""
        client.auto_reconnect()
        return client

    def say(client, text):
        give_up = time.monotonic() + 10
        # it may hear of its upgrade after the server
        while not client.websockets.send_frame(WebSocketFrame(focText, text)):
            assert time.monotonic() < give_up
            time.sleep(0.002)

    @pytest.mark.parametrize("way", ["stop", "kill"])
    def test_server(mormot_ws_echo_server, way):
        with client_of(mormot_ws_echo_server) as client:
            mormot_ws_echo_server.wait_connections(1)
            getattr(mormot_ws_echo_server, way)()
            mormot_ws_echo_server.start()
            mormot_ws_echo_server.wait_connections(1)
            say(client, "back")
            assert mormot_ws_echo_server.wait_messages(1)[0].text == "back"

    def test_proxy(mormot_ws_proxy, mormot_ws_echo_server):
        with client_of(mormot_ws_proxy) as client:
            mormot_ws_proxy.cut()
            mormot_ws_echo_server.wait_upgrades(2)
            say(client, "passes")
            mormot_ws_echo_server.wait_messages(1)
            mormot_ws_proxy.blackhole()
            say(client, "held")
            assert len(mormot_ws_echo_server.messages) == 1
            mormot_ws_proxy.restore()
            mormot_ws_echo_server.wait_messages(2)

    def test_proxy_to(mormot_ws_proxy_to, mormot_ws_echo_process):
        proxy = mormot_ws_proxy_to("127.0.0.1", mormot_ws_echo_process.port)
        other = mormot_ws_proxy_to("127.0.0.1", proxy.port, buffer_bytes=8192)
        with client_of(other) as client:
            assert proxy.links == other.links == 1
            mormot_ws_echo_process.kill()

    class TestOfItsOwn:
        @pytest.fixture
        def mormot_ws_protocols(self):
            return [WebSocketProtocolChat("chat", "", lambda process, frame: seen.append(process))]

        @pytest.fixture
        def mormot_ws_settings(self):
            return WebSocketProcessSettings(heartbeat_delay=1234)

        def test_overridden(self, mormot_ws_echo_server):
            with client_of(mormot_ws_echo_server):
                mormot_ws_echo_server.wait_connections(1)
            mormot_ws_echo_server.wait_connections(0)
            assert seen[0].settings.heartbeat_delay == 1234

    seen = []
"""


def test_the_fixtures_work_in_a_users_suite(tmp_path: Path) -> None:
    """Each fixture, with warnings as errors, and overridden ones; nothing has to be imported or
    configured.
    """
    assert "5 passed" in run_pytest(tmp_path, _USE)


def test_the_fixtures_work_under_xdist(tmp_path: Path) -> None:
    """In several processes at once each has ports of its own."""
    pytest.importorskip("xdist")
    assert "5 passed" in run_pytest(tmp_path, _USE, "-n", "2")


def test_an_unused_plugin_imports_nothing_and_does_nothing(tmp_path: Path) -> None:
    """A suite that does not ask for a fixture does not import mormot_ws, and starts no thread."""
    printed = run_pytest(
        tmp_path,
        """
        import sys, threading

        def test_nothing(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("mormot_ws")
            assert "mormot_ws" not in sys.modules
            assert threading.active_count() == 1
        """,
        "-p",
        "no:xdist",
        "-p",
        "no:timeout",
    )
    assert "1 passed" in printed, printed


def test_every_fixture_is_described(tmp_path: Path) -> None:
    """``pytest --fixtures`` tells what there is; every name begins with the package's."""
    printed = run_pytest(tmp_path, "", "--fixtures", "-p", "no:xdist")
    lines = [line for line in printed.splitlines() if "pytest_mormot_ws.py" in line]
    assert [line.split()[0] for line in lines] == [
        "mormot_ws_protocols",
        "mormot_ws_settings",
        "mormot_ws_echo_server",
        "mormot_ws_echo_process",
        "mormot_ws_proxy_to",
        "mormot_ws_proxy",
    ]
    assert "no docstring" not in printed[printed.index("pytest_mormot_ws") :]


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """By its name, like any plugin."""
    printed = run_pytest(tmp_path, "def test_x(mormot_ws_proxy): pass", "-p", "no:mormot_ws")
    assert "fixture 'mormot_ws_proxy' not found" in printed
