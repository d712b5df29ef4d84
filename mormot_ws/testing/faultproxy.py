"""FaultProxy: a TCP proxy that produces the faults of real networks on command.

This module contains its methods, which any thread may call, and the text commands of
``python -m mormot_ws.testing``. The work on the sockets is done in ``relay.py``.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from ..attributes import IS_INT, IS_TEXT, Check, KnownAttributes
from ..core.forks import dies_in_child
from ..logs import get_logger
from ..process.freeing import FreedByWith
from .relay import Direction, Ending, Relay

_log = get_logger("mormot_ws.testing")

#: the time-out for a command and for the end of the thread, in seconds
_PATIENCE = 10.0


class _Command:
    """A job for the proxy's thread; reports to the caller when it is done and what it raised."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.done = threading.Event()  # set by the proxy's thread
        self.error: Exception | None = None

    def run(self) -> None:
        """Run the action, in the proxy's thread."""
        try:
            self.action()
        except Exception as exc:  # noqa: BLE001 - the caller gets it
            self.error = exc
        finally:
            self.done.set()


def _is_target(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(
            f"{name} must be a host and a port, like ('127.0.0.1', 8999), not {value!r}"
        )
    host, port = value
    if not isinstance(host, str) or not host or ":" in host:
        raise ValueError(
            f"the host must be a name or an IPv4 address without its port, not {host!r}"
        )
    if type(port) is not int or not 0 <= port < 65536:
        raise ValueError(f"a port must be a number up to 65535, not {port!r}")


class FaultProxy(KnownAttributes, FreedByWith):
    """Forwards TCP connections to *target_host*:*target_port*, with faults on command.

    :param target_host: an IPv4 address, or a name that has one.
    :param host: the address to listen on.
    :param port: the port to listen on; 0: any free one (see :attr:`port`).
    :param buffer_bytes: the size of the kernel's buffers for every socket; 0: the system's default.
        With small buffers, back-pressure builds up quickly.

    A *link* is an accepted connection together with the one opened to the target for it. ``"up"``
    is the direction from client to target, ``"down"`` is the opposite; a *direction* of None means
    both. A method takes effect before it returns, for all current links; lasting faults (blackhole,
    delay, throttle, refuse, stall) apply to later links too. The methods are quick and may be
    called from any thread. After :meth:`free` they do nothing.

    A link whose target refuses is reset. To keep a link open with no server behind it, call
    :meth:`blackhole`, then kill the server.

    The proxy listens when the constructor returns. The constructor raises ``OSError`` if it
    cannot listen. As a context manager it calls :meth:`free`.
    """

    _CHECKS: ClassVar[dict[str, Check]] = {
        "host": IS_TEXT,
        "port": IS_INT,
        "target": _is_target,
    }

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        buffer_bytes: int = 0,
    ) -> None:
        for place in ((target_host, target_port), (host, port)):
            _is_target("a place", place)
        self.host = host
        self._relay = Relay((target_host, target_port), host, port, buffer_bytes)
        #: the port on which it listens
        self.port: int = self._relay.port
        #: guards the fields below; the thread runs the commands; last in the lock order
        self._safe = threading.Lock()
        self._commands: deque[_Command] = deque()
        self._ended = False
        self._error: Exception | None = None
        # a daemon thread, so that it does not keep a failed test run from ending
        self._thread = threading.Thread(
            target=self._run, name=f"fault proxy :{self.port}", daemon=True
        )
        self._thread.start()
        dies_in_child(self)

    def die_in_child(self) -> None:
        """In a forked child: make all commands do nothing."""
        self._safe = threading.Lock()
        self._commands.clear()
        self._ended = True

    @property
    def uri(self) -> str:
        """The ``ws://`` URI of the proxy."""
        return f"ws://{self.host}:{self.port}/"

    @property
    def target(self) -> tuple[str, int]:
        """The address to forward to; a new value applies to later links."""
        return self._relay.target

    @target.setter
    def target(self, target: tuple[str, int]) -> None:
        self._relay.target = target

    @property
    def accepted(self) -> int:
        """The number of connections accepted since the start."""
        return self._relay.accepted

    @property
    def links(self) -> int:
        """The number of open links."""
        return len(self._relay.links)

    @property
    def carried(self) -> dict[str, int]:
        """Bytes forwarded since the start: ``{"up": …, "down": …}``."""
        return {name: gate.carried for name, gate in self._relay.gates.items()}

    # --------------------------------------------------------------------------- momentary faults

    def cut(self, links: int | None = None) -> None:
        """Send RST to both ends of all links, or of *links* random ones.

        Raises ``ValueError`` for a negative number.
        """
        _check_links(links)
        self._do(lambda: self._relay.each(self._relay.drop, links))

    def close(self, links: int | None = None) -> None:
        """Send FIN to both ends of all links, or of *links* random ones.

        Nothing more is forwarded, and data that still arrives is discarded.
        """
        _check_links(links)
        self._do(lambda: self._relay.each(self._relay.finish, links))

    # ------------------------------------------------------------------------------- lasting faults

    def blackhole(self, direction: Direction | None = None) -> None:
        """Stop forwarding silently: every link stays open.

        Bytes, FIN and RST are held back. New connections are accepted and reach the target when
        ``"up"`` is restored.
        """
        self._set(direction, "open", False)

    def restore(self, direction: Direction | None = None) -> None:
        """End :meth:`blackhole`: forwarding continues where it stopped, and no byte is lost."""
        self._set(direction, "open", True)

    def delay(self, ms: float, direction: Direction | None = None) -> None:
        """Delay all bytes that are read from now on by *ms* milliseconds; 0 ends the delay.

        Raises ``ValueError`` for a negative number.
        """
        self._set(direction, "delay", _at_least_0("ms", ms) / 1000)

    def throttle(self, bytes_per_second: float, direction: Direction | None = None) -> None:
        """Limit each link to *bytes_per_second*; 0 ends the limit.

        The sender experiences back-pressure.
        """
        self._set(direction, "rate", float(_at_least_0("bytes_per_second", bytes_per_second)))

    def truncate(self, size: int | None, direction: Direction = "up", then: Ending = "cut") -> None:
        """End the first link that forwards *size* more bytes in *direction*; None: no link.

        *then* decides how it ends: ``'cut'`` or ``'close'``, like the methods. The other links
        continue without the limit.
        """
        _check_direction(direction)
        if then not in ("cut", "close"):
            raise ValueError(f"then must be 'cut' or 'close', not {then!r}")
        truncation = None if size is None else (direction, int(_at_least_0("size", size)), then)
        self._do(lambda: self._relay.arm(truncation))

    def refuse(self) -> None:
        """Refuse new connections (RST), as if nothing listened on the port.

        The port stays reserved, and open links stay open.
        """
        self._do(self._relay.refuse)

    def stall(self) -> None:
        """Leave attempts to connect unanswered, so that they time out.

        Open links stay open. This works where the kernel drops attempts that do not fit into a
        listener's queue, as Linux does.
        """
        self._do(self._relay.stall)

    def accept(self) -> None:
        """Undo :meth:`refuse` and :meth:`stall`.

        A stalled client continues when its kernel retries, which takes a second or more.
        """
        self._do(self._relay.accept)

    def heal(self) -> None:
        """End all lasting faults, and let everything pass at once, including delayed bytes."""
        self.truncate(None)
        self.delay(0)
        self.throttle(0)
        self._do(self._relay.release)
        self.restore()
        self.accept()

    # ----------------------------------------------------------------------------------- its thread

    def free(self) -> None:
        """Cut all links and end the thread. Safe to call twice.

        Raises the exception that ended the thread, if there was one.
        """
        self._relay.stop()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            raise RuntimeError(f"{self!r}: the thread did not end")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            self._relay.run(self._run_commands)
        except Exception as exc:  # noqa: BLE001 - free() raises it
            _log.exception("%r failed", self)
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
            command.run()

    def _do(self, action: Callable[[], object]) -> None:
        """Run *action* in the proxy's thread and wait for it; raise what it raises."""
        command = _Command(action)
        with self._safe:
            if self._ended:
                return
            self._commands.append(command)
        self._relay.wake()
        if not command.done.wait(_PATIENCE):
            raise RuntimeError(f"{self!r} did not answer")
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
        raise ValueError(f"direction must be 'up', 'down' or None, not {direction!r}")


