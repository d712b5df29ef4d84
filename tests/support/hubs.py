"""What the tests of hubs share."""

from __future__ import annotations

from typing import Any

from mormot_ws import Lost, Publication

from .waiting import wait_for


class Heard(list[Any]):
    """A subscriber that notes what it hears."""

    def __call__(self, heard: Publication | Lost) -> None:
        self.append(heard)

    @property
    def data(self) -> list[Any]:
        """What was published, and reasons of losses."""
        return [each.reason if isinstance(each, Lost) else each.data for each in self]

    def wait(self, count: int) -> list[Any]:
        """Return the data when there are at least *count*."""
        wait_for(lambda: len(self) >= count, what=f"{count} publications")
        return self.data
