"""RabbitMQ by aio-pika.

A channel with publisher confirms, on which `publish` waits for its confirm; so a batch is a `gather` of its messages.
The queue's `consume` with a callback, prefetch of a few batches, and an ack of the last message with `multiple=True`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from bench.adapters.base import IDLE_SECONDS
from bench.adapters.rabbitmq import PREFETCH_BATCHES, queue_arguments


class AioPikaClient:
    """One connection with one channel."""

    backend = "asyncio"

    def __init__(self, ports: Sequence[int], queue: str, kind: str) -> None:
        self._url = f"amqp://guest:guest@127.0.0.1:{ports[0]}/"
        self._queue = queue
        self._kind = kind
        self._messages: deque[AbstractIncomingMessage] = deque()
        self._last: AbstractIncomingMessage | None = None
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._connection = await aio_pika.connect(self._url)
        self._channel = await self._connection.channel(publisher_confirms=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def declare(self) -> None:
        """Make the queue, durable."""
        await self._channel.declare_queue(self._queue, durable=True, arguments=dict(queue_arguments(self._kind)))

    async def delete(self) -> None:
        """Remove the queue."""
        await self._channel.queue_delete(self._queue)

    async def open_producer(self) -> None:
        """Nothing to do: the channel has confirms."""

    async def send(self, body: bytes) -> None:
        """Publish one and wait for its confirm."""
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self._channel.default_exchange.publish(message, self._queue)

    async def publish(self, bodies: list[bytes]) -> None:
        """Publish all at once and wait for all confirms."""
        await asyncio.gather(*map(self.send, bodies))

    async def open_consumer(self, batch: int) -> None:
        """Consume with a prefetch of a few batches."""
        await self._channel.set_qos(prefetch_count=min(65_535, PREFETCH_BATCHES * batch))
        queue = await self._channel.get_queue(self._queue)
        await queue.consume(self._on_message)

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        self._messages.append(message)
        self._arrived.set()

    async def receive(self, messages_max: int) -> list[bytes]:
        """Return what has arrived."""
        if not self._messages:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), IDLE_SECONDS)
            except TimeoutError:
                return []
        taken = [self._messages.popleft() for _ in range(min(len(self._messages), messages_max))]
        self._last = taken[-1]
        return [message.body for message in taken]

    async def ack(self) -> None:
        """Acknowledge through the last message."""
        assert self._last is not None
        await self._last.ack(multiple=True)

    async def flush(self) -> None:
        """A round trip on the same channel: what was sent before it has been handled."""
        await self._channel.set_qos(prefetch_count=1)
