"""The Redis of the chaos test of topics, and what is in it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tests.support.children import fixed_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import BOUND

#: what the names of the hubs' keys begin with
PREFIX = "chaos:"

#: by topic and offset: who has published, and the publisher's number for it
Era = dict[str, dict[int, tuple[str, int]]]

#: what is answered is written: the kernel has it, which outlives a SIGKILL of Redis. (With
#: "everysec" Redis may write later; "always" waits for the disk, which proves nothing more here)
_OPTIONS = {
    "appendonly": "yes",
    "appendfsync": "no",
    "auto-aof-rewrite-percentage": "0",
    "loglevel": "warning",
}


class ChaosRedis(RedisServer):
    """A Redis whose port nobody else takes while it does not run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._chosen = 0
        super().__init__(folder, **_OPTIONS)

    def start(self) -> None:
        if not self._chosen:
            self._chosen = self.port = fixed_port()
        super().start()


class Storage:
    """The Redis that the servers use, its earlier copies, and the eras that have ended."""

    def __init__(self, folder: Path, topics: list[str]) -> None:
        self._topics = topics
        self._data, self._copy = folder / "redis", folder / "redis-earlier"
        self._reading = folder / "redis-read"
        self.redis = ChaosRedis(self._data)
        #: all that was in Redis at the end of each era
        self.eras: list[Era] = []
        self.copy()

    def copy(self) -> None:
        """Keep a copy of the data as they are now, for an "earlier" restart."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._data, self._copy)

    def end_era(self, earlier: bool) -> None:
        """Read the data of the Redis that was ended; then delete them, or put the *earlier* copy in
        their place.
        """
        shutil.rmtree(self._reading, ignore_errors=True)
        shutil.copytree(self._data, self._reading)
        reader = ChaosRedis(self._reading)
        try:
            self.eras.append(self._read(reader))
        finally:
            reader.die()
        self.redis.forget()
        if earlier:
            shutil.copytree(self._copy, self._data, dirs_exist_ok=True)

    def end_last_era(self) -> None:
        """Read the data of the running Redis."""
        self.eras.append(self._read(self.redis))

    def newest(self) -> dict[str, int]:
        """Return the newest offset of each topic."""
        with self.redis.client() as client:
            found = [client.hget(f"{PREFIX}{{{topic}}}:meta", "o") for topic in self._topics]
        return {
            topic: int(each or 0)  # type: ignore[arg-type]
            for topic, each in zip(self._topics, found, strict=True)
        }

    def _read(self, redis: RedisServer) -> Era:
        give_up = time.monotonic() + BOUND
        while True:
            try:
                with redis.client() as client:
                    return {topic: self._history(client, topic) for topic in self._topics}
            except RedisError:
                # it is loading its data
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)

    @staticmethod
    def _history(client: Redis, topic: str) -> dict[int, tuple[str, int]]:
        history = {}
        for name, fields in client.xrange(f"{PREFIX}{{{topic}}}:past"):  # type: ignore[union-attr]
            data = json.loads(fields[b"d"])
            history[int(name.split(b"-")[0])] = (data["by"], data["n"])
        return history

    def close(self) -> None:
        """End Redis."""
        self.redis.die()
