"""LongWork: lets long computations in several threads take turns, piece by piece.

In Python only one thread computes at a time. When several compute for seconds, all other threads
wait long for each small step. So only one of the long computations runs at a time, and it pauses
after each piece. The computations themselves are in other modules.
"""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from types import TracebackType

from ..core.forks import call_in_child
from .turns import Turn, Turns

#: seconds between two pieces, in which other threads can run
_PAUSE = 0.0001
#: seconds after which a piece runs even if others are running
_MOST_WAIT = 1.0


class WorkStoppedError(Exception):
    """Raised if the computation is no longer needed."""


class LongWork:
    """A computation: a context manager that is called between the pieces.

    :param goes_on: returns whether the result is still needed.

    A short computation never calls it and costs nothing. Used in one thread; takes no other lock.
    """

    __slots__ = ("_goes_on", "_turn", "_turns")

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self._goes_on = goes_on
        self._turn: Turn | None = None
        self._turns: Turns | None = None

    def __enter__(self) -> LongWork:
        return self

    def __call__(self) -> None:
        """Let other threads run after a piece.

        Raises :class:`WorkStoppedError` if the result is no longer needed.
        """
        self._give()
        if not self._goes_on():
            raise WorkStoppedError
        # a pause for the other threads; nothing has to wake this one
        sleep(_PAUSE)
        turns = self._turns = _shared.turns
        turn = self._turn = Turn()
        if not turns.wait(turn, _MOST_WAIT):
            self._give()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give()

    def _give(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and self._turns is not None:
            self._turns.give(turn)


class _Shared:
    """State shared by all computations of the OS process."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.turns = Turns()


_shared = _Shared()
# the thread that has its turn does not exist in a forked child
call_in_child(_shared.renew)
