"""The pictures of the pages, and the recording of the demo: readable in light and in dark, with a
text in place of each, and nothing that sticks out of its box.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support import ROOT
from support.browser import Tab

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = sorted((ROOT / "docs").rglob("*.svg"))
DRAWINGS = [path for path in PICTURES if path.name != "demo.svg"]
RECORDING = ROOT / "docs" / "images" / "demo.svg"
PAGES = [
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in page.parts
]

#: what is wrong with the texts of a picture: out of their box, or over one another
CROWDED = """
const wrong = [];
document.body.innerHTML = arguments[0];
const boxes = [...document.querySelectorAll('rect')].map((each) => each.getBoundingClientRect());
boxes.sort((one, two) => one.width * one.height - two.width * two.height);
const texts = [...document.querySelectorAll('text')].map((each) => each.getBoundingClientRect());
const words = [...document.querySelectorAll('text')].map((each) => each.textContent);
texts.forEach((text, index) => {
  const x = (text.left + text.right) / 2, y = (text.top + text.bottom) / 2;
  const box = boxes.find((each) =>
    each.left <= x && x <= each.right && each.top <= y && y <= each.bottom);
  if (!box || text.left < box.left + 2 || text.right > box.right - 2
      || text.top < box.top - 1 || text.bottom > box.bottom + 1)
    wrong.push(`out of its box: ${words[index]}`);
  texts.slice(0, index).forEach((other, number) => {
    if (text.left < other.right && other.left < text.right
        && text.top + 2 < other.bottom - 2 && other.top + 2 < text.bottom - 2)
      wrong.push(`over one another: ${words[number]} / ${words[index]}`);
  });
});
return wrong;
"""


def names(paths: list[Path]) -> list[str]:
    """Return short names, for the tests' IDs."""
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", PICTURES, ids=names(PICTURES))
def test_a_picture_says_in_words_what_it_shows(path: Path) -> None:
    """A title, a description, and an alternative text on each page that shows it."""
    root = ET.parse(path).getroot()
    assert root.get("aria-labelledby") == "title desc"
    for name in ("title", "desc"):
        element = root.find(f"{SVG}{name}")
        assert element is not None
        assert element.get("id") == name
        assert element.text
    shown = [
        text
        for page in PAGES
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+\.svg)\)", page.read_text("utf-8"))
        if (page.parent / target).resolve() == path
    ]
    assert shown
    assert all(len(text) > 40 for text in shown)


@pytest.mark.parametrize("path", PICTURES, ids=names(PICTURES))
def test_a_picture_runs_and_loads_nothing(path: Path) -> None:
    text = path.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"<script|<foreignObject|<image|\son\w+=|@import|https?://(?!127)", text)


@pytest.mark.parametrize("path", PICTURES, ids=names(PICTURES))
def test_a_picture_has_a_background_of_its_own(path: Path) -> None:
    """So that it can be read on a light page and on a dark one, whatever the page does."""
    root = ET.parse(path).getroot()
    width, height = (float(side) for side in str(root.get("viewBox")).split()[2:])
    first = root.find(f"{SVG}rect")
    assert first is not None
    assert first.get("class") == "ground"
    assert float(str(first.get("width"))) >= width - 2
    assert float(str(first.get("height"))) >= height - 2


@pytest.mark.parametrize("path", DRAWINGS, ids=names(DRAWINGS))
def test_each_colour_of_a_drawing_has_one_for_dark_pages(path: Path) -> None:
    light, dark = path.read_text("utf-8").split("@media (prefers-color-scheme: dark)")

    def coloured(css: str) -> set[str]:
        return set(re.findall(r"^\s*([.#\w ]+) \{[^}]*(?:fill|stroke): #", css, re.MULTILINE))

    assert coloured(light)
    assert coloured(light) == coloured(dark)


def test_no_text_of_a_picture_sticks_out_of_its_box(open_tab: Callable[[str], Tab]) -> None:
    """In the browser's fonts, of which those of CI are among the widest."""
    tab = open_tab("about:blank")
    crowded = {path.name: tab.run(CROWDED, path.read_text("utf-8")) for path in DRAWINGS}
    assert crowded == {path.name: [] for path in DRAWINGS}


def test_the_layers_are_those_of_the_contract() -> None:
    """Each module is there, in the order in which pyproject.toml has its layer."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    contract = re.search(r"^layers = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert contract is not None
    layers = [set(each.split(" | ")) for each in re.findall(r'"(.*)"', contract[1])][1:]
    drawing = ET.parse(ROOT / "docs" / "explanation" / "layers.svg")
    names = {
        str(each.text): float(str(each.get("y")))
        for each in drawing.iter(f"{SVG}text")
        if each.get("class") == "name"
    }
    assert set(names) == set.union(*layers)
    for upper, lower in itertools.pairwise(layers):
        assert max(names[name] for name in upper) < min(names[name] for name in lower)


# ------------------------------------------------------------------------- the demo as a recording


@pytest.fixture(scope="module")
def record_demo() -> ModuleType:
    """The module docs/images/record_demo.py."""
    spec = importlib.util.spec_from_file_location(
        "record_demo", RECORDING.with_name("record_demo.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_recording_keeps_lines_and_times_and_shortens_waits(record_demo: ModuleType) -> None:
    lines = [
        record_demo.Line(0.5, "--- A step"),
        record_demo.Line(60.5, "client:  <- 'a & b' is typed"),
        record_demo.Line(61.0, "client:  " + "long " * 30),
    ]
    rows, shown = record_demo.laid_out(lines)
    assert shown == record_demo.START + 0.5 + record_demo.LONGEST_WAIT + 0.5
    assert [row.stamp for row in rows] == ["", "0.5", "60.5", "61.0", ""]
    assert max(len(row.text) for row in rows) <= record_demo.COLUMNS
    texts = [each.text for each in ET.fromstring(record_demo.picture(lines)).iter(f"{SVG}text")]
    assert "client:  <- 'a & b' is typed" in texts
    assert "60.5" in texts


def test_a_recording_leaves_out_how_the_programs_are_stopped(record_demo: ModuleType) -> None:
    texts = [
        "--- Start",
        "[ECHO] a",
        "",
        "--- Both are stopped",
        "[CLOSED]",
        "",
        "The demo went well",
    ]
    lines = [record_demo.Line(float(second), text) for second, text in enumerate(texts)]
    assert [line.text for line in record_demo.story(lines)] == [*texts[:3], texts[-1]]


def test_the_recording_tells_the_whole_story_and_is_small() -> None:
    """As it is in the README. Its still picture is the end, with the loss and the reconnection."""
    text = RECORDING.read_text("utf-8")
    assert len(text.encode()) < 60_000
    story = r"\[ECHO\].*server is killed.*attempt #1 failed.*restarted.*Reconnected!.*\[ECHO\]"
    assert re.search(story, text, re.DOTALL)
    before, _, moving = text.partition("@media (prefers-reduced-motion: no-preference)")
    assert "animation" not in before
    assert "animation" in moving
    assert "visibility" not in before
