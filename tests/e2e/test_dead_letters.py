"""Retries, rejection, dead letters, lifetimes and limits through a real broker, on both backends of the client."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import Client, Reject, Retry, connect
from sluicemq.client.errors import Conflict, QueueFull, QueueNotFound
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from sluicemq.client import Consumer, Message
    from tests.e2e.broker_process import BrokerProcess

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0
_names = itertools.count()


@pytest.fixture
def queue() -> str:
    return f"mortal-{next(_names)}"


async def state(client: Client, queue: str, figure: str, expected: int) -> None:
    """Wait until a figure of the queue has this value."""
    with anyio.fail_after(WAIT_SECONDS):
        while (await client.queue_info(queue))[figure] != expected:  # noqa: ASYNC110 - the broker is another process
            await anyio.sleep(0.01)


async def take(consumer: Consumer, count: int) -> list[Message]:
    """Take so many messages, and settle none."""
    taken: list[Message] = []
    while len(taken) < count:
        taken += await consumer.receive(max_messages=count - len(taken))
    return taken


async def test_a_failing_handler_is_told_what_failed_and_its_message_dies_in_the_end(
    broker: BrokerProcess, queue: str
) -> None:
    seen: list[tuple[int, str | None, str | None]] = []
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, retry=[0.02, 0.05], max_deliveries=3)
            await client.send(queue, b"poison", key="k")
            async with client.consumer(queue) as consumer:
                for number in range(3):
                    message = await consumer.__anext__()
                    seen.append((message.attempt, message.redelivery_reason, message.last_error))
                    with pytest.raises(ValueError, match="no stock"):
                        async with message:
                            raise ValueError(f"no stock {number}")
                await consumer.flush()
                await state(client, queue, "dead", 1)
                assert len(await consumer.receive(max_wait=0.1)) == 0
            assert seen == [
                (1, None, None),
                (2, "nacked", "ValueError: no stock 0"),
                (3, "nacked", "ValueError: no stock 1"),
            ]
            (letter,) = await client.dead_letters(queue)
            assert (letter.message.body, letter.message.key, letter.message.attempts) == (b"poison", "k", 3)
            assert (letter.death.origin, letter.death.reason, letter.death.attempts) == (queue, "max_deliveries", 3)
            assert letter.death.error == "ValueError: no stock 2"
            assert abs(letter.death.died_at.timestamp() - time.time()) < 60
            assert await client.redrive(queue) == 1
            async with client.consumer(queue) as consumer:
                again = await consumer.__anext__()
                assert (again.body, again.attempt, again.last_error) == (b"poison", 1, None)
                await again.ack(confirm=True)
            assert (await client.queue_info(queue))["settled_total"] == 1


async def test_a_handler_says_reject_or_retry_and_its_loop_goes_on(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            await client.send(queue, b"nonsense")
            await client.send(queue, b"too early")
            seen: list[tuple[bytes, int]] = []
            async with client.consumer(queue) as consumer:
                async for message in consumer:
                    async with message:
                        seen.append((message.body, message.attempt))
                        if message.body == b"nonsense":
                            raise Reject("no such order")
                        if message.attempt == 1:
                            raise Retry("not yet", delay=0.01)
                        assert message.last_error == "not yet"
                        break
                await consumer.flush()
                assert consumer.statistics().rejected == 1
            assert seen == [(b"nonsense", 1), (b"too early", 1), (b"too early", 2)]
            (letter,) = await client.dead_letters(queue)
            assert (letter.death.reason, letter.death.error) == ("rejected", "no such order")
            assert await client.discard(queue) == 1
            assert await client.dead_letters(queue) == []


async def test_dead_letters_go_to_the_queue_that_is_named_and_back(broker: BrokerProcess, queue: str) -> None:
    grave = queue + "-grave"
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(grave)
            await client.declare_queue(queue, dead_letter=grave)
            await client.send(grave, b"has always been here")
            async with client.producer(queue) as producer:
                await producer.send_many([b"%d" % number for number in range(10)])
            async with client.consumer(queue) as consumer:
                batch = await consumer.receive(max_messages=10, max_wait=5)
                await batch.reject("closed")
                await consumer.flush()
            letters = await client.dead_letters(grave)
            assert [letter.message.body for letter in letters] == [b"%d" % number for number in range(10)]
            assert {letter.death.origin for letter in letters} == {queue}
            info = await client.queue_info(queue)
            assert (info["ready"], info["dead"], info["moved_total"]) == (0, 0, 10)
            moved = await client.redrive(grave, wanted=lambda letter: letter.message.body in (b"3", b"7"))
            assert moved == 2
            async with client.consumer(queue) as consumer:
                assert sorted(message.body for message in await take(consumer, 2)) == [b"3", b"7"]
            async with client.consumer(grave) as consumer:
                found = {message.body: message for message in await take(consumer, 9)}
                for message in found.values():
                    await message.nack(delay=0)
                await consumer.flush()
                assert found[b"has always been here"].dead_letter is None
                died = found[b"0"]
                assert died.dead_letter is not None
                assert (died.dead_letter.origin, died.dead_letter.attempts) == (queue, 1)
                assert (died.dead_letter.reason, died.dead_letter.error) == ("rejected", "closed")
                assert (died.attempt, died.redelivery_reason) == (1, None)
            assert await client.discard(grave, count=3) == 3
            assert len(await client.dead_letters(grave)) == 5
            await client.delete_queue(queue)
            with pytest.raises(Conflict, match="are gone"):
                await client.redrive(grave)
            await client.declare_queue(queue)
            assert await client.redrive(grave, to=queue, rate=1000) == 5
            with pytest.raises(QueueNotFound):
                await client.redrive(queue + "-nowhere")


async def test_what_is_too_old_goes_from_wherever_it_is(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, ttl=0.3, retry_delay=0.0)
            await client.send(queue, b"waits too long")
            await client.send(queue, b"is short-lived", ttl=0.05)
            await client.send(queue, b"is delayed", delay=0.2, ttl=0.05)
            await state(client, queue, "expired_total", 3)
            await client.declare_queue(queue, ttl=1.5)
            await client.send(queue, b"comes back too late")
            async with client.consumer(queue) as consumer:
                message = await consumer.__anext__()
                await anyio.sleep(1.6)
                await message.nack()
                await consumer.flush()
            await state(client, queue, "expired_total", 4)
            assert (await client.queue_info(queue))["dead"] == 0
            await client.declare_queue(queue, ttl=0.3, dead_letter="nowhere-yet")
            await client.send(queue, b"dies of age")
            await state(client, queue, "dead", 1)
            (letter,) = await client.dead_letters(queue)
            assert (letter.message.body, letter.death.reason, letter.death.error) == (b"dies of age", "ttl", "")


async def test_a_full_queue_refuses_or_makes_room(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, max_length=3)
            async with client.producer(queue) as producer:
                await producer.send_many([b"1", b"2", b"3"])
                with pytest.raises(QueueFull, match="max_length") as full:
                    await producer.send(b"4")
                assert (full.value.retryable, full.value.max_length) == (True, 3)
                with pytest.raises(QueueFull, match="smaller") as never:
                    await producer.send_many([b"x"] * 4)
                assert not never.value.retryable
                await client.declare_queue(queue, overflow="drop_head")
                await producer.send_many([b"4", b"5"])
                assert [message.body for message in await client.peek(queue)] == [b"3", b"4", b"5"]
                await client.declare_queue(queue, overflow="dead_letter")
                await producer.send(b"6")
                assert [letter.message.body for letter in await client.dead_letters(queue)] == [b"3"]
                await client.declare_queue(queue, max_length=None, max_bytes=1_000, overflow="reject")
                await producer.send(b"y" * 500)
                with pytest.raises(QueueFull, match="max_bytes"):
                    await producer.send(b"z" * 900)
            info = await client.queue_info(queue)
            assert (info["dropped_total"], info["dead_total"], info["ready"]) == (2, 1, 4)


async def test_many_senders_share_what_is_left_of_a_queue(broker: BrokerProcess, queue: str) -> None:
    """Refused while others are under way: nobody's order or receipt is disturbed by that."""
    taken: list[int] = []
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, max_length=50)
            async with client.producer(queue) as producer:

                async def send_one(number: int) -> None:
                    try:
                        await producer.send(b"%d" % number)
                    except QueueFull:
                        return
                    taken.append(number)

                async with anyio.create_task_group() as tasks:
                    for number in range(200):
                        tasks.start_soon(send_one, number)
                await client.purge_queue(queue)
                await producer.send(b"there is room again")
            assert len(taken) <= 50
            assert (await client.queue_info(queue))["published_total"] == len(taken) + 1


async def test_a_queue_that_nobody_uses_goes(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, expires=1.0)
            async with client.consumer(queue):
                await anyio.sleep(1.5)
                assert (await client.queue_info(queue))["consumers"] == 1
            while True:
                try:
                    await client.queue_info(queue)
                except QueueNotFound:
                    break
                await anyio.sleep(0.05)
