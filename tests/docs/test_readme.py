"""What the README and the documentation show is true: commands, code to copy, names."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from support import BOUND, HOST, ROOT, wait_for
from support.children import fixed_port
from support.programs import Program

import mormot_ws
from mormot_ws.process import free_in_callback

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = ROOT / "docs" / "porting-guide.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/python examples/demo.py",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/python -m pytest",
]


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_line_of_its_own_in_a_code_block(command: str) -> None:
    assert [command in block.splitlines() for block in blocks(README, "sh")].count(True) == 1
    assert README.count(command) == 1


class TestCodeToCopy:
    @pytest.fixture
    def sources(self, tmp_path: Path) -> list[Path]:
        """The server and the client of the README in files, on a port that is free."""
        port = fixed_port()
        paths = []
        names = ("server.py", "client.py", "topics.py")
        for name, block in zip(names, blocks(README, "python"), strict=True):
            assert "8999" in block
            path = tmp_path / name
            path.write_text(block.replace("8999", str(port)), encoding="utf-8")
            paths.append(path)
        return paths

    def start(self, path: Path) -> Program:
        # its lines come at once, as in a terminal
        environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return Program(path, cwd=path.parent, env=environment)

    @staticmethod
    def echoes(client: Program) -> bool:
        """Say something again; tell whether such an echo has come."""
        client.enter("hello again")
        return "echo: hello again" in client.output

    def test_both_are_20_lines_at_most(self) -> None:
        for block in blocks(README, "python"):
            assert len([line for line in block.splitlines() if line.strip()]) <= 20

    def test_the_client_gets_its_echo_and_comes_back_to_a_restarted_server(
        self, sources: list[Path]
    ) -> None:
        with self.start(sources[0]) as server:
            server.expect("^Ctrl-C stops")
            with self.start(sources[1]) as client:
                wait_for(lambda: self.echoes(client), 2 * BOUND)
                server.kill()

                def not_sent() -> bool:
                    client.enter("anybody there?")
                    return "not sent" in client.output

                wait_for(not_sent)
                with self.start(sources[0]) as second:
                    second.expect("^Ctrl-C stops")
                    wait_for(lambda: self.echoes(client), 2 * BOUND)
                    client.end_input()
                    assert client.wait() == 0
                    second.signal(signal.SIGINT)
                    assert second.wait() == 0
        assert "Traceback" not in server.output + client.output + second.output

    def test_the_client_may_be_started_before_its_server(self, sources: list[Path]) -> None:
        with self.start(sources[1]) as client:
            client.enter("hello")
            client.expect("^not sent: there is no connection$")
            with self.start(sources[0]) as server:
                server.expect("^Ctrl-C stops")
                wait_for(lambda: self.echoes(client), 2 * BOUND)
                client.end_input()
                assert client.wait() == 0

    def test_the_client_of_topics_gets_what_was_published_without_a_connection(
        self, sources: list[Path]
    ) -> None:
        with self.start(sources[2]) as program:
            program.expect("^1 from the client$")
            program.expect("^2 nobody is connected$")
            program.enter("")
            assert program.wait() == 0


class TestLogMessages:
    def test_what_log_messages_point_to_is_there(self) -> None:
        path, _, title = free_in_callback.GUIDE.partition(", ")
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert title.strip("'") in headings
        assert any(heading.startswith("Mistake 3") for heading in headings)


class TestNames:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_what_stands_in_code_type_is_in_the_package_if_it_looks_so(self, page: Path) -> None:
        """A class, or an enumeration's member, that a page names without its Pascal T is public."""
        text = re.sub(
            r"^```pascal\n.*?^```$",
            "",
            page.read_text(encoding="utf-8"),
            flags=re.MULTILINE | re.DOTALL,
        )
        named = re.findall(r"`((?:WebSocket|HttpClient|foc|wps)[A-Za-z]+)(?:`|\()", text)
        pascal_methods = {"WebSocketsUpgrade", "WebSocketBroadcast"}
        for name in set(named) - pascal_methods:
            assert name in mormot_ws.__all__, name

    def test_the_changelog_begins_with_the_present_version(self) -> None:
        versions = re.findall(
            r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
        )
        assert mormot_ws.__version__ in versions[:2]


class TestPortingGuide:
    def test_mistake_2_gets_the_documents_text(
        self, client: mormot_ws.HttpClientWebSockets
    ) -> None:
        protocol = mormot_ws.WebSocketProtocolChat("echo", "")
        text = client.websockets_upgrade("/", "", False, frozenset(), protocol)
        assert f"`{text}`" in GUIDE.read_text(encoding="utf-8")
        text = client.websockets_upgrade("", "", False, frozenset(), protocol)
        assert f"`{text}`" in GUIDE.read_text(encoding="utf-8")

    def test_other_options_without_a_key_are_logged_in_the_documents_words(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with (
            mormot_ws.WebSocketServerRest(f"{HOST}:0", uri="") as server,
            mormot_ws.HttpClientWebSockets(HOST, server.port) as client,
        ):
            assert client.websockets_upgrade("", "", False, frozenset()) == ""
            # it does not wait for an answer
            client.request("x", "POST", header="Sec-WebSocket-REST: NonBlocking")
            wait_for(lambda: "the first message" in caplog.text)
        (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
        words = record.getMessage().partition("the first message")
        guide = " ".join(GUIDE.read_text(encoding="utf-8").split())
        assert f"`{words[1]}{words[2]}`" in guide
