"""Duplicates by message id over real processes: confirmed with the first position, also after kill -9 and restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from sluicemq.client import NewMessage, connect
from sluicemq.client.errors import InvalidRequest

if TYPE_CHECKING:
    from sluicemq.client import Client
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

SMALL = (
    *("--segment-bytes", "256KiB"),
    *("--batch-bytes-max", "32KiB"),
    *("--message-bytes-max", "16KiB"),
    *("--snapshot-every-bytes", "64KiB"),
)
IDS = 6_000
BATCH = 200


async def send_all(client: Client, destination: str, first: int = 0) -> list[Any]:
    """Send message 0 to IDS - 1 with their ids, in batches of which some contain one id twice."""
    receipts: list[Any] = []
    async with client.producer(destination) as producer:
        for start in range(first, IDS, BATCH):
            messages = [NewMessage(b"%d" % number, message_id=f"o-{number}") for number in range(start, start + BATCH)]
            receipts += await producer.send_many(messages)
    return receipts


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGKILL"])
def test_what_was_sent_before_is_confirmed_where_it_lies_after_restarts(stop: str, start_broker: StartBroker) -> None:
    broker = start_broker(options=SMALL)

    async def publish() -> list[str]:
        async with connect(broker.url) as client:
            await client.declare_queue("orders", dedup_window=3_600)
            await client.declare_topic("events", dedup_window=3_600)
            await client.subscribe("events.#", "audit")
            with pytest.raises(InvalidRequest, match="declare the topic with it"):
                await client.subscribe("events.#", "other", dedup_window=60)
            receipts = await send_all(client, "orders")
            assert not any(receipt.duplicate for receipt in receipts)
            await send_all(client, "events.eu")
            return [receipt.position for receipt in receipts]

    async def publish_again(positions: list[str]) -> None:
        async with connect(broker.url) as client:
            again = await send_all(client, "orders")
            assert [receipt.position for receipt in again] == positions
            assert all(receipt.duplicate for receipt in again)
            await send_all(client, "events.us")
            info = await client.queue_info("orders")
            assert (info["ready"], info["duplicates_total"], info["dedup_ids"]) == (IDS, IDS, IDS)
            assert (await client.queue_info("audit"))["ready"] == IDS
            (topic,) = await client.topics()
            assert (topic["published_total"], topic["duplicates_total"]) == (IDS, IDS)

    async def both_in_one_batch() -> None:
        async with connect(broker.url) as client, client.producer("orders") as producer:
            ids = ("o-0", "new", "new", None, None, "o-1", "o-2")
            receipts = await producer.send_many([NewMessage(b"x", message_id=id_) for id_ in ids])
            assert [receipt.duplicate for receipt in receipts] == [True, False, True, False, False, True, True]
            assert receipts[2].position == receipts[1].position
            assert (await client.queue_info("orders"))["ready"] == IDS + 3

    positions = trio.run(publish)
    _restart(broker, stop)
    trio.run(publish_again, positions)
    trio.run(both_in_one_batch)


def _restart(broker: BrokerProcess, stop: str) -> None:
    if stop == "SIGKILL":
        broker.kill()
    else:
        broker.stop()
    broker.start()


def test_what_was_acknowledged_before_is_not_delivered_again(start_broker: StartBroker) -> None:
    broker = start_broker(options=SMALL)
    count = 500

    async def consume(client: Client, queue: str, expected: int) -> list[str]:
        """Take and acknowledge so many messages, and whatever comes behind them."""
        found: list[str] = []
        async with client.consumer(queue) as consumer:
            while len(found) < expected or (await client.queue_info(queue))["ready"]:
                batch = await consumer.receive(max_messages=100, max_wait=0.1)
                found += [message.message_id for message in batch]
                await batch.ack()
            await consumer.flush()
        return found

    async def publish(client: Client, name: str, ids: list[str | None]) -> None:
        async with client.producer(name) as producer:
            await producer.send_many([NewMessage(b"x", message_id=id_) for id_ in ids])

    async def first() -> None:
        async with connect(broker.url) as client:
            await client.declare_queue("orders", settled_window=3_600)
            await client.declare_topic("events")
            await client.subscribe("events.#", "audit", settled_window=3_600)
            for name, queue in (("orders", "orders"), ("events.eu", "audit")):
                ids = [f"o-{number}" for number in range(count)]
                await publish(client, name, [*ids])
                assert await consume(client, queue, len(ids)) == ids
                info = await client.queue_info(queue)
                assert (info["settled_ids"], info["settled_before_total"], info["ready"]) == (count, 0, 0)

    async def second() -> None:
        async with connect(broker.url) as client:
            for name, queue in (("orders", "orders"), ("events.us", "audit")):
                # Every third one is new; two of a kind that nobody acknowledged yet are delivered both.
                ids = [f"n-{number}" if number % 3 == 0 else f"o-{number}" for number in range(count)]
                fresh = [id_ for id_ in ids if id_.startswith("n")]
                await publish(client, name, [*ids])
                assert await consume(client, queue, len(fresh)) == fresh
                await publish(client, name, [*ids, "twice", "twice", None])
                assert len(await consume(client, queue, 3)) == 3
                info = await client.queue_info(queue)
                assert (info["ready"], info["leased"]) == (0, 0)
                assert info["settled_before_total"] == 2 * count - len(fresh)
                assert info["settled_total"] == info["published_total"] == 3 * count + 3

    trio.run(first)
    _restart(broker, "SIGKILL")
    trio.run(second)


def test_messages_without_ids_get_rising_ones_beyond_kills(start_broker: StartBroker) -> None:
    broker = start_broker(options=SMALL)
    given: list[str] = []

    async def publish() -> None:
        async with connect(broker.url) as client:
            await client.declare_queue("orders")
            async with client.producer("orders") as producer:
                for size in (1, 3, 300):
                    given.extend(receipt.message_id for receipt in await producer.send_many([b"x"] * size))

    async def consume() -> list[str]:
        async with connect(broker.url) as client, client.consumer("orders") as consumer:
            found: list[str] = []
            while len(found) < len(given):
                found += [message.message_id for message in await consumer.receive(max_messages=1_000)]
            found += [message.message_id for message in await consumer.receive(max_messages=1_000, max_wait=0.5)]
            return found

    for _ in range(3):
        trio.run(publish)
        _restart(broker, "SIGKILL")
    assert given == sorted(set(given))
    assert trio.run(consume) == given, "receipts and messages say the same"
