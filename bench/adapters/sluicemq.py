"""SluiceMQ itself.

Durability: a confirm follows the fdatasync of the log entry; there is no other mode. Settlements are log entries as
well, and count as done when they are committed (`flush`).
Best practice: `send_many` with a few calls in flight; `receive` and one ack for the batch; credit of ten batches.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from bench.adapters.base import IDLE_SECONDS
from bench.servers import Server
from sluicemq.client import Batch, Consumer, Producer, connect


class SluiceServer(Server):
    """`sluicemq serve`, of the Python that runs the bench."""

    program = "sluicemq"

    def command(self) -> list[str]:
        """Return the command."""
        address = f"127.0.0.1:{self.port}"
        options = ["--data", str(self.directory / "data"), "--listen", address, "--log-level", "warning"]
        return [sys.executable, "-m", "sluicemq.broker.cli", "serve", *options]

    def environment(self) -> dict[str, str]:
        """Let bytecode be kept, as pip does for whoever installs it: compiling it is half of a start."""
        return {"PYTHONDONTWRITEBYTECODE": ""}


class SluiceClient:
    """Our client on trio."""

    backend = "trio"

    def __init__(self, ports: Sequence[int], queue: str, kind: str = "") -> None:
        self._url = "sluicemq://" + ",".join(f"127.0.0.1:{port}" for port in ports)
        self._queue = queue
        self._stack = AsyncExitStack()
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._batch: Batch | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(connect(self._url))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)  # noqa: ASYNC102 - what it leaves shields itself

    async def declare(self) -> None:
        """Make the queue."""
        await self._client.declare_queue(self._queue)

    async def delete(self) -> None:
        """Remove the queue."""
        await self._client.delete_queue(self._queue)

    async def open_producer(self) -> None:
        """Open a producer."""
        self._producer = await self._stack.enter_async_context(self._client.producer(self._queue))

    async def publish(self, bodies: list[bytes]) -> None:
        """One batch."""
        assert self._producer is not None
        await self._producer.send_many(bodies)

    async def send(self, body: bytes) -> None:
        """One message."""
        assert self._producer is not None
        await self._producer.send(body)

    async def open_consumer(self, batch: int) -> None:
        """Open a consumer with credit for ten batches."""
        consumer = self._client.consumer(self._queue, credit=max(1000, 10 * batch))
        self._consumer = await self._stack.enter_async_context(consumer)

    async def receive(self, messages_max: int) -> list[bytes]:
        """Return the bodies of one batch."""
        assert self._consumer is not None
        self._batch = await self._consumer.receive(max_messages=messages_max, max_wait=IDLE_SECONDS)
        return list(self._batch.bodies)

    async def ack(self) -> None:
        """Acknowledge the batch."""
        assert self._batch is not None
        await self._batch.ack()

    async def flush(self) -> None:
        """Wait until the settlements are committed."""
        assert self._consumer is not None
        await self._consumer.flush()
