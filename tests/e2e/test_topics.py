"""Topics and subscriptions against real brokers, with the client library on trio and on asyncio."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import NewMessage, connect
from sluicemq.wire.errors import NameConflict, QueueNotFound, RetentionOff, TopicInUse, TopicNotFound
from tests.e2e.broker_process import unused_port
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sluicemq.client import Client, Receipt
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


@pytest.fixture
def topic(queue: str) -> str:
    return queue


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(WAIT_SECONDS):
        while not await condition():  # noqa: ASYNC110 - no event tells that a broker's figures have changed
            await anyio.sleep(0.01)


async def received(client: Client, queue: str, count: int) -> list[tuple[bytes, str]]:
    """(body, destination) of the next messages, acknowledged."""
    found: list[tuple[bytes, str]] = []
    async with client.consumer(queue) as consumer:
        while len(found) < count:
            batch = await consumer.receive(max_messages=count - len(found), max_wait=WAIT_SECONDS)
            assert batch, f"only {len(found)} of {count} came"
            found += [(message.body, message.destination) for message in batch]
            await batch.ack()
    return found


async def test_each_subscription_gets_what_matches_and_knows_where_it_was_published(
    broker: BrokerProcess, topic: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            assert (await client.declare_topic(topic)).outcome == "created"
            everything = await client.subscribe(f"{topic}.#", f"all-{topic}")
            assert (everything.topic, everything.outcome, everything.temporary) == (topic, "created", False)
            await client.subscribe(f"{topic}.*.paid", f"paid-{topic}")
            async with client.producer(topic) as orders, client.producer(f"{topic}.eu.paid") as paid:
                await paid.send(b"1")
                await orders.send(b"2", subject="us.paid")
                await orders.send(b"3", subject="us.sent")
                await orders.send_many([NewMessage(b"4", subject="eu.paid"), b"5", NewMessage(b"6", subject="eu")])
            await client.send(f"{topic}.eu", b"7", subject="just a subject")
            expected = [
                (b"1", f"{topic}.eu.paid"),
                (b"2", f"{topic}.us.paid"),
                (b"3", f"{topic}.us.sent"),
                (b"4", f"{topic}.eu.paid"),
                (b"5", topic),
                (b"6", f"{topic}.eu"),
                (b"7", f"{topic}.eu"),
            ]
            assert await received(client, f"all-{topic}", 7) == expected
            assert await received(client, f"paid-{topic}", 3) == [expected[0], expected[1], expected[3]]
            info = await client.queue_info(f"paid-{topic}")
            assert (info["topic"], info["pattern"]) == (topic, f"{topic}.*.paid")
            state = next(found for found in await client.topics() if found["name"] == topic)
            assert (state["subscriptions"], state["published_total"], state["unrouted_total"]) == (2, 7, 0)


async def test_names_are_refused_with_what_stands_in_the_way(broker: BrokerProcess, topic: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(topic)
            with pytest.raises(NameConflict, match="lies below the topic"):
                await client.declare_queue(f"{topic}.eu")
            await client.declare_queue(f"{topic}-queue.eu")
            with pytest.raises(NameConflict, match="lies above the queue"):
                await client.declare_topic(f"{topic}-queue")
            with pytest.raises(TopicNotFound):
                await client.subscribe("nobody.knows.#", "all")
            with pytest.raises(TopicNotFound):
                await client.subscribe("#", "all")
            with pytest.raises(QueueNotFound):
                await client.send(f"{topic}-unknown", b"x")


async def test_a_topic_goes_by_force_with_its_subscriptions(broker: BrokerProcess, topic: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(topic)
            await client.subscribe(f"{topic}.#", f"all-{topic}")
            await client.subscribe(f"{topic}.#", f"more-{topic}")
            await client.send(topic, b"x")
            assert await client.unsubscribe(f"more-{topic}") == 1
            with pytest.raises(TopicInUse):
                await client.delete_topic(topic)
            assert await client.delete_topic(topic, force=True) == 1
            with pytest.raises(QueueNotFound):
                await client.queue_info(f"all-{topic}")


async def test_a_subscription_begins_in_the_past_and_new_messages_follow_in_order(
    broker: BrokerProcess, topic: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(topic)
            with pytest.raises(RetentionOff):
                await client.subscribe(f"{topic}.#", f"early-{topic}", start="beginning")
            await client.declare_topic(topic, retention={"seconds": 3600})
            bodies = [b"%d" % number for number in range(5_000)]
            receipts: list[Receipt] = []
            async with client.producer(topic) as producer:
                for start in range(0, 4_000, 100):
                    batch = [
                        NewMessage(body, subject=("eu", "us")[int(body) % 2]) for body in bodies[start : start + 100]
                    ]
                    receipts += await producer.send_many(batch)
                since = datetime.now(UTC) + timedelta(seconds=60)
                await client.subscribe(f"{topic}.#", f"all-{topic}", start="beginning")
                await client.subscribe(f"{topic}.eu", f"eu-{topic}", start=receipts[1_001].position)
                await client.subscribe(f"{topic}.us", f"none-{topic}", start=since)
                for start in range(4_000, 5_000, 100):
                    batch = [
                        NewMessage(body, subject=("eu", "us")[int(body) % 2]) for body in bodies[start : start + 100]
                    ]
                    await producer.send_many(batch)
            assert [body for body, _ in await received(client, f"all-{topic}", 5_000)] == bodies
            assert [body for body, _ in await received(client, f"eu-{topic}", 1_999)] == bodies[1_002::2]
            assert [body for body, _ in await received(client, f"none-{topic}", 500)] == bodies[4_001::2]
            info = await client.queue_info(f"all-{topic}")
            assert (info["ready"], info["catching_up"]) == (0, False)


async def test_a_delayed_message_is_routed_when_it_is_ready(broker: BrokerProcess, topic: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(topic)
            await client.send(f"{topic}.late", b"x", delay=2.0)
            await client.subscribe(f"{topic}.late", f"late-{topic}")
            assert await received(client, f"late-{topic}", 1) == [(b"x", f"{topic}.late")]


async def test_a_temporary_subscription_comes_back_with_the_connection(start_broker: StartBroker) -> None:
    port = unused_port()
    broker = start_broker(port=port)
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as other:
            await client.declare_topic("events")
            mine = await client.subscribe("events.#")
            assert mine.temporary
            async with client.consumer(mine.name) as consumer:
                await other.send("events.a", b"1")
                batch = await consumer.receive(max_messages=1, max_wait=WAIT_SECONDS)
                assert batch.bodies == [b"1"]
                await batch.ack()
                await consumer.flush()
                broker.kill()
                start_broker(port=port)

                async def back() -> bool:
                    return any(state["subscriptions"] for state in await other.topics())

                await eventually(back)
                await other.send("events.b", b"2")
                batch = await consumer.receive(max_messages=1, max_wait=WAIT_SECONDS)
                assert [(message.body, message.destination) for message in batch] == [(b"2", "events.b")]


SUBSCRIBER = """
import sys, trio
from sluicemq.client import connect

