"""RabbitMQ by pika.

Pika's `BlockingConnection` waits for each confirm by itself: one in flight, whatever one does. So this uses pika's
`AsyncioConnection`, where confirms come as callbacks (`confirm_delivery(callback)`) while further messages go out, and
deliveries as callbacks too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from bench.adapters.base import IDLE_SECONDS
from bench.adapters.rabbitmq import PREFETCH_BATCHES, queue_arguments

_PERSISTENT = pika.BasicProperties(delivery_mode=2)


class PikaClient:
    """One connection with one channel."""

    backend = "asyncio"

    def __init__(self, ports: Sequence[int], queue: str, kind: str) -> None:
        self._parameters = pika.ConnectionParameters("127.0.0.1", ports[0], heartbeat=0)
        self._queue = queue
        self._kind = kind
        self._sent = 0
        self._confirmed = 0
        self._early: set[int] = set()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._messages: deque[bytes] = deque()
        self._tags: deque[int] = deque()
        self._last_tag = 0
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connection = AsyncioConnection(
            self._parameters,
            on_open_callback=opened.set_result,
            on_open_error_callback=lambda _c, e: opened.set_exception(e),
        )
        await opened
        self._channel = await self._call(self._connection.channel, "on_open_callback", first=False)
        return self

    async def _call(self, function: Any, callback_name: str = "callback", first: bool = True, **options: Any) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        function(**options, **{callback_name: done.set_result})
        return await done

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection.add_on_close_callback(lambda *_: closed.set_result(None))
        self._connection.close()
        await closed

    async def declare(self) -> None:
        """Make the queue, durable."""
        arguments = queue_arguments(self._kind)
        await self._call(self._channel.queue_declare, queue=self._queue, durable=True, arguments=arguments)

    async def delete(self) -> None:
        """Remove the queue."""
        await self._call(self._channel.queue_delete, queue=self._queue)

    async def open_producer(self) -> None:
        """Ask for confirms."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._channel.confirm_delivery(self._on_confirm, callback=done.set_result)
        await done

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if method.NAME != "Basic.Ack":
            raise ConnectionError(f"RabbitMQ refused message {method.delivery_tag}")
        if method.multiple:
            self._confirmed = max(self._confirmed, method.delivery_tag)
            self._early = {tag for tag in self._early if tag > self._confirmed}
        else:
            self._early.add(method.delivery_tag)
        while self._confirmed + 1 in self._early:
            self._confirmed += 1
            self._early.remove(self._confirmed)
        while self._waiting and self._waiting[0][0] <= self._confirmed:
            self._waiting.popleft()[1].set_result(None)

    async def publish(self, bodies: list[bytes]) -> None:
        """Publish all, then wait for the confirm of the last and of all before it."""
        publish, queue = self._channel.basic_publish, self._queue
        for body in bodies:
            publish("", queue, body, _PERSISTENT)
        self._sent += len(bodies)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._sent, confirmed))
        await confirmed

    async def send(self, body: bytes) -> None:
        """Publish one."""
        await self.publish([body])

    async def open_consumer(self, batch: int) -> None:
        """Consume with a prefetch of a few batches."""
        await self._call(self._channel.basic_qos, prefetch_count=min(65_535, PREFETCH_BATCHES * batch))
        self._channel.basic_consume(self._queue, self._on_message)

    def _on_message(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        self._messages.append(body)
        self._tags.append(method.delivery_tag)
        self._arrived.set()

    async def receive(self, messages_max: int) -> list[bytes]:
        """Return what has arrived."""
        if not self._messages:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), IDLE_SECONDS)
            except TimeoutError:
                return []
        count = min(len(self._messages), messages_max)
        bodies = [self._messages.popleft() for _ in range(count)]
        for _ in range(count):
            self._last_tag = self._tags.popleft()
        return bodies

    async def ack(self) -> None:
        """Acknowledge through the last tag."""
        self._channel.basic_ack(self._last_tag, multiple=True)
        await asyncio.sleep(0)

    async def flush(self) -> None:
        """A round trip on the same channel: what was sent before it has been handled."""
        await self._call(self._channel.basic_qos, prefetch_count=1)
