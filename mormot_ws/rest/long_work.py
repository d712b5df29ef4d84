"""LongWork: computations of several threads that take turns, piece by piece.

In Python one thread computes at a time. When several do it for seconds, all others, which have
little to do, wait long for each of their steps. So of the long computations one runs at a time, for
a piece, and pauses then. What is computed belongs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from types import TracebackType

from ..core.forks import call_in_child
from .turns import Turn, Turns

#: seconds between two pieces, in which other threads get on
_PAUSE = 0.0001
#: seconds after which a piece runs although others do
_MOST_WAIT = 1.0


class WorkStoppedError(Exception):
    """The computation is no longer wanted."""


class LongWork:
    """One computation: a context, called between its pieces.

    :param goes_on: tells whether it is still wanted.

    A short one never calls it, and costs nothing. In one thread; takes no other lock.
    """

    __slots__ = ("_goes_on", "_turn", "_turns")

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self._goes_on = goes_on
        self._turn: Turn | None = None
        self._turns: Turns | None = None

    def __enter__(self) -> LongWork:
        return self

    def __call__(self) -> None:
        """A piece is done: let others have their turn. Raises :class:`WorkStoppedError` when the
        work is no longer wanted.
        """
        self._give()
        if not self._goes_on():
            raise WorkStoppedError
        # for the other threads, not for anything that could wake this one
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
    """What all computations of the OS process share."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.turns = Turns()


_shared = _Shared()
# a thread that has its turn is not there in a forked child
call_in_child(_shared.renew)
