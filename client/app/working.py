"""One consumer of an app with its workers: message in, handler, result out, verdict.

A worker is a task that takes the next message when it is done with the last. What a handler raises ends with its
message; what ends a consumer ends the app.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from sluicemq.client.app.handlers import Handler
from sluicemq.client.app.publishing import Publisher
from sluicemq.client.client import Client
from sluicemq.client.codecs import VALUE, Codec
from sluicemq.client.consumer import Consumer
from sluicemq.client.message import Message
from sluicemq.client.options import Duration
from sluicemq.wire.settings import QueueSettings

log = logging.getLogger("sluicemq.app")

CREDIT_PER_WORKER = 16
"""Messages that are asked for ahead, for each worker: what lies here waits while another process may be idle."""
CREDIT_MAX = 500


@dataclass(frozen=True, slots=True)
class Plan:
    """What a decorator said.

    Attributes:
        queue: Name of the queue or subscription; None: of a temporary subscription.
        pattern: What the subscription gets; None: it is a queue.
        declare: Whether to make it, or let it converge, at the start.
        settings: With these settings.
        concurrency: How many messages are handled at a time.
        credit: How many are asked for ahead; None: `CREDIT_PER_WORKER` for each worker.
        lease: How long a message is ours before its lease must be renewed, which happens by itself.
        max_lease: After so long in the hands of a handler it is renewed no more.
        codec: What encodes results that have no publisher with a codec of its own.

    """

    queue: str | None
    pattern: str | None
    declare: bool
    settings: QueueSettings
    concurrency: int
    credit: int | None
    lease: Duration
    max_lease: Duration
    codec: Codec | None = None


@dataclass(slots=True)
class Station:
    """A handler at its queue.

    Attributes:
        plan: What the decorator said.
        handler: The function.
        publishers: Where its results go.
        on_error: Called with what a handler raised, and with the message.

    """

    plan: Plan
    handler: Handler
    publishers: Sequence[Publisher]
    on_error: Callable[[Exception, Message], None] | None
    consumer: Consumer | None = field(default=None, init=False)
    _limiter: anyio.CapacityLimiter | None = field(default=None, init=False)

    async def declare(self, client: Client) -> str:
        """Make what the handler consumes; return its name."""
        plan = self.plan
        if plan.pattern is not None:
            if plan.queue is None or plan.declare:
                return (await client.subscribe(plan.pattern, plan.queue, **plan.settings)).name
        elif plan.declare:
            assert plan.queue is not None
            await client.declare_queue(plan.queue, **plan.settings)
        assert plan.queue is not None
        return plan.queue

    def make_consumer(self, client: Client, queue: str) -> Consumer:
        """Return the consumer, to be entered."""
        plan = self.plan
        credit = plan.credit or min(CREDIT_PER_WORKER * plan.concurrency, max(CREDIT_MAX, plan.concurrency))
        self.consumer = client.consumer(queue, credit=credit, lease=plan.lease, max_lease=plan.max_lease)
        self._limiter = anyio.CapacityLimiter(plan.concurrency)
        return self.consumer

    async def work(self, client: Client, stop: anyio.Event) -> None:
        """Handle message after message, until *stop* is set or the consumer was drained; raises what ended it."""
        assert self.consumer is not None
        async for message in self.consumer:
            try:
                await self._handle(client, message)
            except Exception as error:
                log.exception("the handler %s failed with message %s", self.handler.name, message.message_id)
                self._tell(error, message)
            if stop.is_set():  # the consumer may be drained a turn of the event loop later only
                return

    def _tell(self, error: Exception, message: Message) -> None:
        if self.on_error is not None:
            try:
                self.on_error(error, message)
            except Exception:
                log.exception("on_error of the app failed")

    async def _handle(self, client: Client, message: Message) -> None:
        assert self._limiter is not None
        async with message:
            self.handler.decode(message)
            try:
                result = await self.handler(message, self._limiter)
            except SystemExit as error:  # else the message would end each process that gets it, without an attempt
                raise RuntimeError(f"the handler left with SystemExit({error.code!r})") from error
            if result is None:
                return
            if message.wants_reply:
                await message.reply(self._encoded(result, None))
            if self.publishers:
                await self._publish(client, message, result)

    async def _publish(self, client: Client, message: Message, result: Any) -> None:
        bodies = [(publisher.destination, self._encoded(result, publisher.codec)) for publisher in self.publishers]
        async with client.transaction() as tx:
            for destination, body in bodies:
                await tx.send(destination, body)
            if not message.verdict:  # else the handler has settled it by itself
                await tx.ack(message)

    def _encoded(self, result: Any, codec: Codec | None) -> bytes:
        return (codec or self.plan.codec or VALUE).encode(result)
