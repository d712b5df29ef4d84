"""docs/how-to/limits.md is true: its table has every limit, with the defaults that they have. Its
blocks are run by test_pages.py.
"""

from __future__ import annotations

import re

from support import ROOT

from mormot_ws import WebSocketProcessSettings

PAGE = ROOT / "docs" / "how-to" / "limits.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_its_table_has_every_limit_with_its_default() -> None:
    """A limit that is added, or a default that changes, has to be on the page."""
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", TEXT, re.MULTILINE))
    defaults = WebSocketProcessSettings()
    limits = {
        name for name in vars(defaults) if name.startswith("max_") or name.endswith("_timeout")
    }
    assert limits <= set(rows)
    for name, told in rows.items():
        value = getattr(defaults, name)
        first = re.match(r"\d+|'\w+'", told)
        assert first is not None, told
        assert first[0] == repr(value), name
