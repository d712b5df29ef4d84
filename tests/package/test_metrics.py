"""Metrics for Prometheus: what is shown of servers, clients and hubs, and how it is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from support import HOST, ROOT, RawClient, connect, echo_server, send_text, wait_for

import mormot_ws
from mormot_ws import (
    MemoryHub,
    Server,
    WebSocketProtocolTopics,
    WebSocketServer,
    focConnectionClose,
)

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from mormot_ws.metrics import Metrics


def values(metrics: Metrics) -> dict[str, float]:
    """Return all values, by the name of the sample with its labels."""
    text, _ = metrics.text()
    return {
        sample.name
        + "".join(f" {label}={value}" for label, value in sorted(sample.labels.items())): float(
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_servers_counts_and_close_codes_are_shown() -> None:
    """By the name of the server, also after the connections have ended."""
    metrics = Metrics()
    with echo_server() as server:
        metrics.add(server, "echo")
        with RawClient(server.port) as raw, connect(server.port) as client:
            raw.upgrade()
            send_text(client, "hello")
            wait_for(lambda: server.status().frames_out)
            found = values(metrics)
            assert found["mormot_ws_server_connections server=echo"] == 2
            assert found["mormot_ws_server_messages_received_total server=echo"] == 1
            assert found["mormot_ws_server_sent_bytes_total server=echo"] == 5
            assert found["mormot_ws_server_queued_messages server=echo"] == 0
            raw.send_frame(focConnectionClose, b"\x0f\xa5")
            raw.read_to_end()
        wait_for(lambda: sum(server.status().close_codes.values()) == 2)
        with RawClient(server.port) as lost:
            lost.upgrade()
        wait_for(lambda: sum(server.status().close_codes.values()) == 3)
    found = values(metrics)
    closed = {
        name: count for name, count in found.items() if name.startswith("mormot_ws_server_closed")
    }
    assert closed == {
        "mormot_ws_server_closed_total code=1000 server=echo": 1,
        "mormot_ws_server_closed_total code=1006 server=echo": 1,
        "mormot_ws_server_closed_total code=4005 server=echo": 1,
    }
    assert found["mormot_ws_server_upgraded_total server=echo"] == 3


def test_ping_times_are_shown_in_seconds() -> None:
    """As quantiles of the last round trips of the present connections."""
    metrics = Metrics()
    with echo_server(heartbeat_delay=20) as server, connect(server.port):
        metrics.add(server)
        wait_for(lambda: server.connections()[0].last_ping_delay)
        found = values(metrics)
        assert 0 < found["mormot_ws_server_ping_seconds quantile=1 server="] < 5
        assert "mormot_ws_server_ping_seconds quantile=0.5 server=" in found


def test_a_peer_cannot_make_any_number_of_metrics() -> None:
    """Close codes beyond fifty different ones are one."""
    from mormot_ws.server.tallies import CloseCodes

    codes = CloseCodes()
    for code in range(3000, 5000):
        codes.count(code)
    codes.count(1001)
    codes.count(0)
    found = codes.as_dict()
    assert len(found) == 53
    assert (found[0], found[1001], found[1006]) == (1950, 1, 1)


def test_clients_of_both_kinds_are_shown() -> None:
    """Connected, attempts, reconnects, messages, queues."""
    metrics = Metrics()
    with echo_server() as server, connect(server.port) as client:
        metrics.add(client, "one")
        send_text(client, "hello")
        with mormot_ws.connect(f"ws://{HOST}:{server.port}/", protocol="echo") as ws:
            metrics.add(ws, "two")
            ws.send("hi")
            assert ws.recv(timeout=10) == "hi"
            found = values(metrics)
    assert found["mormot_ws_client_connected client=one"] == 1
    assert found["mormot_ws_client_messages_sent_total client=one"] == 1
    assert found["mormot_ws_client_received_bytes_total client=two"] == 2
    assert found["mormot_ws_client_reconnects_total client=two"] == 0
    assert found["mormot_ws_client_queued_bytes client=two"] == 0


def test_hubs_and_topics_are_shown() -> None:
    """What is published and delivered."""
    metrics = Metrics()
    with MemoryHub() as hub, echo_server() as server:
        topics = WebSocketProtocolTopics("topics", hub=hub)
        server.websocket_protocols.add(topics)
        metrics.add(hub)
        metrics.add(topics)
        hub.publish("news", "x")
        found = values(metrics)
    assert found["mormot_ws_hub_published_total hub="] == 1
    assert found["mormot_ws_hub_connected hub="] == 1
    assert found["mormot_ws_topics_sessions topics="] == 0


def ask(port: int, **headers: str) -> tuple[str, str]:
    """Return the answer, and its content type."""
    request = urllib.request.Request(f"http://{HOST}:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def make_door() -> Any:
    """Return a front door."""
    return Server(0, address=HOST)


@pytest.mark.parametrize(
    "make", [echo_server, lambda: mormot_ws.WebSocketAsyncServer(f"{HOST}:0"), make_door]
)
def test_a_server_answers_prometheus(make: Any) -> None:
    """On its own port, beside what the application answers; in OpenMetrics, where asked for."""
    metrics = Metrics()
    with make() as server:
        metrics.serve_on(server)
        text, kind = ask(server.port)
        assert re.search(r"^mormot_ws_server_accepted_total\{server=\"\"\} 1.0$", text, re.M)
        assert kind.startswith("text/plain")
        text, kind = ask(server.port, Accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
        with pytest.raises(ValueError, match="already has a handler"):
            Metrics().serve_on(server)


@pytest.mark.parametrize("make", [echo_server, make_door])
def test_a_token_may_be_needed(make: Any) -> None:
    """Compared in constant time; without it 401."""
    with make() as server:
        Metrics().serve_on(server, bearer="t0ken")
        assert ask(server.port, Authorization="Bearer t0ken")[0]
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            ask(server.port, Authorization="Bearer other")
        caught.value.close()


def test_another_method_is_refused() -> None:
    """Metrics can only be read."""
    with echo_server() as server, RawClient(server.port) as client:
        Metrics().serve_on(server)
        client.send(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        head, _ = client.read_answer()
        assert (head.status, head.headers["allow"]) == (405, "GET, HEAD")


def test_a_registry_of_the_application_is_shown_whole() -> None:
    """With its other metrics."""
    registry = CollectorRegistry()
    Gauge("mine", "of the application", registry=registry).set(7)
    metrics = Metrics(registry)
    with echo_server() as server:
        metrics.add(server)
        found = values(metrics)
    assert found["mine"] == 7
    assert found["mormot_ws_server_connections server="] == 0


def test_what_does_not_run_or_was_removed_is_not_shown() -> None:
    """A front door may start later."""
    metrics = Metrics()
    door = make_door()
    metrics.add(door, "door")
    assert "mormot_ws_server_connections server=door" not in values(metrics)
    with door:
        assert "mormot_ws_server_connections server=door" in values(metrics)
        metrics.remove(door)
        assert "mormot_ws_server_connections server=door" not in values(metrics)


def test_a_mistake_is_refused() -> None:
    """Another kind of object, and a name twice."""
    metrics = Metrics()
    with pytest.raises(TypeError, match="not int"):
        metrics.add(5)  # type: ignore[arg-type]
    with echo_server() as one, WebSocketServer(f"{HOST}:0") as two:
        metrics.add(one)
        with pytest.raises(ValueError, match="already"):
            metrics.add(two)


def test_it_is_loaded_only_when_asked_for() -> None:
    """Neither a client nor a server needs prometheus-client."""
    program = (
        "import sys, mormot_ws; mormot_ws.Server, mormot_ws.connect;"
        " print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", ["metrics", "/a?b", 5])
def test_a_path_that_cannot_be_one_is_refused(path: Any) -> None:
    """At once."""
    with echo_server() as server, pytest.raises(ValueError, match="path"):
        server.answer_path(path, lambda ctxt: 200)
