"""The invariants of what was said and heard, from the logs and the eras. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from .storage import Era

#: violations that are kept in words
_MOST = 30


@dataclass
class Findings:
    """What was found."""

    violations: list[str] = field(default_factory=list)
    violations_count: int = 0
    #: publications that were heard, by clients and by server code
    heard: Counter[str] = field(default_factory=Counter)
    #: publications of clients, by what became of them
    states: Counter[str] = field(default_factory=Counter)
    #: the same of server code
    spoken: Counter[str] = field(default_factory=Counter)
    recovered: int = 0
    announced: int = 0
    #: publications in a history that an earlier era has had, too
    in_two_eras: int = 0

    def violated(self, text: str) -> None:
        """Note a violation."""
        self.violations_count += 1
        if len(self.violations) < _MOST:
            self.violations.append(text)


class _Run:
    """What a subscriber has heard of a topic since it began, or since the last announcement."""

    __slots__ = ("last", "possible")

    def __init__(self, last: int | None, eras: int) -> None:
        #: None: it is not known yet where it began
        self.last = last
        #: the eras that have all of it
        self.possible = set(range(eras))


class Checker:
    """Compares the logs with the *eras*: all that was in Redis at the end of each."""

    def __init__(self, eras: list[Era]) -> None:
        self.findings = Findings()
        self._eras = eras
        #: by publisher and number: where it was published, as (era, topic, offset)
        self._places: defaultdict[tuple[str, int], list[tuple[int, str, int]]] = defaultdict(list)
        #: what is in a history behind later ones of the same publisher
        self._late: dict[tuple[str, int], str] = {}
        self._asked: set[tuple[str, int]] = set()
        self._runs: dict[tuple[str, str], _Run] = {}
        #: what server code has heard first, before the log tells where it began
        self._firsts: dict[tuple[str, str], int] = {}
        self._announced: Counter[tuple[str, str]] = Counter()
        #: publications of clients without an end, and their topics
        self._begun: dict[tuple[str, int], str] = {}
        self._read_eras()

    # ------------------------------------------------------------------------------------- the eras

    def _read_eras(self) -> None:
        for number, era in enumerate(self._eras):
            for topic, history in era.items():
                self._read_history(number, topic, history)

    def _read_history(self, era: int, topic: str, history: dict[int, tuple[str, int]]) -> None:
        if list(history) != list(range(1, len(history) + 1)):
            self.findings.violated(f"the history of {topic} in era {era} has gaps")
        newest: dict[str, int] = {}
        for offset, (by, number) in history.items():
            places = self._places[by, number]
            if any(place[0] == era for place in places):
                self.findings.violated(f"{by} {number} is twice in era {era}: {places} {offset}")
            elif places:
                self.findings.in_two_eras += places[0][2] != offset
            elif number < newest.get(by, -1):
                self._late[by, number] = (
                    f"{by} {number} comes after {newest[by]} on {topic} in era {era}"
                )
            else:
                newest[by] = number
            places.append((era, topic, offset))

    # --------------------------------------------------------------------------- what both logs say

    def _hears(self, who: str, topic: str, offset: int, by: str, number: int) -> None:
        findings = self.findings
        run = self._runs.get((who, topic))
        if run is None:
            run = self._runs[who, topic] = _Run(None, len(self._eras))
        if run.last is not None and offset != run.last + 1:
            findings.violated(f"{who} has heard {topic} {offset} after {run.last}")
        if run.last is None:
            self._firsts[who, topic] = offset
        run.last = offset
        before = run.possible
        run.possible = {era for era in before if self._eras[era][topic].get(offset) == (by, number)}
        if not run.possible:
            findings.violated(
                f"{who} has heard {by} {number} as {topic} {offset}: not so in the eras "
                f"{sorted(before)}"
            )
            # the rest may be right
            run.possible = set(range(len(self._eras)))

    def _begins(self, who: str, topic: str, offset: int) -> None:
        run = self._runs.get((who, topic))
        if run is None:
            self._runs[who, topic] = _Run(offset, len(self._eras))
        elif self._firsts.get((who, topic)) != offset + 1:
            self.findings.violated(
                f"{who} began {topic} behind {offset}, and has heard "
                f"{self._firsts.get((who, topic))} first"
            )

    def _is_announced(self, who: str, topic: str, offset: int, reason: str) -> None:
        findings = self.findings
        findings.announced += 1
        self._announced[who, topic] += 1
        if self._announced[who, topic] > len(self._eras) - 1:
            findings.violated(
                f"{who} was told {self._announced[who, topic]} times that {topic} has lost data, "
                f"in {len(self._eras)} eras"
            )
        if reason != "epoch":
            findings.violated(f"{who} was told that {topic} has lost data: {reason}")
        self._runs[who, topic] = _Run(offset, len(self._eras))

    # ------------------------------------------------------------------------------ a server's log

    def read_server(self, name: str, lines: Iterable[str]) -> None:
        """Read the log of one incarnation."""
        for line in lines:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "X":
                self.findings.violated(f"server {name}: {rest}")
                continue
            words = rest.split()
            if kind == "A":
                self._asked.add((words[0], int(words[1])))
            elif kind == "B":
                self._begins(name, words[0], int(words[1]))
            elif kind == "P":
                self.findings.heard["server code"] += 1
                self._hears(name, words[0], int(words[1]), words[2], int(words[3]))
            elif kind == "R":
                self._is_announced(name, words[0], int(words[1]), words[2])
            elif kind == "K":
                self.findings.spoken["published"] += 1
                self._is_published(words[0], int(words[1]), words[2], int(words[3]))
            elif kind == "F":
                self._has_failed(words[0], int(words[1]), words[3] == "1")

    def _has_failed(self, by: str, number: int, maybe: bool) -> None:
        self.findings.spoken["perhaps published" if maybe else "failed"] += 1
        if maybe:
            # Redis has carried it out after the publisher had given up waiting
            self._late.pop((by, number), None)
        if not maybe and self._places.get((by, number)):
            self.findings.violated(
                f"{by} {number} has failed, and is in the history: {self._places[by, number]}"
            )

    def _is_published(self, by: str, number: int, topic: str, offset: int) -> None:
        places = self._places.get((by, number), [])
        if not any(place[1:] == (topic, offset) for place in places):
            self.findings.violated(
                f"{by} {number} was acknowledged as {topic} {offset}, and is at {places}"
            )

    # ----------------------------------------------------------------------------- the clients' log

    def read_clients(self, lines: Iterable[str]) -> None:
        """Read the clients' log, after those of all servers."""
        for text in self._late.values():
            self.findings.violated(text)
        for line in lines:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "X":
                self.findings.violated(f"clients: {rest}")
                continue
            words = rest.split(" ", 6)
            if kind == "P":
                self.findings.heard["clients"] += 1
                self._runs.setdefault((words[0], words[1]), _Run(0, len(self._eras)))
                self._hears(words[0], words[1], int(words[2]), words[3], int(words[4]))
            elif kind == "R":
                self._goes_on(words[0], words[1], words[2] == "1", int(words[3]), words[4])
            elif kind == "T":
                self._begun[words[0], int(words[1])] = words[2]
            elif kind == "D":
                self._is_done(words)
        for (by, number), topic in self._begun.items():
            self.findings.violated(f"nobody has told what became of {by} {number} on {topic}")
        for by, number in self._places:
            if by.startswith("c") and (by, number) not in self._asked:
                self.findings.violated(f"the application was not asked for {by} {number}")

    def _goes_on(self, who: str, topic: str, recovered: bool, offset: int, reason: str) -> None:
        if not recovered:
            self._is_announced(who, topic, offset, reason)
            return
        self.findings.recovered += 1
        run = self._runs.setdefault((who, topic), _Run(0, len(self._eras)))
        if offset != run.last:
            self.findings.violated(
                f"{who} goes on with {topic} behind {offset}, and has heard it up to {run.last}"
            )

    def _is_done(self, words: list[str]) -> None:
        by, number, topic, state, offset = words[0], int(words[1]), words[2], words[3], words[4]
        findings = self.findings
        if self._begun.pop((by, number), None) is None:
            findings.violated(f"{by} {number} has two ends, or no beginning: {words}")
        findings.states[state] += 1
        findings.states["repeated"] += words[5] == "1"
        if state == "acknowledged":
            self._is_published(by, number, topic, int(offset))
        elif (by, number) in self._places:
            findings.violated(f"{by} {number} was {state} ({words[6]}), and is in the history")