async def main():
    async with connect(sys.argv[1]) as client:
        found = await client.subscribe(sys.argv[2] + ".#")
        print(found.name, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_temporary_subscription_vanishes_with_a_client_that_is_killed(
    broker: BrokerProcess, topic: str, tmp_path: Path
) -> None:
    script = tmp_path / "subscriber.py"
    script.write_text(SUBSCRIBER, encoding="utf-8")
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(topic)
            process = await anyio.open_process([sys.executable, str(script), broker.url, topic], stdin=None)
            try:
                assert process.stdout is not None
                name = (await process.stdout.receive()).decode().strip()
                await client.send(topic, b"x")
                assert (await client.queue_info(name))["ready"] == 1
            finally:
                os.kill(process.pid, signal.SIGKILL)
                await process.aclose()

            async def gone() -> bool:
                return not any(state["subscriptions"] for state in await client.topics() if state["name"] == topic)

            await eventually(gone)
            with pytest.raises(QueueNotFound):
                await client.queue_info(name)


async def test_a_restart_in_the_middle_of_catching_up_misses_nothing_and_repeats_nothing(
    start_broker: StartBroker,
) -> None:
    port = unused_port()
    broker = start_broker(port=port)
    count = 200_000
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic("events", retention={"seconds": 3600})
            async with client.producer("events") as producer:
                for start in range(0, count, 1_000):
                    await producer.send_many([b"%d" % number for number in range(start, start + 1_000)])
            await client.subscribe("events", "all", start="beginning")
            broker.kill()
            start_broker(port=port)
            await client.send("events", b"%d" % count)
            bodies = [body for body, _ in await received(client, "all", count + 1)]
            assert bodies == [b"%d" % number for number in range(count + 1)]


async def test_a_hundred_subscriptions_store_a_body_once(start_broker: StartBroker) -> None:
    broker = start_broker()
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic("events")
            for number in range(100):
                await client.subscribe("events.#", f"sub-{number}")
            before = (await client.statistics())["log_bytes"]
            bodies = [os.urandom(10_000) for _ in range(100)]
            async with client.producer("events") as producer:
                await producer.send_many(bodies)
            added = (await client.statistics())["log_bytes"] - before
            assert added < 1.1 * sum(map(len, bodies)), f"{added} bytes of log for {sum(map(len, bodies))} of bodies"
            for number in (0, 50, 99):
                assert [body for body, _ in await received(client, f"sub-{number}", 100)] == bodies
