"""PendingCalls: the calls of one connection that wait for their answers."""

from __future__ import annotations

from itertools import count
from queue import SimpleQueue

from .messages import Answer, read_answer


class PendingCalls:
    """Thread-safe. Each call waits at its own queue, which gets None if there will be no answer."""

    def __init__(self) -> None:
        self._numbers = count(1)
        #: by number; changed by atomic operations, therefore without a lock
        self.waiting: dict[int | str, SimpleQueue[Answer | None]] = {}

    def begin(self) -> tuple[int, SimpleQueue[Answer | None]]:
        """Return the number of a new call, and the queue for its answer."""
        number = next(self._numbers)
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        self.waiting[number] = answers
        return number, answers

    def end(self, number: int) -> None:
        """Nobody waits for that call any more."""
        self.waiting.pop(number, None)

    def answered(self, text: str) -> bool:
        """If *text* is the answer to a waiting call, pass it on; return whether it is."""
        answer = read_answer(text)
        answers = None if answer is None else self.waiting.pop(answer.number, None)
        if answers is None:
            return False
        answers.put(answer)
        return True

    def fail(self) -> None:
        """The connection has ended: there will be no answers."""
        for number in list(self.waiting):
            answers = self.waiting.pop(number, None)
            if answers is not None:
                answers.put(None)
