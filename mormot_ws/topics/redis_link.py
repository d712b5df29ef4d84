"""RedisLink: a connection to Redis through redis-py.

One thread at a time uses it; any thread may stop it. It handles addresses, passwords and time-outs,
and turns failures into messages. No other module imports redis-py; this one is imported with the
first hub.
"""

from __future__ import annotations

import contextlib
import inspect
import socket
import ssl
from typing import Any

from redis import connection as redis_connection
from redis import exceptions as redis_errors

from ..errors import HubError, HubFull, HubRefused, HubUnavailable
from ..sockets.deadline import Deadline, timed_out
from ..sockets.dialling import Dialling
from ..sockets.tls_contexts import DefaultContext, TlsContext
from .redis_url import RedisUrl
from .redis_waiting import wait_readable

#: the oldest version of Redis with everything that the hub uses
_OLDEST = (6, 0)
_default_context = DefaultContext()

#: the first word of Redis's errors, and what it means
_REFUSALS = {
    "NOPERM": "the user lacks the permission",
    "READONLY": "it is a replica, which accepts no writes",
    "MISCONF": "it accepts no writes, because it cannot save them to disk",
    "NOREPLICAS": "it accepts no writes, because it has too few replicas",
    "MOVED": "it is a node of a Redis Cluster, and the topic is on another node",
    "CROSSSLOT": "it is a Redis Cluster that cannot run the script",
}
_ABSENCES = {
    "WRONGPASS": "rejected the login: the user name or password is wrong",
    "NOAUTH": "rejected the login: it requires a password",
    "LOADING": "is still loading its data",
    "BUSY": "is busy with another script",
    "MASTERDOWN": "is a replica that has lost its master",
    "CLUSTERDOWN": "is in a cluster that is down",
}


class _Connection(redis_connection.Connection):
    """A connection of redis-py, on a socket that can be stopped while it connects."""

    def __init__(self, link: RedisLink, **arguments: Any) -> None:
        self._link = link
        super().__init__(**arguments)  # type: ignore[no-untyped-call]

    def _connect(self) -> socket.socket:
        return self._link.dial()


def _optional(**arguments: Any) -> dict[str, Any]:
    """Return the *arguments* that this version of redis-py accepts."""
    known = inspect.signature(redis_connection.AbstractConnection.__init__).parameters
    return {name: value for name, value in arguments.items() if name in known}