def _check_links(links: int | None) -> None:
    if links is not None and (isinstance(links, bool) or not isinstance(links, int) or links < 0):
        raise ValueError(
            f"links must be a whole number, at least 0, or None for all, not {links!r}"
        )


def _at_least_0(name: str, number: float) -> float:
    if (
        isinstance(number, bool)
        or not isinstance(number, (int, float))
        or not 0 <= number < math.inf
    ):
        raise ValueError(f"{name} must be a finite number, at least 0, not {number!r}")
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
    """Run one command line, e.g. ``delay 200 up``; return the answer, ``ok`` or ``error: …``.

    A command is the name of a method, followed by its arguments. ``status`` is answered with
    ``links … accepted … up … down …``.
    """
    name, *words = line.split() or [""]
    if name == "status":
        return (
            f"links {proxy.links} accepted {proxy.accepted} up {proxy.carried['up']} down"
            f" {proxy.carried['down']}"
        )
    kinds = _WORDS.get(name)
    if kinds is None or len(words) > len(kinds):
        return f"error: {line!r} is not a command; use status, stop, {', '.join(_WORDS)}"
    try:
        getattr(proxy, name)(*(kind(word) for word, kind in zip(words, kinds, strict=False)))
    except (TypeError, ValueError, OSError) as exc:
        return f"error: {exc}"
    return "ok"
