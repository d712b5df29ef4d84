"""ByteCarrier: what a connection needs from the object that carries its bytes.

Subclasses implement its methods, on a socket in ``on_socket.py``. No frame, lock or thread belongs
in here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..attributes import CheckedAttributes
from ..sockets.deadline import Deadline


class ByteCarrier(CheckedAttributes, ABC):
    """Reads and writes the bytes of one connection."""

    @abstractmethod
    def receive_bytes(self, size: int) -> bytes:
        """Return up to *size* bytes from the peer; ``b''`` at the end of the stream.

        Raises ``OSError`` if the connection is broken.
        """

    @abstractmethod
    def receive_now(self, size: int) -> bytes | None:
        """Do the same without waiting; None: no bytes are there, or the connection is broken."""

    @abstractmethod
    def write_bytes(self, data: bytes) -> None:
        """Write all of *data*; raise ``OSError`` if that fails. Called under ``safe_out``."""

    def write_parts(self, header: bytes, payload: bytes) -> None:
        """Write a large frame; may avoid joining its parts. Called under ``safe_out``."""
        self.write_bytes(header + payload)

    @abstractmethod
    def write_now(self, data: bytes | memoryview) -> int:
        """Write what is possible without waiting; return its size. Called under ``safe_out``."""

    def wait_writable(self, deadline: Deadline) -> bool:
        """Wait until :meth:`write_now` may continue; return False if the *deadline* comes first.

        Called under ``safe_out``.
        """
        return False

    def waits_for_input(self) -> bool:
        """Return whether :meth:`write_now` accepted nothing although the socket is not full.

        Then readiness of the socket is meaningless.
        """
        return False

    def unsent_bytes(self) -> int:
        """Return how many of the bytes accepted by :meth:`write_now` are still unsent.

        They would be lost with the connection.
        """
        return 0

    def output_state(self) -> tuple[int, int] | None:
        """Return how many bytes the peer's kernel has acknowledged, and how many are in flight.

        None if the kernel does not report this.
        """
        return None

    def received_bytes(self) -> int | None:
        """Return how many bytes our kernel has received from the peer, read or not.

        None if it does not report this.
        """
        return None

    def end_output(self) -> bool:
        """Send the end of our stream, and leave the peer's open; return False to be called again.

        Any thread may call it when nothing more is written; it must neither wait nor raise.
        """
        return True

    @abstractmethod
    def interrupt(self) -> None:
        """Break the connection, so that reads and writes in other threads return.

        Any thread may call it; it must not raise.
        """

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor to wait for; −1 if there is none."""

    @abstractmethod
    def finish(self) -> None:
        """Close the transport after the last read. Called in the loop's thread."""

    def keeps_queue(self) -> bool:
        """Return whether frames may be queued while the connection is not running."""
        return False
