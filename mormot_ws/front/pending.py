"""PendingCalls: the calls of one connection that wait for their answers."""

from __future__ import annotations

from itertools import count
from queue import SimpleQueue

from .messages import Answer, read_answer


class PendingCalls:
    """From any thread; each call waits at a queue of its own, which gets None when its answer will
    not come.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        #: by number; changed by single operations, and so without a lock
        self.waiting: dict[int | str, SimpleQueue[Answer | None]] = {}

    def begin(self) -> tuple[int, SimpleQueue[Answer | None]]:
        """Return the number of a new call, and where its answer will be."""
        number = next(self._numbers)
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        self.waiting[number] = answers
        return number, answers

    def end(self, number: int) -> None:
        """Nobody waits for that call any more."""
        self.waiting.pop(number, None)

    def answered(self, text: str) -> bool:
        """Return whether *text* is the answer to a call that waits; hand it over."""
        answer = read_answer(text)
        answers = None if answer is None else self.waiting.pop(answer.number, None)
        if answers is None:
            return False
        answers.put(answer)
        return True

    def fail(self) -> None:
        """The connection has ended: nobody will answer."""
        for number in list(self.waiting):
            answers = self.waiting.pop(number, None)
            if answers is not None:
                answers.put(None)
