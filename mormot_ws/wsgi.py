"""WebSocketWsgiServer: a WebSocket server inside a WSGI application.

The WSGI server accepts the connection, reads the request and lends us its thread. simple-websocket
finds the socket, which each WSGI server keeps in a different place. After the 101 answer, the
connection is ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from threading import current_thread
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import quote

import simple_websocket

from .callbacks import check_callback
from .core.forks import dies_in_child
from .core.handshake import UpgradeRequest
from .logs import get_logger
from .process.freeing import close_all_now, close_at_exit, stay_at_exit
from .protocols.base import WebSocketProtocol
from .server.base import WebSocketServerBase
from .server.connection import WebSocketServerSocket
from .settings import WebSocketProcessSettings
from .sockets.deadline import Deadline
from .status import ServerStatus

_log = get_logger("mormot_ws.wsgi")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApplication = Callable[[Environ, StartResponse], Iterable[bytes]]

#: the signals that ask an OS process to end, if this system has them
_ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGBREAK")
    if hasattr(signal, name)
)
#: the WSGI servers whose threads may stay with a connection
_THREADED = ("werkzeug", "gunicorn")


class _NoThread:
    """Replaces simple-websocket's reading thread and does nothing."""

    def __init__(self, target: Callable[[], None]) -> None:
        self.name = ""

    def start(self) -> None:
        """Do nothing: the socket is ours."""


class _Taken(simple_websocket.Server):  # type: ignore[misc]  # it has no types
    """Finds the socket of a request (``sock``) and the kind of WSGI server (``mode``)."""

    def handshake(self) -> None:
        self.connected = True


class _Refusal(Exception):
    """Raised to refuse an upgrade with an HTTP status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class WebSocketWsgiSocket(WebSocketServerSocket):
    """One connection taken over from a WSGI server; passed to the server's events."""

    def __init__(
        self, server: WebSocketWsgiServer, sock: socket.socket, environ: Environ, connection_id: int
    ) -> None:
        super().__init__(server, sock, (str(environ.get("REMOTE_ADDR") or ""),), connection_id)
        #: the WSGI environment of the request that was upgraded
        self.environ = environ

    def serve(self, protocol: WebSocketProtocol, answer: bytes, unread: bytes) -> None:
        """Upgrade, run the connection to its end, and shut the socket down for all writers."""
        transport = self._open_transport()
        try:
            self._run_process(self._accept(transport, protocol, answer, unread))
        except OSError as exc:
            self._log_end(exc)
        # the WSGI server would turn it into an HTTP answer, but it is too late to send one
        except BaseException:
            # it has to end a child that a callback has forked
            if self._inherited:
                raise
            fields = {"connection_id": self.connection_id, "remote_ip": self.remote_ip}
            _log.exception("#%d from %s failed", self.connection_id, self.remote_ip, extra=fields)
        finally:
            # the WSGI server still has its own descriptor of the socket, and would send an HTTP
            # answer after our last frame
            transport.shutdown()
            transport.close()


