"""The file of a listening Unix socket: created, and removed if it is still ours.

If a server is killed, its socket file stays behind, and prevents the next one from listening. A
file on which nobody listens is removed; one in use, or that is not a socket, is not touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial

from ..logs import get_logger
from ..sockets.systems import system_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_log = get_logger("mormot_ws.server")

#: seconds that a server waits for another one that starts or stops in the same directory, and
#: between two checks
_LOCK_SECONDS = 1.0
_LOCK_STEP = 0.01


class UnixFile:
    """The file *path* of a Unix socket."""

    def __init__(self, path: str) -> None:
        # the working directory may be different when the file is removed
        self.path = os.path.abspath(path)
        #: device and number of the file that we created; None: there is nothing to remove
        self._made: tuple[int, int] | None = None

    def listen(self, sock: socket.socket, backlog: int, mode: int | None) -> None:
        """Bind *sock* to the file, and listen.

        :param mode: the permissions of the file; None: determined by the umask.

        Raises ``OSError``, with ``EADDRINUSE`` if another server is listening there.
        """
        with _locked(os.path.dirname(self.path)):
            self._remove_stale()
            sock.bind(self.path)
            self._made = _identity(self.path)
            try:
                # nobody can connect before listen(), so there is no moment with other permissions
                if mode is not None:
                    os.chmod(self.path, mode)
                sock.listen(backlog)
            except BaseException:
                self._remove()
                raise

    def remove(self) -> None:
        """Remove the file, unless it belongs to another server by now. Safe to call twice.

        Call it while the socket is open: then no other file can have its number.
        """
        if self._made is not None:
            with _locked(os.path.dirname(self.path)):
                self._remove()

    def leave(self) -> None:
        """Leave the file to the parent, in a forked child."""
        self._made = None

    def _remove(self) -> None:
        made, self._made = self._made, None
        try:
            if made is not None and _identity(self.path) == made:
                os.unlink(self.path)
        except FileNotFoundError:
            pass  # it has already been removed, as intended
        except OSError as exc:
            _log.warning("the socket file %s cannot be removed: %s", self.path, exc)

    def _remove_stale(self) -> None:
        """Remove a socket on which nobody listens; raise ``OSError`` for anything else."""
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            code = probe.connect_ex(self.path)
        if code == errno.ECONNREFUSED:
            os.unlink(self.path)
            _log.info("removed %s, a socket on which nobody was listening", self.path)
        elif code != errno.ENOENT:
            # it is in use, has a full queue, or refuses to be asked
            taken = code if code in (errno.EACCES, errno.EPERM) else errno.EADDRINUSE
            raise system_error(taken)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Let one server at a time check, create and remove socket files in *directory*.

    Without it, if two servers start at the same time, the second could mistake the first one's new
    file for one on which nobody listens. If the lock is not available within a second, continue
    without it.
    """
    handle = -1
    try:
        if fcntl is not None:
            handle = os.open(directory, os.O_RDONLY)
            _take_turn(partial(fcntl.flock, handle, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except OSError as exc:
        _log.debug("no lock on %s: %s", directory, exc)
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _take_turn(lock: Callable[[], None]) -> None:
    """Call *lock* until it does not raise ``BlockingIOError``, or for a second."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            lock()
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            # another OS process has it for a moment, and does not report when it gives it back
            time.sleep(_LOCK_STEP)
