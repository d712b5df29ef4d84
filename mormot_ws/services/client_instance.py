"""ClientInstance: what a client knows of an object of a service on the server.

Used in the threads that call the object, and in their finalisers and signal handlers.
"""

from __future__ import annotations

import threading


class ClientInstance:
    """A client's knowledge of an object of a service on the server."""

    def __init__(self) -> None:
        #: the number of the object; 0: not known yet
        self.number = 0
        #: held while an object is requested from the server; reentrant, because a finaliser or
        #: signal handler may call the same object at any moment
        self.asking = threading.RLock()

    def is_numbered(self, number: int) -> bool:
        """Keep the *number* assigned by the server; return False if there already is one."""
        # no call between these two: a finaliser may call the object at any other moment
        if self.number:
            return False
        self.number = number
        return True

    def is_freed(self) -> int:
        """Forget the number, and return it."""
        number, self.number = self.number, 0
        return number
