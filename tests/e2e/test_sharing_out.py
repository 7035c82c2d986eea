"""Who gets which messages, between real brokers and clients on trio and asyncio: modes, policies, keys and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio
import pytest

from sluicemq.client import NewMessage, connect
from sluicemq.wire.errors import ConsumerConflict

if TYPE_CHECKING:
    from sluicemq.client import Client, Consumer, Message
    from tests.e2e.broker_process import BrokerProcess

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


async def fill(client: Client, queue: str, count: int, keys: tuple[str, ...] = ()) -> None:
    messages = [NewMessage(b"%d" % number, key=keys[number % len(keys)] if keys else None) for number in range(count)]
    async with client.producer(queue) as producer:
        await producer.send_many(messages)


async def take(consumer: Consumer, count: int) -> list[Message]:
    """Take so many messages, and settle none."""
    taken: list[Message] = []
    while len(taken) < count:
        taken += await consumer.receive(max_messages=count - len(taken), max_wait=20)
    return taken


async def settle(messages: list[Message]) -> None:
    for message in messages:
        await message.ack()


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.body) for message in messages]


async def test_an_exclusive_queue_has_one_consumer_and_names_it(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as other:
            await client.declare_queue(queue, mode="exclusive")
            await fill(client, queue, 2)
            async with client.consumer(queue) as holder:
                held = await take(holder, 1)
                with pytest.raises(ConsumerConflict, match="exclusive") as refused:
                    async with other.consumer(queue):
                        raise AssertionError("it is refused")
                assert refused.value.fields["queue"] == queue
                assert refused.value.fields["consumer"] == 1
                await settle(held)
            async with other.consumer(queue) as next_one:
                held = await take(next_one, 1)
                assert numbers(held) == [1]
                await settle(held)


async def test_with_failover_the_next_one_takes_over_when_one_goes(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as other:
            await client.declare_queue(queue, mode="failover")
            async with other.consumer(queue, weight=1) as waiting:
                async with client.consumer(queue, weight=2, credit=2) as active:
                    await fill(client, queue, 4)
                    held = await take(active, 2)
                    assert numbers(held) == [0, 1]
                    attached = (await client.queue_info(queue))["attached"]
                    assert [(one["active"], one["weight"]) for one in attached] == [(False, 1), (True, 2)]
                    assert attached[0]["in_flight"] == 0
                    await settle(held)
                held = await take(waiting, 1)
                assert int(held[0].body) >= 2
                await settle(held)
                (last,) = (await client.queue_info(queue))["attached"]
                assert last["active"]


async def test_a_weight_is_a_share(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, dispatch="weighted")
            taken = {"heavy": 0, "light": 0}

            async def work(name: str, weight: int) -> None:
                async with client.consumer(queue, credit=1, weight=weight) as consumer:
                    while sum(taken.values()) < 60:
                        batch = await consumer.receive(max_messages=1, max_wait=0.2)
                        taken[name] += len(batch)
                        await batch.ack()

            await fill(client, queue, 60)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work, "heavy", 3)
                tasks.start_soon(work, "light", 1)
            assert sum(taken.values()) == 60
            assert min(taken.values()) > 0


@pytest.mark.parametrize("policy", ["random", "least_in_flight", "two_choices"])
async def test_every_policy_hands_everything_out(
    broker: BrokerProcess, queue: str, policy: Literal["random", "least_in_flight", "two_choices"]
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, dispatch=policy)
            async with client.consumer(queue, credit=10) as one, client.consumer(queue, credit=10) as two:
                await fill(client, queue, 20)
                held = await take(one, 10) + await take(two, 10)
                assert sorted(numbers(held)) == list(range(20))
                await settle(held)


async def test_messages_of_a_key_come_one_after_the_other(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, ordering="key", retry_delay=0.2)
            await fill(client, queue, 9, keys=("red", "blue", "green"))
            async with client.consumer(queue) as one, client.consumer(queue) as two:
                first: dict[str, int] = {}
                seen: list[tuple[str, int]] = []
                nacked = False
                while len(seen) < 9:
                    for consumer in (one, two):
                        for message in await consumer.receive(max_messages=10, max_wait=0.1):
                            assert message.key is not None
                            assert message.key not in first, "one message of a key is out at a time"
                            first[message.key] = int(message.body)
                            if message.key == "blue" and not nacked:
                                nacked = True
                                del first[message.key]
                                await message.nack()
                                continue
                            seen.append((message.key, int(message.body)))
                            del first[message.key]
                            await message.ack()
            for position, key in enumerate(("red", "blue", "green")):
                assert [number for of, number in seen if of == key] == [position, position + 3, position + 6]


async def test_a_key_may_have_more_messages_out_with_one_consumer(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, ordering="key", key_in_flight_max=3)
            async with client.consumer(queue) as consumer:
                await fill(client, queue, 5, keys=("red",))
                held = await take(consumer, 3)
                assert numbers(held) == [0, 1, 2]
                assert not len(await consumer.receive(max_messages=1, max_wait=0.2))
                await held.pop(0).ack()
                held += await take(consumer, 1)
                assert numbers(held) == [1, 2, 3]
                await settle(held)
                await settle(await take(consumer, 1))
