"""Figures of the package's structure: ``python -m tests.package.architecture_figures``."""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

# the tests import each other without the folder's name
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from test_owners import FOUND, SHARED

_MOST = 5


def imports_of(where: str, annotations: bool) -> Iterator[str]:
    """The modules of the package that a module imports, for annotations only, or else."""
    tree = FOUND.trees[where]
    only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and (node in only) is annotations:
            folder = Path(where).parts[: -node.level]
            target = "/".join([*folder, *(node.module or "").split(".")]) + ".py"
            if target in FOUND.trees:
                yield target


def circles() -> Iterator[str]:
    """The imports for annotations that close a circle."""
    needs: dict[str, set[str]] = defaultdict(set)
    for where in FOUND.trees:
        needs[where] |= set(imports_of(where, False))
    for where in FOUND.trees:
        for target in imports_of(where, True):
            reached, left = {target}, [target]
            while left:
                new = needs[left.pop()] - reached
                reached |= new
                left += new
            if where in reached:
                yield f"{where} names a class of {target}"


def longest_chain(name: str) -> list[str]:
    """The longest line of inheritance from a class."""
    bases = [longest_chain(base) for base in FOUND.bases[name] if base in FOUND.bases]
    return [name, *max(bases, key=len, default=[])]


def main() -> None:
    """Print them."""
    modules = [Path(where) for where in FOUND.trees if not where.endswith("__init__.py")]
    folders = Counter(str(path.parent) for path in modules)
    print("modules per folder:", ", ".join(f"{name} {n}" for name, n in sorted(folders.items())))
    lines = {}
    for where, tree in FOUND.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno is not None
                statements = {each.lineno for each in ast.walk(node) if isinstance(each, ast.stmt)}
                lines[node.name] = (node.end_lineno - node.lineno + 1, len(statements), where)
    print("longest classes (lines, with docstrings and comments; lines with statements):")
    for name, (whole, code, where) in sorted(lines.items(), key=lambda each: -each[1][0])[:_MOST]:
        print(f"  {name} {whole}, {code} ({where})")
    print("deepest inheritance:")
    for chain in sorted(map(longest_chain, lines), key=len, reverse=True)[:_MOST]:
        print(f"  {len(chain)}: {' < '.join(chain)}")
    print(f"written by a class and its base: {len(FOUND.of_several_in_a_hierarchy())}")
    print("written by several classes, with the reasons:")
    for name, reason in SHARED.items():
        print(f"  {name}: {reason}")
    found = sorted(circles())
    print(f"circles by annotations only ({len(found)}):")
    for line in found:
        print(f"  {line}")


if __name__ == "__main__":
    main()
