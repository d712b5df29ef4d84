"""Interrupting a call at each of its lines, as a signal handler or a finaliser may."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any


class Line:
    """The line of some modules' code that is run as the *number*-th, in the calling thread."""

    def __init__(self, number: int, modules: tuple[ModuleType, ...]) -> None:
        self.number = number
        self._files = {module.__file__ for module in modules}
        #: whether the line was reached
        self.reached = False
        self._passed = 0

    @contextlib.contextmanager
    def interrupted_by(self, action: Callable[[], object]) -> Iterator[None]:
        """Call *action* before the line, once; its own lines do not count."""

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            if frame.f_code.co_filename not in self._files:
                return None
            if event == "line":
                if self._passed == self.number:
                    self.reached = True
                    action()
                self._passed += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


def each_line(*modules: ModuleType) -> Iterator[Line]:
    """Give the lines of the *modules* that a test's call runs, one for each round of the test, and
    at last one that it does not reach.
    """
    for number in itertools.count():
        line = Line(number, modules)
        yield line
        if not line.reached:
            return
