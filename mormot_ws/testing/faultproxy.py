"""FaultProxy: a TCP proxy that produces, on command, the faults of real networks.

What it does to its sockets is in ``relay.py``.

Here is what may be asked of it, by any thread; the words for :mod:`mormot_ws.testing` as a program
are below it. No test in here.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

from ..core.forks import dies_in_child
from ..logs import get_logger
from ..process.freeing import FreedByWith
from .relay import Direction, Ending, Relay

_log = get_logger("mormot_ws.testing")

#: seconds for a command to be carried out, and for the thread to end
_PATIENCE = 10.0


class _Command:
    """What the proxy's thread is to do; for the caller, when it is done and what it raised."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.done = threading.Event()  # set by the proxy's thread
        self.error: Exception | None = None


class FaultProxy(FreedByWith):
    """Forwards TCP connections to *target_host*:*target_port*, and spoils them as it is told.

    :param target_host: an IPv4 address, or a name that has one.
    :param host: where it listens.
    :param port: on which port; 0: any free one (see :attr:`port`).
    :param buffer_bytes: the size of the kernel's buffers of every socket; 0: the system's. Small
        ones make back-pressure felt soon.

    A *link* is one accepted connection and the one that was opened to the target for it. ``"up"``
    is the direction from client to target, ``"down"`` the other one; a method with the parameter
    *direction* means both when it is None. Whatever a method does has been done when it returns, to
    all links of that moment, and for what lasts (blackhole, delay, throttle, refuse, stall) to
    later links too. Every method may be called from any thread, and returns soon. A method of a
    proxy that was freed does nothing.

    A link whose target refuses is reset. A proxy that keeps the link with nobody behind it is
    :meth:`blackhole`, then the server's death.

    It listens when the constructor returns; that raises ``OSError`` when it cannot. It is a context
    manager that calls :meth:`free`.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        buffer_bytes: int = 0,
    ) -> None:
        for number in (target_port, port):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 65536:
                raise ValueError(f"a port is a number up to 65535, not {number!r}")
        self.host = host
        self._relay = Relay((target_host, target_port), host, port, buffer_bytes)
        #: the port that it listens on
        self.port: int = self._relay.port
        #: guards the fields below; the commands are run by the thread. Innermost
        self._safe = threading.Lock()
        self._commands: deque[_Command] = deque()
        self._ended = False
        self._error: Exception | None = None
        # daemon: must not keep a failed test run from ending
        self._thread = threading.Thread(
            target=self._run, name=f"fault proxy :{self.port}", daemon=True
        )
        self._thread.start()
        dies_in_child(self)

    def die_in_child(self) -> None:
        """In a forked child: commands do nothing."""
        self._safe = threading.Lock()
        self._commands.clear()
        self._ended = True

    @property
    def uri(self) -> str:
        """The ``ws://`` address of the proxy."""
        return f"ws://{self.host}:{self.port}/"

    @property
    def target(self) -> tuple[str, int]:
        """Where it forwards to; may be set, for later links."""
        return self._relay.target

    @target.setter
    def target(self, target: tuple[str, int]) -> None:
        self._relay.target = target

    @property
    def accepted(self) -> int:
        """How many connections were accepted since the start."""
        return self._relay.accepted

    @property
    def links(self) -> int:
        """How many links are open now."""
        return len(self._relay.links)

    @property
    def carried(self) -> dict[str, int]:
        """Bytes forwarded since the start: ``{"up": …, "down": …}``."""
        return {name: gate.carried for name, gate in self._relay.gates.items()}

    # -------------------------------------------------------------------------------- at one moment

    def cut(self, links: int | None = None) -> None:
        """Send RST to both ends of all links, or of *links* of them, picked at random.

        Raises ``ValueError`` for a negative number.
        """
        _check_links(links)
        self._do(lambda: self._relay.each(self._relay.drop, links))

    def close(self, links: int | None = None) -> None:
        """Send FIN to both ends of all links, or of *links* of them, picked at random.

        Nothing more is forwarded; what they still send is thrown away.
        """
        _check_links(links)
        self._do(lambda: self._relay.each(self._relay.finish, links))

    # ----------------------------------------------------------------------------------- what lasts

    def blackhole(self, direction: Direction | None = None) -> None:
        """Stop forwarding, and tell nobody: every link stays open.

        Bytes, FIN and RST stay where they are.

        New connections are accepted, and reach the target when ``"up"`` is open again.
        """
        self._set(direction, "open", False)

    def restore(self, direction: Direction | None = None) -> None:
        """Undo :meth:`blackhole`: go on where it began, no byte is missing."""
        self._set(direction, "open", True)

    def delay(self, ms: float, direction: Direction | None = None) -> None:
        """Hold what is read from now on back for *ms* milliseconds; 0 ends that.

        Raises ``ValueError`` for a negative number.
        """
        self._set(direction, "delay", _at_least_0("ms", ms) / 1000)

    def throttle(self, bytes_per_second: float, direction: Direction | None = None) -> None:
        """Let so many bytes per second pass on each link; 0: as many as come.

        The sender feels it as back-pressure.
        """
        self._set(direction, "rate", float(_at_least_0("bytes_per_second", bytes_per_second)))

    def truncate(self, size: int | None, direction: Direction = "up", then: Ending = "cut") -> None:
        """Let *size* more bytes pass on each link in *direction*; None: no more.

        The first link that has had them is ended by :meth:`cut` or :meth:`close`, as *then* says,
        and the others go on as before.
        """
        _check_direction(direction)
        if then not in ("cut", "close"):
            raise ValueError(f"then is 'cut' or 'close', not {then!r}")
        truncation = None if size is None else (direction, int(_at_least_0("size", size)), then)
        self._do(lambda: self._relay.arm(truncation))

    def refuse(self) -> None:
        """Refuse new connections (RST), as if nobody listened there.

        The port stays taken, and open links stay open.
        """
        self._do(self._relay.refuse)

    def stall(self) -> None:
        """Give new connections no answer at all, so that connecting times out.

        Open links stay open.

        Works where the kernel drops what does not fit into a listener's queue, as Linux does.
        """
        self._do(self._relay.stall)

    def accept(self) -> None:
        """Undo :meth:`refuse` and :meth:`stall`.

        A client that was stalled gets on when its kernel asks again, which takes a second or more.
        """
        self._do(self._relay.accept)

    def heal(self) -> None:
        """Let everything pass again at once: undo every command that lasts.

        What waits because of a delay leaves too.
        """
        self.truncate(None)
        self.delay(0)
        self.throttle(0)
        self._do(self._relay.release)
        self.restore()
        self.accept()

    # ----------------------------------------------------------------------------------- its thread

    def free(self) -> None:
        """Cut all links and end the thread. Safe to call twice.

        Raises what the thread has met, if anything.
        """
        self._relay.stopping = True
        self._relay.wake()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            raise RuntimeError(f"{self!r}: its thread does not end")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            self._relay.run(self._run_commands)
        except Exception as exc:  # noqa: BLE001 - free() raises it
            _log.exception("%r has failed", self)
            self._error = exc
        finally:
            with self._safe:
                self._ended = True
                waiting = list(self._commands)
                self._commands.clear()
            for command in waiting:
                command.done.set()

    def _run_commands(self) -> None:
        while True:
            with self._safe:
                if not self._commands:
                    return
                command = self._commands.popleft()
            try:
                command.action()
            except Exception as exc:  # noqa: BLE001 - the caller gets it
                command.error = exc
            finally:
                command.done.set()

    def _do(self, action: Callable[[], object]) -> None:
        """Let the thread do *action*, and wait until it has; raise what that raises."""
        command = _Command(action)
        with self._safe:
            if self._ended:
                return
            self._commands.append(command)
        self._relay.wake()
        if not command.done.wait(_PATIENCE):
            raise RuntimeError(f"{self!r} does not answer")
        if command.error is not None:
            raise command.error

    def _set(self, direction: Direction | None, name: str, value: object) -> None:
        if direction is not None:
            _check_direction(direction)
        self._do(lambda: self._relay.set_gates(direction, name, value))

    def __repr__(self) -> str:
        host, port = self.target
        state = "freed" if self._ended else f"links={self.links}"
        return f"<FaultProxy {self.host}:{self.port} -> {host}:{port} {state}>"


