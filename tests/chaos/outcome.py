"""What chaos comes to: the look at servers that were told to stop, and the verdict. For both tests,
this one and ``tests/topics_chaos``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def faults_of_stop(name: str, found: dict[str, Any], code: int, most: float) -> list[str]:
    """Return what is wrong with how a server has ended that was told to stop.

    *found* is what it tells of itself, *code* its exit code; ``free()`` may take *most* seconds.
    """
    faults = []
    if code:
        faults.append(f"{name}, told to stop, has ended with {code}")
    if found["took"] > most:
        faults.append(f"{name}: free() took {found['took']:.2f} s")
    for what in ("threads", "descriptors"):
        if found["after"][what] > found["before"][what]:
            faults.append(
                f"{name} has left {what}: {found['before'][what]} before, "
                f"{found['after'][what]} after"
            )
    return faults


def verdict(folder: Path, violations: list[str], count: int, keep: bool) -> int:
    """Print *violations*, of which there are *count*; return the exit code.

    The logs stay in *folder* when there are some, or with *keep*.
    """
    for text in violations:
        say(f"VIOLATION {text}")
    if count or keep:
        (folder / "violations").write_text("\n".join(violations))
        say(f"the logs are in {folder}")
    else:
        shutil.rmtree(folder)
    say(f"{count} violations" if count else "no violations")
    return 1 if count else 0
