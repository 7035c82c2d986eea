"""Requests whose last attempt fails: whoever waits hears of it at once, and nobody reads more than must be."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio.testing

from sluicemq.broker.pipeline import given_up
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.wire.errors import SluiceError
    from sluicemq.wire.messages import ReplyAddress

pytestmark = pytest.mark.trio

MAILBOX = b"m" * m.MAILBOX_BYTES


class Story:
    """A queue whose messages die at their second failure; who is told of it is written down.

    Attributes:
        told: Numbers of the requests whose senders were told, with what.

    """

    def __init__(self, road: Road, client: Client, queue: Queue, producer: int) -> None:
        self.road = road
        self.client = client
        self.queue = queue
        self.told: list[tuple[int, SluiceError]] = []
        self._producer = producer
        self._sequence = 0
        self.consumer = client.consume(queue)
        road.given_up.requesters = self

    def fail(self, vhost: str, address: ReplyAddress, error: SluiceError, now_ms: int) -> None:
        assert (vhost, address.mailbox) == ("/", MAILBOX)
        assert now_ms < address.deadline_ms
        self.told.append((address.number, error))

    async def put(self, *numbers: int | None, ttl_ms: int = 60_000, **columns: Any) -> None:
        """Publish one batch of requests; None: an ordinary message."""
        self._sequence += 1
        headers = [{"n": 1} if number is None else {m.REQUEST_HEADER: [MAILBOX, number, ttl_ms]} for number in numbers]
        data = encode_batch(
            [b"x"] * len(numbers), headers=headers, ttls=[ttl_ms] * len(numbers) if ttl_ms else None, **columns
        )
        produce = self.road.produce.publish
        await ask(produce, "/", "anonymous", self.queue.name, self._producer, self._sequence, memoryview(data))

    async def fails(self, reason: str = "no stock") -> None:
        """Everything that was delivered fails."""
        received, self.client.received = self.client.received, []
        for each in received:
            settle = self.road.settle.settle
            tags = [each.tag, each.tag]
            await ask(settle, self.client.session, self.consumer, m.VERDICT_NACK, tags, 0, reason)

    async def heard(self) -> list[int]:
        """Return of which requests somebody was told by now."""
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked(0.01)
            await self.road.wait_idle()
        return [number for number, _ in self.told]


@asynccontextmanager
async def story(**settings: Any) -> AsyncIterator[Story]:
    async with open_road() as road:
        client = await Client(road).open()
        queue = await declare(road, **{"max_deliveries": 2, **settings})
        yield Story(road, client, queue, await open_producer(road))


async def test_who_waits_is_told_when_the_last_attempt_has_failed_and_not_before():
    async with story() as it:
        await it.put(7, None, 8)
        await it.client.take(3)
        await it.fails("a first try")
        await it.client.take(3)
        assert await it.heard() == []
        await it.fails()
        assert sorted(await it.heard()) == [7, 8]
        _, error = it.told[0]
        assert (
            str(error) == "the request became a dead letter of 'orders' after 2 attempts; the last one failed: no stock"
        )
        assert (error.code, error.retryable) == ("request_died", False)
        assert error.fields == {"queue": "orders", "attempts": 2, "reason": "no stock"}


async def test_who_waits_is_told_when_the_connection_of_the_last_who_tried_is_gone():
    async with story(max_deliveries=1) as it:
        await it.put(7)
        (received,) = await it.client.take(1)
        await it.client.settle(it.consumer, [received.tag, received.tag], m.VERDICT_HANDED_OVER)
        it.client.leave()
        assert await it.heard() == [7]
        assert "ended with its consumer's connection: connection ended" in str(it.told[0][1])


async def test_a_message_without_a_lifetime_is_no_request_and_is_not_read():
    async with story(max_deliveries=1) as it:
        await it.put(7, ttl_ms=0)
        await it.client.take(1)
        it.road.bodies.load_to_show = None  # type: ignore[assignment,method-assign]  # whoever reads fails
        await it.fails()
        assert await it.heard() == []
        assert it.queue.dead.messages == 1


async def test_a_request_that_goes_behind_its_key_is_not_dead():
    async with story(max_deliveries=1, ordering="key", poison_key="skip") as it:
        await it.put(7, None, keys=["ann", None])
        await it.client.take(2)
        await it.fails()
        await it.client.take(1)
        assert await it.heard() == []


async def test_what_is_too_much_to_read_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(given_up, "WAITING_MESSAGES_MAX", 3)
    async with story(max_deliveries=1) as it:
        await it.put(1, 2, 3, 4)
        received = await it.client.take(4)
        settle = it.road.settle.settle
        tags = [received[0].tag, received[-1].tag]
        await ask(settle, it.client.session, it.consumer, m.VERDICT_NACK, tags, 0, "")
        assert await it.heard() == []
        it.client.received = []
        await it.put(5, 6)
        await it.client.take(2)
        await it.fails()
        assert await it.heard() == [5, 6]