def _check_direction(direction: str) -> None:
    if direction not in ("up", "down"):
        raise ValueError(f"direction is 'up', 'down' or None, not {direction!r}")


def _check_links(links: int | None) -> None:
    if links is not None and (isinstance(links, bool) or not isinstance(links, int) or links < 0):
        raise ValueError(f"links is a whole number from 0, or None for all, not {links!r}")


def _at_least_0(name: str, number: float) -> float:
    if (
        isinstance(number, bool)
        or not isinstance(number, (int, float))
        or not 0 <= number < math.inf
    ):
        raise ValueError(f"{name} is a finite number from 0, not {number!r}")
    return number


# ------------------------------------------------------------------------------------- as a program

_WORDS: dict[str, tuple[type[int] | type[float] | type[str], ...]] = {
    "cut": (int,),
    "close": (int,),
    "blackhole": (str,),
    "restore": (str,),
    "delay": (float, str),
    "throttle": (float, str),
    "truncate": (int, str, str),
    "refuse": (),
    "stall": (),
    "accept": (),
    "heal": (),
}


def obey(proxy: FaultProxy, line: str) -> str:
    """Run one command line, e.g. ``delay 200 up``; return the answer: ``ok`` or ``error: …``.

    It is a method's name, followed by its arguments.

    ``status`` is answered with ``links … accepted … up … down …``.
    """
    name, *words = line.split() or [""]
    if name == "status":
        return (
            f"links {proxy.links} accepted {proxy.accepted} up {proxy.carried['up']} down"
            f" {proxy.carried['down']}"
        )
    kinds = _WORDS.get(name)
    if kinds is None or len(words) > len(kinds):
        return f"error: {line!r} is no command; there are status, stop, {', '.join(_WORDS)}"
    try:
        getattr(proxy, name)(*(kind(word) for word, kind in zip(words, kinds, strict=False)))
    except (TypeError, ValueError, OSError) as exc:
        return f"error: {exc}"
    return "ok"
