"""The interfaces of the two REST examples, and the values in their calls.

Both examples import this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass
class Task:
    """A task to be done."""

    name: str
    steps: int


class TaskRunner(Protocol):
    """The server's service."""

    def start(self, task: Task) -> int:
        """Start *task* and return its number; its progress is reported to all watchers."""
        ...

    def watch(self) -> None:
        """Report all progress to this client, as long as it is connected."""
        ...


class Progress(Protocol):
    """The client's service, called by the server."""

    def step_done(self, number: int, task: Task, step: int) -> None:
        """Called after each *step* of a task."""
        ...

    def may_finish(self, number: int, task: Task) -> bool:
        """Called before the last step of a task that this client has started."""
        ...
