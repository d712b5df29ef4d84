"""docs/security.md is true: its blocks are a program that runs, its table has every limit, with the defaults that they have."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from tls_support import Authority

from mormot_ws import WebSocketProcessSettings

PAGE = ROOT / "docs" / "security.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks() -> list[str]:
    """Return the Python blocks of the page."""
    return re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_its_python_blocks_are_a_program_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks, in their order, with the three files that the page names beside them."""
    authority = Authority(tmp_path)
    shutil.copy(authority.certificate_file, tmp_path / "server.pem")
    shutil.copy(authority.private_key_file, tmp_path / "server-key.pem")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    try:
        for block in blocks():
            exec(compile(block, str(PAGE), "exec"), names)
    finally:
        for name in ("client", "server", "strict"):
            if name in names:
                names[name].free()
    assert "('DNS', 'localhost')" in capsys.readouterr().out
    assert names["settings"].max_connections == 5_000  # the last block was reached
    assert not [thread for thread in threading.enumerate() if "WebSocket" in thread.name]


def test_its_blocks_are_formatted_like_the_package() -> None:
    """Lines that fit, no trailing blanks."""
    for block in blocks():
        for line in block.splitlines():
            assert len(line) <= 120
            assert line == line.rstrip()


def test_its_table_has_every_limit_with_its_default() -> None:
    """A limit that is added, or a default that changes, has to be told here."""
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", TEXT, re.MULTILINE))
    defaults = WebSocketProcessSettings()
    limits = {name for name in vars(defaults) if name.startswith("max_") or name.endswith("_timeout")}
    assert limits <= set(rows)
    for name, told in rows.items():
        value = getattr(defaults, name)
        first = re.match(r"\d+|'\w+'", told)
        assert first is not None, told
        assert first[0] == repr(value), name
