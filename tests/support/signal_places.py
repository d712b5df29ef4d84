"""Interrupting a call at each place where Python handles a signal in it, by a real signal.

``lines.py`` has what also works with other Pythons, and in other threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import dis
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest

#: for tests with :func:`each_signal`. Python 3.10 also handles signals when a Python function has
#: returned, where nobody could keep the result; later ones trace instructions in another way
signals_anywhere = pytest.mark.skipif(
    sys.implementation.name != "cpython"
    or sys.version_info[:2] != (3, 11)
    or sys.platform == "win32",
    reason="only the instructions of CPython 3.11 are known",
)


class Signal:
    """The *number*-th place in some modules' code where a signal is handled in the main thread.

    Python does that at certain instructions only: after a call, at the begin of a function, and
    when a loop goes on. An exception at a place where there can be none would tell nothing.
    """

    def __init__(self, number: int, modules: tuple[ModuleType, ...]) -> None:
        self.number = number
        self._files = {module.__file__ for module in modules}
        #: whether the place was reached
        self.reached = False
        self._passed = 0
        self._handled = False
        # called in place of a trace function: as there is no Python in it, the signal is handled
        # in the traced code
        kind = ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.py_object, ctypes.py_object)
        self._send: Any = kind(("PyErr_SetInterrupt", ctypes.pythonapi))

    @contextlib.contextmanager
    def interrupted_by(self, action: Callable[[], object]) -> Iterator[None]:
        """Call *action*, which may raise, in a signal handler at the place, once."""

        def handler(number: int, frame: FrameType | None) -> None:
            if not self._handled:
                self._handled = True
                self._stop(frame)
                action()

        before, traced = signal.signal(signal.SIGINT, handler), sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            self._handled = True
            sys.settrace(traced)
            signal.signal(signal.SIGINT, before)

    def _stop(self, frame: FrameType | None) -> None:
        sys.settrace(None)
        while frame is not None:
            if frame.f_code.co_filename in self._files:
                frame.f_trace = None
            frame = frame.f_back

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if self._handled or frame.f_code.co_filename not in self._files:
            return None
        frame.f_trace_opcodes = True
        return self._send if self.reached else self._trace

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if self._handled or event != "opcode" or frame.f_lasti not in _before_handling(frame):
            return self._trace
        self._passed += 1
        if self._passed <= self.number:
            return self._trace
        # the next instruction is the one that handles signals
        self.reached = True
        caller = frame.f_back
        while caller is not None:
            if caller.f_trace is not None and caller.f_code.co_filename in self._files:
                caller.f_trace = self._send
            caller = caller.f_back
        return self._send


_known: dict[CodeType, set[int]] = {}


def _before_handling(frame: FrameType) -> set[int]:
    """Return the instructions before those at which signals are handled."""
    code = frame.f_code
    if code not in _known:
        found = list(dis.get_instructions(code))
        _known[code] = {
            before.offset
            for before, after in itertools.pairwise(found)
            if after.opname.startswith("CALL") or "JUMP" in after.opname
        }
    return _known[code]


def each_signal(*modules: ModuleType) -> Iterator[Signal]:
    """Give the places in the *modules* where a signal may interrupt a test's call, one for each
    round of the test, and at last one that it does not reach.
    """
    for number in itertools.count():
        place = Signal(number, modules)
        yield place
        if not place.reached:
            return
