"""The schedule of faults of the chaos test of topics. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.chaos.faults import Schedule

_SERVER = ("kill", "stop", "freeze", "kill at once", "freeze long", "stop at once")
_NETWORK = ("blackhole", "throttle", "blackhole up", "delay", "blackhole down", "refuse")
_LINKS = ("cut some", "close some", "cut all", "truncate up", "close all", "truncate down")
_HUB = ("cut all", "blackhole", "delay", "blackhole down", "cut some", "refuse", "truncate down")


class TopicSchedule(Schedule):
    """Draws faults of both servers, of Redis, and of the networks between."""

    DECKS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "server 0": _SERVER,
        "server 1": _SERVER,
        "redis": (
            "redis stop",
            "redis kill",
            "redis freeze",
            "redis wipe",
            "redis cut",
            "redis freeze long",
            "redis earlier",
        ),
        "hub 0": _HUB,
        "hub 1": _HUB,
        "network 0": _NETWORK,
        "network 1": _NETWORK,
        "links 0": _LINKS,
        "links 1": _LINKS,
    }
    PAUSES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "server 0": (1.0, 4.0),
        "server 1": (1.0, 4.0),
        "redis": (0.7, 2.5),
        "hub 0": (0.7, 3.0),
        "hub 1": (0.7, 3.0),
        "network 0": (0.5, 3.0),
        "network 1": (0.5, 3.0),
        "links 0": (0.3, 2.0),
        "links 1": (0.3, 2.0),
    }

    def _details(self, kind: str) -> tuple[float, dict[str, Any]]:
        uniform = self._random.uniform
        if kind in ("redis stop", "redis kill", "redis wipe", "redis earlier"):
            return uniform(0.05, 1.2), {}
        if kind == "redis freeze":
            return uniform(0.1, 0.8), {}
        if kind == "redis freeze long":
            # longer than a call of the hub waits
            return uniform(1.2, 2.5), {}
        if kind == "redis cut":
            return 0.0, {}
        return super()._details(kind)
