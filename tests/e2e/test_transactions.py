"""Transactions against real brokers, on trio and on asyncio: all of it or nothing, also when the broker is killed."""

# ruff: noqa: PT012 (what a block does before it ends is the story)

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import Reject, connect
from sluicemq.wire.errors import (
    AlreadySettled,
    BatchTooLarge,
    Conflict,
    LeaseLost,
    OutcomeUnknown,
    QueueFull,
    QueueNotFound,
    QueuePaused,
)
from tests.e2e.broker_process import unused_port
from tests.e2e.test_client import wait_counts

if TYPE_CHECKING:
    from sluicemq.client import Client, Consumer
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


async def bodies(client: Client, name: str) -> list[bytes]:
    return [message.body for message in await client.peek(name, 1_000)]


async def taken(consumer: Consumer, count: int) -> list[bytes]:
    found = []
    async for message in consumer:
        async with message:
            found.append(message.body)
        if len(found) == count:
            return found
    raise AssertionError("the consumer ended")


async def test_messages_for_queues_and_topics_come_together_or_not_at_all(broker: BrokerProcess, queue: str) -> None:
    billing, events = f"{queue}-billing", f"{queue}-events"
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        await client.declare_queue(billing)
        await client.declare_topic(events)
        await client.subscribe(f"{events}.*.paid", f"{queue}-paid")
        async with client.transaction() as tx:
            await tx.send(queue, b"order", key="42", headers={"n": 1}, message_id="o-42")
            await tx.send(f"{events}.eu.paid", b"paid")
            await tx.send(billing, b"bill")
            await tx.send(f"{events}.us.paid", b"paid too", subject="cash")
            await tx.send(queue, b"second")
            assert await bodies(client, queue) == [], "nothing is seen before"
        assert tx.committed
        assert await bodies(client, queue) == [b"order", b"second"]
        assert await bodies(client, billing) == [b"bill"]
        assert tx.receipts[0].message_id == "o-42"
        async with client.consumer(f"{queue}-paid") as consumer:
            batch = await consumer.receive(10, 5.0)
            got = [(message.destination, message.subject, message.body, message.position) for message in batch]
        assert got == [
            (f"{events}.eu.paid", None, b"paid", tx.receipts[1].position),
            (f"{events}.us.paid", "cash", b"paid too", tx.receipts[3].position),
        ]
        async with client.consumer(queue) as consumer:
            batch = await consumer.receive(10, 5.0)
            first, second = batch
            await batch.ack()
            assert (first.key, first.headers, first.position) == ("42", {"n": 1}, tx.receipts[0].position)
            assert second.position == tx.receipts[4].position
        with pytest.raises(QueueNotFound):
            async with client.transaction() as tx:
                await tx.send(queue, b"never")
                await tx.send(f"{queue}-nowhere", b"never")
        assert not tx.committed
        with pytest.raises(ZeroDivisionError):
            async with client.transaction() as tx:
                await tx.send(queue, b"never")
                raise ZeroDivisionError
        async with client.transaction() as tx:
            await tx.send(queue, b"later", delay=60.0)
            await tx.send(queue, b"urgent", priority=9)
            await tx.send(queue, b"mortal", ttl=60.0)
        await wait_counts(client, queue, (2, 0, 1))
        assert await bodies(client, queue) == [b"urgent", b"mortal"]


async def test_ids_are_judged_within_a_transaction_too(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue, dedup_window=60.0)
        await client.declare_queue(f"{queue}-other")
        first = await client.send(queue, b"once", message_id="o-1")
        async with client.transaction() as tx:
            await tx.send(queue, b"again", message_id="o-1")
            await tx.send(queue, b"new", message_id="o-2")
            await tx.send(f"{queue}-other", b"elsewhere", message_id="o-1")
            await tx.send(queue, b"new again", message_id="o-2")
        assert [receipt.duplicate for receipt in tx.receipts] == [True, False, False, True]
        assert tx.receipts[0].position == first.position
        assert tx.receipts[3].position == tx.receipts[1].position
        assert await bodies(client, queue) == [b"once", b"new"]
        assert await bodies(client, f"{queue}-other") == [b"elsewhere"]
        assert (await client.send(queue, b"late", message_id="o-2")).position == tx.receipts[1].position


async def test_what_is_consumed_is_settled_with_what_is_produced(broker: BrokerProcess, queue: str) -> None:
    target = f"{queue}-target"
    async with connect(broker.url) as client:
        for name in (queue, target):
            await client.declare_queue(name)
        for number in range(20):
            await client.send(queue, b"%d" % number)
        async with client.consumer(queue) as consumer:
            left = 20
            async for message in consumer:
                async with message, client.transaction() as tx:
                    await tx.send(target, b"<" + message.body + b">")
                    await tx.ack(message)
                left -= 1
                if not left:
                    break
            assert consumer.statistics().acked == 20
        await wait_counts(client, queue, (0, 0, 0))
        assert (await client.queue_info(queue))["settled_total"] == 20
        assert await bodies(client, target) == [b"<%d>" % number for number in range(20)]


