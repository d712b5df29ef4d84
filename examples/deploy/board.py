"""A topic server for containers: health checks, metrics, JSON logs, Redis.

Clients connect with ``mormot_ws.connect("ws://…/", topics=True)``. Configure it by environment
variables: ``PORT`` (8999), ``REDIS_URL``, and ``PROXIES``, the networks of the nginx in front,
separated by commas.
"""

from __future__ import annotations

import logging
import os

from mormot_ws import JsonLogFormatter, RedisHub, Server, WebSocketProcessSettings
from mormot_ws.metrics import Metrics


def main() -> None:
    """Serve until SIGTERM, then close all connections (1001)."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLogFormatter(service="board"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    settings = WebSocketProcessSettings(
        health_path="/health",
        remote_ip_header="X-Real-IP",
        trusted_proxies=os.environ.get("PROXIES", "127.0.0.1").split(","),
        max_connections=5_000,
    )
    with RedisHub(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")) as hub:
        server = Server(int(os.environ.get("PORT", "8999")), hub=hub, settings=settings)
        metrics = Metrics()
        metrics.serve_on(server)
        metrics.add(hub)
        server.run()


if __name__ == "__main__":
    main()
