"""The tables of the comparison, in Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from .chatting import FLOOD, IN_TIME, Chatting
from .counting import PROGRAMS, size
from .dividing import Dividing
from .echoing import PATIENCE, Echoing


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sizes() -> str:
    """Return the table of lines and names."""
    libraries = list(dict.fromkeys(name for found in PROGRAMS.values() for name in found))
    rows = []
    for library in libraries:
        row = [library]
        for task, found in PROGRAMS.items():
            if library in found:
                its = size(task, library)
                row.append(f"{its.lines} lines, {len(its.names)} names")
            else:
                row.append("–")
        rows.append(row)
    return table(["", *PROGRAMS], rows)


def echoes(seen: Mapping[str, Sequence[Echoing]], noticed: Mapping[str, float | None]) -> str:
    """Return the table of the echo clients."""
    head = [
        "",
        "server down at first",
        "text typed before",
        "server killed, restarted",
        "text typed meanwhile",
        *(["network silently dead"] if noticed else []),
    ]
    rows = []
    for library, all_seen in seen.items():
        row = [
            library,
            _back([its.first for its in all_seen]),
            _of([its.early for its in all_seen]),
            _back([its.back for its in all_seen]),
            _of([its.away for its in all_seen]),
        ]
        if library in noticed:
            row.append(_noticed(noticed[library]))
        rows.append(row)
    return table(head, rows)


def chats(seen: Mapping[str, Sequence[Chatting]]) -> str:
    """Return the table of the chat servers."""
    head = [
        "",
        "who hears what",
        f"{FLOOD} messages, all members read",
        f"{FLOOD} messages, one does not read",
        "killed, restarted at once",
    ]
    rows = []
    for library, all_seen in seen.items():
        alone = [its.alone for its in all_seen]
        had = sorted(its.had for its in all_seen)[len(all_seen) // 2]
        if had >= FLOOD:
            slow = f"{median([its.took for its in all_seen]):.1f} s for the others"
        else:
            slow = f"the others have {had} after {IN_TIME:g} s"
        rows.append(
            [
                library,
                _of([its.fault or "right" for its in all_seen]),
                f"more than {IN_TIME:g} s" if None in alone else f"{_median(alone):.1f} s",
                slow,
                _back([its.back for its in all_seen]),
            ]
        )
    return table(head, rows)


def divisions(seen: Mapping[str, Sequence[Dividing]]) -> str:
    """Return the table of requests and answers."""
    head = [
        "",
        "asked while the server starts",
        "division by 0",
        "first request after a restart",
        "server down",
        "after its restart",
        "no answer",
        "the next one",
    ]
    rows = []
    for library, all_seen in seen.items():
        failed = sorted(its.failed_after for its in all_seen)
        rows.append(
            [
                library,
                _of([_told(its.early) for its in all_seen]),
                _of([_told(its.refused) for its in all_seen]),
                _of([_told(its.after) for its in all_seen]),
                _of([_told(its.away) for its in all_seen]),
                _back([its.back for its in all_seen])
                + (f", up to {failed[-1]} failed" * bool(failed[-1])),
                _of([_silent(its.silent) for its in all_seen]),
                _of(["right" if its.next == "4.0" else f"wrong: {its.next}" for its in all_seen]),
            ]
        )
    return table(head, rows)


def _median(seconds: Sequence[float | None]) -> float:
    return median(value for value in seconds if value is not None)


def _back(seconds: Sequence[float | None]) -> str:
    """Return the median, and the longest."""
    if None in seconds:
        return f"{seconds.count(None)} of {len(seconds)} not back"
    longest = max(value for value in seconds if value is not None)
    return f"back in {_median(seconds):.1f} s ({longest:.1f})"


def _of(words: Sequence[str]) -> str:
    """Return what was seen, and how often unless always."""
    counts = Counter(words)
    if len(counts) == 1:
        return words[0]
    return "; ".join(f"{count} of {len(words)}: {what}" for what, count in counts.most_common())


def _noticed(seconds: float | None) -> str:
    if seconds is None:
        return f"not noticed within {PATIENCE:g} s"
    return f"noticed after {seconds:.0f} s"


def _told(answer: str) -> str:
    return answer if answer.startswith("failed: ") else "answered"


def _silent(told: str) -> str:
    """Leave out why, and tenths of seconds."""
    return re.sub(r"^failed.* after (\d+)\.\d s$", r"failed after \1 s", told)
