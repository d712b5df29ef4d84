"""README.md and docs/ are true: every code block runs, every exception has a reason; and the rules
for authors hold.
"""

from __future__ import annotations

import ast
import configparser
import re
from enum import Enum
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from support import ROOT
from support.pages import PAGE_BOUND, PageError, all_pages, blocks_of, page_name, run_page
from support.pages_not_run import COMMANDS, NOT_RUN

import mormot_ws
import mormot_ws.testing
import mormot_ws.wsgi
from mormot_ws import WebSocketProcessSettings

PAGES = {page_name(path): path.read_text(encoding="utf-8") for path in all_pages()}


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """Start the standard library's resource tracker, which stays until the interpreter's end: a
    page starts processes.
    """
    resource_tracker.ensure_running()


@pytest.mark.timeout(int(PAGE_BOUND) + 60)
@pytest.mark.parametrize("name", PAGES)
def test_all_blocks_of_the_page_run(name: str, tmp_path: Path) -> None:
    run_page(PAGES[name], name, tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_its_python_is_short_and_has_no_trailing_blanks(name: str) -> None:
    for block in blocks_of(PAGES[name], name):
        if block.language == "python":
            for line in block.code.splitlines():
                assert len(line) <= 120, block.place
                assert line == line.rstrip(), block.place


class TestReference:
    def test_every_public_name_has_its_place(self) -> None:
        listed = [
            name
            for text in PAGES.values()
            for name in re.findall(r"^\.\. auto\w+:: (\w+)$", text, re.MULTILINE)
        ]
        members = {
            member.name
            for kind in (getattr(mormot_ws, name) for name in mormot_ws.__all__)
            if isinstance(kind, type) and issubclass(kind, Enum)
            for member in kind
            if getattr(mormot_ws, member.name, None) is member
        }
        public = set(mormot_ws.__all__)
        assert [name for name in listed if name in public and listed.count(name) > 1] == []
        assert public - members == set(listed) & public

    def test_the_index_has_every_public_name(self) -> None:
        """Members of enums stand on the page of their enum; modules of their own list theirs."""
        index = PAGES["docs/reference/index.md"]
        reference = "".join(text for name, text in PAGES.items() if "docs/reference/" in name)
        members = {name for name in mormot_ws.__all__ if isinstance(getattr(mormot_ws, name), Enum)}
        assert [name for name in members if f"`{name}`" not in reference] == []
        table = set(re.findall(r"`(\w+)`", index))
        assert [name for name in set(mormot_ws.__all__) - members if name not in table] == []
        assert [name for name in mormot_ws.wsgi.__all__ if name not in reference] == []
        assert [name for name in mormot_ws.testing.__all__ if name not in reference] == []

    def test_the_table_of_settings_has_each_with_its_default(self) -> None:
        rows = re.findall(
            r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|",
            PAGES["docs/reference/settings.md"],
            re.MULTILINE,
        )
        defaults = WebSocketProcessSettings._DEFAULTS
        assert [name for name, _, _ in rows] == list(defaults)
        special = {"log_details": "nothing", "reconnect_policy": "ExponentialBackoff"}
        for name, told, unit in rows:
            default = defaults[name]
            assert told.strip("`") == special.get(name, repr(default)), name
            if type(default) is int:
                assert unit in (
                    "ms",
                    "bytes",
                    "MB",
                    "frames",
                    "connections",
                    "pings",
                    "threads",
                    "rounds",
                    "bits",
                ), name
            if name.endswith("_ms") or "timeout" in name or "delay" in name:
                assert unit == "ms", name


class TestExceptions:
    @pytest.mark.parametrize("entry", NOT_RUN, ids=lambda entry: f"{entry.page} {entry.language}")
    def test_each_is_needed_and_has_a_reason(self, entry: object) -> None:
        assert entry in [
            block.not_run() for name, text in PAGES.items() for block in blocks_of(text, name)
        ]
        assert entry.reason  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        "entry", [entry for entry in NOT_RUN if entry.instead], ids=lambda entry: entry.instead
    )
    def test_the_test_that_takes_its_place_is_there(self, entry: object) -> None:
        path, _, name = entry.instead.partition("::")  # type: ignore[attr-defined]
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in [
            node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]

    @pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.pattern)
    def test_each_command_that_is_left_out_is_shown_somewhere(self, entry: object) -> None:
        lines = [
            line.removeprefix("$ ")
            for n, t in PAGES.items()
            for b in blocks_of(t, n)
            for line in b.code.splitlines()
        ]
        assert any(re.match(entry.pattern, line) for line in lines)  # type: ignore[attr-defined]

    def test_the_extras_that_are_installed_exist(self) -> None:
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        for name, text in PAGES.items():
            for extras in re.findall(r"mormot_ws\[([\w,]+)\]", text):
                assert set(extras.split(",")) <= set(config["options.extras_require"]), name


