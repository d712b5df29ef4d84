"""What mypy and pyright say of a program that uses the library."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from . import ROOT


def wrong_lines(source: str) -> list[int]:
    """Return the numbers of the lines that a type checker has to refuse: they end with ``#
    wrong``.
    """
    return [number for number, line in enumerate(source.split("\n"), 1) if line.endswith("# wrong")]


def refused_by_mypy(program: Path) -> tuple[list[int], str]:
    """Return the lines that ``mypy --strict`` refuses, and all that it says."""
    folder = program.parent
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "--config-file="]
    done = subprocess.run(
        [*command, "--cache-dir", str(folder / "cache"), str(program)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        cwd=folder,
    )
    found = {int(line) for line in re.findall(rf"^{program.name}:(\d+): error", done.stdout, re.M)}
    return sorted(found), done.stdout + done.stderr


def refused_by_pyright(program: Path) -> tuple[list[int], str]:
    """Return the lines that pyright refuses, and all that it says."""
    (program.parent / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(ROOT)], "reportUnusedExpression": False}), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "-p", str(program.parent)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    errors = [item for item in diagnostics if item["severity"] == "error"]
    return sorted({item["range"]["start"]["line"] + 1 for item in errors}), done.stdout
