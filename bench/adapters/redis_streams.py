"""Redis Streams by redis-py with hiredis.

Durability: an append-only file. `appendfsync always` syncs before it answers; `everysec`, the default once the file
is on, syncs once a second, so that a second of confirmed messages may be lost.
Best practice: a batch is one pipeline of XADD without MULTI; XREADGROUP with COUNT and one XACK with all ids of the
batch. The blocking client: it is faster than `redis.asyncio`, and one pipeline already holds a thousand commands.
XACK leaves entries in the stream, as our log does; who wants the memory back adds XTRIM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import redis

from bench.adapters.base import IDLE_SECONDS
from bench.servers import Server

GROUP, CONSUMER = "bench", "one"


class RedisServer(Server):
    """Append-only file, synced every second."""

    program = "redis-server"
    appendfsync = "everysec"

    def command(self) -> list[str]:
        """Return the command; no snapshots beside the append-only file."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": self.appendfsync,
            "save": "",
            "daemonize": "no",
        }
        return ["/usr/bin/redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]


class RedisServerSyncing(RedisServer):
    """Append-only file, synced before each answer."""

    appendfsync = "always"


class RedisClient:
    """One connection."""

    backend = "asyncio"

    def __init__(self, ports: Sequence[int], queue: str, kind: str = "") -> None:
        self._redis: Any = redis.Redis("127.0.0.1", ports[0], protocol=2)
        self._queue = queue
        self._ids: list[bytes] = []

    async def __aenter__(self) -> Self:
        # The port answers while the append-only file is still being loaded.
        while True:
            try:
                self._redis.exists(self._queue)
                return self
            except redis.exceptions.BusyLoadingError:
                await asyncio.sleep(0.005)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redis.close()

    async def declare(self) -> None:
        """Make stream and group."""
        self._redis.xgroup_create(self._queue, GROUP, id="0", mkstream=True)

    async def delete(self) -> None:
        """Remove the stream."""
        self._redis.delete(self._queue)

    async def open_producer(self) -> None:
        """Nothing to do."""

    async def publish(self, bodies: list[bytes]) -> None:
        """One pipeline."""
        pipeline = self._redis.pipeline(transaction=False)
        queue = self._queue
        for body in bodies:
            pipeline.execute_command("XADD", queue, "*", "b", body)
        pipeline.execute()

    async def send(self, body: bytes) -> None:
        """One XADD."""
        self._redis.execute_command("XADD", self._queue, "*", "b", body)

    async def open_consumer(self, batch: int) -> None:
        """Nothing to do: consumers appear as they read."""

    async def receive(self, messages_max: int) -> list[bytes]:
        """Read new entries for the group."""
        wait_ms = int(IDLE_SECONDS * 1000)
        answer = self._redis.xreadgroup(GROUP, CONSUMER, {self._queue: ">"}, count=messages_max, block=wait_ms)
        if not answer:
            return []
        entries = answer[0][1]
        self._ids = [entry[0] for entry in entries]
        return [entry[1][b"b"] for entry in entries]

    async def ack(self) -> None:
        """One XACK for the batch."""
        self._redis.xack(self._queue, GROUP, *self._ids)

    async def flush(self) -> None:
        """Nothing is under way: XACK has answered."""
