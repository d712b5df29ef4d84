"""Names become addresses, within a bound: the system's own look-up has none that we could set."""

from __future__ import annotations

import socket
import threading
from queue import Empty, SimpleQueue
from typing import Any

from .deadline import Deadline

#: what ``socket.getaddrinfo`` returns for one address
AddressInfo = tuple[Any, ...]


def resolve(host: str, port: int, deadline: Deadline) -> list[AddressInfo]:
    """Return the addresses of *host*; raise ``OSError`` when there are none until the *deadline*.

    A look-up that takes longer is left to its own thread, which ends with it.
    """
    if _is_address(host):
        return _look_up(host, port)
    found: SimpleQueue[list[AddressInfo] | OSError] = SimpleQueue()

    def work() -> None:
        try:
            found.put(_look_up(host, port))
        except OSError as exc:
            found.put(exc)

    # daemon: a name server that never answers must not keep the interpreter from ending
    threading.Thread(target=work, name=f"look-up of {host}", daemon=True).start()
    try:
        result = found.get(timeout=deadline.seconds())
    except Empty:
        raise TimeoutError(f"no address for {host} in time: the look-up did not end") from None
    if isinstance(result, OSError):
        raise result
    return result


def _look_up(host: str, port: int) -> list[AddressInfo]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except UnicodeError as exc:
        # a label of more than 63 characters, or an empty one
        raise OSError(f"{host!r} cannot be looked up: {exc}") from None


def _is_address(host: str) -> bool:
    """Tell whether *host* is an address already, so that looking it up cannot take time."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False
