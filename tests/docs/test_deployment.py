"""examples/deploy: the files are what Docker, Compose, nginx and Prometheus take, and what they
describe works. There is no Docker here: the same topology runs as processes.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import HOST, ROOT, wait_for
from support.children import fixed_port
from support.nginx import RunningNginx
from support.programs import PATIENCE, Program
from support.redis_server import RedisServer, redis_server

from mormot_ws import Connection, ExponentialBackoff, Publication, WebSocketProcessSettings
from mormot_ws import connect as connect_to

FOLDER = ROOT / "examples" / "deploy"
#: how many publications, and after which of them a server is killed, and one is stopped
COUNT, KILLED, STOPPED = 60, 20, 40
_INSTRUCTIONS = {
    *("ARG", "CMD", "COPY", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
    *("RUN", "STOPSIGNAL", "USER", "WORKDIR"),
}


def test_the_image_runs_python_itself_without_root() -> None:
    """Process number 1 is Python, which gets SIGTERM; the forms with brackets are JSON."""
    text = (FOLDER / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = {line.split()[0]: line.partition(" ")[2].strip() for line in lines}
    assert set(found) <= _INSTRUCTIONS
    assert lines[0].startswith("FROM python:3.13-slim")
    assert found["USER"] == "10001"
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(found["CMD"]) == ["python", "board.py"]
    check = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    assert compile(check[2], "the health check", "exec")
    assert (FOLDER / found["COPY"].split()[0]).is_file()


def test_compose_names_files_and_services_that_are_there() -> None:
    """Two servers, Redis, nginx and Prometheus, which know each other by the services' names."""
    yaml = pytest.importorskip("yaml")
    compose: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
    services = compose["services"]
    assert set(services) == {"board1", "board2", "redis", "nginx", "prometheus"}
    for service in services.values():
        assert ("build" in service) != ("image" in service)
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "build" in services[needed] or "healthcheck" in services[needed]
        for volume in service.get("volumes", []):
            outside = volume.partition(":")[0]
            assert outside in compose["volumes"] or (FOLDER / outside).is_file()
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    (job,) = prometheus["scrape_configs"]
    servers = [f"{name}:8999" for name in ("board1", "board2")]
    assert job["static_configs"] == [{"targets": servers}]
    site = (FOLDER / "site.conf").read_text("utf-8")
    assert re.findall(r"server (\S+:\d+)", site) == servers
    assert services["nginx"]["ports"] == ["8080:8080"]
    assert "listen 8080;" in site


class Topology:
    """What compose.yaml describes, as processes: Redis, two servers, nginx."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self._redis = redis
        self.ports = [fixed_port() for _ in range(2)]
        self._stack = contextlib.ExitStack()
        self.servers: dict[int, Program] = {}
        for number in range(2):
            self.start(number)
        site = (FOLDER / "site.conf").read_text("utf-8")
        for number, port in enumerate(self.ports, 1):
            site = site.replace(f"board{number}:8999", f"{HOST}:{port}")
        port = fixed_port()
        self.nginx = RunningNginx(
            folder, site.replace("listen 8080", f"listen {HOST}:{port}"), port
        )
        self.uri = f"ws://{HOST}:{port}/"

    def start(self, number: int) -> None:
        """Start a server."""
        program = Program(
            str(FOLDER / "board.py"),
            env={"PORT": str(self.ports[number]), "REDIS_URL": self._redis.url},
        )
        self.servers[number] = self._stack.enter_context(program)

    def close(self) -> None:
        """End all servers that have been started."""
        self._stack.close()

    def wait(self, number: int) -> None:
        """Wait until a server is healthy."""
        program = self.servers[number]
        # it has much to import, on a busy machine
        wait_for(lambda: self.ask(number, "/health") or program.has_ended, 2 * PATIENCE, "health")
        assert self.ask(number, "/health") == "ok\n", program.output

    def ask(self, number: int, path: str) -> str:
        """Return a server's answer to a plain request; '' when it does not serve."""
        with contextlib.suppress(OSError):
            uri = f"http://{HOST}:{self.ports[number]}{path}"
            with urllib.request.urlopen(uri, timeout=PATIENCE) as answer:
                return str(answer.read().decode())
        return ""


@pytest.fixture
def topology(tmp_path: Path) -> Iterator[Topology]:
    """Run it."""
    pytest.importorskip("prometheus_client")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        running = Topology(tmp_path, redis)
        stack.callback(running.close)
        stack.enter_context(running.nginx)
        for number in range(2):
            running.wait(number)
        yield running


def client(uri: str) -> Connection:
    """Return a client for topics that comes back quickly."""
    settings = WebSocketProcessSettings(
        reconnect_policy=lambda: ExponentialBackoff(base_ms=10, cap_ms=200)
    )
    return connect_to(uri, topics=True, settings=settings)


def _append(got: list[int], publication: Publication) -> None:
    got.append(publication.data)


def test_one_server_is_killed_and_one_stopped_and_nothing_is_lost(topology: Topology) -> None:
    """Everybody comes back through nginx to the other one: all is published once, and everybody
    gets all of it, once, in order.
    """
    got: list[list[int]] = [[], []]
    with client(topology.uri) as writer, client(topology.uri) as one, client(topology.uri) as two:
        subscriptions = [
            reader.subscribe("news", partial(_append, mine))
            for reader, mine in zip((one, two), got, strict=True)
        ]
        assert all(subscription.wait(int(1000 * PATIENCE)) for subscription in subscriptions)
        sent = []
        for number in range(COUNT):
            sent.append(writer.publish("news", number))
            if number == KILLED:
                topology.servers[0].kill()
            elif number == STOPPED:
                topology.start(0)
                topology.wait(0)
                topology.servers[1].signal(signal.SIGTERM)
                assert topology.servers[1].wait() == 0
        assert all(each.wait(int(1000 * PATIENCE)) for each in sent)
        wait_for(lambda: all(len(mine) >= COUNT for mine in got), PATIENCE)
        text = topology.ask(0, "/metrics")
    assert got == [list(range(COUNT))] * 2
    assert re.search(r'^mormot_ws_server_upgraded_total\{server=""\} [1-9]', text, re.M)