class RedisLink:
    """A connection, in one OS process.

    :param url: the address.
    :param tls_context: a context, a function that returns one, or None for the default.
    """

    def __init__(self, url: RedisUrl, tls_context: TlsContext | None) -> None:
        self.url = url
        self._tls_context = tls_context
        self._deadline = Deadline(0)
        self._dialling = Dialling(url.host, url.port, {})
        #: from dial() on
        self._socket: socket.socket | None = None
        self._stopped = False
        #: the run of Redis at the other end; a restarted Redis has another one
        self.run = ""
        self._redis: Any = _Connection(
            self,
            host=url.host,
            port=url.port,
            db=url.database,
            username=url.user or None,
            password=url.password or None,
            protocol=2,
            # every wait has a deadline, and redis-py must not retry by itself
            **_optional(driver_info=None, retry=None, legacy_responses=True),
        )

    def dial(self) -> socket.socket:
        """Return a new connected socket. Called by redis-py."""
        deadline = self._deadline
        sock, _ = self._dialling.connect(deadline, deadline)
        try:
            if sock.family != getattr(socket, "AF_UNIX", None):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(_seconds(deadline))
            if self.url.tls:
                given = self._tls_context
                context = given() if callable(given) else given or _default_context.get()
                plain, sock = (
                    sock,
                    context.wrap_socket(
                        sock, server_hostname=self.url.host, do_handshake_on_connect=False
                    ),
                )
                # the descriptor belongs to the new socket
                self._dialling.taken(plain)
                self._socket = sock
                self._check_running()
                sock.do_handshake()
            self._socket = sock
            self._dialling.taken(sock)
            self._check_running()
        except BaseException:
            sock.close()
            raise
        return sock

    def _check_running(self) -> None:
        if self._stopped:
            raise ConnectionAbortedError("stopped")

    def connect(self, deadline: Deadline) -> None:
        """Connect, log in and identify the Redis, within the *deadline*.

        Raises ``HubError``.
        """
        self._deadline = deadline
        try:
            self._redis.connect()
            self._set_timeout(deadline)
            self._redis.send_command("INFO", "server")
            info = self._redis.read_response()
        except Exception as exc:
            self.close()
            raise self._failed(exc) from exc
        self._read_info(info)

    def _read_info(self, info: object) -> None:
        text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        self.run = lines.get("run_id", "").strip()
        version = lines.get("redis_version", "").strip()
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if not self.run or not self.run.isalnum() or len(numbers) < 2 or numbers < _OLDEST:
            self.close()
            oldest = ".".join(map(str, _OLDEST))
            said = f"has version {version:.20}" if version else "does not report its version"
            raise HubRefused(f"{self.url.shown} {said}: {oldest} or newer is required")

    def request(self, deadline: Deadline, *commands: tuple[Any, ...]) -> list[Any]:
        """Send *commands* together and return their answers, within the *deadline*.

        The answers may be errors of redis-py. Raises ``HubError`` if the connection is lost;
        ``maybe_published`` is True once something may have been sent.
        """
        sent = False
        try:
            self._set_timeout(deadline)
            packed = b"".join(map(_packed, commands))
            sent = True
            self._redis.send_packed_command([packed], check_health=False)
            return [self._answer(deadline) for _ in commands]
        except Exception as exc:
            self.close()
            raise self._failed(exc, sent) from exc
        except BaseException:
            # e.g. Ctrl-C: an answer may still arrive and would be taken for that of a later command
            self.close()
            raise

    def lacks_script(self, answer: object) -> bool:
        """Return whether *answer* says that Redis does not know a script."""
        return isinstance(answer, redis_errors.NoScriptError)

    def is_read_only(self, answer: object) -> bool:
        """Return whether *answer* says that this is a replica."""
        return isinstance(answer, redis_errors.ReadOnlyError)

    def explained(self, answer: Exception) -> HubError:
        """Return the hub's error for an *answer*."""
        return explained(self.url, answer)

    def _answer(self, deadline: Deadline) -> Any:
        self._set_timeout(deadline)
        try:
            return self._redis.read_response(disable_decoding=True)
        except redis_errors.ResponseError as exc:
            return exc

    def send(self, deadline: Deadline, *command: Any) -> None:
        """Send a command whose answer :meth:`receive` reads. Raises ``HubError``."""
        try:
            self._set_timeout(deadline)
            self._redis.send_command(*command, check_health=False)
        except Exception as exc:
            self.close()
            raise self._failed(exc) from exc

    def receive(self, deadline: Deadline) -> Any:
        """Return a message, or None if there is none.

        If only a part of it has arrived, wait for the rest until the *deadline*. Raises
        ``HubError``.
        """
        try:
            if not self._redis.can_read(0):
                return None
            self._set_timeout(deadline)
            return self._redis.read_response(disable_decoding=True)
        except Exception as exc:
            self.close()
            raise self._failed(exc) from exc

    def _set_timeout(self, deadline: Deadline) -> None:
        if self._socket is None:
            raise ConnectionError("not connected")
        self._socket.settimeout(_seconds(deadline))

    def fileno(self) -> int:
        """Return the descriptor, for waiting; -1 if closed."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def is_idle(self) -> bool:
        """False if an idle connection has ended, or has received unrequested data."""
        if self._socket is None or self._stopped:
            return False
        try:
            return not wait_readable([self._socket.fileno()], 0)
        except (OSError, ValueError):
            return False

    def stop(self) -> None:
        """Make calls that wait for this connection fail at once. Any thread may call it."""
        self._stopped = True
        self._dialling.stop()
        sock = self._socket
        if sock is not None:
            # OSError: it has already ended
            with contextlib.suppress(OSError):
                # of the plain socket: TLS would want to say goodbye first
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. Called by the thread that uses it."""
        sock, self._socket = self._socket, None
        self._redis.disconnect()
        if sock is not None:
            sock.close()

    def die_in_child(self) -> None:
        """In a forked child: only close the copy of the descriptor."""
        self._stopped = True
        self._dialling.die_in_child()
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _failed(self, exc: Exception, sent: bool = False) -> HubError:
        if self._stopped:
            return HubUnavailable("the hub was freed", sent)
        return explained(self.url, exc, sent)


