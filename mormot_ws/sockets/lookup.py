"""Looks up host names with a time limit, which the system's own look-up does not have."""

from __future__ import annotations

import socket
import threading
from queue import Empty, SimpleQueue
from typing import Any

from ..core.addresses import is_unix, unix_name
from ..core.names import dialled_host
from .deadline import Deadline, timed_out

#: the type of ``socket.getaddrinfo``'s result for one address
AddressInfo = tuple[Any, ...]


class LookUp:
    """The look-up of one host; any thread can end it with :meth:`stop`."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        #: the result, or the exception raised; None: stopped
        self._found: SimpleQueue[list[AddressInfo] | BaseException | None] = SimpleQueue()

    def addresses(self, deadline: Deadline) -> list[AddressInfo]:
        """Return the distinct addresses; raise ``OSError`` if there are none by the *deadline*.

        A look-up that takes longer is left to its own thread, which ends with it.
        """
        if is_unix(self._host):
            return [_unix_info(self._host)]
        try:
            name = dialled_host(self._host)
        except ValueError as exc:
            raise OSError(str(exc)) from None
        if _is_address(name):
            return _look_up(name, self._port)
        try:
            # a daemon thread: a name server that never answers must not prevent the interpreter
            # from exiting
            threading.Thread(
                target=self._work, args=(name,), name=f"look-up of {name}", daemon=True
            ).start()
        except RuntimeError as exc:
            raise OSError(f"{name} cannot be looked up: {exc}") from None
        left = deadline.seconds()
        try:
            result = self._found.get(
                timeout=None if left is None else min(left, threading.TIMEOUT_MAX)
            )
        except Empty:
            raise timed_out(f"no address for {name} in time: the look-up did not end") from None
        if result is None:
            raise ConnectionAbortedError("interrupted")
        if isinstance(result, OSError):
            raise result
        if isinstance(result, BaseException):
            raise OSError(f"{name} cannot be looked up: {type(result).__name__}: {result}")
        return result

    def stop(self) -> None:
        """Make :meth:`addresses` raise now. Any thread and any signal handler may call it."""
        self._found.put(None)

    def _work(self, name: str) -> None:
        try:
            self._found.put(_look_up(name, self._port))
        except BaseException as exc:  # noqa: BLE001
            # raised by addresses(), which waits for the result
            self._found.put(exc)


def _unix_info(address: str) -> AddressInfo:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(f"{address} cannot be reached: this Python has no Unix sockets")
    return (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", unix_name(address))


def in_order(addresses: list[AddressInfo], failed: dict[Any, None]) -> list[AddressInfo]:
    """Return *addresses* in the order of attempts: families in turn (RFC 8305 §4).

    Those that have *failed* come last, the oldest failure first.
    """
    if len(addresses) == 1:
        return list(addresses)
    by_family: dict[Any, list[AddressInfo]] = {}
    for info in addresses:
        by_family.setdefault(info[0], []).append(info)
    families = list(by_family.values())
    # the n-th of each family, in the order in which the system prefers the families
    order = [
        family[place]
        for place in range(max(map(len, families), default=0))
        for family in families
        if place < len(family)
    ]
    ages = {address: age for age, address in enumerate(failed)}
    return sorted(order, key=lambda info: ages.get(info[4], -1))


def _look_up(name: str, port: int) -> list[AddressInfo]:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        # a label of more than 63 characters, or an empty one
        raise OSError(f"{name!r} cannot be looked up: {exc}") from None
    return found if len(found) == 1 else list(dict.fromkeys(found))


def _is_address(host: str) -> bool:
    """Return whether *host* is an IP address, so that looking it up takes no time."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False
