"""What type checkers say to programs that use the library rightly and wrongly."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.type_checkers import Refused, refused_by_mypy, refused_by_pyright, wrong_lines
from support.typed_programs import CLASSES_AND_CONNECT, SERVER

#: misspelt settings and names, wrong types and words; coroutines, and callbacks with other
#: parameters
PROGRAMS = {"classes_and_connect.py": CLASSES_AND_CONNECT, "server.py": SERVER}
programs = pytest.mark.parametrize("name", PROGRAMS)
mypy = pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
pyright = pytest.mark.skipif(
    find_spec("pyright") is None or not os.environ.get("MORMOT_WS_PYRIGHT"),
    reason="only where pyright and its Node.js are known to be there: MORMOT_WS_PYRIGHT=1",
)


def write_programs(folder: Path) -> Path:
    """Write all programs into *folder*: a type checker reads the library once for all of them."""
    for name, source in PROGRAMS.items():
        (folder / name).write_text(source, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mypys(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """What ``mypy --strict`` refuses."""
    return refused_by_mypy(write_programs(tmp_path_factory.mktemp("mypy")))


@pytest.fixture(scope="module")
def pyrights(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """What pyright refuses."""
    return refused_by_pyright(write_programs(tmp_path_factory.mktemp("pyright")))


@mypy
@programs
def test_mypy_refuses_what_is_wrong_and_nothing_else(name: str, mypys: Refused) -> None:
    """Each mistake is an error, on its line."""
    assert mypys.lines(name) == wrong_lines(PROGRAMS[name]), mypys.said


@pyright
@programs
def test_pyright_refuses_what_is_wrong_and_nothing_else(name: str, pyrights: Refused) -> None:
    """The same as mypy; editors have it built in."""
    assert pyrights.lines(name) == wrong_lines(PROGRAMS[name]), pyrights.said