async def test_a_batch_is_settled_as_a_whole(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        await client.declare_queue(f"{queue}-sums")
        async with client.producer(queue) as producer:
            await producer.send_many([b"%d" % number for number in range(100)])
        async with client.consumer(queue) as consumer:
            batch = await consumer.receive(100, 5.0)
            async with batch, client.transaction() as tx:
                await tx.send(f"{queue}-sums", b"%d" % sum(map(int, batch.bodies)))
                await tx.ack(batch)
            with pytest.raises(AlreadySettled):
                await batch.nack()
        await wait_counts(client, queue, (0, 0, 0))
        assert await bodies(client, f"{queue}-sums") == [b"4950"]


async def test_a_rollback_gives_the_message_back_to_its_own_block(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        await client.send(queue, b"poor")
        async with client.consumer(queue) as consumer:
            message = await anext(consumer)
            with pytest.raises(ValueError, match="bad day"):
                async with message, client.transaction() as tx:
                    await tx.send(queue, b"never")
                    await tx.ack(message)
                    with pytest.raises(AlreadySettled):
                        await message.nack()
                    raise ValueError("bad day")
            message = await anext(consumer)
            assert (message.body, message.attempt, message.last_error) == (b"poor", 2, "ValueError: bad day")
            async with client.transaction() as tx:
                async with message:  # the blocks the other way round
                    await tx.ack(message)
                await tx.rollback()
            message = await anext(consumer)
            assert message.attempt == 3, "it was nacked, because its own block was over"
            async with client.transaction() as tx, message:
                await tx.ack(message)
                raise Reject("no good")
            await wait_counts(client, queue, (0, 0, 0))
        assert (await client.queue_info(queue))["dead"] == 1
        with pytest.raises(Conflict):
            await tx.send(queue, b"too late")


async def test_whoever_takes_no_more_voids_all_of_it(broker: BrokerProcess, queue: str) -> None:
    small = f"{queue}-small"
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        await client.declare_queue(small, max_length=2, overflow="reject")
        for number in range(2):
            await client.send(small, b"%d" % number)
        with pytest.raises(QueueFull):
            async with client.transaction() as tx:
                await tx.send(queue, b"never")
                await tx.send(small, b"never")
        async with client.consumer(small, credit=1) as consumer:
            message = await anext(consumer)
            async with message, client.transaction() as tx:  # what it frees has room for what it brings
                await tx.send(small, b"replaced")
                await tx.ack(message)
        assert await bodies(client, small) == [b"1", b"replaced"]
        await client.pause_queue(small, publish=True)
        with pytest.raises(QueuePaused):
            async with client.transaction() as tx:
                await tx.send(queue, b"never")
                await tx.send(small, b"never")
        assert await bodies(client, queue) == []


async def test_a_lost_lease_voids_all_of_it(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client, connect(broker.url) as other:
        await client.declare_queue(queue)
        await client.declare_queue(f"{queue}-target")
        await client.send(queue, b"slow")
        async with client.consumer(queue, lease=0.3, auto_renew=False) as consumer:
            message = await anext(consumer)
            async with other.consumer(queue) as second:
                again = await anext(second)  # once the first lease is over
                tx = client.transaction()
                with pytest.raises(LeaseLost):
                    async with tx:
                        await tx.send(f"{queue}-target", b"never")
                        await tx.ack(message)
                await again.ack(confirm=True)
        assert await bodies(client, f"{queue}-target") == []


async def test_limits_are_told_before_anything_is_sent(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        tx = client.transaction()
        with pytest.raises(BatchTooLarge):
            while True:
                await tx.send(queue, bytes(500_000))
        await tx.rollback()
        assert await bodies(client, queue) == []
        with pytest.raises(TypeError):
            await client.transaction().ack(queue)  # type: ignore[arg-type]


async def test_many_transactions_run_beside_each_other(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)

        async def one(number: int) -> None:
            async with client.transaction() as tx:
                await tx.send(queue, b"%d" % number)
                if number % 5 == 0:
                    await tx.send(f"{queue}-nowhere", b"never")

        refused = 0

        async def counted(number: int) -> None:
            nonlocal refused
            try:
                await one(number)
            except QueueNotFound:
                refused += 1

        with anyio.fail_after(TEST_SECONDS_MAX):
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(counted, number)
        assert refused == 40
        assert sorted(map(int, await bodies(client, queue))) == [n for n in range(200) if n % 5]


async def test_a_kill_in_between_leaves_each_transaction_done_once_or_void(start_broker: StartBroker) -> None:
    port = unused_port()
    broker = start_broker(port=port)
    done: list[int] = []
    void: list[int] = []
    unknown: list[int] = []
    async with connect(broker.url, connect_timeout=60.0, request_timeout=60.0) as client:
        for name in ("in", "left", "right"):
            await client.declare_queue(name)
        async with client.producer("in") as producer:
            await producer.send_many([b"%d" % number for number in range(400)])

        async def transform() -> None:
            async with client.consumer("in", credit=20) as consumer:
                async for message in consumer:
                    number = int(message.body)
                    try:
                        async with message, client.transaction() as tx:
                            await tx.send("left", message.body)
                            await tx.send("right", message.body)
                            await tx.ack(message)
                    except LeaseLost:
                        void.append(number)
                    except OutcomeUnknown:
                        unknown.append(number)
                    else:
                        done.append(number)
                    if len(set(done)) == 400:
                        tasks.cancel_scope.cancel()

        async def kill() -> None:
            for part in range(1, 4):
                while len(done) < 90 * part:  # noqa: ASYNC110 - no event tells how far the other task is
                    await anyio.sleep(0.005)
                broker.kill()
                broker.start()

        with anyio.fail_after(TEST_SECONDS_MAX):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transform)
                tasks.start_soon(kill)
        assert not unknown, "a resend finds out in time"
        assert sorted(done) == list(range(400)), "each once"
        left, right = await bodies(client, "left"), await bodies(client, "right")
        assert left == right, "both or none"
        assert sorted(map(int, left)) == list(range(400)), "none twice"
    broker.stop()
