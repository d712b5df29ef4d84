"""docs/troubleshooting.md is true and complete. Its blocks are run by test_pages.py; here are the
log lines that it has in its sentences, and the mistakes that it has to link.
"""

from __future__ import annotations

import re

from support import ROOT
from support.programs import EXAMPLES

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
#: ``LEVEL logger: text``, where … stands for anything, outside blocks
_LOG_LINE = re.compile(r"`(?:WARNING|ERROR|CRITICAL) (?:mormot_ws[\w.]*: )?([^`]+)`")


def log_lines() -> list[str]:
    """Return the log lines that the page has in its sentences, without level and logger."""
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(line.split()) for line in _LOG_LINE.findall(prose)]


def sources() -> str:
    """Return the sources of the package, with each text of several parts in one."""
    parts = [path.read_text(encoding="utf-8") for path in (ROOT / "mormot_ws").rglob("*.py")]
    lines = (line.strip() for part in parts for line in part.splitlines())
    return "\n".join(lines).replace('"\n"', "")


def test_each_log_line_is_one_of_the_library() -> None:
    lines, texts = log_lines(), sources()
    assert len(lines) >= 5
    for line in lines:
        assert max((part.strip() for part in line.split("…")), key=len) in texts, line


def test_each_script_of_a_mistake_is_linked() -> None:
    for path in (EXAMPLES / "mistakes").glob("mistake*.py"):
        assert f"../examples/mistakes/{path.name}" in TEXT, path.name


def test_each_section_is_in_the_list_at_the_top() -> None:
    top, _, rest = TEXT.partition("\n## ")
    titles = re.findall(r"^## (.*)$", f"## {rest}", re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    linked = set(re.findall(r"\]\(#([^)]+)\)", top))
    assert anchors - linked == {"look-at-the-log-first"}
    assert linked <= anchors
