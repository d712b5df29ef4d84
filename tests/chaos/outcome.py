"""What chaos comes to: the look at servers that were told to stop, and the verdict. For both tests,
this one and ``tests/topics_chaos``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

#: the exit code when nothing but bounds on time and memory were broken
ONLY_MEASURES = 3


class Measured(str):
    """A broken bound on time or memory: something else that was busy on the machine may have done
    it, so it is worth another run. Whatever is not one of these is a fault at once.
    """


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
    """Print *violations*, of which there are *count*; return the exit code: 0, 1, or
    :data:`ONLY_MEASURES`.

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
    if not count:
        return 0
    measures = sum(isinstance(text, Measured) for text in violations)
    return ONLY_MEASURES if measures == count else 1