class WebSocketWsgiServer(WebSocketServerBase):
    """A WebSocket server inside a WSGI application, and a WSGI application itself.

    Call it with the requests that are to become WebSockets.

    :param process_name: a name for the connections in log lines.
    :param settings: ``WebSocketProcessSettings``; by default a new one. ``handshake_timeout``,
        ``keep_alive_timeout``, ``max_header_bytes`` and ``max_body_bytes`` are ignored, because the
        WSGI server reads the requests.

    Add protocols to ``websocket_protocols``; the events are those of ``WebSocketServer``. A Flask
    view returns this object (``return websockets``). Elsewhere, use it like any WSGI application,
    or put it in front of one with :meth:`wrap`.

    A connection occupies the thread of its request until it ends. The WSGI server must therefore
    use threads (werkzeug with ``threaded=True``, gunicorn's ``gthread``): one for each connection,
    and more for other requests. Each OS process of the WSGI server has its own object, which
    numbers, counts and broadcasts to its own connections only.

    As a context manager it calls ``free()``. If it is not freed, it closes its connections when the
    interpreter exits. See :meth:`close_on_signals` for WSGI servers that shut down differently.
    """

    def __init__(
        self, process_name: str = "", *, settings: WebSocketProcessSettings | None = None
    ) -> None:
        super().__init__(process_name or "WebSocketWsgiServer", process_name, settings)
        close_at_exit(self)
        _close_before_pools()
        dies_in_child(self)

    def _clear(self) -> None:
        super()._clear()
        #: notified when a connection has ended; guards no data. It is reentrant because free() may
        #: be called in a signal handler
        self._ended = threading.Condition()

    def die_in_child(self) -> None:
        """Discard the parent's connections in a forked child, and start afresh.

        Such a child is a worker whose parent loaded the application before it forked.
        """
        super().die_in_child()
        if not self._freed:
            self._begin_afresh()
            stay_at_exit(self)

    # ----------------------------------------------------------------------------- for WSGI servers

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request: run an upgraded connection to its end, or refuse the request.

        Called by the WSGI server; the connection keeps the calling thread. A request that is not
        an upgrade is answered with 426 or 404.
        """
        request = _request_of(environ)
        headers: list[tuple[str, str]] = []
        try:
            if not request.is_upgrade:
                served = self.websocket_protocols.serves_uri(request.path)
                raise _Refusal(
                    426 if served else 404,
                    f"This is {self.description}; connect to it with a WebSocket client.",
                )
            self._serve(environ, request)
            # only for the WSGI server's log: nothing can be written to the connection
            start_response("101 Switching Protocols", [])
            return []
        except _Refusal as refusal:
            status, body = refusal.status, f"{refusal.text}\n".encode() if refusal.text else b""
        if status == 426:
            headers = [("Sec-WebSocket-Version", "13")]
        elif status == 401:
            headers = [("WWW-Authenticate", "Bearer")]
        content = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
        ]
        start_response(f"{status} WebSocket Upgrade Error", headers + content)
        return [body]

    def wrap(self, application: WsgiApplication) -> WsgiApplication:
        """Return a WSGI application that serves upgrades, and passes the rest to *application*.

        Raises ``TypeError`` if it is not a WSGI application, for example an ASGI one.
        """
        check_callback(application, "application", "environ", "start_response")

        def wrapped(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            served_by = self if _request_of(environ).is_upgrade else application
            return served_by(environ, start_response)

        return wrapped

    def _serve(self, environ: Environ, request: UpgradeRequest) -> None:
        """Run an upgraded connection to its end.

        Raises ``_Refusal``.
        """
        taken = _take(environ)
        connection_id = self._next_connection_id()
        connection = WebSocketWsgiSocket(self, taken.sock.dup(), environ, connection_id)
        connection.served_by(current_thread())
        refused = self._admit(connection)
        try:
            if refused:
                self._tell_turned_away(connection, refused)
                raise _Refusal(503, refused)
            status, why = connection._admission(request)
            if status:
                raise _Refusal(status, why)
            status, protocol, answer = connection._negotiate(request)
            if protocol is None:
                text = answer.partition(b"\r\n\r\n")[2].decode().strip()
                raise _Refusal(status, text)
            connection.serve(protocol, answer, _read_ahead(environ, taken))
            if connection._inherited:
                _end_child(None)
        except BaseException as exc:
            if connection._inherited:
                _end_child(exc)
            raise
        finally:
            connection._sock.close()
            self._forget(connection)

    # ------------------------------------------------------------------------------------- public

    def status(self) -> ServerStatus:
        """Return a snapshot of the connections of this OS process, for monitoring.

        ``host`` and ``port`` are empty, because the WSGI server does the listening.
        """
        return self._status("", 0)

    def close_on_signals(self, *numbers: int) -> None:
        """Close all connections with 1001 as soon as a signal asks this OS process to end.

        The signals are SIGTERM, SIGINT and SIGQUIT (on Windows SIGBREAK), or *numbers*.

        Without this, gunicorn first waits for the connections until its ``graceful_timeout``.
        Existing handlers are still called, so call this after the WSGI server has installed its
        own: in gunicorn's ``post_worker_init``, or while it loads the application (without
        ``preload_app``). Call it in the main thread; other threads get a ``ValueError``.
        """
        for number in numbers or _ENDING:
            previous = signal.getsignal(number)
            if previous is not signal.SIG_IGN:
                signal.signal(number, partial(self._signalled, previous))

    def __repr__(self) -> str:
        name = f"{self.process_name} " if self.process_name else ""
        state = "stopped" if self._stopping else "running"
        return f"<WebSocketWsgiServer {name}{state} connections={self.websocket_connections}>"

    # ------------------------------------------------------------------------------------- internal

    def _forget(self, connection: WebSocketServerSocket) -> None:
        super()._forget(connection)
        with self._ended:
            self._ended.notify_all()

    def _wait_ended(
        self, connections: Iterable[WebSocketServerSocket], deadline: Deadline
    ) -> list[WebSocketServerSocket]:
        # their threads belong to the WSGI server, which goes on to use them for other requests
        waited_for = set(connections)
        with self._ended:
            self._ended.wait_for(lambda: waited_for.isdisjoint(self._sockets), deadline.seconds())
            return [connection for connection in self._sockets if connection in waited_for]

    def _signalled(self, previous: Any, number: int, frame: FrameType | None) -> None:
        """Handle a signal: a new thread closes the connections.

        This runs in the main thread, which may hold any lock.
        """
        again = not callable(previous)
        if again:
            signal.signal(number, signal.SIG_DFL)
        # a daemon thread, because the OS process is about to end
        goodbyes = threading.Thread(
            target=self._say_goodbye_before,
            args=(number if again else 0,),
            name="goodbyes",
            daemon=True,
        )
        try:
            goodbyes.start()
        except RuntimeError:  # no new thread can be started
            goodbyes.run()
        if callable(previous):
            previous(number, frame)

    def _say_goodbye_before(self, number: int) -> None:
        self.begin_exit()
        # there is no other handler: let the signal end the OS process, as it would without us
        if number:
            self.end_exit(Deadline(2 * self.settings.close_timeout))
            signal.raise_signal(number)


_before_pools = False


def _close_before_pools() -> None:
    """Close the connections before the exiting interpreter waits for thread pools.

    gunicorn's threads are in such a pool. There is no public way to be called before that wait, and
    without the private one the OS process would wait for the clients.
    """
    global _before_pools
    register = getattr(threading, "_register_atexit", None)
    if register is not None and not _before_pools:
        # this import registers the pools' own function: the last one registered is called first
        import concurrent.futures.thread  # noqa: F401

        register(close_all_now)
        _before_pools = True


def _request_of(environ: Environ) -> UpgradeRequest:
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        target = quote(
            str(environ.get("SCRIPT_NAME", "")) + str(environ.get("PATH_INFO", "")),
            encoding="latin-1",
        )
        if environ.get("QUERY_STRING"):
            target += "?" + str(environ["QUERY_STRING"])
    headers = [
        (key[5:].replace("_", "-").lower(), str(value))
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
    version = str(environ.get("SERVER_PROTOCOL", "")).removeprefix("HTTP/")
    return UpgradeRequest(str(environ.get("REQUEST_METHOD", "")), str(target), version, headers)


def _take(environ: Environ) -> Any:
    """Return the request's socket and its WSGI server, as simple-websocket finds them.

    Raises ``_Refusal`` if a WebSocket is not possible there.
    """
    try:
        taken = _Taken(environ, thread_class=_NoThread)
    except RuntimeError:
        software = environ.get("SERVER_SOFTWARE") or "this WSGI server"
        raise _unable(f"{software} does not give access to its sockets") from None
    if isinstance(taken.sock, ssl.SSLSocket):
        raise _unable(
            "the WSGI server terminates TLS itself, so its connection cannot be taken over; "
            "terminate TLS in a front end (e.g. nginx)"
        )
    if taken.mode not in _THREADED or type(taken.sock) is not socket.socket:
        raise _unable(f"a server with real threads is needed, not {taken.mode} with green threads")
    if not environ.get("wsgi.multithread"):
        raise _unable(
            "the WSGI server runs without threads: one connection would block it completely "
            "(gunicorn: --threads)"
        )
    if environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ:
        raise _Refusal(400, "an upgrade request must not have a body")
    return taken


def _end_child(exc: BaseException | None) -> NoReturn:
    """End a child that a callback has forked, as *exc* would; None: the callback returned.

    The WSGI server must not get it back: in a child, its code would write an HTTP answer to the
    parent's connection, or shut it down, and its pool of threads would wait forever.
    """
    code: object = 0
    if isinstance(exc, SystemExit):
        code = exc.code or 0
        if not isinstance(code, int) and sys.stderr is not None:
            sys.stderr.write(f"{code}\n")
    elif exc is not None:
        code = 1
        sys.excepthook(type(exc), exc, exc.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # a closed stream has nothing to write
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code & 0xFF if isinstance(code, int) else 1)


def _unable(why: str) -> _Refusal:
    _log.error("no WebSocket here: %s", why)
    return _Refusal(501, why)


def _read_ahead(environ: Environ, taken: Any) -> bytes:
    """Return the bytes that the WSGI server has read beyond the request.

    They are the first frames of a client that does not wait for the answer.
    """
    source = environ.get("wsgi.input")
    if taken.mode == "gunicorn":
        unreader = getattr(getattr(source, "reader", None), "unreader", None)
        buffer = getattr(unreader, "buf", None)
        return b"" if buffer is None else bytes(buffer.getvalue())
    peek = getattr(source, "peek", None)
    if peek is None:
        return b""
    # read without waiting; the transport makes the socket blocking again
    taken.sock.setblocking(False)
    try:
        return bytes(peek())
    except OSError:
        return b""  # the connection has ended: the loop will notice it too


__all__ = ["WebSocketWsgiServer", "WebSocketWsgiSocket"]
