"""beanstalkd by greenstalk.

Durability: a binlog. `-f 0` syncs it before each answer; the default with a binlog syncs at most every 50 ms. Without
a binlog, which is what the server does by itself, nothing is durable; that is not measured.
Best practice: neither protocol nor client knows batches or pipelines: put, reserve and delete are a round trip each.
So its place is one in flight; its rates stand beside those of batches for completeness.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import greenstalk

from bench.adapters.base import IDLE_SECONDS
from bench.servers import Server

JOB_BYTES_MAX = 1_000_000


class BeanstalkServer(Server):
    """A binlog with the default sync interval."""

    program = "beanstalkd"
    options: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """Return the command."""
        address = ["-l", "127.0.0.1", "-p", str(self.port)]
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        return ["/usr/bin/beanstalkd", *address, "-b", str(data), "-z", str(JOB_BYTES_MAX), *self.options]


class BeanstalkServerSyncing(BeanstalkServer):
    """A binlog that is synced for each job."""

    options: tuple[str, ...] = ("-f", "0")


class BeanstalkClient:
    """One connection."""

    backend = "asyncio"

    def __init__(self, ports: Sequence[int], queue: str, kind: str = "") -> None:
        self._client = greenstalk.Client(("127.0.0.1", ports[0]), encoding=None, use=queue, watch=queue)
        self._jobs: list[greenstalk.Job] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    async def declare(self) -> None:
        """Tubes appear by themselves."""

    async def delete(self) -> None:
        """Tubes vanish when they are empty; there is no command for it."""

    async def open_producer(self) -> None:
        """Nothing to do."""

    async def publish(self, bodies: list[bytes]) -> None:
        """Put one after the other."""
        for body in bodies:
            self._client.put(body)

    async def send(self, body: bytes) -> None:
        """Put one."""
        self._client.put(body)

    async def open_consumer(self, batch: int) -> None:
        """Nothing to do."""

    async def receive(self, messages_max: int) -> list[bytes]:
        """Reserve one: a reserved job that waits for others of a batch would only run into its time limit."""
        try:
            job = self._client.reserve(timeout=0)
        except greenstalk.TimedOutError:
            try:
                job = self._client.reserve(timeout=max(1, round(IDLE_SECONDS)))
            except greenstalk.TimedOutError:
                return []
        self._jobs = [job]
        return [job.body]

    async def ack(self) -> None:
        """Delete the job."""
        for job in self._jobs:
            self._client.delete(job)

    async def flush(self) -> None:
        """Nothing is under way."""
