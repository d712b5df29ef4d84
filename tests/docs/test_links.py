"""Every link of the pages leads somewhere: to a file of the project, to a heading of it, or to
an https address that is well formed. Nothing is fetched.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support import ROOT
from support.pages import all_pages, page_name

PAGES = [
    *all_pages(),
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
]
#: a fenced block: what looks like a link or a heading in there is not one
_FENCED = re.compile(
    r"^( *)(`{3,}|:{3,})(?P<box>\{)?[^\n]*\n(?P<body>.*?)^\1\2[ \t]*$", re.MULTILINE | re.DOTALL
)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
#: ``[text](target "title")``, ``[name]: target`` and ``<https://…>``
_LINKS = re.compile(
    r"\]\(\s*<?([^)\s>]*)[^)]*\)|^ {0,3}\[[^\]]+\]:\s+(\S+)|<(\w+://[^>\s]+)>", re.MULTILINE
)


def prose_of(text: str) -> str:
    """Return a page without its blocks of code. Boxes like ``{note}`` are prose."""
    return _FENCED.sub(lambda block: prose_of(block["body"]) if block["box"] else "", text)


def links_of(text: str) -> list[str]:
    """Return the targets of a page's links and images."""
    prose = _CODE.sub("", prose_of(text))
    return ["".join(groups) for groups in _LINKS.findall(prose)]


@functools.cache
def anchors_of(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    text = prose_of(page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?)[ #]*$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        first = anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{first}-{number}"
        found.add(anchor)
    return frozenset(found)


def fault_of(target: str, page: Path) -> str:
    """Return what is wrong with a link on *page*, '' if nothing is."""
    if re.match(r"\w+:", target):
        try:
            parts = urlsplit(target)
            parts.port  # noqa: B018 - raises where it is not a number
        except ValueError as exc:
            return str(exc)
        host = re.fullmatch(r"([\w-]+\.)+[a-z]{2,}", parts.hostname or "")
        local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1")
        return "" if local or (parts.scheme == "https" and host) else "not an https address"
    name, hash_mark, anchor = target.partition("#")
    path = page.parent / unquote(name) if name else page
    if not target or not path.exists() or not path.resolve().is_relative_to(ROOT):
        return "no such file"
    if hash_mark and (path.suffix != ".md" or unquote(anchor) not in anchors_of(path)):
        return "no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_each_link_leads_somewhere(page: Path) -> None:
    links = links_of(page.read_text(encoding="utf-8"))
    assert {link: fault for link in links if (fault := fault_of(link, page))} == {}


def test_there_are_many_links_and_many_anchors() -> None:
    """The patterns find what they are for."""
    links = [link for page in PAGES for link in links_of(page.read_text(encoding="utf-8"))]
    assert sum("#" in link for link in links) > 30
    assert sum(link.startswith("https://") for link in links) >= 5
    assert len(links) > 300


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("[a](missing.md)", "no such file"),
        ("[a]()", "no such file"),
        ("![a](docs/images/missing.png)", "no such file"),
        ("[a](../outside.md)", "no such file"),
        ("[name]: missing.md", "no such file"),
        ("[a](#no-such-heading)", "no such heading"),
        ("[a](docs/index.md#no-such-heading 'title')", "no such heading"),
        ("[a](http://site.example/)", "not an https address"),
        ("<http://site.example/>", "not an https address"),
        ("[a](https:///path)", "not an https address"),
        ("[a](https://site)", "not an https address"),
        ("[a](https://site.example:port/)", "Port could not be cast"),
        ("[a](mailto:a@b.example)", "not an https address"),
    ],
)
def test_a_broken_link_is_found(link: str, fault: str) -> None:
    (target,) = links_of(f"`[code](not.md)` {link}\n" if link[0] != "[" else f"{link}\n")
    assert fault_of(target, ROOT / "README.md").startswith(fault)


def test_what_is_in_code_is_neither_a_link_nor_a_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n\n```sh\n# c [x](y)\n```\n\n`[x](y)`\n\n## A b\n```{note}\n[d](z)\n```\n## C\n",
        encoding="utf-8",
    )
    assert links_of(page.read_text(encoding="utf-8")) == ["z"]
    assert anchors_of(page) == {"a-b", "a-b-1", "c"}
