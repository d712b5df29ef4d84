"""What the two REST examples agree on: the interfaces, and what travels in their calls.

Imported by both; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass
class Task:
    """What is to be done."""

    name: str
    steps: int


class TaskRunner(Protocol):
    """The server's service."""

    def start(self, task: Task) -> int:
        """Start *task*, and return its number; its progress is told to all who watch."""
        ...

    def watch(self) -> None:
        """Tell this client of all progress, as long as it is connected."""
        ...


class Progress(Protocol):
    """The client's service, called by the server."""

    def step_done(self, number: int, task: Task, step: int) -> None:
        """Be told that so many steps of a task are done."""
        ...

    def may_finish(self, number: int, task: Task) -> bool:
        """Be asked, by the task that one has started, before its last step."""
        ...