def _packed(command: tuple[Any, ...]) -> bytes:
    """Return *command*, words and integers, encoded for Redis. Faster than redis-py."""
    parts = [b"*%d\r\n" % len(command)]
    for word in command:
        if isinstance(word, str):
            word = word.encode()
        elif not isinstance(word, bytes):
            word = b"%d" % word
        parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)


def explained(url: RedisUrl, exc: Exception, maybe_published: bool = False) -> HubError:
    """Return the hub's error for *exc*, raised by redis-py, TLS or the network."""
    if isinstance(exc, HubError):
        return exc
    cause = exc if isinstance(exc, OSError) else exc.__cause__ or exc.__context__
    if isinstance(exc, (redis_errors.ResponseError, redis_errors.AuthenticationError)) or (
        not isinstance(cause, OSError) and isinstance(exc, redis_errors.ConnectionError)
    ):
        return _answered(url, str(exc), exc, maybe_published)
    if isinstance(exc, (redis_errors.TimeoutError, TimeoutError)) or isinstance(
        cause, TimeoutError
    ):
        text = "did not answer in time"
        if isinstance(cause, OSError) and str(cause) and "address" in str(cause):
            text = f"could not be looked up in time: {cause}"
    elif isinstance(cause, ssl.SSLCertVerificationError):
        text = f"has an invalid certificate: {cause.verify_message}"
    elif isinstance(cause, ssl.SSLError):
        text = f"failed the TLS handshake: {cause}"
    elif isinstance(cause, OSError):
        text = f"cannot be reached: {cause.strerror or cause}"
    else:
        text = f"failed: {exc}"
    return HubUnavailable(f"{url.shown} {text}", maybe_published)


def _answered(url: RedisUrl, text: str, exc: Exception, maybe_published: bool) -> HubError:
    """Return the hub's error for an error that Redis answered, or for a closed connection."""
    if "uthentication required" in text:
        text = f"NOAUTH {text}"
    for code, words in _ABSENCES.items():
        if text.startswith(code) or type(exc).__name__ == _CLASSES.get(code):
            return HubUnavailable(f"{url.shown} {words}")
    if isinstance(exc, redis_errors.OutOfMemoryError) or text.startswith("OOM"):
        return HubFull(f"{url.shown} is out of memory")
    for code, words in _REFUSALS.items():
        if text.startswith(code) or type(exc).__name__ == _CLASSES.get(code):
            return HubRefused(f"{url.shown} refused: {words} ({text})")
    if isinstance(exc, redis_errors.ResponseError):
        return HubRefused(f"{url.shown} refused: {text}")
    return HubUnavailable(f"{url.shown} closed the connection: {text}", maybe_published)


#: redis-py removes the code and uses a class instead
_CLASSES = {
    "NOPERM": "NoPermissionError",
    "READONLY": "ReadOnlyError",
    "LOADING": "BusyLoadingError",
    "WRONGPASS": "AuthenticationError",
}


def _seconds(deadline: Deadline) -> float:
    """Return the time left, for a socket; raise if there is none."""
    left = deadline.seconds()
    assert left is not None
    if left <= 0:
        raise timed_out("did not answer in time")
    return left
