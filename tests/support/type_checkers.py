"""What mypy and pyright say of a program that uses the library."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from . import ROOT


def wrong_lines(source: str) -> list[int]:
    """Return the numbers of the lines that a type checker has to refuse: they end with ``#
    wrong``.
    """
    return [number for number, line in enumerate(source.split("\n"), 1) if line.endswith("# wrong")]


class Refused(NamedTuple):
    """What a type checker refuses."""

    #: names of files, and numbers of lines in them
    places: frozenset[tuple[str, int]]
    #: all that it says
    said: str

    def lines(self, name: str) -> list[int]:
        """Return the numbers of the lines of a file."""
        return sorted(line for file, line in self.places if file == name)


def refused_by_mypy(folder: Path) -> Refused:
    """Return what ``mypy --strict`` refuses in the programs of *folder*."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "--config-file="]
    done = subprocess.run(
        [*command, "--cache-dir", str(folder / "cache"), *map(str, folder.glob("*.py"))],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        cwd=folder,
    )
    found = re.findall(r"^(\w+\.py):(\d+): error", done.stdout, re.M)
    places = frozenset((name, int(line)) for name, line in found)
    return Refused(places, done.stdout + done.stderr)


def refused_by_pyright(folder: Path) -> Refused:
    """Return what pyright refuses in the programs of *folder*."""
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(ROOT)], "reportUnusedExpression": False}), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    errors = [item for item in diagnostics if item["severity"] == "error"]
    places = frozenset(
        (Path(item["file"]).name, item["range"]["start"]["line"] + 1) for item in errors
    )
    return Refused(places, done.stdout)
