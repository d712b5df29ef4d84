"""What import-linter (see pyproject.toml) cannot say about the modules of the package."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "mormot_ws"
MOST_LINES = 550
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_is_one_idea(module: Path) -> None:
    """It is short enough to be read in one go, and its docstring says what lives in it."""
    source = (PACKAGE / module).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(source))


def test_the_page_of_the_layers_names_every_module() -> None:
    """And none that is gone."""
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    names = [".".join(module.with_suffix("").parts) for module in MODULES]
    modules = {name for name in names if not name.endswith(("__init__", "__main__"))}
    assert [name for name in sorted(modules) if f"`{name}`" not in page] == []
    rows = re.findall(r"^\| (`[a-z0-9_.]+`(?:, `[a-z0-9_.]+`)*) \|", page, re.MULTILINE)
    assert set(re.findall(r"[a-z0-9_.]+", " ".join(rows))) <= modules


def test_importing_the_package_loads_no_module_of_it() -> None:
    """``mormot_ws`` has only names, which are looked up when they are first used."""
    program = (
        "import sys, mormot_ws; "
        "print(*sorted(name for name in sys.modules if name.startswith('mormot_ws.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_no_module_takes_names_from_the_package_itself() -> None:
    """Only the command line does, for the version: what else a module needs has a module."""
    taking = set()
    for module in MODULES:
        levels = len(module.parts)
        for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = any(alias.name == "mormot_ws" for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found = (node.level == levels and not node.module) or node.module == "mormot_ws"
            else:
                continue
            if found:
                taking.add(module.as_posix())
    assert taking <= {"cli/arguments.py"}


def test_what_subclasses_implement_is_abstract() -> None:
    """A class that lacks one of its methods cannot be made: no call finds out later."""
    wrong = []
    for module in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and node.id == "NotImplementedError":
                wrong.append(f"{module.as_posix()}:{node.lineno} raises NotImplementedError")
            elif isinstance(node, ast.ClassDef) and _has_abstract_methods(node):
                name = ".".join(("mormot_ws", *module.with_suffix("").parts))
                if not inspect.isabstract(getattr(importlib.import_module(name), node.name)):
                    wrong.append(f"{name}.{node.name} is not an ABC")
    assert not wrong


def _has_abstract_methods(node: ast.ClassDef) -> bool:
    """Tell whether a method of the class has ``@abstractmethod``, which alone does nothing."""
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    marks = [mark for method in methods for mark in method.decorator_list]
    return any(isinstance(mark, ast.Name) and mark.id == "abstractmethod" for mark in marks)
