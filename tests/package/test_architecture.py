"""The package is built as ``docs/explanation/architecture.md`` says: its tables are the data, the
imports in the source the fact.
"""

from __future__ import annotations

import ast
import functools
import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
from support import ROOT

PACKAGE = ROOT / "mormot_ws"
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
MOST_LINES = 550
#: the floors that know no socket, no thread and no clock
PURE = ("1", "2")
IMPURE = (
    "socket",
    "select",
    "selectors",
    "threading",
    "time",
    "queue",
    "concurrent",
    "subprocess",
    "asyncio",
)
#: what a pure module may import all the same, and why
EXCEPTIONS = {
    (
        "outgoing",
        "threading",
    ): "the queue between those who send and the keeper: it has a lock, and waits for nothing",
    (
        "encryption",
        "threading",
    ): "threading.local only: a cipher context is dear to make, and not for two threads at once",
}
#: classes from above that annotations may name, and why
TYPES_FROM_ABOVE = {
    ("settings", "process"): "the argument of callbacks",
    ("status", "process"): "a snapshot is taken of one",
    ("protocols", "process"): "the argument of callbacks",
    ("chat", "process"): "the argument of callbacks",
    ("notify", "process"): "whose requests they are",
    ("rest", "process"): "the argument of callbacks",
}


class Import(NamedTuple):
    """One import of a module: what it brings, and whether it is only there for annotations."""

    name: str
    for_types: bool


def module_name(path: Path) -> str:
    """Return a module's name as the page has it, without the package's: ``frames``, ``cli``,
    ``cli.output``.
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
ROOT_MODULE = ""  # mormot_ws/__init__.py


def read_floors(page: str) -> dict[str, str]:
    """Return the floor of each module, from the headings (``## 2a Frames``) and tables of *page*."""
    floors: dict[str, str] = {}
    floor = ""
    for line in page.splitlines():
        heading = re.match(r"## (\d[a-z]?)? ?", line)
        if heading:
            floor = heading[1] or ""
        row = re.match(r"\| `([\w.]+)` \|", line)
        if floor and row:
            assert row[1] not in floors, f"{row[1]} stands twice on the page"
            floors[row[1]] = floor
    return floors


FLOORS = read_floors(PAGE.read_text(encoding="utf-8"))


def may_import(floor: str, other: str) -> bool:
    """Tell whether a module of *floor* may import one of *other*: the same one, or one with a
    lower number.
    """
    return floor == other or int(other[0]) < int(floor[0])


@functools.cache
def imports_of(module: str) -> frozenset[Import]:
    """Return every import in *module*'s source, also those in functions; ours without the
    package's name.
    """
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    found: set[Import] = set()
    package = ["mormot_ws", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
                if node.level
                else [node.module or ""]
            )
            # "from . import frames" brings a module, "from .frames import focText" a name of one
            names = [
                f"{base}.{alias.name}"
                if f"{base}.{alias.name}".removeprefix("mormot_ws.") in MODULES
                else base
                for alias in node.names
            ]
        else:
            continue
        for name in names:
            ours = ROOT_MODULE if name == "mormot_ws" else name.removeprefix("mormot_ws.")
            found.add(Import(ours, node in for_types))
    return frozenset(found)


def test_every_module_is_on_the_page_and_nothing_else() -> None:
    """A new module needs a floor; one that is gone must not stay there."""
    assert set(FLOORS) == set(MODULES) - {ROOT_MODULE}


@pytest.mark.parametrize("module", sorted(FLOORS))
def test_a_module_imports_only_from_its_own_floor_and_from_below(module: str) -> None:
    """Also inside functions; only annotations may name classes from above, and these are listed."""
    above = {
        name
        for name, for_types in imports_of(module)
        if name in FLOORS
        and not may_import(FLOORS[module], FLOORS[name])
        and not (for_types and (module, name) in TYPES_FROM_ABOVE)
    }
    assert above == set(), f"floor {FLOORS[module]} must not import these"


def test_no_two_modules_import_each_other() -> None:
    """Not over others either: there is an order in which each needs only those before it."""
    graph = {
        module: {
            name
            for name, for_types in imports_of(module)
            if name in MODULES and name and not for_types
        }
        - {module}
        for module in FLOORS
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize(
    "module", sorted(module for module, floor in FLOORS.items() if floor[0] in PURE)
)
def test_the_pure_floors_know_no_socket_no_thread_and_no_clock(module: str) -> None:
    """What they do depends on their arguments alone."""
    impure = {name.partition(".")[0] for name, _ in imports_of(module)} & set(IMPURE)
    assert {name for name in impure if (module, name) not in EXCEPTIONS} == set()


def test_the_package_itself_only_has_names() -> None:
    """Importing it loads no module of ours, and no other module of ours takes names from it."""
    assert {
        name for name, for_types in imports_of(ROOT_MODULE) if name in FLOORS and not for_types
    } == set()
    # the command line says the version
    assert {
        module for module in FLOORS for name, _ in imports_of(module) if name == ROOT_MODULE
    } <= {"cli.arguments"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_is_one_idea(module: str) -> None:
    """Short enough to be read in one go, with a docstring that says what lives in it."""
    source = MODULES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(source))


def test_every_exception_is_needed() -> None:
    """The lists above name nothing that is gone."""
    used = {(module, name) for module in FLOORS for name, _ in imports_of(module)}
    assert (set(EXCEPTIONS) | set(TYPES_FROM_ABOVE)) - used == set()
    for module, name in TYPES_FROM_ABOVE:
        assert not may_import(FLOORS[module], FLOORS[name])
