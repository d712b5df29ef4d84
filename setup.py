"""What setup.cfg cannot say: the description for the package index, made of README.md.

There, links to files of the project would lead nowhere. With the address of the source code,
``MORMOT_WS_SOURCE_URL=https://…`` while building, they become absolute, and the index shows the
project's addresses; without it only their texts are left. The rest is in setup.cfg.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

_SOURCE = os.environ.get("MORMOT_WS_SOURCE_URL", "").rstrip("/")
#: pictures, and links to files and headings of the project
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:)([^)]*)\)")


def description(text: str, source: str) -> str:
    """Return README's *text* as it reads elsewhere; *source*: where its files are, or ''."""

    def absolute(link: re.Match[str]) -> str:
        mark, shown, target = link.groups()
        if target.startswith("#"):
            return link[0]
        if not source:
            return shown
        return f"{mark}[{shown}]({source}/{'raw' if mark else 'blob'}/main/{target})"

    return _LINK.sub(absolute, text)


def addresses(source: str) -> dict[str, str]:
    """Return the project's addresses."""
    if not source:
        return {}
    pages = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
    return {
        "Source": source,
        "Issues": f"{source}/issues",
        **{name: f"{source}/blob/main/{page}" for name, page in pages.items()},
    }


if __name__ == "__main__":
    readme = (Path(__file__).parent / "README.md").read_text("utf-8")
    setup(
        long_description=description(readme, _SOURCE),
        long_description_content_type="text/markdown",
        project_urls=addresses(_SOURCE),
    )