class TestRules:
    """What docs/contributing.md promises to authors."""

    def fails(self, text: str, folder: Path, message: str) -> None:
        with pytest.raises((PageError, AssertionError), match=message):
            run_page(text, "docs/trial.md", folder)

    def test_python_blocks_share_their_names(self, tmp_path: Path) -> None:
        run_page(
            "```python\nx = 1\n```\n\n - a list\n\n   ```python\n   assert x == 1\n   ```\n",
            "docs/trial.md",
            tmp_path,
        )

    def test_an_exception_in_a_block_names_its_line(self, tmp_path: Path) -> None:
        self.fails("text\n\n```python\nx = 1\nassert x == 2\n```\n", tmp_path, r"docs/trial.md:3")

    def test_a_language_that_nobody_runs_fails(self, tmp_path: Path) -> None:
        self.fails("```nginx\nserver {}\n```\n", tmp_path, "nobody runs")
        self.fails("```\nno language\n```\n", tmp_path, "nobody runs")

    def test_a_block_in_a_box_or_an_indented_one_is_not_overlooked(self, tmp_path: Path) -> None:
        self.fails(
            "````{note}\nSee\n```python\nassert False\n```\n````\n", tmp_path, "docs/trial.md:3"
        )
        self.fails("See\n\n    indented()\n", tmp_path, "indented")
        self.fails("```{code-block} python\nassert True\n```\n", tmp_path, "not known")

    def test_what_is_shown_below_python_has_to_be_printed(self, tmp_path: Path) -> None:
        page = "```python\nprint('one')\nprint('took 5 ms')\n```\n\n```text\none\ntook … ms\n```\n"
        run_page(page, "docs/trial.md", tmp_path)
        self.fails(
            page.replace("```text\none", "```text\ntwo").replace(
                "print('took 5 ms')", "page.printed.lines.end()"
            ),
            tmp_path,
            "two",
        )

    def test_lines_of_two_threads_do_not_mix(self, tmp_path: Path) -> None:
        program = """import threading
inside, done = threading.Event(), threading.Event()
def other():
    print("1", end="")
    inside.set()
    assert done.wait(10)
    print(" from a callback")
thread = threading.Thread(target=other)
thread.start()
assert inside.wait(10)
print("2 from the main thread")
done.set()
thread.join()
"""
        shown = "2 from the main thread\n1 from a callback\n"
        page = f"```python\n{program}```\n\n```text\n{shown}```\n"
        run_page(page, "docs/trial.md", tmp_path)

    def test_what_a_console_shows_has_to_be_the_output(self, tmp_path: Path) -> None:
        page = (
            "```console\n$ echo one; echo two\none\ntwo\n"
            "$ python -c 'print(3)' | \\\n> cat\n3\n```\n"
        )
        run_page(page, "docs/trial.md", tmp_path)
        self.fails(page.replace("two\n$", "three\n$"), tmp_path, "the output is")

    def test_a_command_that_fails_fails_unless_its_exit_code_is_told(self, tmp_path: Path) -> None:
        self.fails("```sh\nexit 3\n```\n", tmp_path, "ends with 3")
        run_page("<!-- exit: 3 -->\n```sh\nexit 3\n```\n", "docs/trial.md", tmp_path)

    def test_a_file_has_to_be_used(self, tmp_path: Path) -> None:
        page = "<!-- file: a.py -->\n```python\nprint('hello')\n```\n"
        self.fails(page, tmp_path, "a.py")
        run_page(page + "\n```console\n$ python a.py\nhello\n```\n", "docs/trial.md", tmp_path)

    def test_a_terminal_goes_on_and_gets_what_is_typed(self, tmp_path: Path) -> None:
        page = (
            "<!-- file: a.py -->\n```python\nimport sys\nprint('ready', flush=True)\n"
            "for line in sys.stdin:\n    print('got', line.strip(), flush=True)\n```\n\n"
            "<!-- terminal: one; types: hello -->\n```console\n"
            "$ python a.py\nready\nhello\ngot hello\n```\n\n"
            "<!-- terminal: one; types: bye; exit: 0 -->\n```console\nbye\ngot bye\n```\n"
        )
        run_page(page, "docs/trial.md", tmp_path)

    def test_ports_are_free_ones_and_the_same_all_over_a_page(self, tmp_path: Path) -> None:
        page = (
            "```python\na = 8999\n```\n"
            "```python\nassert a == 8999 == page.port(8999)\nprint(a)\n```\n"
            "```text\n8999\n```\n"
        )
        run_page(page, "docs/trial.md", tmp_path)

    def test_hidden_blocks_run_and_what_is_left_open_is_freed(self, tmp_path: Path) -> None:
        page = (
            "<!-- hidden: python\npage.serve_echo()\n-->\n\n```python\nfrom mormot_ws import *\n"
            "protocol = WebSocketProtocolChat('echo')\n"
            "client = HttpClientWebSockets.websockets_connect('ws://127.0.0.1:8999/', protocol)\n"
            "assert client is not None\n```\n"
        )
        run_page(page, "docs/trial.md", tmp_path)
