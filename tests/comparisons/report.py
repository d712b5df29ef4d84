"""The tables of the comparison, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

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


def echoes(seen: dict[str, Echoing], noticed: dict[str, float | None]) -> str:
    """Return the table of the echo clients."""
    head = [
        "",
        "server absent at first",
        "what was typed before",
        "server killed, restarted",
        "what was typed between",
        *(["network dead without a word"] if noticed else []),
    ]
    rows = []
    for library, its in seen.items():
        row = [library, _back(its.first), its.early, _back(its.back), its.away]
        if library in noticed:
            row.append(_noticed(noticed[library]))
        rows.append(row)
    return table(head, rows)


def chats(seen: dict[str, Chatting]) -> str:
    """Return the table of the chat servers."""
    head = [
        "",
        "who hears what",
        f"{FLOOD} messages, all read",
        f"{FLOOD} messages, one does not read",
        "killed, restarted at once",
    ]
    rows = []
    for library, its in seen.items():
        alone = f"more than {IN_TIME:g} s" if its.alone is None else f"{its.alone:.1f} s"
        if its.had >= FLOOD:
            slow = f"{its.took:.1f} s for the others"
        else:
            slow = f"the others have {its.had} after {IN_TIME:g} s"
        rows.append([library, its.fault or "right", alone, slow, its.why or _back(its.back)])
    return table(head, rows)


def divisions(seen: dict[str, Dividing]) -> str:
    """Return the table of requests and answers."""
    head = [
        "",
        "server absent",
        "division by 0",
        "first request after a restart",
        "server away",
        "after its restart",
        "no answer",
        "the next one",
    ]
    rows = [
        [
            library,
            _told(its.early),
            _told(its.refused),
            _told(its.after),
            _told(its.away),
            f"{_back(its.back)}, {its.failed_after} requests failed",
            its.silent if its.silent.startswith("nothing") else f"failed{its.silent[-12:]}",
            "right" if its.next == "4.0" else f"wrong: {its.next}",
        ]
        for library, its in seen.items()
    ]
    return table(head, rows)


def _back(seconds: float | None) -> str:
    return "not back" if seconds is None else f"back in {seconds:.1f} s"


def _noticed(seconds: float | None) -> str:
    if seconds is None:
        return f"not noticed within {PATIENCE:g} s"
    return f"noticed after {seconds:.0f} s"


def _told(answer: str) -> str:
    return answer if answer.startswith("failed: ") else "answered"
