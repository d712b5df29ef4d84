"""Metrics: exports the counters of servers, clients and hubs to Prometheus.

It needs the extra ``metrics``. Each scrape takes the snapshots of ``status()``. Nothing is measured
in between, so handling messages costs nothing extra.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from typing import Any

from .attributes import IS_TEXT
from .client.client import HttpClientWebSockets
from .errors import WebSocketsError
from .front.connection import Connection
from .front.server import Server
from .processes.processes import ServerProcesses
from .request import HttpServerRequest
from .server.accepting import ListeningServer
from .server.base import WebSocketServerBase
from .status import ClientStatus, ServerStatus
from .topics.hub import Hub
from .topics.protocol import WebSocketProtocolTopics

try:
    from prometheus_client import CollectorRegistry, exposition
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as exc:
    raise ImportError(
        "mormot_ws.metrics needs prometheus-client: pip install 'mormot_ws[metrics]'"
    ) from exc

#: name, attribute of the status, description; the counters first
_Row = tuple[str, str, str]
_SERVER_COUNTERS: tuple[_Row, ...] = (
    ("accepted", "accepted", "TCP connections accepted"),
    ("turned_away", "turned_away", "TCP connections turned away by a limit"),
    ("upgraded", "upgraded", "Upgrades accepted"),
    ("refused", "refused", "Upgrades refused"),
    ("messages_received", "frames_in", "Messages received"),
    ("messages_sent", "frames_out", "Messages sent"),
    ("received_bytes", "bytes_in", "Payload bytes received"),
    ("sent_bytes", "bytes_out", "Payload bytes sent"),
    ("queue_lost", "queue_lost", "Messages refused or dropped because of full queues"),
)
_SERVER_GAUGES: tuple[_Row, ...] = (
    ("connections", "connections", "Current WebSocket connections"),
    ("sockets", "sockets", "Current TCP connections"),
)
_CLIENT_COUNTERS: tuple[_Row, ...] = (
    ("reconnects", "reconnects", "How often the connection was re-established"),
)
_CLIENT_GAUGES: tuple[_Row, ...] = (
    ("connected", "connected", "1 while frames can be sent"),
    ("attempts", "attempts", "Attempts to reconnect since the connection was lost"),
)
_CONNECTION_COUNTERS: tuple[_Row, ...] = (
    ("messages_received", "frames_in", "Messages received"),
    ("messages_sent", "frames_out", "Messages sent"),
    ("received_bytes", "bytes_in", "Payload bytes received"),
    ("sent_bytes", "bytes_out", "Payload bytes sent"),
)
_QUEUES: tuple[_Row, ...] = (
    ("queued_messages", "queued_frames", "Messages that wait to be sent"),
    ("queued_bytes", "queued_bytes", "Payload bytes that wait to be sent"),
)
_HUB_COUNTERS: tuple[_Row, ...] = (
    ("published", "published", "Publications by this OS process"),
    ("repeated", "repeated", "Repeated publications that were recognised"),
    ("delivered", "delivered", "Publications delivered to subscribers"),
    ("lost", "lost", "How often a loss was reported to subscribers"),
    ("reconnects", "reconnects", "How often the connection to the hub was re-established"),
)
_HUB_GAUGES: tuple[_Row, ...] = (
    ("connected", "connected", "1 while the hub can publish"),
    ("topics", "topics", "Topics known to this OS process"),
    ("subscribers", "subscribers", "Subscribers in this OS process"),
    ("members", "members", "Members that this OS process has joined to topics"),
    ("kept", "kept", "Publications kept in this OS process's memory"),
)
_TOPICS_COUNTERS: tuple[_Row, ...] = (
    ("published", "published", "Publications of clients that the hub accepted"),
    ("repeated", "repeated", "Publications of clients that the hub had already seen"),
    ("refused", "refused", "Publications of clients that were refused"),
    ("unavailable", "unavailable", "Requests of clients while the hub was unavailable"),
    ("delivered", "delivered", "Publications queued for clients"),
    ("recovered", "recovered", "Subscriptions that continued without a loss"),
    ("unrecovered", "unrecovered", "Subscriptions that continued with a loss"),
    ("slow", "slow", "How often a client was skipped or closed because it did not read"),
    ("taken_over", "taken_over", "Connections replaced by a newer one of the same session"),
)
_TOPICS_GAUGES: tuple[_Row, ...] = (
    ("topics", "topics", "Topics with subscribers"),
    ("sessions", "sessions", "Connections that use topics"),
    ("subscriptions", "subscriptions", "Subscriptions of all connections"),
)
_QUANTILES = (0.5, 0.99, 1.0)

#: objects whose status can be exported
Watched = (
    WebSocketServerBase
    | Server
    | ServerProcesses
    | HttpClientWebSockets
    | Connection
    | Hub
    | WebSocketProtocolTopics
)
#: the kinds, by their names in the metrics
_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("server", (WebSocketServerBase, Server, ServerProcesses)),
    ("client", (HttpClientWebSockets, Connection)),
    ("hub", (Hub,)),
    ("topics", (WebSocketProtocolTopics,)),
)


class Metrics(Collector):
    """A collector for ``prometheus_client``, and an HTTP handler for scrapes.

    :param registry: the registry that this collector is added to and that :meth:`text` shows, e.g.
        ``prometheus_client.REGISTRY``, with the metrics of Python and of your application; None: a
        new one.

    All methods are thread-safe.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        #: name and object of each kind; replaced as a whole, so that it can be read without a lock
        self._watched: dict[str, dict[str, Any]] = {kind: {} for kind, _ in _KINDS}
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)

    def add(self, watched: Watched, name: str = "") -> None:
        """Start exporting the counters of *watched*.

        It is a server (of any class, a front door, or :class:`~mormot_ws.ServerProcesses`), a
        client (of either class), a hub, or a ``WebSocketProtocolTopics`` of a server.

        :param name: the value of its label, which depends on its kind: ``server="…"``,
            ``client="…"``, ``hub="…"``, ``topics="…"``.

        Raises ``TypeError`` for anything else, and ``ValueError`` if the name is already in use.
        """
        IS_TEXT("name", name)
        kind = _kind_of(watched)
        if name in self._watched[kind]:
            raise ValueError(f"there is already a {kind} {name!r}: give each its own name")
        self._watched[kind] = {**self._watched[kind], name: watched}

    def remove(self, watched: Watched) -> None:
        """Stop exporting it. Does nothing if it was not added."""
        kind = _kind_of(watched)
        self._watched[kind] = {
            name: each for name, each in self._watched[kind].items() if each is not watched
        }

    def serve_on(
        self, server: ListeningServer | Server, path: str = "/metrics", bearer: str = ""
    ) -> None:
        """Answer Prometheus on *server* at *path*, and export that server's counters.

        :param bearer: a token that the request has to contain (``Authorization: Bearer …``);
            ``''``: no token is required.

        Raises the same exceptions as :meth:`add`, and ``ValueError`` if the path already has a
        handler.
        """
        IS_TEXT("bearer", bearer)

        def allowed(given: str) -> bool:
            return not bearer or hmac.compare_digest(given.encode(), bearer.encode())

        def answer(ctxt: HttpServerRequest) -> int:
            return self.answer(ctxt) if allowed(ctxt.auth_bearer) else 401

        if isinstance(server, Server):

            @server.http(path)
            def metrics(request: Any) -> Any:
                if not allowed(request.bearer):
                    return 401
                content, kind = self.text(request.headers.get("Accept", ""))
                return 200, content, {"Content-Type": kind}

        else:
            server.answer_path(path, answer)
        if server not in self._watched["server"].values():
            self.add(server, getattr(server, "process_name", ""))

    def answer(self, ctxt: HttpServerRequest) -> int:
        """Answer a request from Prometheus and return the status. Call it in ``on_request``."""
        if ctxt.method not in ("GET", "HEAD"):
            ctxt.out_custom_headers = "Allow: GET, HEAD"
            return 405
        ctxt.out_content, ctxt.out_content_type = self.text(ctxt.in_header("accept"))
        return 200

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics of the registry as text, and the content type.

        :param accept: the ``Accept`` header of the request, which may ask for OpenMetrics.
        """
        encode, kind = exposition.choose_encoder(accept)
        return encode(self.registry), kind

    # ------------------------------------------------------------- called by the registry's users

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not read any status."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        yield from self._of_servers()
        yield from self._of_clients()
        hubs = [(name, hub.status()) for name, hub in self._watched["hub"].items()]
        yield from _families("hub", _HUB_COUNTERS, _HUB_GAUGES, hubs)
        topics = [(name, each.status()) for name, each in self._watched["topics"].items()]
        yield from _families("topics", _TOPICS_COUNTERS, _TOPICS_GAUGES, topics)

    def _of_servers(self) -> Iterator[Metric]:
        found = [
            (name, status)
            for name, server in self._watched["server"].items()
            if (status := _server_status(server)) is not None
        ]
        yield from _families("server", _SERVER_COUNTERS, _SERVER_GAUGES, found)
        codes = _counter("server", "closed", "Connections that have ended", ["code"])
        for name, status in found:
            for code, count in sorted(status.close_codes.items()):
                codes.add_metric([name, str(code) if code else "other"], count)
        yield codes
        yield from self._of_connections()

    def _of_connections(self) -> Iterator[Metric]:
        """Return the current values of all connections of each server in this OS process."""
        frames, size = (_gauge("server", name, text) for name, _, text in _QUEUES)
        pings = _gauge("server", "ping_seconds", "Latest round-trip times", ["quantile"])
        for name, server in self._watched["server"].items():
            inner = server._server if isinstance(server, Server) else server
            if not isinstance(inner, WebSocketServerBase):
                continue
            processes = inner.connections()
            frames.add_metric([name], sum(each.outgoing.count for each in processes))
            size.add_metric([name], sum(each.outgoing.bytes for each in processes))
            trips = sorted(each.last_ping_delay for each in processes if each.last_ping_delay)
            for quantile in _QUANTILES if trips else ():
                trip = trips[min(len(trips) - 1, int(quantile * len(trips)))]
                pings.add_metric([name, f"{quantile:g}"], trip / 1000)
        yield from (frames, size, pings)

    def _of_clients(self) -> Iterator[Metric]:
        found: list[tuple[str, ClientStatus]] = []
        for name, client in self._watched["client"].items():
            status = client.status
            found.append((name, status if isinstance(status, ClientStatus) else status()))
        yield from _families("client", _CLIENT_COUNTERS, _CLIENT_GAUGES, found)
        connections = [
            (name, status.connection) for name, status in found if status.connection is not None
        ]
        yield from _families("client", _CONNECTION_COUNTERS, _QUEUES, connections)
        lost = _gauge("client", "queue_lost", "Messages refused or dropped because of a full queue")
        pings = _gauge("client", "ping_seconds", "The latest round-trip time")
        for name, connection in connections:
            lost.add_metric([name], connection.queue_lost)
            if connection.ping_ms:
                pings.add_metric([name], connection.ping_ms / 1000)
        yield from (lost, pings)

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}={len(each)}" for kind, each in self._watched.items())
        return f"<Metrics {counts}>"


def _kind_of(watched: object) -> str:
    for kind, classes in _KINDS:
        if isinstance(watched, classes):
            return kind
    raise TypeError(
        f"a server, a client, a hub or the topics of a server, not {type(watched).__name__}"
    )


def _server_status(server: Any) -> ServerStatus | None:
    """Return the status of *server*; None while it is not running."""
    try:
        status = server.status()
    except WebSocketsError:
        return None
    return status if isinstance(status, ServerStatus) else status.total


def _counter(kind: str, name: str, text: str, labels: Iterable[str] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(f"mormot_ws_{kind}_{name}", text, labels=[kind, *labels])


def _gauge(kind: str, name: str, text: str, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mormot_ws_{kind}_{name}", text, labels=[kind, *labels])


def _families(
    kind: str,
    counters: Iterable[_Row],
    gauges: Iterable[_Row],
    found: Iterable[tuple[str, object]],
) -> Iterator[Metric]:
    """Return a metric family for each row, with a value for each status in *found*."""
    for make, rows in ((_counter, counters), (_gauge, gauges)):
        for metric, attribute, text in rows:
            family = make(kind, metric, text)
            for name, status in found:
                family.add_metric([name], getattr(status, attribute))
            yield family
