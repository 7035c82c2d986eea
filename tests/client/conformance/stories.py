"""What a client does, told once: every story runs on each face, by many tasks or threads at once with one client.

A story gets the client and its own number; `queue_of` names a queue of its own. It waits for messages, never for time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluicemq.client import NewMessage, Reject, Retry
from sluicemq.client.errors import (
    AlreadySettled,
    BatchTooLarge,
    ClientClosed,
    InvalidRequest,
    LeaseLost,
    QueueFull,
    QueueNotFound,
    RequestFailed,
)

WAIT_SECONDS = 60.0


class Broken(Exception):
    """What a handler of these stories fails with."""


async def queue_of(client: Any, story: str, number: int, **settings: Any) -> str:
    name = f"{story}.{number}"
    await client.declare_queue(name, **settings)
    return name


async def sent_messages_come_in_order_and_once(client, number):
    queue = await queue_of(client, "in_order", number)
    async with client.producer(queue) as producer:
        receipts = [await producer.send(b"%d" % each, key=f"k{each}") for each in range(5)]
    async with client.consumer(queue) as consumer:
        for each in range(5):
            batch = await consumer.receive(1, max_wait=WAIT_SECONDS)
            (message,) = batch
            assert (message.body, message.key, message.attempt) == (b"%d" % each, f"k{each}", 1)
            assert (message.position, message.message_id) == (receipts[each].position, receipts[each].message_id)
            await message.ack()
        await consumer.flush()
        assert (await client.queue_info(queue))["settled_total"] == 5
        assert len(await consumer.receive(max_wait=0)) == 0


async def submitted_messages_have_receipts_and_their_order(client, number):
    queue = await queue_of(client, "submitted", number)
    async with client.producer(queue) as producer:
        submitted = [await producer.submit(b"%d" % each) for each in range(200)]
        await producer.flush()
        assert all(each.done for each in submitted)
        receipts = [await each for each in submitted]
    assert len({receipt.position for receipt in receipts}) == 200
    bodies = []
    async with client.consumer(queue) as consumer:
        async for message in consumer:
            bodies.append(message.body)
            await message.ack()
            if len(bodies) == 200:
                break
    assert bodies == [b"%d" % each for each in range(200)]


async def a_failed_submission_is_raised_by_flush(client, number):
    async with client.producer(f"nowhere.{number}") as producer:
        lost = await producer.submit(b"x")
        with pytest.raises(QueueNotFound):
            await producer.flush()
        with pytest.raises(QueueNotFound):
            await lost


async def a_batch_is_stored_as_a_whole(client, number):
    queue = await queue_of(client, "whole", number, max_length=10)
    async with client.producer(queue) as producer:
        first = NewMessage(b"0", key="a", headers={"n": 1}, message_id="mine")
        receipts = await producer.send_many([first, *(b"%d" % each for each in range(1, 8))])
        assert (len(receipts), receipts[0].message_id) == (8, "mine")
        with pytest.raises(QueueFull):
            await producer.send_many([b"x"] * 3)
        with pytest.raises(BatchTooLarge):
            await producer.send_many([b"x"] * 100_001)
        with pytest.raises(TypeError, match="encode"):
            await producer.send("text")
        with pytest.raises(TypeError):
            await producer.send_many(b"one body")
        assert len(await producer.send_many([])) == 0
    async with client.consumer(queue) as consumer:
        batch = await consumer.receive(8, max_wait=WAIT_SECONDS)
        assert batch.bodies == [b"%d" % each for each in range(8)]
        assert (batch[0].key, dict(batch[0].headers)) == ("a", {"n": 1})
        await batch.ack(confirm=True)
    info = await client.queue_info(queue)
    assert (info["ready"], info["leased"], info["settled_total"]) == (0, 0, 8)


async def a_handler_says_what_becomes_of_its_message(client, number):
    queue = await queue_of(client, "handler", number, retry=[0.001], max_deliveries=10)
    await client.send(queue, b"job")
    seen = []
    async with client.consumer(queue) as consumer:
        async for message in consumer:
            seen.append((message.attempt, message.last_error))
            if message.attempt == 1:
                with pytest.raises(Broken):
                    async with message:
                        raise Broken("no luck")
            elif message.attempt == 2:
                async with message:
                    raise Retry("not yet", delay=0)
            else:
                async with message:
                    raise Reject("never")
                break
        await consumer.flush()
    assert seen == [(1, None), (2, "Broken: no luck"), (3, "not yet")]
    (letter,) = await client.dead_letters(queue)
    assert (letter.message.body, letter.death.reason, letter.death.error) == (b"job", "rejected", "never")


async def a_second_verdict_must_be_the_same(client, number):
    queue = await queue_of(client, "verdicts", number)
    async with client.producer(queue) as producer:
        await producer.send_many([b"1", b"2", b"3", b"4"])
    async with client.consumer(queue) as consumer:
        one = await anext(consumer)
        await one.ack()
        await one.ack(confirm=True)
        with pytest.raises(AlreadySettled):
            await one.reject("too late")
        two, three = await anext(consumer), await anext(consumer)
        await consumer.ack_through(three)
        await two.ack()
        with pytest.raises(AlreadySettled):
            await two.nack()
        batch = await consumer.receive(10, max_wait=WAIT_SECONDS)
        await batch.nack(delay=3600)
        with pytest.raises(AlreadySettled):
            await batch[0].ack()
        await consumer.flush()
        figures = consumer.statistics()
        assert (figures.acked, figures.nacked, figures.handed_out, figures.in_hand) == (3, 1, 4, 0)
    (delayed,) = [each async for each in client.delayed(queue)]
    assert delayed.attempts == 1


async def a_lease_that_is_over_is_no_secret(client, number):
    queue = await queue_of(client, "lease", number, retry=[0.001])
    await client.send(queue, b"slow")
    told: list[LeaseLost] = []
    async with client.consumer(queue, lease=1.0, auto_renew=False, on_lease_lost=told.append) as consumer:
        late = await anext(consumer)
        again = await anext(consumer)  # nobody renews, so the same message comes again
        assert (again.message_id, again.redelivery_reason) == (late.message_id, "expired")
        # That somebody has it is reported a little before the end: too late where the machine stands still just then.
        assert again.attempt in (1, 2)
        with pytest.raises(LeaseLost):
            await late.ack()
        assert late.lease_lost
        assert told[0].queue == queue
        await (await extended(again, consumer)).ack(confirm=True)
        with pytest.raises(LeaseLost):
            await consumer.flush()
        await consumer.flush()


async def extended(message, consumer):
    """Get more time for *message*: for a later delivery of it where the machine stood still for longer than a lease."""
    while True:
        try:
            await message.extend(60)
        except LeaseLost:
            message = await anext(consumer)
        else:
            return message


async def what_was_not_handed_out_goes_back_without_an_attempt(client, number):
    queue = await queue_of(client, "given_back", number)
    async with client.producer(queue) as producer:
        await producer.send_many([b"%d" % each for each in range(20)])
    async with client.consumer(queue) as consumer:
        async for message in consumer:
            assert message.body == b"0"
            await message.ack()
            break
    async with client.consumer(queue) as consumer:
        async for message in consumer:
            first = message
            break
        await consumer.drain()
        assert [message.body async for message in consumer] == []
        with pytest.raises(ClientClosed):
            await consumer.receive()
        await first.ack(confirm=True)  # in hand, so it can still be settled
    async with client.consumer(queue) as consumer:
        seen: list[tuple[bytes, int]] = []
        while len(seen) < 18:
            batch = await consumer.receive(18, max_wait=WAIT_SECONDS)
            seen += [(message.body, message.attempt) for message in batch]
            await batch.ack()
    assert seen == [(b"%d" % each, 1) for each in range(2, 20)]


async def rolled_back(client, target, message):
    async with client.transaction() as tx:
        await tx.send(target, b"never")
        await tx.ack(message)
        raise Broken


async def a_transaction_holds_or_does_not(client, number):
    source, target = await queue_of(client, "tx_in", number), await queue_of(client, "tx_out", number)
    await client.send(source, b"order")
    async with client.consumer(source) as consumer:
        message = await anext(consumer)
        with pytest.raises(Broken):
            await rolled_back(client, target, message)
        async with message, client.transaction() as tx:
            await tx.send(target, b"bill", key="a")
            await tx.send(target, b"parcel")
            await tx.ack(message)
        assert tx.committed
        assert len(tx.receipts) == 2
    assert (await client.queue_info(source))["settled_total"] == 1
    assert [peeked.body for peeked in await client.peek(target)] == [b"bill", b"parcel"]


async def a_prepared_message_is_seen_after_its_commit(client, number):
    queue = await queue_of(client, "half", number)
    async with client.prepare(queue, b"kept", check="nobody") as half:
        assert (await client.queue_info(queue))["ready"] == 0
        assert half.id in [row["transaction"] async for row in client.transactions()]
    with pytest.raises(Broken):
        async with client.prepare(queue, b"dropped", check="nobody"):
            raise Broken
    assert [peeked.body for peeked in await client.peek(queue)] == [b"kept"]


async def delayed_and_retained_messages_can_be_read(client, number):
    queue = await queue_of(client, "read", number, retention={"seconds": 3600})
    later = datetime.now(UTC) + timedelta(days=1)
    receipt = await client.send(queue, b"tomorrow", at=later)
    with pytest.raises(TypeError):
        await client.send(queue, b"x", at=later, delay=1)
    assert [each.position async for each in client.delayed(queue)] == [receipt.position]
    assert await client.reschedule(queue, receipt, delay=0) == 1
    async with client.producer(queue) as producer:
        await producer.send_many([b"%d" % each for each in range(30)])
    replay = client.replay(queue)
    bodies = [message.body async for message in replay]
    assert sorted(bodies) == sorted([b"tomorrow", *(b"%d" % each for each in range(30))])
    assert await client.replay(queue, replay.position).receive() == []
    half = client.replay(queue)
    read = [await anext(half) for _ in range(10)]
    rest = [message.body async for message in client.replay(queue, half.position)]
    assert [message.body for message in read] + rest == bodies


async def topics_reach_their_subscriptions(client, number):
    topic = f"events-{number}"
    await client.declare_topic(topic)
    paid = await client.subscribe(f"{topic}.*.paid", f"paid-{number}")
    await client.send(f"{topic}.eu.paid", b"1")
    await client.send(f"{topic}.eu.lost", b"2")
    async with client.consumer(paid.name) as consumer:
        (message,) = await consumer.receive(10, max_wait=WAIT_SECONDS)
        assert (message.body, message.destination) == (b"1", f"{topic}.eu.paid")
        await message.ack(confirm=True)
    assert await client.unsubscribe(paid.name) == 0
    assert await client.delete_topic(topic) == 0


async def requests_are_replied_to(client, number):
    queue = await queue_of(client, "asked", number)
    told = []
    async with client.consumer(queue) as consumer:
        first = await client.submit_request(queue, b"2+2", on_reply=lambda reply, _error: told.append(reply))
        message = await anext(consumer)
        assert message.wants_reply
        assert await message.reply(b"4", headers={"by": "me"})
        await message.ack()
        reply = await first
        assert (reply.body, dict(reply.headers), told[0].body) == (b"4", {"by": "me"}, b"4")
        second = await client.submit_request(queue, b"1/0")
        async with await anext(consumer):
            raise Reject("nobody can")
        with pytest.raises(RequestFailed, match="nobody can"):
            await second
        await (await client.tell(queue, b"by the way"))
        message = await anext(consumer)
        assert not message.wants_reply
        assert not await message.reply(b"?")
        await message.ack(confirm=True)


async def mistakes_are_named(client, number):
    queue = await queue_of(client, "mistakes", number)
    with pytest.raises(QueueNotFound):
        await client.queue_info(f"nowhere.{number}")
    with pytest.raises(QueueNotFound):
        await client.send(f"nowhere.{number}", b"x")
    with pytest.raises(InvalidRequest):
        await client.declare_queue(queue, max_deliveries=-1)
    with pytest.raises(QueueNotFound):
        await client.consumer(f"nowhere.{number}").__aenter__()
    consumer = client.consumer(queue)
    with pytest.raises(ClientClosed, match="with"):
        await anext(consumer)
    async with client.consumer(queue) as ending:
        assert await client.delete_queue(queue) == 0
        with pytest.raises(QueueNotFound):
            await anext(ending)
        with pytest.raises(QueueNotFound):
            await anext(ending)


STORIES = [
    sent_messages_come_in_order_and_once,
    submitted_messages_have_receipts_and_their_order,
    a_failed_submission_is_raised_by_flush,
    a_batch_is_stored_as_a_whole,
    a_handler_says_what_becomes_of_its_message,
    a_second_verdict_must_be_the_same,
    a_lease_that_is_over_is_no_secret,
    what_was_not_handed_out_goes_back_without_an_attempt,
    a_transaction_holds_or_does_not,
    a_prepared_message_is_seen_after_its_commit,
    delayed_and_retained_messages_can_be_read,
    topics_reach_their_subscriptions,
    requests_are_replied_to,
    mistakes_are_named,
]
